//! What a guest's port may send, as its owner has it.

use alloc::vec::Vec;
use core::net::IpAddr;

use crate::frame::MacAddress;

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// An address in it.
    pub address: IpAddr,
    /// Leading bits that its addresses share.
    pub length: u8,
}

impl Prefix {
    /// Whether an address is in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |own: u128, other: u128, bits: u32| {
            let rest = bits.saturating_sub(u32::from(self.length));
            (own ^ other).checked_shr(rest).unwrap_or(0) == 0
        };
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                same(u128::from(own.to_bits()), u128::from(other.to_bits()), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => same(own.to_bits(), other.to_bits(), 128),
            _ => false,
        }
    }

    /// Whether it is this address and no other.
    #[must_use]
    pub fn is(&self, address: IpAddr) -> bool {
        self.address == address && self.length == if address.is_ipv4() { 32 } else { 128 }
    }
}

/// What a guest's port may send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The only addresses it may have; empty is any that is not protected.
    pub addresses: Vec<Prefix>,
    /// Nothing leaves it, whatever its addresses: a node that requires them was given none.
    pub closed: bool,
    /// Hardware addresses besides its own that it may send from.
    pub macs: usize,
    /// Virtual routers whose hardware addresses it may send from.
    pub vrrp: Vec<u8>,
    /// It may send from any address that is not the node's, and advertise itself as a router.
    pub router: bool,
    /// It may answer as a DHCP server.
    pub dhcp_server: bool,
    /// VLANs that it is in, tagged.
    pub trunk: Vec<u16>,
    /// The TCP port of the node that it reaches.
    pub management: Option<u16>,
}

impl Policy {
    pub(super) fn grants(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|prefix| prefix.contains(address))
    }

    /// Whether it was given this very address. A range takes nothing from another station.
    pub(super) fn names(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|prefix| prefix.is(address))
    }

    /// Whether a hardware address is of one of its virtual routers.
    pub(super) fn has_router(&self, mac: MacAddress) -> bool {
        virtual_router(mac).is_some_and(|id| self.vrrp.contains(&id))
    }
}

/// The virtual router that a hardware address is of (RFC 9568, 7.3).
pub(super) const fn virtual_router(mac: MacAddress) -> Option<u8> {
    match mac.0 {
        [0, 0, 0x5e, 0, 1 | 2, id] => Some(id),
        _ => None,
    }
}
