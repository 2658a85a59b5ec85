//! What reads and writes of a network disk cost a whole machine, in instructions: a node
//! with a guest, next to a Linux node with its own `iscsi_tcp` and `aoe`.
//!
//! Each machine is alone in a lab with the targets and has one CPU with `-icount`; every
//! instruction that it executes counts: the reader's kernel, and in the node's case also
//! the virtio driver of the guest, every exit, the hypervisor and dom0, which a Linux
//! node does without. What the node executes below its guest is counted by itself, too:
//! that is what a Linux node's drivers and TCP/IP stack are to be compared with, and still
//! the Linux node's whole is taken. More than one request at a time is one for each of
//! many threads; what it costs to switch between those counts on both sides.

use super::figure::{Table, as_f64};
use super::load::{PORT, Switchboard, Worker};
use super::machine_monitor::Monitor;
use crate::lab::{HOST, Lab, NODE, NODE_MAC, guest_address};
use crate::machine::{Boot, Shape, command_with};
use crate::operator::Operator;
use crate::process::{Process, run};
use crate::test_guest::TestGuest;
use crate::world::target_name;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Counts what is executed below the guest.
const PLUGIN: &str = include_str!("below_guest.c");
/// The exported disks' size.
const DISK_BYTES: u64 = 64 << 20;
/// Each protocol, the node's guest's disk, the Linux node's.
const DISKS: [(&str, &str, &str); 2] =
    [("iSCSI", "/dev/vda", "/dev/sda"), ("AoE", "/dev/vdb", "/dev/etherd/e11.1")];
/// The one CPU, and how it is counted: exactly, while what comes from outside is recorded.
const ACCELERATOR: [&str; 5] = ["-accel", "tcg,thread=single", "-cpu", "max", "-icount"];
/// What is done: words before and behind the device's name, with the number of requests
/// behind those.
struct Job {
    name: &'static str,
    before: &'static str,
    behind: fn(u64) -> String,
    /// A shorter and a longer run: their difference is free of what happens once.
    runs: [u64; 2],
    /// Blocks of 4 KiB of each request.
    blocks: u64,
}

const JOBS: [Job; 5] = [
    Job {
        name: "4 KiB random direct read",
        before: "random",
        behind: |count| format!("4096 {count} 7919"),
        runs: [100, 400],
        blocks: 1,
    },
    Job {
        name: "4 KiB of 1 MiB direct reads",
        before: "sequential",
        behind: |count| format!("1048576 {count}"),
        runs: [4, 16],
        blocks: 256,
    },
    Job {
        name: "4 KiB random direct write",
        before: "spread write",
        behind: |count| format!("4096 {count} 7919 1"),
        runs: [100, 400],
        blocks: 1,
    },
    Job {
        name: "4 KiB random direct read, 32 at a time",
        before: "spread read",
        behind: |count| format!("4096 {count} 7919 32"),
        runs: [320, 1280],
        blocks: 1,
    },
    Job {
        name: "4 KiB random direct write, 32 at a time",
        before: "spread write",
        behind: |count| format!("4096 {count} 7919 32"),
        runs: [320, 1280],
        blocks: 1,
    },
];
/// How long a counted machine may take for anything.
const LIMIT: Duration = Duration::from_secs(240);

/// What is needed.
#[derive(Debug)]
pub struct Counted<'a> {
    /// The node's image.
    pub image: &'a Path,
    /// The CLI.
    pub cli: &'a Path,
    /// The operator's key.
    pub identity: &'a Path,
    /// A guest with the load generator.
    pub guest: &'a TestGuest,
    /// A Linux node with it.
    pub linux: &'a TestGuest,
    /// QEMU's plugin that counts below the guest.
    pub plugin: &'a Path,
    /// Where logs go.
    pub directory: &'a Path,
}

/// A machine that is counted.
struct Machine {
    _process: Process,
    monitor: Monitor,
    serial: PathBuf,
    /// Where the plugin counts, if it does.
    below: Option<PathBuf>,
}

