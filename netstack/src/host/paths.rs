//! Paths on which packets must be shorter than the link takes.
//!
//! A router that cannot pass a packet on may report it, and is trusted where it quotes what a
//! connection has in flight; a silent one shows by losing the same long segment
//! again and again. Either makes the segments to that peer shorter. The stack itself is not
//! told: its segments are cut on their way out, as for a card.
//!
//! Spec: RFC 1191 sections 4 (the message), 5 (the shortest path), 6.3 (ageing); RFC 5927
//! section 7 (what to accept); RFC 4821 section 7.7 (silent paths).

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::socket::tcp;
use smoltcp::wire::IpAddress;

use super::Host;
use crate::frame::{ETHERTYPE_IPV4, HEADER_BYTES, Header, address_at};
use crate::limits::{HOST_FLOWS_MAX, HOST_PATHS_MAX};
use crate::offload::is_summed;
use heapless::Deque;

/// Octets of the shortest packets that a message can ask for: shorter ones would cost more
/// than any path of today saves.
const PACKET_BYTES_MIN: u16 = 552;
/// What is tried first where long packets are lost: the least that IPv6 lets a link have,
/// and so what tunnels leave.
const PACKET_BYTES_TRIED: u16 = 1_280;
/// Losses of one segment in a row that are no accident.
const LOSSES: u32 = 2;
/// Nor are those that follow each other sooner.
const LOSSES_NS: u64 = 1_000_000_000;
/// The path may be another one after this (RFC 1191, 6.3). It doubles with each silent loss.
const AGE_NS: u64 = 600_000_000_000;

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
const UNREACHABLE_TOO_BIG: [u8; 2] = [3, 4];
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;
const OPTION_SEGMENT_SIZE: [u8; 2] = [2, 4];

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|long| u32::from_be_bytes(*long))
}

/// How far one sequence number is after another; negative before it (RFC 9293, 3.4).
const fn after(number: u32, other: u32) -> i32 {
    number.wrapping_sub(other).cast_signed()
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) peer: Ipv4Addr,
    pub(super) peer_port: u16,
    pub(super) local_port: u16,
}

/// Who sent a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    Node,
    Peer,
}

impl Ends {
    /// Reads the ends of a TCP packet, and finds its segment.
    fn read(packet: &[u8], sender: Sender) -> Option<(Self, &[u8])> {
        let segment = packet.get(usize::from(packet.first()? & 0xf) * 4..)?;
        let (source, destination) = (word(segment, 0)?, word(segment, 2)?);
        let (peer_at, peer_port, local_port) = match sender {
            Sender::Node => (16, destination, source),
            Sender::Peer => (12, source, destination),
        };
        Some((Self { peer: address_at(packet, peer_at)?, peer_port, local_port }, segment))
    }
}

/// A segment of the stack's.
struct Segment {
    ends: Ends,
    sequence: u32,
    flags: u8,
    /// Octets of the headers of IP and TCP.
    headers: usize,
    payload: usize,
}

impl Segment {
    fn parse(frame: &[u8]) -> Option<Self> {
        if frame.get(12..14)? != ETHERTYPE_IPV4.to_be_bytes() || *frame.get(23)? != PROTOCOL_TCP {
            return None;
        }
        let packet = frame.get(HEADER_BYTES..)?;
        let packet = packet.get(..usize::from(word(packet, 2)?))?;
        let (ends, segment) = Ends::read(packet, Sender::Node)?;
        let headers = usize::from(segment.get(12)? >> 4) * 4;
        Some(Self {
            ends,
            sequence: long(segment, 4)?,
            flags: *segment.get(13)?,
            headers: packet.len().saturating_sub(segment.len()).saturating_add(headers),
            payload: segment.len().saturating_sub(headers),
        })
    }
}

