//! From `create` to a guest's first instruction and to its first program.
//!
//! The node reports when it accepted a guest and when its first vCPU ran. The images
//! are on the node already. When the first program ran is seen on the console.

use super::figure::{Table, as_f64, milliseconds, number};
use super::load::USER_SPACE;
use super::tiny;
use crate::operator::Operator;
use crate::test_guest::{Description, TestGuest};
use crate::world::World;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// Guests of each kind.
const RUNS: usize = 5;
/// Guests whose programs are waited for.
const USER_SPACE_RUNS: usize = 3;
/// How long a guest may take to run its first program.
const LIMIT: Duration = Duration::from_secs(60);

/// Measures guests without a disk and with one of each protocol, and one whose
/// kernel is a few bytes.
///
/// # Errors
/// When a guest is refused or does not start.
pub fn measure(table: &mut Table, world: &World, files: &TestGuest, aoe: &str, iscsi: &str) -> Result<()> {
    let tiny = tiny_vm_file(&world.directory)?;
    let mut files_of = vec![("tiny kernel, no disk", tiny)];
    for (what, disk) in
        [("Linux, no disk", None), ("Linux, AoE disk", Some(aoe)), ("Linux, iSCSI disk", Some(iscsi))]
    {
        let more = disk.map_or_else(String::new, |disk| format!("disk = [ \"{disk},ro\" ]"));
        let name = format!("start-{}", files_of.len());
        files_of.push((what, world.test_guest_file(files, &describe(&name, &more))?));
    }
    for (what, path) in &files_of {
        let mut times = Vec::new();
        // The first sends the images.
        for run in 0..=RUNS {
            let time = first_instruction(&world.operator, path)?;
            if run > 0 {
                times.push(time);
            }
        }
        table.add_samples(&format!("create to first guest instruction, {what}"), times, "ms");
    }
    let bytes = std::fs::metadata(&files.kernel)?.len() + std::fs::metadata(&files.initrd)?.len();
    table.add("kernel and initramfs of these guests", as_f64(bytes), "bytes");
    let (mut times, mut exits) = (Vec::new(), Vec::new());
    for _ in 0..USER_SPACE_RUNS {
        times.push(user_space(world, files)?);
        exits.push(as_f64(number(&world.operator.json(&["info", "start"])?, "exits")?));
        world.operator.run(&["destroy", "start"])?;
    }
    table.add_samples("exits of a guest until user space, Linux, no disk", exits, "count");
    table.add_samples("create to guest user space, Linux, no disk", times, "ms");
    Ok(())
}

/// Writes the VM file of a guest whose kernel is a few bytes.
///
/// # Errors
/// When it cannot be written.
pub fn tiny_vm_file(directory: &Path) -> Result<PathBuf> {
    let kernel = directory.join("tiny.elf");
    std::fs::write(&kernel, tiny::kernel())?;
    let text = format!("name = \"tiny\"\nmemory = 128\nkernel = \"{}\"\n", kernel.display());
    let path = directory.join("tiny.vm");
    std::fs::write(&path, text)?;
    Ok(path)
}

/// Creates and destroys a guest; returns the milliseconds from its acceptance to
/// its first instruction.
///
/// # Errors
/// When it is refused or does not run.
pub fn first_instruction(operator: &Operator, file: &Path) -> Result<f64> {
    let name = file.file_stem().context("no file")?.to_string_lossy().into_owned();
    operator.run(&["create", &file.display().to_string()])?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let list = operator.json(&["list"])?;
        let mut guests = list.as_array().context("no list of guests")?.iter();
        let guest = guests.find(|guest| guest.get("name").and_then(Value::as_str) == Some(&name));
        let guest = guest.context("the guest is gone")?;
        let first = number(guest, "first_run_ns")?;
        if first > 0 {
            operator.run(&["destroy", &name])?;
            return Ok(milliseconds(first.saturating_sub(number(guest, "created_ns")?)));
        }
        ensure!(Instant::now() < deadline, "{name} does not run");
    }
}

fn describe<'a>(name: &'a str, more: &'a str) -> Description<'a> {
    Description { name, number: 15, memory_mib: 128, job: "console=ttyS0", more, ..Description::default() }
}

/// Milliseconds from the command to the first line of the first program.
fn user_space(world: &World, files: &TestGuest) -> Result<f64> {
    let path = world.test_guest_file(files, &describe("start", ""))?;
    let began = Instant::now();
    let mut child = world
        .operator
        .command(&["create", "-c", &path.display().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run the CLI")?;
    let output = child.stdout.take().context("no output")?;
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(output).lines();
        let seen = lines.any(|line| line.is_ok_and(|line| line.contains(USER_SPACE)));
        let _ = sender.send(seen.then(|| began.elapsed()));
    });
    let time = receiver.recv_timeout(LIMIT);
    child.kill()?;
    child.wait()?;
    let time = time.ok().flatten().with_context(|| format!("the guest did not show {USER_SPACE:?}"))?;
    Ok(time.as_secs_f64() * 1e3)
}
