//! Changes on their way to the state volume, and operators who wait for them.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

use mgmt_proto::reason::{Persisted, Refusal};
use mgmt_proto::verb::Outcome;
use storage::store::{Store, StoreRefusal};

/// How long an operator waits for something to be kept.
pub(crate) const PATIENCE_NS: u64 = 30_000_000_000;
/// Bytes of changes that are made in one transaction, as far as they can be parted.
const BATCH_BYTES: usize = 32 * 1024;

/// A key and its new value, or none.
pub(crate) type Change = (String, Option<Vec<u8>>);

/// One who waits.
pub(crate) struct Promise {
    pub(crate) id: u64,
    /// What must be durable; none while it is being made.
    pub(crate) batch: Option<u64>,
    pub(crate) outcome: Outcome,
    /// It holds already, and not only when it is kept.
    holds: bool,
    pub(crate) deadline_ns: u64,
}

impl Promise {
    /// What is so while it is not kept.
    pub(crate) const fn so_far(&self) -> Persisted {
        if self.holds { Persisted::Holds } else { Persisted::NotYet }
    }
}

/// Batches: each is one transaction, in their order.
#[derive(Default)]
pub(crate) struct Changes {
    pub(crate) waiting: VecDeque<(u64, Vec<Change>)>,
    /// Batch, and the transaction it is in.
    pub(crate) begun: VecDeque<(u64, u64)>,
    pub(crate) last: u64,
    pub(crate) confirmed: u64,
    pub(crate) refused: Vec<u64>,
    pub(crate) promises: Vec<Promise>,
    pub(crate) last_promise: u64,
}

impl Changes {
    /// Takes a batch; returns its number.
    pub(crate) fn add(&mut self, changes: Vec<Change>) -> u64 {
        self.last += 1;
        self.waiting.push_back((self.last, changes));
        self.last
    }

    /// Takes changes in as many batches as they need; the last ones are in the last.
    pub(crate) fn add_many(&mut self, changes: Vec<Change>) -> u64 {
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
    pub(crate) const fn is_confirmed(&self, batch: u64) -> bool {
        self.confirmed >= batch
    }

    /// Moves batches into the store, and learns what is durable.
    pub(crate) fn pump(&mut self, store: &mut Store) {
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
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.promises.iter().map(|promise| promise.deadline_ns).min()
    }

    /// A promise whose batch is not made yet.
    pub(crate) fn promise(&mut self, outcome: Outcome, now_ns: u64) -> u64 {
        self.last_promise += 1;
        let deadline_ns = now_ns.saturating_add(PATIENCE_NS);
        self.promises.push(Promise { id: self.last_promise, batch: None, outcome, holds: true, deadline_ns });
        self.last_promise
    }

    /// What must be durable for a promise, and what is answered then.
    pub(crate) fn settle(&mut self, id: u64, batch: u64) {
        if let Some(promise) = self.promises.iter_mut().find(|promise| promise.id == id) {
            promise.batch = Some(batch);
        }
    }

    /// What was promised holds when it is durable, and not before.
    pub(crate) fn holds_later(&mut self, id: u64) {
        if let Some(promise) = self.promises.iter_mut().find(|promise| promise.id == id) {
            promise.holds = false;
        }
    }

    /// A promise that cannot be kept: answered at the next look.
    pub(crate) fn break_promise(&mut self, id: u64, failure: Refusal) {
        if let Some(promise) = self.promises.iter_mut().find(|promise| promise.id == id) {
            (promise.batch, promise.outcome) = (Some(0), Err(failure));
        }
    }
}
