//! The description of a guest in a file, as xl's users write it. The syntax is
//! TOML's, which shares `key = "value"`, lists and comments with xl's.
//!
//! ```toml
//! name    = "web"
//! memory  = 512                   # MiB; also "512M", "2G"
//! vcpus   = 2
//! kernel  = "vmlinuz"             # relative to this file
//! ramdisk = "initrd.img"
//! cmdline = "root=/dev/vda console=ttyS0"
//! disk    = [ "aoe:e11.1,rw", "iscsi://10.0.0.1/iqn.2026-11.example:web/1,ro" ]
//! vif     = [ "mac=02:00:00:00:00:01,ip=10.0.0.5,rate=1Gb/s", "" ]   # see [`crate::vif_text`]
//! disk_bytes_per_s = "50M"        # of all disks together
//! autostart = 10                  # starts with the node; lower numbers first
//! ```
//!
//! What can be set for a disk is in [`crate::disk_text`]; `disk_bytes_per_s`,
//! `disk_operations_per_s` and `disk_burst` are limits of all disks together.
//! Also `cpu_weight`, `cap` (percent of one CPU), `extra` (as `cmdline`), `root`
//! (put before the command line) and `on_poweroff`, `on_reboot`, `on_crash`
//! (`destroy`, `restart`, `preserve`). A guest has crashed when it faulted three times over, as
//! Linux does to reset itself with `reboot=t`, or when its kernel panicked and has the driver
//! of the pvpanic device, as stock kernels do. `kernel` and `ramdisk` may be `sha256:` and the digest
//! of a file that the node has, as `config show` writes them. A card without `mac` has one that stays
//! with the guest's name.

use crate::blobs::Blob;
use crate::disk_text::{self, Ask, DiskText};
use crate::exit::usage;
use crate::kernel_image;
use crate::nearest::nearest;
use crate::vif_text;
use keys::file::expand_home;
use mgmt_proto::code::Failure;
use mgmt_proto::disk::GuestSettings;
use mgmt_proto::machine::{Action, Machine};
use mgmt_proto::units::parse_size;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// Every key, for the nearest match.
const KEYS: [&str; 19] = [
    "name",
    "memory",
    "vcpus",
    "cpu_weight",
    "cap",
    "kernel",
    "ramdisk",
    "cmdline",
    "extra",
    "disk",
    "vif",
    "on_poweroff",
    "on_reboot",
    "on_crash",
    "root",
    "disk_bytes_per_s",
    "disk_operations_per_s",
    "disk_burst",
    "autostart",
];

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: Option<String>,
    memory: Option<Quantity>,
    vcpus: Option<u32>,
    cpu_weight: Option<u32>,
    cap: Option<u32>,
    kernel: Option<String>,
    ramdisk: Option<String>,
    cmdline: Option<String>,
    extra: Option<String>,
    root: Option<String>,
    disk: Option<Vec<toml::Value>>,
    disk_bytes_per_s: Option<Quantity>,
    disk_operations_per_s: Option<Quantity>,
    disk_burst: Option<Quantity>,
    vif: Option<Vec<toml::Value>>,
    on_poweroff: Option<Action>,
    on_reboot: Option<Action>,
    on_crash: Option<Action>,
    autostart: Option<Autostart>,
}

/// Whether a guest starts with the node, and when.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged, expecting = "write a number, lower ones start first; or true, false")]
enum Autostart {
    Order(u32),
    Whether(bool),
}

impl Autostart {
    const fn order(self) -> Option<u32> {
        match self {
            Self::Order(order) => Some(order),
            Self::Whether(true) => Some(AUTOSTART_ORDER),
            Self::Whether(false) => None,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "write a number, or text as \"512M\", \"2G\"")]
enum Quantity {
    Number(u64),
    Text(String),
}

impl Quantity {
    fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// Where a kernel or initrd comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file on the workstation.
    File(PathBuf),
    /// What the node has, by its SHA-256.
    Node(mgmt_proto::machine::Digest),
}

impl Source {
    /// `sha256:` and 64 digits, or a path relative to `directory`.
    fn parse(text: &str, directory: &Path) -> Result<Self, String> {
        let Some(digits) = text.strip_prefix("sha256:") else {
            return Ok(Self::File(directory.join(expand_home(text))));
        };
        let mut digest = [0; 32];
        match hex::decode_to_slice(digits, &mut digest) {
            Ok(()) => Ok(Self::Node(digest)),
            Err(_) => Err(format!("{text:?} is no digest; write sha256: and 64 hexadecimal digits")),
        }
    }
}

/// A guest whose kernel and initrd are files on the workstation, or on the node already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmFile {
    /// The guest; its digests are zero until [`VmFile::read_blobs`].
    pub machine: Machine,
    /// The kernel.
    pub kernel: Source,
    /// The initrd.
    pub ramdisk: Option<Source>,
    /// What is set for the guest; without secrets until [`VmFile::read_secrets`].
    pub settings: GuestSettings,
    /// Its place among the guests that start with the node, if it is one of them.
    pub autostart: Option<u32>,
    disks: Vec<DiskText>,
}