/// A router's report that a packet of ours was too long for the next link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooBig {
    pub(super) ends: Ends,
    /// Whose packet that was: this node's address.
    pub(super) source: Ipv4Addr,
    sequence: u32,
    /// Octets of the packet.
    length: u16,
    /// Octets that the link takes; 0 is unsaid.
    takes: u16,
}

impl TooBig {
    /// Reads a frame with the message (RFC 792; RFC 1191, section 4).
    pub(super) fn parse(frame: &[u8]) -> Option<Self> {
        if *frame.get(23)? != PROTOCOL_ICMP {
            return None;
        }
        let header = Header::parse(frame).filter(|it| it.ethertype == ETHERTYPE_IPV4 && it.tags == 0)?;
        let packet = frame.get(header.payload_offset..)?;
        let (first, length) = (*packet.first()?, usize::from(word(packet, 2)?));
        let unfragmented = word(packet, 6)? & 0x3fff == 0;
        if first >> 4 != 4 || !unfragmented {
            return None;
        }
        let message = packet.get(usize::from(first & 0xf) * 4..length)?;
        if message.get(..2)? != UNREACHABLE_TOO_BIG || !is_summed(message) {
            return None;
        }
        let quote = message.get(8..)?;
        let first = *quote.first()?;
        if first >> 4 != 4 || *quote.get(9)? != PROTOCOL_TCP || word(quote, 6)? & 0x1fff != 0 {
            return None;
        }
        let (ends, segment) = Ends::read(quote, Sender::Node)?;
        Some(Self {
            ends,
            source: address_at(quote, 12)?,
            sequence: long(segment, 4)?,
            length: word(quote, 2)?,
            takes: word(message, 6)?,
        })
    }
}

/// What a connection has under way.
struct Flow {
    ends: Ends,
    /// The first octet that is not acknowledged.
    first: u32,
    /// After the last one sent.
    end: u32,
    /// Losses in a row of what begins there, and the time of the first.
    losses: u32,
    lost_at: u32,
    lost_ns: u64,
    used_ns: u64,
}

/// A peer for which packets must be short.
struct Path {
    peer: Ipv4Addr,
    packet_bytes: u16,
    until_ns: u64,
    /// How often losses alone showed it.
    silent: u32,
}

/// A path that turned out to be narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Narrow {
    /// Where it leads.
    pub peer: Ipv4Addr,
    /// Octets of the longest packet that it takes, as far as is known.
    pub packet_bytes: u16,
    /// Whether nothing but losses shows it: no router reported it.
    pub silently: bool,
}

/// All that is known.
#[derive(Default)]
pub(super) struct Paths {
    flows: Vec<Flow>,
    paths: Vec<Path>,
    /// Those not yet reported to a caller.
    news: Deque<Narrow, HOST_PATHS_MAX>,
    shortened: u32,
}

impl Paths {
    /// Whether no path is known to be narrow.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Octets of the longest packet to a peer, where that is less than the link's.
    pub(super) fn packet_bytes(&self, peer: Ipv4Addr, now_ns: u64) -> Option<u16> {
        let path = self.paths.iter().find(|path| path.peer == peer && now_ns < path.until_ns)?;
        Some(path.packet_bytes)
    }

    /// The most that the payload of a frame of the stack's may be on the wire, if the way
    /// there asks for less than the link; `size` is what the link asks for. A segment that
    /// opens a connection tells the peer.
    pub(super) fn sent(&mut self, frame: &mut [u8], size: Option<u16>, now_ns: u64) -> Option<u16> {
        let segment = Segment::parse(frame)?;
        let peer = segment.ends.peer;
        if segment.flags & TCP_SYN != 0 {
            if let Some(packet_bytes) = self.packet_bytes(peer, now_ns) {
                lower_segment_size(frame, &segment, packet_bytes.saturating_sub(40));
            }
            return None;
        }
        if segment.payload == 0 {
            return None;
        }
        let room = |bytes: u16| usize::from(bytes).saturating_sub(segment.headers).max(8);
        let link = size.map_or(segment.payload, usize::from).min(segment.payload);
        let piece = self.packet_bytes(peer, now_ns).map_or(link, |bytes| room(bytes).min(link));
        let packet = piece.saturating_add(segment.headers);
        if self.record(&segment, packet, now_ns) {
            let tried =
                if packet > usize::from(PACKET_BYTES_TRIED) { PACKET_BYTES_TRIED } else { PACKET_BYTES_MIN };
            self.shorten(peer, tried, true, now_ns);
        }
        let piece = self.packet_bytes(peer, now_ns).map_or(link, |bytes| room(bytes).min(link));
        (piece < link).then(|| u16::try_from(piece).ok()).flatten()
    }

