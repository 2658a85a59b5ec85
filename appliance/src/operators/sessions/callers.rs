//! Who comes to the one door, until it has a session.

use alloc::vec::Vec;

use machine::guest_memory::GuestMemory;
use mgmt_proto::handshake::PeerFault;
use mgmt_proto::server::{Identity, Server};
use mgmt_proto::trust::{Role, Trust};
use netstack::host::{Caller, Host};

use crate::hypervisor::Hypervisor;
use crate::limits::{
    BEGUN_MAX, BEGUN_OF_KEY, CALLERS_PER_TURN, SESSIONS_MAX, SESSIONS_OF_ADMINS, SESSIONS_OF_KEY,
    WORK_OF_GREETING, WORK_OF_KNOCK,
};
use crate::operators::places::{Places, Taken, Verdict};
use crate::operators::sessions::{Session, Sessions, seed};

/// Places of sessions.
const SESSIONS: Places = Places { all: SESSIONS_MAX, of_key: SESSIONS_OF_KEY, of_admins: SESSIONS_OF_ADMINS };
/// Places of those whose first record has not come.
const BEGUN: Places = Places { all: BEGUN_MAX, of_key: BEGUN_OF_KEY, of_admins: SESSIONS_OF_ADMINS };

impl<M: GuestMemory> Sessions<M> {
    /// Greets who has connected, and lets in who has proved to be an operator.
    pub(crate) fn answer_callers<H: Hypervisor<Memory = M>>(
        &mut self,
        host: &mut Host,
        hypervisor: &mut H,
        (identity, trust): (&Identity, &Trust),
        now_ns: u64,
    ) {
        self.door.tend(now_ns);
        // Handshakes are done by halves, each in a turn of its own.
        if let Some((caller, proved)) = self.proved.take() {
            self.work_left -= WORK_OF_KNOCK;
            self.has_knocked = true;
            let is_trusted = trust.role(proved.operator()).is_some();
            match proved.answer(identity, seed(hypervisor), now_ns) {
                Ok(server) if is_trusted => self.begin(host, &caller, server, trust, now_ns),
                _ => host.dismiss(&caller),
            }
        }
        for _ in 0..CALLERS_PER_TURN {
            if self.work_left <= 0 {
                return;
            }
            let Some(caller) = host.next_caller() else { return };
            let Some(hello) = caller.words() else {
                let mut random = || seed(hypervisor);
                let greeting = self.door.greeting(caller.challenge(), &mut random, now_ns);
                host.greet(&caller, &greeting, now_ns);
                self.work_left -= WORK_OF_GREETING;
                continue;
            };
            let proved = hello
                .try_into()
                .map_err(|_| PeerFault::Length)
                .and_then(|hello| self.door.knock(caller.challenge(), hello, (identity, trust), now_ns));
            // Diffie-Hellman, and mostly a signature.
            if self.door.take_worked() {
                self.work_left -= WORK_OF_KNOCK;
                self.has_knocked = true;
            }
            match proved {
                Ok(proved) => self.proved = Some((caller, proved)),
                // Its TCP says all of it again, until it is its turn.
                Err(PeerFault::Busy) => {}
                Err(_) => host.dismiss(&caller),
            }
        }
    }

    /// Gives a place to an operator who has signed, until its first record comes.
    fn begin(&mut self, host: &mut Host, caller: &Caller, server: Server, trust: &Trust, now_ns: u64) {
        if !self.make_room(host, (BEGUN, false), server.operator(), trust, now_ns) {
            host.dismiss(caller);
            return;
        }
        if let Some(connection) = host.admit(caller, now_ns) {
            self.sessions.push(Session {
                connection,
                server,
                upload: None,
                waiting: None,
                progress_ms: 0,
                expected: None,
                is_over: false,
                is_revoked: false,
            });
        }
    }

    /// Makes room for one more session of a key, among those that count or those that do
    /// not yet; false when there is none.
    pub(crate) fn make_room(
        &mut self,
        host: &mut Host,
        (places, counts): (Places, bool),
        key: &[u8; 32],
        trust: &Trust,
        now_ns: u64,
    ) -> bool {
        let is_admin = |key: &[u8; 32]| trust.role(key) == Some(Role::Admin);
        let taken = self.sessions.iter().enumerate();
        let taken = taken.filter(|(_, it)| !it.is_over && it.server.is_established() == counts);
        let taken: Vec<Taken> = taken
            .map(|(index, session)| {
                let key = *session.server.operator();
                let is_busy = session.waiting.is_some() || session.upload.is_some();
                let busy = session.server.deadline_ns() | u64::from(is_busy) << 63;
                Taken { index, key, is_admin: is_admin(&key), busy }
            })
            .collect();
        match places.find(&taken, key, is_admin(key)) {
            Verdict::Free => true,
            Verdict::None => false,
            Verdict::InPlaceOf(index) => {
                if let Some(session) = self.sessions.get_mut(index) {
                    // It is taken away once nothing goes by its index.
                    session.is_over = true;
                    host.abort(session.connection, now_ns);
                }
                true
            }
        }
    }

    /// A session counts, since its first record has opened; false when there is no room.
    pub(crate) fn confirm(&mut self, host: &mut Host, index: usize, trust: &Trust, now_ns: u64) -> bool {
        let Some(session) = self.sessions.get_mut(index) else { return false };
        let key = *session.server.operator();
        // Not among those who might give way for it.
        session.is_over = true;
        let has_room = self.make_room(host, (SESSIONS, true), &key, trust, now_ns);
        let Some(session) = self.sessions.get_mut(index) else { return false };
        session.is_over = !has_room;
        // Its grant may be the next to end.
        self.grants_end_ns = now_ns;
        if !has_room {
            host.abort(session.connection, now_ns);
        }
        has_room
    }
}
