//! Handshakes without memory: what a SYN is answered with at a guarded port.
//!
//! The sequence number of the answer carries all that must be known when the third
//! segment comes: when it was made, the client's segment size, and 24 bits that
//! cannot be made without the node's secret.
//!
//! Spec: RFC 4987 section 3.6, RFC 9293 section 3.1.

use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use sha2::{Digest, Sha256};
use smoltcp::phy::{Checksum, ChecksumCapabilities};
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, IpAddress, IpProtocol, Ipv4Packet,
    Ipv4Repr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

/// How long a cookie's time lasts; it is good in the next one, too.
const TIME_NS: u64 = 32_000_000_000;
/// Segment sizes a cookie can tell: the smallest that every host takes (RFC 9293
/// section 3.7.1), and those of common links.
const SEGMENT_BYTES: [u16; 8] = [536, 1024, 1220, 1360, 1400, 1440, 1452, 1460];
/// What a client may send before the real socket speaks.
const WINDOW_BYTES: u16 = 8192;
const HOP_LIMIT: u8 = 64;

/// Who talks to which of our ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    pub(super) peer: Ipv4Addr,
    pub(super) peer_port: u16,
    pub(super) local: Ipv4Addr,
    pub(super) local_port: u16,
}

/// What matters here of a received segment whose checksums are right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) tuple: Tuple,
    pub(super) peer_mac: EthernetAddress,
    pub(super) local_mac: EthernetAddress,
    pub(super) control: TcpControl,
    pub(super) sequence: u32,
    pub(super) acknowledgement: Option<u32>,
    pub(super) window: u16,
    pub(super) segment_bytes: Option<u16>,
    pub(super) payload_bytes: usize,
}

/// The TCP part of a frame, where it is one.
pub(super) fn tcp_of(frame: &mut [u8]) -> Option<(Ipv4Addr, Ipv4Addr, TcpPacket<&mut [u8]>)> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    if frame.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let packet =
        Ipv4Packet::new_checked(frame.into_inner().get_mut(EthernetFrame::<&[u8]>::header_len()..)?).ok()?;
    if packet.next_header() != IpProtocol::Tcp {
        return None;
    }
    let (source, target) = (packet.src_addr(), packet.dst_addr());
    let (start, end) = (usize::from(packet.header_len()), usize::from(packet.total_len()));
    let tcp = TcpPacket::new_checked(packet.into_inner().get_mut(start..end)?).ok()?;
    Some((source, target, tcp))
}

