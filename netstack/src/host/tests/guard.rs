//! A port where peers get a socket only after the right words.

use super::*;
use crate::limits::HOST_GUARDED_SOCKETS_MAX;

/// A frame from a stranger of an address of its own.
fn foreign_syn(random: &mut Random) -> Vec<u8> {
    let mut frame = syn(22, random.next() as u16);
    let address = [10, 0, 0, 3 + (random.next() % 250) as u8];
    frame[26..30].copy_from_slice(&address);
    frame[34..36].copy_from_slice(&(1024 + random.next() as u16 % 60_000).to_be_bytes());
    // Both checksums again: the packet's own and TCP's.
    frame[24..26].copy_from_slice(&[0, 0]);
    let mut packet = smoltcp::wire::Ipv4Packet::new_unchecked(&mut frame[14..]);
    packet.fill_checksum();
    let (from, to) = (packet.src_addr(), packet.dst_addr());
    smoltcp::wire::TcpPacket::new_unchecked(packet.payload_mut()).fill_checksum(&from.into(), &to.into());
    frame
}

/// A port that greets with eight octets and wants twelve.
pub(super) fn guarded(seed: u64) -> Host {
    let mut server = host(1, seed);
    server.guard(22, TcpOptions::MANAGEMENT, 8, 12).unwrap();
    server
}

/// Greets callers and admits those that send the words.
pub(super) fn serve(server: &mut Host, now: u64) -> Option<ConnectionId> {
    let mut admitted = None;
    while let Some(caller) = server.next_caller() {
        match caller.words() {
            None => server.greet(&caller, &caller.challenge()[..8], now),
            Some(words) if words[..8] == caller.challenge()[..8] => admitted = server.admit(&caller, now),
            Some(_) => server.dismiss(&caller),
        }
    }
    admitted
}

#[test]
fn a_client_connects_during_a_flood() {
    for loss in [0, 5] {
        let mut random = Random(0x5eed_0051 + loss);
        let mut server = guarded(79);
        let mut client = host(2, 80);
        let flood = |server: &mut Host, random: &mut Random, now| {
            for _ in 0..20 {
                server.receive(&foreign_syn(random), &Offload::None, now);
                server.poll(now);
            }
        };
        for step in 0..100 {
            flood(&mut server, &mut random, step * MS);
            frames(&mut server);
        }
        let id = client.connect(Ipv4Addr::new(10, 0, 0, 1), 22, TcpOptions::MANAGEMENT).unwrap();
        let (mut there, mut admitted_at, mut sent, mut echoed) = (None, 0, 0, 0);
        let (mut up, mut down, mut is_greeted) = (Vec::new(), Vec::new(), false);
        let text: Vec<u8> = (0..100_000u32).map(|index| ((index * 7) >> 2) as u8).collect();
        for step in 100..60_000 {
            let now = step * MS;
            flood(&mut server, &mut random, now);
            exchange(&mut client, &mut server, now, &mut random, loss);
            if there.is_none() {
                there = serve(&mut server, now);
                admitted_at = step;
            }
            let mut buffer = [0; 4000];
            if !is_greeted {
                let count = client.read(id, &mut buffer);
                assert!(count == 0 || count == 8);
                is_greeted = count == 8;
                if is_greeted {
                    client.write(id, &[&buffer[..8], b"open"].concat());
                }
                continue;
            }
            let Some(peer) = there else { continue };
            sent += client.write(id, &text[sent..(sent + 3000).min(text.len())]);
            let count = server.read(peer, &mut buffer);
            up.extend_from_slice(&buffer[..count]);
            echoed += server.write(peer, &up[echoed..]);
            let count = client.read(id, &mut buffer);
            down.extend_from_slice(&buffer[..count]);
            if down.len() == text.len() {
                break;
            }
        }
        assert!(up == text && down == text, "loss {loss}: {} and {} octets", up.len(), down.len());
        assert!(loss != 0 || admitted_at <= 103, "admitted after {} ms", admitted_at - 100);
        let counters = server.counters();
        assert!(counters.cookies_sent > 1000 && counters.cookies_redeemed == 1, "{counters:?}");
        assert_eq!(server.connections.len(), 1, "the flood holds no socket");
    }
}

