//! Whoever attacks the one door, however often, keeps no admin out.
//!
//! Five thousand connections a second: recorded messages, operators who may only look,
//! with a pass of their own and without, handshakes that are never completed, peers that
//! say nothing and peers that say it slowly. The wire takes time.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use mgmt_proto::client::Connecting;
use mgmt_proto::handshake::{ANSWER_BYTES, GREETING_BYTES, HELLO_BYTES, Meant};
use mgmt_proto::verb::{Reply, Request};
use netstack::offload::Offload;

use super::world::*;
use crate::limits::{BEGUN_MAX, SESSIONS_MAX};
use machine::test_random::TestRandom;

pub(super) const ATTACKER_MAC: [u8; 6] = [2, 0x66, 0, 0, 0, 9];
const PER_MS: usize = 5;
const SYN: u8 = 2;
const PSH: u8 = 8;
const ACK: u8 = 16;
const RST: u8 = 4;

/// What a peer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Says what an admin said before.
    Recorded,
    /// An operator who may only look, whom the node gave a pass.
    Known,
    /// The same without the pass.
    Pinned,
    /// Who knows nothing, and has no grant.
    Stranger,
    /// Never acknowledges.
    HalfOpen,
    /// Says nothing.
    Silent,
    /// Says the first octet.
    Slow,
}

pub(super) const KINDS: [Kind; 7] =
    [Kind::Recorded, Kind::Known, Kind::Pinned, Kind::Stranger, Kind::HalfOpen, Kind::Silent, Kind::Slow];

struct Peer {
    kind: Kind,
    next: u32,
    connecting: Option<Connecting>,
    is_told: bool,
}

/// Everybody who attacks, on one machine with many addresses.
pub(super) struct Attack {
    peers: BTreeMap<(u8, u16), Peer>,
    order: VecDeque<(u8, u16)>,
    random: TestRandom,
    recorded: Vec<u8>,
    known: Meant,
    begun: [u64; KINDS.len()],
}

fn sum(bytes: &[u8], start: u32) -> u16 {
    let total = bytes.chunks(2).map(|it| u32::from(u16::from_be_bytes([it[0], *it.get(1).unwrap_or(&0)])));
    let mut total = total.sum::<u32>() + start;
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !u16::try_from(total).unwrap()
}

/// A segment to the node's door.
fn segment(from: (u8, u16), numbers: (u32, u32), flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&NODE_MAC[..], &ATTACKER_MAC, &[8, 0, 0x45, 0]].concat();
    frame.extend(u16::try_from(40 + payload.len()).unwrap().to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, from.0]);
    frame.extend(NODE_ADDRESS.octets());
    frame.extend(from.1.to_be_bytes());
    frame.extend(PORT.to_be_bytes());
    frame.extend(numbers.0.to_be_bytes());
    frame.extend(numbers.1.to_be_bytes());
    frame.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame.extend(payload);
    let header = sum(&frame[14..34], 0);
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    let length = u32::try_from(20 + payload.len()).unwrap();
    let body = sum(&frame[26..], 6 + length);
    frame[50..52].copy_from_slice(&body.to_be_bytes());
    frame
}

impl Attack {
    pub(super) fn new(recorded: Vec<u8>, known: Meant) -> Self {
        assert_eq!(recorded.len(), HELLO_BYTES);
        Self {
            peers: BTreeMap::new(),
            order: VecDeque::new(),
            random: TestRandom(0x5eed_1c0c),
            recorded,
            known,
            begun: [0; KINDS.len()],
        }
    }

    /// One more connection.
    pub(super) fn begin(&mut self, kinds: &[Kind]) -> Vec<u8> {
        let from = (
            100 + self.random.byte() % 100,
            1024 + u16::from_le_bytes([self.random.byte(), self.random.byte()]) % 60_000,
        );
        let kind = kinds[self.random.index(kinds.len())];
        self.begun[KINDS.iter().position(|it| *it == kind).unwrap()] += 1;
        let first = u32::from_le_bytes([(); 4].map(|()| self.random.byte()));
        self.peers.insert(from, Peer { kind, next: first.wrapping_add(1), connecting: None, is_told: false });
        self.order.push_back(from);
        if self.order.len() > 20_000 {
            let oldest = self.order.pop_front().unwrap();
            self.peers.remove(&oldest);
        }
        segment(from, (first, 0), SYN, &[])
    }