    /// Remembers what is under way; whether this segment is lost too often to be an
    /// accident.
    fn record(&mut self, segment: &Segment, packet: usize, now_ns: u64) -> bool {
        let length = u32::try_from(segment.payload).unwrap_or(0);
        let end = segment.sequence.wrapping_add(length);
        let Some(flow) = self.flows.iter_mut().find(|flow| flow.ends == segment.ends) else {
            self.begin(segment, end, now_ns);
            return false;
        };
        flow.used_ns = now_ns;
        let again = segment.sequence == flow.first && after(flow.end, segment.sequence) > 0;
        if after(end, flow.end) > 0 || after(segment.sequence, flow.end) > 0 {
            flow.end = end;
        }
        if !again || packet <= usize::from(PACKET_BYTES_MIN) {
            return false;
        }
        if flow.lost_at != segment.sequence || flow.losses == 0 {
            (flow.lost_at, flow.losses, flow.lost_ns) = (segment.sequence, 0, now_ns);
        }
        flow.losses = flow.losses.saturating_add(1);
        let is_hole = flow.losses >= LOSSES && now_ns.saturating_sub(flow.lost_ns) >= LOSSES_NS;
        if is_hole {
            flow.losses = 0;
        }
        is_hole
    }

    fn begin(&mut self, segment: &Segment, end: u32, now_ns: u64) {
        if self.flows.len() >= HOST_FLOWS_MAX
            && let Some(oldest) =
                (0..self.flows.len()).min_by_key(|at| self.flows.get(*at).map(|it| it.used_ns))
        {
            self.flows.swap_remove(oldest);
        }
        let first = segment.sequence;
        let (losses, lost_at, lost_ns) = (0, first, now_ns);
        self.flows.push(Flow { ends: segment.ends, first, end, losses, lost_at, lost_ns, used_ns: now_ns });
    }

    /// A peer's segment may acknowledge what is under way.
    pub(super) fn heard(&mut self, frame: &[u8]) {
        if self.flows.is_empty() || frame.get(23) != Some(&PROTOCOL_TCP) {
            return;
        }
        let packet = frame.get(HEADER_BYTES..).unwrap_or_default();
        let Some((ends, segment)) = Ends::read(packet, Sender::Peer) else { return };
        let (Some(number), Some(flags)) = (long(segment, 8), segment.get(13)) else { return };
        if flags & TCP_ACK != 0
            && let Some(flow) = self.flows.iter_mut().find(|flow| flow.ends == ends)
            && after(number, flow.first) > 0
            && after(flow.end, number) >= 0
        {
            flow.first = number;
        }
    }

    /// A router's report about an existing connection. It is accepted when it quotes a
    /// segment under way, and of fewer octets than that had (RFC 5927, 7.2).
    pub(super) fn too_big(&mut self, message: &TooBig, now_ns: u64) -> bool {
        let Some(flow) = self.flows.iter().find(|flow| flow.ends == message.ends) else { return false };
        let under_way = after(message.sequence, flow.first) >= 0 && after(flow.end, message.sequence) > 0;
        // Routers before RFC 1191 do not report the next MTU.
        let takes = if message.takes == 0 { PACKET_BYTES_TRIED } else { message.takes };
        if !under_way || takes >= message.length {
            return false;
        }
        let known = self.packet_bytes(message.ends.peer, now_ns);
        if known.is_some_and(|known| known <= takes.max(PACKET_BYTES_MIN)) {
            return false;
        }
        self.shorten(message.ends.peer, takes, false, now_ns);
        true
    }

