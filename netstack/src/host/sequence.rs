//! The port and the sequence number that a connection of ours begins with.
//!
//! The stack draws them from one generator without keys: an observer of a few computes those to
//! come. So each connection is opened in a context of its own, which is seeded for it alone
//! by a keyed hash; from one number nothing follows about another.
//!
//! Spec: RFC 6056, section 3.3.3; RFC 6528, section 3; RFC 9293, section 3.4.1.

use smoltcp::iface::{Config as InterfaceConfig, Interface};
use smoltcp::phy::Medium;
use smoltcp::time::Instant;
use smoltcp::wire::HardwareAddress;

use super::Host;
use super::cookie::CookieKey;
use super::device::{FrameDevice, Outgoing};

const EPHEMERAL_FIRST: u16 = 49_152;
const EPHEMERAL_COUNT: u64 = 16_384;

/// A context for opening the connection of this number, and nothing else.
pub(super) fn context(cookie_key: &CookieKey, number: u64, outgoing: &mut Outgoing) -> Interface {
    let mut settings = InterfaceConfig::new(HardwareAddress::Ip);
    settings.random_seed = cookie_key.derive(*b"isn ", number);
    let mut device = FrameDevice { incoming: None, outgoing, medium: Medium::Ip };
    Interface::new(settings, &mut device, Instant::ZERO)
}

impl Host {
    /// A port that nothing of ours has.
    pub(super) fn ephemeral_port(&mut self) -> u16 {
        loop {
            self.ports = self.ports.wrapping_add(1);
            let random = self.cookie_key.derive(*b"port", self.ports);
            let offset = u16::try_from(random % EPHEMERAL_COUNT).unwrap_or(0);
            let port = EPHEMERAL_FIRST.saturating_add(offset);
            let taken = self.connections.iter().any(|each| each.local_port == port)
                || self.guard.is_some_and(|guard| guard.port == port)
                || self.listeners.iter().any(|listener| listener.port == port);
            // At most HOST_SOCKETS_MAX of the ports are taken: this ends.
            if !taken {
                return port;
            }
        }
    }
}
