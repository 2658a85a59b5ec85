//! A QEMU machine that is the node.

use crate::lab::NODE_MAC;
use crate::process::Process;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How the machine starts the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// From the network: SeaBIOS, iPXE, DHCP, TFTP.
    Pxe,
    /// Directly, as a kernel.
    Kernel(PathBuf),
}

/// CPUs of the node in demo and tests: two for guests, and one that dom0 owns. QEMU
/// without KVM may lose a guest that runs on its first CPU (README, Limits).
pub const CPUS: u32 = 3;

/// What the machine is.
#[derive(Debug, Clone)]
pub struct Shape {
    /// CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// How it starts.
    pub boot: Boot,
}

/// The running machine.
#[derive(Debug)]
pub struct Machine {
    /// QEMU.
    pub process: Process,
    /// When it was switched on.
    pub started: Instant,
    /// The output of its serial port.
    pub serial: PathBuf,
}

/// Whether this machine's KVM can nest AMD's virtualization.
fn nests() -> bool {
    let nested = std::fs::read_to_string("/sys/module/kvm_amd/parameters/nested").unwrap_or_default();
    matches!(nested.trim(), "1" | "Y") && std::fs::OpenOptions::new().write(true).open("/dev/kvm").is_ok()
}

/// Arguments for the fastest accelerator that can run guests in the machine.
#[must_use]
pub fn accelerator() -> [&'static str; 4] {
    if nests() { ["-accel", "kvm", "-cpu", "host"] } else { ["-accel", "tcg,thread=multi", "-cpu", "max"] }
}

/// QEMU's command line for a machine whose card is connected to a tap.
#[must_use]
pub fn command(shape: &Shape, tap: &str, mac: &str, serial: &Path) -> Command {
    command_with(&accelerator(), shape, tap, mac, serial)
}

/// The same with another accelerator.
#[must_use]
pub fn command_with(accelerator: &[&str], shape: &Shape, tap: &str, mac: &str, serial: &Path) -> Command {
    let _ = std::fs::remove_file(serial);
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-machine", "q35", "-nodefaults", "-no-user-config", "-display", "none"])
        .args(accelerator)
        .args(["-smp", &shape.cpus.to_string(), "-m", &shape.memory_mib.to_string()])
        .args(["-serial", &format!("file:{}", serial.display())])
        .args(["-netdev", &format!("tap,id=wire,ifname={tap},script=no,downscript=no")])
        .args(["-device", &format!("virtio-net-pci,netdev=wire,mac={mac},bootindex=1")]);
    if let Boot::Kernel(image) = &shape.boot {
        command.arg("-kernel").arg(image);
    }
    command
}

/// QEMU's command line for a machine that takes a file for its disk and starts from it.
#[must_use]
pub fn command_from_disk(disk: &Path, serial: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-machine", "q35", "-nodefaults", "-no-user-config", "-display", "none", "-m", "64"])
        .args(["-serial", &format!("file:{}", serial.display())])
        .args(["-drive", &format!("file={},format=raw,if=virtio,snapshot=on", disk.display())]);
    command
}

/// QEMU's command line for a machine of 66 processors and 600 GiB, which it mostly imagines,
/// without a wire.
#[must_use]
pub fn command_of_giant(image: &Path, serial: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-m", "600G", "-smp", "66"])
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-machine", "q35,memory-backend=giant"])
        .args(["-object", "memory-backend-ram,size=600G,id=giant,reserve=off"])
        .args(["-netdev", "user,id=wire", "-device", "virtio-net-pci,netdev=wire"])
        .args(["-serial", &format!("file:{}", serial.display())])
        .arg("-kernel")
        .arg(image);
    command
}

impl Machine {
    /// Switches the machine on, connected to the lab's tap.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn start(shape: &Shape, directory: &Path) -> Result<Self> {
        Self::start_far(shape, directory, Duration::ZERO)
    }

    /// The same at the end of a long line: frames in either direction wait for up to so long,
    /// so that a round trip takes so long on average.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn start_far(shape: &Shape, directory: &Path, round_trip: Duration) -> Result<Self> {
        let serial = directory.join("serial.log");
        let mut command = command(shape, "tap0", NODE_MAC, &serial);
        if !round_trip.is_zero() {
            let filter = format!("filter-buffer,id=far,netdev=wire,interval={}", round_trip.as_micros());
            command.args(["-object", &filter]);
        }
        let started = Instant::now();
        let process = Process::start(&mut command, &directory.join("qemu.log"))?;
        Ok(Self { process, started, serial })
    }

    /// The output of its serial port so far.
    #[must_use]
    pub fn serial_text(&self) -> String {
        std::fs::read(&self.serial)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}
