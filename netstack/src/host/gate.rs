//! Connections that began with a cookie: the stack's own sequence numbers are
//! unlike those the peer was told, so both directions are translated.

use alloc::vec::Vec;

use smoltcp::wire::{IpAddress, TcpControl, TcpSeqNumber};

use super::cookie::{Segment, Tuple, tcp_of};
use super::device::FrameDevice;
use super::{ConnectionId, Host, Role, instant, tcp};

/// One translated connection.
#[derive(Clone, Copy, Debug)]
struct Translation {
    id: ConnectionId,
    tuple: Tuple,
    /// What the peer knows less what the stack means, modulo 2^32.
    offset: u32,
}

/// All translated connections: at most one a socket.
#[derive(Debug, Default)]
pub(super) struct Translations {
    table: Vec<Translation>,
    /// Whose SYN-ACK the stack is about to send, and its number once it has.
    expected: Option<(Tuple, Option<u32>)>,
}

impl Translations {
    /// Looks at a frame that the stack sends; false when nobody must see it.
    pub(super) fn outgoing(&mut self, frame: &mut [u8]) -> bool {
        if self.table.is_empty() && self.expected.is_none() {
            return true;
        }
        let Some((local, peer, mut tcp)) = tcp_of(frame) else { return true };
        let tuple = Tuple { peer, peer_port: tcp.dst_port(), local, local_port: tcp.src_port() };
        if let Some((expected, number)) = &mut self.expected
            && *expected == tuple
        {
            if tcp.syn() {
                *number = Some(tcp.seq_number().0.cast_unsigned());
            }
            return false;
        }
        if let Some(it) = self.table.iter().find(|it| it.tuple == tuple) {
            let number = tcp.seq_number().0.cast_unsigned().wrapping_add(it.offset);
            tcp.set_seq_number(TcpSeqNumber(number.cast_signed()));
            tcp.fill_checksum(&IpAddress::Ipv4(local), &IpAddress::Ipv4(peer));
        }
        true
    }

    fn offset(&self, tuple: &Tuple) -> Option<u32> {
        self.table.iter().find(|it| it.tuple == *tuple).map(|it| it.offset)
    }

    pub(super) fn forget(&mut self, id: ConnectionId) {
        self.table.retain(|it| it.id != id);
    }
}

/// A received frame whose acknowledgement is in the stack's own numbers.
fn translated(frame: &[u8], offset: u32) -> Vec<u8> {
    let mut copy = frame.to_vec();
    if let Some((peer, local, mut tcp)) = tcp_of(&mut copy) {
        let number = tcp.ack_number().0.cast_unsigned().wrapping_sub(offset);
        tcp.set_ack_number(TcpSeqNumber(number.cast_signed()));
        tcp.fill_checksum(&IpAddress::Ipv4(peer), &IpAddress::Ipv4(local));
    }
    copy
}

impl Host {
    /// Handles a frame for a port that listens where cookies are at play; false
    /// when the stack is to see it as it is.
    pub(super) fn gate(&mut self, frame: &[u8], now_ns: u64) -> bool {
        let Some(segment) = Segment::parse(frame) else { return false };
        let tuple = segment.tuple;
        // From one station to this one, or the stack decides: what is answered here is
        // answered to the addresses that the segment names.
        let is_host = !(tuple.peer.is_broadcast()
            || tuple.peer.is_multicast()
            || tuple.peer.is_unspecified()
            || tuple.peer.is_loopback()
            || tuple.peer == tuple.local);
        let is_ours = segment.local_mac.0 == self.mac.0 && segment.peer_mac.is_unicast();
        if !is_host || !is_ours || self.lease.is_none_or(|lease| lease.address != tuple.local) {
            return false;
        }
        if let Some(offset) = self.outgoing.translations.offset(&tuple) {
            if segment.acknowledgement.is_some() {
                self.ingress(&translated(frame, offset), now_ns);
                return true;
            }
            return false;
        }
        let known = self.connection_of(&tuple).is_some();
        match (segment.control, segment.acknowledgement) {
            (TcpControl::Syn, None) if !known && self.is_crowded(tuple.local_port) => {
                if self.outgoing.has_reply_room() {
                    let answer = segment.answer(self.baker.cookie(&segment, now_ns));
                    self.outgoing.push(answer);
                    self.counters.cookies_sent = self.counters.cookies_sent.wrapping_add(1);
                }
                true
            }
            (TcpControl::None | TcpControl::Psh | TcpControl::Fin, Some(_)) if !known => {
                let Some((cookie, size)) = self.baker.check(&segment, now_ns) else { return false };
                self.open(frame, &segment, cookie, size, now_ns);
                true
            }
            _ => false,
        }
    }

    /// Whether half of a listener's sockets are taken by handshakes.
    fn is_crowded(&self, port: u16) -> bool {
        let Some(listener) = self.listeners.iter().find(|it| it.port == port) else { return false };
        let listening = self.connections.iter().filter(|it| it.local_port == port && self.listens(it.handle));
        listening.count() * 2 <= listener.backlog
    }

    fn listens(&self, handle: super::SocketHandle) -> bool {
        self.sockets.get::<tcp::Socket>(handle).is_listening()
    }

    fn connection_of(&self, tuple: &Tuple) -> Option<ConnectionId> {
        let remote = (IpAddress::Ipv4(tuple.peer), tuple.peer_port).into();
        self.connections
            .iter()
            .find(|it| {
                it.local_port == tuple.local_port
                    && self.sockets.get::<tcp::Socket>(it.handle).remote_endpoint() == Some(remote)
            })
            .map(|it| it.id)
    }

    /// Gives a socket to a peer that answered a cookie.
    fn open(&mut self, frame: &[u8], segment: &Segment, cookie: u32, size: u16, now_ns: u64) {
        let tuple = segment.tuple;
        self.refill_backlogs();
        if !self.connections.iter().any(|it| it.local_port == tuple.local_port && self.listens(it.handle)) {
            self.drop_oldest_half_open(tuple.local_port);
            self.refill_backlogs();
        }
        if !self.outgoing.has_room() {
            return;
        }
        self.ingress(&segment.neighbour(), now_ns);
        self.outgoing.translations.expected = Some((tuple, None));
        self.ingress(&segment.opening(size), now_ns);
        let mut device = FrameDevice { incoming: None, outgoing: &mut self.outgoing };
        self.interface.poll_egress(instant(now_ns), &mut device, &mut self.sockets);
        let number = self.outgoing.translations.expected.take().and_then(|(_, number)| number);
        let Some(id) = self.connection_of(&tuple) else { return };
        let Some(number) = number else {
            self.remove(id);
            return;
        };
        let offset = cookie.wrapping_sub(number);
        self.outgoing.translations.table.push(Translation { id, tuple, offset });
        self.counters.cookies_redeemed = self.counters.cookies_redeemed.wrapping_add(1);
        self.ingress(&translated(frame, offset), now_ns);
    }

    /// Makes room for somebody who is there for somebody who may not be.
    fn drop_oldest_half_open(&mut self, port: u16) {
        let half_open = self.connections.iter().filter(|it| {
            it.local_port == port
                && matches!(it.role, Role::Backlog { .. })
                && self.sockets.get::<tcp::Socket>(it.handle).state() == tcp::State::SynReceived
        });
        if let Some(id) = half_open.map(|it| it.id).min_by_key(|id| id.0) {
            self.counters.half_open_reaped = self.counters.half_open_reaped.wrapping_add(1);
            self.remove(id);
        }
    }
}
