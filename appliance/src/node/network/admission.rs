//! Which cards guests may have.

use alloc::format;
use alloc::string::String;

use mgmt_proto::code::{Code, Failure};
use mgmt_proto::machine::Machine;
use netstack::frame::MacAddress;

use crate::hypervisor::Hypervisor;
use crate::node::Node;
use crate::node::nic::Nic;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Checks the cards of a new guest.
    pub(in crate::node) fn check_cards(&self, machine: &Machine) -> Result<(), Failure> {
        for card in &machine.network_cards {
            if let Some(owner) = self.owner_of(card.mac) {
                let message = format!("{owner} has the same MAC as one of its vifs");
                return Err(Failure::new(Code::Conflict, &machine.name, message, "give vif another mac"));
            }
        }
        Ok(())
    }

    /// Who has a hardware address already: what comes from there by the wire is dropped
    /// once a guest has it.
    fn owner_of(&self, mac: [u8; 6]) -> Option<String> {
        let has = |guest: &&crate::node::guest::Guest<_>| {
            guest.machine.network_cards.iter().any(|card| card.mac == mac)
        };
        if let Some(guest) = self.guests.iter().find(has) {
            return Some(format!("guest {}", guest.machine.name));
        }
        if self.network.has_mac(mac) {
            return Some("the node itself".into());
        }
        if self.volumes.is_target(mac) {
            return Some("an AoE target in use".into());
        }
        let stacks = &self.network.stacks;
        let hosts = (0..stacks.cards()).filter_map(|card| stacks.get(card));
        let (lease, address) = hosts.into_iter().find_map(|host| {
            let station = host.stations().find(|(_, station)| *station == MacAddress(mac));
            station.map(|(address, _)| (host.lease(), address))
        })?;
        let is = |other: Option<core::net::Ipv4Addr>| other == Some(address);
        let what = match lease {
            Some(lease) if is(lease.gateway) => "the node's gateway",
            Some(lease) if is(lease.server) => "the node's DHCP server",
            _ if self.volumes.portals().contains(&address) => "the portal",
            _ => "a station that the node talks to,",
        };
        Some(format!("{what} {address}"))
    }
}
