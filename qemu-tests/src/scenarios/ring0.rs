//! When the hypervisor itself fails: all CPUs stop, the machine restarts by itself, and
//! the next run reports why.

use super::directory;
use crate::debugger::Debugger;
use crate::lab::NODE_MAC;
use crate::machine::{self, Boot, CPUS, Machine, Shape};
use crate::process::Process;
use crate::world::{Built, World, build};
use anyhow::{Context, Result, bail, ensure};
use image_builder::dev::{DevImage, Options, build_image};
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

const NODE_LIMIT: Duration = Duration::from_secs(60);
/// How long the node stands still, as it is sealed.
const DELAY: Duration = Duration::from_secs(2);
/// Between the fault and the node's next start, what is noticed at once.
const RESTART_LIMIT: Duration = Duration::from_secs(30);
/// How often a CPU is looked at that is to be idle.
const ATTEMPTS: u32 = 20;

/// A way for the hypervisor to fail.
#[derive(Clone, Copy, Debug)]
enum How {
    /// On request.
    Asked(&'static str),
    /// A stack ends within the page below it, as after too many calls.
    StackOverflow,
}

/// One machine that fails.
struct Case {
    how: How,
    cpus: u32,
    /// How many of them rest, for the cores that they are threads of.
    resting: u32,
    /// More of the machine.
    devices: &'static [&'static str],
    watchdogs: &'static [&'static str],
    ended: &'static str,
    cause: &'static str,
}

const CASES: &[Case] = &[
    Case {
        // Two cores, whose second threads rest unless the owner seals otherwise.
        how: How::Asked("hypervisor-panic"),
        cpus: 4,
        resting: 2,
        devices: &["-smp", "4,threads=2"],
        watchdogs: &["processor", "tco"],
        ended: "failed",
        cause: "an operator asked for a panic",
    },
    Case {
        how: How::StackOverflow,
        cpus: CPUS,
        resting: 0,
        devices: &[],
        watchdogs: &["processor", "tco"],
        ended: "failed",
        cause: "exception 8 error 0x0",
    },
    Case {
        how: How::Asked("hypervisor-hang"),
        cpus: CPUS,
        resting: 0,
        devices: &[],
        watchdogs: &["processor", "tco"],
        ended: "hung",
        cause: "cpu 0 hangs",
    },
    Case {
        how: How::Asked("hypervisor-hang"),
        cpus: 1,
        resting: 0,
        devices: &["-device", "i6300esb"],
        watchdogs: &["i6300esb"],
        ended: "cut",
        cause: "watchdog",
    },
    Case {
        how: How::Asked("hypervisor-hang"),
        cpus: 1,
        resting: 0,
        devices: &["-global", "ICH9-LPC.noreboot=false"],
        watchdogs: &["tco"],
        ended: "cut",
        cause: "watchdog",
    },
];

/// The image whose hypervisor fails on request.
///
/// # Errors
/// When it does not build.
pub(super) fn image() -> Result<DevImage> {
    let out = crate::programs::target().join("image/ring0.img");
    let restart_delay_s = u16::try_from(DELAY.as_secs())?;
    build_image(&Options { out: Some(out), fault_injection: true, restart_delay_s, ..Options::default() })
}

/// Fails in each way, one machine after the other.
pub(super) fn the_node_restarts_when_its_hypervisor_fails() -> Result<()> {
    let built = Built { image: image()?, ..build(true)? };
    for case in CASES {
        fail_once(&built, case).with_context(|| format!("{:?} on {} CPUs", case.how, case.cpus))?;
    }
    Ok(())
}

