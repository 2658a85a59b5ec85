//! A guest claims by raw frames the addresses of the node, of its portal (gateway, DHCP
//! server and operator in one) and of a second node. A neighbour that writes to AoE and
//! iSCSI and compares, an operator with an open console, another neighbour that wants a
//! lease and the second node continue.

use super::directory;
use super::storage_faults::{export_writers_disks, finished, writers_disks};
use crate::lab::{HOST, NODE, NODE_MAC, OTHER_NODE, OTHER_NODE_MAC, OTHER_TAP, guest_address};
use crate::machine::{self, Boot, CPUS, Machine, Shape};
use crate::operator::Operator;
use crate::process::Process;
use crate::programs::target;
use crate::test_guest::{Description, Flavour, attacker, find, storage};
use crate::world::{Built, World, build};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

const NODE_LIMIT: Duration = Duration::from_secs(60);
const GUEST_LIMIT: Duration = Duration::from_secs(120);
/// How long the attack and the writing last.
const SECONDS: u64 = 30;
const FINISH_LIMIT: Duration = Duration::from_secs(90);
const NUMBER: u8 = 3;
/// Why frames of the attacker must have been dropped.
const REASONS: [&str; 8] = [
    "arp-claim",
    "ipv4-claim",
    "dhcp-server",
    "vlan-tag",
    "to-node",
    "aoe",
    "router-advertisement",
    "source-mac",
];

/// Another node on the same wire, by the same image.
fn second_node(world: &World, built: &Built, directory: &Path) -> Result<(Machine, Operator)> {
    world.lab.add_tap(OTHER_TAP)?;
    let shape = Shape { cpus: 1, memory_mib: 256, boot: Boot::Kernel(built.image.path.clone()) };
    let serial = directory.join("serial-other.log");
    let mut command = machine::command(&shape, OTHER_TAP, OTHER_NODE_MAC, &serial);
    let started = Instant::now();
    let process = Process::start(&mut command, &directory.join("qemu-other.log"))?;
    let home = directory.join("other");
    std::fs::create_dir_all(&home)?;
    let operator = Operator::new(&built.cli, &built.image.operator_key_path, &home, OTHER_NODE);
    let machine = Machine { process, started, serial };
    operator.wait_for_node(NODE_LIMIT).with_context(|| machine.serial_text())?;
    Ok((machine, operator))
}

/// The attack, from its first frame to the victims' final reports.
pub(super) fn a_guest_claims_what_others_need() -> Result<()> {
    let built = build(false)?;
    let (writer, attacker) = (storage::guest(&target())?, attacker::guest(&target())?);
    let plain = find(&target(), Flavour::Cloud)?;
    let directory = directory("attacker");
    let shape = Shape { cpus: CPUS, memory_mib: 1536, boot: Boot::Kernel(built.image.path.clone()) };
    let mut world = World::start(&built, &directory, &shape, |lab| export_writers_disks(lab, &directory))?;
    world.operator.wait_for_node(NODE_LIMIT).with_context(|| world.machine.serial_text())?;
    let (other_machine, other) = second_node(&world, &built, &directory)?;
    let more = writers_disks();
    let job = format!("seconds={SECONDS}");
    let writing =
        Description { name: "writer", memory_mib: 384, job: &job, more: &more, ..Description::default() };
    let (own, _) = guest_address(NUMBER);
    let job = format!(
        "job=attack seconds={SECONDS} node={NODE} node_mac={NODE_MAC} portal={HOST} other={OTHER_NODE} own={own}"
    );
    let attacking = Description { name: "attacker", number: NUMBER, job: &job, ..Description::default() };
    world.test_guest(&writer, &writing)?;
    world.wait_for_console("writer", "TEST writing", GUEST_LIMIT)?;
    world.test_guest(&attacker, &attacking)?;
    world.wait_for_console("attacker", "TEST attacking", GUEST_LIMIT)?;
    let mut console = world
        .operator
        .command(&["console", "writer"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot run the CLI")?;
    let neighbour = Description { name: "neighbour", number: 4, ..Description::default() };
    world.test_guest(&plain, &neighbour)?;
    let leased = format!("TEST address {}/24", guest_address(4).0);
    world.wait_for_console("neighbour", &leased, GUEST_LIMIT).context("the neighbour's lease")?;
    world.wait_for_console("attacker", "TEST attack over", FINISH_LIMIT)?;
    ensure!(console.try_wait()?.is_none(), "the operator's console ended");
    console.kill()?;
    console.wait()?;
    world.wait_for_console("writer", "TEST all finished", FINISH_LIMIT)?;
    finished(&world.operator.run(&["console", "writer", "--once"])?)?;
    check(&world)?;
    // The second node's own address is not this node's to protect (vifs with `ip` would be):
    // it defends itself, and is there again once the operator's machine asks anew.
    let began = Instant::now();
    other.wait_for_node(NODE_LIMIT).with_context(|| other_machine.serial_text())?;
    println!("  the second node answers {} ms after the attack", began.elapsed().as_millis());
    let facts = other.json(&["node", "info"])?;
    let (_, attackers_mac) = guest_address(NUMBER);
    let by = facts.get("address_claimed_by").and_then(Value::as_str);
    ensure!(by == Some(&attackers_mac), "the second node noticed nothing: {facts}");
    ensure!(!other_machine.serial_text().to_lowercase().contains("panic"), "the second node failed");
    ensure!(world.lab.is_healthy(), "a service of the lab has died");
    Ok(())
}

/// What the node and the attacker report.
fn check(world: &World) -> Result<()> {
    let shown = world.operator.run(&["console", "attacker", "--once"])?;
    let line = shown.lines().find(|line| line.contains("TEST attack over")).unwrap_or_default();
    println!("  {}", line.trim());
    ensure!(line.trim_end().ends_with("stolen 0"), "the attacker saw what was not for it: {line}");
    let guest = world.operator.json(&["info", "attacker"])?;
    let dropped = guest.pointer("/frames_dropped").or_else(|| guest.pointer("/0/frames_dropped"));
    let dropped = dropped.context("no counts of dropped frames")?;
    println!("  dropped: {dropped}");
    let log = world.operator.run(&["node", "log"])?;
    for reason in REASONS {
        let count = dropped.get(reason).and_then(Value::as_u64).unwrap_or(0);
        ensure!(count > 0, "no frame was dropped for {reason}: {dropped}");
        let said = format!("guest attacker sent a frame that was dropped: {reason}");
        ensure!(log.matches(&said).count() == 1, "{reason} is not told of once: {log}");
    }
    let node = world.operator.json(&["node", "info"])?;
    for (key, right) in [("dom0_starts", 1), ("address_claims", 0), ("portals_moved", 0)] {
        let value = node.get(key).and_then(Value::as_u64);
        ensure!(value == Some(right), "{key} is {value:?}: {node}");
    }
    // What the operator's machine believes.
    let neighbours = crate::process::run(std::process::Command::new("ip").args(["neigh", "show", NODE]))?;
    ensure!(neighbours.contains(NODE_MAC), "the operator believes the attacker: {neighbours}");
    Ok(())
}
