//! Memory that fails, as the processor reports it: in a guest's page it ends that guest alone,
//! anywhere else the node starts anew and reports why. Beside that, what the owner sealed of
//! this machine: both threads of each core run, and frames are no longer than 1,400 octets.

use super::directory;
use super::ring0::{field, info, wait_for_restart};
use crate::http;
use crate::lab::{NODE_MAC, guest_address};
use crate::machine::{self, Boot, Machine, Shape};
use crate::measure::machine_monitor::Monitor;
use crate::process::Process;
use crate::programs::target;
use crate::test_guest::{Description, Flavour, find};
use crate::world::{Built, World, build};
use anyhow::{Context, Result, ensure};
use image_builder::dev::{DevImage, Options, build_image};
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

const NODE_LIMIT: Duration = Duration::from_secs(60);
const GUEST_LIMIT: Duration = Duration::from_secs(90);
const END_LIMIT: Duration = Duration::from_secs(10);
const CPUS: u32 = 4;
const MEMORY_MIB: u32 = 768;
const MTU: u16 = 1400;
/// What the guest fills pages with, see `job=mark` of the test guest.
const MARK: &[u8; 16] = b"REDOUBT-MARK-07\n";
const PAGE_BYTES: usize = 4096;
/// A bank's status: valid, uncorrected, reported, address valid, data read (APM 9.3.2).
const DAMAGED: u64 = 0xbc00_0000_0000_0135;
/// Bits of CR4 (APM 3.1.3).
const GUARDS: [(u32, &str); 4] = [(6, "MCE"), (11, "UMIP"), (20, "SMEP"), (21, "SMAP")];
/// Where the second processor started, and where the image was loaded.
const START_ADDRESSES: [u64; 2] = [0x8000, 0x10_0000];
/// In the processor's own status: what was interrupted may continue; a machine check is here.
const RESTARTABLE: u64 = 5;

/// The image for this machine.
///
/// # Errors
/// When it does not build.
pub(super) fn image() -> Result<DevImage> {
    let out = target().join("image/machine-check.img");
    build_image(&Options { out: Some(out), smt: true, mtu: MTU, restart_delay_s: 2, ..Options::default() })
}

/// One guest whose memory fails, one beside it, and then the node.
pub(super) fn a_damaged_page_ends_its_guest_alone() -> Result<()> {
    let built = Built { image: image()?, ..build(false)? };
    let files = find(&target(), Flavour::Cloud)?;
    let directory = directory("machine-check");
    let shape = Shape { cpus: CPUS, memory_mib: MEMORY_MIB, boot: Boot::Kernel(built.image.path.clone()) };
    let mut world = World::start(&built, &directory, &shape, |_| Ok(()))?;
    world.machine.process.kill();
    world.machine = switch_on(&shape, &directory)?;
    world.operator.wait_for_node(NODE_LIMIT).with_context(|| world.machine.serial_text())?;
    let node = info(&world)?;
    ensure!(
        *field(&node, "smt") == true
            && *field(&node, "cpus") == CPUS
            && *field(&node, "threads_resting") == 0,
        "not all threads run: {node}"
    );
    let marked = Description {
        name: "marked",
        memory_mib: 128,
        job: "job=mark",
        more: "on_crash = \"preserve\"",
        ..Description::default()
    };
    let other = Description {
        name: "other",
        number: 2,
        memory_mib: 128,
        vcpus: 2,
        job: "job=serve page=other",
        ..Description::default()
    };
    for guest in [&marked, &other] {
        world.test_guest(&files, guest)?;
    }
    world.wait_for_console("marked", "TEST marked", GUEST_LIMIT)?;
    world.wait_for_console("other", "TEST serving", GUEST_LIMIT)?;
    let shown = world.operator.run(&["console", "other", "--once"])?;
    ensure!(shown.contains(&format!("mtu={MTU}")), "the guest was not told how long frames are: {shown}");

    let mut monitor = Monitor::connect(&directory.join("monitor"))?;
    processor_guards_ring0(&mut monitor)?;
    let page = marked_page(&mut monitor, &directory)?;
    damage(&mut monitor, page)?;
    wait_for_crash(&world)?;
    let page_of_other = http::get(&guest_address(2).0, "/").context("the other guest serves no more")?;
    ensure!(page_of_other == b"page of other\n", "the other guest serves something else");
    let log = world.operator.run(&["node", "log"])?;
    let reported = format!("Contained({page:#x})").replace("0x", "");
    let line = log.lines().find(|line| line.contains("error machine_check: now: cpu 0 bank 0"));
    let line = line.with_context(|| format!("no word of a machine check: {log}"))?;
    println!("  {line}");
    ensure!(line.contains(&reported) && log.contains("its memory is damaged"), "{log}");
    let node = info(&world)?;
    ensure!(*field(&node, "dom0_starts") == 1 && field(&node, "previous_end").is_null(), "{node}");

    // Where no guest's memory is.
    damage(&mut monitor, u64::from(MEMORY_MIB) << 20)?;
    let node = wait_for_restart(&world)?;
    ensure!(*field(&node, "previous_end") == "machine-check", "{node}");
    let log = world.operator.run(&["--fresh-identity", "node", "log", "--previous"])?;
    let words = format!("address {:#x}", u64::from(MEMORY_MIB) << 20);
    let line = log.lines().find(|line| line.contains("machine_check: ") && line.contains(&words));
    println!("  {}", line.with_context(|| format!("the log before does not say which: {log}"))?);
    ensure!(log.contains("hypervisor failed: machine check"), "{log}");
    Ok(())
}

