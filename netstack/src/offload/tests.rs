//! Pieces against smoltcp's own checks, then hostile headers.

extern crate std;
use std::vec;
use std::vec::Vec;

use smoltcp::wire::{IpAddress, Ipv4Address, Ipv4Packet, TcpPacket};

use super::*;
use crate::limits::LARGE_FRAME_BYTES_MAX;

const LEFT: Ipv4Address = Ipv4Address::new(10, 0, 0, 1);
const RIGHT: Ipv4Address = Ipv4Address::new(10, 0, 0, 2);
const FLAGS: u8 = TCP_CWR | TCP_FIN_PSH | 0x10;
const ALL: Accepts = Accepts { checksum: true, tso4: true, tso6: true };

fn ethernet(types: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    frame.extend(types);
    frame
}

fn tcp(payload: usize, options: usize) -> Vec<u8> {
    let mut segment = vec![0x04, 0xd2, 0x00, 0x50, 0xff, 0xff, 0xf0, 0, 0, 0, 0, 9];
    segment.extend([((5 + options / 4) << 4) as u8, FLAGS, 0x20, 0, 0, 0, 0, 0]);
    segment.resize(20 + options, 1);
    segment.extend((0..payload).map(|at| (at * 7 + at / 251) as u8));
    segment
}

/// A frame whose sender left everything to do.
fn frame4(payload: usize) -> Vec<u8> {
    let segment = tcp(payload, 12);
    let mut frame = ethernet(&[8, 0]);
    frame.extend([0x45, 0]);
    frame.extend((20 + segment.len() as u16).to_be_bytes());
    frame.extend([0xff, 0xfe, 0x40, 0, 64, 6, 0, 0]);
    frame.extend(LEFT.octets());
    frame.extend(RIGHT.octets());
    frame.extend(segment);
    frame
}

/// The same over IPv6, behind a VLAN tag and a destination option.
fn frame6(payload: usize) -> Vec<u8> {
    let segment = tcp(payload, 0);
    let mut frame = ethernet(&[0x81, 0, 0, 5, 0x86, 0xdd]);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((8 + segment.len() as u16).to_be_bytes());
    frame.extend([60, 64]);
    frame.extend([0xfe; 16]);
    frame.extend([0xfd; 16]);
    frame.extend([6, 0, 1, 4, 0, 0, 0, 0]);
    frame.extend(segment);
    frame
}

fn header(kind: u8, size: u16, start: u16, offset: u16) -> [u8; NET_HEADER_BYTES] {
    let ([g, h], [s, t], [o, p]) = (size.to_le_bytes(), start.to_le_bytes(), offset.to_le_bytes());
    [NEEDS_CHECKSUM, kind, 0, 0, g, h, s, t, o, p, 0, 0]
}

fn lowered(offload: &Offload, frame: &[u8], accepts: Accepts) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    offload.lower(frame, accepts, &mut vec![0xee; LARGE_FRAME_BYTES_MAX], |piece, rest| {
        assert!(rest.accepted_by(accepts));
        pieces.push(piece.to_vec());
    });
    pieces
}

/// The sum over a pseudo header and a segment, two octets at a time (RFC 1071, 4.1).
fn slow_sum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        total += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

#[test]
fn the_sum_of_rfc_1071() {
    // Section 3: the sum is ddf2.
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(finish(sum(&bytes)), !0xddf2);
    for length in 0..200usize {
        let bytes: Vec<u8> = (0..length).map(|at| (at * at + 200) as u8).collect();
        assert_eq!(finish(sum(&bytes)), !slow_sum(&[&bytes]), "{length}");
    }
    assert_eq!(finish(sum(&[0xff; 4096])), 0);
    assert_eq!(finish_nonzero(sum(&[0xff; 4096])), 0xffff);
}

