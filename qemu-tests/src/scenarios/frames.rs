//! Malformed and forged frames.

use crate::lab::NODE_MAC;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_AOE: u16 = 0x88a2;
const NODE: [u8; 4] = [10, 77, 0, 2];
/// Protocols inside IPv4: ICMP, TCP, UDP, one that does not exist.
const PROTOCOLS: [u8; 4] = [1, 6, 17, 211];

/// A xorshift generator.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Less than `bound`.
    pub(super) const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    fn word(&mut self) -> [u8; 2] {
        let [first, second, ..] = self.next().to_le_bytes();
        [first, second]
    }
}

/// The node's MAC as bytes.
fn node_mac() -> Vec<u8> {
    NODE_MAC.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect()
}

/// Internet checksum, RFC 1071.
fn checksum(header: &[u8]) -> [u8; 2] {
    let mut sum: u32 = header
        .chunks(2)
        .map(|pair| match *pair {
            [high, low] => u32::from(u16::from_be_bytes([high, low])),
            [high] => u32::from(high) << 8,
            _ => 0,
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [_, _, high, low] = (!sum).to_be_bytes();
    [high, low]
}

/// A request or answer of an unused address; never the lab's own, which any
/// neighbour on any Ethernet could steal.
fn arp(random: &mut Random) -> Vec<u8> {
    let [operation, host, last, _, a, b, c, d] = random.next().to_le_bytes();
    let sender = [2, a, b, c, d, 1];
    let mut body = vec![0, 1, 8, 0, 6, 4, 0, operation & 3];
    body.extend_from_slice(&sender);
    body.extend_from_slice(&[10, 77, 0, 100 | host]);
    body.extend_from_slice(&[0; 6]);
    body.extend_from_slice(&if last & 1 == 0 { NODE } else { [10, 77, 0, last] });
    body
}

/// A packet with a right header and anything behind it; TCP is for the management port.
fn ipv4(random: &mut Random, management_port: u16) -> Vec<u8> {
    let length = 8 + random.below(600);
    let mut payload = random.bytes(length);
    let protocol = PROTOCOLS.get(usize::try_from(random.below(4)).unwrap_or(0)).copied().unwrap_or(6);
    if let Some(port) = payload.get_mut(2..4).filter(|_| random.below(4) != 0) {
        let number = if protocol == 17 { 68 } else { management_port };
        port.copy_from_slice(&number.to_be_bytes());
    }
    if protocol == 6
        && let Some(offset) = payload.get_mut(12)
    {
        *offset = 0x50;
    }
    let total = u16::try_from(20 + payload.len()).unwrap_or(0);
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&total.to_be_bytes());
    packet.extend_from_slice(&random.word());
    // Now and then a fragment.
    let fragment = if random.below(8) == 0 { random.word() } else { [0x40, 0] };
    packet.extend_from_slice(&fragment);
    packet.extend_from_slice(&[64, protocol, 0, 0]);
    let [host, ..] = random.next().to_le_bytes();
    packet.extend_from_slice(&[10, 77, 0, 100 | host]);
    packet.extend_from_slice(&NODE);
    let sum = checksum(&packet);
    if let Some(field) = packet.get_mut(10..12) {
        field.copy_from_slice(&sum);
    }
    packet.extend_from_slice(&payload);
    packet
}

/// An answer to a question that was not asked.
fn aoe(random: &mut Random) -> Vec<u8> {
    let [major, minor, command, tag, ..] = random.next().to_le_bytes();
    // Version 1, response; the shelf is one of few, so that it may be in use.
    let mut body = vec![0x18, 0, 0, major & 15, minor & 3, command & 1, 0, 0, 0, tag];
    let length = random.below(1100);
    body.extend(random.bytes(length));
    body
}

/// A sound request for a connection to the management port (RFC 9293 section 3.1), from an address
/// and a card that do not exist.
pub(super) fn syn(random: &mut Random, management_port: u16) -> Vec<u8> {
    let [a, b, c, d, host, ..] = random.next().to_le_bytes();
    let source = [10, 77, 0, 100 + host % 100];
    let mut tcp = random.word().to_vec();
    tcp.extend_from_slice(&management_port.to_be_bytes());
    tcp.extend_from_slice(&[a, b, c, d, 0, 0, 0, 0, 0x60, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    // Its segments take 1460 bytes.
    tcp.extend_from_slice(&[2, 4, 0x05, 0xb4]);
    let pseudo = [&source[..], &NODE, &[0, 6, 0, 24], &tcp].concat();
    let sum = checksum(&pseudo);
    tcp.splice(16..18, sum);
    let mut packet = vec![0x45, 0, 0, 44, 0, 0, 0x40, 0, 64, 6, 0, 0];
    packet.extend_from_slice(&source);
    packet.extend_from_slice(&NODE);
    let sum = checksum(&packet);
    packet.splice(10..12, sum);
    let mut frame = node_mac();
    frame.extend_from_slice(&[2, a, b, c, d, 9]);
    frame.extend_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
    frame.extend_from_slice(&packet);
    frame.extend_from_slice(&tcp);
    frame.resize(60, 0);
    frame
}

/// A frame for the node or for all: of a kind it knows, sometimes with a few
/// bytes changed or cut; sometimes anything.
pub(super) fn frame(random: &mut Random, management_port: u16) -> Vec<u8> {
    let mut frame = if random.below(3) == 0 { vec![0xff; 6] } else { node_mac() };
    let [a, b, c, d, ..] = random.next().to_le_bytes();
    frame.extend_from_slice(&[2, a, b, c, d, 7]);
    let (ethertype, body) = match random.below(8) {
        0 | 1 => (ETHERTYPE_ARP, arp(random)),
        2..=4 => (ETHERTYPE_IPV4, ipv4(random, management_port)),
        5 | 6 => (ETHERTYPE_AOE, aoe(random)),
        _ => {
            let length = random.below(1500);
            (u16::from_be_bytes(random.word()), random.bytes(length))
        }
    };
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame.extend_from_slice(&body);
    if random.below(3) == 0 {
        for _ in 0..=random.below(4) {
            let at = 12 + usize::try_from(random.below(60)).unwrap_or(0);
            let [value, ..] = random.next().to_le_bytes();
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        if random.below(4) == 0 {
            frame.truncate(14 + usize::try_from(random.below(60)).unwrap_or(0));
        }
    }
    frame.resize(frame.len().clamp(60, 1514), 0);
    frame
}
