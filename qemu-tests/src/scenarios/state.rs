//! Power cuts of a node that keeps its state: what was confirmed is there.

use super::directory;
use crate::lab::{Lab, NODE_MAC};
use crate::machine::{self, Boot, CPUS, Machine, Shape};
use crate::operator::Operator;
use crate::process::Process;
use crate::programs::target;
use crate::test_guest::{Description, Flavour, find};
use crate::world::{Built, World, build};
use anyhow::{Context, Result, bail, ensure};
use image_builder::dev::{DevImage, Options, build_image};
use image_builder::state::State;
use mgmt_proto::bundle::{self, Bundle, Grant, Scope};
use mgmt_proto::trust::Role;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The volume on the network, and the machine's own disk.
pub(super) const AOE: &str = "aoe:e9.0";
pub(super) const LOCAL: &str = "virtio:0";

const NODE_LIMIT: Duration = Duration::from_secs(60);
/// Bytes of the state volume: settings, and room for a kernel and an initrd.
const VOLUME_BYTES: u64 = 64 << 20;
/// Power cuts, unless the environment sets it.
const CUTS: u64 = 20;
const CUTS_VARIABLE: &str = "REDOUBT_POWER_CUTS";

/// An image whose node keeps its state on a volume.
pub(super) fn image(volume: &str) -> Result<DevImage> {
    let name = format!("state-{}.img", volume.split(':').next().unwrap_or_default());
    let out = Some(target().join("image").join(name));
    build_image(&Options { out, state: Some(State::Name(volume.into())), ..Options::default() })
}

/// What was confirmed, and what was asked for and may be so.
#[derive(Default)]
struct Reported {
    serial: u64,
    asked_serial: u64,
    orders: BTreeMap<String, Option<u64>>,
    asked: Option<(String, Option<u64>)>,
}

