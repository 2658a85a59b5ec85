//! What a frame's sender left for others to do: the checksum of a TCP segment, and
//! cutting a large segment into ones that fit the wire.
//!
//! A header that came with a frame is a claim. [`Offload::parse`] holds it against
//! the frame and keeps only what it finds there itself; what is handed on is written
//! anew by [`Offload::header`]. So a guest cannot make another guest, or the card,
//! look outside the frame.
//!
//! Spec: VIRTIO 1.2, 5.1.6 (`virtio_net_hdr`), 5.1.6.2 (transmission); RFC 1071
//! (checksum); RFC 791, 3.1; RFC 8200, sections 3 and 8.1; RFC 9293, 3.1.

use core::iter::successors;
use core::num::NonZeroU16;

use crate::frame::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Header};
use crate::limits::{IPV6_EXTENSIONS_MAX, SEGMENT_BYTES_MIN, SEGMENT_PIECES_MAX};

/// Octets of the header before each frame of a version-1 device.
pub const NET_HEADER_BYTES: usize = 12;

/// Feature: the device completes checksums of what the driver sends.
pub const FEATURE_CHECKSUM: u64 = 1;
/// Feature: the driver takes frames whose checksum is not complete.
pub const FEATURE_GUEST_CHECKSUM: u64 = 1 << 1;
/// Feature: the driver takes large TCP segments over IPv4.
pub const FEATURE_GUEST_TSO4: u64 = 1 << 7;
/// Feature: the driver takes large TCP segments over IPv6.
pub const FEATURE_GUEST_TSO6: u64 = 1 << 8;
/// Feature: the device cuts large TCP segments over IPv4.
pub const FEATURE_HOST_TSO4: u64 = 1 << 11;
/// Feature: the device cuts large TCP segments over IPv6.
pub const FEATURE_HOST_TSO6: u64 = 1 << 12;
/// Feature: the device spreads a received frame over several buffers.
pub const FEATURE_MERGE_RECEIVE: u64 = 1 << 15;

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

const PROTOCOL_TCP: u8 = 6;
/// Hop-by-hop options, routing, destination options (RFC 8200, section 4).
const EXTENSIONS: [u8; 3] = [0, 43, 60];
/// Where a TCP header has its checksum.
const TCP_CHECKSUM: usize = 16;
const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;

/// Version of the Internet Protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// RFC 791.
    V4,
    /// RFC 8200.
    V6,
}

/// Where the headers of a TCP segment are in its frame, in octets from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layers {
    family: Family,
    network: usize,
    transport: usize,
    payload: usize,
}

/// What is left to do with a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offload {
    /// Nothing: it is as it goes over a wire.
    #[default]
    None,
    /// Nothing, and the receiving NIC verified its checksums.
    Verified,
    /// The TCP checksum holds the sum of the pseudo header only.
    Checksum(Layers),
    /// So, and the payload is to be cut into pieces of so many octets.
    Segments(Layers, u16),
}

/// What a receiver of frames takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepts {
    /// TCP checksums that are not complete.
    pub checksum: bool,
    /// Large segments over IPv4.
    pub tso4: bool,
    /// Large segments over IPv6.
    pub tso6: bool,
}

/// The header claims what the frame does not bear out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHeader;

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}

fn put(bytes: &mut [u8], at: usize, value: [u8; 2]) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut()? = value;
    Some(())
}

