//! Each guarantee of the handshake, with the attack on it.

use super::{World, identity, world};
use crate::client::Connecting;
use crate::door::Door;
use crate::handshake::{
    ANSWER_BYTES, GREETING_BYTES, HELLO_BYTES, HELLO_HEAD_BYTES, Meant, OperatorKey, PeerFault, agree,
    derive, first_key,
};
use crate::limits::{EPHEMERAL_FRESH_NS, EPHEMERAL_NS, FAST_LANE, FIRST_RECORD_NS, PERSONAL_LANE, SLOW_LANE};
use crate::mutate::{Random, mutate};
use crate::record::Opener;
use crate::trust::{Operator, Role, Trust};
use crate::verb::Request;
use alloc::string::ToString;
use alloc::vec::Vec;
use ed25519_dalek::SigningKey;
use x25519_dalek::StaticSecret;

const SECOND: u64 = 1_000_000_000;

/// The fault of a knock that must not be let in.
fn refused(world: &mut World, challenge: u8, hello: &[u8]) -> PeerFault {
    world.knock(challenge, hello).map(|_| ()).unwrap_err()
}

#[test]
fn a_recorded_message_opens_nothing() {
    let mut world = world();
    let greeting = world.greeting(1);
    let hello = world.hello(&greeting).hello().to_vec();
    assert!(world.knock(1, &hello).is_ok());
    // On the same connection, or one that got the same challenge.
    assert_eq!(refused(&mut world, 1, &hello), PeerFault::Seal);
    // On another one, before and after the node's key for it is gone.
    assert_eq!(refused(&mut world, 2, &hello), PeerFault::Stranger);
    world.now_ns = EPHEMERAL_NS;
    let _ = world.greeting(3);
    assert_eq!(refused(&mut world, 1, &hello), PeerFault::Stranger);
    // Of another dom0 on the same node.
    world.door = Door::default();
    let _ = world.greeting(1);
    assert_eq!(refused(&mut world, 1, &hello), PeerFault::Stranger);
}

#[test]
fn a_node_forgets_its_half_of_the_secret() {
    let mut world = world();
    let first = world.greeting(1);
    let hello = world.hello(&first).hello().to_vec();
    world.now_ns = EPHEMERAL_FRESH_NS - 1;
    assert_eq!(world.greeting(1), first, "the same key for ten seconds");
    world.now_ns += 1;
    let second = world.greeting(1);
    assert_ne!(second, first);
    assert_eq!(world.door.next_deadline(), Some(EPHEMERAL_NS));
    // Whoever was greeted before may come until then, and not later.
    world.now_ns = EPHEMERAL_NS - 1;
    assert!(world.knock(1, &hello).is_ok());
    let late = world.hello(&first).hello().to_vec();
    world.now_ns = EPHEMERAL_NS;
    world.door.tend(world.now_ns);
    assert_eq!(refused(&mut world, 1, &late), PeerFault::Stranger);
    assert_eq!(world.door.next_deadline(), Some(EPHEMERAL_FRESH_NS + EPHEMERAL_NS));
    world.now_ns += EPHEMERAL_NS;
    world.door.tend(world.now_ns);
    assert_eq!(world.door.next_deadline(), None, "an idle node holds no key");
}

#[test]
fn what_is_meant_for_one_node_is_worth_nothing_at_another() {
    for by_name in [false, true] {
        let mut world = world();
        world.meant = match by_name {
            true => Meant { name: "node".to_string(), ..Meant::default() },
            false => world.meant,
        };
        // Somebody in between shows the operator another node's first message.
        let mut other = super::world();
        other.identity = identity(10);
        other.identity.name = "other".to_string();
        let greeting = other.greeting(1);
        let hello = world.hello(&greeting).hello().to_vec();
        let expected = if by_name { PeerFault::Elsewhere } else { PeerFault::Stranger };
        assert_eq!(refused(&mut other, 1, &hello), expected);
    }
    // Its own key in between, with the real node behind: the box does not open there, and
    // both signatures cover the first message.
    let mut world = world();
    let real = world.greeting(1);
    let mut forged = real;
    let own = StaticSecret::from([0x66; 32]);
    forged[4..36].copy_from_slice(x25519_dalek::PublicKey::from(&own).as_bytes());
    let hello = world.hello(&forged).hello().to_vec();
    assert_eq!(refused(&mut world, 1, &hello), PeerFault::Stranger);
}

