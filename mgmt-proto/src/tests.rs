use crate::client::{Client, Connecting};
use crate::door::Door;
use crate::handshake::{ANSWER_BYTES, GREETING_BYTES, HELLO_BYTES, Meant, OperatorKey, PeerFault};
use crate::server::{Identity, Incoming, Server};
use crate::trust::{Operator, Role, Trust};
use crate::verb::{Reply, Request};
use alloc::string::ToString;
use alloc::vec::Vec;
use ed25519_dalek::SigningKey;

mod handshake;
mod pump;

struct World {
    identity: Identity,
    trust: Trust,
    door: Door,
    operator: SigningKey,
    meant: Meant,
    seed: u8,
    now_ns: u64,
}

fn identity(number: u8) -> Identity {
    Identity {
        key: SigningKey::from_bytes(&[number; 32]),
        boot_nonce: [5; 32],
        name: "node".to_string(),
        manifest: [6; 32],
        former: Vec::new(),
    }
}

fn world() -> World {
    let operator = SigningKey::from_bytes(&[7; 32]);
    let trust = Trust::sealed([1; 32], &[Operator { key: operator.public(), role: Role::Admin }], "node");
    let identity = identity(9);
    let key = Some(identity.key.verifying_key().to_bytes());
    World {
        identity,
        trust,
        door: Door::default(),
        operator,
        meant: Meant { key, ..Meant::default() },
        seed: 1,
        now_ns: 0,
    }
}

impl World {
    fn next(&mut self, server: &mut Server) -> Result<Option<Incoming>, PeerFault> {
        server.next(&self.trust, self.now_ns)
    }

    fn seed(&mut self) -> u8 {
        self.seed = self.seed.wrapping_add(1);
        self.seed
    }

    fn greeting(&mut self, challenge: u8) -> [u8; GREETING_BYTES] {
        let seed = self.seed();
        self.door.greeting(&[challenge; 32], &mut || [seed; 32], self.now_ns)
    }

    fn hello(&mut self, greeting: &[u8; GREETING_BYTES]) -> Connecting {
        let seed = self.seed() ^ 0x80;
        Connecting::new(&self.operator, &self.meant, greeting, [seed; 32]).unwrap()
    }

    fn knock(&mut self, challenge: u8, hello: &[u8]) -> Result<Server, PeerFault> {
        let seed = self.seed();
        let hello: &[u8; HELLO_BYTES] = hello.try_into().unwrap();
        let node = (&self.identity, &self.trust);
        let proved = self.door.knock(&[challenge; 32], hello, node, self.now_ns)?;
        proved.answer(&self.identity, [seed; 32], self.now_ns)
    }

    /// All four steps, in another second than the last one.
    fn connect(&mut self) -> (Client, Server) {
        self.now_ns += 1_000_000_000;
        let challenge = self.seed();
        let greeting = self.greeting(challenge);
        let connecting = self.hello(&greeting);
        let mut server = self.knock(challenge, connecting.hello()).unwrap();
        let answer: [u8; ANSWER_BYTES] = server.transmit().try_into().unwrap();
        server.sent(ANSWER_BYTES);
        let mut client = connecting.finish(&answer).unwrap();
        server.receive(&client.here().unwrap()).unwrap();
        assert!(!server.is_established());
        assert!(self.next(&mut server).unwrap().is_none() && server.is_established());
        (client, server)
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
fn data_of_who_may_send_no_blob_any_more_ends_the_session() {
    for (role, fault) in [(None, PeerFault::Stranger), (Some(Role::Viewer), PeerFault::Unexpected)] {
        let mut world = world();
        let (mut client, mut server) = world.connect();
        server.receive(&client.data(&[1]).unwrap()).unwrap();
        assert!(matches!(world.next(&mut server), Ok(Some(Incoming::Data(_)))));
        let left = role.map(|role| Operator { key: world.operator.public(), role });
        world.trust = Trust::sealed([1; 32], left.as_slice(), "node");
        server.receive(&client.data(&[2]).unwrap()).unwrap();
        assert_eq!(world.next(&mut server).unwrap_err(), fault);
        assert_eq!(server.room(), 0, "the session is over");
    }
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

/// A session without its first record.
fn begun(world: &mut World) -> Server {
    world.now_ns += 1_000_000_000;
    let challenge = world.seed();
    let greeting = world.greeting(challenge);
    let connecting = world.hello(&greeting);
    let mut server = world.knock(challenge, connecting.hello()).unwrap();
    server.sent(ANSWER_BYTES);
    server
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
        let mut server = if round % 8 == 0 { world.connect().1 } else { begun(&mut world) };
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
        assert!(server.transmit().is_empty());
    }
}
