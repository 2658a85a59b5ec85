//! `redoubt storage`: volumes as a node sees them.

use crate::arguments::{Discover, DiskArgument, Storage, StoragePath};
use crate::commands::secrets::ask;
use crate::scope::Scope;
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::disk::DiskSetting;
use mgmt_proto::verb::{self, Found, Reply, Request};
use mgmt_proto::volume::VolumePage;
use redoubt::answer::{Answer, Text};
use redoubt::disk_text::{self, DiskText};
use redoubt::volumes::{self, Path, Volume};
use redoubt::{Connection, exit, initiator, json, table};

pub(crate) fn run(scope: &Scope<'_>, verb: &Storage) -> Result<Answer, Failure> {
    match verb {
        Storage::Discover { protocol } => discover(scope, protocol.as_ref()),
        Storage::Show { volume } => show(scope, volume.as_deref()),
        Storage::Probe(disk) => probe(scope, disk),
        Storage::Path(verb) => path(scope, verb),
        Storage::Reserve { disk, force } => hold(scope, disk, *force, true),
        Storage::Release { disk, force } => hold(scope, disk, *force, false),
        Storage::Bench(_) | Storage::Read(_) | Storage::Write(_) => {
            Err(exit::usage("storage", "this is done on the workstation", "leave -n out"))
        }
    }
}

fn discover(scope: &Scope<'_>, protocol: Option<&Discover>) -> Result<Answer, Failure> {
    let discover = match protocol {
        None | Some(Discover::Aoe { .. }) => verb::Discover::Aoe,
        Some(Discover::Iscsi { portal, settings, .. }) => {
            let (portal, settings) = login(portal, settings)?;
            verb::Discover::Iscsi { portal, settings }
        }
    };
    let mut connection = scope.open()?;
    let Reply::Found(found) = connection.request(Request::StorageDiscover(discover))? else {
        return Err(connection.unexpected());
    };
    Ok(targets(&found))
}

/// How an initiator proves who it is at a portal: said as of a volume there.
fn login(portal: &str, settings: &[String]) -> Result<(String, Vec<DiskSetting>), Failure> {
    let (before, after) = ("iscsi://", "/iqn.discovery/0");
    let mut disk = disk_text::argument(&format!("{before}{portal}{after}"), settings)?;
    disk.read_secrets(&mut ask)?;
    let volume = disk.disk.volume.as_str();
    let portal = volume.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    Ok((portal.unwrap_or(volume).into(), disk.settings))
}

/// Whether no node is asked.
pub(crate) const fn is_here(protocol: Option<&Discover>) -> bool {
    matches!(protocol, Some(Discover::Aoe { interface: Some(_) } | Discover::Iscsi { here: true, .. }))
}

/// Looks for volumes from this workstation.
pub(crate) fn discover_here(protocol: Option<&Discover>) -> Result<Answer, Failure> {
    let found = match protocol {
        Some(Discover::Aoe { interface: Some(interface) }) => initiator::discover::aoe(interface)?,
        Some(Discover::Iscsi { portal, settings, .. }) => {
            let (portal, settings) = login(portal, settings)?;
            initiator::discover::iscsi(&portal, &settings)?
        }
        _ => Vec::new(),
    };
    Ok(targets(&found))
}

fn targets(found: &[Found]) -> Answer {
    let names = found.iter().map(|found| found.volume.clone()).filter(|volume| !volume.is_empty());
    let names = names.collect();
    let value: Vec<_> = found.iter().map(json::volume).collect();
    Answer::table(&value, names, table::volumes(found))
}

/// All volumes in use, or one.
fn pages(connection: &mut Connection, volume: Option<&str>) -> Result<VolumePage, Failure> {
    let mut all = VolumePage { now_ns: 0, volumes: Vec::new(), next: Some(0) };
    while let Some(from) = all.next {
        let asked = Request::StorageShow { volume: volume.map(Into::into), from };
        let Reply::Volumes(page) = connection.request(asked)? else { return Err(connection.unexpected()) };
        // A node that sends one on in circles is not followed.
        all.next = page.next.filter(|next| *next > from);
        all.now_ns = page.now_ns;
        all.volumes.extend(page.volumes);
    }
    Ok(all)
}

fn names(volumes: &[Volume]) -> Vec<String> {
    volumes.iter().map(|volume| volume.volume.clone()).collect()
}

fn in_full(volumes: &[Volume]) -> Answer {
    let lines: Vec<String> = volumes.iter().map(volumes::lines).collect();
    Answer::new(volumes, names(volumes), Text::Lines(lines.join("\n")))
}