#[test]
fn nobody_chooses_the_version_for_them() {
    let mut world = world();
    let greeting = world.greeting(1);
    for (first, last) in [(0, 0), (2, 9), (2, 1)] {
        let mut altered = greeting;
        altered[..4].copy_from_slice(&[first, 0, last, 0]);
        let made = Connecting::new(&world.operator, &world.meant, &altered, [1; 32]);
        assert_eq!(made.map(|_| ()).unwrap_err(), PeerFault::Version);
    }
    // A node of later versions, made to look as if it spoke only this one.
    let mut altered = greeting;
    altered[2] = 9;
    let hello = world.hello(&altered).hello().to_vec();
    assert_eq!(refused(&mut world, 1, &hello), PeerFault::Stranger);
}

#[test]
fn stolen_long_term_keys_open_no_recording() {
    let mut world = world();
    let greeting = world.greeting(1);
    let connecting = world.hello(&greeting);
    let hello: [u8; HELLO_BYTES] = connecting.hello().try_into().unwrap();
    let server = world.knock(1, &hello).unwrap();
    let answer: [u8; ANSWER_BYTES] = server.transmit().try_into().unwrap();
    let mut client = connecting.finish(&answer).unwrap();
    let record = client.command(&world.operator, &Request::List).unwrap();
    // Everything that was recorded, with the long-term keys as X25519 keys, against every
    // public half there was.
    let node = world.identity.key.verifying_key().to_bytes();
    let publics: Vec<[u8; 32]> = [&greeting[4..36], &hello[..32], &answer[..32]]
        .map(|half| half.try_into().unwrap())
        .into_iter()
        .collect();
    let stolen = [&world.identity.key, &world.operator].map(SigningKey::to_scalar_bytes);
    for secret in stolen.into_iter().map(StaticSecret::from) {
        for (first, second) in publics.iter().flat_map(|one| publics.iter().map(move |other| (one, other))) {
            let (first, second) = (agree(&secret, *first).unwrap(), agree(&secret, *second).unwrap());
            let key = first_key(&greeting, &hello, &node, &first).unwrap();
            assert!(Opener::new(&key).open(&hello[HELLO_HEAD_BYTES..]).is_err());
            let fresh = answer[..32].try_into().unwrap();
            let secrets = derive(&greeting, &hello, &fresh, [&first, &second]).unwrap();
            assert!(Opener::new(&secrets.answer).open(&answer[32..]).is_err());
            assert!(Opener::new(&secrets.to_node).open(&record[4..]).is_err());
        }
    }
    // The node's first half alone, stolen while it lives, opens the hello and nothing later.
    let half = StaticSecret::from([2; 32]);
    assert_eq!(x25519_dalek::PublicKey::from(&half).as_bytes()[..], greeting[4..36]);
    let first = agree(&half, publics[1]).unwrap();
    let key = first_key(&greeting, &hello, &node, &first).unwrap();
    assert!(Opener::new(&key).open(&hello[HELLO_HEAD_BYTES..]).is_ok());
    let late = agree(&half, publics[2]).unwrap();
    let secrets = derive(&greeting, &hello, &publics[2], [&first, &late]).unwrap();
    assert!(Opener::new(&secrets.answer).open(&answer[32..]).is_err());
}

#[test]
fn who_only_listens_learns_no_key() {
    let mut world = world();
    let (operator, node) = (world.operator.public(), world.identity.key.verifying_key().to_bytes());
    let mut wire = Vec::new();
    for challenge in 1..=2 {
        let greeting = world.greeting(challenge);
        let connecting = world.hello(&greeting);
        let server = world.knock(challenge, connecting.hello()).unwrap();
        wire.push([&greeting[..], connecting.hello(), server.transmit()].concat());
    }
    for message in &wire {
        for secret in [&operator[..], &node, &[5; 32], b"node", &[6; 32]] {
            assert!(!message.windows(secret.len()).any(|window| window == secret));
        }
    }
    // Two sessions of one operator have nothing in common but the node's first half.
    let same = wire[0].chunks(8).zip(wire[1].chunks(8)).enumerate().filter(|(_, (one, other))| one == other);
    assert!(same.map(|(index, _)| index).all(|index| index * 8 < 36));
}

#[test]
fn an_impostor_learns_the_operator_at_first_contact_only() {
    let mut world = world();
    let half = StaticSecret::from([0x66; 32]);
    let public = x25519_dalek::PublicKey::from(&half).to_bytes();
    let mut greeting = [1; GREETING_BYTES];
    greeting[..4].copy_from_slice(&[1, 0, 1, 0]);
    greeting[4..36].copy_from_slice(&public);
    for (known, is_read) in [(None, true), (world.meant.key, false)] {
        world.meant.key = known;
        let hello: [u8; HELLO_BYTES] = world.hello(&greeting).hello().try_into().unwrap();
        let shared = agree(&half, hello[..32].try_into().unwrap()).unwrap();
        // It does not know the node's key; who knows it is told more, and said to be.
        let key = first_key(&greeting, &hello, &[0; 32], &shared).unwrap();
        let plain = Opener::new(&key).open(&hello[HELLO_HEAD_BYTES..]);
        assert_eq!(plain.is_ok_and(|plain| plain[2..34] == world.operator.public()), is_read);
    }
}

