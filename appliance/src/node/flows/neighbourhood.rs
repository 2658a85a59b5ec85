//! Tells what was noticed of the wire: [`crate::network::neighbourhood`].

use mgmt_proto::facts::AddressClaims;
use netstack::host::Host;

use crate::hypervisor::Hypervisor;
use crate::limits::CLAIM_LOG_NS;
use crate::network::nic::Nic;
use crate::node::Node;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Claims of the node's addresses, on all cards.
    pub(crate) fn address_claims(&self) -> AddressClaims {
        let stacks = &self.network.stacks;
        let all = (0..stacks.cards()).filter_map(|card| Some(stacks.get(card)?.claims()));
        all.fold(AddressClaims::default(), |sum, claims| AddressClaims {
            count: sum.count.saturating_add(claims.count),
            by: claims.by.map(|mac| mac.0).or(sum.by),
        })
    }

    /// Says that another station claims an address of the node, not more often than once in
    /// a while, each portal that moved, and each peer with a narrow path.
    pub(crate) fn log_neighbours(&mut self, now_ns: u64) {
        let claims = self.address_claims();
        let news = claims.count != self.neighbourhood.logged && now_ns >= self.neighbourhood.next_log_ns;
        if let Some(mac) = claims.by.filter(|_| news) {
            self.neighbourhood.logged = claims.count;
            self.neighbourhood.next_log_ns = now_ns.saturating_add(CLAIM_LOG_NS);
            let mac = mgmt_proto::units::mac_text(mac);
            log::error!(target: "network", "{mac} claims an address of this node, which is defended; {} claims so far",
                claims.count);
        }
        let mut portals = None;
        for card in 0..self.network.stacks.cards() {
            while let Some(moved) = self.network.stacks.get_mut(card).and_then(Host::next_moved) {
                let portals = portals.get_or_insert_with(|| self.volumes.portals());
                let is_portal = portals.contains(&moved.address);
                self.neighbourhood.portals_moved += u64::from(is_portal);
                let what = if is_portal { "portal" } else { "neighbour" };
                log::warn!(target: "network", "{what} {} moved from {} to {}", moved.address, moved.from, moved.to);
            }
            self.log_narrow_paths(card);
        }
    }

    /// Names each peer of a card once to whom packets must be shorter than the card's.
    fn log_narrow_paths(&mut self, card: usize) {
        while let Some(narrow) = self.network.stacks.get_mut(card).and_then(Host::next_narrow) {
            let why = if narrow.silently { "longer ones are lost" } else { "a router says so" };
            log::warn!(target: "network", "packets to {} are of {} octets at most: {why}",
                narrow.peer, narrow.packet_bytes);
        }
    }

    /// How often packets to a peer became shorter, on all cards.
    pub(crate) fn paths_shortened(&self) -> u32 {
        let stacks = &self.network.stacks;
        let all = (0..stacks.cards()).filter_map(|card| stacks.get(card));
        all.fold(0, |sum, host| sum.saturating_add(host.paths_shortened()))
    }
}