impl Segment {
    /// Reads a frame whose TCP checksum is right; None for anything but a sound segment over
    /// IPv4.
    pub(super) fn parse(frame: &[u8]) -> Option<Self> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        if ethernet.ethertype() != EthernetProtocol::Ipv4 {
            return None;
        }
        let packet = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
        let mut capabilities = ChecksumCapabilities::default();
        let ip = Ipv4Repr::parse(&packet, &capabilities).ok()?;
        if ip.next_header != IpProtocol::Tcp {
            return None;
        }
        let (source, target) = (IpAddress::Ipv4(ip.src_addr), IpAddress::Ipv4(ip.dst_addr));
        let tcp = TcpPacket::new_checked(packet.payload()).ok()?;
        // Its checksum was checked before, unless the NIC verified it.
        capabilities.tcp = Checksum::None;
        let tcp = TcpRepr::parse(&tcp, &source, &target, &capabilities).ok()?;
        Some(Self {
            tuple: Tuple {
                peer: ip.src_addr,
                peer_port: tcp.src_port,
                local: ip.dst_addr,
                local_port: tcp.dst_port,
            },
            peer_mac: ethernet.src_addr(),
            local_mac: ethernet.dst_addr(),
            control: tcp.control,
            sequence: tcp.seq_number.0.cast_unsigned(),
            acknowledgement: tcp.ack_number.map(|number| number.0.cast_unsigned()),
            window: tcp.window_len,
            segment_bytes: tcp.max_seg_size,
            payload_bytes: tcp.payload.len(),
        })
    }

    /// The payload of the frame that this was read from.
    pub(super) fn payload<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        let packet = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
        let tcp = TcpPacket::new_checked(packet.payload()).ok()?;
        let payload = tcp.payload();
        (payload.len() == self.payload_bytes).then_some(payload)
    }

    /// The answer to this SYN that needs no memory; `most` is the longest segment that the
    /// peer may send.
    pub(super) fn answer(&self, cookie: u32, most: u16) -> Vec<u8> {
        let tuple = self.tuple;
        let tcp = TcpRepr {
            src_port: tuple.local_port,
            dst_port: tuple.peer_port,
            control: TcpControl::Syn,
            seq_number: TcpSeqNumber(cookie.cast_signed()),
            ack_number: Some(TcpSeqNumber(self.sequence.wrapping_add(1).cast_signed())),
            window_len: WINDOW_BYTES,
            max_seg_size: SEGMENT_BYTES.last().map(|longest| most.min(*longest)),
            ..EMPTY
        };
        frame((self.local_mac, tuple.local), (self.peer_mac, tuple.peer), &tcp)
    }

    /// What a peer hears that has no socket: octets, or that the connection is over.
    pub(super) fn reply(&self, control: TcpControl, payload: &[u8]) -> Vec<u8> {
        let tuple = self.tuple;
        let next = if control == TcpControl::Rst { self.end() } else { self.sequence };
        let tcp = TcpRepr {
            src_port: tuple.local_port,
            dst_port: tuple.peer_port,
            control,
            seq_number: TcpSeqNumber(self.acknowledgement.unwrap_or(0).cast_signed()),
            ack_number: Some(TcpSeqNumber(next.cast_signed())),
            window_len: WINDOW_BYTES,
            payload,
            ..EMPTY
        };
        frame((self.local_mac, tuple.local), (self.peer_mac, tuple.peer), &tcp)
    }

    /// The SYN by which a socket begins after this segment's payload.
    pub(super) fn opening(&self, segment_bytes: u16) -> Vec<u8> {
        let tcp = TcpRepr {
            control: TcpControl::Syn,
            seq_number: TcpSeqNumber(self.end().wrapping_sub(1).cast_signed()),
            max_seg_size: Some(segment_bytes),
            ..self.as_peer()
        };
        self.forged(&tcp)
    }

    /// The third segment of the handshake that begins so.
    pub(super) fn acknowledging(&self, number: u32) -> Vec<u8> {
        let tcp = TcpRepr {
            seq_number: TcpSeqNumber(self.end().cast_signed()),
            ack_number: Some(TcpSeqNumber(number.cast_signed())),
            ..self.as_peer()
        };
        self.forged(&tcp)
    }

    fn end(&self) -> u32 {
        // A segment's payload is shorter than 2^16.
        self.sequence.wrapping_add(u32::try_from(self.payload_bytes).unwrap_or(0))
    }

    const fn as_peer(&self) -> TcpRepr<'static> {
        TcpRepr {
            src_port: self.tuple.peer_port,
            dst_port: self.tuple.local_port,
            window_len: self.window,
            ..EMPTY
        }
    }

    fn forged(&self, tcp: &TcpRepr<'_>) -> Vec<u8> {
        frame((self.peer_mac, self.tuple.peer), (self.local_mac, self.tuple.local), tcp)
    }
}

const EMPTY: TcpRepr<'static> = TcpRepr {
    src_port: 0,
    dst_port: 0,
    control: TcpControl::None,
    seq_number: TcpSeqNumber(0),
    ack_number: None,
    window_len: 0,
    window_scale: None,
    max_seg_size: None,
    sack_permitted: false,
    sack_ranges: [None; 3],
    timestamp: None,
    payload: &[],
};

fn frame(
    source: (EthernetAddress, Ipv4Addr),
    target: (EthernetAddress, Ipv4Addr),
    tcp: &TcpRepr<'_>,
) -> Vec<u8> {
    let capabilities = ChecksumCapabilities::default();
    let ip = Ipv4Repr {
        src_addr: source.1,
        dst_addr: target.1,
        next_header: IpProtocol::Tcp,
        payload_len: tcp.buffer_len(),
        hop_limit: HOP_LIMIT,
    };
    let header_bytes = EthernetFrame::<&[u8]>::header_len();
    let mut bytes = vec![0; header_bytes + ip.buffer_len() + ip.payload_len];
    let mut ethernet = EthernetFrame::new_unchecked(&mut bytes);
    EthernetRepr { src_addr: source.0, dst_addr: target.0, ethertype: EthernetProtocol::Ipv4 }
        .emit(&mut ethernet);
    let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
    ip.emit(&mut packet, &capabilities);
    let (from, to) = (IpAddress::Ipv4(source.1), IpAddress::Ipv4(target.1));
    tcp.emit(&mut TcpPacket::new_unchecked(packet.payload_mut()), &from, &to, &capabilities);
    bytes
}