#[test]
fn strangers_get_silence() {
    let mut world = world();
    let greeting = world.greeting(1);
    let stranger = SigningKey::from_bytes(&[8; 32]);
    let connecting = Connecting::new(&stranger, &world.meant, &greeting, [1; 32]).unwrap();
    assert_eq!(refused(&mut world, 1, connecting.hello()), PeerFault::Stranger);
    // One that had a grant.
    let trust = core::mem::replace(&mut world.trust, Trust::sealed([1; 32], &[], "node"));
    let hello = world.hello(&greeting).hello().to_vec();
    assert_eq!(refused(&mut world, 1, &hello), PeerFault::Stranger);
    world.trust = trust;
    // Whose signature it is decides, whatever key is named.
    struct Liar(SigningKey, SigningKey);
    impl OperatorKey for Liar {
        fn public(&self) -> [u8; 32] {
            self.0.public()
        }
        fn sign(&self, message: &[u8]) -> Result<[u8; 64], PeerFault> {
            self.1.sign(message)
        }
    }
    let liar = Liar(world.operator.clone(), stranger);
    let connecting = Connecting::new(&liar, &world.meant, &greeting, [2; 32]).unwrap();
    assert_eq!(refused(&mut world, 1, connecting.hello()), PeerFault::Signature);
}

/// RFC 7748, 6.1: points whose multiples are all zero.
#[test]
fn a_secret_that_everybody_knows_is_refused() {
    let mut world = world();
    for point in [[0; 32], core::array::from_fn(|index| u8::from(index == 0))] {
        let mut greeting = world.greeting(1);
        greeting[4..36].copy_from_slice(&point);
        let made = Connecting::new(&world.operator, &world.meant, &greeting, [1; 32]);
        assert_eq!(made.map(|_| ()).unwrap_err(), PeerFault::Key);
        // From an operator, with tags that fit.
        let greeting = world.greeting(1);
        let knock = crate::handshake::knock_digest(&greeting, &point);
        let known = world.meant.key.unwrap();
        let tags = [crate::handshake::knock_key(&known), crate::handshake::personal_key(&known, &[0; 32])];
        let mut hello = [0; HELLO_BYTES];
        hello[..32].copy_from_slice(&point);
        for (index, tag) in tags.into_iter().enumerate() {
            use hmac::Mac as _;
            let tag = tag.chain_update(knock).finalize().into_bytes();
            hello[32 + 16 * index..48 + 16 * index].copy_from_slice(&tag[..16]);
        }
        assert_eq!(refused(&mut world, 1, &hello), PeerFault::Key);
    }
    let greeting = world.greeting(2);
    let connecting = world.hello(&greeting);
    let mut answer: [u8; ANSWER_BYTES] =
        world.knock(2, connecting.hello()).unwrap().transmit().try_into().unwrap();
    answer[..32].fill(0);
    assert_eq!(connecting.finish(&answer).map(|_| ()).unwrap_err(), PeerFault::Key);
}

#[test]
fn a_node_is_known_by_a_key_it_had_before() {
    let mut world = world();
    let before = world.meant.key;
    world.identity = identity(10);
    let greeting = world.greeting(1);
    let connecting = world.hello(&greeting);
    assert_eq!(refused(&mut world, 1, connecting.hello()), PeerFault::Stranger);
    world.identity.former = alloc::vec![before.unwrap()];
    let connecting = world.hello(&greeting);
    let server = world.knock(1, connecting.hello()).unwrap();
    let client = connecting.finish(&server.transmit().try_into().unwrap()).unwrap();
    assert_eq!(*client.node(), world.identity.key.verifying_key().to_bytes());
    assert_ne!(Some(*client.node()), before, "and the operator sees that it is another one");
}

#[test]
fn the_first_record_is_due_within_five_seconds() {
    let mut world = world();
    let mut server = super::begun(&mut world);
    assert_eq!(server.deadline_ns(), world.now_ns + FIRST_RECORD_NS);
    assert!(!server.is_established() && world.next(&mut server).unwrap().is_none());
    let (_, server) = world.connect();
    assert!(server.deadline_ns() >= world.now_ns + 100 * SECOND);
}

/// Knocks in one instant: how many are let through.
fn flood(world: &mut World, count: u8) -> usize {
    let greeting = world.greeting(1);
    let mut through = 0;
    for _ in 0..count {
        let hello = world.hello(&greeting).hello().to_vec();
        match world.knock(1, &hello) {
            Ok(_) => through += 1,
            Err(fault) => assert_eq!(fault, PeerFault::Busy),
        }
    }
    through
}

