//! What guests may not claim, and what was dropped of them.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use mgmt_proto::facts::DropReason as Reason;
use netstack::frame::MacAddress;
use netstack::switch::guard::Protected;
use netstack::switch::{DropReason, FirstDrop, UPLINK};

use super::{Network, Port};
use crate::hypervisor::Hypervisor;
use crate::limits::PROTECT_NS;
use crate::node::Node;
use crate::node::nic::Nic;

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
    pub fn drops(&self, guest: u64) -> Vec<(Reason, u64)> {
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
    fn next_first_drop(&mut self) -> Option<(u64, String)> {
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
    fn own_addresses(&self) -> Vec<Ipv4Addr> {
        let leases = (0..self.stacks.cards()).filter_map(|card| self.stacks.get(card)?.lease());
        leases.flat_map(|lease| [Some(lease.address), lease.gateway, lease.server]).flatten().collect()
    }
}

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Finds out whose addresses no guest may claim, now and then: portals and operators
    /// change, and what they are is asked before guests' frames are looked at.
    pub(in crate::node) fn protect_addresses(&mut self, now_ns: u64) {
        let network = &mut self.network;
        if now_ns < network.protect_at_ns {
            return;
        }
        // What a bundle grants holds for guests that run, too.
        let serial = self.trust.bundle().serial;
        if network.policed_serial != Some(serial) {
            network.policed_serial = Some(serial);
            self.police_cards();
        }
        let network = &mut self.network;
        network.protect_at_ns = now_ns.saturating_add(PROTECT_NS);
        let own = network.own_addresses();
        let mut peers = self.volumes.portals();
        peers.extend(self.sessions.operators(&network.stacks.first));
        let cards = network.storage.iter().map(|card| card.nic.mac());
        let own_stations = core::iter::once(network.nic.mac()).chain(cards).map(MacAddress);
        let stacks = (0..network.stacks.cards()).filter_map(|card| network.stacks.get(card));
        let known = stacks.flat_map(|host| host.stations().map(|(_, station)| station));
        let stations = own_stations.chain(known).collect();
        network.switch.protect(Protected { own, peers, stations });
    }

    /// Says once for each guest and reason that a frame was dropped.
    pub(in crate::node) fn log_drops(&mut self) {
        while let Some((number, text)) = self.network.next_first_drop() {
            let guest = self.guests.iter().find(|guest| guest.number == number);
            let name = guest.map_or("", |guest| guest.machine.name.as_str());
            log::warn!("guest {name} {text}");
        }
    }
}
