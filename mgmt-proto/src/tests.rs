use crate::client::{Client, Connecting};
use crate::handshake::{ANSWER_BYTES, OperatorKey, PeerFault};
use crate::server::{Identity, Incoming, Server};
use crate::trust::{Operator, Role, Trust};
use crate::verb::{Reply, Request};
use alloc::vec::Vec;
use ed25519_dalek::SigningKey;

struct World {
    identity: Identity,
    trust: Trust,
    operator: SigningKey,
    seed: u8,
}

fn world() -> World {
    let operator = SigningKey::from_bytes(&[7; 32]);
    let trust = Trust::sealed([1; 32], &[Operator { key: operator.public(), role: Role::Admin }], "node");
    World {
        identity: Identity { key: SigningKey::from_bytes(&[9; 32]), boot_nonce: [5; 32] },
        trust,
        operator,
        seed: 1,
    }
}

impl World {
    fn next(&mut self, server: &mut Server) -> Result<Option<Incoming>, PeerFault> {
        self.seed = self.seed.wrapping_add(1);
        let seed = self.seed;
        server.next(&self.identity, &self.trust, &mut || [seed; 32], 0)
    }

    fn connect(&mut self) -> (Client, Server) {
        self.seed = self.seed.wrapping_add(1);
        let connecting = Connecting::new(&self.operator, [self.seed ^ 0x80; 32]).unwrap();
        let mut server = Server::new(0);
        server.receive(connecting.hello()).unwrap();
        assert!(self.next(&mut server).unwrap().is_none());
        let answer: [u8; ANSWER_BYTES] = server.transmit().try_into().unwrap();
        server.sent(ANSWER_BYTES);
        (connecting.finish(&answer).unwrap(), server)
    }
}

#[test]
fn a_command_and_its_outcome() {
    let mut world = world();
    let (mut client, mut server) = world.connect();
    assert_eq!(*client.node(), world.identity.key.verifying_key().to_bytes());
    for request in [Request::List, Request::NodeInfo] {
        let bytes = client.command(&world.operator, &request).unwrap();
        for byte in &bytes {
            server.receive(core::slice::from_ref(byte)).unwrap();
        }
        let Some(Incoming::Command(verified, Role::Admin)) = world.next(&mut server).unwrap() else {
            panic!("a command")
        };
        assert_eq!(*verified.get(), request);
        server.send(&Ok(Reply::Done)).unwrap();
        client.receive(server.transmit()).unwrap();
        let count = server.transmit().len();
        server.sent(count);
        assert_eq!(client.next_outcome().unwrap(), Some(Ok(Reply::Done)));
    }
    let bytes = client.data(&[1, 2, 3]).unwrap();
    server.receive(&bytes).unwrap();
    assert!(matches!(world.next(&mut server), Ok(Some(Incoming::Data(data))) if data == [1, 2, 3]));
}

#[test]
fn replays_find_no_ear() {
    let mut world = world();
    let (mut client, mut server) = world.connect();
    let bytes = client.command(&world.operator, &Request::List).unwrap();
    server.receive(&bytes).unwrap();
    assert!(world.next(&mut server).unwrap().is_some());
    server.receive(&bytes).unwrap();
    assert_eq!(world.next(&mut server).unwrap_err(), PeerFault::Seal);
    assert_eq!(server.room(), 0, "the session is over");
    // The same bytes in a new session, and after a reboot.
    let (_, mut second) = world.connect();
    second.receive(&bytes).unwrap();
    assert_eq!(world.next(&mut second).unwrap_err(), PeerFault::Seal);
    world.identity.boot_nonce = [6; 32];
    let (_, mut third) = world.connect();
    third.receive(&bytes).unwrap();
    assert_eq!(world.next(&mut third).unwrap_err(), PeerFault::Seal);
}

#[test]
fn a_replayed_hello_gets_nothing_readable() {
    let mut world = world();
    let connecting = Connecting::new(&world.operator, [1; 32]).unwrap();
    let hello = connecting.hello().to_vec();
    let mut server = Server::new(0);
    server.receive(&hello).unwrap();
    world.next(&mut server).unwrap();
    let answer: [u8; ANSWER_BYTES] = server.transmit().try_into().unwrap();
    let node = world.identity.key.verifying_key().to_bytes();
    assert!(!answer.windows(32).any(|window| window == node || window == [5; 32]));
    // Who does not know the ephemeral's secret cannot go on.
    let other = Connecting::new(&world.operator, [2; 32]).unwrap();
    assert!(other.finish(&answer).is_err());
}

#[test]
fn strangers_get_silence() {
    let mut world = world();
    let stranger = SigningKey::from_bytes(&[8; 32]);
    let mut server = Server::new(0);
    server.receive(Connecting::new(&stranger, [1; 32]).unwrap().hello()).unwrap();
    assert_eq!(world.next(&mut server).unwrap_err(), PeerFault::Stranger);
    assert!(server.transmit().is_empty());
    let mut server = Server::new(0);
    let mut hello = Connecting::new(&world.operator, [1; 32]).unwrap().hello().to_vec();
    hello[40] ^= 1;
    server.receive(&hello).unwrap();
    assert_eq!(world.next(&mut server).unwrap_err(), PeerFault::Signature);
    assert!(server.transmit().is_empty());
}

#[test]
fn commands_reordered_truncated_or_flipped_have_no_effect() {
    let mut world = world();
    let (mut client, _) = world.connect();
    let first = client.command(&world.operator, &Request::List).unwrap();
    let second = client.command(&world.operator, &Request::NodeInfo).unwrap();
    let (_, mut server) = world.connect();
    server.receive(&second).unwrap();
    assert!(world.next(&mut server).is_err(), "foreign session");
    for position in (0..first.len()).step_by(7) {
        let (mut client, mut server) = world.connect();
        let mut bytes = client.command(&world.operator, &Request::List).unwrap();
        bytes[position] ^= 1 << (position % 8);
        let mut result = server.receive(&bytes).map(|()| None);
        if result.is_ok() {
            result = world.next(&mut server);
        }
        assert!(!matches!(result, Ok(Some(_))), "bit flip at {position}");
        assert!(server.transmit().is_empty());
    }
    let (mut client, mut server) = world.connect();
    let one = client.command(&world.operator, &Request::List).unwrap();
    let two = client.command(&world.operator, &Request::NodeInfo).unwrap();
    server.receive(&two).unwrap();
    server.receive(&one).unwrap();
    assert_eq!(world.next(&mut server).unwrap_err(), PeerFault::Seal);
}

#[test]
fn random_bytes_are_survived_in_bounded_memory() {
    let mut world = world();
    let mut state = 0x1234_5678_9abc_def0_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..3000 {
        let (mut server, established) =
            if round % 8 == 0 { (world.connect().1, true) } else { (Server::new(0), false) };
        for _ in 0..4 {
            let length = usize::try_from(random() % 400).unwrap();
            let bytes: Vec<u8> = (0..length).map(|_| random().to_le_bytes()[0]).collect();
            let take = bytes.len().min(server.room());
            if server.receive(&bytes[..take]).is_err() {
                break;
            }
            assert!(server.received_len() <= crate::limits::RECEIVE_BYTES);
            if !matches!(world.next(&mut server), Ok(None)) {
                break;
            }
        }
        assert!(established || server.transmit().is_empty());
    }
}
