//! What a stranger, or a guest that may reach the guarded port, tries.

use super::*;
use crate::limits::HOST_ATTACHED_CALLERS_MAX;

/// Frames that are answered: who has the node's address, a ping, a call at the guarded port.
fn answered() -> [Vec<u8>; 3] {
    let from = [2, 0, 0, 0, 0, 2];
    let mut question = [&[0xff; 6][..], &from, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &from].concat();
    question.extend([10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
    let mut ping =
        [&[2, 0, 0, 0, 0, 1][..], &from, &[8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0x66, 0xdf]].concat();
    ping.extend([10, 0, 0, 2, 10, 0, 0, 1, 8, 0, 0xf7, 0xfd, 0, 1, 0, 1]);
    [question, ping, syn(22, 7)]
}

fn answers(frame: &[u8]) -> usize {
    let mut server = guard::guarded(79);
    server.receive(frame, &Offload::Verified, MS);
    server.poll(MS);
    let known = server.stations().count();
    assert_eq!(known, 0, "nothing is learned from a frame");
    frames(&mut server).len()
}

#[test]
fn only_plain_frames_are_answered() {
    for frame in answered() {
        assert_eq!(answers(&frame), 1);
        let length = u16::try_from(frame.len() - 12 + 6).unwrap().to_be_bytes();
        let wrappings: [&[u8]; 9] = [
            // Tags: of a VLAN, of a provider, older ones, one in another, one too many.
            &[0x81, 0, 0, 5],
            &[0x88, 0xa8, 0, 5],
            &[0x91, 0, 0, 5],
            &[0x92, 0, 0, 5],
            &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 0],
            &[0x81, 0, 0, 1, 0x81, 0, 0, 1, 0x81, 0, 0, 1],
            // A label, and both headers of SNAP.
            &[0x88, 0x47, 0, 0, 0x11, 0xff],
            &[length[0], length[1], 0xaa, 0xaa, 3, 0, 0, 0],
            &[length[0], length[1], 0xaa, 0xaa, 3, 0, 0, 0xf8],
        ];
        for wrapping in wrappings {
            let wrapped = [&frame[..12], wrapping, &frame[12..]].concat();
            assert_eq!(answers(&wrapped), 0, "{wrapping:x?}");
        }
    }
}

#[test]
fn no_part_of_a_packet_is_answered() {
    for frame in answered().iter().filter(|frame| frame[12..14] == [8, 0]) {
        // More to come, the last part, an evil bit; another version, a header too short.
        for (at, octets) in
            [(20, [0x20, 0]), (20, [0, 1]), (20, [0x3f, 0xff]), (14, [0x55, 0]), (14, [0x44, 0])]
        {
            let mut part = frame.clone();
            part[at..at + 2].copy_from_slice(&octets);
            let mut packet = smoltcp::wire::Ipv4Packet::new_unchecked(&mut part[14..]);
            packet.fill_checksum();
            assert_eq!(answers(&part), 0, "{at} {octets:x?}");
        }
        for length in 0..frame.len() {
            assert_eq!(answers(&frame[..length]), 0, "cut at {length}");
        }
    }
}

#[test]
fn flags_that_open_nothing_are_no_call() {
    let [_, _, call] = answered();
    for flags in 0..=0xff_u8 {
        let mut frame = call.clone();
        frame[47] = flags;
        let mut server = guard::guarded(79);
        server.receive(&frame, &Offload::Verified, MS);
        server.poll(MS);
        // At most as much as was sent, and no socket.
        let answer: usize = frames(&mut server).iter().map(Vec::len).sum();
        assert!(answer <= frame.len() && server.connections.is_empty(), "{flags:#x}: {answer} octets");
        assert!(server.next_caller().is_none(), "{flags:#x}");
    }
}

#[test]
fn a_guest_leaves_callers_of_others_room() {
    let mut server = guard::guarded(79);
    let (mut guest, mut other) = (host(9, 3), host(2, 4));
    server.set_attached([(Ipv4Addr::new(10, 0, 0, 9), guest.mac())].into());
    for _ in 0..40 {
        guest.connect(Ipv4Addr::new(10, 0, 0, 1), 22, TcpOptions::MANAGEMENT).unwrap();
    }
    other.connect(Ipv4Addr::new(10, 0, 0, 1), 22, TcpOptions::MANAGEMENT).unwrap();
    for step in 1..50 {
        let now = step * MS;
        guest.poll(now);
        frames(&mut guest).iter().for_each(|frame| server.receive_attached(frame, &Offload::None, now));
        // The wire is slower.
        if step > 20 {
            other.poll(now);
            frames(&mut other).iter().for_each(|frame| server.receive(frame, &Offload::None, now));
        }
        server.poll(now);
        for frame in frames(&mut server) {
            guest.receive(&frame, &Offload::None, now);
            other.receive(&frame, &Offload::None, now);
        }
    }
    let callers = core::iter::from_fn(|| server.next_caller()).count();
    assert_eq!(callers, HOST_ATTACHED_CALLERS_MAX + 1);
    assert_eq!(server.stations().count(), 0, "nothing is learned of either");
}

/// A stack with an address by DHCP.
fn leased() -> Host {
    let mut host = by_dhcp();
    for second in 1..5 {
        host.poll(second * 1_000 * MS);
        for answer in frames(&mut host).iter().filter_map(|frame| dhcp_answer(frame)) {
            host.receive(&answer, &Offload::None, second * 1_000 * MS);
        }
    }
    assert!(host.lease().is_some());
    frames(&mut host);
    host
}

/// A datagram for the port of the DHCP client.
fn datagram(station: [u8; 6], to: Ipv4Addr, from: u16, body: &[u8]) -> Vec<u8> {
    let udp =
        [&from.to_be_bytes()[..], &[0, 68], &((8 + body.len()) as u16).to_be_bytes(), &[0, 0], body].concat();
    let [high, low] = ((20 + udp.len()) as u16).to_be_bytes();
    let header = [0x45, 0, high, low, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 99];
    let mut frame = [&station[..], &[2, 0, 0, 0, 0, 9], &[8, 0], &header, &to.octets(), &udp].concat();
    smoltcp::wire::Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
    frame
}

#[test]
fn strangers_at_the_dhcp_port_are_ignored() {
    let mut host = leased();
    let before = host.lease();
    let own = before.unwrap().address;
    let now = 5_000 * MS;
    // A refusal of another station's request: another transaction.
    let mut refusal = vec![0; 240];
    refusal[..4].copy_from_slice(&[2, 1, 6, 0]);
    refusal[28..34].copy_from_slice(&host.mac().0);
    refusal[236..240].copy_from_slice(&[99, 130, 83, 99]);
    refusal.extend([53, 1, 6, 54, 4, 10, 9, 0, 99, 255]);
    for from in [0, 9, 53, 67, 68, 4011] {
        for (station, to) in
            [(host.mac().0, own), (host.mac().0, Ipv4Addr::BROADCAST), ([0xff; 6], Ipv4Addr::BROADCAST)]
        {
            for body in [&[][..], &[0xee; 300], &refusal, &refusal[..239]] {
                host.receive(&datagram(station, to, from, body), &Offload::None, now);
                host.poll(now);
                let said = frames(&mut host);
                assert!(said.is_empty(), "{from} to {to}: {said:x?}");
                assert_eq!(host.lease(), before);
            }
        }
    }
}

#[test]
fn a_used_port_answers_its_peer_alone() {
    let (mut server, mut client, mut stranger) = (host(1, 1), host(2, 2), host(9, 3));
    for other in [&mut server, &mut stranger] {
        other.listen(3260, 2, TcpOptions::STORAGE).unwrap();
    }
    let to = client.connect(Ipv4Addr::new(10, 0, 0, 1), 3260, TcpOptions::STORAGE).unwrap();
    for step in 1..20 {
        exchange(&mut client, &mut server, step * MS, &mut Random(1), 0);
    }
    assert_eq!(client.state(to), ConnectionState::Established);
    server.write(server.connections[0].id, &[7; 100]);
    server.poll(30 * MS);
    // What the peer sends arrives from another station's address, or from another port.
    let spoken = frames(&mut server).pop().unwrap();
    for (at, octets) in [(26, &[10, 0, 0, 9][..]), (34, &[1, 2])] {
        let mut frame = spoken.clone();
        frame[at..at + octets.len()].copy_from_slice(octets);
        smoltcp::wire::Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
        for flags in 0..=0xff_u8 {
            frame[47] = flags;
            client.receive(&frame, &Offload::Verified, 30 * MS);
            client.poll(30 * MS);
            assert_eq!(frames(&mut client), Vec::<Vec<u8>>::new(), "{at} {flags:#x}");
        }
    }
    client.receive(&spoken, &Offload::Verified, 30 * MS);
    assert_eq!(client.read(to, &mut [0; 200]), 100);
}
