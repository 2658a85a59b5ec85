//! `cargo measure`: sizes, memory and times of a node, as a table and as JSON.
//!
//! Budgets are asserted on sizes and counts only; times depend on the machine and
//! are to be compared within one run.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use image_builder::dev::{DevImage, Options, build_image};
use mgmt_proto::manifest::DEFAULT_MTU;
use qemu_tests::lab::HOST;
use qemu_tests::machine::{Boot, Shape};
use qemu_tests::measure::counted::Counted;
use qemu_tests::measure::figure::{Table, as_f64, number};
use qemu_tests::measure::hand_off::HandOff;
use qemu_tests::measure::linux::LinuxNode;
use qemu_tests::measure::load::{PORT, Switchboard, Worker};
use qemu_tests::measure::{counted, disks, initiators, linux, load, memory, start, streams, turn};
use qemu_tests::test_guest::{Description, TestGuest};
use qemu_tests::world::{Built, World, build, target_name};
use qemu_tests::{lab, packages, programs, test_guest};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Measures a node in QEMU and writes `target/measure.json`.
#[derive(Parser)]
#[command(name = "cargo measure")]
struct Arguments {
    /// Only the parts whose name contains this: size, hand-off, memory, start,
    /// disks, jumbo, streams, counted, initiators, turn.
    #[arg(long)]
    only: Option<String>,
}

/// Counts what is on the heap: what a session holds.
#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Budget: bytes of the image.
const IMAGE_BUDGET: f64 = 2.0 * 1024.0 * 1024.0;
/// Payload of large frames.
const JUMBO_MTU: u16 = 9000;
/// CPUs of each machine: so both machines have a CPU of the workstation's two.
const CPUS: u32 = 1;
/// Bytes of the disks that are read.
const DISK_BYTES: u64 = 64 << 20;
/// Number of the iSCSI target.
const TARGET: u32 = 1;
/// How long a node may take to answer.
const NODE_LIMIT: Duration = Duration::from_secs(120);
/// How long a load generator may take to call.
const CALL_LIMIT: Duration = Duration::from_secs(120);
/// The AoE disk.
const AOE_VOLUME: &str = "aoe:e11.2";

/// Everything that is made outside the lab.
struct Prepared {
    built: Built,
    guest: TestGuest,
    linux: TestGuest,
    initiators: initiators::Programs,
    plugin: PathBuf,
    turns: turn::Counter,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse_from(programs::arguments());
    let wanted = |part: &str| arguments.only.as_deref().is_none_or(|only| part.contains(only));
    packages::ensure_installed_to_measure()?;
    if arguments.only.as_deref() == Some("initiators") {
        return only_initiators();
    }
    if arguments.only.as_deref() == Some("turn") {
        return only_turns();
    }
    let prepared = prepare()?;
    lab::enter()?;
    let began = Instant::now();
    let mut table = Table::default();
    Table::head();
    let built = &prepared.built;
    if wanted("size") {
        let bytes = std::fs::metadata(&built.image.path)?.len();
        table.add_with_budget("image", vec![as_f64(bytes)], "bytes", IMAGE_BUDGET);
    }
    let mut failures = Vec::new();
    let mut note = |outcome: Result<()>| failures.extend(outcome.err().map(|error| format!("{error:#}")));
    if wanted("hand-off") {
        let hand_off = HandOff {
            image: &built.image.path,
            cli: &built.cli,
            identity: &built.image.operator_key_path,
            directory: &programs::target().join("measure-hand-off"),
            kernel: &prepared.guest.kernel,
        };
        note(hand_off.measure(&mut table));
    }
    if ["memory", "start", "disks", "streams"].into_iter().any(wanted) {
        note(measure_node(&prepared, &programs::target().join("measure"), wanted, &mut table));
    }
    if wanted("jumbo") {
        note(measure_jumbo(&prepared, &programs::target().join("measure-jumbo"), &mut table));
    }
    if wanted("counted") {
        let counted = Counted {
            image: &built.image.path,
            cli: &built.cli,
            identity: &built.image.operator_key_path,
            guest: &prepared.guest,
            linux: &prepared.linux,
            plugin: &prepared.plugin,
            directory: &programs::target().join("measure-counted"),
        };
        note(counted.measure(&mut table));
    }
    if wanted("initiators") {
        let directory = programs::target().join("measure-initiators");
        note(initiators::measure(&mut table, HEAP, &prepared.initiators, &directory));
    }
    if wanted("turn") {
        note(turn::measure(&mut table, &prepared.turns));
    }
    // What could be measured is shown whatever else went wrong.
    table.write(&programs::target().join("measure.json"))?;
    println!("took {:.0} s", began.elapsed().as_secs_f64());
    ensure!(failures.is_empty(), "not everything could be measured: {}", failures.join("; "));
    table.check()
}

/// The initiators alone: that needs no node.
fn only_initiators() -> Result<()> {
    let made = initiators::prepare(&programs::target())?;
    lab::enter()?;
    let mut table = Table::default();
    Table::head();
    let outcome =
        initiators::measure(&mut table, HEAP, &made, &programs::target().join("measure-initiators"));
    table.write(&programs::target().join("measure.json"))?;
    outcome?;
    table.check()
}

