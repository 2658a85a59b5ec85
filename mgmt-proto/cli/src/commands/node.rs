//! `redoubt node`.

use crate::arguments::{FormName, Node, NodeKey, NodeLog};
use crate::commands::{state, stream};
use crate::scope::{Reader, Scope, print};
use mgmt_proto::code::Failure;
use mgmt_proto::node_key::leads;
use mgmt_proto::units;
use mgmt_proto::verb::{Fault, NodeFacts, Reply, Request, Run};
use redoubt::answer::Answer;
use redoubt::cards;
use redoubt::connection::{Before, Cursor, Piece};
use redoubt::{Connection, exit, json, log_filter};
use std::time::{Duration, Instant};

/// Pause between two questions of a ping.
const PING_PAUSE: Duration = Duration::from_millis(200);
/// Pause between looks at a log that grows.
const FOLLOW_PAUSE: Duration = Duration::from_millis(500);

pub(crate) fn run(scope: &Scope<'_>, verb: &Node) -> Result<Answer, Failure> {
    match verb {
        Node::Info => info(scope),
        Node::Ping { count } => ping(scope, *count),
        Node::State => state::show(scope),
        Node::Config(verb) => state::config(scope, verb),
        Node::Key(NodeKey::Show) => key(scope),
        Node::Key(NodeKey::Rotate) => rotate_key(scope),
        Node::Log(options) => log(scope, options),
        Node::Lockdown => lockdown(scope),
        Node::Pcap(_) => Err(exit::usage("pcap", "is for one node", "name one with -n")),
        Node::Reboot => stop(scope, false),
        Node::Poweroff => stop(scope, true),
    }
}

/// Asks again and again, and says how long each answer took.
fn ping(scope: &Scope<'_>, count: u16) -> Result<Answer, Failure> {
    let began = Instant::now();
    let mut connection = scope.open()?;
    let microseconds = |since: Instant| u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
    let connect_us = microseconds(began);
    let mut answers_us = Vec::new();
    for round in 0..count {
        if round > 0 {
            std::thread::sleep(PING_PAUSE);
        }
        let asked = Instant::now();
        facts(&mut connection)?;
        answers_us.push(microseconds(asked));
    }
    let ping = json::Ping::new(connection.address(), connect_us, answers_us);
    Ok(Answer::lines(&ping, &ping.node, ping.lines()))
}

fn stop(scope: &Scope<'_>, power_off: bool) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    if !scope.dry_run {
        connection.request_last(Request::NodeStop { power_off })?;
    }
    let verb = if power_off { "poweroff" } else { "reboot" };
    Ok(Answer::done(&scope.done(connection.address(), verb, "requested", None)))
}

/// The key that the node has, and those from before that lead to it.
fn key(scope: &Scope<'_>) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    let now = *connection.node();
    let links = connection.key_links()?;
    let before: Vec<[u8; 32]> =
        links.iter().map(|link| link.from).filter(|from| leads(&links, from, &now)).collect();
    let shown = json::NodeKey {
        node: connection.address().into(),
        node_key: hex::encode(now),
        fingerprint: keys::public::fingerprint(&now),
        before: before.iter().map(hex::encode).collect(),
    };
    let mut lines = format!("key       {} ({})\n", shown.node_key, shown.fingerprint);
    for key in shown.before.iter().rev() {
        lines += &format!("before    {key}\n");
    }
    Ok(Answer::lines(&shown, &shown.node_key, lines))
}

fn rotate_key(scope: &Scope<'_>) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    if !scope.dry_run {
        connection.request(Request::NodeKeyRotate)?;
        // Who comes back meets the new key, and remembers it.
        connection = scope.open()?;
    }
    Ok(Answer::done(&scope.done(connection.address(), "node key rotate", "done", None)))
}

fn lockdown(scope: &Scope<'_>) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    if !scope.dry_run {
        connection.request(Request::Lockdown)?;
    }
    Ok(Answer::done(&scope.done(connection.address(), "lockdown", "locked down", None)))
}

pub(crate) fn inject_fault(scope: &Scope<'_>, fault: Fault) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    if !scope.dry_run {
        connection.request_last(Request::InjectFault(fault))?;
    }
    Ok(Answer::done(&scope.done(connection.address(), "inject-fault", "requested", None)))
}

fn info(scope: &Scope<'_>) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    let facts = facts(&mut connection)?;
    let fingerprint = keys::public::fingerprint(connection.node());
    // A node of an earlier version does not say.
    let kept = state::facts(&mut connection).map(|facts| redoubt::state::summary(&facts));
    let kept = kept.unwrap_or_else(|_| "not told".into());
    let cards = cards::ask(&mut connection);
    let node = json::node(connection.address(), connection.node(), &facts, cards);
    Ok(Answer::lines(&node, &node.node, lines(&node, &facts, fingerprint, kept)))
}

/// Facts about the node.
pub(crate) fn facts(connection: &mut Connection) -> Result<NodeFacts, Failure> {
    match connection.request(Request::NodeInfo)? {
        Reply::Node(facts) => Ok(*facts),
        _ => Err(connection.unexpected()),
    }
}

