//! `redoubt storage`.

use crate::arguments::{Discover, Storage};
use crate::scope::Scope;
use mgmt_proto::code::Failure;
use mgmt_proto::verb::{self, Reply, Request};
use redoubt::answer::Answer;
use redoubt::{exit, json, table};

pub(crate) fn run(scope: &Scope<'_>, verb: &Storage) -> Result<Answer, Failure> {
    let Storage::Discover { protocol } = verb else {
        return Err(exit::usage("storage", "this is done on the workstation", "leave -n out"));
    };
    let discover = match protocol {
        None | Some(Discover::Aoe) => verb::Discover::Aoe,
        Some(Discover::Iscsi { portal }) => verb::Discover::Iscsi(portal.clone()),
    };
    let mut connection = scope.open()?;
    let Reply::Found(found) = connection.request(Request::StorageDiscover(discover))? else {
        return Err(connection.unexpected());
    };
    let names = found.iter().map(|found| found.volume.clone()).collect();
    let value: Vec<_> = found.iter().map(json::volume).collect();
    Ok(Answer::table(&value, names, table::volumes(&found)))
}
