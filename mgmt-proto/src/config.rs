//! A node's configuration in a file: what it would take to make another node like
//! it, without anything secret.
//!
//! ```text
//! file       `redoubt config 1` | key 32 | signature 64 | config
//! signature  over `redoubt config 1` | SHA-256(config), by the node that exported it
//! config     postcard: version 1, node, settings, signed bundles, guests
//! ```
//!
//! The signature says which node wrote the file and that nothing was altered since.
//! Whether that node is believed is for its importer to decide; the bundles
//! carry their own signatures.

use crate::codec;
use crate::disk::{DiskSetting, GuestSettings};
use crate::limits::{self, CONFIG_BYTES};
use crate::machine::Machine;
use alloc::string::String;
use alloc::vec::Vec;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Version of this structure.
pub const VERSION: u16 = 1;
const LABEL: &[u8] = b"redoubt config 1";

/// A guest that starts with its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptGuest {
    /// Lower numbers start first.
    pub order: u32,
    /// The guest.
    pub machine: Machine,
    /// What is set for it.
    pub settings: GuestSettings,
    /// Indices of disks whose secrets were left out.
    #[serde(deserialize_with = "codec::few::<_, _, { limits::DISKS + 1 }>")]
    pub secrets_left_out: Vec<u32>,
}

impl KeptGuest {
    /// From its bytes, if they are all of them one; nothing of it is checked.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        codec::whole(bytes)
    }

    /// A guest without its secrets.
    #[must_use]
    pub fn without_secrets(order: u32, machine: &Machine, settings: &GuestSettings) -> Self {
        let is_secret =
            |it: &DiskSetting| matches!(it, DiskSetting::Secret(_) | DiskSetting::TargetSecret(..));
        let mut left_out = Vec::new();
        let mut disks = Vec::new();
        for (index, disk) in settings.disks.iter().enumerate() {
            if disk.iter().any(is_secret) {
                left_out.push(u32::try_from(index).unwrap_or(u32::MAX));
            }
            disks.push(disk.iter().filter(|it| !is_secret(it)).cloned().collect());
        }
        let settings = GuestSettings { limits: settings.limits.clone(), disks };
        Self { order, machine: machine.clone(), settings, secrets_left_out: left_out }
    }
}

/// A guest as it would be created again, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// Its place among those that start with the node, if it is one of them.
    pub order: Option<u32>,
    /// The guest.
    pub machine: Machine,
    /// What is set for it.
    pub settings: GuestSettings,
    /// Indices of disks whose secrets were left out.
    #[serde(deserialize_with = "codec::few::<_, _, { limits::DISKS + 1 }>")]
    pub secrets_left_out: Vec<u32>,
}

impl GuestConfig {
    /// A guest without its secrets.
    #[must_use]
    pub fn new(order: Option<u32>, machine: &Machine, settings: &GuestSettings) -> Self {
        let KeptGuest { machine, settings, secrets_left_out, .. } =
            KeptGuest::without_secrets(0, machine, settings);
        Self { order, machine, settings, secrets_left_out }
    }
}

/// What a node is set to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// [`VERSION`].
    pub version: u16,
    /// Name of the node.
    pub node: String,
    /// What was sealed into its image, in words: it is not imported.
    #[serde(deserialize_with = "codec::few::<_, _, { limits::CONFIG_SETTINGS }>")]
    pub settings: Vec<(String, String)>,
    /// Signed trust bundles, from the sealed root to the one that holds.
    #[serde(deserialize_with = "codec::few::<_, _, { limits::TRUST_LINKS + 1 }>")]
    pub trust: Vec<Vec<u8>>,
    /// Guests that start with it, in their order.
    #[serde(deserialize_with = "codec::few::<_, _, { limits::KEPT_GUESTS + 1 }>")]
    pub guests: Vec<KeptGuest>,
}

/// Why a file is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigFault {
    /// It is something else.
    Foreign,
    /// It is too long.
    TooLong,
    /// The signature does not fit: it was altered.
    Signature,
    /// It cannot be read, or was made by another version.
    Encoding,
}

impl core::fmt::Display for ConfigFault {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(match self {
            Self::Foreign => "is no exported configuration",
            Self::TooLong => "is too long",
            Self::Signature => "was altered: its signature does not fit",
            Self::Encoding => "cannot be read, or was made by another version",
        })
    }
}

fn message(config: &[u8]) -> Vec<u8> {
    [LABEL, Sha256::digest(config).as_slice()].concat()
}

