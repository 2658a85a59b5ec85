//! A session: connection, login, commands, recovery.
//!
//! Spec: RFC 7143 sections 4.2 (numbering), 6.3.5 (reinstatement), 7 (recovery),
//! 11 (PDUs).

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use super::login::{Digest, Login, Negotiated, Step};
use super::pdu::{FLAG_CONTINUE, FLAG_FINAL, Header, IMMEDIATE, NO_TAG, opcode, serial_after};
use super::scsi::{self, Capacity, Sense, Verdict};
use super::stream::{Event, Receiver, StreamFault};
use super::tasks::{Outgoing, Sending, Sequence, Source, Task, TaskKind};
use super::text;
use crate::block::{
    BlockError, Completion, Counters, Operation, Payload, Request, RequestId, SECTOR_BYTES, Stage,
    SubmitError, VolumeState, VolumeStatus,
};
use crate::limits::{
    BACKOFF_NS_MAX, ISCSI_COMMAND_SECTORS_MAX, ISCSI_COMMANDS_MAX, ISCSI_DISCOVERED_MAX,
    ISCSI_OUTPUT_PDUS_MAX, ISCSI_RECEIVE_SEGMENT_MAX, ISCSI_SEND_SEGMENT_MAX, ISCSI_TEXT_MAX, REQUESTS_MAX,
};
use crate::order::Order;
use crate::random::Random;

mod config;
mod dispatch;
mod requests;
mod status;

pub use config::{DiscoveredTarget, Portal, SessionConfig, SessionKind};

const BACKOFF_FIRST_NS: u64 = 100_000_000;
const LOGIN_NS_MAX: u64 = 10_000_000_000;
/// Silence after which the target is asked for a sign of life.
const PING_AFTER_NS: u64 = 5_000_000_000;
/// Silence after that until the connection counts as lost.
const PING_ANSWER_NS_MAX: u64 = 5_000_000_000;
/// Commands that make no progress for so long, while the target still answers pings,
/// are reissued on a new connection.
const PROGRESS_NS_MAX: u64 = 30_000_000_000;
/// PDUs kept ready ahead of TCP.
const OUTPUT_AHEAD: usize = 4;
const REDIRECTS_MAX: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No connection; one is wanted from this time on.
    Idle {
        retry_ns: u64,
    },
    Login,
    Full,
    /// The connection is to be closed by the caller.
    Broken,
    /// Discovery is done.
    Finished,
}

/// Commands between login and the first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    TestUnitReady,
    Inquiry,
    Capacity,
    Done,
}

/// A started request.
#[derive(Debug)]
struct Active {
    request: Request,
    todo: VecDeque<(u32, u32)>,
    unacknowledged: u32,
    in_flight: u32,
    failed: Option<BlockError>,
}

/// What the data segment being received belongs to.
#[derive(Debug)]
enum Segment {
    Held,
    Guest { id: RequestId, offset: usize },
    Ignored,
}

/// The session.
pub struct Session {
    config: SessionConfig,
    state: State,
    login: Option<Login>,
    negotiated: Negotiated,
    receiver: Receiver,
    header: Option<Header>,
    segment: Segment,
    held: Vec<u8>,
    text: Vec<u8>,
    output: VecDeque<Outgoing>,
    sending: Option<Sending>,
    session_handle: u16,
    command_number: u32,
    command_number_max: u32,
    command_number_expected: u32,
    status_number: u32,
    next_tag: u32,
    probe: Probe,
    probing: bool,
    capacity: Option<Capacity>,
    product: String,
    ten_byte: bool,
    long_flush: bool,
    tasks: Vec<Task>,
    order: Order,
    active: Vec<Active>,
    completions: VecDeque<Completion>,
    discovered: Vec<DiscoveredTarget>,
    redirect: Option<Portal>,
    redirects: u32,
    random: Random,
    failures: u32,
    pauses: u32,
    resume_ns: u64,
    connected_ns: u64,
    heard_ns: u64,
    progress_ns: u64,
    pinged_ns: Option<(u32, u64)>,
    stalled_since_ns: Option<u64>,
    served: bool,
    /// How far the last connection came.
    stage: Stage,
    refused: bool,
    srtt_ns: Option<u64>,
    counters: Counters,
    last_error: Option<&'static str>,
    now_ns: u64,
}

