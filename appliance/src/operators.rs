//! Operators: their sessions, the jobs that they began, what they changed last, and the record of it.

pub mod audit;
pub(crate) mod history;
pub mod jobs;
pub(crate) mod places;
pub mod revisions;
pub mod sessions;
use alloc::rc::Rc;

use machine::guest_memory::GuestMemory;
use mgmt_proto::job::{Progress, Unit};
use mgmt_proto::reason::Refusal;
use mgmt_proto::verb::{Outcome, Request};

use crate::operators::audit::AuditLog;
use crate::operators::history::History;
use crate::operators::jobs::{Asker, Ended, Job, Jobs, Work};
use crate::operators::revisions::Revisions;
use crate::operators::sessions::Sessions;

/// All of them.
pub(crate) struct Operators<M> {
    pub(crate) sessions: Sessions<M>,
    pub(crate) jobs: Jobs,
    pub(crate) audit: AuditLog<M>,
    pub(crate) revisions: Revisions,
    /// How far the audit log is on the state volume.
    pub(crate) history: History,
}

impl<M: GuestMemory> Default for Operators<M> {
    fn default() -> Self {
        Self {
            sessions: Sessions::default(),
            jobs: Jobs::default(),
            audit: AuditLog::new(),
            revisions: Revisions::default(),
            history: History::default(),
        }
    }
}

impl<M: GuestMemory> Operators<M> {
    /// Whether a request finds room to become a job, if it is of that kind.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn room_for_job(&mut self, request: &Request, now_ns: u64) -> Result<(), Refusal> {
        if request.is_job() { self.jobs.make_room(request, now_ns) } else { Ok(()) }
    }

    /// A command is not answered yet: its session waits for a job.
    pub(crate) fn begin_work(&mut self, asker: &Asker, work: Work, now_ns: u64) {
        let id = self.jobs.begin(asker, work, now_ns);
        self.sessions.wait(asker.session, id, None, now_ns);
    }

    /// Jobs ended with one outcome, which is encoded once for all who wait. `progress` tells how
    /// far one was.
    pub(crate) fn end_jobs(
        &mut self,
        ids: &[u64],
        outcome: Outcome,
        cancelled: bool,
        progress: impl Fn(&Job) -> Progress,
        now_ns: u64,
    ) {
        let sessions = &mut self.sessions;
        let waiting = ids.iter().flat_map(|id| sessions.waiting_for(*id)).collect::<alloc::vec::Vec<_>>();
        sessions.answer_all(waiting.into_iter(), &outcome);
        let outcome = Rc::new(outcome);
        for job in self.jobs.list.iter_mut().filter(|job| ids.contains(&job.id)) {
            let mut progress = progress(job);
            if outcome.is_ok() && progress.unit != Unit::Milliseconds {
                progress.done = progress.total;
            }
            job.ended = Some(Ended { at_ns: now_ns, outcome: Rc::clone(&outcome), cancelled, progress });
        }
        self.jobs.forget_results();
    }

    /// Why a change is not made, if it supposes what is so no longer.
    pub(crate) fn overtaken(&mut self, session: usize, request: &Request) -> Option<Refusal> {
        if !request.changes() {
            return None;
        }
        let (of, expected) = self.sessions.take_expected(session)?;
        self.revisions.check(of.as_deref(), expected).err()
    }
}
