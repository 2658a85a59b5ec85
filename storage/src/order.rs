//! Which request may start when: overlap and flush rules in one place.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::block::{Operation, Request, RequestId, SubmitError};
use crate::limits::{REQUEST_SECTORS_MAX, REQUESTS_MAX};

struct Entry {
    request: Request,
    started: bool,
}

/// Unfinished requests in order of submission.
pub(crate) struct Order {
    entries: VecDeque<Entry>,
}

fn overlaps(a: &Request, b: &Request) -> bool {
    a.lba.0 < b.end() && b.lba.0 < a.end()
}

/// Whether `later` has to wait for `earlier`.
fn waits(later: &Request, earlier: &Request) -> bool {
    match (later.operation, earlier.operation) {
        (Operation::Flush, earlier) => earlier == Operation::Write,
        (_, Operation::Flush) | (Operation::Read, Operation::Read) => false,
        _ => overlaps(later, earlier),
    }
}

impl Order {
    pub(crate) const fn new() -> Self {
        Self { entries: VecDeque::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn submit(&mut self, request: Request) -> Result<(), SubmitError> {
        let sized = match request.operation {
            Operation::Flush => request.sectors == 0,
            _ => (1..=REQUEST_SECTORS_MAX).contains(&request.sectors),
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
        self.entries.push_back(Entry { request, started: false });
        Ok(())
    }

    /// Starts the oldest request that waits for nothing and that `allowed` admits.
    pub(crate) fn start_next(&mut self, allowed: impl Fn(&Request) -> bool) -> Option<Request> {
        let index = (0..self.entries.len()).find(|index| {
            let Some(entry) = self.entries.get(*index) else { return false };
            !entry.started
                && allowed(&entry.request)
                && !self.entries.iter().take(*index).any(|earlier| waits(&entry.request, &earlier.request))
        })?;
        let entry = self.entries.get_mut(index)?;
        entry.started = true;
        Some(entry.request)
    }

    /// Whether anything has not been started.
    pub(crate) fn has_waiting(&self) -> bool {
        self.entries.iter().any(|entry| !entry.started)
    }

    /// Removes a finished request.
    pub(crate) fn finish(&mut self, id: RequestId) -> Option<Request> {
        let index = self.entries.iter().position(|entry| entry.request.id == id)?;
        self.entries.remove(index).map(|entry| entry.request)
    }

    /// Requests in order of submission, as they must be carried to another node.
    pub(crate) fn unfinished(&self) -> Vec<Request> {
        self.entries.iter().map(|entry| entry.request).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Lba;

    fn request(id: u64, operation: Operation, lba: u64, sectors: u32) -> Request {
        Request { id: RequestId(id), operation, lba: Lba(lba), sectors }
    }

    #[test]
    fn overlap_and_flush_rules() {
        let mut order = Order::new();
        order.submit(request(1, Operation::Write, 0, 8)).unwrap();
        order.submit(request(2, Operation::Write, 4, 8)).unwrap();
        order.submit(request(3, Operation::Flush, 0, 0)).unwrap();
        order.submit(request(4, Operation::Read, 20, 1)).unwrap();
        order.submit(request(5, Operation::Read, 11, 1)).unwrap();
        order.submit(request(6, Operation::Write, 100, 1)).unwrap();
        let started = |order: &mut Order| order.start_next(|_| true).map(|r| r.id.0);
        assert_eq!(started(&mut order), Some(1));
        assert_eq!(started(&mut order), Some(4), "2 overlaps 1, 3 waits for both");
        assert_eq!(started(&mut order), Some(6), "5 overlaps 2");
        assert_eq!(started(&mut order), None);
        order.finish(RequestId(1));
        assert_eq!(started(&mut order), Some(2));
        assert_eq!(started(&mut order), None);
        order.finish(RequestId(2));
        assert_eq!(started(&mut order), Some(3), "6 came after the flush");
        assert_eq!(started(&mut order), Some(5));
        assert!(!order.has_waiting());
        assert_eq!(order.unfinished().len(), 4);
    }

    #[test]
    fn bad_requests() {
        let mut order = Order::new();
        let bad = |r| Err::<(), _>(r);
        assert_eq!(order.submit(request(1, Operation::Read, 0, 0)), bad(SubmitError::BadLength));
        assert_eq!(order.submit(request(1, Operation::Flush, 0, 1)), bad(SubmitError::BadLength));
        for id in 0..REQUESTS_MAX as u64 {
            order.submit(request(id, Operation::Read, 0, 1)).unwrap();
        }
        assert_eq!(order.submit(request(999, Operation::Read, 0, 1)), bad(SubmitError::Full));
        order.finish(RequestId(0));
        assert_eq!(order.submit(request(5, Operation::Read, 0, 1)), bad(SubmitError::DuplicateId));
    }
}