/// The place of one that just starts.
pub const AUTOSTART_ORDER: u32 = 100;

impl VmFile {
    /// Reads a file. Each of `overrides` is `key=value` and counts more than the
    /// file.
    ///
    /// # Errors
    /// Names the file, the line and the key.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| crate::exit::file(path, &error))?;
        let directory = path.parent().unwrap_or_else(|| Path::new("."));
        Self::parse(&text, &path.display().to_string(), directory, overrides)
    }

    /// Reads a text; `origin` is for messages, `directory` where its files are.
    ///
    /// # Errors
    /// Names the origin, the line and the key.
    pub fn parse(text: &str, origin: &str, directory: &Path, overrides: &[String]) -> Result<Self, Failure> {
        let mut raw = read(text, origin)?;
        for argument in overrides {
            raw.override_with(read_override(argument)?);
        }
        raw.build(origin, directory)
    }

    /// Reads the secrets of the disks, or has somebody asked for them.
    ///
    /// # Errors
    /// Names the file, or the disk whose settings make no sense.
    pub fn read_secrets(&mut self, ask: Ask<'_>) -> Result<(), Failure> {
        for (disk, settings) in self.disks.iter_mut().zip(&mut self.settings.disks) {
            disk.read_secrets(ask)?;
            settings.clone_from(&disk.settings);
        }
        Ok(())
    }

    /// Reads the kernel and initrd and puts their digests into the guest; those that are
    /// files are returned.
    ///
    /// # Errors
    /// Names the file that cannot be read.
    pub fn read_blobs(&mut self) -> Result<Vec<Blob>, Failure> {
        let mut blobs = Vec::new();
        self.machine.kernel = match &self.kernel {
            Source::Node(digest) => *digest,
            Source::File(path) => {
                let cache = crate::settings::directory().join("kernels");
                let kernel = Blob::read(&kernel_image::fitting(path, self.machine.memory_bytes, &cache)?)?;
                blobs.push(kernel);
                blobs.last().map_or([0; 32], |kernel| kernel.digest)
            }
        };
        match &self.ramdisk {
            None => {}
            Some(Source::Node(digest)) => self.machine.ramdisk = Some(*digest),
            Some(Source::File(path)) => {
                let ramdisk = Blob::read(path)?;
                self.machine.ramdisk = Some(ramdisk.digest);
                blobs.push(ramdisk);
            }
        }
        Ok(blobs)
    }
}

/// Line and column of a byte, counted from 1.
fn position(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}")
}

fn syntax(text: &str, origin: &str, error: &toml::de::Error) -> Failure {
    let object = match error.span() {
        Some(span) => format!("{origin}, {}", position(text, span.start)),
        None => origin.into(),
    };
    usage(object, error.message(), "")
}

fn read(text: &str, origin: &str) -> Result<Raw, Failure> {
    let table = DeTable::parse(text).map_err(|error| syntax(text, origin, &error))?;
    for key in table.get_ref().keys() {
        if !KEYS.contains(&key.get_ref().as_ref()) {
            let object = format!("{origin}, {}", position(text, key.span().start));
            return Err(unknown(object, key.get_ref()));
        }
    }
    toml::from_str(text).map_err(|error| syntax(text, origin, &error))
}

fn unknown(object: String, key: &str) -> Failure {
    let nearest = nearest(key, KEYS);
    let remedy = match (key, nearest) {
        ("maxmem", _) => "ballooning is not there yet; memory is fixed".into(),
        ("builder" | "type" | "firmware", _) => "leave it out; what a kernel needs is found out".into(),
        (_, Some(known)) => format!("did you mean {known}?"),
        _ => format!("known are {}", KEYS.join(", ")),
    };
    usage(object, format!("unknown key {key}"), remedy)
}

/// `key=value`, where the value is as in the file, or plain text.
fn read_override(argument: &str) -> Result<Raw, Failure> {
    let Some((key, value)) = argument.split_once('=') else {
        return Err(usage(argument, "is neither an option nor key=value", ""));
    };
    let (key, value) = (key.trim(), value.trim());
    if !KEYS.contains(&key) {
        return Err(unknown(argument.into(), key));
    }
    let written = format!("{key} = {value}");
    if DeTable::parse(&written).is_ok_and(|table| table.get_ref().len() == 1) {
        return read(&written, argument);
    }
    read(&format!("{key} = {}", toml::Value::String(value.into())), argument)
}

