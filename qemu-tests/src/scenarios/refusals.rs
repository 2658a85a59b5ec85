//! What a node must refuse, and say why; and that the image starts as a kernel.

use super::directory;
use crate::lab::{HOST, NODE};
use crate::machine::{Boot, CPUS, Shape, command_from_disk};
use crate::operator::{Answer, Operator};
use crate::process::{Process, run};
use crate::programs::target;
use crate::test_guest::{Description, Flavour, TestGuest, find};
use crate::world::{World, build, target_name};
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const NODE_LIMIT: Duration = Duration::from_secs(60);
const LOADER_LIMIT: Duration = Duration::from_secs(20);
const GUEST_LIMIT: Duration = Duration::from_secs(90);

/// Boots the image as a kernel and compares its digest; then asks for what cannot
/// be, one thing after the other, and looks at code and message of each refusal.
pub(super) fn kernel_boot_and_refusals() -> Result<()> {
    let built = build(false)?;
    let files = find(&target(), Flavour::Cloud)?;
    let directory = directory("refusals");
    let shape = Shape { cpus: CPUS, memory_mib: 1024, boot: Boot::Kernel(built.image.path.clone()) };
    let disk = directory.join("disk.img");
    let world = World::start(&built, &directory, &shape, |lab| {
        std::fs::File::create(&disk)?.set_len(16 << 20)?;
        lab.export_aoe(1, 1, &disk)?;
        lab.export_iscsi(1, &target_name(1), &disk)
    })?;
    world.operator.wait_for_node(NODE_LIMIT).with_context(|| world.machine.serial_text())?;
    let facts = world.operator.json(&["node", "info"])?;
    let file = run(Command::new("sha256sum").arg(&built.image.path))?;
    let digest =
        facts.get("image_sha256").and_then(|digest| digest.as_str()).context("no digest in node info")?;
    ensure!(file.starts_with(digest), "node info reports {digest}, the file is {file}");

    wrong_loader(&built.image.path, &directory)?;
    vm_files(&world, &files)?;
    missing_volumes(&world, &files)?;
    conflicts(&world, &files)?;
    wrong_key(&world, &built.cli)?;
    // After all this the node does its work.
    world.wait_for_console("first", "TEST disk agrees", GUEST_LIMIT)?;
    let facts = world.operator.json(&["node", "info"])?;
    ensure!(facts.get("dom0_starts").and_then(serde_json::Value::as_u64) == Some(1), "dom0 failed: {facts}");
    let guests = world.operator.json(&["list"])?;
    ensure!(guests.as_array().map(Vec::len) == Some(1), "other guests than the one created: {guests}");
    Ok(())
}

