//! What reaches the TCP/IP stack: only what a declared port or ping can use.
//!
//! The stack behind would answer closed ports and unknown protocols with resets
//! and ICMP errors, which tells a scanner what is there. Silence tells nothing.

use core::net::Ipv4Addr;

use crate::frame::{ETHERTYPE_IPV4, Header, address_at};

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const ICMP_ECHO_REQUEST: u8 = 8;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;
/// From a server to a client (RFC 2131, 4.1): what comes from elsewhere, the client's stack
/// would answer.
const DHCP_PORTS: [u8; 4] = [0, 67, 0, 68];

/// Where a TCP segment comes from and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) source: (Ipv4Addr, u16),
    pub(super) port: u16,
    /// It opens a connection.
    pub(super) is_opening: bool,
}

/// Whether a frame is worth processing. `open` tells whether a TCP port is in use by, or open
/// to, who calls.
pub(super) fn wanted(frame: &[u8], dhcp: bool, open: &mut dyn FnMut(Call) -> bool) -> bool {
    let Some(header) = Header::parse(frame) else { return false };
    if header.tags != 0 {
        return false;
    }
    match header.ethertype {
        ETHERTYPE_IPV4 => frame.get(header.payload_offset..).is_some_and(|packet| ipv4(packet, dhcp, open)),
        _ => false,
    }
}

/// Whether a frame that is [`wanted`] is a datagram.
pub(super) fn is_udp(frame: &[u8]) -> bool {
    frame.get(23) == Some(&PROTOCOL_UDP)
}

/// RFC 791 section 3.1.
fn ipv4(packet: &[u8], dhcp: bool, open: &mut dyn FnMut(Call) -> bool) -> bool {
    let (Some(first), Some(protocol), Some(fragment)) = (packet.first(), packet.get(9), packet.get(6..8))
    else {
        return false;
    };
    let header_bytes = usize::from(first & 0x0f) * 4;
    let [high, low] = fragment else { return false };
    let fragmented = high & 0x3f != 0 || *low != 0;
    if first >> 4 != 4 || header_bytes < 20 || fragmented {
        return false;
    }
    let Some(payload) = packet.get(header_bytes..) else { return false };
    match *protocol {
        PROTOCOL_ICMP => payload.first() == Some(&ICMP_ECHO_REQUEST),
        PROTOCOL_UDP => dhcp && payload.starts_with(&DHCP_PORTS),
        PROTOCOL_TCP => {
            let Some(flags) = payload.get(13) else { return false };
            let (Some(address), Some(from), Some(port)) =
                (address_at(packet, 12), port(payload, 0), port(payload, 2))
            else {
                return false;
            };
            let is_opening = flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
            open(Call { source: (address, from), port, is_opening })
        }
        _ => false,
    }
}

/// A port of a TCP segment.
fn port(payload: &[u8], at: usize) -> Option<u16> {
    payload.get(at..)?.first_chunk().map(|port| u16::from_be_bytes(*port))
}