/// How often the power goes, in both scenarios together.
fn cuts() -> u64 {
    std::env::var(CUTS_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(CUTS)
}

/// Cuts a node's power again and again while it is told to persist things on a volume of
/// the network.
pub(super) fn state_outlives_power_cuts() -> Result<()> {
    cut_again_and_again("state", AOE, cuts() - cuts() / 3)
}

/// The same with a disk of the machine.
pub(super) fn state_outlives_power_cuts_on_a_local_disk() -> Result<()> {
    cut_again_and_again("state-local", LOCAL, cuts() / 3)
}

/// Switches the machine on, with the state volume as its disk if it is that.
fn switch_on(shape: &Shape, directory: &Path, volume: &str, disk: &Path) -> Result<Machine> {
    let serial = directory.join("serial.log");
    let mut command = machine::command(shape, "tap0", NODE_MAC, &serial);
    if volume == LOCAL {
        command
            .args(["-drive", &format!("file={},format=raw,if=none,id=state", disk.display())])
            .args(["-device", "virtio-blk-pci,drive=state"]);
    }
    let started = Instant::now();
    let process = Process::start(&mut command, &directory.join("qemu.log"))?;
    Ok(Machine { process, started, serial })
}

fn cut_again_and_again(name: &str, volume: &str, cuts: u64) -> Result<()> {
    let built = Built { image: image(volume)?, ..build(false)? };
    let files = find(&target(), Flavour::Cloud)?;
    let directory = directory(name);
    let shape = Shape { cpus: CPUS, memory_mib: 768, boot: Boot::Kernel(built.image.path.clone()) };
    let disk = directory.join("state.img");
    let mut world = World::start(&built, &directory, &shape, |lab: &mut Lab| {
        std::fs::File::create(&disk)?.set_len(VOLUME_BYTES)?;
        if volume == AOE { lab.export_aoe(9, 0, &disk) } else { Ok(()) }
    })?;
    world.machine.process.kill();
    world.machine = switch_on(&shape, &directory, volume, &disk)?;
    wait(&world)?;
    let key = node_key(&world.operator)?;
    let mut reported = Reported::default();
    for (number, name) in [(1, "one"), (2, "two")] {
        let more = format!("autostart = {number}");
        let guest = Description { name, number, memory_mib: 96, more: &more, ..Description::default() };
        world.test_guest(&files, &guest)?;
        reported.orders.insert(name.into(), Some(u64::from(number)));
    }
    let again = Description { name: "two", number: 2, memory_mib: 96, ..Description::default() };
    let file = world.test_guest_file(&files, &again)?;
    for cut in 0..cuts {
        work(&mut world, &built.image, &mut reported, &file, cut)?;
        world.machine = switch_on(&shape, &directory, volume, &disk)?;
        wait(&world)?;
        let took = world.machine.started.elapsed().as_secs_f64();
        ensure!(node_key(&world.operator)? == key, "cut {cut}: the node has another key");
        check(&world, &mut reported, cut)?;
        println!("  {volume}: cut {cut}: all is there, heard after {took:.1} s, bundle {}", reported.serial);
    }
    let report = world.operator.run(&["audit", "verify"])?;
    ensure!(report.contains("intact"), "the audit log: {report}");
    let bytes = std::fs::read(&disk)?;
    for secret in [&b"net.ifnames=0 quiet job=idle"[..], b"serial-1"] {
        ensure!(
            !bytes.windows(secret.len()).any(|part| part == secret),
            "settings are readable on the volume"
        );
    }
    Ok(())
}

fn wait(world: &World) -> Result<()> {
    world.operator.wait_for_node(NODE_LIMIT).map(|_| ()).with_context(|| world.machine.serial_text())
}

fn node_key(operator: &Operator) -> Result<String> {
    let facts = operator.json(&["node", "info"])?;
    Ok(facts.get("node_key").and_then(Value::as_str).context("no key in node info")?.to_string())
}

/// A bundle for the one operator, signed by the owner.
fn write_bundle(image: &DevImage, serial: u64, path: &Path) -> Result<()> {
    let owner = keys::secret::load(&image.owner_key_path)?;
    let admin = keys::secret::load(&image.operator_key_path)?;
    let bundle = Bundle {
        version: bundle::VERSION,
        serial,
        issued_s: 1,
        roots: vec![owner.verifying_key().to_bytes()],
        threshold: 1,
        grants: vec![Grant {
            key: admin.verifying_key().to_bytes(),
            role: Role::Admin,
            nodes: Scope::All,
            guests: Scope::All,
            not_before_s: 0,
            not_after_s: 0,
            name: format!("serial-{serial}"),
        }],
        revoked: Vec::new(),
        card_grants: Vec::new(),
    };
    std::fs::write(path, bundle.sign(&[&owner]).context("the bundle is unsound")?)?;
    Ok(())
}

/// Commands, one after the other, until the power goes at a moment of its own: before,
/// amid or after one.
fn work(world: &mut World, image: &DevImage, reported: &mut Reported, file: &Path, cut: u64) -> Result<()> {
    let path = world.directory.join("next.bundle");
    let file = file.display().to_string();
    let delay = Duration::from_millis(20 + cut * 97 % 700);
    let end = Instant::now() + delay;
    let mut step = cut;
    loop {
        step += 1;
        let order = (step % 7 + 1).to_string();
        let bundle = path.display().to_string();
        reported.asked = None;
        let arguments: Vec<&str> = match step % 4 {
            0 | 2 => {
                reported.asked_serial = reported.serial + 1;
                write_bundle(image, reported.asked_serial, &path)?;
                vec!["key", "bundle", "push", &bundle]
            }
            1 => {
                reported.asked = Some(("one".into(), order.parse().ok()));
                vec!["autostart", "one", "on", "--order", &order]
            }
            _ if reported.orders.get("two").is_some_and(Option::is_some) => {
                reported.asked = Some(("two".into(), None));
                vec!["autostart", "two", "off"]
            }
            _ => {
                reported.asked = Some(("two".into(), order.parse().ok()));
                vec!["autostart", "two", "on", "--order", &order]
            }
        };
        let mut command = world.operator.command(&arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if Instant::now() >= end {
                break None;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let Some(status) = status else {
            world.machine.process.kill();
            // It may have had its answer all the same: both are right then.
            let _ = child.kill();
            child.wait()?;
            return Ok(());
        };
        if !status.success() && reported.asked.as_ref().is_some_and(|(name, _)| name == "two") {
            // It does not run since it was not to start with the node: it is made again.
            let answer = world.operator.try_run(&["create", &file])?;
            ensure!(answer.code == 0, "create of two: {}", answer.error);
            continue;
        }
        ensure!(status.success(), "{arguments:?} was refused with {status}");
        if let Some((name, order)) = reported.asked.take() {
            reported.orders.insert(name, order);
        }
        reported.serial = reported.serial.max(reported.asked_serial);
        if Instant::now() >= end {
            world.machine.process.kill();
            return Ok(());
        }
    }
}

/// What was confirmed is there; what was asked for may be.
fn check(world: &World, reported: &mut Reported, cut: u64) -> Result<()> {
    let state = world.operator.json(&["node", "state"])?;
    let word = |key: &str| state.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
    let number = |key: &str| state.get(key).and_then(Value::as_u64).unwrap_or_default();
    ensure!(word("condition") == "kept", "cut {cut}: {state}");
    let serial = number("trust_serial");
    ensure!(
        (reported.serial..=reported.asked_serial.max(reported.serial)).contains(&serial),
        "cut {cut}: bundle {serial}, {} was confirmed",
        reported.serial
    );
    (reported.serial, reported.asked_serial) = (serial, serial);
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    for guest in state.get("guests").and_then(Value::as_array).into_iter().flatten() {
        let name = guest.get("name").and_then(Value::as_str).unwrap_or_default();
        ensure!(guest.get("problem").is_none_or(Value::is_null), "cut {cut}: {guest}");
        found.insert(name.into(), guest.get("order").and_then(Value::as_u64).unwrap_or_default());
    }
    let asked = reported.asked.take();
    for name in ["one", "two"] {
        let (there, confirmed) = (found.get(name).copied(), reported.orders.get(name).copied().flatten());
        let may_be = asked.as_ref().filter(|(asked, _)| asked == name).map(|(_, order)| *order);
        ensure!(
            there == confirmed || Some(there) == may_be,
            "cut {cut}: {name} has the order {there:?}, {confirmed:?} was confirmed"
        );
        reported.orders.insert(name.into(), there);
    }
    // Those and no others start.
    let deadline = Instant::now() + NODE_LIMIT;
    loop {
        let list = world.operator.json(&["list"])?;
        let running: Vec<&str> = list
            .as_array()
            .into_iter()
            .flatten()
            .filter(|guest| guest.get("id").and_then(Value::as_u64).is_some_and(|id| id != 0))
            .filter_map(|guest| guest.get("name").and_then(Value::as_str))
            .collect();
        ensure!(running.iter().all(|name| found.contains_key(*name)), "cut {cut}: {list}");
        if running.len() == found.len() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("cut {cut}: of {found:?} only {running:?} start: {}", world.machine.serial_text());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