/// A firmware that takes the file for a disk gets a sentence on the serial port.
fn wrong_loader(image: &Path, directory: &Path) -> Result<()> {
    let serial = directory.join("disk-serial.log");
    let _machine = Process::start(&mut command_from_disk(image, &serial), &directory.join("disk.log"))?;
    let deadline = Instant::now() + LOADER_LIMIT;
    loop {
        let text = std::fs::read(&serial).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        if text.contains("as a Linux kernel is") && text.contains("network boot program.") {
            println!("  as a disk: {}", text.trim());
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "started as a disk, the image says: {text:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Requires an exit code and words of the message.
fn expect(what: &str, answer: &Answer, code: i32, words: &[&str]) -> Result<()> {
    let shown = answer.error.trim();
    ensure!(answer.code == code, "{what}: exit code {} instead of {code}: {shown}", answer.code);
    for word in words {
        ensure!(shown.contains(word), "{what}: the message has no {word:?}: {shown}");
    }
    println!("  {what}: exit {code}: {shown}");
    Ok(())
}

fn vm_files(world: &World, files: &TestGuest) -> Result<()> {
    let refused = |more| Description { name: "refused", more, ..Description::default() };
    let answer = world.try_test_guest(files, &refused("memroy = 5"))?;
    expect("unknown key", &answer, 2, &["memroy", "did you mean memory?", "line"])?;
    let no_kernel = TestGuest { kernel: files.initrd.clone(), initrd: files.initrd.clone() };
    let answer = world.try_test_guest(&no_kernel, &refused(""))?;
    expect("no kernel", &answer, 2, &["refused", "kernel"])?;
    let large = Description { memory_mib: 64 << 10, ..refused("") };
    expect("too much memory", &world.try_test_guest(files, &large)?, 11, &["65536 MiB", "free"])?;
    // Also for the kernel that the CLI unpacks.
    let small = Description { memory_mib: 48, ..refused("") };
    let answer = world.try_test_guest(files, &small)?;
    expect("too little memory for this kernel", &answer, 11, &["48 MiB", "need"])
}

/// Each is given up after the same time, so all are asked for at once.
fn missing_volumes(world: &World, files: &TestGuest) -> Result<()> {
    let target = target_name(1);
    let cases = [
        ("missing AoE target", "aoe:e9.9".to_string(), ["aoe:e9.9", "no target answers"]),
        (
            "missing iSCSI target",
            format!("iscsi://{HOST}/iqn.2026-11.lab.redoubt:nothing/1"),
            ["nothing", "login refused"],
        ),
        (
            "missing iSCSI unit",
            format!("iscsi://{HOST}/{target}/7"),
            [&target, "has no logical unit 7; units there are: 0 1"],
        ),
        ("missing iSCSI portal", format!("iscsi://{HOST}:3999/{target}/1"), ["3999", "portal"]),
    ];
    std::thread::scope(|scope| {
        let asked: Vec<_> = (2_u8..)
            .zip(&cases)
            .map(|(number, (what, volume, words))| {
                scope.spawn(move || {
                    let name = format!("refused{number}");
                    let more = format!("disk = [ \"{volume}\" ]");
                    let guest = Description {
                        name: &name,
                        number,
                        memory_mib: 128,
                        more: &more,
                        ..Description::default()
                    };
                    expect(what, &world.try_test_guest(files, &guest)?, 9, words)
                })
            })
            .collect();
        asked.into_iter().try_for_each(|asked| match asked.join() {
            Ok(result) => result,
            Err(_) => bail!("a thread failed"),
        })
    })
}

fn conflicts(world: &World, files: &TestGuest) -> Result<()> {
    let first = Description {
        name: "first",
        job: "job=disk",
        more: "disk = [ \"aoe:e1.1\" ]",
        ..Description::default()
    };
    world.test_guest(files, &first)?;
    let answer = world.try_test_guest(files, &Description { number: 2, more: "", ..first.clone() })?;
    expect("duplicate name", &answer, 4, &["first"])?;
    let answer = world.try_test_guest(files, &Description { name: "second", more: "", ..first.clone() })?;
    expect("duplicate MAC", &answer, 4, &["second", "first", "MAC"])?;
    let answer = world.try_test_guest(files, &Description { name: "second", number: 2, ..first })?;
    expect("volume in use", &answer, 4, &["first", "aoe:e1.1"])?;
    expect("no such guest", &world.operator.try_run(&["pause", "nobody"])?, 3, &["nobody"])
}

/// A stranger's key gets no answer, and no effect.
fn wrong_key(world: &World, cli: &Path) -> Result<()> {
    let home = world.directory.join("stranger");
    std::fs::create_dir_all(&home)?;
    let stranger = Operator::new(cli, &home.join("operator.key"), &home, NODE);
    stranger.run(&["key", "init", "--dir", &home.display().to_string()])?;
    for command in [vec!["list"], vec!["destroy", "first"], vec!["node", "poweroff"]] {
        let answer = stranger.try_run(&command)?;
        expect("a stranger's key", &answer, 5, &["without a word"])?;
    }
    Ok(())
}
