//! The node's TCP/IP stacks: one of the first card, and one for each storage card that
//! has an address.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use netstack::host::{Host, Lease};

/// All stacks, by the number of their card.
pub struct Stacks {
    /// The first card's: the one door, and whatever else is not a storage card's.
    pub first: Host,
    others: Vec<Option<Host>>,
    leases: Vec<Option<Lease>>,
    changes: u64,
}

/// Which addresses a lease reaches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// Through its gateway.
    Routed,
    /// Its network is the address's own.
    Direct,
}

impl Stacks {
    /// The first card's stack alone.
    #[must_use]
    pub const fn new(first: Host) -> Self {
        Self { first, others: Vec::new(), leases: Vec::new(), changes: 0 }
    }

    /// Adds the next card, which may have no stack.
    pub fn add(&mut self, host: Option<Host>) {
        self.others.push(host);
        self.note_leases();
    }

    /// How many cards there are.
    #[must_use]
    pub fn cards(&self) -> usize {
        self.others.len().saturating_add(1)
    }

    /// A card's stack.
    #[must_use]
    pub fn get(&self, card: usize) -> Option<&Host> {
        match card.checked_sub(1) {
            None => Some(&self.first),
            Some(other) => self.others.get(other)?.as_ref(),
        }
    }

    /// The same, to be used.
    pub fn get_mut(&mut self, card: usize) -> Option<&mut Host> {
        match card.checked_sub(1) {
            None => Some(&mut self.first),
            Some(other) => self.others.get_mut(other)?.as_mut(),
        }
    }

    /// The first half of a look at all stacks: [`Host::tend`].
    pub fn tend(&mut self, now_ns: u64) {
        self.first.tend(now_ns);
        if !self.others.is_empty() {
            for host in self.others.iter_mut().flatten() {
                host.tend(now_ns);
            }
            self.note_leases();
        }
    }

    /// The second half: [`Host::egress`].
    pub fn egress(&mut self, now_ns: u64) {
        self.first.egress(now_ns);
        for host in self.others.iter_mut().flatten() {
            host.egress(now_ns);
        }
    }

    fn note_leases(&mut self) {
        let same = self.leases.len() == self.cards()
            && (0..).zip(&self.leases).all(|(card, known)| self.get(card).and_then(Host::lease) == *known);
        if !same {
            self.leases = (0..self.cards()).map(|card| self.get(card).and_then(Host::lease)).collect();
            self.changes = self.changes.wrapping_add(1);
        }
    }

    /// Another number whenever an address came, changed or went.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// When they are next to be looked at.
    pub fn next_deadline(&mut self, now_ns: u64) -> Option<u64> {
        let first = self.first.next_deadline(now_ns);
        let others = self.others.iter_mut().flatten().filter_map(|host| host.next_deadline(now_ns));
        others.chain(first).min()
    }

    /// The cards from which an address can be reached, the best first: those in its own
    /// network, or if there is none, those with a gateway; storage cards before the
    /// first one.
    #[must_use]
    pub fn reaching(&self, address: Ipv4Addr) -> Vec<usize> {
        let reach = |card: usize| {
            let lease = self.get(card)?.lease()?;
            match lease.is_direct(address) {
                true => Some(Reach::Direct),
                false => lease.gateway.map(|_| Reach::Routed),
            }
        };
        let found: Vec<(Reach, usize)> =
            (1..self.cards()).chain([0]).filter_map(|card| Some((reach(card)?, card))).collect();
        let best = found.iter().map(|(reach, _)| *reach).max();
        found.into_iter().filter(|(reach, _)| Some(*reach) == best).map(|(_, card)| card).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netstack::frame::MacAddress;
    use netstack::host::{Addressing, HostConfig};
    use netstack::offload::Accepts;

    fn host(address: [u8; 4], gateway: Option<[u8; 4]>) -> Host {
        let addressing =
            Addressing::Static { address: address.into(), prefix: 24, gateway: gateway.map(Into::into) };
        let mac = MacAddress([2, 0, 0, 0, 0, address[2]]);
        Host::new(
            &HostConfig { mac, mtu: 1500, accepts: Accepts::default(), addressing, seed: 1, secret: [0; 16] },
            0,
        )
        .unwrap()
    }

    #[test]
    fn an_address_is_reached_from_its_own_network_first() {
        let mut stacks = Stacks::new(host([10, 0, 0, 1], Some([10, 0, 0, 9])));
        let reaching = |stacks: &Stacks, address: [u8; 4]| stacks.reaching(address.into());
        assert_eq!(reaching(&stacks, [10, 0, 0, 3]), [0]);
        assert_eq!(reaching(&stacks, [10, 0, 5, 3]), [0], "by its gateway");
        stacks.add(Some(host([10, 0, 5, 1], None)));
        stacks.add(None);
        stacks.add(Some(host([10, 0, 5, 2], Some([10, 0, 5, 9]))));
        assert_eq!(stacks.cards(), 4);
        assert_eq!(reaching(&stacks, [10, 0, 5, 3]), [1, 3]);
        assert_eq!(reaching(&stacks, [10, 0, 0, 3]), [0]);
        assert_eq!(reaching(&stacks, [10, 0, 7, 3]), [3, 0], "by two gateways");
        assert!(stacks.get(2).is_none() && stacks.get_mut(3).is_some() && stacks.get(4).is_none());
    }

    #[test]
    fn without_a_gateway_nothing_else_is_reached() {
        let mut stacks = Stacks::new(host([10, 0, 0, 1], None));
        stacks.add(Some(host([10, 0, 5, 1], None)));
        assert!(stacks.reaching([10, 0, 7, 3].into()).is_empty());
    }

    #[test]
    fn whoever_watches_addresses_hears_of_one_that_comes() {
        let mut stacks = Stacks::new(host([10, 0, 0, 1], None));
        let dhcp = HostConfig {
            mac: MacAddress([2, 0, 0, 0, 0, 7]),
            mtu: 1500,
            accepts: Accepts::default(),
            addressing: Addressing::Dhcp,
            seed: 1,
            secret: [0; 16],
        };
        stacks.add(Some(Host::new(&dhcp, 0).unwrap()));
        let before = stacks.changes();
        stacks.tend(1);
        assert_eq!(stacks.changes(), before, "nothing came");
        stacks.add(Some(host([10, 0, 5, 1], None)));
        assert_ne!(stacks.changes(), before);
    }
}
