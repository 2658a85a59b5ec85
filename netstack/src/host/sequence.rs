//! The sequence number that a connection of ours begins with.
//!
//! The stack draws them from one generator without keys: who sees a few computes those to
//! come. So each connection is opened in a context of its own, which is seeded for it alone
//! by a keyed hash; from one number nothing follows about another.
//!
//! Spec: RFC 6528, section 3; RFC 9293, section 3.4.1.

use smoltcp::iface::{Config as InterfaceConfig, Interface};
use smoltcp::phy::Medium;
use smoltcp::time::Instant;
use smoltcp::wire::HardwareAddress;

use super::cookie::Baker;
use super::device::{FrameDevice, Outgoing};

/// A context for opening the connection of this number, and nothing else.
pub(super) fn context(baker: &Baker, number: u64, outgoing: &mut Outgoing) -> Interface {
    let mut settings = InterfaceConfig::new(HardwareAddress::Ip);
    settings.random_seed = baker.derive(*b"isn ", number);
    let mut device = FrameDevice { incoming: None, outgoing, medium: Medium::Ip };
    Interface::new(settings, &mut device, Instant::ZERO)
}
