//! A guest that runs fio with verification on its disks.

use super::archive::Archive;
use super::{Flavour, Recipe, TestGuest, compose};
use crate::process::run;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

const INIT: &str = include_str!("storage.sh");
const MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "virtio_console"];
const FIO: &str = "/usr/bin/fio";

/// The guest's kernel and initramfs.
///
/// # Errors
/// When they cannot be made.
pub fn guest(target: &Path) -> Result<TestGuest> {
    let recipe = Recipe { modules: &MODULES, spare: &[], init: INIT, directories: &[], files: Vec::new() };
    compose(target, Flavour::Cloud, &recipe, target.join("kernels/storage.cpio"))
}

/// An archive with fio and the libraries that it needs, as a disk: the workstation's
/// own, which is the same Debian.
///
/// # Errors
/// When it cannot be read or written.
pub fn fio_disk(path: &Path) -> Result<()> {
    let mut archive = Archive::default();
    for name in ["fio", "fio/bin", "fio/lib"] {
        archive.directory(name);
    }
    let read = |path: &Path| std::fs::read(path).with_context(|| path.display().to_string());
    archive.file("fio/bin/fio", &read(FIO.as_ref())?);
    let list = run(Command::new("ldd").arg(FIO)).context("cannot tell which libraries fio needs")?;
    for library in list.split_whitespace().filter(|word| word.starts_with('/')) {
        let library = PathBuf::from(library);
        let name = library.file_name().context("a library without a name")?.to_string_lossy().into_owned();
        archive.file(&format!("fio/lib/{name}"), &read(&library)?);
    }
    let mut bytes = archive.finish();
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}