/// Makes and checks cookies.
pub(super) struct CookieKey {
    secret: [u8; 16],
}

impl CookieKey {
    pub(super) const fn new(secret: [u8; 16]) -> Self {
        Self { secret }
    }

    /// A number for a purpose of its own: from those of one purpose nothing follows about
    /// those of another (RFC 6528, 3; RFC 6056, 3.3.3).
    pub(super) fn derive(&self, purpose: [u8; 4], input: u64) -> u64 {
        let digest = Sha256::new()
            .chain_update(self.secret)
            .chain_update(purpose)
            .chain_update(input.to_be_bytes())
            .finalize();
        digest.first_chunk().map_or(input, |first| u64::from_be_bytes(*first))
    }

    /// Five bits of time, three of segment size, 24 that vouch for all of it.
    fn make(&self, tuple: &Tuple, client_sequence: u32, time: u64, size_index: u32) -> u32 {
        let digest = Sha256::new()
            .chain_update(self.secret)
            .chain_update(tuple.peer.octets())
            .chain_update(tuple.local.octets())
            .chain_update(tuple.peer_port.to_be_bytes())
            .chain_update(tuple.local_port.to_be_bytes())
            .chain_update(client_sequence.to_be_bytes())
            .chain_update(time.to_be_bytes())
            .chain_update(size_index.to_be_bytes())
            .finalize();
        let [a, b, c, ..]: [u8; 32] = digest.into();
        let time_bits = u32::try_from(time & 31).unwrap_or(0);
        time_bits << 27 | (size_index & 7) << 24 | u32::from_be_bytes([0, a, b, c])
    }

    /// The sequence number that a SYN is answered with.
    pub(super) fn cookie(&self, syn: &Segment, now_ns: u64) -> u32 {
        let wanted = syn.segment_bytes.unwrap_or(536);
        let fitting = SEGMENT_BYTES.iter().filter(|size| **size <= wanted).count().saturating_sub(1);
        let size_index = u32::try_from(fitting).unwrap_or(0);
        self.make(&syn.tuple, syn.sequence, now_ns / TIME_NS, size_index)
    }

    /// The cookie that a segment acknowledges besides `greeted` octets, and the segment
    /// size in it; None where it is not one of ours, or too old.
    pub(super) fn check(&self, ack: &Segment, greeted: u32, now_ns: u64) -> Option<(u32, u16)> {
        let cookie = ack.acknowledgement?.wrapping_sub(1).wrapping_sub(greeted);
        let now = now_ns / TIME_NS;
        let age = now.wrapping_sub(u64::from(cookie >> 27)) & 31;
        let time = now.checked_sub(age).filter(|_| age <= 1)?;
        let size_index = cookie >> 24 & 7;
        let size = SEGMENT_BYTES.get(usize::try_from(size_index).ok()?)?;
        let client_sequence = ack.sequence.wrapping_sub(1);
        (self.make(&ack.tuple, client_sequence, time, size_index) == cookie).then_some((cookie, *size))
    }

    /// 32 unpredictable octets that no other connection gets.
    pub(super) fn challenge(&self, segment: &Segment, cookie: u32) -> [u8; 32] {
        Sha256::new()
            .chain_update(b"challenge")
            .chain_update(self.secret)
            .chain_update(segment.tuple.peer.octets())
            .chain_update(segment.tuple.local.octets())
            .chain_update(segment.tuple.peer_port.to_be_bytes())
            .chain_update(segment.tuple.local_port.to_be_bytes())
            .chain_update(segment.sequence.to_be_bytes())
            .chain_update(cookie.to_be_bytes())
            .finalize()
            .into()
    }
}
