//! Operators' connections to the one door.

use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::net::Ipv4Addr;

use mgmt_proto::code::{Code, Failure};
use mgmt_proto::job::Progress;
use mgmt_proto::limits::PROGRESS_MS_MIN;
use mgmt_proto::server::{Identity, Incoming, Server};
use mgmt_proto::trust::{Role, Trust};
use mgmt_proto::verb::{Outcome, Reply, Request};
use netstack::host::{ConnectionId, ConnectionState, Host};

use crate::guest_memory::GuestMemory;
use crate::hypervisor::Hypervisor;
use crate::limits::{SESSIONS_MAX, UPLOAD_SILENT_NS};
use crate::node::audit::Asked;
use crate::node::blobs::Blobs;
use crate::node::jobs::Asker;
use crate::node::uploads::{Announced, Upload};

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
}

/// All connections.
pub struct Sessions<M> {
    port: u16,
    sessions: Vec<Session<M>>,
    /// Whose turn it is, so that a busy operator does not keep others waiting.
    turn: usize,
}

/// A command to carry out.
pub struct Command {
    /// Who asked, and for what.
    pub(super) asker: Asker,
    /// What to do.
    pub request: Request,
    /// The role of who asked.
    pub role: Role,
    /// What is to be recorded of it.
    pub asked: Option<Asked>,
}

/// Of strangers, each with its address and when its time is over: the one of those who
/// share an address with most others whose time is over first.
fn loser(strangers: &[(usize, Option<Ipv4Addr>, u64)]) -> Option<usize> {
    let alike =
        |address: &Option<Ipv4Addr>| strangers.iter().filter(|(_, other, _)| other == address).count();
    let order =
        |(_, address, deadline_ns): &&(usize, Option<Ipv4Addr>, u64)| (Reverse(alike(address)), *deadline_ns);
    strangers.iter().min_by_key(order).map(|(index, ..)| *index)
}

impl<M: GuestMemory> Sessions<M> {
    /// Connections to a port that the stack already listens on.
    #[must_use]
    pub const fn new(port: u16) -> Self {
        Self { port, sessions: Vec::new(), turn: 0 }
    }

    /// Operators connected now.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.sessions.len()
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

