//! The stack against itself over a bad wire, against a tiny DHCP server and noise.

extern crate std;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::limits::HOST_LARGE_FRAME_BYTES_MAX;

mod guard;
mod large;
mod link;
mod narrow;
mod sequence;
mod strangers;
mod streams;

const MS: u64 = 1_000_000;

struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
}

fn host(last: u8, seed: u64) -> Host {
    host_with(last, seed, 1500, Accepts::default())
}

fn host_with(last: u8, seed: u64, mtu: usize, accepts: Accepts) -> Host {
    let config = HostConfig {
        mac: MacAddress([2, 0, 0, 0, 0, last]),
        mtu,
        accepts,
        addressing: Addressing::Static { address: Ipv4Addr::new(10, 0, 0, last), prefix: 24, gateway: None },
        seed,
        secret: [seed as u8; 16],
    };
    Host::new(&config, 0).unwrap()
}

fn frames(host: &mut Host) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut scratch = vec![0; HOST_LARGE_FRAME_BYTES_MAX];
    while host.transmit(|frame, offload| {
        all.push(offload.whole(frame, &mut scratch).unwrap().to_vec());
        true
    }) {}
    all
}

/// One millisecond of a wire that loses, duplicates and swaps.
fn exchange(a: &mut Host, b: &mut Host, now: u64, random: &mut Random, loss: u64) {
    for _ in 0..4 {
        a.poll(now);
        b.poll(now);
        let mut to_b = frames(a);
        let mut to_a = frames(b);
        if random.chance(loss) && to_b.len() > 1 {
            to_b.swap(0, 1);
        }
        for frame in to_b.drain(..) {
            if !random.chance(loss) {
                b.receive(&frame, &Offload::None, now);
                if random.chance(loss) {
                    b.receive(&frame, &Offload::None, now);
                }
            }
        }
        for frame in to_a.drain(..) {
            if !random.chance(loss) {
                a.receive(&frame, &Offload::None, now);
            }
        }
    }
}

#[test]
fn damaged_segment_is_dropped_unless_verified() {
    let (mut server, mut client) = (host(1, 1), host(2, 2));
    server.listen(22, 1, TcpOptions::MANAGEMENT).unwrap();
    let connection = client.connect(Ipv4Addr::new(10, 0, 0, 1), 22, TcpOptions::MANAGEMENT).unwrap();
    let mut random = Random(1);
    (0..10).for_each(|step| exchange(&mut client, &mut server, step * MS, &mut random, 0));
    let accepted = server.accept(22).unwrap();
    client.write(connection, b"hello");
    client.poll(20 * MS);
    let mut segment = frames(&mut client).pop().unwrap();
    *segment.last_mut().unwrap() ^= 1;
    let mut octets = [0; 8];
    server.receive(&segment, &Offload::None, 20 * MS);
    assert_eq!((server.read(accepted, &mut octets), server.counters().damaged_frames), (0, 1));
    server.receive(&segment, &Offload::Verified, 20 * MS);
    assert_eq!((server.read(accepted, &mut octets), server.counters().damaged_frames), (5, 1));
}

