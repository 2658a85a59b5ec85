//! The node's own TCP/IP stack: ARP, IPv4, ping, DHCP and TCP, over smoltcp.
//!
//! Frames come in by [`Host::receive`] and go out by [`Host::transmit`]; time comes
//! in by every call that needs it. Only declared ports answer: a frame for any
//! other port or protocol is dropped without a reply.
//!
//! Spec: RFC 894, RFC 826, RFC 791, RFC 792, RFC 2131, RFC 9293.

use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::iface::{Config as InterfaceConfig, Interface, SocketHandle, SocketSet};
use smoltcp::phy::Medium;
use smoltcp::socket::tcp;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use crate::frame::{ETHERTYPE_ARP, HEADER_BYTES, Header, MacAddress};
use crate::limits::{
    HALF_OPEN_AGE_CROWDED_MS, HALF_OPEN_AGE_MAX_MS, HOST_ACCEPTS_PENDING_MAX, HOST_BACKLOG_MAX,
    HOST_BUFFER_BYTES_MAX, HOST_LISTENERS_MAX, HOST_SOCKETS_MAX,
};
use crate::offload::{Accepts, Offload, is_sound};

mod arp;
mod attached;
mod cookie;
mod counters;
mod device;
mod dhcp;
mod filter;
mod gate;
mod neighbours;
mod own_frame;
mod pace;
mod paths;
mod sequence;
mod slots;
mod streams;
mod translations;

pub use arp::Claims;
use cookie::CookieKey;
pub use counters::HostCounters;
use device::{FrameDevice, Outgoing};
use dhcp::Dhcp;
pub use dhcp::DhcpAnswer;
pub use gate::Caller;
use gate::{Callers, Guard};
pub use neighbours::Moved;
pub use own_frame::OwnFrame;
pub use paths::Narrow;
pub use streams::{Stream, StreamError};

/// How the node gets its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// DHCPv4.
    Dhcp,
    /// A fixed address.
    Static {
        /// The node's address.
        address: Ipv4Addr,
        /// Bits of the network's prefix.
        prefix: u8,
        /// The default gateway, if any.
        gateway: Option<Ipv4Addr>,
    },
}

/// What the caller chooses.
#[derive(Clone, Copy, Debug)]
pub struct HostConfig {
    /// The host's station address.
    pub mac: MacAddress,
    /// Largest IP packet.
    pub mtu: usize,
    /// What the NIC that takes its frames does for it.
    pub accepts: Accepts,
    /// How to get an address.
    pub addressing: Addressing,
    /// Unpredictable: seeds initial sequence numbers and ephemeral ports.
    pub seed: u64,
    /// Unpredictable, also for an observer of sequence numbers: authenticates handshakes that
    /// are answered without memory.
    pub secret: [u8; 16],
}

/// The address in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The node's address.
    pub address: Ipv4Addr,
    /// Bits of the network's prefix.
    pub prefix: u8,
    /// The default gateway, if any.
    pub gateway: Option<Ipv4Addr>,
    /// The DHCP server that granted it; `None` for a static address.
    pub server: Option<Ipv4Addr>,
}

impl Lease {
    /// Whether an address is on the link. A gateway that is not, behind a network of one
    /// address, is all the same: it is asked for there.
    #[must_use]
    pub fn is_direct(&self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32_u32.saturating_sub(u32::from(self.prefix))).unwrap_or(0);
        self.address.to_bits() & mask == address.to_bits() & mask
    }
}

/// Buffers and timers of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// Octets that may wait to be read: the receive window.
    pub receive_bytes: usize,
    /// Octets that may be unacknowledged or unsent.
    pub transmit_bytes: usize,
    /// A silent connection is probed this often.
    pub keep_alive_ms: u64,
    /// A connection whose peer answers nothing for so long is lost.
    pub timeout_ms: u64,
}

impl TcpOptions {
    /// For commands and consoles.
    pub const MANAGEMENT: Self = Self {
        receive_bytes: 64 * 1024,
        transmit_bytes: 64 * 1024,
        keep_alive_ms: 10_000,
        timeout_ms: 30_000,
    };
    /// For iSCSI: a window of 256 KiB carries 50 MB/s over 5 ms.
    pub const STORAGE: Self = Self {
        receive_bytes: 256 * 1024,
        transmit_bytes: 256 * 1024,
        keep_alive_ms: 2_000,
        timeout_ms: 10_000,
    };

