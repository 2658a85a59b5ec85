//! One path: a portal, the connection to it and the session on it.
//!
//! Spec: RFC 7143 sections 4.2 (numbering), 6.3.5 (reinstatement), 7 (recovery).

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use log::Level;

use super::in_flight::{Arriving, Management};
use super::{Mutant, Portal, Release, SECTOR_BYTES, Shared, Stage, mutated};
use crate::histogram::Histogram;
use crate::iscsi::chap::Algorithm;
use crate::iscsi::login::Login;
use crate::iscsi::negotiated::Negotiated;
use crate::iscsi::pdu::Header;
use crate::iscsi::stream::Receiver;
use crate::iscsi::tasks::{Outgoing, Probe, Sending, Task, TaskKind, Tasks};
use crate::limits::{
    BACKOFF_NS_MAX, ISCSI_COMMANDS_MAX, ISCSI_OUTPUT_PDUS_MAX, ISCSI_RECEIVE_SEGMENT_MAX, ISCSI_RESPONSE_MAX,
};
use crate::requests::Fragment;

const BACKOFF_FIRST_NS: u64 = 100_000_000;
/// An attempt to connect that is given up for a new one, if the path is wanted: TCP has
/// sent its second SYN by then, and would wait two seconds until the third (RFC 6298).
const ATTEMPT_NS: u64 = 1_200_000_000;
/// Seconds that a target may keep us waiting before a new login (Time2Wait).
const WAIT_NS_MAX: u64 = BACKOFF_NS_MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No connection; one is wanted from this time on.
    Idle {
        retry_ns: u64,
    },
    /// The caller opens one.
    Connecting {
        since_ns: u64,
    },
    Login,
    Full,
    /// A logout was sent.
    LoggingOut {
        since_ns: u64,
    },
    /// The connection is to be closed by the caller.
    Broken,
    /// Discovery is done, or the volume is closed.
    Finished,
}

/// What the data segment being received belongs to.
#[derive(Debug)]
pub(super) enum Segment {
    Held,
    Fragment { fragment: Fragment, offset: usize },
    Ignored,
}

/// A path.
pub(super) struct Path {
    pub(super) index: usize,
    pub(super) portal: Portal,
    pub(super) state: State,
    pub(super) login: Option<Login>,
    pub(super) algorithms_tried: Vec<Algorithm>,
    pub(super) negotiated: Negotiated,
    /// The portal group of the session before this one.
    pub(super) group: Option<u16>,
    pub(super) receiver: Receiver,
    pub(super) header: Option<Header>,
    /// No digests: PDUs of reads and writes are taken without a detour.
    pub(super) plain: bool,
    /// Octets that go with a command that writes.
    pub(super) immediate_max: usize,
    pub(super) arriving: Option<Arriving>,
    pub(super) segment: Segment,
    pub(super) held: Vec<u8>,
    pub(super) text: Vec<u8>,
    /// Pieces of it received so far.
    pub(super) text_pieces: u32,
    pub(super) output: VecDeque<Outgoing>,
    pub(super) sending: Option<Sending>,
    pub(super) session_handle: u16,
    pub(super) command_number: u32,
    pub(super) command_number_max: u32,
    pub(super) status_number: u32,
    pub(super) probe: Probe,
    pub(super) probing: bool,
    /// The target says that there is no such unit.
    pub(super) missing: bool,
    pub(super) pages: Vec<u8>,
    pub(super) give_up_key: Option<u64>,
    pub(super) tasks: Tasks,
    /// No command is stuck before then.
    pub(super) watch_ns: u64,
    /// While commands are exchanged, nothing is to be looked after before then.
    pub(super) calm_until_ns: u64,
    pub(super) management: Option<Management>,
    /// It has just reset the unit: commands of other paths are gone.
    pub(super) has_reset_unit: bool,
    /// It was lost with a reset in flight, which may be carried out until it logs in
    /// again.
    pub(super) may_reset_unit: bool,
    pub(super) redirect: Option<Portal>,
    pub(super) redirects: u32,
    pub(super) failures: u32,
    pub(super) pauses: u32,
    pub(super) resume_ns: u64,
    pub(super) wait_ns: u64,
    attempt_ns: u64,
    pub(super) connected_ns: u64,
    pub(super) heard_ns: u64,
    pub(super) pinged_ns: Option<(u32, u64)>,
    pub(super) lost_since_ns: Option<u64>,
    /// How far the last connection got.
    pub(super) stage: Stage,
    pub(super) refused: bool,
    /// The operator took it out of use.
    pub(super) disabled: bool,
    pub(super) srtt_ns: Option<u64>,
    pub(super) latency: Histogram,
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
    pub(super) retries: u64,
    pub(super) digest_errors: u64,
    /// PDUs received.
    pub(super) pdus: u64,
    pub(super) stalls: u64,
    pub(super) last_error: Option<&'static str>,
}