/// Instructions.
#[derive(Clone, Copy, Debug)]
struct Cost {
    /// The machine's.
    whole: u64,
    /// Those of hypervisor and dom0.
    below: u64,
}

/// Builds the plugin.
///
/// # Errors
/// When the compiler fails.
pub fn prepare(target: &Path) -> Result<PathBuf> {
    let directory = target.join("counted");
    std::fs::create_dir_all(&directory)?;
    let (source, plugin) = (directory.join("below_guest.c"), directory.join("below_guest.so"));
    std::fs::write(&source, PLUGIN)?;
    run(Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o"])
        .args([&plugin, &source]))
    .context("cannot build QEMU's plugin")?;
    Ok(plugin)
}

impl Counted<'_> {
    /// Measures both.
    ///
    /// # Errors
    /// When a machine does not start or its disk does not answer.
    pub fn measure(&self, table: &mut Table) -> Result<()> {
        let _ = std::fs::remove_dir_all(self.directory);
        let mut lab = Lab::start(self.directory, self.image)?;
        let bytes: Vec<u8> = (0..DISK_BYTES / 8).flat_map(u64::to_le_bytes).collect();
        let (aoe, iscsi) = (self.directory.join("aoe.img"), self.directory.join("iscsi.img"));
        std::fs::write(&aoe, &bytes)?;
        std::fs::write(&iscsi, &bytes)?;
        lab.export_aoe(11, 1, &aoe)?;
        lab.export_iscsi(1, &target_name(1), &iscsi)?;
        let switchboard = Switchboard::open()?;
        let theirs = self.linux(&switchboard)?;
        let mine = self.node(&switchboard)?;
        for ((protocol, ..), (mine, theirs)) in DISKS.iter().zip(mine.into_iter().zip(theirs)) {
            for (job, (mine, theirs)) in JOBS.iter().zip(mine.into_iter().zip(theirs)) {
                let name = format!("{protocol}, whole machine: {}, instructions", job.name);
                let [whole, below] = mine;
                let [linux, _] = theirs;
                table.add(&format!("{name}, guest of a node"), whole, "count");
                table.add(&format!("{name}, below the guest"), below, "count");
                table.add(&format!("{name}, Linux node itself"), linux, "count");
                table.add(&format!("{name}, guest / Linux"), whole / linux, "ratio");
                table.add(&format!("{name}, below the guest / Linux"), below / linux, "ratio");
            }
        }
        // The recordings are large.
        drop(lab);
        let _ = std::fs::remove_dir_all(self.directory);
        Ok(())
    }

    fn start(&self, name: &str, kernel: &Path, more: &[&str], plugin: bool) -> Result<Machine> {
        let path = |kind: &str| self.directory.join(format!("{name}.{kind}"));
        let (serial, monitor, counts) = (path("serial"), path("monitor"), path("counts"));
        let record = format!("shift=0,rr=record,rrfile={}", path("record").display());
        let accelerator: Vec<&str> = ACCELERATOR.into_iter().chain([record.as_str()]).collect();
        let shape = Shape { cpus: 1, memory_mib: 1024, boot: Boot::Kernel(kernel.to_path_buf()) };
        let mut command = command_with(&accelerator, &shape, "tap0", NODE_MAC, &serial);
        command
            .args(["-object", "filter-replay,id=replay,netdev=wire", "-qmp"])
            .arg(format!("unix:{},server,wait=off", monitor.display()))
            .args(more);
        if plugin {
            let plugin = format!("{},counts={}", self.plugin.display(), counts.display());
            command.args(["-plugin", &plugin]);
        }
        let process = Process::start(&mut command, &path("qemu"))?;
        let monitor = Monitor::connect(&monitor)?;
        Ok(Machine { _process: process, monitor, serial, below: plugin.then_some(counts) })
    }

    fn linux(&self, switchboard: &Switchboard) -> Result<Vec<Vec<[f64; 2]>>> {
        let target = target_name(1);
        let line = format!(
            "console=ttyS0 net.ifnames=0 quiet tsc=reliable worker=linux call={HOST}:{PORT} aoe=1 \
             portal={HOST} target={target}"
        );
        let initrd = self.linux.initrd.to_string_lossy().into_owned();
        let more = ["-initrd", &initrd, "-append", &line];
        let mut machine = self.start("linux", &self.linux.kernel, &more, false)?;
        let mut worker = switchboard.next(LIMIT).context("the Linux node does not call")?;
        DISKS.iter().map(|(_, _, disk)| machine.count(&mut worker, disk)).collect()
    }

    fn node(&self, switchboard: &Switchboard) -> Result<Vec<Vec<[f64; 2]>>> {
        let mut machine = self.start("node", self.image, &[], true)?;
        let deadline = Instant::now() + LIMIT;
        while !std::fs::read_to_string(&machine.serial).unwrap_or_default().contains("reachable at") {
            ensure!(Instant::now() < deadline, "the node is not reachable");
            std::thread::sleep(Duration::from_millis(20));
        }
        let operator = Operator::new(self.cli, self.identity, self.directory, NODE);
        let file = self.directory.join("load.vm");
        let (kernel, initrd) = (self.guest.kernel.display(), self.guest.initrd.display());
        let ((_, mac), target) = (guest_address(1), target_name(1));
        let text = format!(
            "name = \"load\"\nmemory = 256\nkernel = \"{kernel}\"\nramdisk = \"{initrd}\"\n\
             cmdline = \"console=hvc0 net.ifnames=0 quiet worker=guest call={HOST}:{PORT}\"\n\
             vif = [ \"mac={mac}\" ]\ndisk = [ \"iscsi://{HOST}/{target}/1,rw\", \"aoe:e11.1,rw\" ]\n"
        );
        std::fs::write(&file, text)?;
        operator.json(&["create", &file.to_string_lossy()])?;
        let mut worker = switchboard.next(LIMIT).context("the guest does not call")?;
        DISKS.iter().map(|(_, disk, _)| machine.count(&mut worker, disk)).collect()
    }
}

