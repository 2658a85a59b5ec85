//! A guest's reads, writes and flushes, and what must come of them.

use super::{SECTORS, pattern};
use std::collections::BTreeMap;
use storage::volume::Volume;
use storage::{BlockError, Lba, Octets, Operation, Request, RequestId};

/// Requests under way.
const DEPTH: usize = 4;

/// Data of unfinished requests; naming any other is a fault of the initiator's.
#[derive(Debug, Default)]
pub struct Memory {
    data: BTreeMap<RequestId, Vec<u8>>,
    strays: u64,
}

impl Octets for Memory {
    fn find(&mut self, id: RequestId, offset: usize, length: usize) -> Option<&mut [u8]> {
        let found = self.data.get_mut(&id).and_then(|data| data.get_mut(offset..offset + length));
        if found.is_none() {
            self.strays += 1;
        }
        found
    }
}

/// The guest.
#[derive(Debug)]
pub struct Work {
    /// Data of requests.
    pub memory: Memory,
    plan: Vec<Request>,
    next: usize,
    under_way: BTreeMap<RequestId, Request>,
    model: Vec<u8>,
    /// Requests that failed.
    pub failed: Vec<(RequestId, BlockError)>,
    faults: Vec<String>,
    /// Requests that are done.
    pub done: usize,
}

impl Work {
    /// Writes of many sizes, reads of what was and was not written, flushes.
    #[must_use]
    pub fn new() -> Self {
        Self::planned(false)
    }

    /// The same; ranges are given back and zeroed in between.
    #[must_use]
    pub fn discarding() -> Self {
        Self::planned(true)
    }

    fn planned(discards: bool) -> Self {
        let mut plan = Vec::new();
        let mut add = |operation, lba, sectors| {
            let id = RequestId(plan.len() as u64 + 1);
            plan.push(Request { id, operation, lba: Lba(lba), sectors });
        };
        for round in 0..3 {
            let at = 97 * round;
            add(Operation::Write, at, 1);
            add(Operation::Write, at + 10, 8);
            add(Operation::Write, at + 30, 40);
            add(Operation::Read, at + 25, 60);
            add(Operation::Write, at + 5, 7);
            add(Operation::Flush, 0, 0);
            add(Operation::Read, at, 3);
            add(Operation::Read, 400, 9);
            add(Operation::Write, at + 33, 3);
            add(Operation::Read, at + 30, 12);
            if discards {
                add(Operation::Discard, at + 31, 20);
                add(Operation::WriteZeroes, at + 9, 12);
                add(Operation::Read, at, 60);
            }
        }
        Self {
            memory: Memory::default(),
            plan,
            next: 0,
            under_way: BTreeMap::new(),
            model: vec![0; usize::try_from(SECTORS).unwrap_or(0) * 512],
            failed: Vec::new(),
            faults: Vec::new(),
            done: 0,
        }
    }

    /// Submits what may be, collects what has finished.
    pub fn step(&mut self, volume: &mut Volume, now_ns: u64) {
        while let Some(completion) = volume.take_completion() {
            let data = self.memory.data.remove(&completion.id).unwrap_or_default();
            let Some(request) = self.under_way.remove(&completion.id) else {
                self.faults.push(format!("{:?} finished twice or was never begun", completion.id));
                continue;
            };
            self.done += 1;
            match completion.result {
                Err(error) => self.failed.push((completion.id, error)),
                Ok(()) => self.check(&request, &data),
            }
        }
        while self.under_way.len() < DEPTH
            && let Some(request) = self.plan.get(self.next)
        {
            let sectors = usize::try_from(request.sectors).unwrap_or(0);
            let data = match request.operation {
                Operation::Write => pattern(request.id.0, sectors),
                _ => vec![0xee; sectors * 512],
            };
            self.memory.data.insert(request.id, data);
            self.under_way.insert(request.id, *request);
            if let Err(error) = volume.submit(*request, now_ns) {
                self.faults.push(format!("{request:?} was not taken: {error:?}"));
            }
            self.next += 1;
        }
    }

    fn range(request: &Request) -> std::ops::Range<usize> {
        let at = usize::try_from(request.lba.0).unwrap_or(0) * 512;
        at..at + usize::try_from(request.sectors).unwrap_or(0) * 512
    }

    /// Overlapping requests finish in the order of their submission, which is what a
    /// volume promises: so there is one right answer.
    fn check(&mut self, request: &Request, data: &[u8]) {
        let Some(held) = self.model.get_mut(Self::range(request)) else { return };
        match request.operation {
            Operation::Write => held.copy_from_slice(data),
            // What this target gives back reads as zeroes, as it says.
            Operation::Discard | Operation::WriteZeroes => held.fill(0),
            Operation::Read if held != data => self.faults.push(format!("{request:?} read other bytes")),
            _ => {}
        }
    }

    /// Whether all is done.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.next == self.plan.len() && self.under_way.is_empty()
    }

    /// What is wrong, in the end, with the disk `disk`.
    #[must_use]
    pub fn faults(&self, disk: &[u8]) -> Vec<String> {
        let mut faults = self.faults.clone();
        if self.memory.strays > 0 {
            faults.push(format!("{} accesses to memory of finished requests", self.memory.strays));
        }
        if self.is_over() && self.failed.is_empty() && disk != self.model {
            faults.push("the disk does not hold what was acknowledged".into());
        }
        faults
    }
}

impl Default for Work {
    fn default() -> Self {
        Self::new()
    }
}
