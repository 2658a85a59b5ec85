//! What the owner seals into an image: who owns the node and how it is set up.

use crate::codec;
use crate::limits::{MANIFEST_BYTES, STORAGE_CARDS};
use crate::state::StateVolume;
use crate::trust::Operator;
use crate::units::mac_text;
use crate::vif::{self, CardGrant};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;
use core::ops::RangeInclusive;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

/// Version of this structure.
pub const VERSION: u16 = 8;
/// Payloads of the wire's frames that a node can be told of, in octets: the least
/// every IPv4 host takes (RFC 791, 3.1), and what cards with large frames share.
pub const MTU_RANGE: RangeInclusive<u16> = 576..=9000;
/// Payload of a frame unless told otherwise (IEEE 802.3, 3.2.7).
pub const DEFAULT_MTU: u16 = 1500;
/// Where a node listens unless told otherwise.
pub const DEFAULT_PORT: u16 = 7411;

/// How long a failed node stands still unless told otherwise.
pub const DEFAULT_RESTART_DELAY_S: u16 = 10;
/// How long it may at most.
pub const RESTART_DELAY_MAX_S: u16 = 3600;

/// How the node gets its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Addressing {
    /// By DHCP.
    Dhcp,
    /// Always this one.
    Static {
        /// IPv4 address.
        address: [u8; 4],
        /// Prefix length.
        prefix: u8,
        /// Default gateway.
        gateway: Option<[u8; 4]>,
    },
}

impl fmt::Display for Addressing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Static { address, prefix, gateway } = self else { return formatter.write_str("dhcp") };
        write!(formatter, "{}/{prefix}", Ipv4Addr::from(*address))?;
        gateway.map_or(Ok(()), |gateway| write!(formatter, ", gateway {}", Ipv4Addr::from(gateway)))
    }
}

/// A network card besides the first one, for disks only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageCard {
    /// Its address; without, the next one on the bus that no other entry names.
    pub mac: Option<[u8; 6]>,
    /// How it gets an IPv4 address, for iSCSI; without, it carries AoE only.
    pub addressing: Option<Addressing>,
    /// Largest payload of a frame on its wire, within [`MTU_RANGE`].
    pub mtu: u16,
}

impl fmt::Display for StorageCard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mac {
            Some(mac) => formatter.write_str(&mac_text(mac))?,
            None => formatter.write_str("the next one")?,
        }
        match self.addressing {
            Some(addressing) => write!(formatter, ", {addressing}")?,
            None => formatter.write_str(", AoE only")?,
        }
        write!(formatter, ", mtu {}", self.mtu)
    }
}

/// Which of the node's cards speak AoE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AoeCards {
    /// The first one and those for storage.
    #[default]
    All,
    /// Those for storage: no station on the first one's wire is believed.
    Storage,
}

/// Whether dom0 shares its home CPU with guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dom0Cpu {
    /// It owns the CPU where the machine has [`OWN_CPU_FROM`] or more.
    #[default]
    Auto,
    /// It owns the CPU on any machine that has two.
    Own,
    /// Guests run there too.
    Shared,
}

/// From how many CPUs on dom0 owns one unless told otherwise.
pub const OWN_CPU_FROM: u32 = 4;

impl Dom0Cpu {
    /// Whether dom0 owns a CPU of a machine with `cpus`.
    #[must_use]
    pub const fn owns(self, cpus: u32) -> bool {
        match self {
            Self::Auto => cpus >= OWN_CPU_FROM,
            Self::Own => cpus >= 2,
            Self::Shared => false,
        }
    }
}

/// The sealed settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`VERSION`].
    pub version: u16,
    /// Public key of the owner, who signs the image.
    pub owner: [u8; 32],
    /// Who may command the node.
    pub operators: Vec<Operator>,
    /// Name of the node, for people.
    pub name: String,
    /// Address.
    pub addressing: Addressing,
    /// Largest payload of a frame on the node's wire, within [`MTU_RANGE`].
    pub mtu: u16,
    /// Cards besides the first one.
    pub storage_cards: Vec<StorageCard>,
    /// Which cards speak AoE.
    pub aoe: AoeCards,
    /// TCP port of the one door.
    pub port: u16,
    /// Whether an admin may make dom0 fail, to test that it is contained.
    pub fault_injection: bool,
    /// Whether dom0 shares its home CPU with guests.
    pub dom0_cpu: Dom0Cpu,
    /// Where the node keeps what it must not forget; without, nothing is kept.
    pub state: Option<StateVolume>,
    /// Least serial of the trust bundle under which more than reading is obeyed; 0 for any.
    pub trust_serial_min: u64,
    /// How long the node stands still after its hypervisor failed, before it restarts; at
    /// most [`RESTART_DELAY_MAX_S`].
    pub restart_delay_s: u16,
    /// A guest's network card without IP addresses sends nothing.
    pub guest_addresses_required: bool,
    /// What guests' network cards may beyond plain ones, until a trust bundle holds.
    pub card_grants: Vec<CardGrant>,
    /// Whether both threads of a core run. What one does shows in how fast the other is, and
    /// processors have let more than that through.
    pub smt: bool,
}

