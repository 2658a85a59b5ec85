//! What a node must refuse, and say why; and that the image starts as a kernel. Beside that
//! a machine behind a link that takes short packets only: a guest's disk, and an operator.

use super::directory;
use crate::lab::{FAR, HOST, NODE};
use crate::machine::{Boot, CPUS, Shape, command_from_disk, command_of_giant};
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
const LOADER_LIMIT: Duration = Duration::from_secs(40);
const GUEST_LIMIT: Duration = Duration::from_secs(90);
/// Octets of the longest packets that pass to the machine far away.
const NARROW_BYTES: u16 = 1400;

/// Boots the image as a kernel and compares its digest; then asks for what cannot
/// be, one thing after the other, and looks at code and message of each refusal.
pub(super) fn kernel_boot_and_refusals() -> Result<()> {
    let built = build(false)?;
    let files = find(&target(), Flavour::Cloud)?;
    let directory = directory("refusals");
    let shape = Shape { cpus: CPUS, memory_mib: 1024, boot: Boot::Kernel(built.image.path.clone()) };
    let (disk, far_disk) = (directory.join("disk.img"), directory.join("far.img"));
    let world = World::start(&built, &directory, &shape, |lab| {
        std::fs::File::create(&disk)?.set_len(16 << 20)?;
        std::fs::File::create(&far_disk)?.set_len(16 << 20)?;
        lab.export_aoe(1, 1, &disk)?;
        lab.export_iscsi(1, &target_name(1), &disk)?;
        lab.add_far_machine(NARROW_BYTES)?;
        lab.export_far_iscsi(&target_name(2), &far_disk)
    })?;
    world.operator.wait_for_node(NODE_LIMIT).with_context(|| world.machine.serial_text())?;
    let facts = world.operator.json(&["node", "info"])?;
    let file = run(Command::new("sha256sum").arg(&built.image.path))?;
    let digest =
        facts.get("image_sha256").and_then(|digest| digest.as_str()).context("no digest in node info")?;
    ensure!(file.starts_with(digest), "node info reports {digest}, the file is {file}");

    let key = facts.get("node_key").and_then(|key| key.as_str()).context("no key in node info")?;
    let serial = world.machine.serial_text();
    ensure!(serial.contains(key) && serial.contains("SHA256:"), "the serial port shows no key: {serial}");

    wrong_loader(&built.image.path, &directory)?;
    beyond_all_bounds(&built.image.path, &directory)?;
    vm_files(&world, &files)?;
    missing_volumes(&world, &files)?;
    let controller = format!("iscsi://{HOST}/{}/0", target_name(1));
    let answer = world.operator.try_run(&["storage", "probe", &controller])?;
    let words = "a storage array controller (device type 0Ch), no disk; units there are: 0 1";
    expect("iSCSI unit that is no disk", &answer, 9, &[&controller, words])?;
    conflicts(&world, &files)?;
    wrong_key(&world, &built.cli)?;
    // After all this the node does its work.
    world.wait_for_console("first", "TEST disk agrees", GUEST_LIMIT)?;
    over_a_narrow_link(&world, &files)?;
    world.operator.run(&["destroy", "far"])?;
    let facts = world.operator.json(&["node", "info"])?;
    ensure!(facts.get("dom0_starts").and_then(serde_json::Value::as_u64) == Some(1), "dom0 failed: {facts}");
    let guests = world.operator.json(&["list"])?;
    ensure!(guests.as_array().map(Vec::len) == Some(1), "other guests than the one created: {guests}");
    Ok(())
}

/// A boot sector that does what a PXE ROM does with a network boot program: it is read to
/// 0000:7c00, here its first 32 KiB from the sectors that follow, and jumped to.
const LIKE_PXE: [u8; 62] = [
    0xfa, 0xfc, // cli; cld
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, // xor ax, ax; mov ds, es and ss, ax
    0xbc, 0x00, 0x60, // mov sp, 0x6000
    0xbe, 0x00, 0x7c, 0xbf, 0x00, 0x06, 0xb9, 0x00, 0x01, // mov si, 0x7c00; di, 0x600; cx, 256
    0xf3, 0xa5, 0xea, 0x1d, 0x06, 0x00, 0x00, // rep movsw; jmp 0:0x61d
    0xbe, 0x2e, 0x06, 0xb4, 0x42, 0xcd, 0x13, // mov si, 0x62e; mov ah, 0x42; int 0x13
    0xbb, 0x34, 0x12, // mov bx, 0x1234
    0xea, 0x00, 0x7c, 0x00, 0x00, 0x90, 0x90, // jmp 0:0x7c00
    0x10, 0x00, 0x40, 0x00, 0x00, 0x7c, 0x00, 0x00, 0x01, 0, 0, 0, 0, 0, 0, 0, // 64 sectors from 1
];