#[test]
fn a_stream_survives_a_lossy_wire() {
    for seed in 1..=6u64 {
        let loss = (seed - 1) * 2;
        let mut random = Random(seed * 6971);
        let (mut server, mut client) = (host(1, seed), host(2, seed + 100));
        server.listen(7000, 2, TcpOptions::MANAGEMENT).unwrap();
        let to = client.connect(Ipv4Addr::new(10, 0, 0, 1), 7000, TcpOptions::STORAGE).unwrap();
        let total = 300_000usize;
        let byte = |index: usize| (index.wrapping_mul(31) >> 3) as u8;
        let (mut sent, mut got) = (0, 0);
        let mut from = None;
        let mut closed = false;
        for step in 0..400_000u64 {
            let now = step * MS;
            exchange(&mut client, &mut server, now, &mut random, loss);
            if client.state(to) == ConnectionState::Established && sent < total {
                let piece: Vec<u8> = (sent..(sent + 9000).min(total)).map(byte).collect();
                sent += client.write(to, &piece);
            }
            from = from.or_else(|| server.accept(7000));
            if let Some(from) = from {
                let mut buffer = [0; 5000];
                let read = server.read(from, &mut buffer);
                for (offset, octet) in buffer[..read].iter().enumerate() {
                    assert_eq!(*octet, byte(got + offset), "seed {seed}");
                }
                got += read;
            }
            if sent == total && !closed {
                client.close(to, now);
                closed = true;
            }
            let from_state = from.map(|from| server.state(from));
            if got == total && from_state == Some(ConnectionState::PeerClosed) {
                break;
            }
        }
        assert_eq!(got, total, "seed {seed}");
    }
}

#[test]
fn several_clients_and_reuse_of_slots() {
    let mut random = Random(5);
    let (mut server, mut client) = (host(1, 3), host(2, 4));
    server.listen(22, 4, TcpOptions::MANAGEMENT).unwrap();
    assert_eq!(server.listen(22, 1, TcpOptions::MANAGEMENT), Err(HostError::BadAddress));
    for round in 0..20u64 {
        let base = round * 40;
        let ids: Vec<_> = (0..4)
            .map(|_| client.connect(Ipv4Addr::new(10, 0, 0, 1), 22, TcpOptions::MANAGEMENT).unwrap())
            .collect();
        for step in 0..20 {
            exchange(&mut client, &mut server, (base + step) * MS, &mut random, 0);
        }
        let mut accepted = Vec::new();
        while let Some(id) = server.accept(22) {
            assert!(server.peer(id).is_some());
            accepted.push(id);
        }
        assert_eq!(accepted.len(), 4, "round {round}");
        for id in ids {
            client.abort(id, (base + 20) * MS);
        }
        for step in 20..40 {
            exchange(&mut client, &mut server, (base + step) * MS, &mut random, 0);
        }
        for id in accepted {
            assert_eq!(server.state(id), ConnectionState::Closed);
            server.close(id, (base + 40) * MS);
        }
    }
    assert!(server.connections.len() <= 8 && client.connections.len() <= 4);
}

fn syn(port: u16, from: u16) -> Vec<u8> {
    let mut client = host(9, u64::from(from) + 1);
    client.set_lease(Some(Lease {
        address: Ipv4Addr::new(10, 0, 0, (from % 200) as u8 + 20),
        prefix: 24,
        gateway: None,
        server: None,
    }));
    client.connect(Ipv4Addr::new(10, 0, 0, 1), port, TcpOptions::MANAGEMENT).unwrap();
    client.poll(0);
    let arp = frames(&mut client).pop().unwrap();
    // Answer the ARP request by hand.
    let mut reply = arp.clone();
    reply[..6].copy_from_slice(&arp[6..12]);
    reply[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    reply[21] = 2;
    reply[22..28].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    reply[28..32].copy_from_slice(&arp[38..42]);
    reply[32..42].copy_from_slice(&arp[22..32]);
    client.receive(&reply, &Offload::None, MS);
    client.poll(MS);
    frames(&mut client).pop().unwrap()
}

#[test]
fn no_ipv6_reaches_the_stack() {
    let mut server = host(1, 1);
    // RFC 8200, 3 and RFC 4443, 4.1: an echo request to all nodes of the link.
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];
    frame.extend([0x60, 0, 0, 0, 0, 8, 58, 255]);
    frame.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    frame.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    frame.extend([128, 0, 0x83, 0xb8, 0, 1, 0, 1]);
    server.receive(&frame, &Offload::Verified, MS);
    server.poll(MS);
    assert!(frames(&mut server).is_empty() && server.counters().unwanted_frames == 1);
}

