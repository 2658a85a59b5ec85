//! A path's octets and its timers.
//!
//! Spec: RFC 7143 sections 4.2 (numbering), 11.18 (NOP-Out).

use super::path::{Path, Segment, State};
use super::{Payload, Shared};
use crate::iscsi::chap;
use crate::iscsi::login::{Goal, Login};
use crate::iscsi::negotiated::Digest;
use crate::iscsi::pdu::{FLAG_FINAL, Header, IMMEDIATE, NO_TAG, opcode};
use crate::iscsi::session::config::SessionKind;
use crate::iscsi::stream::{Event, StreamFault};
use crate::iscsi::tasks::{Digests, Outgoing, Sending, Source, write_whole};
use crate::limits::ISCSI_OUTPUT_PDUS_MAX;
use crate::mutants::{Mutant, mutated};
use alloc::vec::Vec;

const CONNECT_NS_MAX: u64 = 10_000_000_000;
/// A login may take so long, if the target keeps talking.
const LOGIN_NS_MAX: u64 = 15_000_000_000;
const LOGOUT_NS_MAX: u64 = 2_000_000_000;
/// Silence after which the target is asked for a sign of life, and silence after
/// that until the connection counts as lost.
const PING_NS: u64 = 3_000_000_000;
/// The same where another path could do the work: failover within 3 s.
const PING_SEVERAL_NS: u64 = 600_000_000;

impl Path {
    const fn patience_ns(shared: &Shared) -> u64 {
        if shared.several { PING_SEVERAL_NS } else { PING_NS }
    }

    pub(super) fn begin_login(&mut self, shared: &mut Shared) {
        let seed = shared.random.next();
        let config = &shared.config;
        let target = match &config.kind {
            SessionKind::Normal { target, .. } => Some(target.as_str()),
            SessionKind::Discovery => None,
        };
        let credentials = config.credentials.as_ref();
        let challenge = credentials.map(|it| chap::challenge(&it.secret, seed, shared.now_ns));
        let (login, flags, request) = Login::new(Goal {
            initiator: &config.initiator,
            target,
            credentials,
            digests: config.digests,
            challenge: challenge.unwrap_or_default(),
            tried: &self.algorithms_tried,
        });
        self.login = Some(login);
        self.state = State::Login;
        self.send_login(shared, flags, request);
    }

    pub(super) fn send_login(&mut self, shared: &mut Shared, flags: u8, request: Vec<u8>) {
        let mut header = Header::new(opcode::LOGIN | IMMEDIATE, flags);
        header.set_data_length(request.len());
        header.set(8, &self.isid(shared));
        header.set(14, &self.session_handle.to_be_bytes());
        header.set_u32(24, self.command_number);
        self.push(shared, header, Source::Own(request));
    }

    /// Whether nothing but data of reads and good status is expected, PDU by PDU.
    pub(super) fn receives_transfers(&self) -> bool {
        self.plain && matches!(self.state, State::Full) && self.receiver.is_between()
    }

    /// Takes octets from the connection, whatever they are.
    pub(super) fn receive(&mut self, shared: &mut Shared, bytes: &[u8], payload: &mut dyn Payload) {
        let mut rest = bytes;
        while self.is_connected() {
            if self.receives_transfers() {
                rest = self.receive_transfers(shared, rest, payload);
                if rest.is_empty() {
                    return;
                }
            }
            match self.receiver.whole(&mut rest) {
                Ok(Some((header, data))) => {
                    self.pdus = self.pdus.wrapping_add(1);
                    self.take_whole(shared, &header, data, payload);
                    continue;
                }
                Ok(None) => {}
                Err(fault) => return self.distrust(shared, fault),
            }
            match self.receiver.next(&mut rest) {
                Ok(Event::Nothing) => return,
                Ok(Event::Header(header)) => {
                    self.pdus = self.pdus.wrapping_add(1);
                    self.header = Some(header);
                    self.held.clear();
                    self.segment = self.open_segment(shared, &header);
                }
                Ok(Event::Data(piece)) => self.take_data(shared, piece, payload),
                Ok(Event::End) => {
                    if let Some(header) = self.header.take() {
                        self.dispatch(shared, &header);
                    }
                }
                Err(fault) => return self.distrust(shared, fault),
            }
        }
    }

    fn distrust(&mut self, shared: &mut Shared, fault: StreamFault) {
        let digest = u64::from(fault != StreamFault::TooLong);
        self.digest_errors = self.digest_errors.wrapping_add(digest);
        let counters = &mut shared.requests.counters;
        counters.digest_errors = counters.digest_errors.wrapping_add(digest);
        self.fail(
            shared,
            match fault {
                StreamFault::HeaderDigest => "a header digest was wrong",
                StreamFault::DataDigest => "a data digest was wrong",
                StreamFault::TooLong => "a data segment was too long",
            },
        );
    }

    /// A PDU that was received in one piece.
    fn take_whole(&mut self, shared: &mut Shared, header: &Header, data: &[u8], payload: &mut dyn Payload) {
        self.held.clear();
        match self.open_segment(shared, header) {
            Segment::Fragment { fragment, offset } => {
                shared.requests.store(&fragment, offset, data, payload);
            }
            Segment::Held if data.len() > shared.response_max() => {
                self.fail(shared, "a response was too long")
            }
            Segment::Held => self.held.extend_from_slice(data),
            Segment::Ignored => {}
        }
        if self.is_connected() {
            self.dispatch(shared, header);
        }
    }

