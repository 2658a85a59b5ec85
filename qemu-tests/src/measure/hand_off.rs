//! From the firmware's hand-off to the first signed reply, without a lab: the
//! machine starts the image as a kernel and is alone with QEMU's own network.
//!
//! Instructions: one CPU with `-icount`. Only executed ones count, so what the node
//! waits for costs nothing, nor does it matter when the harness asks. What the
//! firmware executes, loading the image included, is counted with an image of the
//! same size that halts at once, and taken off.

use super::figure::{Table, as_f64, milliseconds, number};
use super::machine_monitor::Monitor;
use super::start::{first_instruction, tiny_vm_file};
use crate::lab::NODE_MAC;
use crate::machine::accelerator;
use crate::operator::Operator;
use crate::process::{Process, run};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Budget: instructions from hand-off to the first signed reply.
const BUDGET: f64 = 220e6;
/// Measurements of each kind.
const RUNS: usize = 3;
/// How long a node may take to have an address.
const LIMIT: Duration = Duration::from_secs(60);
/// How long the firmware takes at most.
const FIRMWARE_LIMIT: Duration = Duration::from_secs(20);
/// Where the 16-bit code of the image begins: two bytes of a jump.
const ENTRY: usize = 0x200;
/// `cli; hlt`.
const HALT: [u8; 2] = [0xfa, 0xf4];
/// The line on the serial port from which on the node can be called.
const REACHABLE: &str = "reachable at";

/// What is needed to measure.
#[derive(Debug)]
pub struct HandOff<'a> {
    /// The image.
    pub image: &'a Path,
    /// The CLI.
    pub cli: &'a Path,
    /// The operator's key.
    pub identity: &'a Path,
    /// Where logs go.
    pub directory: &'a Path,
    /// A Linux kernel.
    pub kernel: &'a Path,
}

/// A machine with nothing but a card on QEMU's own network.
struct Machine {
    process: Process,
    serial: PathBuf,
    monitor: PathBuf,
}

