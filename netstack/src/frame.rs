//! Ethernet frames as the switch and the host see them.
//!
//! Spec: IEEE 802.3 clause 3 (frame), IEEE 802.1Q clause 9 (tags).

use core::fmt;
use core::net::Ipv4Addr;

use crate::limits::VLAN_TAGS_MAX;

/// Octets of an untagged Ethernet header.
pub const HEADER_BYTES: usize = 14;
/// EtherType of ATA over Ethernet.
pub const ETHERTYPE_AOE: u16 = 0x88a2;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;

/// Tag protocol identifiers: C-tag, S-tag and the pre-standard stacked tag.
const TAG_PROTOCOLS: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// The IPv4 address at a place in a frame.
pub(crate) fn address_at(frame: &[u8], at: usize) -> Option<Ipv4Addr> {
    frame.get(at..)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}

/// An Ethernet station address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// The broadcast address.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set (multicast and broadcast).
    #[must_use]
    pub const fn is_group(self) -> bool {
        let [first, ..] = self.0;
        first & 1 != 0
    }

    /// Whether a station can own this address: neither a group nor all zeroes.
    #[must_use]
    pub fn is_station(self) -> bool {
        !self.is_group() && self.0 != [0; 6]
    }

    /// Whether it is a group of bridges alone: those that do not forward frames to it
    /// (IEEE 802.1Q table 8-1: pause, spanning tree, LACP, LLDP), those that register VLANs
    /// by it (table 10-1), and Cisco's, by which links become trunks.
    #[must_use]
    pub const fn is_link_local(self) -> bool {
        matches!(self.0, [0x01, 0x80, 0xc2, 0x00, 0x00, 0x00..=0x2f] | [0x01 | 0x03, 0x00, 0x0c, ..])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// The header of a frame, with the EtherType behind any VLAN tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Receiving station or group.
    pub destination: MacAddress,
    /// Sending station.
    pub source: MacAddress,
    /// EtherType (or 802.3 length) behind the tags.
    pub ethertype: u16,
    /// Number of VLAN tags in front of the EtherType.
    pub tags: usize,
    /// Where the payload begins.
    pub payload_offset: usize,
}

impl Header {
    /// Reads a frame's header; `None` when it is cut short or over-tagged.
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let destination = MacAddress(*frame.first_chunk()?);
        let source = MacAddress(*frame.get(6..)?.first_chunk()?);
        let mut offset = 12;
        let mut tags = 0;
        loop {
            let ethertype = u16::from_be_bytes(*frame.get(offset..)?.first_chunk()?);
            if !TAG_PROTOCOLS.contains(&ethertype) {
                return Some(Self { destination, source, ethertype, tags, payload_offset: offset + 2 });
            }
            tags += 1;
            offset += 4;
            if tags > VLAN_TAGS_MAX {
                return None;
            }
        }
    }
}

/// A frame without the tag that gives it a priority and no VLAN (IEEE 802.1Q, 9.6: VLAN
/// identifier 0): it is what an untagged one is.
pub fn without_priority_tag(frame: &mut [u8]) -> &mut [u8] {
    let tagged = matches!(frame.get(12..16), Some([0x81, 0, high, 0]) if high & 0x0f == 0);
    if !tagged {
        return frame;
    }
    frame.copy_within(..12, 4);
    frame.get_mut(4..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_tag_for_priority_alone_is_taken_off() {
        let addresses = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        let untagged = |tag: [u8; 4]| {
            let mut frame = [&addresses[..], &tag, &[8, 0, 0x45]].concat();
            without_priority_tag(&mut frame).to_vec()
        };
        for high in [0x00, 0x20, 0xe0, 0x10] {
            assert_eq!(untagged([0x81, 0, high, 0]), [&addresses[..], &[8, 0, 0x45]].concat());
        }
        for tag in [[0x81, 0, 0, 1], [0x81, 0, 0x21, 0], [0x88, 0xa8, 0, 0], [8, 0, 0x45, 0]] {
            assert_eq!(untagged(tag), [&addresses[..], &tag, &[8, 0, 0x45]].concat());
        }
        for length in 0..16 {
            assert_eq!(without_priority_tag(&mut [0x81; 16][..length]).len(), length);
        }
    }

    #[test]
    fn plain_tagged_and_truncated_headers() {
        let mut frame = [0u8; 32];
        frame[..6].copy_from_slice(&[0xff; 6]);
        frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
        frame[12..14].copy_from_slice(&[0x88, 0xa2]);
        let header = Header::parse(&frame).unwrap();
        assert_eq!(header.ethertype, ETHERTYPE_AOE);
        assert_eq!((header.tags, header.payload_offset), (0, 14));
        assert!(header.destination.is_group());

        frame[12..18].copy_from_slice(&[0x81, 0x00, 0x00, 0x05, 0x88, 0xa2]);
        let header = Header::parse(&frame).unwrap();
        assert_eq!((header.ethertype, header.tags), (ETHERTYPE_AOE, 1));

        frame[12..22].copy_from_slice(&[0x88, 0xa8, 0, 1, 0x81, 0, 0, 5, 0x88, 0xa2]);
        let header = Header::parse(&frame).unwrap();
        assert_eq!((header.ethertype, header.tags), (ETHERTYPE_AOE, 2));

        frame[12..26].copy_from_slice(&[0x81, 0, 0, 1, 0x81, 0, 0, 1, 0x81, 0, 0, 1, 8, 0]);
        assert_eq!(Header::parse(&frame), None, "three tags are malformed");
        for length in 0..14 {
            assert_eq!(Header::parse(&frame[..length]), None);
        }
        assert_eq!(Header::parse(&frame[..15]), None, "tag cut short");
    }
}
