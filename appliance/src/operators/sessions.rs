//! Operators' connections to the one door.

mod callers;
mod uploading;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use machine::guest_memory::GuestMemory;
use mgmt_proto::door::{Door, Proved};
use mgmt_proto::job::Progress;
use mgmt_proto::limits::PROGRESS_MS_MIN;
use mgmt_proto::reason::{Reason, Refusal};
use mgmt_proto::server::{Encoded, Identity, Incoming, Server};
use mgmt_proto::trust::{Role, Trust};
use mgmt_proto::verb::{Outcome, Request};
use netstack::host::{Caller, ConnectionId, ConnectionState, Host};

use crate::blobs::uploads::Upload;
use crate::blobs::{Blobs, Kept};
use crate::hypervisor::Hypervisor;
use crate::limits::{
    OPERATORS_WORK_PER_TURN, SHORT_ANSWER_BYTES, WORK_OF_FILE_OCTET, WORK_OF_HASHED_OCTET,
    WORK_OF_SEALED_OCTET, WORK_OF_SIGNATURE,
};
use crate::operators::audit::Asked;
use crate::operators::jobs::Asker;

/// A job that a session waits for before its next command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting {
    job: u64,
    /// How often the operator wants to hear of it, and when next; 0 is never.
    every_ns: u64,
    next_ns: u64,
}

/// One operator's connection.
pub struct Session<M> {
    connection: ConnectionId,
    server: Server,
    upload: Option<Upload<M>>,
    waiting: Option<Waiting>,
    /// How often it wants to hear of the jobs of its own commands; 0 is never.
    progress_ms: u32,
    /// What its next change supposes.
    expected: Option<(Option<String>, u64)>,
    /// It made room for another one.
    is_over: bool,
    /// Its operator has no grant any more.
    is_revoked: bool,
}

/// All connections.
pub struct Sessions<M> {
    door: Door,
    /// Who has signed, and is answered next.
    proved: Option<(Caller, Proved)>,
    sessions: Vec<Session<M>>,
    /// Whose turn it is, so that a busy operator does not keep others waiting.
    turn: usize,
    /// Under which bundle it was seen last that each still has a grant.
    seen_serial: u64,
    /// When the first of these grants runs out.
    grants_end_ns: u64,
    /// Work that is left for operators in this turn.
    work_left: i64,
    /// What was spent of it before they had their turn.
    spent: i64,
    /// It was spent on who comes anew.
    has_knocked: bool,
}

/// A command to carry out.
pub struct Command {
    /// Who asked, and for what.
    pub(crate) asker: Asker,
    /// What to do.
    pub request: Request,
    /// The role of who asked.
    pub role: Role,
    /// What is to be recorded of it.
    pub asked: Option<Asked>,
}

impl<M> Default for Sessions<M> {
    fn default() -> Self {
        Self {
            door: Door::default(),
            proved: None,
            sessions: Vec::new(),
            turn: 0,
            seen_serial: 0,
            grants_end_ns: 0,
            work_left: 0,
            spent: 0,
            has_knocked: false,
        }
    }
}

/// Work on so many octets.
fn work_of(octets: usize, each: i64) -> i64 {
    i64::try_from(octets).unwrap_or(i64::MAX).saturating_mul(each)
}

fn seed<H: Hypervisor>(hypervisor: &mut H) -> [u8; 32] {
    let mut seed = [0; 32];
    hypervisor.random(&mut seed);
    seed
}