impl Config {
    /// The file, signed by the node; None when it is too long.
    #[must_use]
    pub fn sign(&self, key: &SigningKey) -> Option<Vec<u8>> {
        // In one piece, and as long as it is: it may be a large part of the node's heap.
        let length = postcard::experimental::serialized_size(self).ok()?;
        let begin = LABEL.len() + 32 + 64;
        if begin.saturating_add(length) > CONFIG_BYTES {
            return None;
        }
        let mut file = Vec::with_capacity(begin + length);
        file.extend_from_slice(LABEL);
        file.extend_from_slice(&key.verifying_key().to_bytes());
        file.extend_from_slice(&[0; 64]);
        let mut file = postcard::to_extend(self, file).ok()?;
        let signature = key.sign(&message(file.get(begin..)?));
        file.get_mut(begin - 64..begin)?.copy_from_slice(&signature.to_bytes());
        Some(file)
    }

    /// What a file says, and the key of the node that signed it.
    ///
    /// # Errors
    /// [`ConfigFault`].
    pub fn open(file: &[u8]) -> Result<(Self, [u8; 32]), ConfigFault> {
        if file.len() > CONFIG_BYTES {
            return Err(ConfigFault::TooLong);
        }
        let rest = file.strip_prefix(LABEL).ok_or(ConfigFault::Foreign)?;
        let (public, rest) = rest.split_first_chunk::<32>().ok_or(ConfigFault::Foreign)?;
        let (signature, config) = rest.split_first_chunk::<64>().ok_or(ConfigFault::Foreign)?;
        let key = VerifyingKey::from_bytes(public).map_err(|_| ConfigFault::Signature)?;
        key.verify_strict(&message(config), &Signature::from_bytes(signature))
            .map_err(|_| ConfigFault::Signature)?;
        Ok((Self::decode(config)?, *public))
    }

    /// What the bytes say, whoever signed them.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, ConfigFault> {
        let config = codec::whole::<Self>(bytes).filter(|config| config.version == VERSION);
        config.ok_or(ConfigFault::Encoding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Action, Disk};
    use crate::secret::Secret;
    use alloc::string::ToString;
    use alloc::vec;

    fn machine() -> Machine {
        Machine {
            name: "web1".to_string(),
            memory_bytes: 512 << 20,
            vcpus: 1,
            cpu_weight: 256,
            cap_percent: 0,
            kernel: [1; 32],
            ramdisk: None,
            command_line: String::new(),
            disks: vec![Disk { volume: "iscsi://u@10.0.0.1/iqn.a:b/1".to_string(), read_only: false }],
            network_cards: Vec::new(),
            on_poweroff: Action::Destroy,
            on_reboot: Action::Restart,
            on_crash: Action::Restart,
        }
    }

    fn config() -> Config {
        let secret = DiskSetting::Secret(Secret::new(b"open sesame".to_vec()));
        let settings = GuestSettings { limits: Vec::new(), disks: vec![vec![DiskSetting::Reserve, secret]] };
        Config {
            version: VERSION,
            node: "node".to_string(),
            settings: vec![("port".to_string(), "7411".to_string())],
            trust: vec![vec![1, 2, 3]],
            guests: vec![KeptGuest::without_secrets(7, &machine(), &settings)],
        }
    }

    #[test]
    fn a_file_is_read_as_it_was_signed_and_holds_no_secret() {
        let key = SigningKey::from_bytes(&[3; 32]);
        let file = config().sign(&key).unwrap();
        assert_eq!(Config::open(&file), Ok((config(), key.verifying_key().to_bytes())));
        assert!(!file.windows(6).any(|part| part == b"sesame"));
        assert_eq!(config().guests[0].secrets_left_out, [0]);
        assert_eq!(config().guests[0].settings.disks, [[DiskSetting::Reserve]]);
    }

    #[test]
    fn an_altered_file_is_not_taken() {
        let file = config().sign(&SigningKey::from_bytes(&[3; 32])).unwrap();
        for at in 0..file.len() {
            let mut altered = file.clone();
            altered[at] ^= 1;
            assert!(Config::open(&altered).is_err(), "byte {at}");
            assert!(Config::open(&file[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(Config::open(&[&file[..], b"x"].concat()), Err(ConfigFault::Signature));
        assert_eq!(Config::open(b"hello"), Err(ConfigFault::Foreign));
        assert_eq!(Config::open(&vec![0; CONFIG_BYTES + 1]), Err(ConfigFault::TooLong));
    }
}
