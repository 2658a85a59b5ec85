//! Answers operators who wait until something is durable: [`crate::state::changes`].

use mgmt_proto::reason::{Reason, Refusal};

use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::operators::jobs::Work;
use crate::state::changes::{Changes, Promise};

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Answers those whose changes are durable, or cannot be.
    pub(crate) fn poll_promises(&mut self, now_ns: u64) {
        let mut index = 0;
        while let Some(promise) = self.state.changes.promises.get(index) {
            let refused = promise.batch.is_some_and(|batch| self.state.changes.refused.contains(&batch));
            let durable = promise.batch.is_some_and(|batch| self.state.changes.is_confirmed(batch));
            if !refused && !durable && now_ns < promise.deadline_ns {
                index += 1;
                continue;
            }
            let promise = self.state.changes.promises.remove(index);
            let so_far = promise.so_far();
            let Promise { id, outcome, .. } = promise;
            let volume = self.state.volume();
            let outcome = if refused {
                Err(Refusal::of(volume, Reason::StateFull))
            } else if durable {
                outcome
            } else {
                Err(Refusal::of(volume, Reason::StateSlow { so_far }))
            };
            self.end_work(&Work::Kept(id), &outcome, now_ns);
        }
        if self.state.changes.promises.is_empty() {
            self.state.changes.refused.clear();
        }
    }

    /// The volume is lost, and what was not durable with it.
    pub(crate) fn fail_promises(&mut self, why: &str, now_ns: u64) {
        let promises = core::mem::take(&mut self.state.changes.promises);
        self.state.changes = Changes { last_promise: self.state.changes.last_promise, ..Changes::default() };
        for promise in promises {
            let lost = Reason::StateLost { so_far: promise.so_far(), why: why.into() };
            let failure = Refusal::of(self.state.volume(), lost);
            self.end_work(&Work::Kept(promise.id), &Err(failure), now_ns);
        }
    }

    /// Why something cannot be kept now, if it cannot.
    pub(crate) fn check_persistence(&self, object: &str) -> Result<(), Refusal> {
        if self.state.is_persistent() {
            return Ok(());
        }
        if !self.state.is_wanted() {
            return Err(Refusal::of(object, Reason::NoStateVolume));
        }
        let why = self.state_problem().unwrap_or_else(|| "is being opened".into());
        let volume = self.state.volume().into();
        Err(Refusal::of(object, Reason::StateUnavailable { volume, why }))
    }
}
