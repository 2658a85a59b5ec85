//! What is told of the first card's address: that it came, changed or went, and why there is
//! none.

use alloc::format;
use alloc::string::String;

use netstack::host::{DhcpAnswer, Host, Lease};
use netstack::switch::{DropReason, UPLINK};

use crate::limits::{NO_ADDRESS_AGAIN_NS, NO_ADDRESS_NS};
use crate::network::Network;
use crate::network::nic::Nic;

/// What was told last.
#[derive(Debug, Default)]
pub(crate) struct AddressWatch {
    told: Option<Lease>,
    /// When it is next told that there is no address.
    missing_ns: Option<u64>,
}

/// Why there is no address, as far as can be heard.
fn silence(host: &Host, tagged: u64) -> String {
    match host.dhcp_answer() {
        Some((DhcpAnswer::Nak, server)) => format!("the server {server} refused (DHCPNAK)"),
        Some((DhcpAnswer::Offer, server)) => format!("the server {server} offered one and confirmed none"),
        Some((DhcpAnswer::Ack, server)) => format!("the server {server} answered once and does no longer"),
        None if tagged > 0 => {
            format!("no server answered; {tagged} frames came with a VLAN tag: is the port a trunk?")
        }
        None => "no server answered".into(),
    }
}

impl<N: Nic> Network<N> {
    /// A line for the log, if there is something to tell of the first card's address.
    pub(crate) fn log_address(&mut self, port: u16, is_dhcp: bool, now_ns: u64) {
        let host = &self.stacks.first;
        let lease = host.lease();
        let known = |lease: Option<Lease>| lease.map(|lease| (lease.address, lease.prefix));
        let watch = &mut self.address_watch;
        if known(lease) != known(watch.told) {
            // An address behind a link that is down is of no use.
            if lease.is_some() && !self.nic.is_link_up() {
                return;
            }
            let before = core::mem::replace(&mut watch.told, lease);
            watch.missing_ns = None;
            match (lease, before) {
                (Some(lease), _) => log::info!("reachable at {}:{port}", lease.address),
                (None, before) => {
                    let server = before.and_then(|lease| lease.server);
                    let of = server.map(|server| format!(" of {server}")).unwrap_or_default();
                    let address = before.map(|lease| format!("{}", lease.address)).unwrap_or_default();
                    log::warn!("the address {address} is gone: the lease{of} ended");
                }
            }
            return;
        }
        if lease.is_some() || !is_dhcp {
            return;
        }
        let due_ns = *watch.missing_ns.get_or_insert(now_ns.saturating_add(NO_ADDRESS_NS));
        if now_ns < due_ns {
            return;
        }
        watch.missing_ns = Some(now_ns.saturating_add(NO_ADDRESS_AGAIN_NS));
        if !self.nic.is_link_up() {
            log::warn!("no address by DHCP: the link is down");
            return;
        }
        let tagged = self.switch.counters(UPLINK).map_or(0, |uplink| uplink.drops.of(DropReason::Tagged));
        log::warn!("no address by DHCP: {}", silence(host, tagged));
    }
}