/// The ones' complement sum of big-endian 16-bit words (RFC 1071), below 2^16.
fn sum(bytes: &[u8]) -> u64 {
    // Eight octets at a time, in the machine's order: the sum is independent of how words
    // are grouped and of their order but for its own (RFC 1071, 2 (A) and (B)), as carries
    // come around.
    let wide = |eight: &[u8; 8]| u128::from(u64::from_le_bytes(*eight));
    let (runs, rest) = bytes.as_chunks::<64>();
    let run = |total, run: &[u8; 64]| run.as_chunks().0.iter().fold(total, |total, it| total + wide(it));
    let total = runs.iter().fold(0u128, run);
    let (eights, rest) = rest.as_chunks();
    let total = eights.iter().fold(total, |total, eight| total + wide(eight));
    let (pairs, odd) = rest.as_chunks::<2>();
    let rest: u64 = pairs.iter().map(|pair| u64::from(u16::from_le_bytes(*pair))).sum();
    let rest = rest + odd.first().map_or(0, |last| u64::from(*last));
    // Below 2^96, then 2^65, then 2^34: whatever is carried is at most as long again.
    let total = (total >> 64) + (total & u128::from(u64::MAX)) + u128::from(rest);
    let total = (total >> 32) + (total & u128::from(u32::MAX));
    u64::from(fold(u64::try_from(total).unwrap_or(0)).swap_bytes())
}

/// A sum with its carries come around.
fn fold(total: u64) -> u16 {
    let folded = successors(Some(total), |total| Some((total >> 16) + (total & 0xffff)))
        .find(|total| *total <= 0xffff)
        .unwrap_or(0);
    u16::try_from(folded).unwrap_or(0)
}

/// The checksum field for a sum.
fn finish(total: u64) -> u16 {
    !fold(total)
}

/// Whether a TCP segment in an IPv4 packet has the checksum that its sender gave it
/// (RFC 9293, 3.1). What is no such segment, or is damaged elsewhere, is for others to
/// judge.
pub(crate) fn is_sound(frame: &[u8]) -> bool {
    let Some(header) = Header::parse(frame).filter(|header| header.ethertype == ETHERTYPE_IPV4) else {
        return true;
    };
    let packet = frame.get(header.payload_offset..).unwrap_or_default();
    // Short frames are padded: the packet tells where it ends.
    let packet = word(packet, 2).and_then(|length| packet.get(..usize::from(length))).unwrap_or_default();
    let Some(transport) = ipv4_payload(packet) else { return true };
    let segment = packet.get(transport..).unwrap_or_default();
    let addresses = sum(packet.get(12..20).unwrap_or_default());
    finish(addresses + u64::from(PROTOCOL_TCP) + segment.len() as u64 + sum(segment)) == 0
}

/// Whether octets hold the checksum of themselves (RFC 1071).
pub(crate) fn is_summed(octets: &[u8]) -> bool {
    finish(sum(octets)) == 0
}

/// The same where 0 means "none": both stand for the same sum (RFC 768).
fn finish_nonzero(total: u64) -> u16 {
    match finish(total) {
        0 => 0xffff,
        checksum => checksum,
    }
}

impl Layers {
    /// The layers of a TCP segment that is not a fragment and ends with the frame.
    fn find(frame: &[u8]) -> Option<Self> {
        let header = Header::parse(frame)?;
        let network = header.payload_offset;
        let packet = frame.get(network..)?;
        let (family, transport) = match header.ethertype {
            ETHERTYPE_IPV4 => (Family::V4, ipv4_payload(packet)?),
            ETHERTYPE_IPV6 => (Family::V6, ipv6_payload(packet)?),
            _ => return None,
        };
        let segment = packet.get(transport..)?;
        let data_offset = usize::from(segment.get(12)? >> 4) * 4;
        if data_offset < 20 || data_offset > segment.len() {
            return None;
        }
        let transport = network + transport;
        Some(Self { family, network, transport, payload: transport + data_offset })
    }