    /// What a peer says to what the node sent.
    pub(super) fn hear(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let is_tcp = frame[12..14] == [8, 0] && frame[23] == 6;
        if !is_tcp {
            return None;
        }
        let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
        let from = (frame[33], u16::from_be_bytes([frame[36], frame[37]]));
        let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        let (flags, payload) = (frame[47], &frame[34 + usize::from(frame[46] >> 4) * 4..14 + total]);
        let peer = self.peers.get_mut(&from)?;
        if flags & RST != 0 {
            self.peers.remove(&from);
            return None;
        }
        if flags & SYN != 0 {
            let quiet = peer.kind == Kind::HalfOpen;
            return (!quiet).then(|| segment(from, (peer.next, number(38).wrapping_add(1)), ACK, &[]));
        }
        let after = number(38).wrapping_add(u32::try_from(payload.len()).unwrap());
        let seed = [(); 32].map(|()| self.random.byte());
        let words = match (payload.len(), peer.kind) {
            (GREETING_BYTES, _) if peer.is_told => return None,
            (GREETING_BYTES, Kind::Recorded) => self.recorded.clone(),
            (GREETING_BYTES, Kind::Slow) => alloc::vec![1],
            (GREETING_BYTES, Kind::Known | Kind::Pinned | Kind::Stranger) => {
                let (who, meant) = match peer.kind {
                    Kind::Known => (Who::Viewer, self.known.clone()),
                    Kind::Pinned => (Who::Viewer, Meant { pass: None, ..self.known.clone() }),
                    _ => (Who::Stranger, Meant::default()),
                };
                let connecting =
                    Connecting::new(&who.key(), &meant, payload.try_into().unwrap(), seed).unwrap();
                let hello = connecting.hello().to_vec();
                peer.connecting = Some(connecting);
                hello
            }
            // Half of those who get so far never send their first record.
            (ANSWER_BYTES, _) if seed[0] & 1 == 0 => {
                let mut client = peer.connecting.take()?.finish(payload.try_into().unwrap()).unwrap();
                client.here().unwrap()
            }
            _ => return None,
        };
        peer.is_told = true;
        let said = segment(from, (peer.next, after), ACK | PSH, &words);
        peer.next = peer.next.wrapping_add(u32::try_from(words.len()).unwrap());
        Some(said)
    }
}

/// Frames on their way.
#[derive(Default)]
struct Wire(VecDeque<(u64, Vec<u8>)>);

impl Wire {
    fn due(&mut self, now_ns: u64) -> Option<Vec<u8>> {
        self.0.pop_front_if(|(at_ns, _)| *at_ns <= now_ns).map(|(_, frame)| frame)
    }
}

struct Siege {
    world: World,
    attack: Attack,
    kinds: Vec<Kind>,
    to_node: Wire,
    from_node: Wire,
    one_way_ns: u64,
}

impl Siege {
    fn new(seed: u64, round_trip_ms: u64, kinds: &[Kind]) -> Self {
        let mut world = World::new(seed);
        // An admin and a viewer have been there, and somebody has listened.
        let viewer = world.connect(Who::Viewer);
        let admin = world.connect(Who::Admin);
        world.done(admin, &Request::NodeInfo);
        let recorded = world.sessions[admin].sent[..HELLO_BYTES].to_vec();
        for session in [viewer, admin] {
            let connection = world.sessions[session].connection;
            world.operator.abort(connection, world.now_ns);
        }
        world.run(SECOND);
        let attack = Attack::new(recorded, world.known(Who::Viewer));
        let (to_node, from_node) = (Wire::default(), Wire::default());
        let one_way_ns = round_trip_ms * MS / 2;
        Self { world, attack, kinds: kinds.to_vec(), to_node, from_node, one_way_ns }
    }

