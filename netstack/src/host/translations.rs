//! Connections whose peers were told other sequence numbers than the stack's own.

use alloc::vec::Vec;

use smoltcp::wire::{IpAddress, TcpSeqNumber};

use super::ConnectionId;
use super::cookie::{Tuple, tcp_of};

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
    /// Inspects a frame that the stack sends; false when it must not leave.
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

    /// The stack is about to send a SYN-ACK to a peer.
    pub(super) const fn expect(&mut self, tuple: Tuple) {
        self.expected = Some((tuple, None));
    }

    /// Its number, if it was sent.
    pub(super) fn take_number(&mut self) -> Option<u32> {
        self.expected.take().and_then(|(_, number)| number)
    }

    /// A connection begins whose peer knows numbers that are greater by `offset`.
    pub(super) fn add(&mut self, id: ConnectionId, tuple: Tuple, offset: u32) {
        self.table.push(Translation { id, tuple, offset });
    }

    /// What to take from the numbers of a connection's peer.
    pub(super) fn offset(&self, tuple: &Tuple) -> Option<u32> {
        self.table.iter().find(|it| it.tuple == *tuple).map(|it| it.offset)
    }

    /// The peers of all of them.
    pub(super) fn peers(&self) -> impl Iterator<Item = core::net::Ipv4Addr> {
        self.table.iter().map(|it| it.tuple.peer)
    }

    /// A connection is over.
    pub(super) fn forget(&mut self, id: ConnectionId) {
        self.table.retain(|it| it.id != id);
    }
}

/// A received frame whose acknowledgement is in the stack's own numbers.
pub(super) fn translated(frame: &[u8], offset: u32) -> Vec<u8> {
    let mut copy = frame.to_vec();
    if let Some((peer, local, mut tcp)) = tcp_of(&mut copy) {
        let number = tcp.ack_number().0.cast_unsigned().wrapping_sub(offset);
        tcp.set_ack_number(TcpSeqNumber(number.cast_signed()));
        tcp.fill_checksum(&IpAddress::Ipv4(peer), &IpAddress::Ipv4(local));
    }
    copy
}
