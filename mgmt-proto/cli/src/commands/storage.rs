//! `redoubt storage`.

use crate::arguments::{Discover, Form, Global, Storage};
use crate::session::{open, print, print_json};
use mgmt_proto::code::Failure;
use mgmt_proto::verb::{self, Reply, Request};
use redoubt::{json, table};

pub(crate) fn run(global: &Global, verb: &Storage) -> Result<(), Failure> {
    let Storage::Discover { protocol } = verb;
    let discover = match protocol {
        None | Some(Discover::Aoe) => verb::Discover::Aoe,
        Some(Discover::Iscsi { portal }) => verb::Discover::Iscsi(portal.clone()),
    };
    let mut connection = open(global)?;
    let Reply::Found(found) = connection.request(Request::StorageDiscover(discover))? else {
        return Err(connection.unexpected());
    };
    match global.output {
        Form::Json => print_json(&found.iter().map(json::volume).collect::<Vec<_>>()),
        Form::Name => print(&found.iter().map(|found| format!("{}\n", found.volume)).collect::<String>()),
        Form::Table | Form::Wide => print(&table::volumes(&found).to_string()),
    }
}
