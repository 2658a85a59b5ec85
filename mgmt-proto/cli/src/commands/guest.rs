//! `redoubt list`, `info` and the verbs that act on one guest.

use crate::arguments::FormName;
use crate::commands::state;
use crate::scope::Scope;
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::units;
use mgmt_proto::verb::{GuestFacts, Reply, Request, State};
use redoubt::answer::Answer;
use redoubt::session::{find, guests};
use redoubt::{Connection, json, table, vm_text};

pub(crate) fn list(scope: &Scope<'_>, wanted: &[String]) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    let guests = match wanted {
        [] => guests(&mut connection)?,
        wanted => wanted.iter().map(|guest| find(&mut connection, guest)).collect::<Result<Vec<_>, _>>()?,
    };
    let names = guests.iter().map(|guest| guest.machine.name.clone()).collect();
    let value: Vec<_> = guests.iter().map(json::guest).collect();
    let answer = Answer::table(&value, names, table::guests(&guests, false));
    if scope.global.output != FormName::Wide {
        return Ok(answer);
    }
    // A node of an earlier version does not say which start with it.
    let kept = state::facts(&mut connection).map(|facts| facts.guests).unwrap_or_default();
    let order = |facts: &GuestFacts| {
        let kept = kept.iter().find(|kept| kept.name == facts.machine.name);
        kept.map_or_else(|| "-".to_string(), |kept| kept.order.to_string())
    };
    let orders = guests.iter().map(order).collect();
    Ok(answer.with_wide(table::guests(&guests, true).with_last("Autostart", orders)))
}

pub(crate) fn info(scope: &Scope<'_>, guest: &str) -> Result<Answer, Failure> {
    let facts = find(&mut scope.open()?, guest)?;
    Ok(Answer::lines(&json::guest(&facts), &facts.machine.name, lines(&facts)))
}

/// When operators changed a guest, or the node, last.
pub(crate) fn revision(scope: &Scope<'_>, guest: Option<&str>) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    let of = guest.map(|guest| find(&mut connection, guest)).transpose()?.map(|facts| facts.machine.name);
    let object = of.clone().unwrap_or_else(|| connection.address().into());
    let Reply::Revision(revision) = connection.request(Request::Revision { of, expected: None })? else {
        return Err(connection.unexpected());
    };
    let value = json::Revision { object, revision };
    Ok(Answer::lines(&value, &value.object, format!("{revision}\n")))
}

/// Gives a guest another name.
pub(crate) fn rename(scope: &Scope<'_>, guest: &str, to: &str) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    let kept = |connection: &mut Connection| {
        // A node of an earlier version does not say.
        let kept = state::facts(connection).map(|facts| facts.guests).unwrap_or_default();
        kept.iter().any(|kept| kept.name == guest)
    };
    let name = match find(&mut connection, guest) {
        Ok(facts) => facts.machine.name,
        // One may be kept and not there.
        Err(failure) if failure.code == Code::NotFound && kept(&mut connection) => guest.into(),
        Err(failure) => return Err(failure),
    };
    let object = name.clone();
    if !scope.dry_run {
        connection.request(Request::Rename { name, to: to.into() })?;
    }
    Ok(Answer::done(&scope.done(&object, "rename", "done", None)))
}

/// Who gets how much of the CPUs.
pub(crate) fn sched(scope: &Scope<'_>) -> Result<Answer, Failure> {
    let guests = guests(&mut scope.open()?)?;
    let shares: Vec<_> = guests.iter().map(json::Share::new).collect();
    let names = guests.iter().map(|guest| guest.machine.name.clone()).collect();
    Ok(Answer::table(&shares, names, table::shares(&guests)))
}

/// What a guest was created from, so that it can be again.
pub(crate) fn config(scope: &Scope<'_>, guest: &str) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    let asked = connection.request(Request::GuestShow { name: guest.into() });
    let config = match asked {
        Ok(Reply::Guest(config)) => config,
        Ok(_) => return Err(connection.unexpected()),
        // By its ID, or with the name that may have been meant.
        Err(failure) if failure.code == Code::NotFound => {
            let name = find(&mut connection, guest)?.machine.name;
            match connection.request(Request::GuestShow { name })? {
                Reply::Guest(config) => config,
                _ => return Err(connection.unexpected()),
            }
        }
        Err(failure) => return Err(failure),
    };
    Ok(Answer::lines(&vm_text::table(&config), &config.machine.name, vm_text::render(&config)))
}