    /// For questions to an iSCSI target.
    pub const QUESTIONS: Self = Self { receive_bytes: 64 * 1024, transmit_bytes: 64 * 1024, ..Self::STORAGE };

    /// Memory of a connection's buffers.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.receive_bytes.saturating_add(self.transmit_bytes)
    }
}

/// A connection. Never reused: a stale one reads as closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// The handshake is under way.
    Connecting,
    /// Data flows both ways.
    Established,
    /// The peer will send no more; what it sent may still be read.
    PeerClosed,
    /// We closed; the rest is being delivered.
    Closing,
    /// Gone: refused, reset, timed out or closed by both.
    Closed,
}

/// Why the stack refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostError {
    /// Sockets, listeners or buffer memory are used up.
    Exhausted,
    /// The node has no address yet.
    NoAddress,
    /// The address or port cannot be used.
    BadAddress,
}

struct Listener {
    port: u16,
    options: TcpOptions,
    backlog: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Waiting in a listener's backlog; the handshake may have begun at this time.
    Backlog { half_open_since_ms: Option<u64> },
    /// Established, not yet accepted.
    Pending,
    /// Owned by the caller.
    Owned,
    /// The caller closed it; it goes when the protocol is done.
    Released { since_ms: u64 },
}

struct Connection {
    id: ConnectionId,
    handle: SocketHandle,
    local_port: u16,
    bytes: usize,
    role: Role,
}

/// The stack.
pub struct Host {
    interface: Interface,
    sockets: SocketSet<'static>,
    dhcp: Option<Dhcp>,
    outgoing: Outgoing,
    lease: Option<Lease>,
    listeners: Vec<Listener>,
    guard: Option<Guard>,
    callers: Callers,
    connections: Vec<Connection>,
    /// Buffer memory of those that are not of the guarded port.
    buffer_limit: usize,
    next_id: u64,
    /// Rises with each port that is chosen.
    ports: u64,
    counters: HostCounters,
    mac: MacAddress,
    cookie_key: CookieKey,
    claims: Claims,
}

/// A released connection that the peer will not let go of is cut after this.
const RELEASE_MS_MAX: u64 = 10_000;
/// The same while queued octets are still being delivered.
const DELIVERY_MS_MAX: u64 = 60_000;

fn instant(now_ns: u64) -> Instant {
    Instant::from_micros(i64::try_from(now_ns / 1_000).unwrap_or(i64::MAX))
}

