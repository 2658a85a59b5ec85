//! What a session is told, and what discovery tells.
//!
//! Spec: RFC 7143 sections 4.2.7 (names), 13.8 (TargetAddress).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;

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

/// What a session needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// Where to connect.
    pub portal: Portal,
    /// This node's name; unique in the world.
    pub initiator: String,
    /// What for.
    pub kind: SessionKind,
    /// Distinguishes this volume's session from the node's others; kept across
    /// reconnections and restarts, so that the target drops the old session.
    pub isid: [u8; 6],
    /// Unpredictable.
    pub seed: u64,
}

/// An answer to discovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredTarget {
    /// The target's name.
    pub name: String,
    /// Where it listens; empty means where we asked.
    pub portals: Vec<Portal>,
}