/// The heaviest turns alone: that needs no node in QEMU.
fn only_turns() -> Result<()> {
    let counter = turn::prepare(&programs::target())?;
    let mut table = Table::default();
    Table::head();
    let outcome = turn::measure(&mut table, &counter);
    table.write(&programs::target().join("measure.json"))?;
    outcome?;
    table.check()
}

/// Builds and fetches what is missing. Called again inside the lab it finds
/// everything.
fn prepare() -> Result<Prepared> {
    let target = programs::target();
    let built = build(false)?;
    build_image(&Options { out: Some(jumbo_image()), mtu: JUMBO_MTU, ..Options::default() })?;
    test_guest::prepare(&target)?;
    linux::prepare(&target)?;
    let program = load::build(&target)?;
    let guest = load::guest(&target, &program)?;
    let linux = linux::compose_node(&target, &program)?;
    let initiators = initiators::prepare(&target)?;
    let plugin = counted::prepare(&target)?;
    let turns = turn::prepare(&target)?;
    Ok(Prepared { built, guest, linux, initiators, plugin, turns })
}

/// Everything that needs a node in a lab.
fn measure_node(
    prepared: &Prepared,
    directory: &Path,
    wanted: impl Fn(&str) -> bool,
    table: &mut Table,
) -> Result<()> {
    let (world, manageable) = start_node(&prepared.built, directory, DEFAULT_MTU)?;
    let netboot = manageable.duration_since(world.machine.started);
    table.add("netboot: power-on to first signed reply", netboot.as_secs_f64() * 1e3, "ms");
    if wanted("memory") {
        memory::measure_node(table, &world)?;
        memory::measure_guests(table, &world, &prepared.guest, AOE_VOLUME)?;
    }
    if wanted("start") {
        start::measure(table, &world, &prepared.guest, AOE_VOLUME, &iscsi_volume())?;
    }
    if wanted("disks") || wanted("streams") {
        let (mut guest, mut linux, _node) = workers(prepared, &world, DEFAULT_MTU, table)?;
        let exits = || number(&world.operator.json(&["info", "load"])?, "exits");
        if wanted("disks") {
            disks::measure(table, "", &mut guest, &mut linux, &exits)?;
        }
        if wanted("streams") {
            streams::measure(table, &mut guest, &mut linux, &exits)?;
        }
    }
    Ok(())
}

/// Network disks over a wire with large frames.
fn measure_jumbo(prepared: &Prepared, directory: &Path, table: &mut Table) -> Result<()> {
    let image = DevImage { path: jumbo_image(), ..prepared.built.image.clone() };
    let built = Built { image, ..prepared.built.clone() };
    let (world, _) = start_node(&built, directory, JUMBO_MTU)?;
    let (mut guest, mut linux, _node) = workers(prepared, &world, JUMBO_MTU, table)?;
    let exits = || number(&world.operator.json(&["info", "load"])?, "exits");
    disks::measure(table, &format!(", MTU {JUMBO_MTU}"), &mut guest, &mut linux, &exits)
}

/// The image that is sealed for that wire.
fn jumbo_image() -> PathBuf {
    programs::target().join("image/jumbo.img")
}

/// A node in a lab with the disks that are read; when it answered.
fn start_node(built: &Built, directory: &Path, mtu: u16) -> Result<(World, Instant)> {
    let shape = Shape { cpus: CPUS, memory_mib: 1536, boot: Boot::Pxe };
    let world = World::start(built, directory, &shape, |lab| {
        lab.set_mtu(mtu)?;
        lab.export_aoe(11, 2, &disk(directory, "aoe.img")?)?;
        lab.export_iscsi(TARGET, &target_name(TARGET), &disk(directory, "iscsi.img")?)
    })?;
    let manageable = world.operator.wait_for_node(NODE_LIMIT).with_context(|| world.machine.serial_text())?;
    Ok((world, manageable))
}

/// The iSCSI disk.
fn iscsi_volume() -> String {
    format!("iscsi://{HOST}/{}/1", target_name(TARGET))
}

/// A disk without holes.
fn disk(directory: &Path, name: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    let bytes: Vec<u8> = (0..DISK_BYTES / 8).flat_map(u64::to_le_bytes).collect();
    std::fs::write(&path, bytes)?;
    Ok(path)
}

/// Starts a guest and a Linux node; returns their load generators.
fn workers(
    prepared: &Prepared,
    world: &World,
    mtu: u16,
    table: &mut Table,
) -> Result<(Worker, Worker, LinuxNode)> {
    let switchboard = Switchboard::open()?;
    let more = format!("disk = [ \"{AOE_VOLUME},ro\", \"{},ro\" ]", iscsi_volume());
    let job = format!("console=ttyS0 worker=guest call={HOST}:{PORT}");
    let description =
        Description { name: "load", memory_mib: 256, job: &job, more: &more, ..Description::default() };
    world.test_guest(&prepared.guest, &description)?;
    let guest = switchboard.next(CALL_LIMIT).context("the guest does not call")?;
    let node = LinuxNode::start(&prepared.linux, CPUS, TARGET, mtu, &world.directory)?;
    let booted = node.wait_for_user_space(CALL_LIMIT)?;
    table.add("Linux node itself: power-on to user space", booted.as_secs_f64() * 1e3, "ms");
    let linux = switchboard.next(CALL_LIMIT).context("the Linux node does not call")?;
    ensure!(guest.name == "guest" && linux.name == "linux", "others call: {} {}", guest.name, linux.name);
    Ok((guest, linux, node))
}
