//! What a session is told, and what discovery tells.
//!
//! Spec: RFC 7143 sections 4.2.7 (names), 13.8 (TargetAddress).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;

use crate::iscsi::chap::Credentials;
use crate::iscsi::login::DigestPolicy;

/// Where a target listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Portal {
    /// Address.
    pub address: Ipv4Addr,
    /// TCP port.
    pub port: u16,
}

impl Portal {
    /// iSCSI's registered port.
    pub const PORT: u16 = 3260;

    /// Reads `address[:port]`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, port) = match text.split_once(':') {
            Some((address, port)) => (address, port.parse().ok().filter(|port| *port != 0)?),
            None => (text, Self::PORT),
        };
        Some(Self { address: address.parse().ok()?, port })
    }

    /// Reads a TargetAddress value: `address[:port][,group]` (13.8).
    pub(crate) fn parse_target_address(text: &str) -> Option<Self> {
        Self::parse(text.split_once(',').map_or(text, |(portal, _)| portal))
    }
}

impl fmt::Display for Portal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.address)?;
        if self.port == Self::PORT { Ok(()) } else { write!(formatter, ":{}", self.port) }
    }
}

/// What a session is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionKind {
    /// A disk.
    Normal {
        /// The target's name.
        target: String,
        /// The logical unit.
        lun: u16,
    },
    /// A list of targets.
    Discovery,
}

/// How several paths are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathPolicy {
    /// One, until it fails.
    #[default]
    Failover,
    /// All, each request on the one with the least to do.
    RoundRobin,
}

/// What a session needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Where to connect: one path for each.
    pub portals: Vec<Portal>,
    /// How several paths are used.
    pub policy: PathPolicy,
    /// This node's name; unique in the world.
    pub initiator: String,
    /// What for.
    pub kind: SessionKind,
    /// Distinguishes this volume's session from the node's others; kept across
    /// reconnections and restarts, so that the target drops the old session.
    pub isid: [u8; 6],
    /// How we authenticate.
    pub credentials: Option<Credentials>,
    /// Whether headers and data carry digests.
    pub digests: DigestPolicy,
    /// Reserves the disk under this key, so that no other node writes to it.
    pub reservation: Option<u64>,
    /// A holder of the reservation that has to give way.
    pub preempt: Option<u64>,
    /// Writes are refused.
    pub read_only: bool,
    /// Unpredictable.
    pub seed: u64,
}

impl SessionConfig {
    /// A disk at one portal, everything else as the defaults have it.
    #[must_use]
    pub fn new(portal: Portal, initiator: String, kind: SessionKind, isid: [u8; 6], seed: u64) -> Self {
        Self {
            portals: alloc::vec![portal],
            policy: PathPolicy::Failover,
            initiator,
            kind,
            isid,
            credentials: None,
            digests: DigestPolicy::Preferred,
            reservation: None,
            preempt: None,
            read_only: false,
            seed,
        }
    }
}

/// An answer to discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredTarget {
    /// The target's name.
    pub name: String,
    /// Where it listens; empty means where we asked.
    pub portals: Vec<Portal>,
    /// Addresses that are no IPv4 address, or too many.
    pub other_addresses: usize,
}
