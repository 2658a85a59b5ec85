//! Operators' connections to the one door.

use alloc::vec::Vec;

use mgmt_proto::code::{Code, Failure};
use mgmt_proto::server::{Identity, Incoming, Server};
use mgmt_proto::trust::{Role, Trust};
use mgmt_proto::verb::{Outcome, Reply, Request};
use netstack::host::{ConnectionId, ConnectionState, Host};

use crate::guest_memory::GuestMemory;
use crate::hypervisor::Hypervisor;
use crate::limits::SESSIONS_MAX;
use crate::node::blobs::{Blobs, Upload};

/// What a session waits for before its next command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Nothing.
    Nothing,
    /// A discovery's end.
    Discovery,
    /// A guest's disks.
    Guest(u64),
}

/// One operator's connection.
pub struct Session<M> {
    connection: ConnectionId,
    server: Server,
    upload: Option<Upload<M>>,
    /// What it waits for.
    pub waiting: Waiting,
}

/// All connections.
pub struct Sessions<M> {
    port: u16,
    sessions: Vec<Session<M>>,
}

/// A command to carry out.
pub struct Command {
    /// Index of the session that gave it.
    pub session: usize,
    /// What to do.
    pub request: Request,
    /// The role of who asked.
    pub role: Role,
}

impl<M: GuestMemory> Sessions<M> {
    /// Connections to a port that the stack already listens on.
    #[must_use]
    pub const fn new(port: u16) -> Self {
        Self { port, sessions: Vec::new() }
    }

    /// Operators connected now.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.sessions.len()
    }

    /// Accepts, reads, and drops what is dead or too slow.
    pub fn poll<H: Hypervisor<Memory = M>>(&mut self, host: &mut Host, hypervisor: &mut H, now_ns: u64) {
        while self.sessions.len() < SESSIONS_MAX {
            let Some(connection) = host.accept(self.port) else { break };
            let server = Server::new(now_ns);
            self.sessions.push(Session { connection, server, upload: None, waiting: Waiting::Nothing });
        }
        let mut index = 0;
        while let Some(session) = self.sessions.get_mut(index) {
            let gone = matches!(host.state(session.connection), ConnectionState::Closed)
                || (matches!(host.state(session.connection), ConnectionState::PeerClosed)
                    && session.waiting == Waiting::Nothing
                    && session.server.transmit().is_empty());
            if gone
                || now_ns >= session.server.deadline_ns()
                || session.server.room() == 0 && !session.server.is_established()
            {
                host.close(session.connection, now_ns);
                let session = self.sessions.swap_remove(index);
                if let Some(upload) = session.upload {
                    upload.cancel(hypervisor);
                }
                continue;
            }
            let room = session.server.room();
            let server = &mut session.server;
            let mut fault = false;
            host.read_with(session.connection, |bytes| {
                let count = bytes.len().min(room);
                fault = server.receive(bytes.get(..count).unwrap_or_default()).is_err();
                count
            });
            if fault {
                host.abort(session.connection, now_ns);
            }
            index += 1;
        }
    }

    /// The next command of any session that waits for nothing. Blob data is
    /// taken on the way.
    pub fn next_command<H: Hypervisor<Memory = M>>(
        &mut self,
        host: &mut Host,
        hypervisor: &mut H,
        blobs: &mut Blobs,
        identity: &Identity,
        trust: &Trust,
        now_ns: u64,
    ) -> Option<Command> {
        for (index, session) in self.sessions.iter_mut().enumerate() {
            while session.waiting == Waiting::Nothing && session.server.can_send() {
                let mut random = || {
                    let mut seed = [0; 32];
                    hypervisor.random(&mut seed);
                    seed
                };
                match session.server.next(identity, trust, &mut random, now_ns) {
                    Ok(None) => break,
                    Ok(Some(Incoming::Data(bytes))) => session.take_data(&bytes, hypervisor, blobs, now_ns),
                    Ok(Some(Incoming::Command(verified, role))) => {
                        return Some(Command { session: index, request: verified.into_inner(), role });
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

    /// Answers a command.
    pub fn answer(&mut self, index: usize, outcome: &Outcome) {
        if let Some(session) = self.sessions.get_mut(index) {
            session.waiting = Waiting::Nothing;
            // One that does not fit is an answer of the node that is too long.
            if session.server.send(outcome).is_err() {
                let failure = Failure::new(Code::Internal, "", "the answer is too long", "ask for less");
                let _ = session.server.send(&Err(failure));
            }
        }
    }

    /// Makes a session wait.
    pub fn wait(&mut self, index: usize, waiting: Waiting) {
        if let Some(session) = self.sessions.get_mut(index) {
            session.waiting = waiting;
        }
    }

    /// Indices of the sessions that wait for something.
    #[must_use]
    pub fn waiting_for(&self, waiting: &Waiting) -> Vec<usize> {
        let found = self.sessions.iter().enumerate().filter(|(_, session)| session.waiting == *waiting);
        found.map(|(index, _)| index).collect()
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
        self.sessions.iter().map(|session| session.server.deadline_ns()).min()
    }
}

impl<M: GuestMemory> Session<M> {
    fn take_data<H: Hypervisor<Memory = M>>(
        &mut self,
        bytes: &[u8],
        hypervisor: &mut H,
        blobs: &mut Blobs,
        now_ns: u64,
    ) {
        let Some(mut upload) = self.upload.take() else { return };
        if !upload.push(bytes) {
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
