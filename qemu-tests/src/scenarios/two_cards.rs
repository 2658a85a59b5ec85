//! A node with two network cards, each on a wire of its own with all targets on both; the
//! card for disks has its address by DHCP and takes nothing over of what it sends, and its
//! wire takes long frames. One cable after the other is cut and healed under a guest that
//! writes and compares.

use super::directory;
use super::storage_faults::{disk, finished};
use crate::lab::{HOST, Lab, NODE, NODE_MAC, SECOND_HOST, SECOND_NODE, SECOND_NODE_MAC, SECOND_TAP};
use crate::machine::{self, Boot, CPUS, Machine, Shape};
use crate::measure::machine_monitor::Monitor;
use crate::operator::Operator;
use crate::process::Process;
use crate::programs::target;
use crate::test_guest::{Description, storage};
use crate::world::{World, build, target_name};
use anyhow::{Context, Result, ensure};
use image_builder::dev::{DevImage, Options, build_image};
use mgmt_proto::manifest::{Addressing, StorageCard};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What fits on the card's wire, and sectors of an AoE frame there and on the other one.
const LONG_MTU: u16 = 9000;
const LONG_SECTORS: &str = "17";
const USUAL_SECTORS: &str = "2";
const NODE_LIMIT: Duration = Duration::from_secs(60);
const WRITING_LIMIT: Duration = Duration::from_secs(60);
const FINISH_LIMIT: Duration = Duration::from_secs(30);
const ADDRESS_LIMIT: Duration = Duration::from_secs(10);
/// What goes over each path at least while the guest writes.
const WRITTEN_BYTES_MIN: u64 = 1 << 20;
/// Until all paths of all disks serve again.
const HEALED_LIMIT: Duration = Duration::from_secs(10);
/// No request of the guest takes longer, with one cable in.
const FAILOVER_LIMIT_US: u64 = 3_000_000;
/// A card that neither completes checksums nor cuts segments.
const PLAIN_CARD: &str = "virtio-net-pci,csum=off,host_tso4=off,host_tso6=off,host_ufo=off";
/// How long fio runs.
const SECONDS: u64 = 30;

/// An image whose node has a second card, for disks.
pub(super) fn image() -> Result<DevImage> {
    let card = StorageCard { mac: None, addressing: Some(Addressing::Dhcp), mtu: LONG_MTU };
    let out = Some(target().join("image/two-cards.img"));
    build_image(&Options { out, storage_cards: vec![card], ..Options::default() })
}

fn monitor(directory: &Path) -> PathBuf {
    directory.join("monitor")
}

fn start(directory: &Path) -> Result<World> {
    let built = build(false)?;
    let image = image()?;
    let _ = std::fs::remove_dir_all(directory);
    std::fs::create_dir_all(directory)?;
    let mut lab = Lab::start(directory, &image.path)?;
    lab.add_second_wire(LONG_MTU)?;
    storage::fio_disk(&directory.join("fio.img"))?;
    disk(&directory.join("aoe.img"), 64)?;
    disk(&directory.join("iscsi.img"), 64)?;
    for (slot, file) in [(1, "fio.img"), (2, "aoe.img")] {
        lab.export_aoe(11, slot, &directory.join(file))?;
        lab.export_aoe_on_second_wire(11, slot, &directory.join(file))?;
    }
    lab.export_iscsi(1, &target_name(1), &directory.join("iscsi.img"))?;
    let shape = Shape { cpus: CPUS, memory_mib: 1536, boot: Boot::Kernel(image.path) };
    let serial = directory.join("serial.log");
    let mut command = machine::command(&shape, "tap0", NODE_MAC, &serial);
    command
        .args(["-netdev", &format!("tap,id=second,ifname={SECOND_TAP},script=no,downscript=no")])
        .args(["-device", &format!("{PLAIN_CARD},netdev=second,mac={SECOND_NODE_MAC}")])
        .args(["-qmp", &format!("unix:{},server=on,wait=off", monitor(directory).display())]);
    let started = Instant::now();
    let process = Process::start(&mut command, &directory.join("qemu.log"))?;
    let machine = Machine { process, started, serial };
    let operator = Operator::new(&built.cli, &image.operator_key_path, directory, NODE);
    Ok(World { lab, machine, operator, directory: directory.to_path_buf() })
}

