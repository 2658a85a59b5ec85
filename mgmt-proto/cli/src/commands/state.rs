//! `redoubt node state`, `node config` and `autostart`.

use crate::arguments::{NodeConfig, Switch};
use crate::scope::Scope;
use keys::Existing;
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::config::Config;
use mgmt_proto::limits::CONFIG_BYTES;
use mgmt_proto::state::StateFacts;
use mgmt_proto::verb::{Reply, Request};
use redoubt::answer::Answer;
use redoubt::blobs::Blob;
use redoubt::{Connection, exit, state};
use std::path::{Path, PathBuf};

/// What the node keeps.
pub(crate) fn facts(connection: &mut Connection) -> Result<StateFacts, Failure> {
    match connection.request(Request::StateShow)? {
        Reply::State(facts) => Ok(facts),
        _ => Err(connection.unexpected()),
    }
}

pub(crate) fn show(scope: &Scope<'_>) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    let facts = facts(&mut connection)?;
    Ok(Answer::lines(&state::state(&facts), connection.address(), state::lines(&facts)))
}

/// The guests that start with the node; one of them from now on, or no longer.
pub(crate) fn autostart(
    scope: &Scope<'_>,
    guest: Option<&str>,
    switch: Option<Switch>,
    order: u32,
) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    let (Some(guest), Some(switch)) = (guest, switch) else {
        let guests = facts(&mut connection)?.guests;
        let names = guests.iter().map(|guest| guest.name.clone()).collect();
        let value = state::state(&StateFacts { guests: guests.clone(), ..StateFacts::default() }).guests;
        return Ok(Answer::table(&value, names, state::guests(&guests)));
    };
    let (verb, order) = match switch {
        Switch::On => ("autostart on", Some(order)),
        Switch::Off => ("autostart off", None),
    };
    if !scope.dry_run {
        connection.request(Request::Autostart { name: guest.into(), order })?;
    }
    Ok(Answer::done(&scope.done(guest, verb, "done", None)))
}

pub(crate) fn config(scope: &Scope<'_>, verb: &NodeConfig) -> Result<Answer, Failure> {
    match verb {
        NodeConfig::Export { file } => export(scope, file),
        NodeConfig::Import { file, blob } => import(scope, file, blob),
    }
}

fn export(scope: &Scope<'_>, path: &Path) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    let mut file = Vec::new();
    loop {
        let request = Request::ConfigExport { from: file.len() as u64 };
        let Reply::Stream(stream) = connection.request(request)? else {
            return Err(connection.unexpected());
        };
        if stream.bytes.is_empty() || file.len() > CONFIG_BYTES {
            break;
        }
        file.extend(stream.bytes);
    }
    // Two commands at once: the parts do not belong together, and the signature tells.
    let opened = Config::open(&file);
    if !opened.as_ref().is_ok_and(|(_, key)| key == connection.node()) {
        let message = "the configuration changed while it was read";
        return Err(Failure::new(Code::Conflict, connection.address(), message, "try again"));
    }
    if !scope.dry_run {
        keys::file::write(path, &file, 0o600, Existing::Keep).map_err(|error| exit::key(&error))?;
    }
    Ok(Answer::done(&scope.done(&path.display().to_string(), "node config export", "done", None)))
}

fn import(scope: &Scope<'_>, path: &Path, files: &[PathBuf]) -> Result<Answer, Failure> {
    let bytes = std::fs::read(path).map_err(|error| exit::file(path, &error))?;
    let object = path.display().to_string();
    let (config, key) = Config::open(&bytes).map_err(|fault| {
        Failure::new(Code::Integrity, &object, fault.to_string(), "make it with `node config export`")
    })?;
    let mut blobs = vec![Blob::read(path)?];
    for file in files {
        blobs.push(Blob::read(file)?);
    }
    let mut connection = scope.open()?;
    log::info!(
        "{object} was signed by node {} with the key {}",
        config.node,
        keys::public::fingerprint(&key)
    );
    if scope.dry_run {
        return Ok(Answer::done(&scope.done(&object, "node config import", "done", None)));
    }
    connection.upload_missing(&blobs, &mut |_, _| {})?;
    let digest = blobs.first().map_or([0; 32], |blob| blob.digest);
    match connection.request(Request::ConfigImport { digest })? {
        Reply::Imported(imported) => {
            let names = imported.guests.iter().map(|(name, _)| name.clone()).collect();
            let text = redoubt::answer::Text::Lines(state::import_lines(&imported));
            Ok(Answer::new(&state::import(&imported), names, text))
        }
        _ => Err(connection.unexpected()),
    }
}