impl Session {
    /// A session that wants a connection at once.
    #[must_use]
    pub fn new(config: SessionConfig) -> Self {
        let seed = config.seed;
        Self {
            config,
            state: State::Idle { retry_ns: 0 },
            login: None,
            negotiated: Negotiated::default(),
            receiver: Receiver::new(ISCSI_RECEIVE_SEGMENT_MAX),
            header: None,
            segment: Segment::Ignored,
            held: Vec::new(),
            text: Vec::new(),
            output: VecDeque::new(),
            sending: None,
            session_handle: 0,
            command_number: 1,
            command_number_max: 1,
            command_number_expected: 1,
            status_number: 0,
            next_tag: 1,
            probe: Probe::TestUnitReady,
            probing: false,
            capacity: None,
            product: String::new(),
            ten_byte: false,
            long_flush: false,
            tasks: Vec::new(),
            order: Order::new(),
            active: Vec::new(),
            completions: VecDeque::new(),
            discovered: Vec::new(),
            redirect: None,
            redirects: 0,
            random: Random::new(seed),
            failures: 0,
            pauses: 0,
            resume_ns: 0,
            connected_ns: 0,
            heard_ns: 0,
            progress_ns: 0,
            pinged_ns: None,
            stalled_since_ns: None,
            served: false,
            stage: Stage::Silent,
            refused: false,
            srtt_ns: None,
            counters: Counters::default(),
            last_error: None,
            now_ns: 0,
        }
    }

    /// Where to connect, when a connection is wanted. Open one (once), then tell
    /// [`Self::on_connected`] or [`Self::on_disconnected`].
    #[must_use]
    pub fn connection_wanted(&self, now_ns: u64) -> Option<Portal> {
        match self.state {
            State::Idle { retry_ns } if retry_ns <= now_ns => {
                Some(self.redirect.unwrap_or(self.config.portal))
            }
            _ => None,
        }
    }

    /// Whether the connection is to be closed; tell [`Self::on_disconnected`] then.
    #[must_use]
    pub const fn disconnect_wanted(&self) -> bool {
        matches!(self.state, State::Broken | State::Finished)
    }

    /// The connection is open: login begins.
    pub fn on_connected(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.reset_connection();
        self.connected_ns = now_ns;
        self.heard_ns = now_ns;
        self.progress_ns = now_ns;
        let target = match &self.config.kind {
            SessionKind::Normal { target, .. } => Some(target.as_str()),
            SessionKind::Discovery => None,
        };
        let (login, flags, request) = Login::new(&self.config.initiator, target);
        self.login = Some(login);
        self.state = State::Login;
        self.send_login(flags, request);
    }

    /// The connection is gone, or could not be opened.
    pub fn on_disconnected(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        if self.state == State::Finished {
            return;
        }
        if self.stalled_since_ns.is_none() {
            self.stalled_since_ns = Some(now_ns);
            self.counters.stalls = self.counters.stalls.wrapping_add(u64::from(self.served));
        }
        self.stage = match self.state {
            State::Idle { .. } => Stage::Silent,
            _ if self.session_handle == 0 => Stage::Connected,
            _ => Stage::LoggedIn,
        };
        self.reset_connection();
        self.counters.retries = self.counters.retries.wrapping_add(1);
        if self.failures >= 2 {
            self.redirect = None;
        }
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let pause = BACKOFF_FIRST_NS.saturating_mul(1 << doublings).min(BACKOFF_NS_MAX);
        let pause = self.random.jitter(pause);
        self.state = State::Idle { retry_ns: now_ns.saturating_add(pause) };
    }

