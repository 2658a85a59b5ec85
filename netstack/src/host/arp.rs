//! ARP, in front of the TCP/IP stack, which never sees any of it: the node answers for its
//! own address, asks for those that it needs, and accepts answers to its own questions alone.
//!
//! Spec: RFC 826, RFC 5227 sections 2.1.1 and 2.4, RFC 1122 section 2.3.2.

use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
};

use super::Host;
use crate::frame::MacAddress;

/// How long after one defence of the node's address the next one waits (RFC 5227, 1.1:
/// `DEFEND_INTERVAL`).
const DEFEND_INTERVAL_NS: u64 = 10_000_000_000;

/// An ARP packet between Ethernet and IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arp {
    pub(super) operation: ArpOperation,
    pub(super) sender_mac: MacAddress,
    pub(super) sender: Ipv4Addr,
    pub(super) target_mac: MacAddress,
    pub(super) target: Ipv4Addr,
}

impl Arp {
    /// Reads a frame; none for what is no ARP packet, or one whose sender is no station, or
    /// another than sent the frame.
    pub(super) fn parse(frame: &[u8]) -> Option<Self> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        if ethernet.ethertype() != EthernetProtocol::Arp {
            return None;
        }
        let packet = ArpPacket::new_checked(ethernet.payload()).ok()?;
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr,
            source_protocol_addr,
            target_hardware_addr,
            target_protocol_addr,
        } = ArpRepr::parse(&packet).ok()?
        else {
            return None;
        };
        let sender_mac = MacAddress(source_hardware_addr.0);
        (sender_mac.is_station() && source_hardware_addr == ethernet.src_addr()).then_some(Self {
            operation,
            sender_mac,
            sender: source_protocol_addr,
            target_mac: MacAddress(target_hardware_addr.0),
            target: target_protocol_addr,
        })
    }

    /// The frame that carries it to a station or to all.
    pub(super) fn frame(&self, to: MacAddress) -> Vec<u8> {
        let arp = ArpRepr::EthernetIpv4 {
            operation: self.operation,
            source_hardware_addr: EthernetAddress(self.sender_mac.0),
            source_protocol_addr: self.sender,
            target_hardware_addr: EthernetAddress(self.target_mac.0),
            target_protocol_addr: self.target,
        };
        let mut bytes = vec![0; EthernetFrame::<&[u8]>::header_len() + arp.buffer_len()];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes);
        let ethernet = EthernetRepr {
            src_addr: EthernetAddress(self.sender_mac.0),
            dst_addr: EthernetAddress(to.0),
            ethertype: EthernetProtocol::Arp,
        };
        ethernet.emit(&mut frame);
        arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
        bytes
    }

    /// A question for an address, to the station that may still have it or to all.
    pub(super) fn question(own: (MacAddress, Ipv4Addr), target: Ipv4Addr, to: MacAddress) -> Vec<u8> {
        let arp = Self {
            operation: ArpOperation::Request,
            sender_mac: own.0,
            sender: own.1,
            target_mac: MacAddress([0; 6]),
            target,
        };
        arp.frame(to)
    }
}

/// Another station claimed the node's own address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// How often.
    pub count: u64,
    /// The last one that did.
    pub by: Option<MacAddress>,
    defended_ns: Option<u64>,
}

impl Host {
    /// Stations that the stack talks to, as far as it knows where they are.
    pub fn stations(&self) -> impl Iterator<Item = (Ipv4Addr, MacAddress)> {
        self.outgoing.neighbours.stations()
    }

    /// Claims of the node's own address.
    #[must_use]
    pub const fn claims(&self) -> Claims {
        self.claims
    }

    pub(super) fn receive_arp(&mut self, frame: &[u8], now_ns: u64) {
        let (Some(arp), Some(lease)) = (Arp::parse(frame), self.lease) else { return };
        if arp.sender_mac == self.mac {
            return;
        }
        if arp.sender == lease.address {
            self.claimed(lease.address, arp.sender_mac, now_ns);
            return;
        }
        let to_us = frame.get(..6) == Some(&self.mac.0) && arp.target == lease.address;
        match arp.operation {
            ArpOperation::Request if arp.target == lease.address => {
                self.answer_for(lease.address, &arp);
                self.outgoing.heard_claim(arp.sender, arp.sender_mac);
            }
            ArpOperation::Reply if to_us => self.outgoing.heard_answer(arp.sender, arp.sender_mac),
            _ => self.outgoing.heard_claim(arp.sender, arp.sender_mac),
        }
    }

    /// Announces that the node has an address.
    pub(super) fn answer_for(&mut self, address: Ipv4Addr, question: &Arp) {
        let answer = Arp {
            operation: ArpOperation::Reply,
            sender_mac: self.mac,
            sender: address,
            target_mac: question.sender_mac,
            target: question.sender,
        };
        if self.outgoing.has_reply_room() {
            self.outgoing.push(answer.frame(question.sender_mac));
        }
    }

    /// RFC 5227, 2.4 (c): a host that others depend on announces once in a while, to all, whose
    /// the address is.
    fn claimed(&mut self, address: Ipv4Addr, by: MacAddress, now_ns: u64) {
        self.claims.count = self.claims.count.saturating_add(1);
        self.claims.by = Some(by);
        let recently = |at_ns: u64| now_ns.saturating_sub(at_ns) < DEFEND_INTERVAL_NS;
        if self.claims.defended_ns.is_some_and(recently) || !self.outgoing.has_reply_room() {
            return;
        }
        self.claims.defended_ns = Some(now_ns);
        let announcement = Arp::question((self.mac, address), address, MacAddress::BROADCAST);
        self.outgoing.push(announcement);
    }
}
