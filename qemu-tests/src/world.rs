//! A lab with a node in it and an operator before it.

use crate::debian::Debian;
use crate::lab::{Lab, NODE, guest_address};
use crate::machine::{Boot, Machine, Shape};
use crate::operator::Operator;
use anyhow::{Context, Result};
use image_builder::dev::{DevImage, Options, build_image};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Name of the iSCSI target with a number.
#[must_use]
pub fn target_name(number: u32) -> String {
    format!("iqn.2026-11.lab.redoubt:disk{number}")
}

/// Everything that is built before a lab is entered.
#[derive(Debug, Clone)]
pub struct Built {
    /// The image and its keys.
    pub image: DevImage,
    /// The CLI.
    pub cli: PathBuf,
    /// The guests' Debian.
    pub debian: Debian,
}

/// Builds what is missing. Called again inside the lab it finds everything.
///
/// # Errors
/// When something does not build.
pub fn build(fault_injection: bool) -> Result<Built> {
    let cli = crate::programs::cli()?;
    let name = if fault_injection { "faults.img" } else { "redoubt.img" };
    let out = crate::programs::target().join("image").join(name);
    let image = build_image(&Options { out: Some(out), fault_injection, ..Options::default() })?;
    let debian = crate::debian::ensure(&crate::programs::target())?;
    Ok(Built { image, cli, debian })
}

/// The running whole.
#[derive(Debug)]
pub struct World {
    /// DHCP, TFTP, targets.
    pub lab: Lab,
    /// The node.
    pub machine: Machine,
    /// Who commands it.
    pub operator: Operator,
    /// Logs, disks, VM files.
    pub directory: PathBuf,
}

/// A guest to describe in a VM file.
#[derive(Debug, Clone)]
pub struct Guest<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its number, for address and MAC.
    pub number: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// vCPUs.
    pub vcpus: u32,
    /// Its volume.
    pub volume: &'a str,
}

impl World {
    /// A lab whose machine was just switched on. Disks are exported by the caller.
    ///
    /// # Errors
    /// When something does not start.
    pub fn start(
        built: &Built,
        directory: &Path,
        shape: &Shape,
        prepare: impl FnOnce(&mut Lab) -> Result<()>,
    ) -> Result<Self> {
        Self::start_far(built, directory, shape, Duration::ZERO, prepare)
    }

    /// The same with a node to which a round trip takes so long.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_far(
        built: &Built,
        directory: &Path,
        shape: &Shape,
        round_trip: Duration,
        prepare: impl FnOnce(&mut Lab) -> Result<()>,
    ) -> Result<Self> {
        let _ = std::fs::remove_dir_all(directory);
        std::fs::create_dir_all(directory)?;
        let mut lab = Lab::start(directory, &built.image.path)?;
        prepare(&mut lab)?;
        let machine = Machine::start_far(shape, directory, round_trip)?;
        let operator = Operator::new(&built.cli, &built.image.operator_key_path, directory, NODE);
        Ok(Self { lab, machine, operator, directory: directory.to_path_buf() })
    }

    /// A shape that boots from the network.
    #[must_use]
    pub const fn netboot(memory_mib: u32, cpus: u32) -> Shape {
        Shape { cpus, memory_mib, boot: Boot::Pxe }
    }

    /// Types on a guest's console.
    ///
    /// # Errors
    /// When the node refuses.
    pub fn type_on_console(&self, name: &str, text: &str) -> Result<()> {
        let mut child = self
            .operator
            .command(&["console", name])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .context("cannot run the CLI")?;
        let mut input = child.stdin.take().context("no standard input")?;
        std::io::Write::write_all(&mut input, text.as_bytes())?;
        std::thread::sleep(Duration::from_secs(1));
        drop(input);
        let _ = child.kill();
        child.wait()?;
        Ok(())
    }

    /// Waits until a guest's console has shown a text.
    ///
    /// # Errors
    /// When it does not in time; what it showed last is in the error.
    pub fn wait_for_console(&self, name: &str, text: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let shown = self.operator.run(&["console", name, "--once"])?;
            if shown.contains(text) {
                return Ok(());
            }
            let tail: String = shown.chars().rev().take(600).collect::<Vec<_>>().into_iter().rev().collect();
            anyhow::ensure!(
                Instant::now() < deadline,
                "{name} did not show {text:?}; its console ends with {tail:?}"
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Writes a VM file and returns where it is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn vm_file(&self, debian: &Debian, guest: &Guest<'_>) -> Result<PathBuf> {
        let (_, mac) = guest_address(guest.number);
        let text = format!(
            "name = \"{name}\"\nmemory = {memory}\nvcpus = {vcpus}\nkernel = \"{kernel}\"\nramdisk = \"{initrd}\"\n\
             cmdline = \"root=/dev/vda rw console=hvc0 net.ifnames=0 quiet\"\ndisk = [ \"{volume},rw\" ]\nvif = [ \"mac={mac}\" ]\n",
            name = guest.name,
            memory = guest.memory_mib,
            vcpus = guest.vcpus,
            kernel = debian.kernel.display(),
            initrd = debian.initrd.display(),
            volume = guest.volume,
        );
        let path = self.directory.join(format!("{}.vm", guest.name));
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}