impl Raw {
    fn override_with(&mut self, other: Self) {
        fn replace<T>(target: &mut Option<T>, value: Option<T>) {
            if value.is_some() {
                *target = value;
            }
        }
        // A command line given in one form replaces the other.
        if other.cmdline.is_some() || other.extra.is_some() {
            (self.cmdline, self.extra) = (None, None);
        }
        replace(&mut self.name, other.name);
        replace(&mut self.memory, other.memory);
        replace(&mut self.vcpus, other.vcpus);
        replace(&mut self.cpu_weight, other.cpu_weight);
        replace(&mut self.cap, other.cap);
        replace(&mut self.kernel, other.kernel);
        replace(&mut self.ramdisk, other.ramdisk);
        replace(&mut self.cmdline, other.cmdline);
        replace(&mut self.extra, other.extra);
        replace(&mut self.root, other.root);
        replace(&mut self.disk, other.disk);
        replace(&mut self.disk_bytes_per_s, other.disk_bytes_per_s);
        replace(&mut self.disk_operations_per_s, other.disk_operations_per_s);
        replace(&mut self.disk_burst, other.disk_burst);
        replace(&mut self.vif, other.vif);
        replace(&mut self.on_poweroff, other.on_poweroff);
        replace(&mut self.on_reboot, other.on_reboot);
        replace(&mut self.on_crash, other.on_crash);
        replace(&mut self.autostart, other.autostart);
    }

    fn build(self, origin: &str, directory: &Path) -> Result<VmFile, Failure> {
        let missing = |key: &str, example: &str| {
            usage(origin, format!("{key} is missing"), format!("add {key} = {example}"))
        };
        let name = self.name.ok_or_else(|| missing("name", "\"web\""))?;
        let kernel = self.kernel.ok_or_else(|| missing("kernel", "\"path\""))?;
        let memory = self.memory.ok_or_else(|| missing("memory", "512"))?;
        let command_line = match (self.cmdline, self.extra) {
            (Some(_), Some(_)) => return Err(usage(origin, "both cmdline and extra are given", "keep one")),
            (Some(text), None) | (None, Some(text)) => text,
            (None, None) => String::new(),
        };
        let command_line = match self.root {
            Some(root) => format!("root={root} {command_line}").trim_end().into(),
            None => command_line,
        };
        let disks: Vec<DiskText> = self
            .disk
            .unwrap_or_default()
            .iter()
            .enumerate()
            .map(|(index, value)| {
                DiskText::from_toml(value, directory)
                    .map_err(|(message, remedy)| usage(format!("{origin}: disk {index}"), message, remedy))
            })
            .collect::<Result<_, _>>()?;
        let text = |quantity: Option<Quantity>| quantity.map(|quantity| quantity.text());
        let (bytes_per_s, operations_per_s) = (text(self.disk_bytes_per_s), text(self.disk_operations_per_s));
        let settings = GuestSettings {
            limits: disk_text::limits(
                bytes_per_s.as_deref(),
                operations_per_s.as_deref(),
                text(self.disk_burst).as_deref(),
            )
            .map_err(|failure| Failure { object: format!("{origin}: disk_{}", failure.object), ..failure })?,
            disks: disks.iter().map(|disk| disk.settings.clone()).collect(),
        };
        let cards = self.vif.unwrap_or_default();
        let machine = Machine {
            memory_bytes: bytes(&memory)
                .map_err(|message| usage(format!("{origin}: memory"), message, ""))?,
            vcpus: self.vcpus.unwrap_or(1),
            cpu_weight: self.cpu_weight.unwrap_or(256),
            cap_percent: self.cap.unwrap_or(0),
            kernel: [0; 32],
            ramdisk: None,
            command_line,
            disks: disks.iter().map(|disk| disk.disk.clone()).collect(),
            network_cards: cards
                .iter()
                .enumerate()
                .map(|(index, value)| {
                    vif_text::from_toml(value, &name, index)
                        .map_err(|(message, remedy)| usage(format!("{origin}: vif {index}"), message, remedy))
                })
                .collect::<Result<_, _>>()?,
            on_poweroff: self.on_poweroff.unwrap_or(Action::Destroy),
            on_reboot: self.on_reboot.unwrap_or(Action::Restart),
            on_crash: self.on_crash.unwrap_or(Action::Destroy),
            name,
        };
        machine.validate()?;
        let source = |key: &str, text: &str| {
            Source::parse(text, directory).map_err(|message| usage(format!("{origin}: {key}"), message, ""))
        };
        let kernel = source("kernel", &kernel)?;
        let ramdisk = self.ramdisk.map(|text| source("ramdisk", &text)).transpose()?;
        let autostart = self.autostart.and_then(Autostart::order);
        Ok(VmFile { machine, kernel, ramdisk, settings, autostart, disks })
    }
}

/// Bytes of an amount of memory; a bare number is MiB.
fn bytes(quantity: &Quantity) -> Result<u64, String> {
    let text = quantity.text();
    parse_size(&text, 1 << 20)
        .ok_or_else(|| format!("{text:?} is no amount of memory; write MiB, or 512M, 2G"))
}