fn switch_on(shape: &Shape, directory: &Path) -> Result<Machine> {
    let serial = directory.join("serial.log");
    let mut command = machine::command(shape, "tap0", NODE_MAC, &serial);
    command
        .args(["-smp", &format!("{CPUS},threads=2")])
        .args(["-qmp", &format!("unix:{},server=on,wait=off", directory.join("monitor").display())]);
    let started = Instant::now();
    let process = Process::start(&mut command, &directory.join("qemu.log"))?;
    Ok(Machine { process, started, serial })
}

/// Where in the machine's memory one of the guest's pages is.
fn marked_page(monitor: &mut Monitor, directory: &Path) -> Result<u64> {
    let path = directory.join("memory");
    let size = u64::from(MEMORY_MIB) << 20;
    monitor.command_with("pmemsave", json!({ "val": 0, "size": size, "filename": path }))?;
    let mut file = std::fs::File::open(&path)?;
    let (mut page, mut address, mut found) = (vec![0; PAGE_BYTES], 0, None);
    while file.read_exact(&mut page).is_ok() {
        if page.chunks(MARK.len()).all(|chunk| chunk == MARK) {
            found = Some(address);
        }
        address += PAGE_BYTES as u64;
    }
    std::fs::remove_file(path)?;
    found.context("no page of the guest's is found")
}

/// The first processor, which is dom0's, hears that memory is damaged.
fn damage(monitor: &mut Monitor, address: u64) -> Result<()> {
    let said = say(monitor, &format!("mce 0 0 {DAMAGED:#x} {RESTARTABLE:#x} {address:#x} 0"))?;
    ensure!(said.is_empty(), "QEMU takes no machine check: {said}");
    Ok(())
}

/// What the monitor for people answers.
fn say(monitor: &mut Monitor, line: &str) -> Result<String> {
    let said = monitor.command_with("human-monitor-command", json!({ "command-line": line }))?;
    Ok(said.as_str().context("no text")?.trim().to_string())
}

/// The first processor keeps ring 3 out of ring 0, and what was mapped for its start is gone.
fn processor_guards_ring0(monitor: &mut Monitor) -> Result<()> {
    let registers = say(monitor, "info registers")?;
    let word = registers.split_whitespace().find_map(|word| word.strip_prefix("CR4="));
    let control = u64::from_str_radix(word.context("no CR4")?, 16)?;
    for (bit, name) in GUARDS {
        ensure!(control >> bit & 1 == 1, "{name} is off: CR4 is {control:#x}");
    }
    for address in START_ADDRESSES {
        let said = say(monitor, &format!("x /1gx {address:#x}"))?;
        ensure!(said.contains("Cannot access memory"), "the first addresses are mapped: {said}");
    }
    Ok(())
}

fn wait_for_crash(world: &World) -> Result<()> {
    let deadline = Instant::now() + END_LIMIT;
    loop {
        let list = world.operator.json(&["list"])?;
        let state = |name: &str| {
            let mut guests = list.as_array().into_iter().flatten();
            let guest = guests.find(|guest| *field(guest, "name") == name);
            guest.map(|guest| field(guest, "state")).and_then(Value::as_str).unwrap_or_default()
        };
        if state("marked") == "crashed" {
            ensure!(matches!(state("other"), "running" | "blocked"), "the other guest: {list}");
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the guest goes on: {list}; {}", world.machine.serial_text());
        std::thread::sleep(Duration::from_millis(200));
    }
}