#[test]
fn closed_ports_are_silent_and_floods_pass() {
    let mut server = host(1, 77);
    server.listen(22, 4, TcpOptions::MANAGEMENT).unwrap();
    server.receive(&syn(23, 1), &Offload::None, MS);
    server.poll(MS);
    assert!(frames(&mut server).is_empty(), "no reset from a closed port");
    for n in 0..64u16 {
        server.receive(&syn(22, n), &Offload::None, 2 * MS);
        server.poll(2 * MS);
    }
    frames(&mut server);
    assert!(server.connections.len() <= 4);
    // The flood's slots come back, and a real client gets in.
    let mut client = host(2, 4);
    let id = client.connect(Ipv4Addr::new(10, 0, 0, 1), 22, TcpOptions::MANAGEMENT).unwrap();
    let mut random = Random(1);
    for step in 3..4_000 {
        exchange(&mut client, &mut server, step * MS, &mut random, 0);
    }
    assert_eq!(client.state(id), ConnectionState::Established);
    assert!(server.counters().half_open_reaped >= 2);
}

#[test]
fn no_deadline_stays_in_the_past() {
    let mut server = host(1, 78);
    server.listen(22, 4, TcpOptions::MANAGEMENT).unwrap();
    let mut client = host(2, 4);
    client.connect(Ipv4Addr::new(10, 0, 0, 1), 22, TcpOptions::MANAGEMENT).unwrap();
    for step in 0..20 {
        exchange(&mut client, &mut server, step * MS, &mut Random(1), 0);
    }
    // One peer falls silent with octets under way, another in its handshake.
    let id = server.accept(22).unwrap();
    server.write(id, &[1; 1000]);
    server.close(id, 20 * MS);
    server.receive(&syn(22, 1), &Offload::None, 20 * MS);
    let mut at_once = 0;
    for step in 20..70_000u64 {
        server.poll(step * MS);
        frames(&mut server);
        at_once += u32::from(server.next_deadline(step * MS).is_some_and(|at| at <= step * MS));
    }
    assert!(at_once < 20, "{at_once} times");
}

#[test]
fn ping_is_answered() {
    let (mut server, mut client) = (host(1, 77), host(2, 5));
    // An ARP exchange first, so that the server knows the way back.
    server.listen(22, 1, TcpOptions::MANAGEMENT).unwrap();
    client.connect(Ipv4Addr::new(10, 0, 0, 1), 22, TcpOptions::MANAGEMENT).unwrap();
    exchange(&mut client, &mut server, MS, &mut Random(1), 0);
    let mut ping = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    ping.extend_from_slice(&[
        0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0x66, 0xdf, 10, 0, 0, 2, 10, 0, 0, 1, 8, 0, 0xf7, 0xfd, 0, 1, 0, 1,
    ]);
    server.receive(&ping, &Offload::None, 2 * MS);
    server.poll(2 * MS);
    let reply = frames(&mut server).pop().unwrap();
    assert_eq!((reply[23], reply[34]), (1, 0), "echo reply");
}

/// A DHCP server of a few lines: answers DISCOVER with OFFER and REQUEST with ACK.
fn dhcp_answer(request: &[u8]) -> Option<Vec<u8>> {
    let dhcp = request.get(42..)?;
    let options = dhcp.get(240..)?;
    let kind = options.windows(3).find(|w| w[0] == 53 && w[1] == 1)?[2];
    let mut answer = vec![0u8; 240];
    answer[..4].copy_from_slice(&[2, 1, 6, 0]);
    answer[4..8].copy_from_slice(&dhcp[4..8]);
    answer[16..20].copy_from_slice(&[10, 9, 0, 55]);
    answer[20..24].copy_from_slice(&[10, 9, 0, 1]);
    answer[28..44].copy_from_slice(&dhcp[28..44]);
    answer[236..240].copy_from_slice(&[99, 130, 83, 99]);
    answer.extend_from_slice(&[53, 1, if kind == 1 { 2 } else { 5 }]);
    answer.extend_from_slice(&[54, 4, 10, 9, 0, 1, 51, 4, 0, 0, 0, 60]);
    answer.extend_from_slice(&[1, 4, 255, 255, 0, 0, 3, 4, 10, 9, 0, 1, 255]);
    let mut frame = vec![0xff; 6];
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 0x99, 8, 0]);
    let total = (28 + answer.len()) as u16;
    let mut ip = vec![0x45, 0];
    ip.extend_from_slice(&total.to_be_bytes());
    ip.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 1, 255, 255, 255, 255]);
    let sum: u32 = ip.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend_from_slice(&ip);
    frame.extend_from_slice(&[0, 67, 0, 68]);
    frame.extend_from_slice(&(total - 20).to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(&answer);
    Some(frame)
}