impl Machine {
    /// Instructions executed so far; the machine stands still afterwards.
    fn stop_and_count(&mut self) -> Result<Cost> {
        let whole = self.monitor.stop_and_count()?;
        let Some(below) = &self.below else { return Ok(Cost { whole, below: 0 }) };
        let bytes = std::fs::read(below)?;
        let (words, _) = bytes.as_chunks::<8>();
        Ok(Cost { whole, below: words.iter().map(|word| u64::from_le_bytes(*word)).sum() })
    }

    /// Instructions that one command costs.
    fn cost(&mut self, worker: &mut Worker, command: &str) -> Result<Cost> {
        let before = self.stop_and_count()?;
        self.monitor.command("cont")?;
        worker.run(command)?;
        let after = self.stop_and_count()?;
        self.monitor.command("cont")?;
        let (whole, below) =
            (after.whole.saturating_sub(before.whole), after.below.saturating_sub(before.below));
        Ok(Cost { whole, below })
    }

    /// Instructions of 4 KiB, for each job: all of them, and those below the guest.
    fn count(&mut self, worker: &mut Worker, path: &str) -> Result<Vec<[f64; 2]>> {
        worker.one(&format!("wait {path}"))?;
        let mut all = Vec::new();
        for Job { before, behind, runs: [fewer, more], blocks, .. } in &JOBS {
            let command = |count: u64| format!("{before} {path} {}", behind(count));
            // The first run fills caches.
            self.cost(worker, &command(*fewer))?;
            let short = self.cost(worker, &command(*fewer))?;
            let long = self.cost(worker, &command(*more))?;
            let requests = as_f64((more - fewer) * blocks);
            let each = |long: u64, short: u64| as_f64(long.saturating_sub(short)) / requests;
            all.push([each(long.whole, short.whole), each(long.below, short.below)]);
        }
        Ok(all)
    }
}