fn show(scope: &Scope<'_>, volume: Option<&str>) -> Result<Answer, Failure> {
    volume.map(disk_text::volume_argument).transpose()?;
    let volumes = volumes::volumes(&pages(&mut scope.open()?, volume)?);
    if volume.is_some() {
        return Ok(in_full(&volumes));
    }
    let table = |wide| volumes::table(&volumes, wide);
    Ok(Answer::table(&volumes, names(&volumes), table(false)).with_wide(table(true)))
}

/// Reads what is said about a disk, secrets and all.
pub(crate) fn disk(argument: &DiskArgument) -> Result<DiskText, Failure> {
    let mut disk = disk_text::argument(&argument.disk, &argument.settings)?;
    disk.read_secrets(&mut ask)?;
    Ok(disk)
}

/// Has a node try a volume.
pub(crate) fn try_volume(connection: &mut Connection, disk: &DiskText) -> Result<Vec<Volume>, Failure> {
    let settings = disk.settings.clone();
    let asked = Request::StorageProbe { volume: disk.disk.volume.clone(), settings };
    match connection.request(asked)? {
        Reply::Volumes(page) => Ok(volumes::volumes(&page)),
        _ => Err(connection.unexpected()),
    }
}

/// Why a volume that was tried cannot be used.
pub(crate) fn unusable(volumes: &[Volume]) -> Option<Failure> {
    let volume = volumes.iter().find(|volume| volume.state != "ready")?;
    let what = match (volume.state, volume.stage) {
        ("refused", _) => "the target refuses",
        (_, "silent") => "nothing answers there",
        (_, "connected") => "the target is there and did not let the node in yet",
        _ => "the disk did not answer in time",
    };
    let detail = volume.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    let remedy = "check its name, the target and what is set";
    Some(Failure::new(Code::Storage, &volume.volume, format!("{what}{detail}"), remedy))
}

fn probe(scope: &Scope<'_>, argument: &DiskArgument) -> Result<Answer, Failure> {
    let disk = disk(argument)?;
    let volumes = try_volume(&mut scope.open()?, &disk)?;
    let mut answer = in_full(&volumes);
    answer.failure = unusable(&volumes);
    Ok(answer)
}

fn paths(connection: &mut Connection, volume: Option<&str>) -> Result<Answer, Failure> {
    let page = pages(connection, volume)?;
    let volumes = volumes::volumes(&page);
    let paths: Vec<Path> = volumes.into_iter().flat_map(|volume| volume.paths).collect();
    let names = paths.iter().map(|path| path.name.clone()).collect();
    Ok(Answer::table(&paths, names, volumes::path_table(&paths, page.now_ns)))
}

fn path(scope: &Scope<'_>, verb: &StoragePath) -> Result<Answer, Failure> {
    let (StoragePath::Enable { volume, .. }
    | StoragePath::Disable { volume, .. }
    | StoragePath::List { volume: Some(volume) }) = verb
    else {
        return paths(&mut scope.open()?, None);
    };
    disk_text::volume_argument(volume)?;
    let mut connection = scope.open()?;
    let (number, enabled) = match verb {
        StoragePath::List { .. } => return paths(&mut connection, Some(volume)),
        StoragePath::Enable { path, .. } => (*path, true),
        StoragePath::Disable { path, .. } => (*path, false),
    };
    if scope.dry_run {
        let page = pages(&mut connection, Some(volume))?;
        let paths = page.volumes.first().map_or(0, |volume| volume.paths.len());
        if usize::try_from(number).unwrap_or(usize::MAX) >= paths {
            let message = format!("has no path {number}");
            return Err(Failure::new(Code::NotFound, volume, message, "see `redoubt storage path list`"));
        }
    } else {
        connection.request(Request::StoragePath { volume: volume.clone(), path: number, enabled })?;
    }
    let verb = if enabled { "storage path enable" } else { "storage path disable" };
    Ok(Answer::done(&scope.done(volume, verb, "done", None)))
}

/// Reserves or releases; a dry run looks whether the volume is there.
fn hold(scope: &Scope<'_>, argument: &DiskArgument, force: bool, reserve: bool) -> Result<Answer, Failure> {
    let disk = disk(argument)?;
    let mut connection = scope.open()?;
    let volume = disk.disk.volume.clone();
    if scope.dry_run {
        let volumes = try_volume(&mut connection, &disk)?;
        if let Some(failure) = unusable(&volumes) {
            return Err(failure);
        }
        let holder = volumes.first().and_then(|volume| volume.negotiated.get("Reservation"));
        log::info!("{volume} is held by: {}", holder.map_or("nobody known", String::as_str));
    } else if reserve {
        let settings = disk.settings;
        connection.request(Request::StorageReserve { volume: volume.clone(), settings, force })?;
    } else {
        let settings = disk.settings;
        connection.request(Request::StorageRelease { volume: volume.clone(), settings, force })?;
    }
    let verb = if reserve { "storage reserve" } else { "storage release" };
    Ok(Answer::done(&scope.done(&volume, verb, "done", None)))
}