    /// A copy of the frame with its checksum.
    fn whole<'a>(&self, frame: &[u8], scratch: &'a mut [u8]) -> Option<&'a [u8]> {
        let copy = scratch.get_mut(..frame.len())?;
        copy.copy_from_slice(frame);
        self.fill_checksum(copy)?;
        Some(copy)
    }

    fn fill_checksum(&self, frame: &mut [u8]) -> Option<()> {
        put(frame, self.transport + TCP_CHECKSUM, [0, 0])?;
        let segment = frame.get(self.transport..)?;
        let total = self.pseudo_header(frame, segment.len()) + sum(segment);
        put(frame, self.transport + TCP_CHECKSUM, finish(total).to_be_bytes())
    }

    /// The sum of the pseudo header for a TCP segment of so many octets.
    fn pseudo_header(&self, frame: &[u8], segment_bytes: usize) -> u64 {
        let addresses = match self.family {
            Family::V4 => self.network + 12..self.network + 20,
            Family::V6 => self.network + 8..self.network + 40,
        };
        sum(frame.get(addresses).unwrap_or_default()) + u64::from(PROTOCOL_TCP) + segment_bytes as u64
    }
}

/// Where TCP begins in an IPv4 packet.
fn ipv4_payload(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    let header_bytes = usize::from(first & 0xf) * 4;
    let fragment = word(packet, 6)? & 0x3fff;
    let fits = usize::from(word(packet, 2)?) == packet.len();
    let tcp = *packet.get(9)? == PROTOCOL_TCP;
    (first >> 4 == 4 && header_bytes >= 20 && fragment == 0 && fits && tcp).then_some(header_bytes)
}

/// Where TCP begins in an IPv6 packet.
fn ipv6_payload(packet: &[u8]) -> Option<usize> {
    let mut offset = 40;
    let fits = usize::from(word(packet, 4)?) + offset == packet.len();
    if packet.first()? >> 4 != 6 || !fits {
        return None;
    }
    let mut next = *packet.get(6)?;
    for _ in 0..IPV6_EXTENSIONS_MAX {
        if !EXTENSIONS.contains(&next) {
            break;
        }
        let extension = packet.get(offset..)?;
        next = *extension.first()?;
        offset += (usize::from(*extension.get(1)?) + 1) * 8;
    }
    (next == PROTOCOL_TCP).then_some(offset)
}

impl Offload {
    /// Reads the header that came before a frame. A checksum that is not TCP's (a
    /// datagram's, a tunnel's inner one) is completed here and then forgotten.
    ///
    /// # Errors
    /// The header asks for what cannot be done with this frame.
    pub fn parse(header: &[u8; NET_HEADER_BYTES], frame: &mut [u8]) -> Result<Self, BadHeader> {
        let [flags, kind, _, _, size_low, size_high, start_low, start_high, at_low, at_high, _, _] = *header;
        let size = u16::from_le_bytes([size_low, size_high]);
        if flags & NEEDS_CHECKSUM == 0 {
            let done = if flags & DATA_VALID != 0 { Self::Verified } else { Self::None };
            return if kind == GSO_NONE { Ok(done) } else { Err(BadHeader) };
        }
        let start = usize::from(u16::from_le_bytes([start_low, start_high]));
        let at = start + usize::from(u16::from_le_bytes([at_low, at_high]));
        let layers = Layers::find(frame)
            .filter(|layers| layers.transport == start && layers.transport + TCP_CHECKSUM == at);
        match (kind, layers) {
            (GSO_NONE, Some(layers)) => Ok(Self::Checksum(layers)),
            (GSO_NONE, None) => complete(frame, start, at).map(|()| Self::None).ok_or(BadHeader),
            (GSO_TCPV4, Some(layers)) if layers.family == Family::V4 => Self::segments(layers, size),
            (GSO_TCPV6, Some(layers)) if layers.family == Family::V6 => Self::segments(layers, size),
            _ => Err(BadHeader),
        }
    }

    /// Reads the header that a guest put before a frame it sends; None when it asks
    /// for what cannot be done.
    #[must_use]
    pub fn of_sender(header: &[u8; NET_HEADER_BYTES], frame: &mut [u8]) -> Option<Self> {
        match Self::parse(header, frame).ok()? {
            // Only the receiver of a frame can set that.
            Self::Verified => Some(Self::None),
            offload => Some(offload).filter(|it| it.on_wire(frame.len()).0 <= SEGMENT_PIECES_MAX),
        }
    }

