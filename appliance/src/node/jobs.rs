//! Long work: what is not answered at once becomes a job.
//!
//! A job is known by its number, and by session and place of the command that began
//! it. It goes on when that session breaks; its outcome is kept for a while, for
//! whoever comes back. What it is about ([`Work`]) is looked after elsewhere, by
//! those who say [`Node::end_work`] in the end.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use mgmt_proto::audit;
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::envelope::Proof;
use mgmt_proto::job::{JobFacts, JobPage, JobState, Progress, Unit};
use mgmt_proto::limits::{JOB_KEPT_NS, JOBS, JOBS_URGENT};
use mgmt_proto::trust::{Role, required};
use mgmt_proto::verb::{Discover, Outcome, Reply, Request};

use crate::hypervisor::Hypervisor;
use crate::limits::{DETACH_TIMEOUT_NS, DISCOVERY_TIMEOUT_NS, RESULTS_KEPT_MAX, START_TIMEOUT_NS};
use crate::node::Node;
use crate::node::guest::Life;
use crate::node::nic::Nic;
use crate::node::state::PATIENCE_NS;

const MS: u64 = 1_000_000;

/// What a job is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A discovery.
    Discovery,
    /// A guest's disks and its start.
    Guest(u64),
    /// What is done with a volume; whether its facts are wanted.
    Errand(bool),
    /// A disk of a guest that is to come, by its device number.
    Attach(u64, usize),
    /// A disk of a guest that is to go, by its device number.
    Detach(u64, usize),
    /// What is to be kept, by its promise.
    Kept(u64),
}

impl Work {
    /// How long it may take.
    const fn allowed_ns(self) -> u64 {
        match self {
            Self::Discovery | Self::Errand(_) => DISCOVERY_TIMEOUT_NS,
            Self::Guest(_) | Self::Attach(..) => START_TIMEOUT_NS,
            Self::Detach(..) => DETACH_TIMEOUT_NS,
            Self::Kept(_) => PATIENCE_NS,
        }
    }
}

/// Who asked, and for what.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    /// Index of the session, as long as the command is carried out.
    pub(super) session: usize,
    pub(super) operator: [u8; 32],
    proof: Proof,
    verb: &'static str,
    object: String,
    /// The guest it touches, and the role that it needs.
    guest: Option<String>,
    needed: Role,
}

impl Asker {
    pub(super) fn new(session: usize, operator: [u8; 32], proof: Proof, request: &Request) -> Self {
        let (verb, object) = match request {
            Request::StorageDiscover(Discover::Aoe) => ("storage discover", "".into()),
            other => audit::subject(other).unwrap_or_default(),
        };
        let (object, needed) = (object.to_string(), required(request));
        Self { session, operator, proof, verb, object, guest: request.guest().map(Into::into), needed }
    }
}

/// How a job ended.
#[derive(Debug)]
struct Ended {
    at_ns: u64,
    outcome: Rc<Outcome>,
    cancelled: bool,
    progress: Progress,
}

#[derive(Debug)]
struct Job {
    id: u64,
    work: Work,
    asker: Asker,
    began_ns: u64,
    ended: Option<Ended>,
}

impl Job {
    fn goes_on_with(&self, work: &Work) -> bool {
        self.ended.is_none() && self.work == *work
    }