    /// Forgets everything that belonged to the old connection. What was unanswered
    /// goes back to its request, to be reissued after the next login.
    fn reset_connection(&mut self) {
        let fresh = Receiver::new(ISCSI_RECEIVE_SEGMENT_MAX);
        self.receiver = fresh;
        self.header = None;
        self.held.clear();
        self.text.clear();
        self.output.clear();
        self.sending = None;
        self.login = None;
        self.negotiated = Negotiated::default();
        self.session_handle = 0;
        self.command_number = 1;
        self.command_number_max = 1;
        self.command_number_expected = 1;
        self.status_number = 0;
        self.probe = Probe::TestUnitReady;
        self.probing = false;
        self.pinged_ns = None;
        for task in core::mem::take(&mut self.tasks) {
            self.reissue(&task);
        }
    }

    /// Ends the connection for a reason; the session will recover on a new one.
    fn fail(&mut self, why: &'static str) {
        self.last_error = Some(why);
        self.state = State::Broken;
        self.output.clear();
        self.sending = None;
    }

    /// Takes octets from the connection; all are consumed.
    pub fn receive(&mut self, bytes: &[u8], now_ns: u64, payload: &mut dyn Payload) {
        self.now_ns = now_ns;
        self.heard_ns = now_ns;
        let mut rest = bytes;
        while matches!(self.state, State::Login | State::Full) {
            match self.receiver.next(&mut rest) {
                Ok(Event::Nothing) => return,
                Ok(Event::Header(header)) => {
                    self.header = Some(header);
                    self.held.clear();
                    self.segment = self.open_segment(&header);
                }
                Ok(Event::Data(piece)) => self.take_data(piece, payload),
                Ok(Event::End) => {
                    if let Some(header) = self.header.take() {
                        self.dispatch(&header);
                    }
                }
                Err(fault) => {
                    self.counters.digest_errors =
                        self.counters.digest_errors.wrapping_add(u64::from(fault != StreamFault::TooLong));
                    self.fail(match fault {
                        StreamFault::HeaderDigest => "a header digest was wrong",
                        StreamFault::DataDigest => "a data digest was wrong",
                        StreamFault::TooLong => "a data segment was too long",
                    });
                }
            }
        }
    }

    fn take_data(&mut self, piece: &[u8], payload: &mut dyn Payload) {
        match &mut self.segment {
            Segment::Guest { id, offset } => {
                payload.store(*id, *offset, piece);
                *offset = offset.saturating_add(piece.len());
            }
            Segment::Held => {
                if self.held.len().saturating_add(piece.len()) > ISCSI_TEXT_MAX {
                    self.fail("a response was too long");
                } else {
                    self.held.extend_from_slice(piece);
                }
            }
            Segment::Ignored => {}
        }
    }

    /// Writes octets for the connection into `buffer`; all must reach TCP.
    pub fn transmit(&mut self, buffer: &mut [u8], now_ns: u64, payload: &mut dyn Payload) -> usize {
        self.poll(now_ns);
        let mut room = buffer;
        let mut written = 0;
        while matches!(self.state, State::Login | State::Full) && !room.is_empty() {
            if self.sending.is_none() {
                self.fill_output();
                self.sending = self.next_pdu();
            }
            let Some(sending) = &mut self.sending else { break };
            if sending.copy(&mut room, &mut written, payload) {
                self.sending = None;
            } else {
                break;
            }
        }
        written
    }

