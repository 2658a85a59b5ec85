//! What a guest's port may claim: a pure function of its policy, the addresses that the
//! node protects, and a frame.
//!
//! A guest may claim any address but those on which the node, or a peer of
//! the node, depends. Nothing is learned from a frame, so no frame opens the way for the next.
//!
//! Spec: RFC 826 (ARP), RFC 791, RFC 2131, RFC 8200, RFC 4861 (neighbour discovery),
//! RFC 7113 (router advertisements behind extension headers), RFC 6980 (fragmented
//! neighbour discovery), RFC 1858 (tiny fragments), IEEE 802.2, RFC 1042 and IEEE 802.1H
//! (SNAP), RFC 903 (reverse ARP), RFC 9568 and RFC 2281 (virtual routers).

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::DropReason;
use super::policy::Policy;
use crate::frame::{ETHERTYPE_AOE, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, MacAddress};
use crate::limits::GUARD_EXTENSIONS_MAX;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const VRRP: u8 = 112;
/// UDP port of HSRP.
const HSRP_PORT: u16 = 1985;
/// Where HSRP's first and second version have the address of the virtual router.
const HSRP_ADDRESS_AT: [usize; 2] = [16, 26];
/// Addresses of a virtual router that are looked at; no router has more.
const VRRP_ADDRESSES_MAX: usize = 32;
const ETHERTYPE_REVERSE_ARP: u16 = 0x8035;
/// Long frames with an IEEE 802.2 header.
const ETHERTYPE_JUMBO: u16 = 0x8870;
/// Octets of TCP's and UDP's header that are checked here.
const PORTS_BYTES: usize = 8;
/// Octets of TCP's header up to its flags (RFC 1858, 3.2.1).
const TCP_FLAGS_BYTES: usize = 14;
/// What may be taken for a length is no EtherType (IEEE 802.3, 3.2.6: those begin at 1,536).
const LENGTH_MAX: u16 = 1535;

/// EtherTypes of tags: 802.1Q, 802.1ad and the older ones of stacked tags, 802.1ah,
/// 802.1BR, MACsec and Cisco's metadata.
const TAGS: [u16; 9] = [0x8100, 0x88a8, 0x9100, 0x9200, 0x9300, 0x88e7, 0x893f, 0x88e5, 0x8909];

/// Whose addresses no guest may claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protected {
    /// The node's own, its gateways' and its DHCP servers'.
    pub own: Vec<Ipv4Addr>,
    /// Portals in use and operators with a session. A port that was given this very address
    /// has it.
    pub peers: Vec<Ipv4Addr>,
    /// Hardware addresses of the node and of those, from which IPv6 addresses are made.
    pub stations: Vec<MacAddress>,
}

impl Protected {
    fn covers(&self, address: IpAddr, policy: &Policy) -> bool {
        let v4 = |address: &Ipv4Addr| {
            self.own.contains(address)
                || (self.peers.contains(address) && !policy.names(IpAddr::V4(*address)))
        };
        match address {
            IpAddr::V4(address) => v4(&address),
            IpAddr::V6(address) => {
                // RFC 4291, 2.5.5.2: an IPv4 address as an IPv6 one.
                address.to_ipv4_mapped().is_some_and(|address| v4(&address))
                    || (station_of(address).is_some_and(|mac| self.stations.contains(&mac))
                        && !policy.names(IpAddr::V6(address)))
            }
        }
    }
}

/// The hardware address that an interface identifier was made from (RFC 4291, appendix A).
const fn station_of(address: Ipv6Addr) -> Option<MacAddress> {
    let [.., a, b, c, 0xff, 0xfe, d, e, f] = address.octets() else { return None };
    Some(MacAddress([a ^ 2, b, c, d, e, f]))
}

/// Why a frame is dropped, and the address that it claims.
pub type Blocked = (DropReason, Option<IpAddr>);

fn octets<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    octets(bytes, at).map(u16::from_be_bytes)
}

/// Where checks have their data.
struct Guard<'a> {
    mac: MacAddress,
    policy: &'a Policy,
    protected: &'a Protected,
}

/// The VLAN of a frame with an 802.1Q tag (IEEE 802.1Q, 9.6).
pub(super) fn vlan(frame: &[u8]) -> Option<u16> {
    (word(frame, 12) == Some(TAGS[0])).then(|| word(frame, 14)).flatten().map(|control| control & 0xfff)
}