/// A peer on the same machine leaves checksums to the card.
#[test]
fn verified_segments_need_no_checksum() {
    for (offload, is_taken) in [(Offload::None, false), (Offload::Verified, true)] {
        let (mut server, mut client) = (guarded(89), host(2, 90));
        let id = client.connect(Ipv4Addr::new(10, 0, 0, 1), 22, TcpOptions::MANAGEMENT).unwrap();
        let mut admitted = None;
        for step in 0..100 {
            let now = step * MS;
            client.poll(now);
            for mut frame in frames(&mut client) {
                if frame[12..14] == [8, 0] {
                    frame[50..52].fill(0xee);
                }
                server.receive(&frame, &offload, now);
            }
            admitted = admitted.or(serve(&mut server, now));
            server.poll(now);
            for frame in frames(&mut server) {
                client.receive(&frame, &Offload::None, now);
            }
            let mut greeting = [0; 8];
            if client.read(id, &mut greeting) == 8 {
                client.write(id, &[&greeting[..], b"open"].concat());
            }
        }
        assert_eq!(admitted.is_some(), is_taken, "{offload:?}");
    }
}

#[test]
fn wrong_words_end_a_connection_and_hold_nothing() {
    let (mut server, mut client, mut random) = (guarded(83), host(2, 84), Random(9));
    for (number, words) in [&b"open the door"[..], b"let me in!!!", b"fin"].into_iter().enumerate() {
        let start = number as u64 * 5_000;
        let id = client.connect(Ipv4Addr::new(10, 0, 0, 1), 22, TcpOptions::MANAGEMENT).unwrap();
        let mut is_said = false;
        for step in start..start + 2_000 {
            exchange(&mut client, &mut server, step * MS, &mut random, 0);
            assert!(serve(&mut server, step * MS).is_none() && server.connections.is_empty());
            if !is_said && client.read(id, &mut [0; 8]) == 8 {
                is_said = true;
                client.write(id, words);
                if words == b"fin" {
                    client.close(id, step * MS);
                }
            }
        }
        assert!(is_said);
        assert_eq!(client.state(id), ConnectionState::Closed, "{number}");
        assert!(server.next_deadline(start + 2_000 * MS).is_none(), "and nothing is remembered");
    }
}

#[test]
fn lost_greetings_are_sent_again() {
    let (mut server, mut client, mut random) = (guarded(85), host(2, 86), Random(3));
    let id = client.connect(Ipv4Addr::new(10, 0, 0, 1), 22, TcpOptions::MANAGEMENT).unwrap();
    let mut dropped = 0;
    for step in 0..3_000 {
        let now = step * MS;
        exchange(&mut client, &mut server, now, &mut random, 0);
        while let Some(caller) = server.next_caller() {
            if dropped < 2 {
                dropped += 1;
                // As if the greeting were lost.
                server.greet(&caller, &[1; 8], now);
                frames(&mut server);
            } else {
                server.greet(&caller, &[1; 8], now);
            }
        }
        if client.read(id, &mut [0; 8]) == 8 {
            assert!((1_100..1_400).contains(&step), "{step}");
            return;
        }
    }
    panic!("no greeting came");
}

#[test]
fn connections_that_are_over_make_room() {
    let (mut server, mut random) = (guarded(87), Random(4));
    let mut client = host(2, 88);
    let mut open = 0;
    for number in 0..3 * HOST_GUARDED_SOCKETS_MAX as u64 {
        let id = client.connect(Ipv4Addr::new(10, 0, 0, 1), 22, TcpOptions::MANAGEMENT).unwrap();
        for step in number * 40..number * 40 + 40 {
            let now = step * MS;
            exchange(&mut client, &mut server, now, &mut random, 0);
            if let Some(peer) = serve(&mut server, now) {
                // Never taken by anybody.
                server.write(peer, &[1; 60_000]);
                server.close(peer, now);
                open += 1;
            }
            let mut greeting = [0; 8];
            if client.read(id, &mut greeting) == 8 && client.write_room(id) > 60_000 {
                client.write(id, &[&greeting[..], b"open"].concat());
            }
        }
        assert!(server.connections.len() <= HOST_GUARDED_SOCKETS_MAX);
        client.remove(id);
    }
    assert_eq!(open, 3 * HOST_GUARDED_SOCKETS_MAX);
}

