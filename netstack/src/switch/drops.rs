//! What the switch drops, and why.

use core::net::IpAddr;

use super::PortId;
use crate::frame::MacAddress;

/// Why a frame was not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Shorter than its headers say, with too many VLAN tags, or a segment of TCP, to be cut,
    /// that is for a group.
    Malformed,
    /// Longer than the switch's maximum.
    Giant,
    /// The ingress port is not attached.
    NoPort,
    /// Sent from a MAC that is not the port's.
    SourceMac,
    /// A guest spoke AoE.
    AoeFromGuest,
    /// A guest addressed a reserved link-local group.
    LinkLocal,
    /// The port's rate limit is used up.
    Rate,
    /// No destination \(the destination is behind the ingress port).
    NoDestination,
    /// A guest addressed the node itself.
    Node,
    /// A guest's ARP packet claims a protected address, or another's hardware address.
    ArpClaim,
    /// A guest sent from a protected IPv4 address.
    Ipv4Claim,
    /// A guest claimed a protected address over IPv6.
    Ipv6Claim,
    /// A guest's interface has addresses, and this is none of them.
    Address,
    /// A guest answered as a DHCP server.
    DhcpServer,
    /// A guest sent a router advertisement.
    RouterAdvertisement,
    /// A guest sent a redirect.
    Redirect,
    /// A fragment that hides what it carries.
    HiddenHeader,
    /// A guest sent a tagged frame.
    Tagged,
}

impl DropReason {
    /// All of them, in the order of [`Drops`].
    pub const ALL: [Self; 18] = [
        Self::Malformed,
        Self::Giant,
        Self::NoPort,
        Self::SourceMac,
        Self::AoeFromGuest,
        Self::LinkLocal,
        Self::Rate,
        Self::NoDestination,
        Self::Node,
        Self::ArpClaim,
        Self::Ipv4Claim,
        Self::Ipv6Claim,
        Self::Address,
        Self::DhcpServer,
        Self::RouterAdvertisement,
        Self::Redirect,
        Self::HiddenHeader,
        Self::Tagged,
    ];
}

/// Frames dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    /// Counts one; the number there are now.
    pub(super) fn count(&mut self, reason: DropReason) -> u64 {
        let place = DropReason::ALL.iter().position(|it| *it == reason);
        let Some(counter) = place.and_then(|place| self.0.get_mut(place)) else { return 0 };
        *counter = counter.saturating_add(1);
        *counter
    }

    /// Reasons for which frames were dropped, and how many.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().zip(self.0).filter(|(_, count)| *count != 0)
    }

    /// Frames dropped for one reason.
    #[must_use]
    pub fn of(&self, reason: DropReason) -> u64 {
        self.iter().find(|(it, _)| *it == reason).map_or(0, |(_, count)| count)
    }
}

/// A frame that was dropped as the first one for its reason at its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstDrop {
    /// Where it entered.
    pub port: PortId,
    /// Why it was dropped.
    pub reason: DropReason,
    /// The hardware address it was sent from.
    pub source: Option<MacAddress>,
    /// The address that it claims.
    pub claimed: Option<IpAddr>,
}
