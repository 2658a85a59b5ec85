//! `node.toml`: the file in which an owner writes a node's settings.
//!
//! ```toml
//! name = "node-7"
//! port = 7411
//! mtu = 1500                 # largest payload of a frame on its wire, up to 9000
//! addressing = "dhcp"        # or { address = "10.0.0.2/24", gateway = "10.0.0.1" }
//! storage_cards = [ { addressing = "dhcp" } ]   # and aoe: see [`crate::cards`]
//! fault_injection = false
//! restart_delay_s = 10       # how long a node stands still after its hypervisor failed
//! smt = false                # both threads of a core run
//! dom0_cpu = "auto"          # dom0's home CPU: "own", "shared"; auto: own from 4 CPUs on
//! state = "aoe:e9.0"         # what is kept across power-off: see [`crate::state`]
//! guest_addresses_required = false   # a guest's vif without `ip` sends nothing
//! card_grants = [                    # what guests' cards may beyond plain ones
//!     { guests = ["fw*"], allow = { macs = 8, vrrp = [51], router = true, trunk = [100] } },
//! ]
//! operators = [
//!     { key = "redoubt-ed25519 … alice", role = "admin" },
//!     { key_file = "bob.pub", role = "viewer" },
//! ]
//! ```

use crate::addressing::{Addressing, checked_mtu, default_mtu};
use crate::cards::{self, StorageCard};
use crate::state::State;
use anyhow::{Context, Result, bail, ensure};
use keys::PublicKey;
use mgmt_proto::bundle::Scope;
use mgmt_proto::limits::{CARD_GRANTS, CARD_MACS, NAME_BYTES, OPERATORS};
use mgmt_proto::manifest::{
    self, AoeCards, DEFAULT_PORT, DEFAULT_RESTART_DELAY_S, Dom0Cpu, Manifest, RESTART_DELAY_MAX_S,
};
use mgmt_proto::trust::{self, Role};
use mgmt_proto::vif::{self, Privileges};
use serde::Deserialize;
use std::path::Path;

/// The file as written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Name of the node, for people.
    #[serde(default = "default_name")]
    pub name: String,
    /// How the node gets its address.
    #[serde(default)]
    pub addressing: Addressing,
    /// Largest payload of a frame on its wire.
    #[serde(default = "default_mtu")]
    pub mtu: u16,
    /// Cards besides the first one.
    #[serde(default)]
    pub storage_cards: Vec<StorageCard>,
    /// Which cards speak AoE.
    #[serde(default)]
    pub aoe: AoeCards,
    /// TCP port for management.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Whether an admin may make dom0 fail.
    #[serde(default)]
    pub fault_injection: bool,
    /// Whether dom0 shares its home CPU with guests.
    #[serde(default)]
    pub dom0_cpu: Dom0Cpu,
    /// Where the node persists its state.
    #[serde(default)]
    pub state: Option<State>,
    /// Least serial of the trust bundle under which more than reading is obeyed.
    #[serde(default)]
    pub trust_serial_min: u64,
    /// How long the node stands still after its hypervisor failed.
    #[serde(default = "default_restart_delay")]
    pub restart_delay_s: u16,
    /// A guest's network card without IP addresses sends nothing.
    #[serde(default)]
    pub guest_addresses_required: bool,
    /// What guests' network cards may beyond plain ones.
    #[serde(default)]
    pub card_grants: Vec<CardGrant>,
    /// Whether both threads of a core run.
    #[serde(default)]
    pub smt: bool,
    /// Who may command the node.
    pub operators: Vec<Operator>,
}

/// What the cards of some guests may.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardGrant {
    /// Of which guests; all without it.
    pub guests: Option<Vec<String>>,
    /// The most that they may.
    pub allow: Privileges,
}

fn default_name() -> String {
    "redoubt".into()
}

const fn default_restart_delay() -> u16 {
    DEFAULT_RESTART_DELAY_S
}

const fn default_port() -> u16 {
    DEFAULT_PORT
}

/// Someone the node listens to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operator {
    /// Public key, in full.
    pub key: Option<String>,
    /// File of a public key, relative to the settings' own.
    pub key_file: Option<String>,
    /// What it may do.
    pub role: Role,
}

impl Settings {
    /// Reads a file.
    ///
    /// # Errors
    /// Names the line and what is wrong there.
    pub fn load(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// Names the line and what is wrong there.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }

    /// What is sealed for this owner. Key files are relative to `directory`.
    ///
    /// # Errors
    /// Names the setting that makes no sense.
    pub fn manifest(&self, owner: [u8; 32], directory: &Path) -> Result<Manifest> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        ensure!(
            (1..=NAME_BYTES).contains(&self.name.len()) && self.name.bytes().all(legal),
            "name: use 1 to {NAME_BYTES} letters, digits, - and ."
        );
        ensure!(self.port != 0, "port: 1 to 65535 are possible");
        ensure!(!self.operators.is_empty(), "operators: nobody could command the node");
        ensure!(self.operators.len() <= OPERATORS, "operators: at most {OPERATORS}");
        let mut operators: Vec<trust::Operator> = Vec::new();
        for (index, operator) in self.operators.iter().enumerate() {
            let key = operator.public_key(directory).with_context(|| format!("operators[{index}]"))?.bytes;
            ensure!(
                operators.iter().all(|other| other.key != key),
                "operators[{index}]: its key is there already"
            );
            operators.push(trust::Operator { key, role: operator.role });
        }
        ensure!(
            self.restart_delay_s <= RESTART_DELAY_MAX_S,
            "restart_delay_s: at most {RESTART_DELAY_MAX_S}"
        );
        let storage_cards = cards::checked(&self.storage_cards, self.aoe)?;
        let card_grants: Vec<vif::CardGrant> = self.card_grants.iter().map(CardGrant::sealed).collect();
        ensure!(
            vif::are_sound(&card_grants),
            "card_grants: up to {CARD_GRANTS}, with macs up to {CARD_MACS}, vrrp from 1 to 255, trunk from 1 to 4094"
        );
        Ok(Manifest {
            version: manifest::VERSION,
            owner,
            operators,
            name: self.name.clone(),
            addressing: self.addressing.checked()?,
            mtu: checked_mtu(self.mtu)?,
            storage_cards,
            aoe: self.aoe,
            port: self.port,
            fault_injection: self.fault_injection,
            trust_serial_min: self.trust_serial_min,
            restart_delay_s: self.restart_delay_s,
            smt: self.smt,
            dom0_cpu: self.dom0_cpu,
            state: self.state.as_ref().map(|state| state.checked(directory)).transpose()?,
            guest_addresses_required: self.guest_addresses_required,
            card_grants,
        })
    }
}

impl CardGrant {
    fn sealed(&self) -> vif::CardGrant {
        let guests = self.guests.clone().map_or(Scope::All, Scope::Named);
        vif::CardGrant { nodes: Scope::All, guests, privileges: self.allow.clone() }
    }
}

impl Operator {
    fn public_key(&self, directory: &Path) -> Result<PublicKey> {
        match (&self.key, &self.key_file) {
            (Some(key), None) => Ok(PublicKey::parse(key, "key")?),
            (None, Some(file)) => Ok(PublicKey::load(&directory.join(keys::file::expand_home(file)))?),
            _ => bail!("give either key or key_file"),
        }
    }
}