fn lines(node: &json::Node, facts: &NodeFacts, fingerprint: String, kept: String) -> String {
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let kib = |bytes: u64| format!("{} KiB", bytes >> 10);
    let fresh = if facts.fresh_identity { " (new at this boot)" } else { "" };
    let claimed = match &node.address_claimed_by {
        Some(mac) => format!("its address, {} times, last by {mac}", node.address_claims),
        None => "by no other station".into(),
    };
    let ended = match &node.previous_end {
        None => "not kept".into(),
        Some(ended) => format!("{ended}: {}", node.previous_cause),
    };
    let watchdog = if node.watchdogs.is_empty() { "none".into() } else { node.watchdogs.join(", ") };
    let smt = if node.smt { "on" } else { "off" };
    let smt = format!("{smt}, {} threads rest", node.threads_resting);
    [
        ("node", node.node.clone()),
        ("key", format!("{fingerprint}{fresh}")),
        ("version", node.version.clone()),
        ("image sha256", node.image_sha256.clone()),
        ("image", format!("{} bytes", node.image_bytes)),
        ("cpus", format!("{} at {} MHz", node.cpus, node.tsc_khz / 1000)),
        ("memory", mib(node.memory_bytes)),
        ("memory free", mib(node.memory_free_bytes)),
        ("hypervisor", kib(node.hypervisor_bytes)),
        ("dom0", kib(node.dom0_bytes)),
        ("dom0 starts", node.dom0_starts.to_string()),
        ("uptime", format!("{} s", units::seconds(node.uptime_ns))),
        ("mac", node.mac.clone()),
        ("address", node.address.clone().unwrap_or_else(|| "none".into())),
        ("claimed", claimed),
        ("moved", format!("{} portals", node.portals_moved)),
        ("shortened", format!("packets of {} paths", node.paths_shortened)),
        ("guests", node.guests.to_string()),
        ("log", format!("{} errors, {} warnings", node.log_errors, node.log_warnings)),
        ("last run", ended),
        ("watchdog", watchdog),
        ("smt", smt),
        ("state", kept),
    ]
    .iter()
    .map(|(name, value)| format!("{name:<13} {value}\n"))
    .chain([cards::lines(&node.cards)])
    .collect()
}

/// Everything from an offset on.
pub(crate) fn read_log(connection: &mut Connection, from: &mut u64) -> Result<Vec<u8>, Failure> {
    read_stream(connection, from, |from| Request::NodeLog { run: Run::Current, from })
}

/// Everything of a stream from an offset on.
fn read_stream(
    connection: &mut Connection,
    from: &mut u64,
    ask: impl Fn(u64) -> Request,
) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    loop {
        let Reply::Stream(stream) = connection.request(ask(*from))? else {
            return Err(connection.unexpected());
        };
        *from = stream.next;
        if stream.bytes.is_empty() {
            return Ok(bytes);
        }
        bytes.extend(stream.bytes);
    }
}

fn log(scope: &Scope<'_>, options: &NodeLog) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    let mut next = 0;
    let bytes = if options.previous {
        read_stream(&mut connection, &mut next, |from| Request::NodeLog { run: Run::Previous, from })?
    } else {
        read_log(&mut connection, &mut next)?
    };
    let text = options.filter().lines(&String::from_utf8_lossy(&bytes));
    let log = json::log(connection.address(), text.as_bytes(), next);
    Ok(Answer::lines(&log, connection.address(), text))
}

/// Prints the log and goes on as it grows.
pub(crate) fn follow(scope: &Scope<'_>, options: &NodeLog) -> Result<(), Failure> {
    let as_lines = match scope.global.output {
        FormName::Table | FormName::Wide => false,
        FormName::Json => true,
        FormName::Yaml | FormName::Name => {
            return Err(exit::usage("-o", "a log that grows is lines or json", "leave out -o or -f"));
        }
    };
    let mut connection = scope.open()?;
    let (mut cursor, mut starts) = (Cursor::new(), facts(&mut connection)?.dom0_starts);
    let mut kept = Vec::new();
    let filter = options.filter();
    loop {
        let (goes_on, bytes) = next_of_log(&mut connection, &mut cursor, &mut starts)?;
        // Otherwise the last line is not ended by what comes.
        if !goes_on && !kept.is_empty() {
            kept.push(b'\n');
        }
        let rests = goes_on && bytes.is_empty();
        kept.extend(bytes);
        // Whole lines: a half one is kept until the rest comes.
        let end = kept.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let rest = kept.split_off(end);
        let text = filter.lines(&String::from_utf8_lossy(&kept));
        kept = rest;
        if as_lines {
            for line in text.lines() {
                let parts = log_filter::level_and_target(line);
                let value = serde_json::json!({
                    "source": connection.address(),
                    "level": parts.map(|(level, _)| level.as_str().to_ascii_lowercase()),
                    "target": parts.map(|(_, target)| target),
                    "line": line,
                });
                if print(&format!("{value}\n"))? == Reader::Gone {
                    return Ok(());
                }
            }
        } else if print(&text)? == Reader::Gone {
            return Ok(());
        }
        if rests {
            std::thread::sleep(FOLLOW_PAUSE);
        }
    }
}

/// What the log says since the last look, and whether it goes on with that: not when another
/// one begins, or some is missing. When the session breaks, another one takes its place.
fn next_of_log(
    connection: &mut Connection,
    cursor: &mut Cursor,
    starts: &mut u32,
) -> Result<(bool, Vec<u8>), Failure> {
    let address = connection.address().to_string();
    let (stream, before) =
        stream::next(connection, &Request::NodeLog { run: Run::Current, from: cursor.from })?;
    if before == Before::Restarted {
        // The log outlives dom0. One that has started no more often than before has another.
        let started = facts(connection)?.dom0_starts;
        if std::mem::replace(starts, started) >= started {
            log::info!("{address}: the machine was restarted; its log begins anew");
            cursor.begin_anew();
            return Ok((false, Vec::new()));
        }
    }
    match cursor.take(stream) {
        Piece::Bytes(bytes) => Ok((true, bytes)),
        Piece::Missed(missed, bytes) => {
            log::info!("{address}: {missed} bytes of the log are missing here");
            Ok((false, bytes))
        }
        Piece::BeginsAnew => {
            log::info!("{address}: the log begins anew");
            Ok((false, Vec::new()))
        }
    }
}
