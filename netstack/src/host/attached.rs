//! Guests of this machine that reach the guarded port. Where they are is told by who
//! configured them, and never learned: nothing that they send changes what is known of
//! other stations.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::wire::ArpOperation;

use super::Host;
use super::arp::Arp;
use super::cookie::Tuple;
use crate::frame::{ETHERTYPE_ARP, ETHERTYPE_IPV4, Header, MacAddress, address_at};
use crate::limits::HOST_ATTACHED_SOCKETS_MAX;
use crate::offload::Offload;

/// All of them, by their addresses.
#[derive(Debug, Default)]
pub(super) struct Attached(Vec<(Ipv4Addr, MacAddress)>);

impl Attached {
    /// The hardware address of a guest.
    pub(super) fn station(&self, address: Ipv4Addr) -> Option<MacAddress> {
        self.0.iter().find(|(it, _)| *it == address).map(|(_, mac)| *mac)
    }
}

impl Host {
    /// Tells which addresses are those of guests that reach the guarded port, and where.
    pub fn set_attached(&mut self, guests: Vec<(Ipv4Addr, MacAddress)>) {
        self.outgoing.attached = Attached(guests);
    }

    /// Takes a frame of such a guest: a question where the node is, or a segment for the
    /// guarded port.
    pub fn receive_attached(&mut self, frame: &[u8], offload: &Offload, now_ns: u64) {
        let Some(header) = Header::parse(frame).filter(|header| header.tags == 0) else { return };
        let from = |address| self.outgoing.attached.station(address) == Some(header.source);
        match header.ethertype {
            ETHERTYPE_ARP => self.answer_attached(frame),
            ETHERTYPE_IPV4 if address_at(frame, 26).is_some_and(from) => self.receive(frame, offload, now_ns),
            _ => {}
        }
    }

    fn answer_attached(&mut self, frame: &[u8]) {
        let (Some(arp), Some(lease)) = (Arp::parse(frame), self.lease) else { return };
        let is_known = self.outgoing.attached.station(arp.sender) == Some(arp.sender_mac);
        let is_question = arp.operation == ArpOperation::Request && arp.target == lease.address;
        if is_known && is_question {
            self.answer_for(lease.address, &arp);
        }
    }

    /// Whether a guest has as many connections as guests may have.
    pub(super) fn is_attached_full(&self, tuple: &Tuple) -> bool {
        let attached = &self.outgoing.attached;
        let is_attached = |peer| attached.station(peer).is_some();
        is_attached(tuple.peer)
            && self.outgoing.translations.peers().filter(|peer| is_attached(*peer)).count()
                >= HOST_ATTACHED_SOCKETS_MAX
    }
}