/// Decides whether a guest's port may send a frame from its hardware address `mac`.
///
/// # Errors
/// Why not.
pub fn check(mac: MacAddress, policy: &Policy, protected: &Protected, frame: &[u8]) -> Result<(), Blocked> {
    let guard = Guard { mac, policy, protected };
    let malformed = (DropReason::Malformed, None);
    if policy.closed {
        return Err((DropReason::Address, None));
    }
    let at = match vlan(frame) {
        Some(vlan) if policy.trunk.contains(&vlan) => 16,
        _ => 12,
    };
    let ethertype = word(frame, at).ok_or(malformed)?;
    let (ethertype, offset) = match ethertype {
        // A packet behind a SNAP header is one all the same: wireless bridges take it off.
        0..=LENGTH_MAX | ETHERTYPE_JUMBO if octets(frame, at + 2).is_some_and(is_snap) => {
            (word(frame, at + 8).ok_or(malformed)?, at + 10)
        }
        _ => (ethertype, at + 2),
    };
    if TAGS.contains(&ethertype) {
        return Err((DropReason::Tagged, None));
    }
    let packet = frame.get(offset..).ok_or(malformed)?;
    match ethertype {
        ETHERTYPE_AOE => Err((DropReason::AoeFromGuest, None)),
        ETHERTYPE_ARP => guard.arp(packet),
        // An answer gives an address.
        ETHERTYPE_REVERSE_ARP if word(packet, 6) == Some(4) && !policy.dhcp_server => {
            Err((DropReason::DhcpServer, None))
        }
        ETHERTYPE_REVERSE_ARP => guard.arp(packet),
        ETHERTYPE_IPV4 => guard.ipv4(packet),
        ETHERTYPE_IPV6 => guard.ipv6(packet),
        _ if policy.addresses.is_empty() => Ok(()),
        _ => Err((DropReason::Address, None)),
    }
}

/// A SNAP header up to its EtherType: of an Ethernet packet, by RFC 1042 or by IEEE 802.1H.
const fn is_snap(header: [u8; 6]) -> bool {
    matches!(header, [0xaa | 0xab, 0xaa | 0xab, _, 0, 0, 0 | 0xf8])
}

/// A packet without what is behind its end: no receiver sees that. `length` 0 is unsaid.
fn within(packet: &[u8], length: usize) -> &[u8] {
    packet.get(..length).filter(|_| length != 0).unwrap_or(packet)
}

