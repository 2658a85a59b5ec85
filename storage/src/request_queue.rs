//! Which request may start when: overlap and flush rules in one place.

use alloc::vec::Vec;

use crate::block::{Operation, Request, RequestId, SubmitError};
use crate::limits::{RANGE_SECTORS_MAX, REQUEST_SECTORS_MAX, REQUESTS_MAX};
use crate::mutants::{Mutant, mutated};

mod counts;
mod entry;

use counts::Counts;
pub(crate) use entry::{Entry, Member, Stage};
use entry::{More, NO_INDEX};

/// Bits of a group's ID that are its leader's index.
const INDEX_BITS: u32 = 16;
/// Up to this many requests are compared one by one.
const FEW: usize = 4;
/// How many of the next ready requests are checked for one to be joined:
/// a sequential reader or writer submits the next piece soon.
const NEIGHBOURS: usize = 4;

/// Unfinished requests.
pub(crate) struct RequestQueue {
    /// In no order; ended ones are used again.
    entries: Vec<Entry>,
    /// The first of the ended ones, which are a list.
    free: u16,
    /// Those that wait for nothing but to be started: a list in order of submission.
    first: u16,
    last: u16,
    ready: usize,
    live: usize,
    /// Entries that wait for others.
    blocked: usize,
    next_id: u64,
    /// Kept from the time on when there are more than a few.
    counts: Option<Counts>,
}

fn overlaps(a: &Request, b: &Request) -> bool {
    a.lba.0 < b.end() && b.lba.0 < a.end()
}

/// Whether `later` has to wait for `earlier`.
fn waits(later: &Request, earlier: &Request) -> bool {
    if mutated(Mutant::OverlapIgnored) && later.operation != Operation::Flush {
        return false;
    }
    match (later.operation, earlier.operation) {
        (Operation::Flush, earlier) => earlier.writes() && !mutated(Mutant::FlushEarly),
        (_, Operation::Flush) | (Operation::Read, Operation::Read) => false,
        _ => overlaps(later, earlier),
    }
}

impl RequestQueue {
    /// Heap that they take at most: a list, what few of them have, and counts.
    pub(crate) const HEAP_BYTES_MAX: usize = REQUESTS_MAX * size_of::<Entry>()
        + REQUESTS_MAX * (size_of::<More>() + 4 * size_of::<Member>())
        + Counts::HEAP_BYTES;

