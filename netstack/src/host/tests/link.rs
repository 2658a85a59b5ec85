//! What the stack makes of ARP: its own questions and answers, claims, a gateway off the
//! link.

use super::*;
use crate::host::arp::Arp;
use smoltcp::wire::ArpOperation;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const SERVER_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PEER_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 2]);
const LIAR: MacAddress = MacAddress([2, 0, 0, 0, 0, 0x66]);

fn arp(operation: ArpOperation, sender: (MacAddress, Ipv4Addr), target: Ipv4Addr) -> Arp {
    Arp { operation, sender_mac: sender.0, sender: sender.1, target_mac: SERVER_MAC, target }
}

/// A client with an open connection to a server.
fn connected() -> (Host, Host, ConnectionId) {
    let (mut server, mut client) = (host(1, 1), host(2, 2));
    server.listen(22, 1, TcpOptions::MANAGEMENT).unwrap();
    client.connect(SERVER, 22, TcpOptions::MANAGEMENT).unwrap();
    let mut random = Random(1);
    (0..10).for_each(|step| exchange(&mut client, &mut server, step * MS, &mut random, 0));
    let accepted = server.accept(22).unwrap();
    (server, client, accepted)
}

#[test]
fn no_claim_moves_a_connection() {
    let (mut server, mut client, id) = connected();
    for second in 1..200 {
        let now = second * 1_000 * MS;
        for operation in [ArpOperation::Request, ArpOperation::Reply] {
            for to in [SERVER_MAC, MacAddress::BROADCAST] {
                for target in [SERVER, PEER] {
                    let lie = arp(operation, (LIAR, PEER), target).frame(to);
                    server.receive(&lie, &Offload::None, now);
                }
            }
        }
        server.write(id, b"secret");
        let mut random = Random(1);
        server.poll(now);
        let sent = frames(&mut server);
        // What answers a question is sent to the asker, and names the node's own address.
        let packets = sent.iter().filter(|frame| frame[12..14] == [8, 0]);
        assert!(packets.clone().count() > 0 && packets.clone().all(|frame| frame[..6] == PEER_MAC.0));
        for frame in sent {
            client.receive(&frame, &Offload::None, now);
        }
        for step in 0..4 {
            exchange(&mut client, &mut server, now + step * MS, &mut random, 0);
        }
    }
    assert_eq!(server.state(id), ConnectionState::Established);
    assert_eq!((server.next_moved(), server.claims()), (None, Claims::default()));
}

#[test]
fn the_node_answers_for_its_own_address_alone() {
    let mut server = host(1, 1);
    let ask = |server: &mut Host, sender: Ipv4Addr, target: Ipv4Addr| {
        let question = arp(ArpOperation::Request, (PEER_MAC, sender), target);
        server.receive(&question.frame(MacAddress::BROADCAST), &Offload::None, MS);
        frames(server)
    };
    // RFC 826: literal octets.
    let answer = [
        2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 2,
        0, 0, 0, 0, 2, 10, 0, 0, 2,
    ];
    assert_eq!(ask(&mut server, PEER, SERVER), [answer.to_vec()]);
    // A probe for it is answered too (RFC 5227, 2.1.1).
    assert_eq!(ask(&mut server, Ipv4Addr::UNSPECIFIED, SERVER).len(), 1);
    assert!(ask(&mut server, PEER, Ipv4Addr::new(10, 0, 0, 9)).is_empty());
    // The sender's two hardware addresses are one.
    let mut forged = arp(ArpOperation::Request, (PEER_MAC, PEER), SERVER).frame(MacAddress::BROADCAST);
    forged[6..12].copy_from_slice(&LIAR.0);
    server.receive(&forged, &Offload::None, MS);
    assert!(frames(&mut server).is_empty());
}

#[test]
fn claims_of_the_own_address_are_defended() {
    let mut server = host(1, 1);
    let mut defences = 0;
    for tenth in 0..600 {
        let claim = arp(ArpOperation::Request, (LIAR, SERVER), SERVER).frame(MacAddress::BROADCAST);
        server.receive(&claim, &Offload::None, tenth * 100 * MS);
        for frame in frames(&mut server) {
            assert_eq!(frame[..6], [0xff; 6]);
            assert_eq!(
                (frame[28..32].to_vec(), frame[38..42].to_vec()),
                (vec![10, 0, 0, 1], vec![10, 0, 0, 1])
            );
            defences += 1;
        }
    }
    assert_eq!(defences, 6, "one in ten seconds (RFC 5227, 2.4 and 1.1)");
    assert_eq!((server.claims().count, server.claims().by), (600, Some(LIAR)));
}

