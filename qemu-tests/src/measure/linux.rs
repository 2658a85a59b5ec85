//! A plain Linux node in the same machine, with the kernel's own AoE and iSCSI
//! initiators: Debian's kernel, the drivers, `iscsistart`, the load generator.

use super::load::{FLAVOUR, INIT, PORT, USER_SPACE};
use crate::lab::HOST;
use crate::machine::{Boot, Shape, command};
use crate::process::{Process, run};
use crate::test_guest::{Recipe, TestGuest, compose};
use crate::world::target_name;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Its card's address.
const MAC: &str = "52:54:00:77:00:03";
/// Its drivers.
const MODULES: [&str; 6] = ["virtio_pci", "virtio_net", "sd_mod", "crc32c-intel", "iscsi_tcp", "aoe"];
/// Debian packages with `iscsistart` and the libraries it needs.
const PACKAGES: [&str; 7] =
    ["open-iscsi", "libopeniscsiusr", "libkmod2", "libssl3", "libzstd1", "liblzma5", "libc6"];
/// What is taken out of them.
const FILES: [&str; 8] = [
    "iscsistart",
    "libopeniscsiusr.so.0.2.0",
    "libkmod.so.2",
    "libcrypto.so.3",
    "libzstd.so.1",
    "liblzma.so.5",
    "libc.so.6",
    "ld-linux-x86-64.so.2",
];

/// Fetches what a Linux node needs beside the kernel.
///
/// # Errors
/// When a package cannot be fetched.
pub fn prepare(target: &Path) -> Result<()> {
    let directory = directory(target);
    let complete = directory.join("complete");
    if complete.exists() {
        return Ok(());
    }
    println!("fetching open-iscsi for the Linux node (once)");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory)?;
    let download =
        || run(Command::new("apt-get").args(["download", "-q"]).args(PACKAGES).current_dir(&directory));
    if download().is_err() {
        crate::packages::update()?;
        download()?;
    }
    for entry in std::fs::read_dir(&directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(directory.join("x")))?;
            std::fs::remove_file(path)?;
        }
    }
    std::fs::write(complete, "")?;
    Ok(())
}

fn directory(target: &Path) -> PathBuf {
    target.join("load/open-iscsi")
}

/// Where in a tree a file of that name is.
fn search(directory: &Path, name: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(directory).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            if let Some(found) = search(&path, name) {
                return Some(found);
            }
        } else if entry.file_name() == name {
            return Some(path);
        }
    }
    None
}

/// The files of a Linux node.
///
/// # Errors
/// When one is missing.
pub fn compose_node(target: &Path, program: &Path) -> Result<TestGuest> {
    let tree = directory(target).join("x");
    let mut files = vec![("bin/load".to_string(), std::fs::read(program)?)];
    for name in FILES {
        let path = search(&tree, name).with_context(|| format!("the packages have no {name}"))?;
        let place = match name {
            "iscsistart" => "bin",
            "ld-linux-x86-64.so.2" => "lib64",
            _ => "lib",
        };
        files.push((format!("{place}/{name}"), std::fs::read(path)?));
    }
    let recipe = Recipe { modules: &MODULES, spare: &[], init: INIT, directories: &["lib", "lib64"], files };
    compose(target, FLAVOUR, &recipe, target.join("load/node.cpio"))
}

/// A running Linux node.
#[derive(Debug)]
pub struct LinuxNode {
    /// QEMU.
    pub process: Process,
    /// When it was switched on.
    pub started: Instant,
    /// The output of its serial port.
    pub serial: PathBuf,
}

impl LinuxNode {
    /// Switches it on beside the lab's own node; `target` is the number of the
    /// iSCSI target it uses, `mtu` the payload of its frames. It calls as the load generator `linux`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(files: &TestGuest, cpus: u32, target: u32, mtu: u16, directory: &Path) -> Result<Self> {
        let ip = |arguments: &str| run(Command::new("ip").args(arguments.split(' ')));
        if ip("link show tap1").is_err() {
            ip("tuntap add tap1 mode tap")?;
        }
        // A bridge takes the lowest address of its ports, and vblade keeps the one
        // it began with.
        ip("link set tap1 address fe:ff:ff:77:00:03")?;
        ip(&format!("link set tap1 mtu {mtu}"))?;
        ip("link set tap1 master br0")?;
        ip("link set tap1 up")?;
        let serial = directory.join("linux.log");
        let shape = Shape { cpus, memory_mib: 1024, boot: Boot::Kernel(files.kernel.clone()) };
        let line = format!(
            "console=ttyS0 net.ifnames=0 quiet tsc=reliable worker=linux call={HOST}:{PORT} mtu={mtu} aoe=1 portal={HOST} target={}",
            target_name(target)
        );
        let mut command = command(&shape, "tap1", MAC, &serial);
        command.arg("-initrd").arg(&files.initrd).args(["-append", &line]);
        let started = Instant::now();
        let process = Process::start(&mut command, &directory.join("linux-qemu.log"))?;
        Ok(Self { process, started, serial })
    }

    /// Waits for its first program; returns the time from power-on.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn wait_for_user_space(&self, limit: Duration) -> Result<Duration> {
        loop {
            let text = std::fs::read(&self.serial).unwrap_or_default();
            let elapsed = self.started.elapsed();
            if String::from_utf8_lossy(&text).contains(USER_SPACE) {
                return Ok(elapsed);
            }
            ensure!(elapsed < limit, "the Linux node does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
