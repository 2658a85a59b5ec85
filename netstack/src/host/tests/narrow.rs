//! A link on the way that takes shorter packets than the node's own.

use super::*;
use crate::offload::is_summed;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Octets of the packets that the link takes.
const TAKES: usize = 1_400;
const TSO: Accepts = Accepts { checksum: true, tso4: true, tso6: false };

/// What a router reports of a packet that is too long (RFC 792; RFC 1191, section 4).
fn too_big(frame: &[u8], takes: u16) -> Vec<u8> {
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(takes.to_be_bytes());
    message.extend(&frame[14..14 + 28]);
    let sum = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    assert!(is_summed(&message));
    let mut packet = vec![0x45, 0, 0, (20 + message.len()) as u8, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 1];
    packet.extend(&frame[26..30]);
    [&frame[6..12], &[2, 0, 0, 0, 0, 99], &[8, 0], &packet, &message].concat()
}

/// Frames as they are on the wire.
fn cut(host: &mut Host) -> Vec<Vec<u8>> {
    let (mut pieces, mut scratch) = (Vec::new(), vec![0; HOST_LARGE_FRAME_BYTES_MAX]);
    while host.transmit(|frame, offload| {
        offload.lower(frame, Accepts::default(), &mut scratch, |piece, _| pieces.push(piece.to_vec()));
        true
    }) {}
    pieces
}

struct World {
    client: Host,
    server: Host,
    to: ConnectionId,
    from: Option<ConnectionId>,
    now: u64,
    /// The next MTU that the router reports, if it reports drops.
    says: Option<u16>,
    dropped: Vec<Vec<u8>>,
    longest: usize,
    got: Vec<u8>,
}

impl World {
    fn new(mtu: usize, accepts: Accepts, says: Option<u16>) -> Self {
        let (mut server, mut client) =
            (host_with(1, 1, mtu, Accepts::default()), host_with(2, 2, mtu, accepts));
        server.listen(3260, 2, TcpOptions::STORAGE).unwrap();
        let to = client.connect(SERVER, 3260, TcpOptions::STORAGE).unwrap();
        let (dropped, got) = (Vec::new(), Vec::new());
        Self { client, server, to, from: None, now: 0, says, dropped, longest: 0, got }
    }

    fn step(&mut self) {
        self.now += MS;
        self.client.poll(self.now);
        for frame in cut(&mut self.client) {
            if frame.len() > 14 + TAKES {
                if let Some(takes) = self.says {
                    self.client.receive(&too_big(&frame, takes), &Offload::None, self.now);
                }
                self.dropped.push(frame);
            } else {
                self.longest = self.longest.max(frame.len() - 14);
                self.server.receive(&frame, &Offload::None, self.now);
            }
        }
        self.from = self.from.or_else(|| self.server.accept(3260));
        let mut octets = [0; 4_096];
        while let Some(from) = self.from {
            let count = self.server.read(from, &mut octets);
            self.got.extend_from_slice(&octets[..count]);
            if count == 0 {
                break;
            }
        }
        self.server.poll(self.now);
        for frame in frames(&mut self.server) {
            self.client.receive(&frame, &Offload::None, self.now);
        }
    }

    /// Sends so many octets, which have to arrive in time.
    fn send(&mut self, total: usize, limit_ms: u64) {
        let byte = |at: usize| (at.wrapping_mul(31) >> 3) as u8;
        self.got.clear();
        let (mut sent, end) = (0, self.now + limit_ms * MS);
        while self.got.len() < total && self.now < end {
            let room = self.client.write_room(self.to);
            let block: Vec<u8> = (sent..(sent + room).min(total)).map(byte).collect();
            sent += self.client.write(self.to, &block);
            self.step();
        }
        assert_eq!(self.got.len(), total);
        assert!(self.got.iter().enumerate().all(|(at, octet)| *octet == byte(at)));
    }
}