fn fail_once(built: &Built, case: &Case) -> Result<()> {
    let directory = directory("ring0");
    let shape = Shape { cpus: case.cpus, memory_mib: 512, boot: Boot::Kernel(built.image.path.clone()) };
    let mut world = World::start(built, &directory, &shape, |_| Ok(()))?;
    let debugger = directory.join("debugger");
    if !case.devices.is_empty() || matches!(case.how, How::StackOverflow) {
        world.machine.process.kill();
        let serial = directory.join("serial.log");
        let mut command = machine::command(&shape, "tap0", NODE_MAC, &serial);
        command.args(case.devices);
        command.args(["-gdb", &format!("unix:{},server=on,wait=off", debugger.display())]);
        let started = Instant::now();
        let process = Process::start(&mut command, &directory.join("qemu.log"))?;
        world.machine = Machine { process, started, serial };
    }
    world.operator.wait_for_node(NODE_LIMIT).with_context(|| world.machine.serial_text())?;
    let before = info(&world)?;
    ensure!(field(&before, "previous_end").is_null(), "a first start knows of a run before: {before}");
    ensure!(
        *field(&before, "watchdogs") == serde_json::json!(case.watchdogs),
        "{}",
        field(&before, "watchdogs")
    );
    ensure!(
        *field(&before, "threads_resting") == case.resting
            && *field(&before, "cpus") == case.cpus - case.resting,
        "others of {} CPUs rest: {before}",
        case.cpus
    );
    // What is kept for a run that is cut off is at most a second old.
    std::thread::sleep(Duration::from_millis(1500));
    let asked = Instant::now();
    match case.how {
        How::Asked(fault) => {
            let _ = world.operator.try_run(&["--fresh-identity", "inject-fault", fault]);
        }
        How::StackOverflow => overflow_stack(&debugger)?,
    }
    let after = wait_for_restart(&world)?;
    let took = asked.elapsed();
    println!("  {:?} on {} CPUs: answers again after {:.1} s", case.how, case.cpus, took.as_secs_f64());
    let cause = field(&after, "previous_cause").as_str().unwrap_or_default();
    println!("  last run: {}: {cause}", field(&after, "previous_end"));
    ensure!(*field(&after, "previous_end") == case.ended && cause.contains(case.cause), "{after}");
    ensure!(took >= DELAY || case.ended == "cut", "it stood still for {took:?} only");
    let log = world.operator.run(&["--fresh-identity", "node", "log", "--previous"])?;
    ensure!(log.contains("starting") && log.contains("reachable"), "the log before: {log}");
    if case.ended != "cut" {
        ensure!(log.contains(case.cause), "the log before does not say why: {log}");
        let stopped = log.matches("stopped at 0xffffffff8").count();
        ensure!(stopped + 1 == usize::try_from(case.cpus)?, "{stopped} other CPUs stopped: {log}");
    }
    let info = world.operator.run(&["--fresh-identity", "node", "info"])?;
    ensure!(info.contains(case.cause), "node info does not say why: {info}");
    Ok(())
}

/// What the node reports of itself once it has started again.
pub(super) fn wait_for_restart(world: &World) -> Result<Value> {
    let began = Instant::now();
    loop {
        ensure!(began.elapsed() < RESTART_LIMIT, "it did not restart: {}", world.machine.serial_text());
        match info(world) {
            Ok(after) if !field(&after, "previous_end").is_null() => return Ok(after),
            _ => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// Lets the stack of the second CPU, which has nothing to do, end below its pages.
fn overflow_stack(path: &Path) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let mut debugger = Debugger::attach(path)?;
        let beyond = debugger.overflow_stack(1)?;
        debugger.detach()?;
        if let Some(beyond) = beyond {
            println!("  the stack of CPU 1 ends at {beyond:#x}, in no page");
            return Ok(());
        }
    }
    bail!("the second CPU is never idle")
}

pub(super) fn field<'a>(facts: &'a Value, name: &str) -> &'a Value {
    facts.get(name).unwrap_or(&Value::Null)
}

pub(super) fn info(world: &World) -> Result<Value> {
    let arguments = ["--fresh-identity", "--timeout", "2", "node", "info"];
    world.operator.json(&arguments)
}
