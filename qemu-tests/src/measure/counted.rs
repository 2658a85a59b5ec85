//! What a read from an iSCSI disk costs a whole machine, in instructions: a node with a
//! guest that reads, next to a Linux node that reads by its own `iscsi_tcp`.
//!
//! Each machine is alone, has one CPU with `-icount` and QEMU's own network, behind
//! which tgt serves the disk; every instruction that it executes counts: the reader's
//! kernel, and in the node's case also the virtio driver of the guest, every exit, the
//! hypervisor and dom0, which a Linux node does without. AoE is not in this: QEMU's own
//! network carries IP only. Writes and more than one request at a time are not either:
//! the load generator only reads, one at a time.

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
/// A shorter and a longer run: their difference is free of what happens once.
const READS: [u64; 2] = [100, 400];
/// The same, of 1 MiB each.
const LARGE_READS: [u64; 2] = [4, 16];
const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;
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
        let [small, large] = self.linux(&switchboard)?;
        let [mine_small, mine_large] = self.node(&switchboard)?;
        for (name, mine, theirs) in [
            ("4 KiB random direct read", mine_small, small),
            ("4 KiB of 1 MiB direct reads", mine_large, large),
        ] {
            let name = format!("iSCSI, whole machine: {name}, instructions");
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

    fn linux(&self, switchboard: &Switchboard) -> Result<[f64; 2]> {
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

    fn node(&self, switchboard: &Switchboard) -> Result<[f64; 2]> {
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
             vif = [ \"mac=52:54:00:77:00:21\" ]\ndisk = [ \"iscsi://{WORKSTATION}/{IQN}/1,ro\" ]\n"
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

    /// Instructions of a read of 4 KiB, and of 4 KiB of large ones.
    fn count(&mut self, worker: &mut Worker, path: &str) -> Result<[f64; 2]> {
        worker.one(&format!("wait {path}"))?;
        let mut all = [0.0; 2];
        for (large, each) in all.iter_mut().enumerate() {
            let (runs, blocks) = if large == 0 { (READS, 1) } else { (LARGE_READS, MIB / BLOCK) };
            let command = |count: u64| match large {
                0 => format!("random {path} {BLOCK} {count} 7919"),
                _ => format!("sequential {path} {MIB} {count}"),
            };
            let [fewer, more] = runs;
            // The first run fills caches.
            self.cost(worker, &command(fewer))?;
            let short = self.cost(worker, &command(fewer))?;
            let long = self.cost(worker, &command(more))?;
            *each = as_f64(long.saturating_sub(short)) / as_f64((more - fewer) * blocks);
        }
        Ok(all)
    }
}