    /// What is left to do on a frame of the node's own stack, which leaves the checksums of
    /// TCP to others: the field is given what it has to hold then. A frame whose payload is
    /// to be cut comes with the `size` of the pieces.
    pub(crate) fn of_stack(frame: &mut [u8], size: Option<NonZeroU16>) -> Self {
        let Some(layers) = Layers::find(frame) else { return Self::None };
        let sum = fold(layers.pseudo_header(frame, frame.len().saturating_sub(layers.transport)));
        match (put(frame, layers.transport + TCP_CHECKSUM, sum.to_be_bytes()), size) {
            (Some(()), None) => Self::Checksum(layers),
            (Some(()), Some(size)) => Self::Segments(layers, size.get()),
            (None, _) => Self::None,
        }
    }

    fn segments(layers: Layers, size: u16) -> Result<Self, BadHeader> {
        // Tiny pieces would be many: a small favour asked, a large one done.
        if size < SEGMENT_BYTES_MIN { Err(BadHeader) } else { Ok(Self::Segments(layers, size)) }
    }

    /// The equivalent header for a driver or device, in so many buffers.
    #[must_use]
    pub fn header(&self, buffers: u16) -> [u8; NET_HEADER_BYTES] {
        let (flags, kind, size, layers) = match *self {
            Self::None => (0, GSO_NONE, 0, None),
            Self::Verified => (DATA_VALID, GSO_NONE, 0, None),
            Self::Checksum(layers) => (NEEDS_CHECKSUM, GSO_NONE, 0, Some(layers)),
            Self::Segments(layers, size) => {
                let kind = if layers.family == Family::V4 { GSO_TCPV4 } else { GSO_TCPV6 };
                (NEEDS_CHECKSUM, kind, size, Some(layers))
            }
        };
        let low = |value: usize| u16::try_from(value).unwrap_or(0).to_le_bytes();
        let large = kind != GSO_NONE;
        let [h0, h1] = low(layers.filter(|_| large).map_or(0, |layers| layers.payload));
        let [g0, g1] = size.to_le_bytes();
        let [s0, s1] = low(layers.map_or(0, |layers| layers.transport));
        let [o0, o1] = low(layers.map_or(0, |_| TCP_CHECKSUM));
        let [b0, b1] = buffers.to_le_bytes();
        [flags, kind, h0, h1, g0, g1, s0, s1, o0, o1, b0, b1]
    }

    /// Frames that a frame of `length` octets is on a wire, and the longest of them.
    #[must_use]
    pub fn on_wire(&self, length: usize) -> (usize, usize) {
        match *self {
            Self::None | Self::Verified | Self::Checksum(_) => (1, length),
            Self::Segments(layers, size) => {
                let payload = length.saturating_sub(layers.payload);
                let pieces = payload.div_ceil(usize::from(size).max(1)).max(1);
                (pieces, layers.payload + payload.min(usize::from(size)))
            }
        }
    }

    /// Octets that a frame of `length` octets is on a wire: each piece has its headers.
    #[must_use]
    pub fn octets_on_wire(&self, length: usize) -> usize {
        match self {
            Self::None | Self::Verified | Self::Checksum(_) => length,
            Self::Segments(layers, _) => {
                let repeated = self.on_wire(length).0.saturating_sub(1).saturating_mul(layers.payload);
                length.saturating_add(repeated)
            }
        }
    }

    /// Whether a receiver takes a frame as it is.
    #[must_use]
    pub fn accepted_by(&self, accepts: Accepts) -> bool {
        match *self {
            Self::None => true,
            Self::Verified | Self::Checksum(_) => accepts.checksum,
            Self::Segments(Layers { family: Family::V4, .. }, _) => accepts.checksum && accepts.tso4,
            Self::Segments(Layers { family: Family::V6, .. }, _) => accepts.checksum && accepts.tso6,
        }
    }

