//! Segments left for the card to cut, against a stack that cuts them itself.

use super::*;
use crate::limits::{HOST_LARGE_FRAME_BYTES_MAX, SEGMENT_BYTES_MIN};

const TSO: Accepts = Accepts { checksum: true, tso4: true, tso6: false };
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Where the sequence number and the payload are in a frame without options.
const SEQUENCE: usize = 38;
const PAYLOAD: usize = 54;

/// What a card that cuts makes of everything a stack sends, and how many of its
/// frames it cut.
fn cut(host: &mut Host, mtu: usize) -> (Vec<Vec<u8>>, usize) {
    let (mut pieces, mut large) = (Vec::new(), 0);
    let mut scratch = vec![0; HOST_LARGE_FRAME_BYTES_MAX];
    while host.transmit(|frame, offload| {
        large += usize::from(matches!(offload, Offload::Segments(..)));
        assert!(frame.len() <= HOST_LARGE_FRAME_BYTES_MAX && offload.on_wire(frame.len()).1 <= mtu + 14);
        offload.lower(frame, Accepts::default(), &mut scratch, |piece, _| pieces.push(piece.to_vec()));
        true
    }) {}
    (pieces, large)
}

/// A frame without its identification and the checksum over that: neither stack numbers
/// its packets, and a card numbers the pieces of one (RFC 6864, 4.1: they are not to be
/// fragmented, so the number says nothing).
fn unnumbered(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    if frame[12..14] == [8, 0] {
        assert_eq!(frame[20] & 0x40, 0x40, "not to be fragmented");
        (frame[18], frame[19], frame[24], frame[25]) = (0, 0, 0, 0);
    }
    frame
}

/// Payloads of segments that follow each other, joined: where each begins, and its octets.
fn joined(frames: &[Vec<u8>], mss: usize) -> Vec<(u32, Vec<u8>)> {
    let mut all: Vec<(u32, Vec<u8>)> = Vec::new();
    for frame in frames.iter().filter(|frame| frame[12..14] == [8, 0]) {
        let payload = &frame[PAYLOAD.min(frame.len())..];
        let sequence = u32::from_be_bytes(*frame[SEQUENCE..].first_chunk().unwrap());
        if frame[46] >> 4 != 5 || payload.is_empty() {
            continue;
        }
        assert!(payload.len() <= mss);
        match all.last_mut() {
            Some((start, octets)) if start.wrapping_add(octets.len() as u32) == sequence => {
                octets.extend_from_slice(payload);
            }
            _ => all.push((sequence, payload.to_vec())),
        }
    }
    all
}

/// Two clients of one seed in the same conversation with one server, whose answers both
/// receive; one of them cuts for itself.
fn converse(seed: u64, mtu: usize, server_mtu: usize) -> usize {
    let mut random = Random(seed * 104_729);
    let mut server = host_with(1, seed, server_mtu, Accepts::default());
    let mut plain = host_with(2, seed + 100, mtu, Accepts::default());
    let mut large = host_with(2, seed + 100, mtu, TSO);
    let options = TcpOptions { receive_bytes: 90_000, ..TcpOptions::STORAGE };
    server.listen(7000, 1, options).unwrap();
    let id = plain.connect(SERVER, 7000, TcpOptions::STORAGE).unwrap();
    assert_eq!(large.connect(SERVER, 7000, TcpOptions::STORAGE), Ok(id));
    let (mut accepted, mut cuts, mut written, mut read) = (None, 0, 0usize, 0usize);
    let byte = |at: usize| (at.wrapping_mul(31) >> 3) as u8;
    let mss = mtu.min(server_mtu) - 40;
    for step in 0..800u64 {
        let now = step * MS / 4;
        if random.chance(40) {
            let block: Vec<u8> = (0..random.next() as usize % 70_000).map(|at| byte(written + at)).collect();
            let taken = plain.write(id, &block);
            assert_eq!(large.write(id, &block), taken);
            written += taken;
        }
        plain.poll(now);
        large.poll(now);
        let (theirs, none) = cut(&mut plain, mtu);
        let (ours, some) = cut(&mut large, mtu);
        assert_eq!(none, 0);
        cuts += some;
        if mtu == server_mtu {
            assert_eq!(large.counters().transmitted_frames, plain.counters().transmitted_frames);
            let unnumbered = |frames: &[Vec<u8>]| frames.iter().map(|it| unnumbered(it)).collect::<Vec<_>>();
            assert!(unnumbered(&ours) == unnumbered(&theirs), "seed {seed} step {step}");
        }
        assert!(joined(&ours, mss) == joined(&theirs, mss), "seed {seed} step {step}");
        ours.iter().for_each(|frame| server.receive(frame, &Offload::None, now));
        accepted = accepted.or_else(|| server.accept(7000));
        if let Some(accepted) = accepted.filter(|_| random.chance(50)) {
            let mut octets = vec![0; random.next() as usize % 60_000];
            let count = server.read(accepted, &mut octets);
            assert!(octets[..count].iter().enumerate().all(|(at, octet)| *octet == byte(read + at)));
            read += count;
        }
        server.poll(now);
        for frame in frames(&mut server) {
            plain.receive(&frame, &Offload::None, now);
            large.receive(&frame, &Offload::None, now);
        }
    }
    assert!(read > 4_000_000, "{read}");
    cuts
}

