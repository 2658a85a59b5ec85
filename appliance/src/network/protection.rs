//! What guests may not claim, and what was dropped of them.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use mgmt_proto::facts::DropReason as Reason;
use netstack::switch::{DropReason, FirstDrop, UPLINK};

use crate::guests::number::GuestNumber;
use crate::network::nic::Nic;
use crate::network::{Network, Port};

/// As it is told; none for what cannot happen to a guest that is there.
const fn told(reason: DropReason) -> Option<Reason> {
    Some(match reason {
        DropReason::Malformed => Reason::Malformed,
        DropReason::Giant => Reason::Giant,
        DropReason::NoPort => return None,
        DropReason::SourceMac => Reason::SourceMac,
        DropReason::AoeFromGuest => Reason::AoeFromGuest,
        DropReason::LinkLocal => Reason::LinkLocal,
        DropReason::Rate => Reason::Rate,
        DropReason::NoDestination => Reason::NoDestination,
        DropReason::Node => Reason::Node,
        DropReason::ArpClaim => Reason::ArpClaim,
        DropReason::Ipv4Claim => Reason::Ipv4Claim,
        DropReason::Ipv6Claim => Reason::Ipv6Claim,
        DropReason::Address => Reason::Address,
        DropReason::DhcpServer => Reason::DhcpServer,
        DropReason::RouterAdvertisement => Reason::RouterAdvertisement,
        DropReason::Redirect => Reason::Redirect,
        DropReason::HiddenHeader => Reason::HiddenHeader,
        DropReason::Tagged => Reason::Tagged,
    })
}

/// What a guest's frame had that made it be dropped, in words.
fn in_words(drop: &FirstDrop) -> Option<String> {
    if drop.port == UPLINK {
        let mac = drop.source?;
        return Some(format!(
            "shares its MAC {mac} with a machine on the wire, which this node does not hear: \
             give one of them another"
        ));
    }
    let name = told(drop.reason)?.name();
    let from = drop.source.map(|mac| format!(" from {mac}")).unwrap_or_default();
    let claimed = drop.claimed.map(|address| format!(", address {address}")).unwrap_or_default();
    Some(format!("sent a frame that was dropped: {name}{from}{claimed}"))
}

impl<N: Nic> Network<N> {
    /// Frames of a guest that were dropped, by reason.
    #[must_use]
    pub fn drops(&self, guest: GuestNumber) -> Vec<(Reason, u64)> {
        let mut all: Vec<(Reason, u64)> = Vec::new();
        let own = self.ports.iter().filter(|port| port.guest == guest);
        for counters in own.filter_map(|port| self.switch.counters(port.id)) {
            for (reason, count) in counters.drops.iter() {
                let Some(reason) = told(reason) else { continue };
                match all.iter_mut().find(|(it, _)| *it == reason) {
                    Some((_, sum)) => *sum = sum.saturating_add(count),
                    None => all.push((reason, count)),
                }
            }
        }
        all
    }

    /// The next guest of which a frame was dropped for the first time for its reason, and
    /// what is said of it.
    pub(crate) fn next_first_drop(&mut self) -> Option<(GuestNumber, String)> {
        while let Some(drop) = self.switch.take_first_drop() {
            let of_port = |port: &&Port| match drop.port {
                UPLINK => self.switch.mac(port.id) == drop.source,
                id => port.id == id,
            };
            let port = self.ports.iter().find(of_port);
            if let (Some(port), Some(text)) = (port, in_words(&drop)) {
                return Some((port.guest, text));
            }
        }
        None
    }

    /// The addresses of the node, and of those that gave it one or lead its packets on.
    pub(crate) fn own_addresses(&self) -> Vec<Ipv4Addr> {
        let leases = (0..self.stacks.cards()).filter_map(|card| self.stacks.get(card)?.lease());
        leases.flat_map(|lease| [Some(lease.address), lease.gateway, lease.server]).flatten().collect()
    }
}