    /// The frame with its checksum and not cut, for a receiver for which no frame is too
    /// long. `scratch` holds a frame of this length.
    pub fn whole<'a>(&self, frame: &'a [u8], scratch: &'a mut [u8]) -> Option<&'a [u8]> {
        match self {
            Self::None | Self::Verified => Some(frame),
            Self::Checksum(layers) | Self::Segments(layers, _) => layers.whole(frame, scratch),
        }
    }

    /// Does for a receiver what it does not do itself, and hands it the frame or its
    /// pieces. `scratch` holds a frame of this length.
    pub fn lower(
        &self,
        frame: &[u8],
        accepts: Accepts,
        scratch: &mut [u8],
        mut give: impl FnMut(&[u8], Self),
    ) {
        if self.accepted_by(accepts) {
            return give(frame, *self);
        }
        match *self {
            Self::None | Self::Verified => give(frame, Self::None),
            Self::Checksum(layers) => {
                if let Some(whole) = layers.whole(frame, scratch) {
                    give(whole, Self::None);
                }
            }
            Self::Segments(layers, size) => {
                for number in 0..self.on_wire(frame.len()).0 {
                    let Some(length) = segment(frame, &layers, usize::from(size), number, scratch) else {
                        return;
                    };
                    give(scratch.get(..length).unwrap_or_default(), Self::None);
                }
            }
        }
    }
}

/// Completes the checksum at `at` over everything from `start` on; the field holds
/// the sum of the pseudo header (5.1.6.2).
fn complete(frame: &mut [u8], start: usize, at: usize) -> Option<()> {
    let checksum = finish_nonzero(sum(frame.get(start..)?));
    // The field lies in what is summed: the pseudo header's share with it.
    (at >= start).then(|| put(frame, at, checksum.to_be_bytes()))?
}

/// Writes piece `number` of a large segment into `target`; its length.
fn segment(frame: &[u8], layers: &Layers, size: usize, number: usize, target: &mut [u8]) -> Option<usize> {
    let headers = frame.get(..layers.payload)?;
    let rest = frame.get(layers.payload..)?;
    let from = number.checked_mul(size)?;
    let until = from.saturating_add(size).min(rest.len());
    let piece = rest.get(from..until)?;
    let length = headers.len() + piece.len();
    let target = target.get_mut(..length)?;
    let (front, back) = target.split_at_mut_checked(headers.len())?;
    front.copy_from_slice(headers);
    back.copy_from_slice(piece);

    let network = layers.network;
    match layers.family {
        Family::V4 => {
            let total = u16::try_from(length - network).ok()?;
            put(target, network + 2, total.to_be_bytes())?;
            // Identification goes up, as if each had been sent alone (RFC 6864, 4).
            let identification = word(frame, network + 4)?.wrapping_add(u16::try_from(number).ok()?);
            put(target, network + 4, identification.to_be_bytes())?;
            put(target, network + 10, [0, 0])?;
            let checksum = finish(sum(target.get(network..layers.transport)?));
            put(target, network + 10, checksum.to_be_bytes())?;
        }
        Family::V6 => {
            let payload = u16::try_from(length - network - 40).ok()?;
            put(target, network + 4, payload.to_be_bytes())?;
        }
    }
    let transport = layers.transport;
    let sequence: [u8; 4] = *frame.get(transport + 4..)?.first_chunk()?;
    let sequence = u32::from_be_bytes(sequence).wrapping_add(u32::try_from(from).ok()?);
    *target.get_mut(transport + 4..)?.first_chunk_mut()? = sequence.to_be_bytes();
    let flags = target.get_mut(transport + 13)?;
    if number > 0 {
        // What was asked once is asked in the first (RFC 3168, 6.1.2).
        *flags &= !TCP_CWR;
    }
    if until < rest.len() {
        *flags &= !TCP_FIN_PSH;
    }
    layers.fill_checksum(target)?;
    Some(length)
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "tests cut random numbers to size")]
mod tests;