#[test]
fn routers_packet_too_big_is_accepted() {
    for (mtu, accepts) in
        [(1_500, Accepts::default()), (1_500, TSO), (9_000, TSO), (9_000, Accepts::default())]
    {
        let mut world = World::new(mtu, accepts, Some(1_400));
        world.send(600_000, 5_000);
        assert_eq!(world.longest, TAKES, "mtu {mtu}");
        let dropped = world.dropped.len();
        world.send(200_000, 5_000);
        assert_eq!(world.dropped.len(), dropped, "mtu {mtu}");
        // A further connection tells the peer at once, and both are spared.
        world.to = world.client.connect(SERVER, 3260, TcpOptions::STORAGE).unwrap();
        world.from = None;
        world.send(100_000, 1_000);
        assert_eq!(world.dropped.len(), dropped, "mtu {mtu}");
        let next = world.from.unwrap();
        world.server.write(next, &[1; 20_000]);
        world.server.poll(world.now);
        let longest = frames(&mut world.server).iter().map(Vec::len).max();
        assert_eq!(longest, Some(14 + TAKES), "mtu {mtu}");
        // One line to be logged, of the peer and of what the router reports.
        let narrow = Narrow { peer: SERVER, packet_bytes: 1_400, silently: false };
        assert_eq!((world.client.next_narrow(), world.client.next_narrow()), (Some(narrow), None));
        assert_eq!(world.client.paths_shortened(), 1);
        // After a while it is tried again.
        world.now += 600_000 * MS;
        (0..100).for_each(|_| world.step());
        world.to = world.client.connect(SERVER, 3260, TcpOptions::STORAGE).unwrap();
        world.from = None;
        world.send(100_000, 5_000);
        assert!(world.dropped.len() > dropped, "mtu {mtu}");
        assert_eq!((world.client.next_narrow(), world.client.paths_shortened()), (None, 2), "mtu {mtu}");
    }
}

#[test]
fn a_silent_router_is_detected() {
    for (mtu, accepts, says) in [
        (1_500, Accepts::default(), None),
        (1_500, TSO, None),
        (9_000, TSO, None),
        // From before RFC 1191.
        (1_500, Accepts::default(), Some(0)),
    ] {
        let mut world = World::new(mtu, accepts, says);
        world.send(300_000, 9_000);
        let dropped = world.dropped.len();
        assert!(dropped > 0 && world.longest == 1_280, "mtu {mtu}: {}", world.longest);
        world.send(300_000, 2_000);
        assert_eq!(world.dropped.len(), dropped, "mtu {mtu}");
        let narrow = Narrow { peer: SERVER, packet_bytes: 1_280, silently: says.is_none() };
        assert_eq!((world.client.next_narrow(), world.client.next_narrow()), (Some(narrow), None));
    }
}

#[test]
fn the_guarded_port_is_no_exception() {
    // Its connections have other sequence numbers on the wire than in the stack.
    for says in [None, Some(1_400)] {
        let (mut server, mut client) = (guard::guarded(79), host(2, 2));
        let call = client.connect(SERVER, 22, TcpOptions::MANAGEMENT).unwrap();
        let (mut admitted, mut greeting, mut got, mut sent) = (None, Vec::new(), 0, 0);
        let mut dropped = 0;
        for step in 2..9_000 {
            let now = step * MS;
            let mut octets = [0; 8_192];
            let count = client.read(call, &mut octets);
            let welcome = (8usize - greeting.len()).min(count);
            greeting.extend_from_slice(&octets[..welcome]);
            got += count - welcome;
            if welcome > 0 && greeting.len() == 8 {
                client.write(call, &[&greeting[..], &[0; 4]].concat());
            }
            client.poll(now);
            frames(&mut client).iter().for_each(|frame| server.receive(frame, &Offload::None, now));
            admitted = guard::serve(&mut server, now).or(admitted);
            if let Some(admitted) = admitted {
                sent += server.write(admitted, &[3; 60_000][..(60_000 - sent)]);
            }
            server.poll(now);
            for frame in cut(&mut server) {
                // The way changes when something has arrived.
                if frame.len() <= 14 + TAKES || got < 10_000 {
                    client.receive(&frame, &Offload::None, now);
                    continue;
                }
                dropped += 1;
                if let Some(takes) = says {
                    server.receive(&too_big(&frame, takes), &Offload::None, now);
                }
            }
        }
        assert!(got == 60_000 && dropped > 0, "{says:?}: {got} {dropped}");
        // A new connection of the peer is told at once.
        assert_eq!(announced(&mut server, &mut client), says.unwrap_or(1_280) - 40);
    }
}

/// The longest segment that a guarded port lets a caller send.
fn announced(server: &mut Host, client: &mut Host) -> u16 {
    let now = 9_000 * MS;
    client.connect(SERVER, 22, TcpOptions::MANAGEMENT).unwrap();
    for _ in 0..3 {
        client.poll(now);
        frames(client).iter().for_each(|frame| server.receive(frame, &Offload::None, now));
        server.poll(now);
        for frame in frames(server) {
            // A SYN and its acknowledgement, whose first option is the size.
            if frame[12..14] == [8, 0] && frame[47] == 0x12 {
                assert_eq!(frame[54..56], [2, 4]);
                return u16::from_be_bytes([frame[56], frame[57]]);
            }
            client.receive(&frame, &Offload::None, now);
        }
    }
    panic!("no answer")
}