#[test]
fn invalid_peer_addresses_are_not_answered() {
    let mut random = Random(0x5eed_0053);
    let mut server = guarded(82);
    let cookies = |server: &mut Host, alter: &dyn Fn(&mut [u8]), random: &mut Random| {
        for _ in 0..50 {
            let mut frame = foreign_syn(random);
            alter(&mut frame);
            let mut packet = smoltcp::wire::Ipv4Packet::new_unchecked(&mut frame[14..]);
            packet.fill_checksum();
            let (from, to) = (packet.src_addr(), packet.dst_addr());
            smoltcp::wire::TcpPacket::new_unchecked(packet.payload_mut())
                .fill_checksum(&from.into(), &to.into());
            server.receive(&frame, &Offload::None, MS);
            server.poll(MS);
            frames(server);
        }
        server.counters().cookies_sent
    };
    let some = cookies(&mut server, &|_| (), &mut random);
    assert_eq!(some, 50);
    let from = |address: [u8; 4]| move |frame: &mut [u8]| frame[26..30].copy_from_slice(&address);
    for address in [[255; 4], [224, 0, 0, 1], [0; 4], [127, 0, 0, 1], [10, 0, 0, 1]] {
        assert_eq!(cookies(&mut server, &from(address), &mut random), some, "{address:?}");
    }
    assert_eq!(cookies(&mut server, &|frame| frame[..6].fill(0xff), &mut random), some, "to all stations");
    assert_eq!(cookies(&mut server, &|frame| frame[6] |= 1, &mut random), some, "from a group");
}

#[test]
fn only_a_fresh_cookie_opens() {
    use crate::host::cookie::{CookieKey, Segment};
    let cookie_key = CookieKey::new([9; 16]);
    let opening = Segment::parse(&syn(22, 7)).unwrap();
    let made_at = 1_000_000 * MS;
    let cookie = cookie_key.cookie(&opening, made_at);
    let third = |cookie: u32| Segment {
        sequence: opening.sequence.wrapping_add(1),
        acknowledgement: Some(cookie.wrapping_add(1)),
        ..opening
    };
    let (number, size) = cookie_key.check(&third(cookie), 0, made_at + 1).unwrap();
    assert_eq!((number, size), (cookie, 1460));
    assert!(cookie_key.check(&third(cookie), 0, made_at + 31_000 * MS).is_some());
    assert!(cookie_key.check(&third(cookie), 0, made_at + 65_000 * MS).is_none(), "too old");
    assert!(cookie_key.check(&third(cookie), 0, made_at - 33_000 * MS).is_none(), "from the future");
    assert!(CookieKey::new([8; 16]).check(&third(cookie), 0, made_at).is_none(), "another node's");
    for bit in 0..32 {
        assert!(cookie_key.check(&third(cookie ^ 1 << bit), 0, made_at).is_none(), "bit {bit}");
    }
    let mut other = third(cookie);
    other.tuple.peer_port ^= 1;
    assert!(cookie_key.check(&other, 0, made_at).is_none(), "another client's");
    other = third(cookie);
    other.sequence ^= 1;
    assert!(cookie_key.check(&other, 0, made_at).is_none(), "another beginning's");
}

#[test]
fn garbled_segments_never_panic_the_gate() {
    let mut random = Random(0x5eed_0052);
    let mut server = guarded(81);
    for step in 0..30_000u64 {
        let mut frame = foreign_syn(&mut random);
        for _ in 0..random.next() % 4 {
            let at = random.next() as usize % frame.len();
            frame[at] ^= 1 << (random.next() % 8);
        }
        if random.chance(20) {
            frame[47] = random.next() as u8;
        }
        frame.truncate(if random.chance(10) { random.next() as usize % 60 } else { 60 });
        server.receive(&frame, &Offload::None, step * MS / 10);
        server.poll(step * MS / 10);
        frames(&mut server);
    }
    assert!(server.connections.is_empty());
}

#[test]
fn numbers_of_different_purposes_are_unrelated() {
    use crate::host::cookie::CookieKey;
    let of = |secret, purpose: &[u8; 4], input| CookieKey::new([secret; 16]).derive(*purpose, input);
    let all = [of(9, b"port", 1), of(9, b"port", 2), of(9, b"dhcp", 1), of(9, b"tcp ", 1), of(8, b"port", 1)];
    for (at, one) in all.iter().enumerate() {
        assert!(all.iter().skip(at + 1).all(|two| one != two), "{all:x?}");
    }
    // SHA-256 of sixteen nines, "port" and 1, as any implementation has it.
    assert_eq!(all[0], 0x5672_09bb_8384_6fd9);
}