impl Path {
    /// Heap that a path takes at most: its place in a list that grows by doubling, commands,
    /// what is to be sent, and an answer, with what came of it before.
    pub(super) const HEAP_BYTES_MAX: usize = 2 * size_of::<Self>()
        + (ISCSI_COMMANDS_MAX + 1).next_power_of_two() * size_of::<Task>()
        + ISCSI_OUTPUT_PDUS_MAX * size_of::<Outgoing>()
        + 3 * 2 * ISCSI_RESPONSE_MAX
        + 16 * 1024;

    pub(super) fn new(index: usize, portal: Portal, first_tag: u32) -> Self {
        Self {
            index,
            portal,
            state: State::Idle { retry_ns: 0 },
            login: None,
            algorithms_tried: Vec::new(),
            negotiated: Negotiated::default(),
            group: None,
            receiver: Receiver::new(ISCSI_RECEIVE_SEGMENT_MAX),
            header: None,
            plain: false,
            immediate_max: 0,
            arriving: None,
            segment: Segment::Ignored,
            held: Vec::new(),
            text: Vec::new(),
            text_pieces: 0,
            output: VecDeque::new(),
            sending: None,
            session_handle: 0,
            command_number: 1,
            command_number_max: 1,
            status_number: 0,
            probe: Probe::TestUnitReady,
            probing: false,
            missing: false,
            pages: Vec::new(),
            give_up_key: None,
            tasks: Tasks::new(first_tag),
            watch_ns: 0,
            calm_until_ns: 0,
            management: None,
            has_reset_unit: false,
            may_reset_unit: false,
            redirect: None,
            redirects: 0,
            failures: 0,
            pauses: 0,
            resume_ns: 0,
            wait_ns: 0,
            attempt_ns: 0,
            connected_ns: 0,
            heard_ns: 0,
            pinged_ns: None,
            lost_since_ns: None,
            stage: Stage::Silent,
            refused: false,
            disabled: false,
            srtt_ns: None,
            latency: Histogram::default(),
            bytes_read: 0,
            bytes_written: 0,
            retries: 0,
            digest_errors: 0,
            pdus: 0,
            stalls: 0,
            last_error: None,
        }
    }

    pub(super) fn name(&self) -> String {
        alloc::format!("{}", self.redirect.unwrap_or(self.portal))
    }

    /// Logged in, and the disk behind it is known to be ours. The target may have asked
    /// for a pause all the same.
    pub(super) fn is_ready(&self) -> bool {
        self.state == State::Full && self.probe == Probe::Done && !self.disabled
    }

    pub(super) fn set_enabled(&mut self, shared: &mut Shared, enabled: bool) {
        if self.disabled != enabled {
            return;
        }
        self.disabled = !enabled;
        if enabled {
            self.retry_now(shared.now_ns);
        } else if matches!(self.state, State::Connecting { .. } | State::Login | State::Full) {
            // Whatever it was doing continues elsewhere, as if the path were lost.
            self.last_error = Some("taken out of use by an operator");
            self.refused = false;
            self.state = State::Broken;
            self.output.clear();
            self.sending = None;
        }
    }

