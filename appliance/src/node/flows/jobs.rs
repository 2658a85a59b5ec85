//! Begins, ends, lists and cancels jobs: [`crate::operators::jobs`].

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use mgmt_proto::job::{JobFacts, JobPage, Progress, Unit};
use mgmt_proto::reason::{Reason, Refusal};
use mgmt_proto::role::Role;
use mgmt_proto::verb::{Outcome, Reply};

use crate::guests::Guests;
use crate::guests::guest::RunState;
use crate::guests::number::GuestNumber;
use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::operators::jobs::{Asker, Job, MS, Work, too_late};
use crate::volumes::Volumes;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Something ended, and so did the jobs about it: those who wait are answered.
    pub(crate) fn end_work(&mut self, work: &Work, outcome: &Outcome, now_ns: u64) {
        let going: Vec<u64> =
            self.operators.jobs.list.iter().filter(|job| job.goes_on_with(work)).map(|job| job.id).collect();
        self.end_jobs(&going, outcome.clone(), false, now_ns);
    }

    fn end_jobs(&mut self, ids: &[u64], outcome: Outcome, cancelled: bool, now_ns: u64) {
        let Self { operators, guests, volumes, .. } = self;
        let progress = |job: &Job| progress(guests, volumes, job, now_ns);
        operators.end_jobs(ids, outcome, cancelled, progress, now_ns);
    }

    /// All jobs.
    pub(crate) fn list_jobs(&mut self, now_ns: u64) -> JobPage {
        self.operators.jobs.forget_old(now_ns);
        let facts = |job: &Job| JobFacts {
            id: job.id,
            operator: job.asker.operator,
            session: job.asker.proof.binding.session,
            counter: job.asker.proof.counter,
            verb: job.asker.verb.to_string(),
            object: job.asker.object.clone(),
            state: job.state(),
            progress: progress(&self.guests, &self.volumes, job, now_ns),
            began_ns: job.began_ns,
            ended_ns: job.ended.as_ref().map(|ended| ended.at_ns),
            failure: job.ended.as_ref().and_then(|ended| ended.outcome.as_ref().as_ref().err().cloned()),
        };
        JobPage { now_ns, jobs: self.operators.jobs.list.iter().map(facts).collect() }
    }

    /// A session waits for a job; the outcome if there is one already.
    pub(crate) fn wait_for_job(
        &mut self,
        asker: &Asker,
        id: u64,
        every_ms: u32,
        now_ns: u64,
    ) -> Option<Outcome> {
        self.operators.jobs.forget_old(now_ns);
        let found = self.operators.jobs.find(id).and_then(|job| self.may_touch(asker, job).map(|()| job));
        match found.map(|job| job.ended.as_ref().map(|ended| (*ended.outcome).clone())) {
            Err(failure) => Some(Err(failure)),
            Ok(Some(outcome)) => Some(outcome),
            Ok(None) => {
                self.operators.sessions.wait(asker.session, id, Some(every_ms), now_ns);
                None
            }
        }
    }

    /// A guest's jobs are for those who may touch the guest.
    fn may_touch(&self, asker: &Asker, job: &Job) -> Result<(), Refusal> {
        match job
            .asker
            .guest
            .as_ref()
            .filter(|guest| !self.trust.bundles.covers_guest(&asker.operator, guest))
        {
            Some(guest) => Err(super::commands::not_yours(guest)),
            None => Ok(()),
        }
    }

    /// Ends a job so that nothing of it is left.
    pub(crate) fn cancel_job(&mut self, asker: &Asker, role: Role, id: u64, now_ns: u64) -> Outcome {
        let job = self.operators.jobs.find(id)?;
        self.may_touch(asker, job)?;
        if role < job.asker.needed {
            return Err(super::commands::role_missing(job.asker.needed, role));
        }
        let (work, what) = (job.work, format!("job {id}, {} {}", job.asker.verb, job.asker.object));
        let what = what.trim_end();
        if job.ended.is_some() {
            return Err(Refusal::of(what, Reason::JobEnded));
        }
        let others = self.operators.jobs.list.iter().any(|other| other.id != id && other.goes_on_with(&work));
        let starting = |number: GuestNumber| {
            self.guests
                .list
                .iter()
                .position(|guest| guest.number == number && guest.life == RunState::Connecting)
        };
        let undo: Option<usize> = match work {
            Work::Guest(number) => Some(starting(number).ok_or_else(|| too_late(what, work))?),
            Work::Discovery | Work::MaintenanceOp(true) | Work::Attach(..) => None,
            Work::MaintenanceOp(false) | Work::Detach(..) | Work::Kept(_) => {
                return Err(too_late(what, work));
            }
        };
        log::warn!("{what}: cancelled");
        let failure = Refusal::of(what, Reason::JobCancelled);
        self.end_jobs(&[id], Err(failure), true, now_ns);
        match (work, undo) {
            (Work::Guest(_), Some(index)) => self.stop_starting(index, now_ns),
            (Work::Discovery, _) if !others => {
                self.volumes.cancel_discovery(&mut self.network.stacks, now_ns);
            }
            (Work::MaintenanceOp(_), _) => self.volumes.cancel_maintenance(&mut self.network.stacks, now_ns),
            (Work::Attach(number, device), _) => self.drop_pending_attach(number, device, now_ns),
            _ => {}
        }
        Ok(Reply::Done)
    }

    /// Tells those who wait how far it is.
    pub(crate) fn report_progress(&mut self, now_ns: u64) {
        for (session, id) in self.operators.sessions.progress_due(now_ns) {
            if let Ok(job) = self.operators.jobs.find(id) {
                let progress = progress(&self.guests, &self.volumes, job, now_ns);
                self.operators.sessions.tell(session, &progress, now_ns);
            }
        }
    }
}

/// How far a job is.
fn progress<M>(guests: &Guests<M>, volumes: &Volumes, job: &Job, now_ns: u64) -> Progress {
    if let Some(ended) = &job.ended {
        return ended.progress;
    }
    let disks = |number: GuestNumber, devices: &mut dyn Iterator<Item = usize>| {
        let serves: Vec<bool> = devices.map(|device| volumes.shape(number, device).is_some()).collect();
        let done = serves.iter().filter(|serves| **serves).count() as u64;
        Progress { done, total: serves.len() as u64, unit: Unit::Disks }
    };
    match job.work {
        Work::Guest(number) => {
            let guest = guests.index_of(number).and_then(|index| guests.get(index));
            disks(number, &mut (0..guest.map_or(0, |guest| guest.machine.disks.len())))
        }
        Work::Attach(number, device) => disks(number, &mut core::iter::once(device)),
        Work::Discovery | Work::MaintenanceOp(_) | Work::Detach(..) | Work::Kept(_) => {
            let total = job.work.allowed_ns() / MS;
            let done = (now_ns.saturating_sub(job.began_ns) / MS).min(total);
            Progress { done, total, unit: Unit::Milliseconds }
        }
    }
}