impl Host {
    /// A stack without connections; DHCP starts with the first [`Self::poll`].
    ///
    /// # Errors
    /// [`HostError::BadAddress`] when the MAC or the static address cannot be used.
    pub fn new(config: &HostConfig, now_ns: u64) -> Result<Self, HostError> {
        if !config.mac.is_station() {
            return Err(HostError::BadAddress);
        }
        let frame_bytes_max = config.mtu.clamp(576, 9_000) + HEADER_BYTES;
        let mut outgoing = Outgoing::new(config.mac, frame_bytes_max, config.accepts);
        let mut settings = InterfaceConfig::new(HardwareAddress::Ip);
        let cookie_key = CookieKey::new(config.secret);
        settings.random_seed = cookie_key.derive(*b"tcp ", config.seed);
        let mut device = FrameDevice { incoming: None, outgoing: &mut outgoing, medium: Medium::Ip };
        let interface = Interface::new(settings, &mut device, instant(now_ns));
        let mut host = Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            dhcp: None,
            outgoing,
            lease: None,
            listeners: Vec::new(),
            guard: None,
            callers: Callers::default(),
            connections: Vec::new(),
            buffer_limit: HOST_BUFFER_BYTES_MAX,
            next_id: 1,
            ports: config.seed,
            counters: HostCounters::default(),
            mac: config.mac,
            cookie_key,
            claims: Claims::default(),
        };
        match config.addressing {
            Addressing::Dhcp => {
                let seed = host.cookie_key.derive(*b"dhcp", config.seed);
                host.dhcp = Some(Dhcp::new(config.mac, seed, &mut host.outgoing, now_ns));
            }
            Addressing::Static { address, prefix, gateway } => {
                let unusable = address.is_unspecified()
                    || address.is_multicast()
                    || address.is_broadcast()
                    || prefix > 32;
                if unusable {
                    return Err(HostError::BadAddress);
                }
                host.set_lease(Some(Lease { address, prefix, gateway, server: None }));
            }
        }
        Ok(host)
    }

    fn set_lease(&mut self, lease: Option<Lease>) {
        self.lease = lease;
        self.outgoing.set_lease(lease);
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            if let Some(lease) = lease {
                let cidr = IpCidr::new(IpAddress::Ipv4(lease.address), lease.prefix);
                // One address always fits: the list was just cleared.
                let _ = addresses.push(cidr);
            }
        });
    }

    /// The address in use, and where it came from.
    #[must_use]
    pub const fn lease(&self) -> Option<Lease> {
        self.lease
    }

    /// The host's station address.
    #[must_use]
    pub const fn mac(&self) -> MacAddress {
        self.mac
    }

    /// What the stack has seen.
    #[must_use]
    pub const fn counters(&self) -> HostCounters {
        self.counters
    }

    /// Takes one received frame. Replies wait in [`Self::transmit`]. Whether the checksum of
    /// a TCP segment is looked at tells `offload`: one that its sender on this machine did
    /// not complete, or that the card has found right, is not.
    pub fn receive(&mut self, frame: &[u8], offload: &Offload, now_ns: u64) {
        self.counters.received_frames = self.counters.received_frames.wrapping_add(1);
        self.outgoing.now_ns = now_ns;
        if Header::parse(frame).is_some_and(|it| it.ethertype == ETHERTYPE_ARP && it.tags == 0) {
            self.receive_arp(frame, now_ns);
            return;
        }
        if self.receive_too_big(frame, now_ns) {
            return;
        }
        let (connections, sockets) = (&self.connections, &self.sockets);
        let guard = self.guard.map(|guard| guard.port);
        let mut gated = false;
        let mut open = |call: filter::Call| {
            gated = guard == Some(call.port);
            let peer = (IpAddress::Ipv4(call.source.0), call.source.1).into();
            // Others than the peer would hear from its socket's absence that the port is in use.
            let is_for = |connection: &Connection| {
                let socket = sockets.get::<tcp::Socket>(connection.handle);
                connection.local_port == call.port
                    && (socket.is_listening() || (!call.is_opening && socket.remote_endpoint() == Some(peer)))
            };
            gated || connections.iter().any(is_for)
        };
        if !filter::wanted(frame, self.dhcp.is_some(), &mut open) {
            self.counters.unwanted_frames = self.counters.unwanted_frames.wrapping_add(1);
            return;
        }
        if !self.outgoing.has_reply_room() {
            self.counters.crowded_frames = self.counters.crowded_frames.wrapping_add(1);
            return;
        }
        if *offload == Offload::None && !is_sound(frame) {
            self.counters.damaged_frames = self.counters.damaged_frames.wrapping_add(1);
            return;
        }
        if filter::is_udp(frame) {
            if let Some(dhcp) = &mut self.dhcp {
                dhcp.ingress(frame, &mut self.outgoing, now_ns);
            }
        } else if frame.get(..6) == Some(&self.mac.0) {
            self.outgoing.paths.heard(frame);
            if !(gated && self.gate(frame, now_ns)) {
                self.ingress(frame, now_ns);
            }
        }
    }

    /// Gives the stack a packet. An immediate answer is sent to where that came from, if it
    /// is not known better: nothing is learned from a packet.
    fn ingress(&mut self, frame: &[u8], now_ns: u64) {
        let packet = frame.get(HEADER_BYTES..);
        self.outgoing.begin_reply(frame);
        let medium = Medium::Ip;
        let mut device = FrameDevice { incoming: packet, outgoing: &mut self.outgoing, medium };
        self.interface.poll_ingress_single(instant(now_ns), &mut device, &mut self.sockets);
        self.outgoing.end_reply();
    }

    /// The next address that moved to another station.
    pub fn next_moved(&mut self) -> Option<Moved> {
        self.outgoing.neighbours.next_moved()
    }

    /// Listens on `port` with `backlog` simultaneous handshakes.
    ///
    /// # Errors
    /// The port is zero or taken, or memory or listeners are used up.
    pub fn listen(&mut self, port: u16, backlog: usize, options: TcpOptions) -> Result<(), HostError> {
        let is_guarded = self.guard.is_some_and(|guard| guard.port == port);
        if port == 0 || is_guarded || self.listeners.iter().any(|listener| listener.port == port) {
            return Err(HostError::BadAddress);
        }
        let backlog = backlog.clamp(1, HOST_BACKLOG_MAX);
        if self.listeners.len() >= HOST_LISTENERS_MAX {
            return Err(HostError::Exhausted);
        }
        self.listeners.push(Listener { port, options, backlog });
        self.refill_backlogs();
        Ok(())
    }

    /// A connection whose handshake a client completed on `port`.
    pub fn accept(&mut self, port: u16) -> Option<ConnectionId> {
        let connection = self
            .connections
            .iter_mut()
            .find(|connection| connection.local_port == port && connection.role == Role::Pending)?;
        connection.role = Role::Owned;
        Some(connection.id)
    }

    /// Opens a connection; watch [`Self::state`].
    ///
    /// # Errors
    /// No address, a bad one, or memory is used up.
    pub fn connect(
        &mut self,
        address: Ipv4Addr,
        port: u16,
        options: TcpOptions,
    ) -> Result<ConnectionId, HostError> {
        let own = IpAddress::Ipv4(self.lease.ok_or(HostError::NoAddress)?.address);
        let local_port = self.ephemeral_port();
        let id = self.add_socket(local_port, options, Role::Owned)?;
        let Some(handle) = self.handle(id) else { return Err(HostError::Exhausted) };
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        // Its port has counted on.
        let mut opening = sequence::context(&self.cookie_key, self.ports, &mut self.outgoing);
        let remote = (IpAddress::Ipv4(address), port);
        if socket.connect(opening.context(), remote, (own, local_port)).is_err() {
            self.remove(id);
            return Err(HostError::BadAddress);
        }
        Ok(id)
    }

    /// How far a connection is; unknown ones are closed.
    #[must_use]
    pub fn state(&self, id: ConnectionId) -> ConnectionState {
        let Some(handle) = self.handle(id) else { return ConnectionState::Closed };
        match self.sockets.get::<tcp::Socket>(handle).state() {
            tcp::State::SynSent | tcp::State::SynReceived | tcp::State::Listen => ConnectionState::Connecting,
            tcp::State::Established => ConnectionState::Established,
            tcp::State::CloseWait => ConnectionState::PeerClosed,
            tcp::State::FinWait1 | tcp::State::FinWait2 | tcp::State::Closing | tcp::State::LastAck => {
                ConnectionState::Closing
            }
            tcp::State::TimeWait | tcp::State::Closed => ConnectionState::Closed,
        }
    }

    /// The peer of a connection.
    #[must_use]
    pub fn peer(&self, id: ConnectionId) -> Option<(Ipv4Addr, u16)> {
        let endpoint = self.sockets.get::<tcp::Socket>(self.handle(id)?).remote_endpoint()?;
        match endpoint.addr {
            IpAddress::Ipv4(address) => Some((address, endpoint.port)),
            IpAddress::Ipv6(_) => None,
        }
    }

    /// Delivers what is queued, then closes; the identifier is void at once.
    pub fn close(&mut self, id: ConnectionId, now_ns: u64) {
        let since_ms = now_ns / 1_000_000;
        if let Some(connection) = self.connections.iter_mut().find(|each| each.id == id) {
            connection.role = Role::Released { since_ms };
            self.sockets.get_mut::<tcp::Socket>(connection.handle).close();
        }
    }

    /// Resets the connection; the identifier is void at once.
    pub fn abort(&mut self, id: ConnectionId, now_ns: u64) {
        let since_ms = now_ns / 1_000_000;
        if let Some(connection) = self.connections.iter_mut().find(|each| each.id == id) {
            connection.role = Role::Released { since_ms };
            self.sockets.get_mut::<tcp::Socket>(connection.handle).abort();
        }
    }

    fn handle(&self, id: ConnectionId) -> Option<SocketHandle> {
        self.connections
            .iter()
            .find(|connection| connection.id == id && !matches!(connection.role, Role::Released { .. }))
            .map(|connection| connection.handle)
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "tests cut random numbers to size")]
mod tests;
