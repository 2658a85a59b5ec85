//! When the hypervisor itself fails: all CPUs stop, the machine restarts by itself, and
//! the next run tells why.

use super::directory;
use crate::lab::NODE_MAC;
use crate::machine::{self, Boot, CPUS, Machine, Shape};
use crate::process::Process;
use crate::world::{Built, World, build};
use anyhow::{Context, Result, ensure};
use image_builder::dev::{DevImage, Options, build_image};
use serde_json::Value;
use std::time::{Duration, Instant};

const NODE_LIMIT: Duration = Duration::from_secs(60);
/// How long the node stands still, as it is sealed.
const DELAY: Duration = Duration::from_secs(2);
/// Between the fault and the node's next start, what is noticed at once.
const RESTART_LIMIT: Duration = Duration::from_secs(30);

/// A way for the hypervisor to fail.
struct Case {
    fault: &'static str,
    cpus: u32,
    /// More of the machine.
    devices: &'static [&'static str],
    watchdogs: &'static [&'static str],
    ended: &'static str,
    cause: &'static str,
}

const CASES: &[Case] = &[
    Case {
        fault: "hypervisor-panic",
        cpus: CPUS,
        devices: &[],
        watchdogs: &["processor", "tco"],
        ended: "failed",
        cause: "an operator asked for a panic",
    },
    Case {
        fault: "hypervisor-hang",
        cpus: CPUS,
        devices: &[],
        watchdogs: &["processor", "tco"],
        ended: "hung",
        cause: "cpu 0 hangs",
    },
    Case {
        fault: "hypervisor-hang",
        cpus: 1,
        devices: &["-device", "i6300esb"],
        watchdogs: &["i6300esb"],
        ended: "cut",
        cause: "watchdog",
    },
    Case {
        fault: "hypervisor-hang",
        cpus: 1,
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
        fail_once(&built, case).with_context(|| format!("{} on {} CPUs", case.fault, case.cpus))?;
    }
    Ok(())
}

fn fail_once(built: &Built, case: &Case) -> Result<()> {
    let directory = directory("ring0");
    let shape = Shape { cpus: case.cpus, memory_mib: 512, boot: Boot::Kernel(built.image.path.clone()) };
    let mut world = World::start(built, &directory, &shape, |_| Ok(()))?;
    if !case.devices.is_empty() {
        world.machine.process.kill();
        let serial = directory.join("serial.log");
        let mut command = machine::command(&shape, "tap0", NODE_MAC, &serial);
        command.args(case.devices);
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
    // What is kept for a run that is cut off is at most a second old.
    std::thread::sleep(Duration::from_millis(1500));
    let asked = Instant::now();
    let _ = world.operator.try_run(&["--fresh-identity", "inject-fault", case.fault]);
    let after = loop {
        ensure!(asked.elapsed() < RESTART_LIMIT, "it did not restart: {}", world.machine.serial_text());
        match info(&world) {
            Ok(after) if !field(&after, "previous_end").is_null() => break after,
            _ => std::thread::sleep(Duration::from_millis(200)),
        }
    };
    let took = asked.elapsed();
    println!("  {} on {} CPUs: answers again after {:.1} s", case.fault, case.cpus, took.as_secs_f64());
    let cause = field(&after, "previous_cause").as_str().unwrap_or_default();
    println!("  last run: {}: {cause}", field(&after, "previous_end"));
    ensure!(*field(&after, "previous_end") == case.ended && cause.contains(case.cause), "{after}");
    ensure!(took >= DELAY || case.ended == "cut", "it stood still for {took:?} only");
    let log = world.operator.run(&["--fresh-identity", "node", "log", "--previous"])?;
    ensure!(log.contains("starting") && log.contains("node: reachable"), "the log before: {log}");
    if case.ended != "cut" {
        ensure!(log.contains(case.cause), "the log before does not say why: {log}");
        let stopped = log.matches("stopped at 0xffffffff8").count();
        ensure!(stopped + 1 == usize::try_from(case.cpus)?, "{stopped} other CPUs stopped: {log}");
    }
    let info = world.operator.run(&["--fresh-identity", "node", "info"])?;
    ensure!(info.contains(case.cause), "node info does not say why: {info}");
    Ok(())
}

fn field<'a>(facts: &'a Value, name: &str) -> &'a Value {
    facts.get(name).unwrap_or(&Value::Null)
}

fn info(world: &World) -> Result<Value> {
    let arguments = ["--fresh-identity", "--timeout", "2", "node", "info"];
    world.operator.json(&arguments)
}