#[test]
fn a_cookie_teaches_nothing() {
    let mut server = guard::guarded(79);
    let addressing = Addressing::Static { address: PEER, prefix: 24, gateway: None };
    let (mac, accepts) = (LIAR, Accepts::default());
    let config = HostConfig { mac, mtu: 1500, accepts, addressing, seed: 5, secret: [5; 16] };
    let mut liar = Host::new(&config, 0).unwrap();
    let call = liar.connect(SERVER, 22, TcpOptions::MANAGEMENT).unwrap();
    let (mut admitted, mut greeting) = (None, Vec::new());
    let mut buffer = [0; 64];
    for step in 2..200 {
        let now = step * MS;
        let count = liar.read(call, &mut buffer);
        greeting.extend_from_slice(&buffer[..count]);
        if greeting.len() == 8 {
            greeting.extend_from_slice(&[0; 4]);
            liar.write(call, &greeting);
        }
        liar.poll(now);
        for frame in frames(&mut liar) {
            server.receive(&frame, &Offload::None, now);
        }
        admitted = guard::serve(&mut server, now).or(admitted);
        server.poll(now);
        for frame in frames(&mut server).into_iter().filter(|frame| frame[..6] == LIAR.0) {
            liar.receive(&frame, &Offload::None, now);
        }
    }
    // The liar had its handshake; what the connection sends waits for the peer's own answer.
    server.write(admitted.unwrap(), b"secret");
    server.poll(200 * MS);
    assert!(frames(&mut server).iter().all(|frame| frame[..6] != LIAR.0));
    assert_eq!(server.outgoing.neighbours.station(PEER), None);
}

#[test]
fn a_gateway_off_the_link_is_asked_for_there() {
    let gateway = Ipv4Addr::new(192, 0, 2, 1);
    let addressing = Addressing::Static { address: SERVER, prefix: 32, gateway: Some(gateway) };
    let config = HostConfig {
        mac: SERVER_MAC,
        mtu: 1500,
        accepts: Accepts::default(),
        addressing,
        seed: 3,
        secret: [3; 16],
    };
    let mut host = Host::new(&config, 0).unwrap();
    host.connect(Ipv4Addr::new(198, 51, 100, 7), 3260, TcpOptions::STORAGE).unwrap();
    host.poll(MS);
    let asked = frames(&mut host);
    assert_eq!((asked.len(), &asked[0][12..14], &asked[0][38..42]), (1, &[8, 6][..], &gateway.octets()[..]));
    let answer = arp(ArpOperation::Reply, (PEER_MAC, gateway), SERVER).frame(SERVER_MAC);
    host.receive(&answer, &Offload::None, 2 * MS);
    let sent = frames(&mut host);
    assert_eq!((sent.len(), &sent[0][..6], &sent[0][30..34]), (1, &PEER_MAC.0[..], &[198, 51, 100, 7][..]));
}

#[test]
fn garbled_arp_changes_nothing() {
    let (mut server, mut client, id) = connected();
    let mut random = Random(0x5eed_0061);
    let base = arp(ArpOperation::Reply, (LIAR, PEER), SERVER).frame(SERVER_MAC);
    for round in 0..50_000u64 {
        let mut frame = base.clone();
        for _ in 0..random.next() % 4 {
            let at = random.next() as usize % frame.len();
            frame[at] = random.next() as u8;
        }
        frame.truncate(random.next() as usize % (frame.len() + 1));
        let now = 20 * MS + round * MS / 10;
        server.receive(&frame, &Offload::None, now);
        exchange(&mut client, &mut server, now, &mut Random(1), 0);
        assert_eq!(server.outgoing.neighbours.station(PEER), Some(PEER_MAC), "round {round}");
    }
    assert_eq!(server.state(id), ConnectionState::Established);
}
