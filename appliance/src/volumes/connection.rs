//! A volume's octets on their way through TCP: a connection for each path, from the card
//! that leads to its portal.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use netstack::host::{ConnectionId, ConnectionState, Host};
use storage::Payload;
use storage::iscsi::{Portal, Session};

use crate::limits::{PDU_OCTETS_PER_CALL, PDU_OCTETS_PER_TURN, PDUS_PER_TURN};
use crate::network::stacks::{Purpose, Stacks};

/// How a path goes.
#[derive(Clone, Copy, Debug, Default)]
struct PathConnection {
    /// The card that it is for, once one is known to reach its portal.
    card: Option<usize>,
    /// The connection, and from which card.
    open: Option<(usize, ConnectionId)>,
    /// The connection is to be made anew, from the card that it is for now.
    moves: bool,
}

/// What of iSCSI is still looked at in a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pdus: u64,
    octets: usize,
    is_over: bool,
}

impl Pace {
    /// That of a whole turn.
    pub(crate) const TURN: Self = Self { pdus: PDUS_PER_TURN, octets: PDU_OCTETS_PER_TURN, is_over: false };

    /// Whether something was left for the next turn.
    pub(crate) const fn is_over(&self) -> bool {
        self.is_over
    }

    const fn may_read(&mut self) -> bool {
        self.is_over |= self.pdus == 0;
        self.pdus > 0
    }

    const fn may_write(&mut self) -> bool {
        self.is_over |= self.octets == 0;
        self.octets > 0
    }
}

/// The connections of a session, one for each path.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    paths: Vec<PathConnection>,
    /// The addresses from which paths were chosen.
    seen: u64,
    /// One path to each portal is enough.
    single: bool,
    /// They carry little.
    questions: bool,
}

impl Connections {
    /// For a session that ends with its first answer.
    pub(crate) fn single() -> Self {
        Self { single: true, questions: true, ..Self::default() }
    }

    /// For a session that is asked and moves no data.
    pub(crate) fn questions() -> Self {
        Self { questions: true, ..Self::default() }
    }

    /// Whether a connection is there, or being made.
    pub(crate) fn is_open(&self) -> bool {
        self.paths.iter().any(|connection| connection.open.is_some())
    }

    /// The card that a path leaves from.
    pub(crate) fn card(&self, path: usize) -> Option<usize> {
        let connection = self.paths.get(path)?;
        connection.open.map(|(card, _)| card).or(connection.card)
    }

    /// Ends all connections without a word.
    pub(crate) fn abort(self, stacks: &mut Stacks, now_ns: u64) {
        for (card, id) in self.paths.into_iter().filter_map(|connection| connection.open) {
            if let Some(host) = stacks.get_mut(card) {
                host.abort(id, now_ns);
            }
        }
    }

    /// Closes all connections.
    pub(crate) fn close(self, stacks: &mut Stacks, now_ns: u64) {
        for (card, id) in self.paths.into_iter().filter_map(|connection| connection.open) {
            if let Some(host) = stacks.get_mut(card) {
                host.close(id, now_ns);
            }
        }
    }

    /// Moves a volume's bytes through its connections, opening those it wants.
    pub(crate) fn drive(
        &mut self,
        session: &mut Session,
        stacks: &mut Stacks,
        payload: &mut dyn Payload,
        (pace, now_ns): (&mut Pace, u64),
    ) {
        if self.paths.len() != session.paths() || self.seen != stacks.changes() {
            self.choose_paths(session, stacks);
        }
        let mut open = self.paths.iter().filter(|connection| connection.open.is_some()).count();
        for (path, connection) in self.paths.iter_mut().enumerate() {
            let others = open - usize::from(connection.open.is_some());
            let purpose = match others {
                _ if self.questions => Purpose::Question,
                0 => Purpose::First,
                _ => Purpose::Further,
            };
            connection.drive(session, path, purpose, stacks, payload, (pace, now_ns));
            open = others + usize::from(connection.open.is_some());
        }
    }

    /// A card's link went down, or came back: connections from there are given up if there
    /// are others, and those that were lost are made at once.
    pub(crate) fn link_changed(
        &mut self,
        session: &mut Session,
        card: usize,
        up: bool,
        stacks: &mut Stacks,
        now_ns: u64,
    ) {
        let others =
            self.paths.iter().any(|connection| connection.open.is_some_and(|(other, _)| other != card));
        for (path, connection) in self.paths.iter_mut().enumerate() {
            // A handshake that began while the link was down is not waited for.
            let void = if up { session.is_connecting(path) } else { others };
            if let Some((_, id)) = connection.open.take_if(|(from, _)| *from == card && void) {
                if let Some(host) = stacks.get_mut(card) {
                    host.abort(id, now_ns);
                }
                session.on_disconnected(path, now_ns);
            }
            if up && connection.card == Some(card) && connection.open.is_none() {
                session.retry_now(path, now_ns);
            }
        }
    }

