//! Which cards guests may have.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr};

use mgmt_proto::machine::{Machine, NetworkCard};
use mgmt_proto::reason::{AddressOwner, Reason, Refusal};
use mgmt_proto::vif::{self, Privileges};
use netstack::frame::MacAddress;
use netstack::switch::{Policy, Prefix};

use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Checks the cards of a new guest.
    pub(crate) fn check_cards(&self, machine: &Machine) -> Result<(), Refusal> {
        let name = &machine.name;
        for (index, card) in machine.network_cards.iter().enumerate() {
            if let Some(owner) = self.owner_of(card.mac) {
                return Err(Refusal::of(name, Reason::MacTaken { owner }));
            }
            if let Some(beyond) = card.privileges.beyond(self.trust.bundles.privileges(name)) {
                return Err(Refusal::of(name, Reason::VifNotGranted { vif: number(index), beyond }));
            }
            if self.settings.manifest.guest_addresses_required && card.addresses.is_empty() {
                return Err(Refusal::of(name, Reason::VifWithoutAddress { vif: number(index) }));
            }
            for prefix in card.addresses.iter().filter(|prefix| prefix.is_one()) {
                self.check_address(machine, card, prefix.address).map_err(|owner| {
                    let vif = number(index);
                    Refusal::of(name, Reason::AddressTaken { vif, address: prefix.address, owner })
                })?;
            }
        }
        Ok(())
    }

    /// Checks an address that a card is to have.
    fn check_address(
        &self,
        machine: &Machine,
        card: &NetworkCard,
        address: IpAddr,
    ) -> Result<(), AddressOwner> {
        let IpAddr::V4(v4) = address else { return Ok(()) };
        let stacks = &self.network.stacks;
        let leases = (0..stacks.cards()).filter_map(|number| stacks.get(number)?.lease());
        for lease in leases {
            if lease.address == v4 {
                return Err(AddressOwner::Node);
            }
            if lease.gateway == Some(v4) {
                return Err(AddressOwner::Gateway);
            }
            if lease.server == Some(v4) {
                return Err(AddressOwner::DhcpServer);
            }
        }
        if self.volumes.portals().contains(&v4) {
            return Err(AddressOwner::Portal);
        }
        // Where an answer goes must be beyond doubt.
        let others = self.guests.list.iter().filter(|guest| guest.machine.name != machine.name);
        let mut others = others.flat_map(|guest| &guest.machine.network_cards);
        let has = |other: &NetworkCard| other.addresses.iter().any(|it| it.is_one() && it.address == address);
        match others.any(|other| (other.privileges.management || card.privileges.management) && has(other)) {
            true => Err(AddressOwner::Manager),
            false => Ok(()),
        }
    }

    /// Sets what guests' cards may send, as they ask and as the owner grants it now.
    pub(crate) fn police_cards(&mut self) {
        let manifest = &self.settings.manifest;
        let mut attached = Vec::new();
        for guest in &self.guests.list {
            for (index, card) in guest.machine.network_cards.iter().enumerate() {
                let granted = card.privileges.granted(self.trust.bundles.privileges(&guest.machine.name));
                if granted.management {
                    attached.extend(own_addresses(card).map(|address| (address, MacAddress(card.mac))));
                }
                let required = manifest.guest_addresses_required;
                let policy = policy(card, granted, required, manifest.port);
                self.network.set_policy(guest.number, guest.first_card() + index, policy);
            }
        }
        self.network.stacks.first.set_attached(attached);
        // A new guest's disks may have portals that are to be protected from now on.
        self.network.protect_at_ns = 0;
    }

    /// Who has a hardware address already: what comes from there by the wire is dropped
    /// once a guest has it.
    fn owner_of(&self, mac: [u8; 6]) -> Option<String> {
        let has = |guest: &&crate::guests::guest::Guest<_>| {
            guest.machine.network_cards.iter().any(|card| card.mac == mac)
        };
        if let Some(guest) = self.guests.list.iter().find(has) {
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
        let is = |other: Option<Ipv4Addr>| other == Some(address);
        let what = match lease {
            Some(lease) if is(lease.gateway) => "the node's gateway",
            Some(lease) if is(lease.server) => "the node's DHCP server",
            _ if self.volumes.portals().contains(&address) => "the portal",
            _ => "a station that the node talks to,",
        };
        Some(format!("{what} {address}"))
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

fn own_addresses(card: &NetworkCard) -> impl Iterator<Item = Ipv4Addr> {
    card.addresses.iter().filter(|prefix| prefix.is_one()).filter_map(|prefix| match prefix.address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    })
}

fn policy(card: &NetworkCard, granted: Privileges, required: bool, port: u16) -> Policy {
    let prefix = |it: &vif::Prefix| Prefix { address: it.address, length: it.length };
    let Privileges { macs, vrrp, router, dhcp_server, trunk, management } = granted;
    Policy {
        addresses: card.addresses.iter().map(prefix).collect(),
        closed: required && card.addresses.is_empty(),
        macs: usize::from(macs),
        vrrp,
        router,
        dhcp_server,
        trunk,
        management: management.then_some(port),
    }
}