/// A firmware that takes the file for a disk, or for a network boot program, gets a sentence
/// on the serial port.
fn wrong_loader(image: &Path, directory: &Path) -> Result<()> {
    let program = directory.join("network-boot.img");
    let mut sector = LIKE_PXE.to_vec();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector.extend(std::fs::read(image)?);
    std::fs::write(&program, &sector)?;
    for (what, file) in [("disk", image), ("network boot program", &program)] {
        let serial = directory.join(format!("{what}-serial.log"));
        let log = directory.join(format!("{what}.log"));
        let _machine = Process::start(&mut command_from_disk(file, &serial), &log)?;
        let text = serial_says(&serial, &["as a Linux kernel is", "network boot program."])?;
        println!("  as a {what}: {}", text.trim());
    }
    Ok(())
}

/// A machine with more processors and memory than the image drives: it says what stays unused.
fn beyond_all_bounds(image: &Path, directory: &Path) -> Result<()> {
    let serial = directory.join("large-serial.log");
    let _machine = Process::start(&mut command_of_giant(image, &serial), &directory.join("large.log"))?;
    let unused =
        ["MiB stay unused, above 512 GiB", "2 CPUs stay unused, this version drives 64", "dom0 on its own"];
    let text = serial_says(&serial, &unused)?;
    text.lines().filter(|line| line.contains("stay unused")).for_each(|line| println!("  {line}"));
    Ok(())
}

/// Waits until a serial port has said all of it; what it said.
fn serial_says(serial: &Path, words: &[&str]) -> Result<String> {
    let deadline = Instant::now() + LOADER_LIMIT;
    loop {
        let text = String::from_utf8_lossy(&std::fs::read(serial).unwrap_or_default()).into_owned();
        if words.iter().all(|word| text.contains(word)) {
            return Ok(text);
        }
        ensure!(Instant::now() < deadline, "the image says no {words:?}: {text:?}");
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

/// Each is given up after the same time, so all are asked for at once: as many as one key may
/// have sessions.
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

/// An operator and a target far away, whose link takes short packets only; blocks there are
/// of 4,096 octets.
fn over_a_narrow_link(world: &World, files: &TestGuest) -> Result<()> {
    let told =
        |peer: &str| format!("packets to {peer} are of {NARROW_BYTES} octets at most: a router says so");
    let more = format!("disk = [ \"iscsi://{}/{}/1,rw\" ]", FAR[1], target_name(2));
    let job = "job=disk talks=1";
    let far = Description { name: "far", number: 9, job, more: &more, ..Description::default() };
    world.test_guest(files, &far)?;
    world.wait_for_console("far", "TEST disk agrees", GUEST_LIMIT)?;
    let question = ["--timeout", "10", "console", "far", "--once"];
    let near = world.operator.run(&question)?;
    ensure!(near.contains("TEST disk blocks 4096"), "the guest has other blocks: {near}");
    ensure!(near.len() > 4 * usize::from(NARROW_BYTES), "too short to be cut: {near}");
    let asked = Instant::now();
    let command = world.operator.command(&question);
    let shown = run(&mut world.lab.in_far_machine(&command)).context("an operator far away")?;
    println!("  far away, {} bytes of a console come in {} ms", shown.len(), asked.elapsed().as_millis());
    ensure!(shown == near, "another console far away: {shown}");
    let log = world.operator.run(&["node", "log"])?;
    for peer in FAR {
        let lines = log.matches(&told(peer)).count();
        ensure!(lines == 1, "{lines} lines tell of the path to {peer}: {log}");
    }
    let facts = world.operator.json(&["node", "info"])?;
    let shortened = facts.get("paths_shortened").and_then(serde_json::Value::as_u64);
    ensure!(shortened == Some(2), "{shortened:?} paths were shortened: {facts}");
    println!("  far away, a disk with blocks of 4096 octets agrees");
    Ok(())
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