#[test]
fn guarded_port_offers_the_links_segment_size() {
    for (mtu, expected) in [(576, 536), (1_280, 1_240), (1_400, 1_360), (1_500, 1_460), (9_000, 1_460)] {
        let mut server = host_with(1, 79, mtu, Accepts::default());
        server.guard(22, TcpOptions::MANAGEMENT, 8, 12).unwrap();
        assert_eq!(announced(&mut server, &mut host(2, 2)), expected, "mtu {mtu}");
    }
}

#[test]
fn a_few_lost_segments_are_no_narrow_path() {
    let mut random = Random(6_971);
    let (mut server, mut client) = (host(1, 1), host(2, 2));
    server.listen(3260, 1, TcpOptions::STORAGE).unwrap();
    let to = client.connect(SERVER, 3260, TcpOptions::STORAGE).unwrap();
    let mut from = None;
    for step in 0..9_000 {
        let loss = if step < 4_000 { 5 } else { 0 };
        exchange(&mut client, &mut server, step * MS, &mut random, loss);
        if step < 5_000 {
            client.write(to, &[1; 5_000]);
        }
        from = from.or_else(|| server.accept(3260));
        if let Some(from) = from {
            server.read(from, &mut [0; 60_000]);
        }
    }
    client.write(to, &[1; 60_000]);
    client.poll(9_000 * MS);
    assert_eq!(frames(&mut client).iter().map(Vec::len).max(), Some(1_514));
    assert_eq!((client.next_narrow(), client.paths_shortened()), (None, 0));
}

#[test]
fn forged_packet_too_big_is_ignored() {
    let mut world = World::new(1_500, Accepts::default(), None);
    world.send(10_000, 9_000);
    (0..20).for_each(|_| world.step());
    // Under way, and not yet there.
    let mut world = World { dropped: Vec::new(), ..World::new(1_500, Accepts::default(), None) };
    (0..20).for_each(|_| world.step());
    world.client.write(world.to, &[1; 1_460]);
    world.client.poll(world.now + MS);
    let frame = frames(&mut world.client).pop().unwrap();
    assert_eq!(frame.len(), 1_514);
    let lie = |at: usize, octets: &[u8]| {
        let mut quoted = frame.clone();
        quoted[at..at + octets.len()].copy_from_slice(octets);
        quoted
    };
    let sequence = u32::from_be_bytes(*frame[38..].first_chunk().unwrap());
    let lies = [
        // Other ends; a sequence number before and after what is under way.
        lie(26, &[10, 0, 0, 9]),
        lie(30, &[10, 0, 0, 9]),
        lie(34, &[1, 2]),
        lie(36, &[1, 2]),
        lie(38, &sequence.wrapping_sub(1).to_be_bytes()),
        lie(38, &sequence.wrapping_add(1_460).to_be_bytes()),
        // A packet that was short enough; no TCP; a later fragment.
        lie(16, &600u16.to_be_bytes()),
        lie(23, &[17]),
        lie(20, &[0, 7]),
    ];
    let mut messages: Vec<Vec<u8>> = lies.iter().map(|lie| too_big(lie, 600)).collect();
    let good = too_big(&frame, 1_400);
    for (at, value) in [(0, 0x02), (30, 9), (34, 4), (35, 3), (36, 0), (20, 0x20)] {
        let mut message = good.clone();
        message[at] ^= if at == 0 { 1 } else { value | 1 };
        messages.push(message);
    }
    messages.push(too_big(&frame, 1_500));
    messages.extend((0..good.len()).map(|length| good[..length].to_vec()));
    for (number, message) in messages.iter().enumerate() {
        world.client.receive(message, &Offload::None, world.now + MS);
        assert!(world.client.outgoing.paths.is_empty(), "{number}");
    }
    // Less than the least is the least; the true value is accepted.
    world.client.receive(&too_big(&frame, 68), &Offload::None, world.now + MS);
    assert!(!world.client.outgoing.paths.is_empty());
    world.now += MS;
    (0..3_000).for_each(|_| world.step());
    assert_eq!((world.got.len(), world.longest), (1_460, 552));
}

#[test]
fn garbled_messages_change_only_their_state() {
    let mut random = Random(0x5eed_0191);
    let mut world = World::new(1_500, Accepts::default(), None);
    (0..20).for_each(|_| world.step());
    world.client.write(world.to, &[1; 1_460]);
    world.client.poll(world.now + MS);
    let good = too_big(&frames(&mut world.client)[0], 1_400);
    for _ in 0..50_000 {
        let mut message = good.clone();
        for _ in 0..1 + random.next() % 3 {
            let at = random.next() as usize % message.len();
            message[at] = random.next() as u8;
        }
        message.truncate(random.next() as usize % (message.len() + 1));
        world.client.receive(&message, &Offload::None, world.now + MS);
    }
    world.now += MS;
    (0..3_000).for_each(|_| world.step());
    assert_eq!(world.got.len(), 1_460);
}
