//! Changes on their way to the state volume, and operators who wait for them.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use mgmt_proto::code::{Code, Failure};
use mgmt_proto::verb::Outcome;
use storage::store::{Store, StoreRefusal};

use crate::hypervisor::Hypervisor;
use crate::node::Node;
use crate::node::jobs::Work;
use crate::node::nic::Nic;

/// How long an operator waits for something to be kept.
pub(in crate::node) const PATIENCE_NS: u64 = 30_000_000_000;
/// Bytes of changes that are made in one transaction, as far as they can be parted.
const BATCH_BYTES: usize = 32 * 1024;

/// A key and its new value, or none.
pub(super) type Change = (String, Option<Vec<u8>>);

/// Somebody who waits.
struct Promise {
    id: u64,
    /// What must be durable; none while it is being made.
    batch: Option<u64>,
    outcome: Outcome,
    /// It holds already, and not only when it is kept.
    holds: bool,
    deadline_ns: u64,
}

impl Promise {
    /// What is so while it is not kept.
    const fn so_far(&self) -> &'static str {
        if self.holds { "holds now, and is" } else { "does not hold yet, and is" }
    }
}

/// Batches: each is one transaction, in their order.
#[derive(Default)]
pub(super) struct Changes {
    waiting: VecDeque<(u64, Vec<Change>)>,
    /// Batch, and the transaction it is in.
    begun: VecDeque<(u64, u64)>,
    last: u64,
    confirmed: u64,
    refused: Vec<u64>,
    promises: Vec<Promise>,
    last_promise: u64,
}

impl Changes {
    /// Takes a batch; returns its number.
    pub(super) fn add(&mut self, changes: Vec<Change>) -> u64 {
        self.last += 1;
        self.waiting.push_back((self.last, changes));
        self.last
    }

    /// Takes changes in as many batches as they need; the last ones are in the last.
    pub(super) fn add_many(&mut self, changes: Vec<Change>) -> u64 {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for change in changes {
            let size = change.0.len() + change.1.as_ref().map_or(0, Vec::len) + 8;
            if bytes + size > BATCH_BYTES && !batch.is_empty() {
                self.add(core::mem::take(&mut batch));
                bytes = 0;
            }
            bytes += size;
            batch.push(change);
        }
        self.add(batch)
    }

    /// Whether a batch is durable.
    pub(super) const fn is_confirmed(&self, batch: u64) -> bool {
        self.confirmed >= batch
    }

    /// Moves batches into the store, and learns what is durable.
    pub(super) fn pump(&mut self, store: &mut Store) {
        while let Some((batch, changes)) = self.waiting.front() {
            match store.change_all(changes) {
                Ok(ticket) => self.begun.push_back((*batch, ticket)),
                Err(StoreRefusal::Busy | StoreRefusal::Closed) => break,
                Err(StoreRefusal::Full | StoreRefusal::TooLong) => self.refused.push(*batch),
            }
            self.waiting.pop_front();
        }
        while let Some((batch, _)) = self.begun.pop_front_if(|(_, ticket)| *ticket <= store.confirmed()) {
            self.confirmed = batch;
        }
    }

    /// When a promise is over.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.promises.iter().map(|promise| promise.deadline_ns).min()
    }

    /// A promise whose batch is not made yet.
    pub(super) fn promise(&mut self, outcome: Outcome, now_ns: u64) -> u64 {
        self.last_promise += 1;
        let deadline_ns = now_ns.saturating_add(PATIENCE_NS);
        self.promises.push(Promise { id: self.last_promise, batch: None, outcome, holds: true, deadline_ns });
        self.last_promise
    }

    /// What must be durable for a promise, and what is answered then.
    pub(super) fn settle(&mut self, id: u64, batch: u64) {
        if let Some(promise) = self.promises.iter_mut().find(|promise| promise.id == id) {
            promise.batch = Some(batch);
        }
    }

    /// What was promised holds when it is durable, and not before.
    pub(super) fn holds_later(&mut self, id: u64) {
        if let Some(promise) = self.promises.iter_mut().find(|promise| promise.id == id) {
            promise.holds = false;
        }
    }

    /// A promise that cannot be kept: answered at the next look.
    pub(super) fn break_promise(&mut self, id: u64, failure: Failure) {
        if let Some(promise) = self.promises.iter_mut().find(|promise| promise.id == id) {
            (promise.batch, promise.outcome) = (Some(0), Err(failure));
        }
    }
}

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Answers those whose changes are durable, or cannot be.
    pub(super) fn settle_promises(&mut self, now_ns: u64) {
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
    pub(super) fn fail_promises(&mut self, why: &str, now_ns: u64) {
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
    pub(in crate::node) fn check_kept(&self, object: &str) -> Result<(), Failure> {
        if self.state.is_kept() {
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