#[test]
fn any_damaged_bit_is_detected() {
    for payload in [0, 1, 2, 1447] {
        let mut frame = frame4(payload);
        let layers = Layers::find(&frame).unwrap();
        assert!(!is_sound(&frame), "its checksum is not there yet");
        layers.fill_checksum(&mut frame).unwrap();
        // What pads a short frame is not the segment's.
        let end = frame.len();
        frame.resize(end.max(60), 0xee);
        assert!(is_sound(&frame));
        let addresses = layers.network + 12..layers.network + 20;
        for octet in addresses.chain(layers.transport..end) {
            for bit in 0..8 {
                frame[octet] ^= 1 << bit;
                assert!(!is_sound(&frame), "octet {octet} bit {bit} of {end}");
                frame[octet] ^= 1 << bit;
            }
        }
        // A datagram, a fragment and half a packet are for others to judge.
        for (at, value) in [(9, 17), (6, 0x20), (2, 0xff)] {
            let old = core::mem::replace(&mut frame[layers.network + at], value);
            assert!(is_sound(&frame));
            frame[layers.network + at] = old;
        }
    }
    assert!(is_sound(&frame6(9)) && is_sound(&[0; 14]) && is_sound(&[]));
}

#[test]
fn ipv4_pieces_are_what_the_sender_would_have_sent() {
    for (payload, size) in [(1, 1448), (1448, 1448), (1449, 1448), (2896, 1448), (65_000, 1448), (300, 8)] {
        let mut frame = frame4(payload);
        let offload = Offload::parse(&header(GSO_TCPV4, size, 34, 16), &mut frame).unwrap();
        let size = usize::from(size);
        assert_eq!(offload.on_wire(frame.len()), (payload.div_ceil(size), 66 + payload.min(size)));
        let pieces = lowered(&offload, &frame, Accepts { checksum: true, ..Accepts::default() });
        assert_eq!(offload.octets_on_wire(frame.len()), pieces.iter().map(Vec::len).sum::<usize>());
        assert_eq!(pieces.len(), payload.div_ceil(size));
        let mut rebuilt = Vec::new();
        for (number, piece) in pieces.iter().enumerate() {
            let (first, last) = (number == 0, number + 1 == pieces.len());
            let packet = Ipv4Packet::new_checked(&piece[14..]).unwrap();
            assert!(packet.verify_checksum());
            assert_eq!(usize::from(packet.total_len()), piece.len() - 14);
            assert_eq!(packet.ident(), 0xfffeu16.wrapping_add(number as u16));
            let segment = TcpPacket::new_checked(packet.payload()).unwrap();
            assert!(segment.verify_checksum(&IpAddress::Ipv4(LEFT), &IpAddress::Ipv4(RIGHT)));
            assert_eq!(
                segment.seq_number().0.cast_unsigned(),
                0xffff_f000u32.wrapping_add((number * size) as u32)
            );
            assert_eq!((segment.fin(), segment.psh(), segment.cwr()), (last, last, first));
            assert!(segment.ack());
            rebuilt.extend_from_slice(segment.payload());
        }
        assert_eq!(rebuilt, &frame[66..]);
        // For this program it stays whole, with its checksum.
        let mut scratch = vec![0; frame.len()];
        let whole = offload.whole(&frame, &mut scratch).unwrap();
        let segment = TcpPacket::new_checked(&whole[34..]).unwrap();
        assert!(segment.verify_checksum(&IpAddress::Ipv4(LEFT), &IpAddress::Ipv4(RIGHT)));
        assert_eq!(lowered(&offload, &frame, ALL), [frame]);
    }
}

#[test]
fn ipv6_pieces_behind_a_tag_and_an_extension() {
    let mut frame = frame6(5000);
    let offload = Offload::parse(&header(GSO_TCPV6, 1000, 66, 16), &mut frame).unwrap();
    let pieces = lowered(&offload, &frame, Accepts { tso6: false, ..ALL });
    assert_eq!(pieces.len(), 5);
    for piece in &pieces {
        assert_eq!(usize::from(u16::from_be_bytes([piece[22], piece[23]])), piece.len() - 58);
        let length = ((piece.len() - 66) as u32).to_be_bytes();
        let total = slow_sum(&[&piece[26..58], &length, &[0, 0, 0, 6], &piece[66..]]);
        assert_eq!(total, 0xffff);
    }
    assert_eq!(pieces.iter().flat_map(|piece| &piece[86..]).copied().collect::<Vec<_>>(), &frame[86..]);
}