    /// Accepts, reads, and drops what is dead or too slow; true when bytes came, so
    /// that there may be more.
    pub fn poll<H: Hypervisor<Memory = M>>(
        &mut self,
        host: &mut Host,
        hypervisor: &mut H,
        blobs: &mut Blobs<M>,
        now_ns: u64,
    ) -> bool {
        self.accept(host, now_ns);
        let mut any = false;
        let mut index = 0;
        while let Some(session) = self.sessions.get_mut(index) {
            let read = session.read(host, now_ns);
            any |= read;
            let gone = match host.state(session.connection) {
                ConnectionState::Closed => true,
                // What it sent before it closed is still carried out and answered.
                ConnectionState::PeerClosed => {
                    !read && session.waiting.is_none() && session.server.transmit().is_empty()
                }
                _ => false,
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

    /// Takes new connections. When there are too many, those who have proved
    /// nothing make room: a stranger who only connects must not lock operators out.
    fn accept(&mut self, host: &mut Host, now_ns: u64) {
        loop {
            let full = self.sessions.len() >= SESSIONS_MAX;
            let loser = if full { self.loser(host) } else { None };
            if full && loser.is_none() {
                return;
            }
            let Some(connection) = host.accept(self.port) else { return };
            if let Some(loser) = loser {
                // It never got as far as an upload.
                host.abort(self.sessions.swap_remove(loser).connection, now_ns);
            }
            let server = Server::new(now_ns);
            self.sessions.push(Session {
                connection,
                server,
                upload: None,
                waiting: None,
                progress_ms: 0,
                expected: None,
            });
        }
    }

    /// Who makes room: the oldest that has proved nothing, of the address that has most
    /// of them. Whoever comes again and again pushes out himself.
    fn loser(&self, host: &Host) -> Option<usize> {
        let address = |session: &Session<M>| host.peer(session.connection).map(|(address, _)| address);
        let strangers: Vec<(usize, Option<Ipv4Addr>, u64)> = self
            .sessions
            .iter()
            .enumerate()
            .filter(|(_, session)| !session.server.is_established())
            .map(|(index, session)| (index, address(session), session.server.deadline_ns()))
            .collect();
        loser(&strangers)
    }

    /// The next command of any session that waits for nothing. Blob data is
    /// taken on the way.
    pub fn next_command<H: Hypervisor<Memory = M>>(
        &mut self,
        host: &mut Host,
        hypervisor: &mut H,
        blobs: &mut Blobs<M>,
        identity: &Identity,
        trust: &Trust,
        now_ns: u64,
    ) -> Option<Command> {
        let count = self.sessions.len();
        for step in 0..count {
            let index = self.turn.wrapping_add(step) % count;
            let Some(session) = self.sessions.get_mut(index) else { break };
            while session.waiting.is_none() && session.server.can_send() {
                let mut random = || {
                    let mut seed = [0; 32];
                    hypervisor.random(&mut seed);
                    seed
                };
                match session.server.next(identity, trust, &mut random, now_ns) {
                    Ok(None) => break,
                    Ok(Some(Incoming::Data(bytes))) => session.take_data(&bytes, hypervisor, blobs, now_ns),
                    Ok(Some(Incoming::Command(verified, role))) => {
                        let asked = Asked::new(*verified.operator(), *verified.proof(), verified.get());
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

    /// Begins to receive the blob that session `index` announced.
    pub fn begin_upload(&mut self, index: usize, upload: Upload<M>) -> Option<Upload<M>> {
        self.sessions.get_mut(index).and_then(|session| session.upload.replace(upload))
    }

    /// The upload that session `index` goes on with, if one receives it: itself, or another
    /// that has been silent for long and ends.
    ///
    /// # Errors
    /// Another one is at it.
    pub fn take_upload(
        &mut self,
        host: &mut Host,
        index: usize,
        announced: &Announced,
        now_ns: u64,
    ) -> Result<Option<Upload<M>>, Failure> {
        let is_it = |upload: &mut Upload<M>| upload.announced() == announced;
        let own = self.sessions.get_mut(index).and_then(|session| session.upload.take_if(is_it));
        if own.is_some() {
            return Ok(own);
        }
        let silent = |upload: &Upload<M>| now_ns >= upload.last_ns().saturating_add(UPLOAD_SILENT_NS);
        for session in &mut self.sessions {
            let Some(upload) = session.upload.take_if(is_it) else { continue };
            if silent(&upload) {
                host.abort(session.connection, now_ns);
                return Ok(Some(upload));
            }
            session.upload = Some(upload);
            let message = "another session sends this file";
            return Err(Failure::new(Code::Conflict, "", message, "wait until it has ended"));
        }
        Ok(None)
    }

    /// Answers a command.
    pub fn answer(&mut self, index: usize, outcome: &Outcome) {
        if let Some(session) = self.sessions.get_mut(index) {
            session.waiting = None;
            // One that does not fit is an answer of the node that is too long.
            if session.server.send(outcome).is_err() {
                let failure = Failure::new(Code::Internal, "", "the answer is too long", "ask for less");
                let _ = session.server.send(&Err(failure));
            }
        }
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
    pub fn tell_of_own(&mut self, index: usize, every_ms: u32) {
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
        if session.server.can_send() {
            let _ = session.server.send_progress(progress, now_ns);
        }
        if let Some(waiting) = &mut session.waiting {
            waiting.next_ns = now_ns.saturating_add(waiting.every_ns);
        }
    }

    /// Hands answers to the stack.
    pub fn transmit(&mut self, host: &mut Host) {
        for session in &mut self.sessions {
            while !session.server.transmit().is_empty() {
                let count = host.write(session.connection, session.server.transmit());
                if count == 0 {
                    break;
                }
                session.server.sent(count);
            }
        }
    }

    /// When a session must be looked at again.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let progress = |session: &Session<M>| {
            session.waiting.filter(|waiting| waiting.every_ns != 0).map(|waiting| waiting.next_ns)
        };
        let deadlines = self.sessions.iter().map(|session| session.server.deadline_ns());
        deadlines.chain(self.sessions.iter().filter_map(progress)).min()
    }
}

impl<M: GuestMemory> Session<M> {
    /// Takes what there is room for; true when that was something.
    fn read(&mut self, host: &mut Host, now_ns: u64) -> bool {
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

    fn take_data<H: Hypervisor<Memory = M>>(
        &mut self,
        bytes: &[u8],
        hypervisor: &mut H,
        blobs: &mut Blobs<M>,
        now_ns: u64,
    ) {
        let Some(mut upload) = self.upload.take() else { return };
        if !upload.push(bytes, now_ns) {
            upload.cancel(hypervisor);
            let failure =
                Failure::new(Code::Integrity, "", "more bytes came than were announced", "send it again");
            let _ = self.server.send(&Err(failure));
        } else if upload.is_complete() {
            let outcome = blobs.finish(hypervisor, upload, now_ns).map(|()| Reply::Done);
            let _ = self.server.send(&outcome);
        } else {
            self.upload = Some(upload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::loser;
    use core::net::Ipv4Addr;

    #[test]
    fn whoever_comes_most_often_makes_room() {
        let address = |last| Some(Ipv4Addr::new(10, 0, 0, last));
        assert_eq!(loser(&[]), None);
        assert_eq!(loser(&[(3, address(1), 50)]), Some(3));
        // The oldest of all, while nobody has more than another.
        assert_eq!(loser(&[(3, address(1), 50), (4, address(2), 40)]), Some(4));
        // The oldest of those of one address, though another's is older.
        let crowd = [(0, address(2), 10), (1, address(1), 30), (5, address(1), 20), (6, None, 5)];
        assert_eq!(loser(&crowd), Some(5));
    }
}
