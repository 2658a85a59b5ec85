//! Answers operators who wait until something is durable: [`crate::state::changes`].

use mgmt_proto::code::{Code, Failure};

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
                let remedy = "see `redoubt node state`; keep fewer guests";
                Err(Failure::new(Code::Capacity, volume, "the state volume is full: it is not kept", remedy))
            } else if durable {
                outcome
            } else {
                let message = alloc::format!("{so_far} kept when the state volume answers");
                Err(Failure::new(Code::Deadline, volume, message, "see `redoubt node state`"))
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
            let message = alloc::format!("{} not kept: the state volume {why}", promise.so_far());
            let remedy = "see `redoubt node state`";
            let failure = Failure::new(Code::Storage, self.state.volume(), message, remedy);
            self.end_work(&Work::Kept(promise.id), &Err(failure), now_ns);
        }
    }

    /// Why something cannot be kept now, if it cannot.
    pub(crate) fn check_persistence(&self, object: &str) -> Result<(), Failure> {
        if self.state.is_persistent() {
            return Ok(());
        }
        if !self.state.is_wanted() {
            let remedy = "seal an image with a state volume: state = \"aoe:e9.0\"";
            return Err(Failure::new(Code::Policy, object, "the node has no state volume", remedy));
        }
        let why = self.state_problem().unwrap_or_else(|| "is being opened".into());
        let message = alloc::format!("the state volume {} {why}", self.state.volume());
        Err(Failure::new(Code::Storage, object, message, "see `redoubt node state`"))
    }
}