impl Manifest {
    /// The bytes for an image; None when it is too large.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        postcard::to_allocvec(self).ok().filter(|bytes| bytes.len() <= MANIFEST_BYTES)
    }

    /// Reads the bytes of an image, whose signature was checked before.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = Some(bytes).filter(|bytes| bytes.len() <= MANIFEST_BYTES)?;
        let manifest = codec::whole::<Self>(bytes)?;
        let cards = &manifest.storage_cards;
        let sane = manifest.port != 0
            && MTU_RANGE.contains(&manifest.mtu)
            && manifest.restart_delay_s <= RESTART_DELAY_MAX_S
            && cards.len() <= STORAGE_CARDS
            && cards.iter().all(|card| MTU_RANGE.contains(&card.mtu))
            && vif::are_sound(&manifest.card_grants);
        (manifest.version == VERSION && sane).then_some(manifest)
    }
}

/// Bytes of the last part of a sealed image: the owner's key, then its signature.
pub const SEAL_BYTES: usize = 32 + 64;

/// The last part of an image of which everything before has this SHA-256.
#[must_use]
pub fn seal(owner: &SigningKey, digest: &[u8; 32]) -> Vec<u8> {
    let signature = owner.sign(&signed_message(digest)).to_bytes();
    [&owner.verifying_key().to_bytes()[..], &signature].concat()
}

/// The key that sealed an image of which everything before the seal has this SHA-256. It
/// stands beside the signature, so that nothing of the image has to be understood before it
/// is known to be the owner's; that it is the owner whom the manifest names is for whoever
/// reads that to see.
#[must_use]
pub fn sealed_by(seal: &[u8], digest: &[u8; 32]) -> Option<[u8; 32]> {
    let (owner, signature) = seal.split_first_chunk::<32>()?;
    let signature = Signature::from_slice(signature).ok()?;
    let key = VerifyingKey::from_bytes(owner).ok()?;
    key.verify_strict(&signed_message(digest), &signature).is_ok().then_some(*owner)
}

/// What the owner's signature is made over: a label, then the SHA-256 of the file
/// up to the seal, its last part.
fn signed_message(digest: &[u8; 32]) -> Vec<u8> {
    [&b"redoubt image 1"[..], digest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn cards_in_words() {
        let fixed = Addressing::Static { address: [10, 8, 0, 2], prefix: 24, gateway: Some([10, 8, 0, 1]) };
        let card = StorageCard { mac: Some([2, 0, 0, 0, 0, 0xab]), addressing: Some(fixed), mtu: 9000 };
        assert_eq!(card.to_string(), "02:00:00:00:00:ab, 10.8.0.2/24, gateway 10.8.0.1, mtu 9000");
        let card = StorageCard { mac: None, addressing: None, mtu: 1500 };
        assert_eq!(card.to_string(), "the next one, AoE only, mtu 1500");
    }

    #[test]
    fn cards_that_no_wire_has_are_no_manifest() {
        let sealed = crate::vectors::manifest();
        let with = |cards: &[StorageCard]| {
            let manifest = Manifest { storage_cards: cards.to_vec(), ..sealed.clone() };
            Manifest::decode(&manifest.encode().unwrap())
        };
        let card = StorageCard { mac: None, addressing: None, mtu: 1500 };
        assert_eq!(with(&[card; STORAGE_CARDS]).map(|it| it.storage_cards.len()), Some(STORAGE_CARDS));
        assert_eq!(with(&[card; STORAGE_CARDS + 1]), None);
        assert_eq!(with(&[StorageCard { mtu: 9001, ..card }]), None);
    }

    #[test]
    fn a_failed_node_stands_still_for_an_hour_at_most() {
        for (restart_delay_s, fits) in [(0, true), (3600, true), (3601, false)] {
            let manifest = Manifest { restart_delay_s, ..crate::vectors::manifest() };
            assert_eq!(Manifest::decode(&manifest.encode().unwrap()).is_some(), fits, "{restart_delay_s}");
        }
    }

    /// Version 5, as bytes.
    #[test]
    fn sealed_bytes_stay_as_they_are() {
        let cards = &crate::vectors::manifest();
        let bytes = postcard::to_allocvec(&(&cards.storage_cards, cards.aoe)).unwrap();
        let first = [1, 2, 0, 0, 0, 0, 7, 0, 0xa8, 0x46];
        let second = [0, 1, 0, 0xdc, 0x0b];
        assert_eq!(bytes, [&[2][..], &first, &second, &[1]].concat());
    }

    #[test]
    fn dom0_owns_a_cpu_as_sealed_but_never_the_only_one() {
        let owns = |choice: Dom0Cpu| [1, 2, 3, 4, 64].map(|cpus| choice.owns(cpus));
        assert_eq!(owns(Dom0Cpu::Auto), [false, false, false, true, true]);
        assert_eq!(owns(Dom0Cpu::Own), [false, true, true, true, true]);
        assert_eq!(owns(Dom0Cpu::Shared), [false; 5]);
    }
}
