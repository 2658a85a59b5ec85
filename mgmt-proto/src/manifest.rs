//! What the owner seals into an image: who owns the node and how it is set up.

use crate::codec;
use crate::limits::MANIFEST_BYTES;
use crate::state::StateVolume;
use crate::trust::Operator;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use serde::{Deserialize, Serialize};

/// Version of this structure.
pub const VERSION: u16 = 4;
/// Payloads of the wire's frames that a node can be told of, in octets: the least
/// every IPv4 host takes (RFC 791, 3.1), and what cards with large frames share.
pub const MTU_RANGE: RangeInclusive<u16> = 576..=9000;
/// Payload of a frame unless told otherwise (IEEE 802.3, 3.2.7).
pub const DEFAULT_MTU: u16 = 1500;
/// Where a node listens unless told otherwise.
pub const DEFAULT_PORT: u16 = 7411;

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

/// Whether dom0 shares its home CPU with guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// TCP port of the one door.
    pub port: u16,
    /// Whether an admin may make dom0 fail, to test that it is contained.
    pub fault_injection: bool,
    /// Whether dom0 shares its home CPU with guests.
    pub dom0_cpu: Dom0Cpu,
    /// Where the node keeps what it must not forget; without, nothing is kept.
    pub state: Option<StateVolume>,
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
        let sane = manifest.port != 0 && MTU_RANGE.contains(&manifest.mtu);
        (manifest.version == VERSION && sane).then_some(manifest)
    }
}

/// What the owner's signature is made over: a label, then the SHA-256 of the file
/// up to the signature, its last part.
#[must_use]
pub fn signed_message(digest: &[u8; 32]) -> Vec<u8> {
    [&b"redoubt image 1"[..], digest].concat()
}

#[cfg(test)]
mod tests {
    use super::Dom0Cpu;

    #[test]
    fn dom0_owns_a_cpu_as_sealed_but_never_the_only_one() {
        let owns = |choice: Dom0Cpu| [1, 2, 3, 4, 64].map(|cpus| choice.owns(cpus));
        assert_eq!(owns(Dom0Cpu::Auto), [false, false, false, true, true]);
        assert_eq!(owns(Dom0Cpu::Own), [false, true, true, true, true]);
        assert_eq!(owns(Dom0Cpu::Shared), [false; 5]);
    }
}