impl HandOff<'_> {
    /// Measures instructions and wall-clock time.
    ///
    /// # Errors
    /// When a node does not start or answer.
    pub fn measure(&self, table: &mut Table) -> Result<()> {
        std::fs::create_dir_all(self.directory)?;
        run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        let firmware = self.count_firmware()?;
        let mut counts = Vec::new();
        let mut idle = Vec::new();
        let mut starts = Vec::new();
        for index in 0..RUNS {
            let (reachable, replied, start) = self.count(7500 + u16::try_from(index)?)?;
            idle.push(as_f64(reachable.saturating_sub(firmware)));
            counts.push(as_f64(replied.saturating_sub(firmware)));
            starts.push(start);
        }
        table.add_samples("hand-off to network address, instructions", idle, "count");
        let name = "hand-off to first signed reply, instructions";
        table.add_with_budget(name, counts, "count", BUDGET);
        table.add_samples("create to first guest instruction, tiny kernel, instructions", starts, "count");
        let start = self.count_linux(7509)?;
        table.add("create to first guest instruction, Linux kernel, instructions", start, "count");
        let mut times = Vec::new();
        for index in 0..RUNS {
            times.push(self.time(7510 + u16::try_from(index)?)?);
        }
        table.add_samples("hand-off to first signed reply, wall", times, "ms");
        Ok(())
    }

    fn start(&self, image: &Path, port: u16, counted: bool) -> Result<Machine> {
        let serial = self.directory.join("serial.log");
        let monitor = self.directory.join("monitor");
        for old in [&serial, &monitor] {
            let _ = std::fs::remove_file(old);
        }
        let forward = format!("user,id=wire,hostfwd=tcp:127.0.0.1:{port}-:7411");
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-machine", "q35", "-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-smp", "1", "-m", "512", "-netdev", &forward])
            .args(["-device", &format!("virtio-net-pci,netdev=wire,mac={NODE_MAC},romfile=")])
            .arg("-serial")
            .arg(format!("file:{}", serial.display()))
            .arg("-qmp")
            .arg(format!("unix:{},server,wait=off", monitor.display()))
            .arg("-kernel")
            .arg(image);
        if counted {
            let record = self.directory.join("record.bin");
            command
                .args(["-accel", "tcg,thread=single", "-cpu", "max", "-icount"])
                .arg(format!("shift=0,rr=record,rrfile={}", record.display()))
                .args(["-object", "filter-replay,id=replay,netdev=wire"]);
        } else {
            command.args(accelerator());
        }
        let process = Process::start(&mut command, &self.directory.join("qemu.log"))?;
        Ok(Machine { process, serial, monitor })
    }

    /// Instructions before the first of the image.
    fn count_firmware(&self) -> Result<u64> {
        let mut image = std::fs::read(self.image)?;
        image.get_mut(ENTRY..ENTRY + HALT.len()).context("no image")?.copy_from_slice(&HALT);
        let path = self.directory.join("halt.img");
        std::fs::write(&path, image)?;
        let machine = self.start(&path, 7499, true)?;
        let mut monitor = Monitor::connect(&machine.monitor)?;
        // Halted for good once the count stays as it is.
        let deadline = Instant::now() + FIRMWARE_LIMIT;
        let mut last = 0;
        loop {
            std::thread::sleep(Duration::from_millis(1000));
            let count = monitor.stop_and_count()?;
            if count == last && count > 0 {
                return Ok(count);
            }
            ensure!(Instant::now() < deadline, "the firmware does not end");
            last = count;
            monitor.command("cont")?;
        }
    }

    /// Instructions until the node has an address, until it has replied, and from
    /// `create` of a tiny guest to its first one.
    fn count(&self, port: u16) -> Result<(u64, u64, f64)> {
        let machine = self.start_and_wait(self.image, port, true)?;
        let mut monitor = Monitor::connect(&machine.monitor)?;
        let reachable = monitor.stop_and_count()?;
        monitor.command("cont")?;
        self.ask(port)?;
        let replied = monitor.stop_and_count()?;
        monitor.command("cont")?;
        // Nothing waits on the way, and an instruction takes a nanosecond here.
        let start = first_instruction(&self.operator(port), &tiny_vm_file(self.directory)?)? * 1e6;
        Ok((reachable, replied, start))
    }

    /// Instructions from `create` of a guest with a Linux kernel, which is on the
    /// node already, to its first one.
    fn count_linux(&self, port: u16) -> Result<f64> {
        let _machine = self.start_and_wait(self.image, port, true)?;
        let path = self.directory.join("linux.vm");
        let kernel = self.kernel.display();
        std::fs::write(&path, format!("name = \"linux\"\nmemory = 128\nkernel = \"{kernel}\"\n"))?;
        first_instruction(&self.operator(port), &path)?;
        Ok(first_instruction(&self.operator(port), &path)? * 1e6)
    }

    fn start_and_wait(&self, image: &Path, port: u16, counted: bool) -> Result<Machine> {
        let machine = self.start(image, port, counted)?;
        machine.wait_until_reachable()?;
        Ok(machine)
    }

    fn operator(&self, port: u16) -> Operator {
        Operator::new(self.cli, self.identity, self.directory, &format!("127.0.0.1:{port}"))
    }

    /// Milliseconds of the node's clock when it first replied.
    fn time(&self, port: u16) -> Result<f64> {
        let _machine = self.start_and_wait(self.image, port, false)?;
        self.ask(port)
    }

    /// Asks the node for its age in milliseconds.
    fn ask(&self, port: u16) -> Result<f64> {
        Ok(milliseconds(number(&self.operator(port).json(&["node", "info"])?, "uptime_ns")?))
    }
}

impl Machine {
    fn wait_until_reachable(&self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let text = std::fs::read(&self.serial).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            if text.contains(REACHABLE) {
                return Ok(());
            }
            let id = self.process.id();
            ensure!(Instant::now() < deadline, "machine {id} is not reachable: {text}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