impl Guard<'_> {
    /// Whether the port may have an address; `reason` is reported when that is a protected one.
    fn own(&self, address: IpAddr, reason: DropReason) -> Result<(), Blocked> {
        if self.protected.covers(address, self.policy) {
            return Err((reason, Some(address)));
        }
        let link_local = match address {
            IpAddr::V4(address) => address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local() || address.is_unspecified(),
        };
        if self.policy.addresses.is_empty() || link_local || self.policy.grants(address) {
            return Ok(());
        }
        Err((DropReason::Address, Some(address)))
    }

    /// Whether the port may send from an address: a router sends what others sent it.
    fn source(&self, address: IpAddr, reason: DropReason) -> Result<(), Blocked> {
        let is_own = match address {
            IpAddr::V4(address) => self.protected.own.contains(&address),
            IpAddr::V6(_) => self.protected.covers(address, &Policy::default()),
        };
        if self.policy.router && !is_own { Ok(()) } else { self.own(address, reason) }
    }

    /// RFC 826: whatever the operation, receivers merge the sender's two addresses.
    fn arp(&self, packet: &[u8]) -> Result<(), Blocked> {
        let malformed = (DropReason::Malformed, None);
        // Ethernet and IPv4, of six and four octets.
        if octets(packet, 0) != Some([0, 1, 8, 0, 6, 4]) {
            return Err(malformed);
        }
        let sender = Ipv4Addr::from(octets::<4>(packet, 14).ok_or(malformed)?);
        let hardware = MacAddress(octets(packet, 8).ok_or(malformed)?);
        octets::<4>(packet, 24).ok_or(malformed)?;
        if hardware != self.mac && !self.policy.has_router(hardware) {
            return Err((DropReason::ArpClaim, Some(sender.into())));
        }
        if sender.is_unspecified() {
            // A probe (RFC 5227, 2.1.1) claims nothing.
            return Ok(());
        }
        self.own(sender.into(), DropReason::ArpClaim)
    }

    fn ipv4(&self, packet: &[u8]) -> Result<(), Blocked> {
        let malformed = (DropReason::Malformed, None);
        let packet = within(packet, word(packet, 2).ok_or(malformed)?.into());
        let first = *packet.first().ok_or(malformed)?;
        let header_bytes = usize::from(first & 0x0f) * 4;
        let source = Ipv4Addr::from(octets::<4>(packet, 12).ok_or(malformed)?);
        if first >> 4 != 4 || header_bytes < 20 {
            return Err(malformed);
        }
        let protocol = *packet.get(9).ok_or(malformed)?;
        let fragment = word(packet, 6).ok_or(malformed)?;
        let payload = packet.get(header_bytes..).ok_or(malformed)?;
        let (more, offset) = (fragment & 0x2000 != 0, fragment & 0x1fff);
        // RFC 1858, 3.2: a fragment too short to check, or one that overwrites checked octets.
        let overwrites = protocol == TCP && offset == 1;
        let needed = match protocol {
            TCP if more => TCP_FLAGS_BYTES,
            TCP | UDP => PORTS_BYTES,
            ICMP => 1,
            _ => 0,
        };
        if overwrites || (offset == 0 && payload.len() < needed) {
            return Err((DropReason::HiddenHeader, Some(source.into())));
        }
        if source.is_unspecified() {
            return if offset == 0 && protocol == UDP { self.dhcp_request(payload) } else { Err(malformed) };
        }
        self.source(source.into(), DropReason::Ipv4Claim)?;
        if offset != 0 {
            return Ok(());
        }
        match protocol {
            UDP if !self.policy.dhcp_server && is_dhcp_answer(payload) => {
                Err((DropReason::DhcpServer, Some(source.into())))
            }
            UDP if word(payload, 2) == Some(HSRP_PORT) => {
                self.virtual_router(HSRP_ADDRESS_AT.into_iter().filter_map(|at| octets(payload, 8 + at)))
            }
            VRRP if payload.get(3).is_some_and(|count| usize::from(*count) > VRRP_ADDRESSES_MAX) => {
                Err(malformed)
            }
            VRRP => {
                let (addresses, _) = payload.get(8..).unwrap_or_default().as_chunks();
                self.virtual_router(addresses.iter().copied().take(VRRP_ADDRESSES_MAX))
            }
            // RFC 792 redirect, RFC 1256 router advertisement.
            ICMP if payload.first() == Some(&5) => Err((DropReason::Redirect, Some(source.into()))),
            ICMP if payload.first() == Some(&9) && !self.policy.router => {
                Err((DropReason::RouterAdvertisement, Some(source.into())))
            }
            _ => Ok(()),
        }
    }

    /// A router that claims addresses makes others release them.
    fn virtual_router(&self, mut addresses: impl Iterator<Item = [u8; 4]>) -> Result<(), Blocked> {
        let protected =
            |address: &[u8; 4]| self.protected.covers(Ipv4Addr::from(*address).into(), self.policy);
        match addresses.find(protected) {
            Some(address) => Err((DropReason::Ipv4Claim, Some(Ipv4Addr::from(address).into()))),
            None => Ok(()),
        }
    }

    /// A request for an address, of this port (RFC 2131, 2).
    fn dhcp_request(&self, datagram: &[u8]) -> Result<(), Blocked> {
        let is_request = word(datagram, 0) == Some(68) && matches!(word(datagram, 2), Some(67 | 4011));
        let own = octets(datagram, PORTS_BYTES + 28) == Some(self.mac.0);
        if is_request && (own || self.policy.addresses.is_empty()) {
            return Ok(());
        }
        let reason = if is_dhcp_answer(datagram) { DropReason::DhcpServer } else { DropReason::Address };
        Err((reason, None))
    }

    fn ipv6(&self, packet: &[u8]) -> Result<(), Blocked> {
        let malformed = (DropReason::Malformed, None);
        if packet.first().ok_or(malformed)? >> 4 != 6 {
            return Err(malformed);
        }
        let length = usize::from(word(packet, 4).ok_or(malformed)?);
        let packet = within(packet, if length == 0 { 0 } else { 40 + length });
        let source = Ipv6Addr::from(octets::<16>(packet, 8).ok_or(malformed)?);
        self.source(source.into(), DropReason::Ipv6Claim)?;
        let next = *packet.get(6).ok_or(malformed)?;
        let hidden = (DropReason::HiddenHeader, Some(source.into()));
        let (upper, payload, fragmented) = match upper_header(next, packet.get(40..).ok_or(malformed)?) {
            Upper::Found { next, payload, fragmented } => (next, payload, fragmented),
            Upper::LaterFragment => return Ok(()),
            Upper::Hidden => return Err(hidden),
        };
        match upper {
            ICMPV6 => self.icmpv6(payload, fragmented, source),
            UDP if payload.len() < PORTS_BYTES => Err(hidden),
            UDP if !self.policy.dhcp_server && is_dhcpv6_answer(payload) => {
                Err((DropReason::DhcpServer, Some(source.into())))
            }
            TCP if payload.len() < TCP_FLAGS_BYTES => Err(hidden),
            _ => Ok(()),
        }
    }

    fn icmpv6(&self, message: &[u8], fragmented: bool, source: Ipv6Addr) -> Result<(), Blocked> {
        let hidden = (DropReason::HiddenHeader, Some(source.into()));
        let kind = *message.first().ok_or(hidden)?;
        // RFC 6980, 5: neighbour discovery is never fragmented.
        if fragmented && (133..=137).contains(&kind) {
            return Err(hidden);
        }
        match kind {
            134 if !self.policy.router => Err((DropReason::RouterAdvertisement, Some(source.into()))),
            137 => Err((DropReason::Redirect, Some(source.into()))),
            // A neighbour advertisement speaks of its target (RFC 4861, 4.4).
            136 => {
                let target = Ipv6Addr::from(octets::<16>(message, 8).ok_or(hidden)?);
                self.own(target.into(), DropReason::Ipv6Claim)
            }
            _ => Ok(()),
        }
    }
}

