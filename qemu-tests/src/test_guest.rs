//! A tiny guest that starts in seconds: one of Debian's stock kernels and an
//! initramfs of a static busybox, the kernel's own virtio modules and one script.
//! The kernel command line says what it does (`job=...`, see `test_guest/init.sh`).

mod archive;
pub mod attacker;
mod ports;
pub mod storage;

use crate::lab::guest_address;
use crate::operator::Answer;
use crate::process::run;
use crate::world::World;
use anyhow::{Context, Result, bail};
use archive::Archive;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Modules that are loaded, with all they depend on.
const MODULES: [&str; 6] =
    ["virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio-rng", "pvpanic-mmio"];
/// Modules that are there to be loaded.
const SPARE: [&str; 1] = ["msr"];
const BUSYBOX: &str = "/bin/busybox";
const INIT: &str = include_str!("test_guest/init.sh");
const DHCP: &str = include_str!("test_guest/dhcp.sh");

/// One of Debian's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// 6.1 for virtual machines.
    Cloud,
    /// 6.1 for any machine.
    Generic,
    /// 6.12 for virtual machines.
    NewCloud,
}

impl Flavour {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cloud, Self::Generic, Self::NewCloud];

    /// The package that depends on the newest one.
    #[must_use]
    pub const fn package(self) -> &'static str {
        match self {
            Self::Cloud => "linux-image-cloud-amd64",
            Self::Generic => "linux-image-amd64",
            Self::NewCloud => "linux-image-6.12-cloud-amd64",
        }
    }
}

/// What a test guest is started from.
#[derive(Debug, Clone)]
pub struct TestGuest {
    /// Kernel.
    pub kernel: PathBuf,
    /// Initrd.
    pub initrd: PathBuf,
}

/// Fetches the kernels that are not there yet. One that apt does not offer is
/// missed later, by the scenario that wants it.
///
/// # Errors
/// When a package is offered but cannot be fetched.
pub fn prepare(target: &Path) -> Result<()> {
    for flavour in Flavour::ALL {
        let directory = directory(target, flavour);
        if !directory.join("complete").exists() {
            fetch(flavour, &directory).with_context(|| format!("cannot fetch {}", flavour.package()))?;
        }
    }
    Ok(())
}

/// The files of a test guest, or the reason why there are none.
///
/// # Errors
/// When the kernel was not offered, or the initrd cannot be written.
pub fn find(target: &Path, flavour: Flavour) -> Result<TestGuest> {
    let directory = directory(target, flavour);
    if let Ok(reason) = std::fs::read_to_string(directory.join("missing")) {
        bail!("{reason}");
    }
    let kernel = entry(&directory.join("x/boot"), "vmlinuz-")?;
    let initrd = directory.join("initrd.cpio");
    // Cheap, and never older than the scripts.
    std::fs::write(&initrd, initramfs(&directory, &Recipe::default())?)?;
    Ok(TestGuest { kernel, initrd })
}

/// What an initramfs holds besides busybox.
#[derive(Debug)]
pub struct Recipe<'a> {
    /// Modules that are loaded, with all they depend on, in `modules/order`.
    pub modules: &'a [&'a str],
    /// Modules that are there to be loaded.
    pub spare: &'a [&'a str],
    /// The first program, a script.
    pub init: &'a str,
    /// Directories, parents first.
    pub directories: &'a [&'a str],
    /// More programs and files, by name.
    pub files: Vec<(String, Vec<u8>)>,
}

impl Default for Recipe<'_> {
    fn default() -> Self {
        let files =
            vec![("bin/ports".to_string(), ports::random()), ("bin/strings".to_string(), ports::strings())];
        Self { modules: &MODULES, spare: &SPARE, init: INIT, directories: &[], files }
    }
}

/// The files of a guest with an initramfs of one's own, written to `initrd`.
///
/// # Errors
/// When the kernel was not offered, or the initramfs cannot be written.
pub fn compose(target: &Path, flavour: Flavour, recipe: &Recipe<'_>, initrd: PathBuf) -> Result<TestGuest> {
    let TestGuest { kernel, .. } = find(target, flavour)?;
    std::fs::write(&initrd, initramfs(&directory(target, flavour), recipe)?)?;
    Ok(TestGuest { kernel, initrd })
}

fn directory(target: &Path, flavour: Flavour) -> PathBuf {
    target.join("kernels").join(flavour.package())
}

/// The entry of a directory whose name begins so.
fn entry(directory: &Path, prefix: &str) -> Result<PathBuf> {
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            return Ok(entry.path());
        }
    }
    bail!("{} has no {prefix}", directory.display())
}

/// The package with the kernel itself, if apt offers it.
fn versioned(package: &str) -> Option<String> {
    let text = run(Command::new("apt-cache").args(["depends", package])).ok()?;
    let mut names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.find(|name| name.starts_with("linux-image-")).map(str::to_string)
}

fn fetch(flavour: Flavour, directory: &Path) -> Result<()> {
    let _ = std::fs::remove_dir_all(directory);
    std::fs::create_dir_all(directory)?;
    let mut package = versioned(flavour.package());
    if package.is_none() {
        crate::packages::update()?;
        package = versioned(flavour.package());
    }
    match package {
        None => {
            let reason = format!("apt offers no {}", flavour.package());
            std::fs::write(directory.join("missing"), reason)?;
        }
        Some(package) => {
            println!("fetching {package} for test guests (once)");
            run(Command::new("apt-get").args(["download", "-q", &package]).current_dir(directory))?;
            let file = entry(directory, &package)?;
            run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(directory.join("x")))?;
            std::fs::remove_file(file)?;
        }
    }
    std::fs::write(directory.join("complete"), "")?;
    Ok(())
}