/// What is reported of a path.
#[derive(Debug)]
struct Reported {
    volume: String,
    card: String,
    state: String,
    /// Sectors of a frame, of AoE.
    sectors: String,
    written: u64,
}

impl Reported {
    fn serves(&self) -> bool {
        let sectors = match (self.volume.starts_with("aoe:"), self.card == SECOND_NODE_MAC) {
            (true, true) => LONG_SECTORS,
            (true, false) => USUAL_SECTORS,
            (false, _) => "",
        };
        matches!(self.state.as_str(), "active" | "standby") && self.sectors == sectors
    }

    fn is_lost(&self) -> bool {
        self.card == SECOND_NODE_MAC && self.state == "lost"
    }
}

fn paths(operator: &Operator) -> Result<Vec<Reported>> {
    let reported = operator.json(&["storage", "path", "list"])?;
    let path = |path: &Value| {
        let text = |at: &str| path.pointer(at).and_then(Value::as_str).unwrap_or_default().to_string();
        Reported {
            volume: text("/volume"),
            card: text("/negotiated/Card"),
            state: text("/state"),
            sectors: text("/negotiated/SectorsPerFrame"),
            written: path.pointer("/counters/bytes_written").and_then(Value::as_u64).unwrap_or_default(),
        }
    };
    Ok(reported.as_array().context("no list of paths")?.iter().map(path).collect())
}

/// Waits until three disks have two paths each that serve, with frames as long as the wires
/// take.
fn wait_for_paths(operator: &Operator) -> Result<()> {
    let deadline = Instant::now() + HEALED_LIMIT;
    loop {
        let paths = paths(operator)?;
        if paths.len() == 6 && paths.iter().all(Reported::serves) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "not all paths serve: {paths:?}");
        sleep(Duration::from_millis(200));
    }
}

/// Waits until the card for disks has its address; what the node then reports of its cards.
fn wait_for_address(operator: &Operator) -> Result<Value> {
    let deadline = Instant::now() + ADDRESS_LIMIT;
    loop {
        let node = operator.json(&["node", "info"])?;
        if node.pointer("/cards/1/address").is_some_and(Value::is_string) {
            return Ok(node);
        }
        ensure!(Instant::now() < deadline, "the card for disks has no address: {node}");
        sleep(Duration::from_millis(200));
    }
}