#[test]
fn nobody_fills_the_lane_of_another() {
    let mut world = world();
    let pass = world.connect().0.proved().pass;
    let viewer = SigningKey::from_bytes(&[8; 32]);
    let operator = |key: &SigningKey, role| Operator { key: key.public(), role };
    let operators = [operator(&world.operator, Role::Admin), operator(&viewer, Role::Viewer)];
    world.trust = Trust::sealed([1; 32], &operators, "node");
    let admin = core::mem::replace(&mut world.operator, viewer);
    let viewers = world.connect().0.proved().pass;
    assert_ne!(pass, viewers);
    world.now_ns += SECOND;
    // Strangers, a viewer who has no pass, one who has, one who claims the admin's.
    let known = world.meant.key;
    world.meant = Meant::default();
    assert_eq!(flood(&mut world, 40), usize::try_from(SLOW_LANE.burst).unwrap());
    world.meant.key = known;
    assert_eq!(flood(&mut world, 40), usize::try_from(FAST_LANE.burst).unwrap());
    world.meant.pass = Some(viewers);
    assert_eq!(flood(&mut world, 40), usize::try_from(PERSONAL_LANE.burst).unwrap());
    world.meant.pass = Some([3; 32]);
    assert_eq!(flood(&mut world, 40), 0, "that is nobody's");
    // The admin's own is as it was.
    world.operator = admin;
    world.meant.pass = Some(pass);
    assert_eq!(flood(&mut world, 40), usize::try_from(PERSONAL_LANE.burst).unwrap());
    // What was refused for want of a turn may come again as it is.
    let greeting = world.greeting(1);
    let hello = world.hello(&greeting).hello().to_vec();
    assert_eq!(refused(&mut world, 1, &hello), PeerFault::Busy);
    world.now_ns += PERSONAL_LANE.interval_ns;
    assert!(world.knock(1, &hello).is_ok());
}

#[test]
fn a_pass_that_was_lent_is_good_for_nothing() {
    let mut world = world();
    world.meant.pass = Some(world.connect().0.proved().pass);
    let viewer = SigningKey::from_bytes(&[8; 32]);
    let operator = |key: &SigningKey, role| Operator { key: key.public(), role };
    let operators = [operator(&world.operator, Role::Admin), operator(&viewer, Role::Viewer)];
    world.trust = Trust::sealed([1; 32], &operators, "node");
    world.operator = viewer;
    let greeting = world.greeting(1);
    let hello = world.hello(&greeting).hello().to_vec();
    assert_eq!(refused(&mut world, 1, &hello), PeerFault::Stranger);
}

#[test]
fn a_million_altered_messages_open_nothing() {
    let mut random = Random::new(0x5eed);
    let mut world = world();
    let mut bytes = Vec::new();
    let mut good = Vec::new();
    for round in 0..crate::mutate::wanted(1_000_000) {
        if round % 10_000 == 0 {
            world = super::world();
            world.now_ns = round * SECOND;
            let greeting = world.greeting(1);
            good = world.hello(&greeting).hello().to_vec();
        }
        bytes.clear();
        bytes.extend_from_slice(&good);
        mutate(&mut random, &mut bytes, good.len());
        bytes.resize(HELLO_BYTES, 0);
        if bytes != good {
            assert!(world.knock(1, &bytes).is_err(), "round {round}");
        }
    }
    // And of the other two, at the operator's.
    // Each round does public-key arithmetic: a millisecond, not a microsecond.
    for round in 0..crate::mutate::wanted(2_000_000) / 1_000 {
        world.now_ns += SECOND;
        let greeting = world.greeting(1);
        let mut altered = greeting.to_vec();
        mutate(&mut random, &mut altered, greeting.len());
        altered.resize(GREETING_BYTES, 0);
        let altered: [u8; GREETING_BYTES] = altered.try_into().unwrap();
        if let Ok(other) = Connecting::new(&world.operator, &world.meant, &altered, [1; 32])
            && altered != greeting
        {
            assert_eq!(refused(&mut world, 1, other.hello()), PeerFault::Stranger, "round {round}");
        }
        let connecting = world.hello(&greeting);
        let answer = world.knock(1, connecting.hello()).unwrap().transmit().to_vec();
        bytes.clear();
        bytes.extend_from_slice(&answer);
        mutate(&mut random, &mut bytes, answer.len());
        bytes.resize(ANSWER_BYTES, 0);
        let is_same = bytes == answer;
        let finished = connecting.finish(&bytes[..].try_into().unwrap());
        assert_eq!(finished.is_ok(), is_same, "round {round}");
    }
}