/// Whether a frame is for the node's TCP port `port`, or asks where the node is, from an
/// address that its own port was given.
pub(super) fn is_for_management(policy: &Policy, port: u16, frame: &[u8]) -> bool {
    let packet = frame.get(14..).unwrap_or_default();
    let address = |at| octets::<4>(packet, at).map(|address| IpAddr::V4(address.into()));
    let named = |at| address(at).is_some_and(|address| policy.names(address));
    match word(frame, 12) {
        Some(ETHERTYPE_ARP) => word(packet, 6) == Some(1) && named(14),
        Some(ETHERTYPE_IPV4) => {
            // Neither options nor fragments: what is behind them is not guessed at.
            let plain = packet.first() == Some(&0x45) && word(packet, 6).is_some_and(|it| it & 0x3fff == 0);
            plain && packet.get(9) == Some(&TCP) && word(packet, 22) == Some(port) && named(12)
        }
        _ => false,
    }
}

/// What is behind a packet's extension headers.
enum Upper<'a> {
    /// The upper header, and whether it is that of a fragment.
    Found { next: u8, payload: &'a [u8], fragmented: bool },
    /// A fragment that is not the first one.
    LaterFragment,
    /// The chain is cut short, or longer than is followed (RFC 7113, 3).
    Hidden,
}

fn upper_header(mut next: u8, mut rest: &[u8]) -> Upper<'_> {
    let mut fragmented = false;
    for _ in 0..GUARD_EXTENSIONS_MAX {
        let length = match next {
            // Hop by hop, routing, destination, mobility, HIP, shim6, experiments
            // (RFC 8200, 4; RFC 7045).
            0 | 43 | 60 | 135 | 139 | 140 | 253 | 254 => {
                let Some(length) = rest.get(1) else { return Upper::Hidden };
                (usize::from(*length) + 1) * 8
            }
            44 => {
                let Some(offset) = word(rest, 2) else { return Upper::Hidden };
                if offset & 0xfff8 != 0 {
                    return Upper::LaterFragment;
                }
                fragmented = true;
                8
            }
            // RFC 4302, 2.2: in units of four octets.
            51 => {
                let Some(length) = rest.get(1) else { return Upper::Hidden };
                (usize::from(*length) + 2) * 4
            }
            _ => return Upper::Found { next, payload: rest, fragmented },
        };
        let (Some(following), Some(behind)) = (rest.first(), rest.get(length..)) else {
            return Upper::Hidden;
        };
        (next, rest) = (*following, behind);
    }
    Upper::Hidden
}

/// What only a server sends: to a client's port, or an answer to a relay (RFC 2131, 4.1).
fn is_dhcp_answer(datagram: &[u8]) -> bool {
    match word(datagram, 2) {
        Some(68) => true,
        // What a fragment hides may be a reply.
        Some(67) => datagram.get(PORTS_BYTES) != Some(&1),
        _ => false,
    }
}

/// The same over IPv6 (RFC 8415, 7.2 and 7.3).
fn is_dhcpv6_answer(datagram: &[u8]) -> bool {
    match word(datagram, 2) {
        Some(546) => true,
        Some(547) => matches!(datagram.get(PORTS_BYTES), None | Some(2 | 7 | 10 | 13)),
        _ => false,
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "tests cut random numbers to size")]
mod tests;