    fn shorten(&mut self, peer: Ipv4Addr, packet_bytes: u16, silently: bool, now_ns: u64) {
        let packet_bytes = packet_bytes.max(PACKET_BYTES_MIN);
        let known = self.paths.iter().position(|path| path.peer == peer);
        self.shortened = self.shortened.saturating_add(1);
        // Once for a peer, though its path be found narrow again when it has aged.
        if known.is_none() {
            // Who does not ask hears of the first ones.
            let _ = self.news.push_back(Narrow { peer, packet_bytes, silently });
        }
        let silent = known.and_then(|at| self.paths.get(at)).map_or(0, |path| path.silent);
        let age_ns = AGE_NS.checked_shl(silent.min(10)).unwrap_or(AGE_NS);
        let until_ns = now_ns.saturating_add(age_ns);
        let silent = silent.saturating_add(u32::from(silently));
        let place = known.or_else(|| {
            let full = self.paths.len() >= HOST_PATHS_MAX;
            let soonest = (0..self.paths.len()).min_by_key(|at| self.paths.get(*at).map(|it| it.until_ns));
            soonest.filter(|_| full)
        });
        let path = Path { peer, packet_bytes, until_ns, silent };
        match place.and_then(|at| self.paths.get_mut(at)) {
            Some(slot) => *slot = path,
            None => self.paths.push(path),
        }
    }
}

impl Host {
    /// The next peer for which packets must be shorter than the link takes.
    pub fn next_narrow(&mut self) -> Option<Narrow> {
        self.outgoing.paths.news.pop_front()
    }

    /// How often packets to a peer became shorter.
    #[must_use]
    pub const fn paths_shortened(&self) -> u32 {
        self.outgoing.paths.shortened
    }

    /// Takes a router's word that a packet of ours was too long, if the frame is that. It is
    /// accepted of an existing connection (RFC 5927, section 7).
    pub(super) fn receive_too_big(&mut self, frame: &[u8], now_ns: u64) -> bool {
        let Some(message) = TooBig::parse(frame) else { return false };
        let ends = message.ends;
        let peer = (IpAddress::Ipv4(ends.peer), ends.peer_port).into();
        let is_open = self.connections.iter().any(|connection| {
            let socket = self.sockets.get::<tcp::Socket>(connection.handle);
            connection.local_port == ends.local_port
                && socket.remote_endpoint() == Some(peer)
                && socket.may_send()
        });
        let own = self.lease.map(|lease| lease.address);
        let is_ours = own == Some(message.source)
            && own == address_at(frame, 30)
            && frame.get(..6) == Some(&self.mac.0);
        if !(is_ours && is_open && self.outgoing.paths.too_big(&message, now_ns)) {
            self.counters.unwanted_frames = self.counters.unwanted_frames.wrapping_add(1);
        }
        true
    }
}

/// Lowers the largest segment that a segment announces (RFC 9293, 3.7.1).
fn lower_segment_size(frame: &mut [u8], segment: &Segment, most: u16) {
    let options = HEADER_BYTES.saturating_add(segment.headers);
    // The stack puts it first.
    let ip = usize::from(frame.get(HEADER_BYTES).copied().unwrap_or(0) & 0xf) * 4;
    let at = HEADER_BYTES.saturating_add(ip).saturating_add(20);
    let Some(option) = frame.get_mut(at..options).and_then(|options| options.get_mut(..4)) else { return };
    if let [kind, length, value @ ..] = option
        && [*kind, *length] == OPTION_SEGMENT_SIZE
        && word(value, 0).is_some_and(|announced| announced > most)
    {
        value.copy_from_slice(&most.to_be_bytes());
    }
}
