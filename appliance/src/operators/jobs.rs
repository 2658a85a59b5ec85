//! Long work: what is not answered at once becomes a job.
//!
//! A job is known by its number, and by session and place of the command that began
//! it. It goes on when that session breaks; its outcome is kept for a while, for
//! the operator who comes back. What it is about ([`Work`]) is looked after elsewhere, by
//! those who say [`Node::end_work`] in the end.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use mgmt_proto::envelope::Proof;
use mgmt_proto::job::{JobState, Progress};
use mgmt_proto::limits::{JOB_KEPT_NS, JOBS, JOBS_URGENT};
use mgmt_proto::reason::{Reason, Refusal, TooLate};
use mgmt_proto::role::Role;
use mgmt_proto::verb::{Effect, Outcome, Request, Verb};

use crate::guests::number::GuestNumber;
use crate::limits::{DETACH_TIMEOUT_NS, DISCOVERY_TIMEOUT_NS, RESULTS_KEPT_MAX, START_TIMEOUT_NS};
use crate::state::PATIENCE_NS;

pub(crate) const MS: u64 = 1_000_000;

/// What a job is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A discovery.
    Discovery,
    /// A guest's disks and its start.
    Guest(GuestNumber),
    /// What is done with a volume; whether its facts are wanted.
    MaintenanceOp(bool),
    /// A disk of a guest that is to come, by its device number.
    Attach(GuestNumber, usize),
    /// A disk of a guest that is to go, by its device number.
    Detach(GuestNumber, usize),
    /// What is to be kept, by its promise.
    Kept(u64),
}

impl Work {
    /// How long it may take.
    pub(crate) const fn allowed_ns(self) -> u64 {
        match self {
            Self::Discovery | Self::MaintenanceOp(_) => DISCOVERY_TIMEOUT_NS,
            Self::Guest(_) | Self::Attach(..) => START_TIMEOUT_NS,
            Self::Detach(..) => DETACH_TIMEOUT_NS,
            Self::Kept(_) => PATIENCE_NS,
        }
    }
}

/// Who asked, and for what.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    /// Index of the session, as long as the command is carried out.
    pub(crate) session: usize,
    pub(crate) operator: [u8; 32],
    pub(crate) proof: Proof,
    pub(crate) verb: &'static str,
    pub(crate) object: String,
    /// The guest it touches, and the role that it needs.
    pub(crate) guest: Option<String>,
    pub(crate) needed: Role,
}

impl Asker {
    pub(crate) fn new(session: usize, operator: [u8; 32], proof: Proof, request: &Request) -> Self {
        let Verb { name: verb, role: needed, .. } = *request.verb();
        let object = request.object().to_string();
        Self { session, operator, proof, verb, object, guest: request.guest().map(Into::into), needed }
    }
}

/// How a job ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) at_ns: u64,
    pub(crate) outcome: Rc<Outcome>,
    pub(crate) cancelled: bool,
    pub(crate) progress: Progress,
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: u64,
    pub(crate) work: Work,
    pub(crate) asker: Asker,
    pub(crate) began_ns: u64,
    pub(crate) ended: Option<Ended>,
}

impl Job {
    pub(crate) fn goes_on_with(&self, work: &Work) -> bool {
        self.ended.is_none() && self.work == *work
    }

    pub(crate) fn state(&self) -> JobState {
        match &self.ended {
            None => JobState::Running,
            Some(Ended { cancelled: true, .. }) => JobState::Cancelled,
            Some(ended) if ended.outcome.is_ok() => JobState::Done,
            Some(_) => JobState::Failed,
        }
    }
}

/// All jobs, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    pub(crate) list: Vec<Job>,
    pub(crate) last: u64,
}

impl Jobs {
    /// Begins a job: its number.
    pub(crate) fn begin(&mut self, asker: &Asker, work: Work, now_ns: u64) -> u64 {
        self.last += 1;
        let id = self.last;
        self.list.push(Job { id, work, asker: asker.clone(), began_ns: now_ns, ended: None });
        id
    }

    /// Whether a job goes on with this.
    pub(crate) fn is_waited_for(&self, work: &Work) -> bool {
        self.list.iter().any(|job| job.goes_on_with(work))
    }

    /// Whether something goes on that was asked for a guest.
    pub(crate) fn is_about(&self, guest: &str) -> bool {
        self.list.iter().any(|job| job.ended.is_none() && job.asker.guest.as_deref() == Some(guest))
    }

    /// Jobs about one thing are about another from now on.
    pub(crate) fn turn_into(&mut self, old: &Work, new: Work) {
        for job in self.list.iter_mut().filter(|job| job.goes_on_with(old)) {
            job.work = new;
        }
    }

    pub(crate) fn forget_old(&mut self, now_ns: u64) {
        self.list.retain(|job| {
            job.ended.as_ref().is_none_or(|ended| now_ns < ended.at_ns.saturating_add(JOB_KEPT_NS))
        });
    }

    /// Lists of targets are long: the last ones are kept, and the jobs of earlier ones are
    /// forgotten.
    pub(crate) fn forget_results(&mut self) {
        let is_long = |job: &Job| {
            job.work == Work::Discovery && job.ended.as_ref().is_some_and(|ended| ended.outcome.is_ok())
        };
        while self.list.iter().filter(|job| is_long(job)).count() > RESULTS_KEPT_MAX
            && let Some(oldest) = self.list.iter().position(is_long)
        {
            self.list.remove(oldest);
        }
    }

    /// Makes room for a job that `request` may become: those that ended give way.
    pub(crate) fn make_room(&mut self, request: &Request, now_ns: u64) -> Result<(), Refusal> {
        self.forget_old(now_ns);
        let urgent = request.verb().effect == Effect::Rescues;
        let most = if urgent { JOBS } else { JOBS - JOBS_URGENT };
        let running = self.list.iter().filter(|job| job.ended.is_none()).count();
        if running >= most {
            return Err(Refusal::of(request.object(), Reason::TooManyJobs { running: running as u64 }));
        }
        if self.list.len() >= most
            && let Some(oldest) = self.list.iter().position(|job| job.ended.is_some())
        {
            self.list.remove(oldest);
        }
        Ok(())
    }

    pub(crate) fn find(&self, id: u64) -> Result<&Job, Refusal> {
        self.list
            .iter()
            .find(|job| job.id == id)
            .ok_or_else(|| Refusal::of(format!("job {id}"), Reason::NoSuchJob))
    }
}

pub(crate) fn too_late(what: &str, work: Work) -> Refusal {
    let why = match work {
        Work::Guest(_) => TooLate::GuestStarted,
        Work::MaintenanceOp(_) => TooLate::TargetAsked,
        Work::Detach(..) => TooLate::GuestAsked,
        _ => TooLate::Holds,
    };
    let ends_s = work.allowed_ns() / 1_000 / MS;
    Refusal::of(what, Reason::JobPastCancelling { why, ends_s })
}
