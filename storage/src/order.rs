//! Which request may start when: overlap and flush rules in one place.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::block::{Operation, Request, SubmitError};
use crate::limits::{RANGE_SECTORS_MAX, REQUEST_SECTORS_MAX, REQUESTS_MAX};
use crate::planted::{Bug, planted};

struct Entry {
    /// Its place among all that were ever submitted.
    number: u64,
    request: Request,
    submitted_ns: u64,
    started: bool,
    /// It is not joined with others: a joint try failed.
    alone: bool,
    /// Earlier requests that it waits for.
    blockers: usize,
}

/// Unfinished requests in order of submission.
pub(crate) struct Order {
    entries: VecDeque<Entry>,
    waiting: usize,
    /// No entry before this one waits to be started.
    first: usize,
    /// Entries that wait for others.
    blocked: usize,
    /// Entries that are no reads.
    others: usize,
    next_number: u64,
}

/// A request that has been started.
pub(crate) struct Started {
    pub(crate) number: u64,
    pub(crate) request: Request,
    /// It may be joined with others.
    pub(crate) joins: bool,
}

fn overlaps(a: &Request, b: &Request) -> bool {
    a.lba.0 < b.end() && b.lba.0 < a.end()
}

/// Whether `later` has to wait for `earlier`.
fn waits(later: &Request, earlier: &Request) -> bool {
    if planted(Bug::OverlapIgnored) && later.operation != Operation::Flush {
        return false;
    }
    match (later.operation, earlier.operation) {
        (Operation::Flush, earlier) => earlier.writes() && !planted(Bug::FlushEarly),
        (_, Operation::Flush) | (Operation::Read, Operation::Read) => false,
        _ => overlaps(later, earlier),
    }
}

