//! `redoubt block-attach`, `block-detach`, `block-list` and `limit`: the disks of a
//! guest that runs.

use crate::arguments::{DiskArgument, LimitArguments};
use crate::commands::guest::say_if_it_is_kept;
use crate::commands::storage::{disk, try_volume, unusable};
use crate::scope::Scope;
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::verb::{Reply, Request, State};
use mgmt_proto::volume::{BlockFacts, Plugged};
use redoubt::Connection;
use redoubt::answer::Answer;
use redoubt::disk_text::limits;
use redoubt::session::find;
use redoubt::volumes::{DiskDone, block, block_table, plugged};
use std::time::{Duration, Instant};
use storage::volume::{VolumeName, user};

/// How long a guest may take to notice a disk before the command ends without it.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between looks.
const NOTICE_PAUSE: Duration = Duration::from_millis(100);

fn disks(connection: &mut Connection, name: &str) -> Result<Vec<BlockFacts>, Failure> {
    match connection.request(Request::BlockList { name: name.into() })? {
        Reply::Disks(disks) => Ok(disks),
        _ => Err(connection.unexpected()),
    }
}

pub(crate) fn list(scope: &Scope<'_>, guest: &str) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    let name = find(&mut connection, guest)?.machine.name;
    let disks: Vec<_> = disks(&mut connection, &name)?.iter().map(block).collect();
    let names = disks.iter().map(|disk| disk.volume.clone()).collect();
    Ok(Answer::table(&disks, names, block_table(&disks)))
}

pub(crate) fn attach(scope: &Scope<'_>, guest: &str, argument: &DiskArgument) -> Result<Answer, Failure> {
    let text = disk(argument)?;
    let mut connection = scope.open()?;
    let facts = find(&mut connection, guest)?;
    let name = facts.machine.name;
    if scope.dry_run {
        if !matches!(facts.state, State::Running | State::Blocked | State::Paused) {
            return Err(Failure::new(Code::Conflict, name, "is not running", "start it first"));
        }
        if let Some(failure) = unusable(&try_volume(&mut connection, &text)?) {
            return Err(failure);
        }
        return Ok(Answer::done(&scope.done(&name, "block-attach", "done", None)));
    }
    let request = Request::BlockAttach { name: name.clone(), disk: text.disk, settings: text.settings };
    let Reply::Attached(slot) = connection.request(request)? else { return Err(connection.unexpected()) };
    say_if_it_is_kept(&mut connection, &name);
    let stage = watch(&mut connection, &name, slot, scope.global.timeout)?;
    if stage != Plugged::Running {
        log::info!(
            "the guest has not taken the disk into use yet ({}); see `redoubt block-list {name}`",
            plugged(stage)
        );
    }
    let done = scope.done(&name, "block-attach", "done", None);
    Ok(DiskDone { done, slot: Some(slot), guest: Some(plugged(stage)) }.answer())
}

/// Waits until the guest's driver runs, but not for long.
fn watch(
    connection: &mut Connection,
    name: &str,
    slot: u32,
    timeout_s: Option<u64>,
) -> Result<Plugged, Failure> {
    let deadline = Instant::now() + timeout_s.map_or(NOTICE_TIMEOUT, Duration::from_secs);
    loop {
        let disks = disks(connection, name)?;
        let stage = disks.iter().find(|disk| disk.slot == slot).map_or(Plugged::Offered, |disk| disk.plugged);
        if stage == Plugged::Running || Instant::now() >= deadline {
            return Ok(stage);
        }
        std::thread::sleep(NOTICE_PAUSE);
    }
}

/// The slot of the disk that is given by slot or volume.
fn slot_of(connection: &mut Connection, name: &str, given: &str) -> Result<u32, Failure> {
    let disks = disks(connection, name)?;
    let number = given.parse::<u32>().ok();
    let named = given.parse::<VolumeName>().ok();
    let is_named = |volume: &str| {
        volume == given
            || named.as_ref().zip(volume.parse().ok()).is_some_and(|(one, other)| one.is_same_disk(&other))
    };
    let meant: Vec<u32> = disks
        .iter()
        .filter(|disk| number.map_or_else(|| is_named(&disk.volume), |number| disk.slot == number))
        .map(|disk| disk.slot)
        .collect();
    match meant.as_slice() {
        [slot] => Ok(*slot),
        [] => {
            let volumes = disks.iter().map(|disk| disk.volume.as_str());
            let otherwise = format!("see `redoubt block-list {name}`");
            let remedy = redoubt::nearest::remedy(given, volumes, &otherwise);
            let shown = user::without_secret(given);
            Err(Failure::new(Code::NotFound, name, format!("has no disk {shown}"), remedy))
        }
        several => {
            let message = format!("has {given} in {} slots", several.len());
            Err(Failure::new(Code::Usage, name, message, "give the slot's number"))
        }
    }
}

pub(crate) fn detach(scope: &Scope<'_>, guest: &str, disk: &str, force: bool) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    let name = find(&mut connection, guest)?.machine.name;
    let slot = slot_of(&mut connection, &name, disk)?;
    if !scope.dry_run {
        connection.request(Request::BlockDetach { name: name.clone(), slot, force })?;
        say_if_it_is_kept(&mut connection, &name);
    }
    let done = scope.done(&name, "block-detach", "done", None);
    Ok(DiskDone { done, slot: Some(slot), guest: None }.answer())
}

pub(crate) fn limit(scope: &Scope<'_>, arguments: &LimitArguments) -> Result<Answer, Failure> {
    let LimitArguments { guest, disk, bytes_per_s, operations_per_s, burst } = arguments;
    let limits = limits(bytes_per_s.as_deref(), operations_per_s.as_deref(), burst.as_deref())?;
    let mut connection = scope.open()?;
    let name = find(&mut connection, guest)?.machine.name;
    let slot = disk.as_ref().map(|disk| slot_of(&mut connection, &name, disk)).transpose()?;
    if !scope.dry_run {
        connection.request(Request::Limit { name: name.clone(), slot, limits })?;
        say_if_it_is_kept(&mut connection, &name);
    }
    Ok(DiskDone { done: scope.done(&name, "limit", "done", None), slot, guest: None }.answer())
}