#[test]
fn other_checksums_are_completed_at_once() {
    // A datagram from 10.0.0.1:68 to 10.0.0.2:67 with the pseudo header's sum.
    let mut frame = ethernet(&[8, 0]);
    frame.extend([0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0, 68, 0, 67, 0, 12, 0, 0, 1, 2, 3, 4]);
    let pseudo = slow_sum(&[&frame[26..34], &[0, 17, 0, 12]]);
    frame[40..42].copy_from_slice(&pseudo.to_be_bytes());
    assert_eq!(Offload::parse(&header(GSO_NONE, 0, 34, 6), &mut frame), Ok(Offload::None));
    assert_eq!(slow_sum(&[&frame[26..34], &[0, 17, 0, 12], &frame[34..]]), 0xffff);
    // An odd end is as good.
    frame.push(9);
    frame[40..42].copy_from_slice(&[0, 0]);
    assert_eq!(Offload::parse(&header(GSO_NONE, 0, 34, 6), &mut frame), Ok(Offload::None));
    assert_eq!(slow_sum(&[&frame[34..]]), 0xffff);
}

#[test]
fn an_unfinished_checksum_is_kept_or_completed() {
    let mut frame = frame4(100);
    let offload = Offload::parse(&header(GSO_NONE, 0, 34, 16), &mut frame).unwrap();
    assert!(matches!(offload, Offload::Checksum(_)));
    assert_eq!(lowered(&offload, &frame, ALL), [frame.clone()]);
    let done = &lowered(&offload, &frame, Accepts::default())[0];
    let segment = TcpPacket::new_checked(&done[34..]).unwrap();
    assert!(segment.verify_checksum(&IpAddress::Ipv4(LEFT), &IpAddress::Ipv4(RIGHT)));
    // Literal: flags, no segmentation, start 34, offset 16, two buffers.
    assert_eq!(offload.header(2), [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 2, 0]);
    let verified = Offload::parse(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &mut frame).unwrap();
    assert_eq!(verified, Offload::Verified);
    assert_eq!(lowered(&verified, &frame, Accepts::default()), [frame.clone()]);
    // A sender cannot set that.
    assert_eq!(Offload::of_sender(&verified.header(0), &mut frame), Some(Offload::None));
}

#[test]
fn the_stacks_own_segments_are_described_to_the_card() {
    let mut frame = frame4(3000);
    let offload = Offload::of_stack(&mut frame, NonZeroU16::new(1448));
    // Literal: a checksum is due, TCP over IPv4, 66 octets of headers, pieces of 1448,
    // start 34, offset 16.
    assert_eq!(offload.header(0), [1, 1, 66, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0]);
    // 10.0.0.1 to 10.0.0.2, TCP, 3032 octets: 0a00 + 0001 + 0a00 + 0002 + 0006 + 0bd8.
    assert_eq!(frame[50..52], [0x1f, 0xe1]);
    assert_eq!(Offload::parse(&offload.header(0), &mut frame), Ok(offload));
    let mut short = frame4(100);
    assert_eq!(Offload::of_stack(&mut short, None).header(0), [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0]);
    let mut none = ethernet(&[8, 6]);
    assert_eq!(Offload::of_stack(&mut none, NonZeroU16::new(1448)), Offload::None);
}

