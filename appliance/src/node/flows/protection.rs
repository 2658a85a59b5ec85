//! Tells the network which addresses no guest may claim, and the log of what was dropped.

use netstack::frame::MacAddress;
use netstack::switch::guard::Protected;

use crate::hypervisor::Hypervisor;
use crate::limits::PROTECT_NS;
use crate::network::nic::Nic;
use crate::node::Node;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Finds out whose addresses no guest may claim, now and then: portals and operators
    /// change, and what they are is asked before guests' frames are looked at.
    pub(crate) fn protect_addresses(&mut self, now_ns: u64) {
        let network = &mut self.network;
        if now_ns < network.protect_at_ns {
            return;
        }
        // What a bundle grants holds for guests that run, too.
        let serial = self.trust.serial();
        if network.policed_serial != Some(serial) {
            network.policed_serial = Some(serial);
            self.police_cards();
        }
        let network = &mut self.network;
        network.protect_at_ns = now_ns.saturating_add(PROTECT_NS);
        let own = network.own_addresses();
        let mut peers = self.volumes.portals();
        peers.extend(self.operators.sessions.operators(&network.stacks.first));
        let cards = network.storage.iter().map(|card| card.nic.mac());
        let own_stations = core::iter::once(network.nic.mac()).chain(cards).map(MacAddress);
        let stacks = (0..network.stacks.cards()).filter_map(|card| network.stacks.get(card));
        let known = stacks.flat_map(|host| host.stations().map(|(_, station)| station));
        let stations = own_stations.chain(known).collect();
        network.switch.protect(Protected { own, peers, stations });
    }

    /// Says once for each guest and reason that a frame was dropped.
    pub(crate) fn log_drops(&mut self) {
        while let Some((number, text)) = self.network.next_first_drop() {
            let guest = self.guests.list.iter().find(|guest| guest.number == number);
            let name = guest.map_or("", |guest| guest.machine.name.as_str());
            log::warn!(target: "network", "guest {name} {text}");
        }
    }
}