#[test]
fn segments_cut_by_a_card_equal_the_stacks() {
    for seed in 1..=2 {
        for (mtu, server_mtu) in [(1500, 1500), (9000, 9000), (1500, 576), (9000, 1500), (1500, 9000)] {
            let cuts = converse(seed, mtu, server_mtu);
            assert!(cuts > 300, "seed {seed} mtu {mtu}: {cuts}");
        }
    }
}

#[test]
fn segmentation_is_not_asked_of_unable_cards() {
    let alone = |checksum, tso4, tso6| Accepts { checksum, tso4, tso6 };
    for accepts in [alone(true, false, true), alone(false, true, true), Accepts::default()] {
        let (frames, cuts) = opening(accepts, None);
        assert_eq!((frames.len(), cuts), (7, 0), "{accepts:?}");
    }
    let (frames, cuts) = opening(TSO, None);
    assert_eq!((frames.len(), cuts), (7, 1));
}

#[test]
fn pieces_are_not_smaller_than_any_card_takes() {
    // RFC 9293, 3.7.1: what the peer takes; no honest peer takes so little.
    for claimed in [1, 7] {
        let (frames, cuts) = opening(TSO, Some(claimed));
        let longest = frames.iter().map(|frame| frame.len() - PAYLOAD).max().unwrap();
        assert!(cuts > 0 && (usize::from(SEGMENT_BYTES_MIN)..=64).contains(&longest), "{claimed} {longest}");
    }
}

/// What a client sends of 10,000 octets when all earlier ones have arrived, and how many
/// of its frames were cut. The server may claim another largest segment.
fn opening(accepts: Accepts, claimed: Option<u16>) -> (Vec<Vec<u8>>, usize) {
    let (mut server, mut client) = (host(1, 1), host_with(2, 2, 1500, accepts));
    server.listen(22, 1, TcpOptions::STORAGE).unwrap();
    let id = client.connect(SERVER, 22, TcpOptions::STORAGE).unwrap();
    let (mut accepted, mut octets, mut sent) = (None, vec![0; 100_000], (Vec::new(), 0));
    for step in 0..100 {
        let queued =
            client.connections.iter().map(|it| client.sockets.get::<tcp::Socket>(it.handle).send_queue());
        if queued.sum::<usize>() == 0 && client.write(id, &[7; 10_000]) > 0 {
            sent = (Vec::new(), 0);
        }
        client.poll(step * MS);
        let (frames_sent, cuts) = cut(&mut client, 1500);
        frames_sent.iter().for_each(|frame| server.receive(frame, &Offload::None, step * MS));
        sent = ([sent.0, frames_sent].concat(), sent.1 + cuts);
        accepted = accepted.or_else(|| server.accept(22));
        accepted.map(|accepted| server.read(accepted, &mut octets));
        server.poll(step * MS);
        for mut frame in frames(&mut server) {
            if let Some(claimed) = claimed.filter(|_| frame[12..14] == [8, 0] && frame[47] & 2 != 0) {
                assert_eq!(frame[54..56], [2, 4], "its largest segment");
                frame[56..58].copy_from_slice(&claimed.to_be_bytes());
            }
            client.receive(&frame, &Offload::Verified, step * MS);
        }
    }
    sent
}