    fn state(&self) -> JobState {
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
pub(super) struct Jobs {
    list: Vec<Job>,
    last: u64,
}

impl Jobs {
    /// Whether somebody's job goes on with this.
    pub(super) fn is_waited_for(&self, work: &Work) -> bool {
        self.list.iter().any(|job| job.goes_on_with(work))
    }

    /// Whether something goes on that was asked for a guest.
    pub(super) fn is_about(&self, guest: &str) -> bool {
        self.list.iter().any(|job| job.ended.is_none() && job.asker.guest.as_deref() == Some(guest))
    }

    /// Jobs about one thing are about another from now on.
    pub(super) fn turn_into(&mut self, old: &Work, new: Work) {
        for job in self.list.iter_mut().filter(|job| job.goes_on_with(old)) {
            job.work = new;
        }
    }

    fn forget_old(&mut self, now_ns: u64) {
        self.list.retain(|job| {
            job.ended.as_ref().is_none_or(|ended| now_ns < ended.at_ns.saturating_add(JOB_KEPT_NS))
        });
    }

    /// Lists of targets are long: the last ones are kept, and the jobs of earlier ones are
    /// forgotten.
    fn forget_results(&mut self) {
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
    fn make_room(&mut self, request: &Request, now_ns: u64) -> Result<(), Failure> {
        self.forget_old(now_ns);
        let urgent = matches!(request, Request::TrustUpdate { .. } | Request::Lockdown);
        let most = if urgent { JOBS } else { JOBS - JOBS_URGENT };
        let running = self.list.iter().filter(|job| job.ended.is_none()).count();
        if running >= most {
            let remedy = "wait for one, or cancel it: `redoubt job list`";
            return Err(Failure::new(Code::Capacity, "", format!("{running} jobs are under way"), remedy));
        }
        if self.list.len() >= most
            && let Some(oldest) = self.list.iter().position(|job| job.ended.is_some())
        {
            self.list.remove(oldest);
        }
        Ok(())
    }

    fn find(&self, id: u64) -> Result<&Job, Failure> {
        self.list.iter().find(|job| job.id == id).ok_or_else(|| {
            let remedy =
                "see `redoubt job list`; dom0 forgets them 10 minutes after their end, and when it restarts";
            Failure::new(Code::NotFound, format!("job {id}"), "is not known", remedy)
        })
    }
}

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Whether a request finds room to become a job, if it is of that kind.
    pub(super) fn room_for_job(&mut self, request: &Request, now_ns: u64) -> Result<(), Failure> {
        if request.is_job() { self.jobs.make_room(request, now_ns) } else { Ok(()) }
    }

    /// A command is not answered yet: its session waits for a job.
    pub(super) fn begin_work(&mut self, asker: &Asker, work: Work, now_ns: u64) {
        self.jobs.last += 1;
        let id = self.jobs.last;
        self.jobs.list.push(Job { id, work, asker: asker.clone(), began_ns: now_ns, ended: None });
        self.sessions.wait(asker.session, id, None, now_ns);
    }

    /// Something ended, and so did the jobs about it: those who wait are answered.
    pub(super) fn end_work(&mut self, work: &Work, outcome: &Outcome, now_ns: u64) {
        let going: Vec<u64> =
            self.jobs.list.iter().filter(|job| job.goes_on_with(work)).map(|job| job.id).collect();
        self.end_jobs(&going, outcome.clone(), false, now_ns);
    }

    /// Jobs ended with one outcome, which is encoded once for all who wait.
    fn end_jobs(&mut self, ids: &[u64], outcome: Outcome, cancelled: bool, now_ns: u64) {
        let waiting: Vec<usize> = ids.iter().flat_map(|id| self.sessions.waiting_for(*id)).collect();
        self.sessions.answer_all(waiting.into_iter(), &outcome);
        let outcome = Rc::new(outcome);
        for id in ids {
            let Some(place) = self.jobs.list.iter().position(|job| job.id == *id) else { continue };
            let Some(job) = self.jobs.list.get(place) else { continue };
            let mut progress = self.progress(job, now_ns);
            if outcome.is_ok() && progress.unit != Unit::Milliseconds {
                progress.done = progress.total;
            }
            if let Some(job) = self.jobs.list.get_mut(place) {
                job.ended = Some(Ended { at_ns: now_ns, outcome: Rc::clone(&outcome), cancelled, progress });
            }
        }
        self.jobs.forget_results();
    }

    fn progress(&self, job: &Job, now_ns: u64) -> Progress {
        if let Some(ended) = &job.ended {
            return ended.progress;
        }
        let disks = |number: u64, devices: &mut dyn Iterator<Item = usize>| {
            let serves: Vec<bool> =
                devices.map(|device| self.volumes.shape(number, device).is_some()).collect();
            let done = serves.iter().filter(|serves| **serves).count() as u64;
            Progress { done, total: serves.len() as u64, unit: Unit::Disks }
        };
        match job.work {
            Work::Guest(number) => {
                let guest = self.guests.iter().find(|guest| guest.number == number);
                disks(number, &mut (0..guest.map_or(0, |guest| guest.machine.disks.len())))
            }
            Work::Attach(number, device) => disks(number, &mut core::iter::once(device)),
            Work::Discovery | Work::Errand(_) | Work::Detach(..) | Work::Kept(_) => {
                let total = job.work.allowed_ns() / MS;
                let done = (now_ns.saturating_sub(job.began_ns) / MS).min(total);
                Progress { done, total, unit: Unit::Milliseconds }
            }
        }
    }

    /// All jobs.
    pub(super) fn list_jobs(&mut self, now_ns: u64) -> JobPage {
        self.jobs.forget_old(now_ns);
        let facts = |job: &Job| JobFacts {
            id: job.id,
            operator: job.asker.operator,
            session: job.asker.proof.binding.session,
            counter: job.asker.proof.counter,
            verb: job.asker.verb.to_string(),
            object: job.asker.object.clone(),
            state: job.state(),
            progress: self.progress(job, now_ns),
            began_ns: job.began_ns,
            ended_ns: job.ended.as_ref().map(|ended| ended.at_ns),
            failure: job.ended.as_ref().and_then(|ended| ended.outcome.as_ref().as_ref().err().cloned()),
        };
        JobPage { now_ns, jobs: self.jobs.list.iter().map(facts).collect() }
    }

    /// A session waits for a job; the outcome if there is one already.
    pub(super) fn wait_for_job(
        &mut self,
        asker: &Asker,
        id: u64,
        every_ms: u32,
        now_ns: u64,
    ) -> Option<Outcome> {
        self.jobs.forget_old(now_ns);
        let found = self.jobs.find(id).and_then(|job| self.may_touch(asker, job).map(|()| job));
        match found.map(|job| job.ended.as_ref().map(|ended| (*ended.outcome).clone())) {
            Err(failure) => Some(Err(failure)),
            Ok(Some(outcome)) => Some(outcome),
            Ok(None) => {
                self.sessions.wait(asker.session, id, Some(every_ms), now_ns);
                None
            }
        }
    }

    /// A guest's jobs are for those who may touch the guest.
    fn may_touch(&self, asker: &Asker, job: &Job) -> Result<(), Failure> {
        match job.asker.guest.as_ref().filter(|guest| !self.trust.covers_guest(&asker.operator, guest)) {
            Some(guest) => Err(super::commands::not_yours(guest)),
            None => Ok(()),
        }
    }

    /// Ends a job so that nothing of it is left.
    pub(super) fn cancel_job(&mut self, asker: &Asker, role: Role, id: u64, now_ns: u64) -> Outcome {
        let job = self.jobs.find(id)?;
        self.may_touch(asker, job)?;
        if role < job.asker.needed {
            return Err(super::commands::role_missing(job.asker.needed, role));
        }
        let (work, what) = (job.work, format!("job {id}, {} {}", job.asker.verb, job.asker.object));
        let what = what.trim_end();
        if job.ended.is_some() {
            return Err(Failure::new(Code::Conflict, what, "has ended", "see `redoubt job list`"));
        }
        let others = self.jobs.list.iter().any(|other| other.id != id && other.goes_on_with(&work));
        let starting = |number: u64| {
            self.guests.iter().position(|guest| guest.number == number && guest.life == Life::Connecting)
        };
        let undo: Option<usize> = match work {
            Work::Guest(number) => Some(starting(number).ok_or_else(|| too_late(what, work))?),
            Work::Discovery | Work::Errand(true) | Work::Attach(..) => None,
            Work::Errand(false) | Work::Detach(..) | Work::Kept(_) => return Err(too_late(what, work)),
        };
        log::warn!("{what}: cancelled");
        let failure = Failure::new(Code::Conflict, what, "was cancelled", "begin it again");
        self.end_jobs(&[id], Err(failure), true, now_ns);
        match (work, undo) {
            (Work::Guest(_), Some(index)) => self.stop_starting(index, now_ns),
            (Work::Discovery, _) if !others => {
                self.volumes.cancel_discovery(&mut self.network.stacks, now_ns);
            }
            (Work::Errand(_), _) => self.volumes.cancel_errand(&mut self.network.stacks, now_ns),
            (Work::Attach(number, device), _) => self.drop_coming(number, device, now_ns),
            _ => {}
        }
        Ok(Reply::Done)
    }

    /// Tells those who wait how far it is.
    pub(super) fn tell_progress(&mut self, now_ns: u64) {
        for (session, id) in self.sessions.progress_due(now_ns) {
            if let Ok(job) = self.jobs.find(id) {
                let progress = self.progress(job, now_ns);
                self.sessions.tell(session, &progress, now_ns);
            }
        }
    }
}

fn too_late(what: &str, work: Work) -> Failure {
    let message = match work {
        Work::Guest(_) => "cannot be cancelled: the guest has started",
        Work::Errand(_) => "cannot be cancelled: its target was asked already",
        Work::Detach(..) => "cannot be cancelled: the guest was asked already",
        _ => "cannot be cancelled: it holds, and is being written to the state volume",
    };
    let remedy = format!("it ends within {} s", work.allowed_ns() / 1_000 / MS);
    Failure::new(Code::Conflict, what, message, remedy)
}