    pub(crate) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: NO_INDEX,
            first: NO_INDEX,
            last: NO_INDEX,
            ready: 0,
            live: 0,
            blocked: 0,
            next_id: 0,
            counts: None,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.live
    }

    fn get(&self, index: u16) -> Option<&Entry> {
        self.entries.get(usize::from(index))
    }

    fn get_mut(&mut self, index: u16) -> Option<&mut Entry> {
        self.entries.get_mut(usize::from(index))
    }

    #[inline(always)]
    pub(crate) fn submit(&mut self, request: Request, now_ns: u64) -> Result<(), SubmitError> {
        let sized = match request.operation {
            Operation::Flush => request.sectors == 0,
            Operation::Read | Operation::Write => (1..=REQUEST_SECTORS_MAX).contains(&request.sectors),
            Operation::Discard | Operation::WriteZeroes => (1..=RANGE_SECTORS_MAX).contains(&request.sectors),
        };
        if !sized {
            return Err(SubmitError::BadLength);
        }
        if self.live >= REQUESTS_MAX {
            return Err(SubmitError::Full);
        }
        let alike = match &mut self.counts {
            Some(counts) => counts.add(&request),
            None => self.live > 0,
        };
        let blockers = if alike { self.check(&request)? } else { 0 };
        let index = self.append(request, blockers, now_ns);
        self.live = self.live.wrapping_add(1);
        if blockers > 0 {
            self.blocked = self.blocked.wrapping_add(1);
            return Ok(());
        }
        // None is newer.
        match self.entries.get_mut(usize::from(self.last)) {
            Some(last) => last.after = index,
            None => self.first = index,
        }
        self.last = index;
        self.ready = self.ready.wrapping_add(1);
        Ok(())
    }

    /// Looks for a request of the same ID, and counts those that it waits for. It has been
    /// counted, if there are counts.
    #[inline(never)]
    fn check(&mut self, request: &Request) -> Result<u16, SubmitError> {
        let mut blockers = 0u16;
        let mut named = false;
        for it in self.unfinished() {
            named |= it.id == request.id;
            blockers = blockers.saturating_add(u16::from(waits(request, it)));
        }
        if named {
            if let Some(counts) = &mut self.counts {
                counts.take(request);
            }
            return Err(SubmitError::DuplicateId);
        }
        if self.counts.is_none() && self.live >= FEW {
            let mut counts = Counts::new();
            self.unfinished().chain([request]).for_each(|it| _ = counts.add(it));
            self.counts = Some(counts);
        }
        Ok(blockers)
    }

    /// Adds a request; returns its index.
    #[inline(always)]
    fn append(&mut self, request: Request, blockers: u16, now_ns: u64) -> u16 {
        if self.free == NO_INDEX {
            self.grow(request);
        }
        let index = self.free;
        self.next_id = self.next_id.wrapping_add(1);
        let group_id = (self.next_id << INDEX_BITS) | u64::from(index);
        if let Some(entry) = self.entries.get_mut(usize::from(index)) {
            self.free = entry.after;
            entry.group_id = group_id;
            entry.sequence = group_id;
            entry.request = request;
            entry.submitted_ns = now_ns;
            entry.after = NO_INDEX;
            entry.blockers = blockers;
            entry.stage = Stage::Waiting;
            entry.alone = false;
        }
        index
    }

    /// Adds a free entry.
    #[cold]
    fn grow(&mut self, request: Request) {
        // There are REQUESTS_MAX at most.
        self.free = u16::try_from(self.entries.len()).unwrap_or(NO_INDEX);
        self.entries.push(Entry::new(request));
    }

    /// Puts one that waits for nothing where it belongs.
    fn enqueue(&mut self, index: u16) {
        let Some(sequence) = self.get(index).map(|entry| entry.sequence) else { return };
        let (mut before, mut after) = (NO_INDEX, self.first);
        while let Some(entry) = self.get(after).filter(|entry| entry.sequence < sequence) {
            (before, after) = (after, entry.after);
        }
        if let Some(entry) = self.get_mut(index) {
            entry.after = after;
        }
        match self.get_mut(before) {
            Some(entry) => entry.after = index,
            None => self.first = index,
        }
        if after == NO_INDEX {
            self.last = index;
        }
        self.ready = self.ready.wrapping_add(1);
    }

    /// Takes one out of those that may be started; `before` is there, or it is the first.
    fn dequeue(&mut self, before: u16, index: u16) {
        let after = self.get(index).map_or(NO_INDEX, |entry| entry.after);
        match self.get_mut(before) {
            Some(entry) => entry.after = after,
            None => self.first = after,
        }
        if self.last == index {
            self.last = before;
        }
        self.ready = self.ready.wrapping_sub(1);
    }

    /// The first of the next `most` that may be started which is wanted, and the one
    /// before it.
    fn find(&self, most: usize, wanted: impl Fn(&Entry) -> bool) -> Option<(u16, u16)> {
        let (mut before, mut index) = (NO_INDEX, self.first);
        for _ in 0..most {
            let entry = self.get(index)?;
            if wanted(entry) {
                return Some((before, index));
            }
            (before, index) = (index, entry.after);
        }
        None
    }

    /// The leader of a group that has not ended.
    pub(crate) fn leader(&mut self, group: u64) -> Option<&mut Entry> {
        let entry = self.get_mut(index_of(group)).filter(|entry| entry.group_id == group)?;
        entry.begin_group();
        Some(entry)
    }

    /// The same, to read it.
    pub(crate) fn group(&self, group: u64) -> Option<&Entry> {
        self.get(index_of(group)).filter(|entry| entry.group_id == group)
    }

    /// The ID of the group that a request leads.
    pub(crate) fn group_id(&self, index: u16) -> Option<u64> {
        self.get(index).filter(|entry| entry.stage != Stage::Ended).map(|entry| entry.group_id)
    }

    /// Starts the oldest request that waits for nothing and that `allowed` admits: it
    /// leads a group.
    pub(crate) fn start_next(&mut self, allowed: impl Fn(&Request) -> bool) -> Option<&mut Entry> {
        let (before, index) = self.find(usize::MAX, |entry| allowed(&entry.request))?;
        self.dequeue(before, index);
        let entry = self.get_mut(index)?;
        entry.stage = Stage::Leads;
        Some(entry)
    }

    /// The request whose turn it is, unless any of the next could be joined with it.
    #[inline(always)]
    pub(crate) fn turn(&self) -> Option<&Request> {
        let entry = self.get(self.first)?;
        (entry.after == NO_INDEX || !self.has_neighbour(entry)).then_some(&entry.request)
    }

    /// Starts the request whose turn it is, all of it in one piece.
    #[inline(always)]
    pub(crate) fn start_whole(&mut self) -> Option<&Entry> {
        let index = self.first;
        let after = self.get(index)?.after;
        self.first = after;
        if after == NO_INDEX {
            self.last = NO_INDEX;
        }
        self.ready = self.ready.wrapping_sub(1);
        let entry = self.entries.get_mut(usize::from(index))?;
        entry.stage = Stage::Whole;
        Some(entry)
    }

    /// Whether any of the next continues one that may be started.
    fn has_neighbour(&self, entry: &Entry) -> bool {
        let (operation, end) = (entry.request.operation, entry.request.end());
        let mut index = entry.after;
        for _ in 0..NEIGHBOURS {
            let Some(entry) = self.get(index) else { return false };
            if entry.request.lba.0 == end && entry.request.operation == operation {
                return true;
            }
            index = entry.after;
        }
        false
    }

    /// Starts a request that continues one that has just been started, which leads.
    pub(crate) fn start_adjacent(
        &mut self,
        leader: u64,
        operation: Operation,
        lba: u64,
        sectors_max: u32,
        allowed: impl Fn(&Request) -> bool,
    ) -> Option<Member> {
        let (before, index) = self.find(NEIGHBOURS, |entry| {
            let request = &entry.request;
            request.lba.0 == lba
                && request.operation == operation
                && request.sectors <= sectors_max
                && !entry.alone
                && allowed(request)
        })?;
        self.dequeue(before, index);
        let entry = self.get_mut(index)?;
        entry.stage = Stage::Follows(index_of(leader));
        let Request { id, sectors, .. } = entry.request;
        Some(Member { id, index, first: 0, sectors })
    }

    /// Whether anything may be started.
    pub(crate) const fn has_ready(&self) -> bool {
        self.ready > 0
    }

    /// Ends a request; also tells when it was submitted.
    #[inline]
    pub(crate) fn finish(&mut self, index: u16) -> Option<(Request, u64)> {
        let entry = self.get(index)?;
        let (stage, blockers) = (entry.stage, entry.blockers);
        match stage {
            Stage::Ended => return None,
            Stage::Waiting if blockers > 0 => self.blocked = self.blocked.wrapping_sub(1),
            Stage::Waiting => {
                let group_id = entry.group_id;
                if let Some((before, index)) = self.find(usize::MAX, |entry| entry.group_id == group_id) {
                    self.dequeue(before, index);
                }
            }
            Stage::Whole | Stage::Leads | Stage::Follows(_) => {}
        }
        let Entry { request, submitted_ns, .. } = *self.get(index)?;
        self.end(index);
        Some((request, submitted_ns))
    }

    /// Ends a request that went out in one piece, and succeeded.
    #[inline(always)]
    pub(crate) fn finish_whole(&mut self, group: u64) -> Option<(RequestId, u64)> {
        let index = index_of(group);
        let entry = self.get(index)?;
        if entry.group_id != group || entry.stage != Stage::Whole {
            return None;
        }
        let (id, submitted_ns) = (entry.request.id, entry.submitted_ns);
        self.end(index);
        Some((id, submitted_ns))
    }

    /// Frees an entry.
    #[inline(always)]
    fn end(&mut self, index: u16) {
        let Some(entry) = self.entries.get_mut(usize::from(index)) else { return };
        if let Some(counts) = &mut self.counts {
            counts.take(&entry.request);
        }
        entry.stage = Stage::Ended;
        entry.group_id = 0;
        entry.blockers = 0;
        entry.after = self.free;
        self.free = index;
        self.live = self.live.wrapping_sub(1);
        if self.blocked > 0 {
            self.unblock(index);
        }
    }

    /// Later requests that waited for this one, which has ended, wait for one less.
    #[inline(never)]
    fn unblock(&mut self, done: u16) {
        let Some(Entry { request, sequence, .. }) = self.get(done) else { return };
        let (done, sequence) = (*request, *sequence);
        for index in 0..u16::try_from(self.entries.len()).unwrap_or(NO_INDEX) {
            if let Some(entry) = self.get_mut(index)
                && entry.blockers > 0
                && entry.sequence > sequence
                && waits(&entry.request, &done)
            {
                entry.blockers = entry.blockers.wrapping_sub(1);
                if entry.blockers == 0 {
                    self.blocked = self.blocked.wrapping_sub(1);
                    self.enqueue(index);
                }
            }
        }
    }

    /// Puts a started request back, to be tried by itself.
    pub(crate) fn restart(&mut self, index: u16) {
        self.next_id = self.next_id.wrapping_add(1);
        let group_id = (self.next_id << INDEX_BITS) | u64::from(index);
        let Some(entry) = self.get_mut(index) else { return };
        if !matches!(entry.stage, Stage::Whole | Stage::Leads | Stage::Follows(_)) {
            return;
        }
        // Fragments in flight for the old ID belong to no group.
        entry.group_id = group_id;
        entry.stage = Stage::Waiting;
        entry.alone = true;
        entry.more = None;
        self.enqueue(index);
    }

    /// The oldest request.
    pub(crate) fn oldest(&self) -> Option<&Entry> {
        self.live().min_by_key(|entry| entry.sequence)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        let next_id = self.next_id;
        *self = Self::new();
        self.next_id = next_id;
    }

    fn live(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.stage != Stage::Ended)
    }

    /// All requests, in no order.
    fn unfinished(&self) -> impl Iterator<Item = &Request> {
        self.live().map(|entry| &entry.request)
    }

    /// Requests in order of submission, as they must be carried to another node.
    pub(crate) fn all(&self) -> Vec<Request> {
        let mut entries: Vec<&Entry> = self.live().collect();
        entries.sort_unstable_by_key(|entry| entry.sequence);
        entries.into_iter().map(|entry| entry.request).collect()
    }

    /// Everything, for a test that failed.
    #[cfg(test)]
    pub(crate) fn describe(&self) -> alloc::string::String {
        alloc::format!("{:?}", self.live().collect::<Vec<_>>())
    }
}