    fn next_pdu(&mut self) -> Option<Sending> {
        let segment = u32::try_from(ISCSI_SEND_SEGMENT_MAX).unwrap_or(u32::MAX);
        let segment = segment.min(self.negotiated.send_segment);
        let (mut header, source) = match self.output.front_mut()? {
            Outgoing::Sequence(sequence) => {
                let pdu = sequence.pdu(segment);
                if sequence.is_done() {
                    self.output.pop_front();
                }
                pdu
            }
            Outgoing::Pdu(..) => match self.output.pop_front()? {
                Outgoing::Pdu(header, source) => (header, source),
                Outgoing::Sequence(_) => return None,
            },
        };
        // ExpStatSN acknowledges everything received up to now.
        header.set_u32(28, self.status_number);
        let full = self.state == State::Full;
        let header_digest = full && self.negotiated.header_digest == Digest::Crc32c;
        let data_digest = full && self.negotiated.data_digest == Digest::Crc32c;
        Some(Sending::new(header, source, header_digest, data_digest))
    }

    /// Queues a PDU; a target that makes us queue too many is dropped.
    fn push(&mut self, header: Header, source: Source) {
        if self.output.len() >= ISCSI_OUTPUT_PDUS_MAX {
            self.fail("the target provokes too many answers");
        } else {
            self.output.push_back(Outgoing::Pdu(header, source));
        }
    }

    fn send_login(&mut self, flags: u8, request: Vec<u8>) {
        let mut header = Header::new(opcode::LOGIN | IMMEDIATE, flags);
        header.set_data_length(request.len());
        header.set(8, &self.config.isid);
        header.set(14, &self.session_handle.to_be_bytes());
        header.set_u32(24, self.command_number);
        self.push(header, Source::Own(request));
    }

    /// Advances timers: login and keep-alive.
    pub fn poll(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
        match self.state {
            State::Login if now_ns.saturating_sub(self.connected_ns) >= LOGIN_NS_MAX => {
                self.fail("the login timed out");
            }
            State::Full => self.keep_alive(),
            _ => {}
        }
    }

    fn keep_alive(&mut self) {
        if self.tasks.is_empty() {
            self.progress_ns = self.now_ns;
        } else if self.now_ns.saturating_sub(self.progress_ns) >= PROGRESS_NS_MAX {
            return self.fail("commands are not answered");
        }
        let silent_ns = self.now_ns.saturating_sub(self.heard_ns);
        match self.pinged_ns {
            None if silent_ns >= PING_AFTER_NS => {
                let tag = self.fresh_tag();
                self.pinged_ns = Some((tag, self.now_ns));
                let mut header = Header::new(opcode::NOP_OUT | IMMEDIATE, FLAG_FINAL);
                header.set_u32(16, tag);
                header.set_u32(20, NO_TAG);
                header.set_u32(24, self.command_number);
                self.push(header, Source::Own(Vec::new()));
            }
            Some((_, at_ns))
                if self.now_ns.saturating_sub(at_ns.max(self.heard_ns)) >= PING_ANSWER_NS_MAX =>
            {
                self.fail("the target stopped answering");
            }
            _ => {}
        }
    }

    fn fresh_tag(&mut self) -> u32 {
        loop {
            self.next_tag = self.next_tag.wrapping_add(1);
            let tag = self.next_tag;
            if tag != NO_TAG && !self.tasks.iter().any(|task| task.tag == tag) {
                return tag;
            }
        }
    }

    /// When [`Self::poll`] or [`Self::connection_wanted`] is next needed.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        match self.state {
            State::Idle { retry_ns } => Some(retry_ns),
            State::Login => Some(self.connected_ns.saturating_add(LOGIN_NS_MAX)),
            State::Full => {
                let ping = match self.pinged_ns {
                    None => self.heard_ns.saturating_add(PING_AFTER_NS),
                    Some((_, at_ns)) => at_ns.max(self.heard_ns).saturating_add(PING_ANSWER_NS_MAX),
                };
                let resume = (self.resume_ns > self.now_ns).then_some(self.resume_ns);
                let progress =
                    (!self.tasks.is_empty()).then_some(self.progress_ns.saturating_add(PROGRESS_NS_MAX));
                [Some(ping), resume, progress].into_iter().flatten().min()
            }
            State::Broken | State::Finished => None,
        }
    }
}