fn lines(facts: &GuestFacts) -> String {
    let guest = json::guest(facts);
    let cap = if guest.cap_percent == 0 { "none".into() } else { format!("{} %", guest.cap_percent) };
    let mut lines = vec![
        ("name", guest.name),
        ("id", guest.id.to_string()),
        ("state", format!("{} {}", guest.state, guest.flags)),
        ("memory", format!("{} MiB, {} touched", guest.memory_bytes >> 20, guest.populated_bytes >> 20)),
        ("vcpus", format!("{}, weight {}, cap {cap}", guest.vcpus, guest.cpu_weight)),
        ("cpu time", format!("{} s", units::seconds(guest.cpu_time_ns))),
        ("created", format!("{} s after power-on", units::seconds(guest.created_ns))),
        ("exits", guest.exits.to_string()),
        ("kernel", guest.kernel_sha256),
        ("ramdisk", guest.ramdisk_sha256.unwrap_or_else(|| "none".into())),
        ("cmdline", guest.cmdline),
    ];
    for disk in &guest.disks {
        let access = if disk.read_only { "ro" } else { "rw" };
        let stalled =
            disk.stalled_since_ns.map(|since| format!(" since {} s after power-on", units::seconds(since)));
        lines.push((
            "disk",
            format!(
                "{} {access}, {} MiB, {}{}, {} reads, {} writes, {} flushes, {} retries",
                disk.volume,
                disk.bytes >> 20,
                disk.state,
                stalled.unwrap_or_default(),
                disk.reads,
                disk.writes,
                disk.flushes,
                disk.retries
            ),
        ));
    }
    for vif in guest.vifs {
        lines.push(("vif", vif.line()));
    }
    lines.push(("frames", format!("{} received, {} sent", guest.frames_received, guest.frames_sent)));
    for (reason, count) in guest.frames_dropped {
        lines.push(("dropped", format!("{reason} {count}")));
    }
    lines.push((
        "on",
        format!("poweroff {}, reboot {}, crash {}", guest.on_poweroff, guest.on_reboot, guest.on_crash),
    ));
    lines.iter().map(|(name, value)| format!("{name:<9} {value}\n")).collect()
}

/// Starts a guest that is kept, or that has ended and is there.
pub(crate) fn start(scope: &Scope<'_>, name: &str) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    let asked = match scope.dry_run {
        true => check_start(&mut connection, name).map(|()| None),
        false => match connection.request(Request::Start { name: name.into() }) {
            Ok(Reply::Created(id)) => Ok(Some(id)),
            Ok(_) => return Err(connection.unexpected()),
            Err(failure) => Err(failure),
        },
    };
    match asked {
        Ok(id) => Ok(Answer::done(&scope.done(name, "start", "done", id))),
        Err(failure) if failure.code == Code::NotFound && failure.object == name => {
            let kept = state::facts(&mut connection)?.guests;
            let names = kept.iter().map(|kept| kept.name.as_str());
            let remedy = redoubt::nearest::remedy(name, names, &failure.remedy);
            Err(Failure { remedy, ..failure })
        }
        Err(failure) => Err(failure),
    }
}

/// Whether a guest could be started, as far as can be seen.
fn check_start(connection: &mut Connection, name: &str) -> Result<(), Failure> {
    let here = guests(connection)?.into_iter().find(|facts| facts.machine.name == name);
    let kept = state::facts(connection)?.guests.iter().any(|kept| kept.name == name);
    match here.map(|facts| facts.state) {
        Some(State::Off | State::Crashed) => Ok(()),
        Some(_) => Err(Failure::new(Code::Conflict, name, "is there already", "see `redoubt list`")),
        None if kept => Ok(()),
        None => {
            let message = "no guest has that name, here or on the state volume";
            Err(Failure::new(Code::NotFound, name, message, "create it from its file"))
        }
    }
}

/// What is kept of a guest that starts with the node follows what is done to it.
pub(crate) fn say_if_it_is_kept(connection: &mut Connection, name: &str) {
    // A node of an earlier version does not say.
    let kept = state::facts(connection).map(|facts| facts.guests).unwrap_or_default();
    if kept.iter().any(|kept| kept.name == name) {
        log::info!("{name} starts with the node, from now on with this change");
    }
}