/// A stack that asks for its address.
fn by_dhcp() -> Host {
    let config = HostConfig {
        mac: MacAddress([2, 0, 0, 0, 0, 7]),
        mtu: 1500,
        accepts: Accepts::default(),
        addressing: Addressing::Dhcp,
        seed: 5,
        secret: [5; 16],
    };
    Host::new(&config, 0).unwrap()
}

#[test]
fn dhcp_leases_renews_and_expires() {
    let mut host = by_dhcp();
    assert_eq!(host.connect(Ipv4Addr::new(10, 9, 0, 1), 1, TcpOptions::STORAGE), Err(HostError::NoAddress));
    let run = |host: &mut Host, from: u64, until: u64, answering: bool| {
        for second in from..until {
            for _ in 0..4 {
                host.poll(second * 1000 * MS);
                for frame in frames(host) {
                    // The first request is lost: the client asks again.
                    if answering
                        && second > 0
                        && let Some(answer) = dhcp_answer(&frame)
                    {
                        host.receive(&answer, &Offload::None, second * 1000 * MS);
                    }
                }
            }
        }
    };
    run(&mut host, 0, 5, true);
    let lease = host.lease().unwrap();
    assert_eq!((lease.address, lease.prefix), (Ipv4Addr::new(10, 9, 0, 55), 16));
    assert_eq!(lease.gateway, Some(Ipv4Addr::new(10, 9, 0, 1)));
    assert_eq!(lease.server, lease.gateway);
    run(&mut host, 5, 70, true);
    assert!(host.lease().is_some());
    run(&mut host, 70, 140, false);
    assert_eq!(host.lease(), None, "an expired lease is given up");
}

#[test]
fn mutated_frames_never_panic() {
    let mut server = host(1, 9);
    server.listen(22, 4, TcpOptions::MANAGEMENT).unwrap();
    let mut random = Random(0xdead_beef_1234);
    let base = syn(22, 3);
    let dhcp = HostConfig {
        mac: MacAddress([2, 0, 0, 0, 0, 7]),
        mtu: 1500,
        accepts: Accepts::default(),
        addressing: Addressing::Dhcp,
        seed: 5,
        secret: [5; 16],
    };
    let mut leasing = Host::new(&dhcp, 0).unwrap();
    leasing.poll(MS);
    let discover = frames(&mut leasing).pop().unwrap();
    let offer = dhcp_answer(&discover).unwrap();
    for round in 0..100_000u64 {
        let mut mutant = if round % 2 == 0 { base.clone() } else { offer.clone() };
        for _ in 0..random.next() % 6 {
            let index = random.next() as usize % mutant.len();
            mutant[index] = random.next() as u8;
        }
        if random.chance(10) {
            mutant.truncate(random.next() as usize % (mutant.len() + 1));
        }
        let now = (10 + round / 10) * MS;
        let target = if round % 2 == 0 { &mut server } else { &mut leasing };
        target.receive(&mutant, &Offload::None, now);
        if round % 16 < 2 {
            target.poll(now);
            frames(target);
            target.next_deadline(now);
        }
    }
    assert!(server.connections.len() <= HOST_SOCKETS_MAX);
}