/// One guest with an AoE and an iSCSI disk; each cable is cut for a moment and for longer.
pub(super) fn cables_are_cut_and_disks_go_on() -> Result<()> {
    let directory = directory("two-cards");
    let files = storage::guest(&target())?;
    let mut world = start(&directory)?;
    world.operator.wait_for_node(NODE_LIMIT).with_context(|| world.machine.serial_text())?;
    let node = wait_for_address(&world.operator)?;
    let reported = |key: &str| node.pointer(&format!("/cards/1/{key}")).cloned().unwrap_or_default();
    let address = format!("{SECOND_NODE}/24");
    ensure!(
        ["mac", "state", "address"].map(reported) == [SECOND_NODE_MAC, "up", &address]
            && [0, 1].map(|card| node.pointer(&format!("/cards/{card}/mtu")).and_then(Value::as_u64))
                == [Some(1500), Some(u64::from(LONG_MTU))],
        "the node says {node}"
    );
    let volume = format!("iscsi://{HOST}/{}/1", target_name(1));
    let iscsi = format!("{{ volume = \"{volume}\", portal = [\"{SECOND_HOST}\"] }}");
    let more = format!("disk = [ \"aoe:e11.1,ro\", \"aoe:e11.2,rw\", {iscsi} ]");
    let job = format!("seconds={SECONDS}");
    let guest =
        Description { name: "writer", memory_mib: 384, job: &job, more: &more, ..Description::default() };
    world.test_guest(&files, &guest)?;
    world.wait_for_console("writer", "TEST writing", WRITING_LIMIT)?;
    let began = Instant::now();
    for (tap, seconds) in [(SECOND_TAP, 1), ("tap0", 4), (SECOND_TAP, 4), ("tap0", 1)] {
        wait_for_paths(&world.operator)?;
        world.lab.set_link_of(tap, false)?;
        sleep(Duration::from_secs(seconds));
        if tap == SECOND_TAP && seconds > 2 {
            let paths = paths(&world.operator)?;
            // The first disk is idle: its path is missed when it is next used.
            ensure!(
                paths.iter().filter(|path| path.is_lost()).count() >= 2,
                "the paths of the card without a cable are not lost: {paths:?}"
            );
        }
        world.lab.set_link_of(tap, true)?;
    }
    wait_for_paths(&world.operator)?;
    reports_link_down(&world)?;
    for path in paths(&world.operator)?.iter().filter(|path| !path.volume.starts_with("aoe:e11.1")) {
        println!("  {} by {}: wrote {} KiB", path.volume, path.card, path.written >> 10);
        ensure!(path.written >= WRITTEN_BYTES_MIN, "hardly anything was written by {path:?}");
    }
    println!("  five cuts took {} s", began.elapsed().as_secs());
    ensure!(began.elapsed() < Duration::from_secs(SECONDS), "fio ended before the last cut was healed");
    world.wait_for_console("writer", "TEST all finished", Duration::from_secs(SECONDS) + FINISH_LIMIT)?;
    ensure!(world.lab.is_healthy(), "a service of the lab has died");
    check(&world.operator.run(&["console", "writer", "--once"])?)
}

/// The card reports that its link is down: nothing waits until that is missed.
fn reports_link_down(world: &World) -> Result<()> {
    let mut monitor = Monitor::connect(&monitor(&world.directory))?;
    monitor.command_with("set_link", json!({ "name": "second", "up": false }))?;
    sleep(Duration::from_millis(500));
    let (node, paths) = (world.operator.json(&["node", "info"])?, paths(&world.operator)?);
    ensure!(
        paths.iter().filter(|path| path.is_lost()).count() == 3
            && node.pointer("/cards/1/state").is_some_and(|state| state == "down"),
        "the link is down: {paths:?} {node}"
    );
    monitor.command_with("set_link", json!({ "name": "second", "up": true }))?;
    wait_for_paths(&world.operator)
}

/// The guest's final report.
fn check(shown: &str) -> Result<()> {
    for said in finished(shown)? {
        for slowest in [said.slowest_read_us, said.slowest_write_us] {
            ensure!(
                slowest.is_some_and(|slowest| slowest <= FAILOVER_LIMIT_US),
                "a request of {} took longer than 3 s, or was not recorded: {slowest:?} us",
                said.disk
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_request_is_seen() {
        let line = |disk: &str| {
            format!(
                "TEST finished {disk} code 0 errors 0 wrote_kib 20000 read_kib 19000 \
                 slowest_read_us 900000 slowest_write_us 1500000\n"
            )
        };
        let good = [&line("vdb"), &line("vdc"), "TEST all finished, kernel errors 0\n"].concat();
        assert!(check(&good).is_ok());
        for (from, to) in [
            ("slowest_read_us 900000", "slowest_read_us 3000001"),
            ("slowest_write_us 1500000", "slowest_write_us 4000000"),
            ("slowest_write_us 1500000", "slowest_write_us "),
            ("code 0", "code 1"),
            ("kernel errors 0", "kernel errors 1"),
        ] {
            assert!(check(&good.replace(from, to)).is_err(), "{to}");
        }
    }
}
