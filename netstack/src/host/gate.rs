//! A guarded port: a peer gets a socket only after its first segment was accepted.
//!
//! TCP's handshake needs no memory (a cookie), nor does the talk before a socket: one
//! segment of a given length each way. The owner of the port inspects what the peer sent,
//! and admits it or not. So an unauthenticated peer holds no memory of the node's.
//! A socket then begins after both segments. The stack's own sequence numbers are unlike
//! those the peer was sent, so both directions are translated.

use alloc::vec::Vec;

use smoltcp::phy::Medium;
use smoltcp::wire::{EthernetAddress, TcpControl};

use super::cookie::{Segment, Tuple};
use super::device::FrameDevice;
use super::translations::translated;
use super::{Connection, ConnectionId, Host, HostError, Role, TcpOptions, instant, tcp};
use crate::limits::{
    HOST_ATTACHED_CALLERS_MAX, HOST_CALLERS_MAX, HOST_GUARDED_SOCKETS_MAX, HOST_UNACKNOWLEDGED_MAX,
};

/// Retry intervals of segments sent without a socket, the last before they are dropped, in
/// milliseconds.
const AGAIN_MS: [u64; 3] = [300, 900, 2_000];

/// A guarded port, and the lengths of its greeting and answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guard {
    pub(super) port: u16,
    options: TcpOptions,
    /// Octets of the greeting that is sent first.
    greeting_bytes: u32,
    /// Octets that the peer answers, in one segment.
    words_bytes: usize,
}

/// A peer at a guarded port, without a socket.
#[derive(Debug)]
pub struct Caller {
    segment: Segment,
    cookie: u32,
    segment_bytes: u16,
    challenge: [u8; 32],
    words: Option<Vec<u8>>,
}

impl Caller {
    /// 32 octets that no other connection has.
    #[must_use]
    pub const fn challenge(&self) -> &[u8; 32] {
        &self.challenge
    }

    /// What it sent; `None` when it waits to be greeted.
    #[must_use]
    pub fn words(&self) -> Option<&[u8]> {
        self.words.as_deref()
    }
}

/// A peer that has not acknowledged what it was sent.
#[derive(Clone, Copy, Debug)]
struct Unacknowledged {
    /// The segment that was answered.
    segment: Segment,
    next_ms: u64,
    count: usize,
}

/// Peers at guarded ports.
#[derive(Debug, Default)]
pub(super) struct Callers {
    waiting: alloc::collections::VecDeque<Caller>,
    /// A courtesy: the oldest is forgotten for a newer one.
    unacknowledged: alloc::collections::VecDeque<Unacknowledged>,
}

impl Callers {
    fn heard(&mut self, tuple: &Tuple) {
        self.unacknowledged.retain(|it| it.segment.tuple != *tuple);
    }

    fn mark_sent(&mut self, segment: Segment, now_ns: u64) {
        // A repeated segment is known already.
        let same =
            |it: &Unacknowledged| (it.segment.tuple, it.segment.control) == (segment.tuple, segment.control);
        if self.unacknowledged.iter().any(same) {
            return;
        }
        self.heard(&segment.tuple);
        if self.unacknowledged.len() >= HOST_UNACKNOWLEDGED_MAX {
            self.unacknowledged.pop_front();
        }
        let [pause_ms, ..] = AGAIN_MS;
        self.unacknowledged.push_back(Unacknowledged {
            segment,
            next_ms: now_ns / 1_000_000 + pause_ms,
            count: 1,
        });
    }

    fn push(&mut self, caller: Caller) {
        if self.waiting.len() < HOST_CALLERS_MAX {
            self.waiting.push_back(caller);
        }
    }

    /// How many of a station wait.
    fn waiting_from(&self, mac: EthernetAddress) -> usize {
        self.waiting.iter().filter(|caller| caller.segment.peer_mac == mac).count()
    }