impl Order {
    pub(crate) const fn new() -> Self {
        Self { entries: VecDeque::new(), waiting: 0, first: 0, blocked: 0, others: 0, next_number: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn submit(&mut self, request: Request, now_ns: u64) -> Result<(), SubmitError> {
        let sized = match request.operation {
            Operation::Flush => request.sectors == 0,
            Operation::Read | Operation::Write => (1..=REQUEST_SECTORS_MAX).contains(&request.sectors),
            Operation::Discard | Operation::WriteZeroes => (1..=RANGE_SECTORS_MAX).contains(&request.sectors),
        };
        if !sized {
            return Err(SubmitError::BadLength);
        }
        if self.entries.len() >= REQUESTS_MAX {
            return Err(SubmitError::Full);
        }
        if self.entries.iter().any(|entry| entry.request.id == request.id) {
            return Err(SubmitError::DuplicateId);
        }
        let reads = request.operation == Operation::Read;
        let mut blockers = 0usize;
        // Reads among reads wait for nothing.
        if !reads || self.others > 0 {
            for entry in &self.entries {
                blockers = blockers.saturating_add(usize::from(waits(&request, &entry.request)));
            }
        }
        self.others = self.others.saturating_add(usize::from(!reads));
        self.blocked = self.blocked.saturating_add(usize::from(blockers > 0));
        self.waiting = self.waiting.saturating_add(1);
        self.next_number = self.next_number.wrapping_add(1);
        self.entries.push_back(Entry {
            number: self.next_number,
            request,
            submitted_ns: now_ns,
            started: false,
            alone: false,
            blockers,
        });
        Ok(())
    }

    fn start(&mut self, wanted: impl Fn(&Entry) -> bool) -> Option<Started> {
        if self.waiting == 0 {
            return None;
        }
        let first = self.first.min(self.entries.len());
        let mut entries = self.entries.range_mut(first..);
        let entry = entries.find(|it| !it.started && it.blockers == 0 && wanted(it))?;
        entry.started = true;
        self.waiting = self.waiting.saturating_sub(1);
        let started = Started { number: entry.number, request: entry.request, joins: !entry.alone };
        while self.entries.get(self.first).is_some_and(|entry| entry.started) {
            self.first = self.first.saturating_add(1);
        }
        Some(started)
    }

    /// Where the entry with a number is: they are in order, with gaps.
    fn find(&self, number: u64) -> Option<usize> {
        let ahead = number.checked_sub(self.entries.front()?.number)?;
        let last = self.entries.len().checked_sub(1)?;
        let mut index = usize::try_from(ahead).map_or(last, |ahead| ahead.min(last));
        loop {
            match self.entries.get(index)?.number {
                found if found == number => return Some(index),
                found if found < number => return None,
                _ => index = index.checked_sub(1)?,
            }
        }
    }

    /// Starts the oldest request that waits for nothing and that `allowed` admits.
    pub(crate) fn start_next(&mut self, allowed: impl Fn(&Request) -> bool) -> Option<Started> {
        self.start(|entry| allowed(&entry.request))
    }

    /// Starts a request that continues one that has just been started.
    pub(crate) fn start_adjacent(
        &mut self,
        operation: Operation,
        lba: u64,
        sectors_max: u32,
        allowed: impl Fn(&Request) -> bool,
    ) -> Option<Started> {
        self.start(|entry| {
            let request = &entry.request;
            request.lba.0 == lba
                && request.operation == operation
                && request.sectors <= sectors_max
                && !entry.alone
                && allowed(request)
        })
    }

    /// Whether anything has not been started.
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// Removes a finished request; also tells when it was submitted.
    pub(crate) fn finish(&mut self, number: u64) -> Option<(Request, u64)> {
        let index = self.find(number)?;
        // Mostly it is the oldest, which costs least to take out.
        let done = if index == 0 { self.entries.pop_front() } else { self.entries.remove(index) }?;
        if index < self.first {
            self.first = self.first.saturating_sub(1);
        }
        if !done.started {
            self.waiting = self.waiting.saturating_sub(1);
        }
        let other = done.request.operation != Operation::Read;
        self.others = self.others.saturating_sub(usize::from(other));
        self.blocked = self.blocked.saturating_sub(usize::from(done.blockers > 0));
        if self.blocked > 0 {
            for entry in self.entries.range_mut(index.min(self.entries.len())..) {
                if entry.blockers > 0 && waits(&entry.request, &done.request) {
                    entry.blockers = entry.blockers.saturating_sub(1);
                    self.blocked = self.blocked.saturating_sub(usize::from(entry.blockers == 0));
                }
            }
        }
        Some((done.request, done.submitted_ns))
    }

    /// Puts a started request back, to be tried by itself.
    pub(crate) fn restart(&mut self, number: u64) {
        let Some(index) = self.find(number) else { return };
        if let Some(entry) = self.entries.get_mut(index).filter(|it| it.started) {
            entry.started = false;
            entry.alone = true;
            self.waiting = self.waiting.saturating_add(1);
            self.first = self.first.min(index);
        }
    }

    /// The oldest request's number, and when it was submitted.
    pub(crate) fn oldest(&self) -> Option<(u64, u64)> {
        self.entries.front().map(|entry| (entry.number, entry.submitted_ns))
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        (self.waiting, self.first, self.blocked, self.others) = (0, 0, 0, 0);
    }

    /// Requests in order of submission, as they must be carried to another node.
    pub(crate) fn unfinished(&self) -> Vec<Request> {
        self.entries.iter().map(|entry| entry.request).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Lba, RequestId};

    fn request(id: u64, operation: Operation, lba: u64, sectors: u32) -> Request {
        Request { id: RequestId(id), operation, lba: Lba(lba), sectors }
    }

    #[test]
    fn overlap_and_flush_rules() {
        let mut order = Order::new();
        for (id, operation, lba, sectors) in [
            (1, Operation::Write, 0, 8),
            (2, Operation::Write, 4, 8),
            (3, Operation::Flush, 0, 0),
            (4, Operation::Read, 20, 1),
            (5, Operation::Read, 11, 1),
            (6, Operation::Discard, 100, 1),
        ] {
            order.submit(request(id, operation, lba, sectors), 0).unwrap();
        }
        let started = |order: &mut Order| order.start_next(|_| true).map(|it| it.request.id.0);
        assert_eq!(started(&mut order), Some(1));
        assert_eq!(started(&mut order), Some(4), "2 overlaps 1, 3 waits for both");
        assert_eq!(started(&mut order), Some(6), "5 overlaps 2");
        assert_eq!(started(&mut order), None);
        order.finish(1);
        assert_eq!(started(&mut order), Some(2));
        assert_eq!(started(&mut order), None);
        order.finish(2);
        assert_eq!(started(&mut order), Some(3), "6 came after the flush");
        assert_eq!(started(&mut order), Some(5));
        assert!(!order.has_waiting());
        assert_eq!(order.unfinished().len(), 4);
    }

    #[test]
    fn neighbours_are_found_and_put_back() {
        let mut order = Order::new();
        for (id, lba) in [(1, 0), (2, 16), (3, 8), (4, 8)] {
            order.submit(request(id, Operation::Write, lba, 8), id).unwrap();
        }
        let first = order.start_next(|_| true).unwrap();
        assert_eq!((first.request, first.joins), (request(1, Operation::Write, 0, 8), true));
        let next = |order: &mut Order, lba, most| {
            order.start_adjacent(Operation::Write, lba, most, |_| true).map(|it| it.request.id.0)
        };
        assert_eq!(next(&mut order, 8, 7), None);
        assert_eq!(next(&mut order, 8, 8), Some(3), "4 waits for it");
        assert_eq!(next(&mut order, 16, 8), Some(2));
        order.restart(3);
        assert_eq!(next(&mut order, 8, 8), None, "by itself");
        let again = order.start_next(|_| true).unwrap();
        assert_eq!((again.request, again.joins), (request(3, Operation::Write, 8, 8), false));
        assert_eq!(order.oldest(), Some((1, 1)));
    }

    #[test]
    fn bad_requests() {
        let mut order = Order::new();
        let mut submit = |request| order.submit(request, 0);
        assert_eq!(submit(request(1, Operation::Read, 0, 0)), Err(SubmitError::BadLength));
        assert_eq!(submit(request(1, Operation::Flush, 0, 1)), Err(SubmitError::BadLength));
        let long = REQUEST_SECTORS_MAX + 1;
        assert_eq!(submit(request(1, Operation::Write, 0, long)), Err(SubmitError::BadLength));
        for id in 0..REQUESTS_MAX as u64 {
            submit(request(id, Operation::Discard, id * u64::from(long), long)).unwrap();
        }
        assert_eq!(submit(request(999, Operation::Read, 0, 1)), Err(SubmitError::Full));
        order.finish(1);
        assert_eq!(order.submit(request(5, Operation::Read, 0, 1), 0), Err(SubmitError::DuplicateId));
    }
}