    /// The next attempt is now.
    pub(super) fn retry_now(&mut self, now_ns: u64) {
        self.failures = 0;
        if let State::Idle { retry_ns } = &mut self.state {
            *retry_ns = (*retry_ns).min(now_ns);
        }
    }

    /// The next try is now, even if one is in flight that has not come to anything for a
    /// while.
    pub(super) fn try_anew(&mut self, now_ns: u64) {
        match self.state {
            // A refused path is not admitted for asking sooner.
            _ if self.refused => {}
            State::Idle { .. } => self.retry_now(now_ns),
            State::Connecting { since_ns } if now_ns.saturating_sub(since_ns) >= ATTEMPT_NS => {
                self.failures = 0;
                self.stage = Stage::Silent;
                self.state = State::Broken;
            }
            _ => {}
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(self.state, State::Login | State::Full | State::LoggingOut { .. })
    }

    pub(super) fn has_writes(&self) -> bool {
        self.tasks.iter().any(|task| task.kind.writes())
    }

    /// Whether it carries writes for one of these groups.
    pub(super) fn writes_for(&self, groups: &[u64]) -> bool {
        self.tasks.iter().any(|task| match task.kind {
            TaskKind::Fragment(fragment) => fragment.operation.writes() && groups.contains(&fragment.group),
            _ => false,
        })
    }

    /// The reservation is looked at once more; a key that is given up is taken away.
    pub(super) fn reserve_again(&mut self, given_up: Option<u64>) {
        self.give_up_key = given_up.or(self.give_up_key);
        if self.probe == Probe::Done {
            self.probe = if self.give_up_key.is_some() { Probe::Unregister } else { Probe::Holder };
        }
    }

    /// The session identifier: a path has its own, always the same.
    pub(super) fn isid(&self, shared: &Shared) -> [u8; 6] {
        let [a, b, c, d, e, f] = shared.config.isid;
        let number = u8::try_from(self.index).unwrap_or(0);
        let odd = if mutated(Mutant::IdentifierChanged) { self.failures.to_le_bytes()[0] } else { 0 };
        [a, b, c, d, e ^ odd, f ^ (number << 4)]
    }

    pub(super) fn connect(&mut self, now_ns: u64) -> Option<Portal> {
        let State::Idle { retry_ns } = self.state else { return None };
        if self.disabled || retry_ns > now_ns {
            return None;
        }
        self.state = State::Connecting { since_ns: now_ns };
        self.attempt_ns = now_ns;
        Some(self.redirect.unwrap_or(self.portal))
    }

    pub(super) fn on_connected(&mut self, shared: &mut Shared) {
        self.reset_connection(shared);
        self.connected_ns = shared.now_ns;
        self.heard_ns = shared.now_ns;
        self.stage = Stage::Connected;
        self.begin_login(shared);
    }

    pub(super) fn on_disconnected(&mut self, shared: &mut Shared) {
        if self.state == State::Finished {
            return;
        }
        if matches!(self.state, State::Connecting { .. }) {
            self.stage = Stage::Silent;
            // The target that refused us is not there any more.
            self.refused = false;
        }
        if self.lost_since_ns.is_none() {
            self.lost_since_ns = Some(shared.now_ns);
            self.stalls = self.stalls.wrapping_add(u64::from(self.stage == Stage::Ready));
            let what = if self.stage == Stage::Ready { "is lost" } else { "is not there" };
            let why = self.last_error.unwrap_or("the connection is gone");
            // Of one that is refused it has been said.
            if !self.refused {
                let portal = self.redirect.unwrap_or(self.portal);
                shared.say(Level::Warn, format_args!("path {portal} {what}: {why}"));
            }
        }
        // 13.15: so long the target wants to be left alone after an accident.
        let wait_ns = u64::from(self.negotiated.time_to_wait_s).saturating_mul(1_000_000_000);
        self.wait_ns = self.wait_ns.max(wait_ns);
        self.reset_connection(shared);
        self.retries = self.retries.wrapping_add(1);
        shared.requests.counters.retries = shared.requests.counters.retries.wrapping_add(1);
        if self.failures >= 2 {
            self.redirect = None;
        }
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let pause = BACKOFF_FIRST_NS.saturating_mul(1 << doublings).min(BACKOFF_NS_MAX);
        // What the last try took counts as pause.
        let pause = shared.random.jitter(pause);
        let pause = pause.saturating_sub(shared.now_ns.saturating_sub(self.attempt_ns)).max(BACKOFF_FIRST_NS);
        let pause = pause.max(self.wait_ns.min(WAIT_NS_MAX));
        self.wait_ns = 0;
        self.state = State::Idle { retry_ns: shared.now_ns.saturating_add(pause) };
        if shared.closing {
            self.state = State::Finished;
        }
    }

    /// Forgets everything that belonged to the old connection. What was unanswered
    /// goes back to its request; until the target has dropped it, no new write may
    /// touch its range.
    fn reset_connection(&mut self, shared: &mut Shared) {
        self.receiver = Receiver::new(ISCSI_RECEIVE_SEGMENT_MAX);
        self.header = None;
        self.plain = false;
        self.arriving = None;
        self.held.clear();
        self.text.clear();
        self.text_pieces = 0;
        self.output.clear();
        self.sending = None;
        self.login = None;
        self.negotiated = Negotiated::default();
        self.session_handle = 0;
        self.command_number = 1;
        self.command_number_max = 1;
        self.status_number = 0;
        self.probe = Probe::TestUnitReady;
        self.missing = false;
        self.probing = false;
        self.pages.clear();
        self.pinged_ns = None;
        self.may_reset_unit |= self.management.take().is_some_and(|it| it.resets());
        for task in self.tasks.take_all() {
            if let TaskKind::Fragment(fragment) = task.kind
                && fragment.operation.writes()
            {
                shared.requests.fences.add(
                    fragment.lba,
                    u64::from(fragment.sectors),
                    Release::Path(self.index),
                );
            }
            self.reissue(shared, &task);
        }
    }

    /// The target does not let us in, for a reason that is said once.
    pub(super) fn report_refused(&mut self, shared: &mut Shared, why: &'static str) {
        if !core::mem::replace(&mut self.refused, true) || self.last_error != Some(why) {
            let portal = self.redirect.unwrap_or(self.portal);
            shared.say(Level::Warn, format_args!("path {portal} is refused: {why}"));
        }
    }

    /// Ends the connection for a reason; the path will recover on a new one.
    pub(super) fn fail(&mut self, shared: &mut Shared, why: &'static str) {
        self.last_error = Some(why);
        shared.last_error = Some(why);
        if self.is_connected() {
            self.state = State::Broken;
            self.output.clear();
            self.sending = None;
        }
    }

    /// No commands for a while.
    pub(super) fn pause(&mut self, shared: &mut Shared, why: &'static str) {
        self.last_error = Some(why);
        shared.last_error = Some(why);
        let doublings = self.pauses.min(16);
        self.pauses = self.pauses.saturating_add(1);
        let pause = BACKOFF_FIRST_NS.saturating_mul(1 << doublings).min(BACKOFF_NS_MAX);
        let pause = shared.random.jitter(pause);
        self.resume_ns = shared.now_ns.saturating_add(pause);
        if mutated(Mutant::PauseForEver) && self.is_ready() {
            self.resume_ns = u64::MAX;
        }
    }

    /// Gives an unanswered command's range back to its request.
    pub(super) fn reissue(&mut self, shared: &mut Shared, task: &Task) {
        match task.kind {
            TaskKind::Fragment(fragment) => shared.requests.requeue(&fragment),
            TaskKind::Probe(_) | TaskKind::Text => self.probing = false,
        }
    }

    /// A command of the target's moved octets.
    pub(super) fn count(&mut self, fragment: &Fragment) {
        let octets = u64::from(fragment.sectors).saturating_mul(SECTOR_BYTES as u64);
        if fragment.operation.writes() {
            self.bytes_written = self.bytes_written.wrapping_add(octets);
        } else {
            self.bytes_read = self.bytes_read.wrapping_add(octets);
        }
    }
}