#[test]
fn headers_that_contradict_the_frame_are_refused() {
    let good = header(GSO_TCPV4, 1448, 34, 16);
    let refused = |header: [u8; NET_HEADER_BYTES], change: fn(&mut Vec<u8>)| {
        let mut frame = frame4(3000);
        change(&mut frame);
        Offload::parse(&header, &mut frame) == Err(BadHeader)
    };
    assert!(!refused(good, |_| ()));
    assert!(refused([0; NET_HEADER_BYTES].map(|_: u8| 0x10), |_| ()), "segmentation without a checksum");
    assert!(refused(header(GSO_TCPV6, 1448, 34, 16), |_| ()), "the other family");
    assert!(refused(header(3, 1448, 34, 16), |_| ()), "datagrams");
    assert!(refused(header(GSO_TCPV4 | 0x80, 1448, 34, 16), |_| ()), "not offered");
    assert!(refused(header(GSO_TCPV4, 7, 34, 16), |_| ()), "crumbs");
    assert!(refused(header(GSO_TCPV4, 0, 34, 16), |_| ()));
    assert!(refused(header(GSO_TCPV4, 1448, 35, 16), |_| ()), "elsewhere");
    assert!(refused(header(GSO_TCPV4, 1448, 34, 6), |_| ()));
    assert!(refused(header(GSO_NONE, 0, 60_000, 16), |_| ()), "outside");
    assert!(refused(header(GSO_NONE, 0, 34, 60_000), |_| ()));
    assert!(refused(good, |frame| frame[20] = 0x20), "a fragment");
    assert!(refused(good, |frame| frame[17] ^= 1), "another length");
    assert!(refused(good, |frame| frame[23] = 17), "no TCP");
    assert!(refused(good, |frame| frame[14] = 0x4f), "longer options");
    assert!(refused(good, |frame| frame[46] = 0x40), "a header too short");
    assert!(refused(good, |frame| frame.truncate(50)));
}

#[test]
fn scribbled_frames_never_panic_and_parse_alike() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut scratch = vec![0; LARGE_FRAME_BYTES_MAX];
    let (mut large, mut total) = (0, 0);
    for _ in 0..200_000 {
        let (mut frame, kind, start) = match random() % 2 {
            0 => (frame4((random() % 600) as usize), GSO_TCPV4, 34),
            _ => (frame6((random() % 600) as usize), GSO_TCPV6, 66),
        };
        let mut claim = header(if random() % 4 == 0 { 0 } else { kind }, (random() % 700) as u16, start, 16);
        for _ in 0..random() % 4 {
            let at = (random() as usize) % (frame.len() + claim.len());
            match frame.get_mut(at) {
                Some(byte) => *byte = random() as u8,
                None => claim[(random() % 10) as usize] = random() as u8,
            }
        }
        if random() % 8 == 0 {
            frame.truncate((random() as usize) % (frame.len() + 1));
        }
        let Ok(offload) = Offload::parse(&claim, &mut frame) else { continue };
        total += 1;
        large += usize::from(matches!(offload, Offload::Segments(..)));
        let (pieces, longest) = offload.on_wire(frame.len());
        let (mut given, mut most, mut octets) = (0, 0, 0);
        offload.lower(&frame, Accepts::default(), &mut scratch, |piece, _| {
            given += 1;
            octets += piece.len();
            most = most.max(piece.len());
        });
        assert_eq!((given, most, octets), (pieces, longest, offload.octets_on_wire(frame.len())));
        assert!(offload.whole(&frame, &mut scratch).is_some());
        // The forwarded header states what was found, and nothing else.
        assert_eq!(Offload::parse(&offload.header(1), &mut frame), Ok(offload));
    }
    assert!(large > 10_000 && total > 20_000, "{large} of {total}");
}

#[test]
fn a_guests_frame_does_not_become_thousands() {
    let longest = 65_000;
    for (payload, size, is_taken) in [
        (longest, 8, false),
        (longest, 400, false),
        // What every host takes, less all options; the usual; a short frame of small pieces.
        (longest, 496, true),
        (longest, 1448, true),
        (8 * SEGMENT_PIECES_MAX, 8, true),
        (8 * SEGMENT_PIECES_MAX + 1, 8, false),
    ] {
        let mut frame = frame4(payload);
        let taken = Offload::of_sender(&header(GSO_TCPV4, size, 34, 16), &mut frame);
        assert_eq!(taken.is_some(), is_taken, "{payload} by {size}");
    }
}
