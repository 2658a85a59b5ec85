//! Guests of all shapes: kernels, vCPUs, memory, ends.

use super::directory;
use crate::machine::{Boot, CPUS, Shape};
use crate::programs::target;
use crate::test_guest::{Description, Flavour, TestGuest, find};
use crate::world::{World, build};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};

const NODE_LIMIT: Duration = Duration::from_secs(60);
/// Four guests on two CPUs (dom0 owns the third) take their time under emulation.
const GUEST_LIMIT: Duration = Duration::from_secs(180);
/// One of three that start and end at once.
const END_LIMIT: Duration = Duration::from_secs(120);

/// Name, job, line of the VM file, what becomes of it.
type Case = (&'static str, &'static str, &'static str, End);
/// Guests that turn themselves off or fail.
const ENDS: [Case; 5] = [
    ("off-destroy", "job=poweroff", "on_poweroff = \"destroy\"", End::Gone),
    ("off-preserve", "job=poweroff", "on_poweroff = \"preserve\"", End::State("off")),
    ("off-restart", "job=poweroff", "on_poweroff = \"restart\"", End::Again),
    (
        "fault-preserve",
        "job=crash reboot=t panic=-1 module_blacklist=pvpanic,pvpanic_mmio",
        "on_crash = \"preserve\"",
        End::State("crashed"),
    ),
    // Without `panic=`: the kernel reports it and stands still.
    ("panic-restart", "job=crash", "on_crash = \"restart\"", End::Again),
];
/// Guests that reset themselves.
const RESETS: [Case; 3] = [
    ("other-clock", "job=poweroff no-kvmclock", "on_poweroff = \"destroy\"", End::Gone),
    ("reset-restart", "job=reboot", "", End::Again),
    ("reset-destroy", "job=reboot", "on_reboot = \"destroy\"", End::Gone),
];

/// All kernels, numbers of vCPUs and ways to end; four guests at once on 2 CPUs;
/// one guest with memory above 4 GiB.
pub(super) fn guests_of_all_shapes() -> Result<()> {
    let built = build(false)?;
    let cloud = find(&target(), Flavour::Cloud)?;
    let generic = find(&target(), Flavour::Generic)?;
    let new = find(&target(), Flavour::NewCloud);
    if let Err(reason) = &new {
        println!("  skipped: a guest with kernel 6.12: {reason}");
    }
    let directory = directory("shapes");
    let shape = Shape { cpus: CPUS, memory_mib: 7168, boot: Boot::Kernel(built.image.path.clone()) };
    let world = World::start(&built, &directory, &shape, |_| Ok(()))?;
    world.operator.wait_for_node(NODE_LIMIT).with_context(|| world.machine.serial_text())?;

    let guests: Vec<(&str, u32, &TestGuest, &str)> = [
        Some(("cloud", 1, &cloud, "6.1")),
        Some(("generic", 2, &generic, "6.1")),
        new.as_ref().ok().map(|new| ("new", 4, new, "6.12")),
        Some(("wide", 4, &cloud, "6.1")),
    ]
    .into_iter()
    .flatten()
    .collect();
    for (index, (name, vcpus, files, _)) in guests.iter().enumerate() {
        let number = u8::try_from(index + 1)?;
        world.test_guest(files, &Description { name, number, vcpus: *vcpus, ..Description::default() })?;
    }
    for (name, vcpus, _, release) in &guests {
        world.wait_for_console(name, "TEST idle", GUEST_LIMIT)?;
        let shown = world.operator.run(&["console", name, "--once"])?;
        let line = shown.lines().find(|line| line.contains("TEST up")).context("no line")?.trim().to_string();
        println!("  {name}: {line}");
        ensure!(
            line.contains(&format!("cpus={vcpus} ")),
            "{name} has other CPUs: {line}; its console: {shown}"
        );
        ensure!(line.contains(&format!("release={release}.")), "{name} runs another kernel: {line}");
        ensure!(shown.contains("TEST address 10.77.0."), "{name} got no address: {shown}");
        ensure!(shown.contains("TEST strings of ports"), "{name} does not move strings: {shown}");
    }
    for (name, ..) in &guests {
        world.operator.run(&["destroy", name])?;
    }
    large(&world, &cloud)?;
    small(&world, &cloud)?;
    ends(&world, &cloud, &ENDS)?;
    let log = world.operator.run(&["node", "log"])?;
    ensure!(log.contains("guest panic-restart: its kernel panicked"), "no word of a panic in {log}");
    Ok(())
}

/// A guest that resets itself starts anew, or is gone where its VM file has it so.
pub(super) fn guests_reset_themselves() -> Result<()> {
    let built = build(false)?;
    let cloud = find(&target(), Flavour::Cloud)?;
    let directory = directory("resets");
    let shape = Shape { cpus: CPUS, memory_mib: 1024, boot: Boot::Kernel(built.image.path.clone()) };
    let world = World::start(&built, &directory, &shape, |_| Ok(()))?;
    world.operator.wait_for_node(NODE_LIMIT).with_context(|| world.machine.serial_text())?;
    ends(&world, &cloud, &RESETS)
}

/// A guest whose memory reaches over the hole below 4 GiB, and is used there.
fn large(world: &World, files: &TestGuest) -> Result<()> {
    let guest = Description {
        name: "large",
        memory_mib: 5120,
        job: "job=high-memory mib=300",
        ..Description::default()
    };
    world.test_guest(files, &guest)?;
    world.wait_for_console("large", "TEST high memory", GUEST_LIMIT)?;
    let shown = world.operator.run(&["console", "large", "--once"])?;
    println!(
        "  large: {}",
        shown.lines().filter(|line| line.contains("TEST")).collect::<Vec<_>>().join("; ")
    );
    ensure!(shown.contains("wrong=0"), "memory above 4 GiB does not keep what is written: {shown}");
    let total = figure(&shown, "memory_kib=").context("no memory reported")?;
    ensure!((4_800_000..=5 << 20).contains(&total), "a guest with 5 GiB reports {total} KiB");
    let used = figure(&shown, "used_kib=").context("no use reported")?;
    ensure!(used > 250_000, "only {used} KiB above 4 GiB were used");
    world.operator.run(&["destroy", "large"]).map(|_| ())
}

/// A guest with 64 MiB: less than its kernel wants in order to unpack itself, so that
/// the CLI does it, and too little for the files of the kernel's own tracing.
fn small(world: &World, files: &TestGuest) -> Result<()> {
    let guest = Description {
        name: "small",
        memory_mib: 64,
        job: "job=idle initcall_blacklist=tracer_init_tracefs",
        ..Description::default()
    };
    world.test_guest(files, &guest)?;
    world.wait_for_console("small", "TEST idle", GUEST_LIMIT)?;
    let shown = world.operator.run(&["console", "small", "--once"])?;
    let total = figure(&shown, "memory_kib=").context("no memory reported")?;
    println!("  small: {total} KiB for programs");
    ensure!((16_000..64 << 10).contains(&total), "a guest with 64 MiB reports {total} KiB");
    world.operator.run(&["destroy", "small"]).map(|_| ())
}

fn figure(text: &str, key: &str) -> Option<u64> {
    let rest = text.get(text.find(key)? + key.len()..)?;
    rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// Ends from inside follow the VM file.
fn ends(world: &World, files: &TestGuest, cases: &[Case]) -> Result<()> {
    for chunk in cases.chunks(3) {
        for (index, (name, job, more, _)) in chunk.iter().enumerate() {
            let number = u8::try_from(index + 1)?;
            world.test_guest(files, &Description { name, number, job, more, ..Description::default() })?;
        }
        for (name, _, _, end) in chunk {
            end.wait(world, name).with_context(|| format!("{name} does not end as its VM file says"))?;
            if !matches!(end, End::Gone) {
                world.operator.run(&["destroy", name])?;
            }
            println!("  {name}: as its VM file says");
        }
    }
    Ok(())
}

/// What becomes of a guest.
enum End {
    /// It is listed no more.
    Gone,
    /// It is listed in this state.
    State(&'static str),
    /// It started anew.
    Again,
}

impl End {
    fn wait(&self, world: &World, name: &str) -> Result<()> {
        let deadline = Instant::now() + END_LIMIT;
        let mut created = None;
        loop {
            let list = world.operator.json(&["list"])?;
            let guest = list
                .as_array()
                .context("no list")?
                .iter()
                .find(|guest| guest.get("name").and_then(Value::as_str) == Some(name));
            let number = |key| guest.and_then(|guest| guest.get(key)).and_then(Value::as_u64);
            let state = guest.and_then(|guest| guest.get("state")).and_then(Value::as_str);
            let reached = match self {
                Self::Gone => guest.is_none(),
                Self::State(wanted) => state == Some(*wanted),
                Self::Again => created.is_some() && number("created_ns") != created,
            };
            created = created.or(number("created_ns"));
            if reached {
                return Ok(());
            }
            if Instant::now() > deadline {
                let shown = world.operator.try_run(&["console", name, "--once"])?.out;
                bail!("it is {state:?} after {END_LIMIT:?}; its console: {shown}");
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }
}