    fn take_data(&mut self, shared: &mut Shared, piece: &[u8], payload: &mut dyn Payload) {
        match &mut self.segment {
            Segment::Fragment { fragment, offset } => {
                shared.requests.store(fragment, *offset, piece, payload);
                *offset = offset.saturating_add(piece.len());
            }
            Segment::Held => {
                if self.held.len().saturating_add(piece.len()) > shared.response_max() {
                    self.fail(shared, "a response was too long");
                } else {
                    self.held.extend_from_slice(piece);
                }
            }
            Segment::Ignored => {}
        }
    }

    /// Writes octets for the connection, which is not ready, or for a request
    /// of the slow path: all that waits, and one new command, if it `carries` any.
    pub(super) fn transmit(
        &mut self,
        shared: &mut Shared,
        carries: bool,
        buffer: &mut [u8],
        payload: &mut dyn Payload,
    ) -> usize {
        let (all, mut room) = (buffer.len(), buffer);
        while self.is_connected() && !room.is_empty() {
            if let Some(sending) = &mut self.sending {
                if !sending.copy(&mut room, &shared.requests, payload) {
                    break;
                }
                self.sending = None;
                continue;
            }
            // What follows a new command may take the fast path.
            let fresh = self.output.is_empty() && self.plain;
            if fresh && room.len() < all {
                break;
            }
            let Some((mut header, source)) = self.next_pdu(shared, carries) else { break };
            // ExpStatSN acknowledges everything received up to now.
            header.set_u32(28, self.status_number);
            let full = self.state != State::Login;
            let digests = Digests {
                header: full && self.negotiated.header_digest == Digest::Crc32c,
                data: full && self.negotiated.data_digest == Digest::Crc32c,
            };
            match write_whole(&header, source, digests, core::mem::take(&mut room), &shared.requests, payload)
            {
                Ok(rest) => room = rest,
                Err((same, source)) => {
                    room = same;
                    self.sending = Some(Sending::new(&header, source, digests));
                }
            }
        }
        all.saturating_sub(room.len())
    }

    /// Queues a PDU; a target that makes us queue too many is dropped.
    pub(super) fn push(&mut self, shared: &mut Shared, header: Header, source: Source) {
        if self.output.len() >= ISCSI_OUTPUT_PDUS_MAX {
            self.fail(shared, "the target provokes too many answers");
        } else {
            self.output.push_back(Outgoing::Pdu(header, source));
        }
    }

    /// Advances timers: connection, login, keep-alive, logout.
    pub(super) fn poll(&mut self, shared: &mut Shared) {
        let now_ns = shared.now_ns;
        match self.state {
            State::Connecting { since_ns } if now_ns.saturating_sub(since_ns) >= CONNECT_NS_MAX => {
                self.last_error = Some("the portal does not answer");
                shared.last_error = self.last_error;
                self.state = State::Broken;
                self.stage = super::Stage::Silent;
            }
            State::Login if now_ns >= self.login_deadline(shared) => {
                self.fail(shared, "the login timed out");
            }
            State::LoggingOut { since_ns } if now_ns.saturating_sub(since_ns) >= LOGOUT_NS_MAX => {
                self.fail(shared, "the logout timed out");
            }
            State::Full if now_ns >= self.calm_until_ns => {
                self.keep_alive(shared);
                self.watch_tasks(shared);
                self.calm_until_ns = self.ping_deadline(shared).min(self.watch_deadline());
            }
            _ => {}
        }
    }

    fn login_deadline(&self, shared: &Shared) -> u64 {
        let silent_ns = self.heard_ns.saturating_add(Self::patience_ns(shared).saturating_mul(2));
        silent_ns.min(self.connected_ns.saturating_add(LOGIN_NS_MAX))
    }

    fn keep_alive(&mut self, shared: &mut Shared) {
        let (now_ns, patience) = (shared.now_ns, Self::patience_ns(shared));
        let silent_ns = now_ns.saturating_sub(self.heard_ns);
        match self.pinged_ns {
            None if silent_ns >= patience => {
                let tag = self.tasks.other_tag();
                self.pinged_ns = Some((tag, now_ns));
                let mut header = Header::new(opcode::NOP_OUT | IMMEDIATE, FLAG_FINAL);
                header.set_u32(16, tag);
                header.set_u32(20, NO_TAG);
                header.set_u32(24, self.command_number);
                self.push(shared, header, Source::EMPTY);
            }
            Some((_, at_ns))
                if now_ns.saturating_sub(at_ns.max(self.heard_ns)) >= patience
                    && !mutated(Mutant::SilenceAccepted) =>
            {
                self.fail(shared, "the target stopped answering");
            }
            _ => {}
        }
    }

    /// When the target's silence matters, if it says nothing from now on.
    fn ping_deadline(&self, shared: &Shared) -> u64 {
        let since_ns = self.pinged_ns.map_or(self.heard_ns, |(_, at_ns)| at_ns.max(self.heard_ns));
        since_ns.saturating_add(Self::patience_ns(shared))
    }

    /// When time matters next.
    pub(super) fn next_deadline(&self, shared: &Shared) -> Option<u64> {
        match self.state {
            State::Idle { .. } if shared.closing || shared.finished || self.disabled => None,
            State::Idle { retry_ns } => Some(retry_ns),
            State::Connecting { since_ns } => Some(since_ns.saturating_add(CONNECT_NS_MAX)),
            State::Login => Some(self.login_deadline(shared)),
            State::LoggingOut { since_ns } => Some(since_ns.saturating_add(LOGOUT_NS_MAX)),
            State::Full if self.resume_ns > shared.now_ns => Some(self.calm_until_ns.min(self.resume_ns)),
            State::Full => Some(self.calm_until_ns),
            State::Broken | State::Finished => None,
        }
    }
}