/// All modules of a kernel, by name.
fn modules(directory: &Path, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            modules(&path, found)?;
        } else if let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned())
            && let Some((name, _)) = name.split_once(".ko")
        {
            found.insert(name.to_string(), path);
        }
    }
    Ok(())
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let output = Command::new("xz").arg("-dc").arg(path).output().context("cannot run xz")?;
        anyhow::ensure!(output.status.success(), "xz cannot read {}", path.display());
        return Ok(output.stdout);
    }
    Ok(std::fs::read(path)?)
}

/// What a module says it depends on, in its `.modinfo` section.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let rest = module.get(at + KEY.len()..).unwrap_or_default();
    let value = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(value).into_owned();
    text.split(',').filter(|name| !name.is_empty()).map(str::to_string).collect()
}

/// Adds a module after those it depends on.
fn add_module(
    name: &str,
    all: &BTreeMap<String, PathBuf>,
    archive: &mut Archive,
    order: &mut Vec<String>,
) -> Result<()> {
    let file = format!("{name}.ko");
    // What is not there as a file is built in.
    let Some(path) = all.get(name).or_else(|| all.get(&name.replace('_', "-"))) else { return Ok(()) };
    if order.contains(&file) {
        return Ok(());
    }
    let bytes = read_module(path)?;
    for dependency in dependencies(&bytes) {
        add_module(&dependency, all, archive, order)?;
    }
    archive.file(&format!("modules/{file}"), &bytes);
    order.push(file);
    Ok(())
}

fn initramfs(directory: &Path, recipe: &Recipe<'_>) -> Result<Vec<u8>> {
    let mut all = BTreeMap::new();
    modules(&entry(&directory.join("x/lib/modules"), "")?.join("kernel"), &mut all)?;
    let mut archive = Archive::default();
    for name in ["bin", "modules"].iter().chain(recipe.directories) {
        archive.directory(name);
    }
    let (mut order, mut spare) = (Vec::new(), Vec::new());
    for name in recipe.modules {
        add_module(name, &all, &mut archive, &mut order)?;
    }
    for name in recipe.spare {
        add_module(name, &all, &mut archive, &mut spare)?;
    }
    archive.file("modules/order", order.join("\n").as_bytes());
    archive.file("bin/busybox", &std::fs::read(BUSYBOX).context("no static busybox")?);
    for (name, bytes) in &recipe.files {
        archive.file(name, bytes);
    }
    archive.file("init", recipe.init.as_bytes());
    archive.file("dhcp.sh", DHCP.as_bytes());
    Ok(archive.finish())
}

/// A test guest to describe in a VM file.
#[derive(Debug, Clone)]
pub struct Description<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its number, for address and MAC.
    pub number: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// vCPUs.
    pub vcpus: u32,
    /// What it does, with arguments: `job=serve mib=64`.
    pub job: &'a str,
    /// More lines of the VM file.
    pub more: &'a str,
}

impl Default for Description<'_> {
    fn default() -> Self {
        Self { name: "guest", number: 1, memory_mib: 256, vcpus: 1, job: "job=idle", more: "" }
    }
}

impl World {
    /// Writes the VM file of a test guest and returns where it is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn test_guest_file(&self, files: &TestGuest, guest: &Description<'_>) -> Result<PathBuf> {
        let (_, mac) = guest_address(guest.number);
        let text = format!(
            "name = \"{name}\"\nmemory = {memory}\nvcpus = {vcpus}\nkernel = \"{kernel}\"\nramdisk = \"{initrd}\"\n\
             cmdline = \"console=hvc0 net.ifnames=0 quiet {job}\"\nvif = [ \"mac={mac}\" ]\n{more}\n",
            name = guest.name,
            memory = guest.memory_mib,
            vcpus = guest.vcpus,
            kernel = files.kernel.display(),
            initrd = files.initrd.display(),
            job = guest.job,
            more = guest.more,
        );
        let path = self.directory.join(format!("{}.vm", guest.name));
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Creates a test guest, whatever comes of it.
    ///
    /// # Errors
    /// When the VM file cannot be written or the CLI cannot be run.
    pub fn try_test_guest(&self, files: &TestGuest, guest: &Description<'_>) -> Result<Answer> {
        let path = self.test_guest_file(files, guest)?;
        self.operator.try_run(&["create", &path.display().to_string()])
    }

    /// Creates a test guest.
    ///
    /// # Errors
    /// When the node refuses it.
    pub fn test_guest(&self, files: &TestGuest, guest: &Description<'_>) -> Result<()> {
        let answer = self.try_test_guest(files, guest)?;
        anyhow::ensure!(answer.code == 0, "{} was refused ({}): {}", guest.name, answer.code, answer.error);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_a_module() {
        let module = b"\x7fELF...\0license=GPL\0depends=virtio,virtio_ring\0name=x\0";
        assert_eq!(dependencies(module), ["virtio", "virtio_ring"]);
        assert!(dependencies(b"\0depends=\0").is_empty());
        assert!(dependencies(b"").is_empty());
    }

    #[test]
    fn the_port_program_is_a_whole_elf_file() {
        let program = ports::random();
        assert_eq!(program.len(), 64 + 56 + 73);
        assert_eq!(&program[24..32], &0x40_0078_u64.to_le_bytes());
    }
}
