//! The Debian packages all this needs; what is missing is installed, saying so.

use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

/// A file that shows that a package is there.
const NEEDED: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("/usr/lib/ipxe/qemu/pxe-virtio.rom", "ipxe-qemu"),
    ("vblade", "vblade"),
    ("tgtd", "tgt"),
    ("dnsmasq", "dnsmasq-base"),
    ("mmdebstrap", "mmdebstrap"),
    ("ip", "iproute2"),
    ("mkfs.ext4", "e2fsprogs"),
    ("unshare", "util-linux"),
    ("qemu-x86_64", "qemu-user"),
    ("cc", "gcc"),
    ("newuidmap", "uidmap"),
    ("/var/lib/dpkg/info/busybox-static.list", "busybox-static"),
    ("xz", "xz-utils"),
    ("fio", "fio"),
    ("tc", "iproute2"),
    ("nmap", "nmap"),
    ("tmux", "tmux"),
    ("python3", "python3-minimal"),
    ("/usr/lib/x86_64-linux-gnu/libc.a", "libc6-dev"),
];

/// What measuring needs beside that.
const NEEDED_TO_MEASURE: &[(&str, &str)] = &[
    ("valgrind", "valgrind"),
    ("/usr/include/iscsi/iscsi.h", "libiscsi-dev"),
    ("iscsi-perf", "libiscsi-bin"),
];

fn is_there(what: &str) -> bool {
    if what.starts_with('/') {
        return Path::new(what).exists();
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin", "/usr/local/sbin"];
    path.split(':').chain(more).any(|directory| Path::new(directory).join(what).exists())
}

/// Whether this runs as root.
#[must_use]
pub fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

/// Installs what is missing, through root or sudo.
///
/// # Errors
/// When apt cannot be run or fails.
pub fn ensure_installed() -> Result<()> {
    ensure(NEEDED)
}

/// The same for measuring.
///
/// # Errors
/// When apt cannot be run or fails.
pub fn ensure_installed_to_measure() -> Result<()> {
    ensure_installed()?;
    ensure(NEEDED_TO_MEASURE)
}

fn ensure(needed: &[(&str, &str)]) -> Result<()> {
    let mut missing: Vec<&str> =
        needed.iter().filter(|(file, _)| !is_there(file)).map(|(_, name)| *name).collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing Debian packages: {}", missing.join(" "));
    update()?;
    let mut arguments = vec!["install", "-y", "-q", "--no-install-recommends"];
    arguments.extend(&missing);
    apt(&arguments)
}

/// Asks apt's sources what they offer.
///
/// # Errors
/// When apt cannot be run or fails.
pub fn update() -> Result<()> {
    apt(&["update", "-q"])
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = if is_root() {
        Command::new("apt-get")
    } else {
        let mut command = Command::new("sudo");
        command.arg("apt-get");
        command
    };
    let output = command
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(std::process::Stdio::null())
        .output()
        .context("cannot run apt-get (this needs Debian, and root or sudo)")?;
    anyhow::ensure!(
        output.status.success(),
        "apt-get {} failed:\n{}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
