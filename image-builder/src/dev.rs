//! An image with development keys, as `cargo image` and the tests make it.
//!
//! The keys are made on first use and stay in the build directory. They are
//! never committed; an image for real use is sealed with the owner's own.

use crate::compose::{Pieces, compose};
use crate::state::State;
use crate::{programs, seal};
use anyhow::{Context, Result};
use ed25519_dalek::SigningKey;
use keys::{Existing, KeyError, PublicKey};
use mgmt_proto::manifest::{
    self, Addressing, AoeCards, DEFAULT_MTU, DEFAULT_PORT, DEFAULT_RESTART_DELAY_S, Dom0Cpu, Manifest,
    StorageCard,
};
use mgmt_proto::trust::{Operator, Role};
use std::path::{Path, PathBuf};

/// What kind of development image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where to write it; `target/image/redoubt.img` by default.
    pub out: Option<PathBuf>,
    /// Name of the node.
    pub name: String,
    /// How the node gets its address.
    pub addressing: Addressing,
    /// Largest payload of a frame on its wire.
    pub mtu: u16,
    /// Cards besides the first one.
    pub storage_cards: Vec<StorageCard>,
    /// TCP port for management.
    pub port: u16,
    /// Whether an admin may make dom0 fail.
    pub fault_injection: bool,
    /// How long the node stands still after its hypervisor failed.
    pub restart_delay_s: u16,
    /// Whether both threads of each core run.
    pub smt: bool,
    /// Whether dom0 shares its home CPU with guests.
    pub dom0_cpu: Dom0Cpu,
    /// Where the node persists its state.
    pub state: Option<State>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            out: None,
            name: "redoubt".into(),
            addressing: Addressing::Dhcp,
            mtu: DEFAULT_MTU,
            storage_cards: Vec::new(),
            port: DEFAULT_PORT,
            fault_injection: false,
            restart_delay_s: DEFAULT_RESTART_DELAY_S,
            smt: false,
            // These images are made for emulators, and QEMU without KVM may lose a
            // guest on its first CPU (README, Limits).
            dom0_cpu: Dom0Cpu::Own,
            state: None,
        }
    }
}

/// A development image and the keys that go with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevImage {
    /// The file.
    pub path: PathBuf,
    /// Private key of its owner.
    pub owner_key_path: PathBuf,
    /// Private key of its one operator, an admin.
    pub operator_key_path: PathBuf,
}

/// Builds both programs and seals them with the development keys.
///
/// # Errors
/// When a program does not build or a file cannot be written.
pub fn build_image(options: &Options) -> Result<DevImage> {
    seal_image(&build_pieces()?, options, &key_directory())
}

/// Builds both programs and takes them apart.
///
/// # Errors
/// When a program does not build.
pub fn build_pieces() -> Result<Pieces> {
    let programs = programs::build()?;
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    Pieces::from_programs(&read(&programs.hypervisor)?, &read(&programs.dom0)?)
}

/// Where the development keys are.
#[must_use]
pub fn key_directory() -> PathBuf {
    programs::workspace().join("target/dev-keys")
}

/// Where an image is written by default.
#[must_use]
pub fn default_path() -> PathBuf {
    programs::workspace().join("target/image/redoubt.img")
}

/// Writes an unsealed image, which no node obeys.
///
/// # Errors
/// When the file cannot be written.
pub fn write_unsealed(pieces: &Pieces, path: &Path) -> Result<()> {
    write(path, &compose(pieces, &[])?)
}

/// Seals pieces with the development keys in `key_directory`.
///
/// # Errors
/// When a key or the file cannot be written.
pub fn seal_image(pieces: &Pieces, options: &Options, key_directory: &Path) -> Result<DevImage> {
    std::fs::create_dir_all(key_directory)
        .with_context(|| format!("cannot make {}", key_directory.display()))?;
    let (owner_key_path, operator_key_path) =
        (key_directory.join("owner.key"), key_directory.join("operator.key"));
    let owner = load_or_generate(&owner_key_path, "development owner")?;
    let operator = load_or_generate(&operator_key_path, "development operator")?;
    let manifest = Manifest {
        version: manifest::VERSION,
        owner: owner.verifying_key().to_bytes(),
        operators: vec![Operator { key: operator.verifying_key().to_bytes(), role: Role::Admin }],
        name: options.name.clone(),
        addressing: options.addressing,
        mtu: options.mtu,
        storage_cards: options.storage_cards.clone(),
        aoe: AoeCards::All,
        port: options.port,
        fault_injection: options.fault_injection,
        trust_serial_min: 0,
        restart_delay_s: options.restart_delay_s,
        guest_addresses_required: false,
        card_grants: Vec::new(),
        smt: options.smt,
        dom0_cpu: options.dom0_cpu,
        state: options.state.as_ref().map(|state| state.checked(key_directory)).transpose()?,
    };
    let path = options.out.clone().unwrap_or_else(default_path);
    write(&path, &seal::seal(pieces, &manifest, &owner)?)?;
    Ok(DevImage { path, owner_key_path, operator_key_path })
}

/// Writes an image whole or not at all, so that a node that boots meanwhile never
/// loads half of it.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, file: &[u8]) -> Result<()> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    Ok(keys::file::write(path, file, 0o644, Existing::Replace)?)
}

fn load_or_generate(path: &Path, comment: &str) -> Result<SigningKey> {
    if !path.exists() {
        let key = keys::secret::generate()?;
        // Another process may be first: then its key counts.
        match keys::secret::save(path, &key, Existing::Keep) {
            Ok(()) | Err(KeyError::Exists(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let key = keys::secret::load(path)?;
    let public = path.with_extension("key.pub");
    if !public.exists() {
        PublicKey::of(&key, comment).save(&public, Existing::Replace)?;
    }
    Ok(key)
}