    /// When something is to be sent again.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.unacknowledged.iter().map(|it| it.next_ms).min()
    }
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
        let Some(guard) = self.guard.filter(|guard| guard.port == tuple.local_port) else { return false };
        match (segment.control, segment.acknowledgement) {
            (TcpControl::Syn, None) => {
                self.answer_opening(segment, now_ns);
                true
            }
            (TcpControl::None | TcpControl::Psh | TcpControl::Fin, Some(_)) => {
                self.handle_words(&guard, frame, segment, now_ns)
            }
            (TcpControl::Rst, _) => {
                self.callers.heard(&tuple);
                true
            }
            _ => false,
        }
    }

    fn answer_opening(&mut self, segment: Segment, now_ns: u64) {
        if !self.outgoing.has_reply_room() {
            return;
        }
        self.push_answer(&segment, now_ns);
        self.callers.mark_sent(segment, now_ns);
        self.counters.cookies_sent = self.counters.cookies_sent.wrapping_add(1);
    }

    fn push_answer(&mut self, opening: &Segment, now_ns: u64) {
        let most = self.outgoing.segment_bytes(opening.tuple.peer);
        let answer = opening.answer(self.cookie_key.cookie(opening, now_ns), most);
        self.outgoing.push(answer);
    }

    /// Hears a peer without a socket; false when it has answered no cookie.
    fn handle_words(&mut self, guard: &Guard, frame: &[u8], segment: Segment, now_ns: u64) -> bool {
        // A probe whether the connection is alive repeats the octet before (RFC 9293,
        // 3.8.4).
        let probe = Segment { sequence: segment.sequence.wrapping_add(1), payload_bytes: 0, ..segment };
        let probe = Some(probe).filter(|_| segment.payload_bytes <= 1);
        // Its words were lost, and it has heard the greeting again.
        let words_bytes = u32::try_from(guard.words_bytes).unwrap_or(0);
        let after = Segment { sequence: segment.sequence.wrapping_sub(words_bytes), ..segment };
        let after = Some(after).filter(|_| segment.payload_bytes == 0);
        let checked = core::iter::once(segment).chain(probe).chain(after).find_map(|segment| {
            let said = |greeted| self.cookie_key.check(&segment, greeted, now_ns);
            let found = said(0).map(|found| (found, false));
            let found = found.or_else(|| said(guard.greeting_bytes).map(|found| (found, true)));
            found.map(|(found, is_greeted)| (segment, found, is_greeted))
        });
        let Some((segment, (cookie, segment_bytes), is_greeted)) = checked else { return false };
        let caller = |words| Caller {
            segment,
            cookie,
            segment_bytes,
            challenge: self.cookie_key.challenge(&segment, cookie),
            words,
        };
        self.callers.heard(&segment.tuple);
        // A guest has a share of its own, so that others are heard beside it.
        let is_attached = self.outgoing.attached.station(segment.tuple.peer).is_some();
        if is_attached && self.callers.waiting_from(segment.peer_mac) >= HOST_ATTACHED_CALLERS_MAX {
            return true;
        }
        if segment.control == TcpControl::Fin || segment.payload_bytes > guard.words_bytes {
            self.dismiss(&caller(None));
        } else if !is_greeted {
            let caller = caller(None);
            self.callers.push(caller);
        } else if segment.payload_bytes == guard.words_bytes {
            let caller = caller(segment.payload(frame).map(<[u8]>::to_vec));
            self.callers.push(caller);
        }
        // Part of the words is as good as none: an honest peer sends all of them again.
        true
    }

    /// Guards a port: a peer that connects is sent a greeting of `greeting_bytes` octets, and
    /// has a socket only once the caller of this function liked the `words_bytes` octets
    /// that it sent then.
    ///
    /// # Errors
    /// The port is zero or taken, or another one is guarded already.
    pub fn guard(
        &mut self,
        port: u16,
        options: TcpOptions,
        greeting_bytes: usize,
        words_bytes: usize,
    ) -> Result<(), HostError> {
        let greeting_bytes = u32::try_from(greeting_bytes).map_err(|_| HostError::Exhausted)?;
        if port == 0 || self.listeners.iter().any(|listener| listener.port == port) {
            return Err(HostError::BadAddress);
        }
        if self.guard.is_some() {
            return Err(HostError::Exhausted);
        }
        self.guard = Some(Guard { port, options, greeting_bytes, words_bytes });
        Ok(())
    }

    /// The next peer that waits to be greeted or admitted. A rejected one may connect again.
    pub fn next_caller(&mut self) -> Option<Caller> {
        self.callers.waiting.pop_front()
    }

    /// Whether a peer waits.
    #[must_use]
    pub fn has_callers(&self) -> bool {
        !self.callers.waiting.is_empty()
    }

    /// Sends a waiting peer the greeting.
    pub fn greet(&mut self, caller: &Caller, greeting: &[u8], now_ns: u64) {
        if self.outgoing.has_reply_room() {
            self.outgoing.push(caller.segment.reply(TcpControl::Psh, greeting));
            self.callers.mark_sent(caller.segment, now_ns);
        }
    }

    /// Ends a waiting peer's connection.
    pub fn dismiss(&mut self, caller: &Caller) {
        if self.outgoing.has_reply_room() {
            self.outgoing.push(caller.segment.reply(TcpControl::Rst, &[]));
        }
    }

    /// Sends unacknowledged segments again.
    pub(super) fn repeat(&mut self, now_ns: u64) {
        let now_ms = now_ns / 1_000_000;
        let mut due = Vec::new();
        self.callers.unacknowledged.retain_mut(|it| {
            if now_ms < it.next_ms {
                return true;
            }
            let Some(pause_ms) = AGAIN_MS.get(it.count) else { return false };
            due.push(it.segment);
            it.next_ms = now_ms.saturating_add(*pause_ms);
            it.count += 1;
            true
        });
        for segment in due {
            if !self.outgoing.has_reply_room() {
                return;
            }
            if segment.control == TcpControl::Syn {
                self.push_answer(&segment, now_ns);
            } else if let Some((cookie, segment_bytes)) = self.cookie_key.check(&segment, 0, now_ns) {
                let challenge = self.cookie_key.challenge(&segment, cookie);
                self.callers.push(Caller { segment, cookie, segment_bytes, challenge, words: None });
            }
        }
    }

    /// Gives an accepted peer a socket, which begins after its words.
    pub fn admit(&mut self, caller: &Caller, now_ns: u64) -> Option<ConnectionId> {
        let (guard, segment) = (self.guard?, caller.segment);
        let is_full = self.is_attached_full(&segment.tuple) || !self.make_guarded_room(guard.port);
        if is_full || !self.outgoing.has_room() {
            return None;
        }
        let id = self.add_socket(guard.port, guard.options, Role::Owned).ok()?;
        let number = self.open(id, caller, now_ns);
        let Some(number) = number.filter(|_| self.state(id) == super::ConnectionState::Connecting) else {
            self.remove(id);
            return None;
        };
        let offset = caller.cookie.wrapping_add(guard.greeting_bytes).wrapping_sub(number);
        let tuple = segment.tuple;
        self.outgoing.translations.add(id, tuple, offset);
        self.counters.cookies_redeemed = self.counters.cookies_redeemed.wrapping_add(1);
        self.ingress(&segment.acknowledging(number.wrapping_add(1)), now_ns);
        Some(id)
    }

    /// Lets a socket shake hands with a peer that has done so long since; the number that
    /// the socket began with.
    fn open(&mut self, id: ConnectionId, caller: &Caller, now_ns: u64) -> Option<u32> {
        let segment = &caller.segment;
        let handle = self.handle(id)?;
        self.sockets.get_mut::<tcp::Socket>(handle).listen(segment.tuple.local_port).ok()?;
        self.outgoing.translations.expect(segment.tuple);
        self.ingress(&segment.opening(caller.segment_bytes), now_ns);
        let medium = Medium::Ip;
        let mut device = FrameDevice { incoming: None, outgoing: &mut self.outgoing, medium };
        self.interface.poll_egress(instant(now_ns), &mut device, &mut self.sockets);
        self.outgoing.translations.take_number()
    }

    /// Whether a guarded port may have one more socket. One that only has something to
    /// deliver still makes room.
    fn make_guarded_room(&mut self, port: u16) -> bool {
        let guarded = |it: &&Connection| it.local_port == port;
        if self.connections.iter().filter(guarded).count() < HOST_GUARDED_SOCKETS_MAX {
            return true;
        }
        let released = |it: &Connection| match it.role {
            Role::Released { since_ms } => Some((since_ms, it.id)),
            _ => None,
        };
        let oldest = self.connections.iter().filter(guarded).filter_map(released).min();
        if let Some((_, id)) = oldest {
            self.remove(id);
        }
        oldest.is_some()
    }
}