    /// Where several cards reach a portal, each has a path of its own to it, so that a
    /// cut cable is one path's loss.
    #[cold]
    fn choose_paths(&mut self, session: &mut Session, stacks: &Stacks) {
        self.seen = stacks.changes();
        self.paths.resize(session.paths(), PathConnection::default());
        if stacks.cards() == 1 || self.single {
            return;
        }
        let mut portals: Vec<Portal> = Vec::new();
        for portal in (0..session.paths()).filter_map(|path| session.portal(path)) {
            if !portals.contains(&portal) {
                portals.push(portal);
            }
        }
        for portal in portals {
            for card in stacks.reaching(portal.address) {
                self.add_connection(session, stacks, portal, card);
            }
        }
    }

    /// A path from a card to a portal, if there is none: of a path that has none yet or
    /// whose card reaches the portal no more, or else of a new one.
    fn add_connection(&mut self, session: &mut Session, stacks: &Stacks, portal: Portal, card: usize) {
        let own = |path: usize| session.portal(path) == Some(portal);
        let used = |(path, connection): (usize, &PathConnection)| own(path) && connection.card == Some(card);
        if self.paths.iter().enumerate().any(used) {
            return;
        }
        let reaching = stacks.reaching(portal.address);
        let useless =
            |connection: &PathConnection| connection.card.is_none_or(|card| !reaching.contains(&card));
        let free =
            self.paths.iter().enumerate().position(|(path, connection)| own(path) && useless(connection));
        if let Some(connection) = free.and_then(|path| self.paths.get_mut(path)) {
            connection.moves = connection.open.is_some_and(|(from, _)| from != card);
            connection.card = Some(card);
        } else if session.add_path(portal).is_some() {
            self.paths.push(PathConnection { card: Some(card), ..PathConnection::default() });
        }
    }
}

impl PathConnection {
    /// The card from which to connect: the path's own, or the best one, as a target may
    /// send a path to an address in another network.
    fn card_for(&self, stacks: &Stacks, address: Ipv4Addr) -> Option<usize> {
        if stacks.cards() == 1 {
            return Some(0);
        }
        let reaching = stacks.reaching(address);
        self.card.filter(|card| reaching.contains(card)).or_else(|| reaching.first().copied())
    }

    fn connect(
        &mut self,
        session: &mut Session,
        path: usize,
        purpose: Purpose,
        stacks: &mut Stacks,
        now_ns: u64,
    ) {
        let Some(portal) = session.connect(path, now_ns) else { return };
        let card = self.card_for(stacks, portal.address);
        let opened = card.and_then(|card| {
            Some((card, stacks.connect(card, (portal.address, portal.port), purpose).ok()?))
        });
        match opened {
            Some(open) => self.open = Some(open),
            None => session.on_disconnected(path, now_ns),
        }
    }

    fn drive(
        &mut self,
        session: &mut Session,
        path: usize,
        purpose: Purpose,
        stacks: &mut Stacks,
        payload: &mut dyn Payload,
        (pace, now_ns): (&mut Pace, u64),
    ) {
        if let Some((card, id)) = self.open
            && let Some(host) = stacks.get_mut(card)
        {
            // As it mostly is: this is looked at in every turn.
            if session.is_quiet(path, now_ns) && host.is_quiet(id) && !self.moves {
                return;
            }
            let state = host.state(id);
            if session.disconnect_wanted(path) || state == ConnectionState::Closed || self.moves {
                host.abort(id, now_ns);
                (self.open, self.moves) = (None, false);
                session.on_disconnected(path, now_ns);
            } else if session.is_connecting(path) && state == ConnectionState::Established {
                session.on_connected(path, now_ns);
            }
        }
        if self.open.is_none() {
            self.connect(session, path, purpose, stacks, now_ns);
        }
        if let Some((card, id)) = self.open
            && let Some(host) = stacks.get_mut(card)
            && host.state(id) != ConnectionState::Connecting
            && !exchange(session, path, (host, id), payload, (pace, now_ns))
        {
            host.abort(id, now_ns);
            self.open = None;
            session.on_disconnected(path, now_ns);
        }
    }
}

