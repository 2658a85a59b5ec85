//! The node's TCP/IP stacks: one of the first card, and one for each storage card that
//! has an address.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use netstack::host::{ConnectionId, Host, HostError, Lease, TcpOptions};
use netstack::limits::HOST_BUFFER_BYTES_MAX;

/// All stacks, by the number of their card.
pub struct Stacks {
    /// The first card's: the one door, and whatever else is not a storage card's.
    pub first: Host,
    others: Vec<Option<Host>>,
    leases: Vec<Option<Lease>>,
    changes: u64,
    /// Buffer memory that is left for volumes which have no connection.
    kept_bytes: usize,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A volume's only one: there is memory for it.
    First,
    /// One more of a volume: it takes what the first ones of all others leave.
    Further,
    /// A question: it takes little, and that is there.
    Question,
}

impl Purpose {
    const fn options(self) -> TcpOptions {
        match self {
            Self::First | Self::Further => TcpOptions::STORAGE,
            Self::Question => TcpOptions::QUESTIONS,
        }
    }
}

/// Volumes that can be connected: each has one connection at least. What is left is for
/// questions.
pub(crate) const VOLUMES_CONNECTED_MAX: usize = HOST_BUFFER_BYTES_MAX / TcpOptions::STORAGE.bytes();
const QUESTIONS_BYTES: usize = HOST_BUFFER_BYTES_MAX % TcpOptions::STORAGE.bytes();
const _: () = assert!(VOLUMES_CONNECTED_MAX == 24 && QUESTIONS_BYTES >= 2 * TcpOptions::QUESTIONS.bytes());

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
        Self { first, others: Vec::new(), leases: Vec::new(), changes: 0, kept_bytes: 0 }
    }

    /// Volumes that are to be connected, and are not, find memory for that.
    pub const fn keep_for(&mut self, volumes: usize) {
        self.kept_bytes = volumes.saturating_mul(TcpOptions::STORAGE.bytes());
    }

    /// Opens a connection from a card: all of them share one supply of buffers.
    ///
    /// # Errors
    /// The card has no stack, or see [`Host::connect`].
    pub fn connect(
        &mut self,
        card: usize,
        (address, port): (Ipv4Addr, u16),
        purpose: Purpose,
    ) -> Result<ConnectionId, HostError> {
        let used: usize = (0..self.cards()).filter_map(|card| self.get(card)).map(Host::buffer_bytes).sum();
        let kept = match purpose {
            Purpose::First => QUESTIONS_BYTES,
            Purpose::Further => self.kept_bytes.saturating_add(QUESTIONS_BYTES),
            Purpose::Question => 0,
        };
        let free = HOST_BUFFER_BYTES_MAX.saturating_sub(used).saturating_sub(kept);
        let host = self.get_mut(card).ok_or(HostError::NoAddress)?;
        host.limit_buffers(host.buffer_bytes().saturating_add(free));
        host.connect(address, port, purpose.options())
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
    fn all_cards_share_one_supply_of_buffers() {
        let mut stacks = Stacks::new(host([10, 0, 0, 1], None));
        stacks.add(Some(host([10, 0, 5, 1], None)));
        let connect = |stacks: &mut Stacks, card: usize, purpose: Purpose| {
            let network = if card == 0 { 0 } else { 5 };
            stacks.connect(card, (Ipv4Addr::new(10, 0, network, 9), 3260), purpose)
        };
        // Of the first ones, two are kept back for volumes that have none yet.
        stacks.keep_for(2);
        for number in 0..VOLUMES_CONNECTED_MAX - 2 {
            assert!(connect(&mut stacks, number % 2, Purpose::Further).is_ok(), "{number}");
        }
        for card in [0, 1] {
            assert_eq!(connect(&mut stacks, card, Purpose::Further), Err(HostError::Exhausted));
        }
        for card in [1, 0] {
            assert!(connect(&mut stacks, card, Purpose::First).is_ok());
            stacks.keep_for(0);
        }
        for purpose in [Purpose::First, Purpose::Further] {
            assert_eq!(connect(&mut stacks, 1, purpose), Err(HostError::Exhausted));
        }
        // Questions have their own.
        assert!(connect(&mut stacks, 0, Purpose::Question).is_ok());
        let last = connect(&mut stacks, 1, Purpose::Question).unwrap();
        assert_eq!(connect(&mut stacks, 0, Purpose::Question), Err(HostError::Exhausted));
        let used: usize = [0, 1].map(|card| stacks.get(card).unwrap().buffer_bytes()).iter().sum();
        assert_eq!(used, HOST_BUFFER_BYTES_MAX);
        stacks.get_mut(1).unwrap().abort(last, 0);
        stacks.tend(1);
        stacks.egress(1);
        stacks.tend(2);
        assert!(connect(&mut stacks, 0, Purpose::Question).is_ok(), "what is gone has left its share");
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
