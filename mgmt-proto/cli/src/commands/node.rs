//! `redoubt node`.

use crate::arguments::{FaultKind, Form, Global, Node};
use crate::session::{open, print, print_done, print_json};
use mgmt_proto::code::Failure;
use mgmt_proto::verb::{Fault, NodeFacts, Reply, Request};
use redoubt::{Connection, json, table};
use std::io::Write;
use std::time::Duration;

/// Pause between looks at a log that grows.
const FOLLOW_PAUSE: Duration = Duration::from_millis(500);

pub(crate) fn run(global: &Global, verb: &Node) -> Result<(), Failure> {
    let mut connection = open(global)?;
    match verb {
        Node::Info => info(global, &mut connection),
        Node::Log { follow } => log(&mut connection, *follow),
        Node::Reboot => stop(global, &mut connection, false),
        Node::Poweroff => stop(global, &mut connection, true),
    }
}

fn stop(global: &Global, connection: &mut Connection, power_off: bool) -> Result<(), Failure> {
    connection.request_last(Request::NodeStop { power_off })?;
    let address = connection.address().to_owned();
    print_done(global, &address, if power_off { "poweroff" } else { "reboot" }, "requested", None)
}

pub(crate) fn inject_fault(global: &Global, kind: FaultKind) -> Result<(), Failure> {
    let fault = match kind {
        FaultKind::Panic => Fault::Panic,
        FaultKind::Access => Fault::Access,
        FaultKind::Hang => Fault::Hang,
    };
    let mut connection = open(global)?;
    connection.request_last(Request::InjectFault(fault))?;
    let address = connection.address().to_owned();
    print_done(global, &address, "inject-fault", "requested", None)
}

fn info(global: &Global, connection: &mut Connection) -> Result<(), Failure> {
    let Reply::Node(facts) = connection.request(Request::NodeInfo)? else {
        return Err(connection.unexpected());
    };
    let node = json::node(connection.address(), connection.node(), &facts);
    match global.output {
        Form::Json => print_json(&node),
        Form::Name => print(&format!("{}\n", node.node)),
        Form::Table | Form::Wide => {
            print(&lines(&node, &facts, keys::public::fingerprint(connection.node())))
        }
    }
}

fn lines(node: &json::Node, facts: &NodeFacts, fingerprint: String) -> String {
    let mib = |bytes: u64| format!("{} MiB", bytes >> 20);
    let kib = |bytes: u64| format!("{} KiB", bytes >> 10);
    let fresh = if facts.fresh_identity { " (new at this boot)" } else { "" };
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
        ("uptime", format!("{} s", table::seconds(node.uptime_ns))),
        ("mac", node.mac.clone()),
        ("address", node.address.clone().unwrap_or_else(|| "none".into())),
        ("guests", node.guests.to_string()),
    ]
    .iter()
    .map(|(name, value)| format!("{name:<13} {value}\n"))
    .collect()
}

fn log(connection: &mut Connection, follow: bool) -> Result<(), Failure> {
    let mut from = 0;
    loop {
        let Reply::Stream(stream) = connection.request(Request::NodeLog { from })? else {
            return Err(connection.unexpected());
        };
        from = stream.next;
        let mut output = std::io::stdout().lock();
        if output.write_all(&stream.bytes).and_then(|()| output.flush()).is_err() {
            return Ok(());
        }
        if stream.bytes.is_empty() {
            if !follow {
                return Ok(());
            }
            std::thread::sleep(FOLLOW_PAUSE);
        }
    }
}