impl<M: GuestMemory> Sessions<M> {
    /// Operators connected now.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.sessions.len()
    }

    /// The addresses of operators with a session.
    pub fn operators(&self, host: &Host) -> impl Iterator<Item = Ipv4Addr> {
        let established = self.sessions.iter().filter(|session| session.server.is_established());
        established.filter_map(|session| Some(host.peer(session.connection)?.0))
    }

    /// The connection of a session.
    #[must_use]
    pub fn connection(&self, index: usize) -> Option<ConnectionId> {
        self.sessions.get(index).map(|session| session.connection)
    }

    /// Whether a session with this connection is still there.
    #[must_use]
    pub fn is_open(&self, connection: ConnectionId) -> bool {
        self.sessions.iter().any(|session| session.connection == connection)
    }

    /// What is kept for operators was hashed, which leaves them less of the turn.
    pub fn spend(&mut self, octets: usize) {
        self.spent = self.spent.saturating_add(work_of(octets, WORK_OF_HASHED_OCTET));
    }

    /// Lets operators in, reads, and drops what is dead or too slow; true when something
    /// came, so that there may be more.
    pub fn poll<H: Hypervisor<Memory = M>>(
        &mut self,
        host: &mut Host,
        hypervisor: &mut H,
        blobs: &mut Blobs<M>,
        who: (&Identity, &Trust),
        now_ns: u64,
    ) -> bool {
        self.work_left = OPERATORS_WORK_PER_TURN.saturating_sub(core::mem::take(&mut self.spent));
        self.seal_answers();
        // Who comes and who is there take turns.
        let waits = |session: &Session<M>| session.server.has_received() && session.waiting.is_none();
        if !core::mem::take(&mut self.has_knocked) || !self.sessions.iter().any(waits) {
            self.answer_callers(host, hypervisor, who, now_ns);
        }
        self.end_revoked(who.1, now_ns);
        let mut any = host.has_callers() || self.proved.is_some();
        let mut index = 0;
        while let Some(session) = self.sessions.get_mut(index) {
            let read = session.read(host, now_ns);
            any |= read;
            let gone = match host.state(session.connection) {
                ConnectionState::Closed => true,
                // What it sent before it closed is still carried out and answered.
                ConnectionState::PeerClosed => !read && session.waiting.is_none() && session.server.is_sent(),
                // What the last command was answered is still sent.
                _ => session.is_revoked && session.waiting.is_none() && session.server.is_sent(),
            };
            if gone || now_ns >= session.server.deadline_ns() {
                host.close(session.connection, now_ns);
                let session = self.sessions.swap_remove(index);
                if let Some(upload) = session.upload {
                    blobs.unfinished.keep(hypervisor, upload);
                }
                continue;
            }
            index += 1;
        }
        any
    }

    /// Sees to it that those end whose operators have no grant any more, also when nothing
    /// comes from them: at once when another bundle holds, else when a grant has run out.
    fn end_revoked(&mut self, trust: &Trust, now_ns: u64) {
        let serial = trust.bundle().serial;
        if serial == self.seen_serial && now_ns < self.grants_end_ns {
            return;
        }
        (self.seen_serial, self.grants_end_ns) = (serial, u64::MAX);
        for session in self.sessions.iter_mut().filter(|session| session.server.is_established()) {
            let key = session.server.operator();
            session.is_revoked = trust.role(key).is_none();
            if let Some(left_s) = trust.seconds_left(key) {
                let end_ns = now_ns.saturating_add(left_s.saturating_mul(1_000_000_000));
                self.grants_end_ns = self.grants_end_ns.min(end_ns);
            }
        }
    }

    /// The next command of any session that waits for nothing. Blob data is
    /// taken on the way.
    pub(crate) fn next_command<H: Hypervisor<Memory = M>>(
        &mut self,
        host: &mut Host,
        hypervisor: &mut H,
        (blobs, needed): Kept<'_, M>,
        trust: &Trust,
        now_ns: u64,
    ) -> Option<Command> {
        let count = self.sessions.len();
        for step in 0..count {
            let index = self.turn.wrapping_add(step) % count;
            while self.work_left > 0
                && let Some(session) = self.sessions.get_mut(index)
                && !session.is_over
                && !session.is_revoked
                && session.waiting.is_none()
                && session.server.can_send()
            {
                let was_established = session.server.is_established();
                let next = session.server.next(trust, now_ns);
                let begins = !was_established && session.server.is_established();
                if begins && !self.confirm(host, index, trust, now_ns) {
                    break;
                }
                let Some(session) = self.sessions.get_mut(index) else { break };
                match next {
                    Ok(None) => break,
                    Ok(Some(Incoming::Data(bytes))) => {
                        self.work_left -= work_of(bytes.len(), WORK_OF_FILE_OCTET);
                        self.turn = index + 1;
                        session.take_data(&bytes, hypervisor, (&mut *blobs, needed), now_ns);
                    }
                    Ok(Some(Incoming::Command(verified, role))) => {
                        let asked = Asked::new(*verified.operator(), *verified.proof(), verified.get());
                        self.work_left -= WORK_OF_SIGNATURE;
                        let (operator, proof) = (*verified.operator(), *verified.proof());
                        let asker = Asker::new(index, operator, proof, verified.get());
                        let request = verified.into_inner();
                        self.turn = index + 1;
                        return Some(Command { asker, request, role, asked });
                    }
                    Err(_) => {
                        // Silence: the connection just ends.
                        host.abort(session.connection, now_ns);
                        break;
                    }
                }
            }
        }
        None
    }

    /// Whether more may have come than this turn had work for.
    #[must_use]
    pub const fn has_more(&self) -> bool {
        self.work_left <= 0
    }

    /// Answers a command.
    pub fn answer(&mut self, index: usize, outcome: &Outcome) {
        self.answer_all(core::iter::once(index), outcome);
    }

    /// Answers the commands of several sessions with one outcome.
    pub fn answer_all(&mut self, indexes: impl Iterator<Item = usize>, outcome: &Outcome) {
        // One that does not fit is an answer of the node that is too long.
        let too_long = || Err(Refusal::of("", Reason::AnswerTooLong));
        let Ok(encoded) = Encoded::new(outcome).or_else(|_| Encoded::new(&too_long())) else { return };
        for index in indexes {
            let Some(session) = self.sessions.get_mut(index) else { continue };
            session.waiting = None;
            if session.server.send_later(&encoded).is_err()
                && let Ok(encoded) = Encoded::new(&too_long())
            {
                let _ = session.server.send_later(&encoded);
            }
        }
    }

    /// Seals answers, as far as the turn has work for that; true when some are left.
    fn seal_answers(&mut self) -> bool {
        let waits = |session: &&mut Session<M>| session.server.waiting_len() > 0;
        for session in self.sessions.iter_mut().filter(waits) {
            let octets = session.server.waiting_len();
            // A short one is not worth another turn.
            if self.work_left <= 0 && octets > SHORT_ANSWER_BYTES {
                return true;
            }
            self.work_left -= work_of(octets, WORK_OF_SEALED_OCTET);
            session.server.seal_waiting();
        }
        false
    }

    /// Ends all sessions, without a word.
    pub fn end_all<H: Hypervisor<Memory = M>>(
        &mut self,
        host: &mut Host,
        hypervisor: &mut H,
        blobs: &mut Blobs<M>,
        now_ns: u64,
    ) {
        for session in self.sessions.drain(..) {
            host.abort(session.connection, now_ns);
            if let Some(upload) = session.upload {
                blobs.unfinished.keep(hypervisor, upload);
            }
        }
    }

    /// Sets how often a session hears of the jobs of its own commands; 0 is never.
    pub fn set_own_progress_interval(&mut self, index: usize, every_ms: u32) {
        if let Some(session) = self.sessions.get_mut(index) {
            session.progress_ms = every_ms;
        }
    }

    /// A session's next change supposes that a guest, or the node, is at a revision.
    pub fn expect(&mut self, index: usize, of: Option<String>, revision: u64) {
        if let Some(session) = self.sessions.get_mut(index) {
            session.expected = Some((of, revision));
        }
    }

    /// What a session's change supposes, which is due now.
    pub fn take_expected(&mut self, index: usize) -> Option<(Option<String>, u64)> {
        self.sessions.get_mut(index)?.expected.take()
    }

    /// Makes a session wait for a job, of whose progress it hears so often; 0 is never,
    /// none is as it set for its own.
    pub fn wait(&mut self, index: usize, job: u64, every_ms: Option<u32>, now_ns: u64) {
        if let Some(session) = self.sessions.get_mut(index) {
            let every_ns = match every_ms.unwrap_or(session.progress_ms) {
                0 => 0,
                every_ms => u64::from(every_ms.max(PROGRESS_MS_MIN)) * 1_000_000,
            };
            session.waiting = Some(Waiting { job, every_ns, next_ns: now_ns });
        }
    }

    /// Indices of the sessions that wait for a job.
    #[must_use]
    pub fn waiting_for(&self, job: u64) -> Vec<usize> {
        let waits = |session: &Session<M>| session.waiting.is_some_and(|waiting| waiting.job == job);
        let found = self.sessions.iter().enumerate().filter(|(_, session)| waits(session));
        found.map(|(index, _)| index).collect()
    }

    /// Sessions that are to hear of their job now, and the job.
    #[must_use]
    pub fn progress_due(&self, now_ns: u64) -> Vec<(usize, u64)> {
        let due = |(index, session): (usize, &Session<M>)| {
            let waiting = session.waiting.filter(|it| it.every_ns != 0 && now_ns >= it.next_ns)?;
            Some((index, waiting.job))
        };
        self.sessions.iter().enumerate().filter_map(due).collect()
    }

    /// Tells a session how far its job is. One that does not take what it is sent hears
    /// no more than fits.
    pub fn tell(&mut self, index: usize, progress: &Progress, now_ns: u64) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        if session.server.can_send() && !session.is_revoked {
            let _ = session.server.send_progress(progress, now_ns);
        }
        if let Some(waiting) = &mut session.waiting {
            waiting.next_ns = now_ns.saturating_add(waiting.every_ns);
        }
    }

    /// Hands answers to the stack; true when some are left for the next turn.
    pub fn transmit(&mut self, host: &mut Host) -> bool {
        let more = self.seal_answers();
        for session in &mut self.sessions {
            while !session.server.transmit().is_empty() {
                let count = host.write(session.connection, session.server.transmit());
                if count == 0 {
                    break;
                }
                session.server.sent(count);
            }
        }
        more
    }

    /// When a session must be looked at again.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let progress = |session: &Session<M>| {
            session.waiting.filter(|waiting| waiting.every_ns != 0).map(|waiting| waiting.next_ns)
        };
        let deadlines = self.sessions.iter().map(|session| session.server.deadline_ns());
        deadlines
            .chain(core::iter::once(self.grants_end_ns))
            .chain(self.sessions.iter().filter_map(progress))
            .chain(self.door.next_deadline())
            .chain(self.next_idle_upload())
            .min()
    }
}

impl<M: GuestMemory> Session<M> {
    /// Takes what there is room for; true when that was something.
    pub(crate) fn read(&mut self, host: &mut Host, now_ns: u64) -> bool {
        let mut any = false;
        loop {
            let room = self.server.room();
            let mut taken = 0;
            let mut fault = false;
            // The stack hands out what lies together, which may not be all.
            host.read_with(self.connection, |bytes| {
                taken = bytes.len().min(room);
                fault = self.server.receive(bytes.get(..taken).unwrap_or_default()).is_err();
                taken
            });
            if fault {
                host.abort(self.connection, now_ns);
            }
            if fault || taken == 0 {
                return any;
            }
            any = true;
        }
    }
}
