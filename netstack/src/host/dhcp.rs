//! The DHCP client: a stack of its own over Ethernet, for it needs hardware addresses, and
//! the one beside it is to know none.
//!
//! Spec: RFC 2131.

use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::Medium;
use smoltcp::socket::dhcpv4;
use smoltcp::time::Duration;
use smoltcp::wire::{ArpOperation, EthernetAddress, HardwareAddress, IpAddress, IpCidr, Ipv4Cidr};

use super::arp::Arp;
use super::device::{FrameDevice, Outgoing};
use super::{Lease, instant};
use crate::frame::MacAddress;

/// Stands for every server's hardware address: frames to a server are led to where the
/// node's own table says it is.
const ANY_STATION: MacAddress = MacAddress([2, 0, 0, 0, 0, 0]);

/// The client.
pub(super) struct Dhcp {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    mac: MacAddress,
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
        Self { interface, sockets, handle, mac }
    }

    /// Takes a datagram for the client's port.
    pub(super) fn ingress(&mut self, frame: &[u8], outgoing: &mut Outgoing, now_ns: u64) {
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
                // Whether a server is on the link is for the node's own table to say. One
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