/// Moves bytes both ways; false when the peer has closed.
fn exchange(
    session: &mut Session,
    path: usize,
    (host, id): (&mut Host, ConnectionId),
    payload: &mut dyn Payload,
    (pace, now_ns): (&mut Pace, u64),
) -> bool {
    let mut peer_closed = host.state(id) == ConnectionState::PeerClosed;
    loop {
        if !pace.may_read() {
            // Whatever the peer has closed is read to its end.
            peer_closed = false;
            break;
        }
        let mut count = 0;
        let before = session.pdus(path);
        host.read_with(id, |bytes| {
            count = bytes.len().min(PDU_OCTETS_PER_CALL);
            session.receive(path, bytes.get(..count).unwrap_or_default(), now_ns, payload);
            count
        });
        pace.pdus = pace.pdus.saturating_sub(session.pdus(path).wrapping_sub(before));
        if count == 0 {
            break;
        }
        peer_closed = host.state(id) == ConnectionState::PeerClosed;
    }
    while pace.may_write() {
        let written = host.write_with(id, |room| session.transmit(path, room, now_ns, payload));
        pace.octets = pace.octets.saturating_sub(written);
        if written == 0 || session.is_quiet(path, now_ns) {
            break;
        }
    }
    !peer_closed
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;
    use netstack::frame::MacAddress;
    use netstack::host::{Addressing, HostConfig};
    use netstack::offload::Accepts;
    use storage::iscsi::{SessionConfig, SessionKind};
    use storage::{Payload, RequestId};

    struct Nothing;

    impl Payload for Nothing {
        fn load(&mut self, _: RequestId, _: usize, _: &mut [u8]) {}
        fn store(&mut self, _: RequestId, _: usize, _: &[u8]) {}
    }

    fn host(address: [u8; 4], gateway: Option<[u8; 4]>) -> Host {
        let (address, gateway) = (address.into(), gateway.map(Into::into));
        let addressing = Addressing::Static { address, prefix: 24, gateway };
        let mac = MacAddress([2, 0, 0, 0, 0, 1]);
        Host::new(
            &HostConfig { mac, mtu: 1500, accepts: Accepts::default(), addressing, seed: 1, secret: [0; 16] },
            0,
        )
        .unwrap()
    }

    fn session() -> Session {
        let kind = SessionKind::Normal { target: String::from("iqn.a"), lun: 0 };
        let portal = Portal { address: [10, 0, 1, 3].into(), port: 3260 };
        Session::new(SessionConfig::new(portal, String::from("iqn.b"), kind, [0x80, 0, 0, 0, 0, 1], 1))
    }

    #[test]
    fn a_turn_looks_at_so_much_and_says_that_it_left_something() {
        let mut pace = Pace::TURN;
        assert!(pace.may_read() && pace.may_write() && !pace.is_over());
        pace.pdus = 0;
        assert!(pace.may_write() && !pace.is_over(), "nothing was left yet");
        assert!(!pace.may_read() && pace.is_over());
        pace = Pace { octets: 0, ..Pace::TURN };
        assert!(pace.may_read() && !pace.is_over());
        assert!(!pace.may_write() && pace.is_over());
    }

    #[test]
    fn a_path_moves_to_the_card_in_its_portals_network_when_that_has_an_address() {
        let (mut session, mut connections) = (session(), Connections::default());
        let mut stacks = Stacks::new(host([10, 0, 0, 1], Some([10, 0, 0, 9])));
        stacks.add(None);
        connections.drive(&mut session, &mut stacks, &mut Nothing, (&mut { Pace::TURN }, 0));
        assert_eq!((connections.card(0), session.paths()), (Some(0), 1));
        stacks.add(Some(host([10, 0, 1, 1], None)));
        connections.drive(&mut session, &mut stacks, &mut Nothing, (&mut { Pace::TURN }, 1));
        connections.drive(&mut session, &mut stacks, &mut Nothing, (&mut { Pace::TURN }, 1_000_000_000));
        assert_eq!((connections.card(0), session.paths()), (Some(2), 1));
        // One more in that network is one more path, up to as many as a session has.
        for _ in 0..10 {
            stacks.add(Some(host([10, 0, 1, 2], None)));
            connections.drive(&mut session, &mut stacks, &mut Nothing, (&mut { Pace::TURN }, 2_000_000_000));
        }
        assert_eq!((connections.card(1), session.paths()), (Some(3), 8));
        let unreached = Portal { address: [10, 0, 7, 3].into(), port: 3260 };
        assert_eq!(stacks.reaching(unreached.address), [0]);
    }

    #[test]
    fn where_one_path_is_enough_no_more_are_made() {
        let (mut session, mut connections) = (session(), Connections::single());
        let mut stacks = Stacks::new(host([10, 0, 1, 1], None));
        stacks.add(Some(host([10, 0, 1, 2], None)));
        connections.drive(&mut session, &mut stacks, &mut Nothing, (&mut { Pace::TURN }, 0));
        assert_eq!((connections.card(0), session.paths()), (Some(1), 1));
    }

    #[test]
    fn a_portal_that_no_card_reaches_is_tried_again_and_again() {
        let (mut session, mut connections) = (session(), Connections::default());
        let mut stacks = Stacks::new(host([10, 0, 0, 1], None));
        stacks.add(Some(host([10, 0, 5, 1], None)));
        for second in 0..5 {
            connections.drive(
                &mut session,
                &mut stacks,
                &mut Nothing,
                (&mut { Pace::TURN }, second * 1_000_000_000),
            );
        }
        assert_eq!(connections.card(0), None);
        assert!(session.next_deadline().is_some_and(|at_ns| at_ns <= 9_000_000_000));
    }
}
