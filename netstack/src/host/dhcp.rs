//! The DHCP client: a stack of its own over Ethernet, for it needs hardware addresses, and
//! the one beside it is to know none.
//!
//! Spec: RFC 2131.

use core::net::Ipv4Addr;

use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::Medium;
use smoltcp::socket::dhcpv4;
use smoltcp::time::Duration;
use smoltcp::wire::{ArpOperation, EthernetAddress, HardwareAddress, IpAddress, IpCidr, Ipv4Cidr};

use super::arp::Arp;
use super::device::{FrameDevice, Outgoing};
use super::{Host, Lease, instant};
use crate::frame::MacAddress;

/// Stands for every server's hardware address: frames to a server are led to where the
/// node's own table has it.
const ANY_STATION: MacAddress = MacAddress([2, 0, 0, 0, 0, 0]);

/// The last answer of a DHCP server (RFC 2131, 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DhcpAnswer {
    /// It offered an address.
    Offer,
    /// It gave one.
    Ack,
    /// It refused one.
    Nak,
}

/// The kind of an answer, and the server; none for what is no answer (RFC 2132, 9.6 and
/// 9.7).
fn answer(frame: &[u8]) -> Option<(DhcpAnswer, Ipv4Addr)> {
    let packet = frame.get(14..)?;
    let source = Ipv4Addr::from(*packet.get(12..)?.first_chunk::<4>()?);
    let header_bytes = usize::from(packet.first()? & 0x0f) * 4;
    let mut options = packet.get(header_bytes..)?.get(8 + 240..)?;
    let (mut kind, mut server) = (None, source);
    while let Some((code, rest)) = options.split_first() {
        if *code == 0 {
            options = rest;
            continue;
        }
        let Some((length, rest)) = rest.split_first() else { break };
        let Some((value, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
        match (*code, value) {
            (53, [2]) => kind = Some(DhcpAnswer::Offer),
            (53, [5]) => kind = Some(DhcpAnswer::Ack),
            (53, [6]) => kind = Some(DhcpAnswer::Nak),
            (54, [a, b, c, d]) => server = Ipv4Addr::new(*a, *b, *c, *d),
            _ => {}
        }
        options = rest;
    }
    Some((kind?, server))
}

/// The client.
pub(super) struct Dhcp {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    mac: MacAddress,
    /// The last answer for this client, and whose it was.
    pub(super) heard: Option<(DhcpAnswer, Ipv4Addr)>,
}

impl Dhcp {
    pub(super) fn new(mac: MacAddress, seed: u64, outgoing: &mut Outgoing, now_ns: u64) -> Self {
        let mut settings = InterfaceConfig::new(HardwareAddress::Ethernet(EthernetAddress(mac.0)));
        settings.random_seed = seed;
        let mut device = FrameDevice { incoming: None, outgoing, medium: Medium::Ethernet };
        let interface = Interface::new(settings, &mut device, instant(now_ns));
        let mut socket = dhcpv4::Socket::new();
        let mut retry = socket.get_retry_config();
        retry.discover_timeout = Duration::from_millis(1_000);
        retry.initial_request_timeout = Duration::from_millis(1_000);
        socket.set_retry_config(retry);
        let mut sockets = SocketSet::new(alloc::vec::Vec::new());
        let handle = sockets.add(socket);
        Self { interface, sockets, handle, mac, heard: None }
    }

    /// Takes a datagram for the client's port.
    pub(super) fn ingress(&mut self, frame: &[u8], outgoing: &mut Outgoing, now_ns: u64) {
        // The client's hardware address is in each answer (RFC 2131, 2: chaddr).
        if frame.get(14 + 20 + 8 + 28..).is_some_and(|rest| rest.starts_with(&self.mac.0)) {
            self.heard = answer(frame).or(self.heard);
        }
        let mut device = FrameDevice { incoming: Some(frame), outgoing, medium: Medium::Ethernet };
        self.interface.poll_ingress_single(instant(now_ns), &mut device, &mut self.sockets);
    }

    /// Sends what is due.
    pub(super) fn egress(&mut self, outgoing: &mut Outgoing, now_ns: u64) {
        let mut device = FrameDevice { incoming: None, outgoing, medium: Medium::Ethernet };
        self.interface.poll_egress(instant(now_ns), &mut device, &mut self.sockets);
        let Some((server, own)) = outgoing.take_dhcp_question() else { return };
        let operation = ArpOperation::Reply;
        let (sender_mac, target_mac) = (ANY_STATION, self.mac);
        let answer = Arp { operation, sender_mac, sender: server, target_mac, target: own };
        self.ingress(&answer.frame(self.mac), outgoing, now_ns);
        let mut device = FrameDevice { incoming: None, outgoing, medium: Medium::Ethernet };
        self.interface.poll_egress(instant(now_ns), &mut device, &mut self.sockets);
    }

    /// The address, when it came, changed or went.
    pub(super) fn poll(&mut self, now_ns: u64) -> Option<Option<Lease>> {
        self.interface.poll_maintenance(instant(now_ns));
        let lease = match self.sockets.get_mut::<dhcpv4::Socket>(self.handle).poll()? {
            dhcpv4::Event::Deconfigured => None,
            dhcpv4::Event::Configured(config) => Some(Lease {
                address: Ipv4Cidr::address(&config.address),
                prefix: config.address.prefix_len(),
                gateway: config.router,
                server: Some(config.server.address),
            }),
        };
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            if let Some(lease) = lease {
                // Whether a server is on the link is for the node's own table to decide. One
                // address always fits: the list was just cleared.
                let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(lease.address), 0));
            }
        });
        Some(lease)
    }

    /// When it has something to do, in nanoseconds.
    pub(super) fn next_deadline(&mut self, now_ns: u64) -> Option<u64> {
        let at = self.interface.poll_at(instant(now_ns), &self.sockets)?;
        u64::try_from(at.total_micros()).ok().map(|at_us| at_us.saturating_mul(1_000))
    }
}

impl Host {
    /// The last answer of a DHCP server, and whose it was.
    #[must_use]
    pub fn dhcp_answer(&self) -> Option<(DhcpAnswer, Ipv4Addr)> {
        self.dhcp.as_ref()?.heard
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec;
    use std::vec::Vec;

    use super::*;

    fn frame(options: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 14 + 20 + 8 + 240];
        frame[14] = 0x45;
        frame[26..30].copy_from_slice(&[10, 0, 0, 1]);
        frame.extend_from_slice(options);
        frame
    }

    #[test]
    fn the_kind_and_the_server_are_found() {
        let server = Ipv4Addr::new(10, 0, 0, 9);
        for (kind, answer_kind) in [(2, DhcpAnswer::Offer), (5, DhcpAnswer::Ack), (6, DhcpAnswer::Nak)] {
            let options = [0, 1, 4, 255, 255, 0, 0, 53, 1, kind, 54, 4, 10, 0, 0, 9, 255];
            assert_eq!(answer(&frame(&options)), Some((answer_kind, server)));
        }
        assert_eq!(answer(&frame(&[53, 1, 6])), Some((DhcpAnswer::Nak, Ipv4Addr::new(10, 0, 0, 1))));
        for options in [&[][..], &[53], &[53, 9, 2], &[53, 1, 1], &[53, 2, 2, 2], &[255]] {
            assert_eq!(answer(&frame(options)), None, "{options:?}");
        }
        for length in 0..frame(&[53, 1, 2]).len() {
            assert_eq!(answer(&frame(&[53, 1, 2])[..length]), None);
        }
    }
}