    /// A millisecond, in five parts.
    fn step(&mut self) {
        for _ in 0..PER_MS {
            let now_ns = self.world.now_ns;
            let later = now_ns + self.one_way_ns;
            self.to_node.0.push_back((later, self.attack.begin(&self.kinds)));
            while let Some(frame) = self.to_node.due(now_ns) {
                self.world.nic.card().received.push_back(frame);
            }
            for turn in 0.. {
                assert!(turn < 200, "the node is never done");
                self.world.turn();
                let mut card = self.world.nic.card();
                self.from_node.0.extend(card.sent.drain(..).map(|frame| (later, frame)));
                if card.received.is_empty() && self.world.deadline_ns > now_ns {
                    break;
                }
            }
            while let Some(frame) = self.from_node.due(now_ns) {
                if frame[..6] == ATTACKER_MAC {
                    self.to_node.0.extend(self.attack.hear(&frame).map(|said| (later, said)));
                } else {
                    self.world.operator.receive(&frame, &Offload::None, now_ns);
                }
            }
            self.world.poll_operator();
            self.world.operator.poll(now_ns);
            let mut frames = Vec::new();
            collect_whole(&mut self.world.operator, &mut frames);
            self.to_node.0.extend(frames.into_iter().map(|frame| (later, frame)));
            self.world.now_ns += MS / PER_MS as u64;
            let count = self.world.node.operators.sessions.count();
            assert!(count <= SESSIONS_MAX + BEGUN_MAX, "{count} sessions");
        }
    }

    fn run(&mut self, ms: u64) {
        (0..ms).for_each(|_| self.step());
    }

    /// How long an operator takes to have an answer, in milliseconds.
    fn get_in(&mut self, who: Who, meant: Option<Meant>) -> u64 {
        let start_ns = self.world.now_ns;
        let session = self.world.dial_as(who, meant);
        let took_ms = |siege: &Self| (siege.world.now_ns - start_ns) / MS;
        while !matches!(self.world.sessions[session].stage, Stage::Open(_)) {
            assert!(!matches!(self.world.sessions[session].stage, Stage::Dead), "refused");
            assert!(took_ms(self) <= 2_000, "locked out");
            self.step();
        }
        self.world.send(session, &Request::NodeInfo);
        while self.world.sessions[session].outcomes.is_empty() {
            assert!(!matches!(self.world.sessions[session].stage, Stage::Dead), "ended");
            assert!(took_ms(self) <= 2_000, "no answer");
            self.step();
        }
        let outcome = self.world.sessions[session].outcomes.pop_front();
        assert!(matches!(outcome, Some(Ok(Reply::Node(_)))));
        let took_ms = took_ms(self);
        let connection = self.world.sessions[session].connection;
        self.world.operator.abort(connection, self.world.now_ns);
        self.world.sessions.clear();
        took_ms
    }
}

/// 200 tries, none of which takes two seconds.
fn an_admin_gets_in(round_trip_ms: u64, pause_ms: u64) {
    let mut siege = Siege::new(4200 + round_trip_ms, round_trip_ms, &KINDS);
    siege.run(1_000);
    let took: Vec<u64> = (0..200)
        .map(|_| {
            siege.run(pause_ms);
            siege.get_in(Who::Admin, None)
        })
        .collect();
    assert!(took.iter().all(|took_ms| *took_ms <= 2_000), "{took:?}");
    assert!(siege.attack.begun.iter().all(|begun| *begun > 1_000), "{:?}", siege.attack.begun);
    let counters = siege.world.node.network.stacks.first.counters();
    assert!(counters.cookies_redeemed > 250, "viewers got in too: {counters:?}");
}

#[test]
fn nobody_keeps_an_admin_out_who_is_near() {
    an_admin_gets_in(1, 125);
}

#[test]
fn nobody_keeps_an_admin_out_who_is_far() {
    an_admin_gets_in(50, 20);
}

/// Whom the node has given nothing, but who knows its key.
#[test]
fn strangers_keep_nobody_out_who_knows_the_node() {
    let strangers = [Kind::Recorded, Kind::Stranger, Kind::HalfOpen, Kind::Silent, Kind::Slow];
    let mut siege = Siege::new(4300, 50, &strangers);
    siege.run(1_000);
    for who in [Who::Admin, Who::Operator, Who::Viewer].into_iter().cycle().take(30) {
        let meant = Meant { pass: None, ..siege.world.known(who) };
        siege.run(125);
        let took_ms = siege.get_in(who, Some(meant));
        assert!(took_ms <= 2_000, "{who:?}: {took_ms} ms");
    }
}