/// Where a group's leader is.
pub(crate) fn index_of(group: u64) -> u16 {
    let [low, high, ..] = group.to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Lba, RequestId};

    fn request(id: u64, operation: Operation, lba: u64, sectors: u32) -> Request {
        Request { id: RequestId(id), operation, lba: Lba(lba), sectors }
    }

    fn index(queue: &RequestQueue, id: u64) -> u16 {
        index_of(queue.live().find(|it| it.request.id.0 == id).unwrap().group_id)
    }

    fn finish(queue: &mut RequestQueue, id: u64) {
        queue.finish(index(queue, id)).unwrap();
    }

    #[test]
    fn overlap_and_flush_rules() {
        let mut queue = RequestQueue::new();
        for (id, operation, lba, sectors) in [
            (1, Operation::Write, 0, 8),
            (2, Operation::Write, 4, 8),
            (3, Operation::Flush, 0, 0),
            (4, Operation::Read, 20, 1),
            (5, Operation::Read, 11, 1),
            (6, Operation::Discard, 100, 1),
        ] {
            queue.submit(request(id, operation, lba, sectors), 0).unwrap();
        }
        let started = |queue: &mut RequestQueue| queue.start_next(|_| true).map(|it| it.request.id.0);
        assert_eq!(started(&mut queue), Some(1));
        assert_eq!(started(&mut queue), Some(4), "2 overlaps 1, 3 waits for both");
        assert_eq!(started(&mut queue), Some(6), "5 overlaps 2");
        assert_eq!(started(&mut queue), None);
        finish(&mut queue, 1);
        assert_eq!(started(&mut queue), Some(2));
        assert_eq!(started(&mut queue), None);
        finish(&mut queue, 2);
        assert_eq!(started(&mut queue), Some(3), "6 came after the flush");
        assert_eq!(started(&mut queue), Some(5));
        assert!(!queue.has_ready());
        assert_eq!(queue.all().len(), 4);
    }

    #[test]
    fn neighbours_are_joined_and_restarted() {
        let mut queue = RequestQueue::new();
        for (id, lba) in [(1, 0), (2, 16), (3, 8), (4, 8)] {
            queue.submit(request(id, Operation::Write, lba, 8), id).unwrap();
        }
        let first = queue.start_next(|_| true).unwrap();
        assert_eq!((first.request, first.alone), (request(1, Operation::Write, 0, 8), false));
        let next = |queue: &mut RequestQueue, lba, most| {
            queue.start_adjacent(1, Operation::Write, lba, most, |_| true).map(|it| it.id.0)
        };
        assert_eq!(next(&mut queue, 8, 7), None);
        assert_eq!(next(&mut queue, 8, 8), Some(3), "4 waits for it");
        assert_eq!(next(&mut queue, 16, 8), Some(2));
        queue.restart(index(&queue, 3));
        assert_eq!(next(&mut queue, 8, 8), None, "by itself");
        let again = queue.start_next(|_| true).unwrap();
        assert_eq!((again.request, again.alone), (request(3, Operation::Write, 8, 8), true));
        assert_eq!(queue.oldest().map(|it| (it.request.id.0, it.submitted_ns)), Some((1, 1)));
    }

    #[test]
    fn bad_requests() {
        let mut queue = RequestQueue::new();
        let mut submit = |request| queue.submit(request, 0);
        assert_eq!(submit(request(1, Operation::Read, 0, 0)), Err(SubmitError::BadLength));
        assert_eq!(submit(request(1, Operation::Flush, 0, 1)), Err(SubmitError::BadLength));
        let long = REQUEST_SECTORS_MAX + 1;
        assert_eq!(submit(request(1, Operation::Write, 0, long)), Err(SubmitError::BadLength));
        for id in 0..REQUESTS_MAX as u64 {
            submit(request(id, Operation::Discard, id * u64::from(long), long)).unwrap();
        }
        assert_eq!(submit(request(999, Operation::Read, 0, 1)), Err(SubmitError::Full));
        finish(&mut queue, 1);
        assert_eq!(queue.submit(request(5, Operation::Read, 0, 1), 0), Err(SubmitError::DuplicateId));
    }
}
