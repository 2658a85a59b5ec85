//! What reads and writes of an iSCSI disk cost a whole machine, in instructions: a node
//! with a guest, next to a Linux node with its own `iscsi_tcp`.
//!
//! Each machine is alone, has one CPU with `-icount` and QEMU's own network, behind
//! which tgt serves the disk; every instruction that it executes counts: the reader's
//! kernel, and in the node's case also the virtio driver of the guest, every exit, the
//! hypervisor and dom0, which a Linux node does without. More than one request at a time
//! is one for each of many threads; what it costs to switch between those counts on both
//! sides. AoE is not in this: QEMU's own network carries IP only.

use super::figure::{Table, as_f64};
use super::initiators::{IQN, tgtd};
use super::load::{PORT, Switchboard, Worker};
use super::machine_monitor::Monitor;
use crate::lab::NODE_MAC;
use crate::operator::Operator;
use crate::process::{Process, run};
use crate::test_guest::TestGuest;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Where QEMU's own network has the workstation.
const WORKSTATION: &str = "10.0.2.2";
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
    /// Where logs go.
    pub directory: &'a Path,
}

struct Machine {
    _process: Process,
    monitor: Monitor,
    serial: PathBuf,
}

impl Counted<'_> {
    /// Measures both.
    ///
    /// # Errors
    /// When a machine does not start or its disk does not answer.
    pub fn measure(&self, table: &mut Table) -> Result<()> {
        let _ = std::fs::remove_dir_all(self.directory);
        std::fs::create_dir_all(self.directory)?;
        run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        let disk = self.directory.join("disk.img");
        let bytes: Vec<u8> = (0..(64u64 << 20) / 8).flat_map(u64::to_le_bytes).collect();
        std::fs::write(&disk, bytes)?;
        let _tgtd = tgtd(self.directory, &disk, "127.0.0.1")?;
        let switchboard = Switchboard::open_at("127.0.0.1")?;
        let (theirs, mine) = (self.linux(&switchboard)?, self.node(&switchboard)?);
        for (job, (mine, theirs)) in JOBS.iter().zip(mine.into_iter().zip(theirs)) {
            let name = format!("iSCSI, whole machine: {}, instructions", job.name);
            table.add(&format!("{name}, guest of a node"), mine, "count");
            table.add(&format!("{name}, Linux node itself"), theirs, "count");
            table.add(&format!("{name}, guest / Linux"), mine / theirs, "ratio");
        }
        Ok(())
    }

    fn start(&self, name: &str, kernel: &Path, more: &[&str], forward: &str) -> Result<Machine> {
        let path = |kind: &str| self.directory.join(format!("{name}.{kind}"));
        let (serial, monitor) = (path("serial"), path("monitor"));
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-machine", "q35", "-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-smp", "1", "-m", "1024", "-netdev", &format!("user,id=wire{forward}")])
            .args(["-device", &format!("virtio-net-pci,netdev=wire,mac={NODE_MAC},romfile=")])
            .arg("-serial")
            .arg(format!("file:{}", serial.display()))
            .arg("-qmp")
            .arg(format!("unix:{},server,wait=off", monitor.display()))
            .args(["-accel", "tcg,thread=single", "-cpu", "max", "-icount"])
            .arg(format!("shift=0,rr=record,rrfile={}", path("record").display()))
            .args(["-object", "filter-replay,id=replay,netdev=wire", "-kernel"])
            .arg(kernel)
            .args(more);
        let process = Process::start(&mut command, &path("qemu"))?;
        let monitor = Monitor::connect(&monitor)?;
        Ok(Machine { _process: process, monitor, serial })
    }

    fn linux(&self, switchboard: &Switchboard) -> Result<Vec<f64>> {
        let line = format!(
            "console=ttyS0 net.ifnames=0 quiet tsc=reliable worker=linux call={WORKSTATION}:{PORT} \
             portal={WORKSTATION} target={IQN}"
        );
        let initrd = self.linux.initrd.to_string_lossy().into_owned();
        let more = ["-initrd", &initrd, "-append", &line];
        let mut machine = self.start("linux", &self.linux.kernel, &more, "")?;
        let mut worker = switchboard.next(LIMIT).context("the Linux node does not call")?;
        machine.count(&mut worker, "/dev/sda")
    }

    fn node(&self, switchboard: &Switchboard) -> Result<Vec<f64>> {
        let port = 7520;
        let forward = format!(",hostfwd=tcp:127.0.0.1:{port}-:7411");
        let mut machine = self.start("node", self.image, &[], &forward)?;
        let deadline = Instant::now() + LIMIT;
        while !std::fs::read_to_string(&machine.serial).unwrap_or_default().contains("node: reachable at") {
            ensure!(Instant::now() < deadline, "the node is not reachable");
            std::thread::sleep(Duration::from_millis(20));
        }
        let operator = Operator::new(self.cli, self.identity, self.directory, &format!("127.0.0.1:{port}"));
        let file = self.directory.join("load.vm");
        let (kernel, initrd) = (self.guest.kernel.display(), self.guest.initrd.display());
        let text = format!(
            "name = \"load\"\nmemory = 256\nkernel = \"{kernel}\"\nramdisk = \"{initrd}\"\n\
             cmdline = \"console=hvc0 net.ifnames=0 quiet worker=guest call={WORKSTATION}:{PORT}\"\n\
             vif = [ \"mac=52:54:00:77:00:21\" ]\ndisk = [ \"iscsi://{WORKSTATION}/{IQN}/1,rw\" ]\n"
        );
        std::fs::write(&file, text)?;
        operator.json(&["create", &file.to_string_lossy()])?;
        let mut worker = switchboard.next(LIMIT).context("the guest does not call")?;
        machine.count(&mut worker, "/dev/vda")
    }
}

impl Machine {
    /// Instructions that one command costs.
    fn cost(&mut self, worker: &mut Worker, command: &str) -> Result<u64> {
        let before = self.monitor.stop_and_count()?;
        self.monitor.command("cont")?;
        worker.run(command)?;
        let after = self.monitor.stop_and_count()?;
        self.monitor.command("cont")?;
        Ok(after.saturating_sub(before))
    }

    /// Instructions of 4 KiB, for each job.
    fn count(&mut self, worker: &mut Worker, path: &str) -> Result<Vec<f64>> {
        worker.one(&format!("wait {path}"))?;
        let mut all = Vec::new();
        for Job { before, behind, runs: [fewer, more], blocks, .. } in &JOBS {
            let command = |count: u64| format!("{before} {path} {}", behind(count));
            // The first run fills caches.
            self.cost(worker, &command(*fewer))?;
            let short = self.cost(worker, &command(*fewer))?;
            let long = self.cost(worker, &command(*more))?;
            all.push(as_f64(long.saturating_sub(short)) / as_f64((more - fewer) * blocks));
        }
        Ok(all)
    }
}
