//! Which request may start when: overlap and flush rules in one place.

use alloc::vec::Vec;

use crate::block::{Operation, Request, RequestId, SubmitError};
use crate::limits::{RANGE_SECTORS_MAX, REQUEST_SECTORS_MAX, REQUESTS_MAX};
use crate::planted::{Bug, planted};
use crate::requests::Fragment;

mod counts;
mod entry;

use counts::Counts;
use entry::NOWHERE;
pub(crate) use entry::{Entry, Member, Stage};

/// Bits of a group's name that are its place.
const PLACE_BITS: u32 = 16;
/// So few requests are looked at one by one.
const FEW: usize = 4;

/// Unfinished requests in order of submission.
pub(crate) struct Order {
    /// In no order; ended ones are used again.
    entries: Vec<Entry>,
    free: Vec<u16>,
    oldest: u16,
    newest: u16,
    /// No entry before this one waits to be started.
    first: u16,
    live: usize,
    waiting: usize,
    /// Entries that wait for others.
    blocked: usize,
    next_name: u64,
    /// Kept from the time on when there are more than a few.
    counts: Option<Counts>,
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
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            oldest: NOWHERE,
            newest: NOWHERE,
            first: NOWHERE,
            live: 0,
            waiting: 0,
            blocked: 0,
            next_name: 0,
            counts: None,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.live
    }

    fn get(&self, place: u16) -> Option<&Entry> {
        self.entries.get(usize::from(place))
    }

    pub(crate) fn get_mut(&mut self, place: u16) -> Option<&mut Entry> {
        self.entries.get_mut(usize::from(place))
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
        if self.live >= REQUESTS_MAX {
            return Err(SubmitError::Full);
        }
        let clear = |counts: &Counts| !counts.may_have(&request) && !counts.may_block(&request);
        let blockers =
            if self.live == 0 || self.counts.as_ref().is_some_and(clear) { 0 } else { self.look(&request)? };
        if let Some(counts) = &mut self.counts {
            counts.add(&request);
            counts.add_waiting(&request);
        } else if self.live >= FEW {
            self.begin_counts(&request);
        }
        let place = self.append(request, blockers, now_ns);
        self.blocked = self.blocked.wrapping_add(usize::from(blockers > 0));
        if self.waiting == 0 {
            self.first = place;
        }
        self.waiting = self.waiting.wrapping_add(1);
        self.live = self.live.wrapping_add(1);
        Ok(())
    }

    /// Looks for one of the same name, and counts those that it waits for.
    #[inline(never)]
    fn look(&self, request: &Request) -> Result<u16, SubmitError> {
        let counts = self.counts.as_ref();
        if counts.is_none_or(|counts| counts.may_have(request))
            && self.unfinished().any(|it| it.id == request.id)
        {
            return Err(SubmitError::DuplicateId);
        }
        if counts.is_some_and(|counts| !counts.may_block(request)) {
            return Ok(0);
        }
        Ok(self.unfinished().fold(0u16, |sum, it| sum.saturating_add(u16::from(waits(request, it)))))
    }

    /// Counts what is there, and one more that will wait.
    #[cold]
    fn begin_counts(&mut self, more: &Request) {
        let mut counts = Counts::new();
        for entry in self.live() {
            counts.add(&entry.request);
            if entry.stage == Stage::Waiting {
                counts.add_waiting(&entry.request);
            }
        }
        counts.add(more);
        counts.add_waiting(more);
        self.counts = Some(counts);
    }

    /// Puts a request behind all others; returns its place.
    #[inline]
    fn append(&mut self, request: Request, blockers: u16, now_ns: u64) -> u16 {
        let newest = self.newest;
        let place = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry::new(request));
            // There are REQUESTS_MAX at most.
            u16::try_from(self.entries.len().wrapping_sub(1)).unwrap_or(NOWHERE)
        });
        self.next_name = self.next_name.wrapping_add(1);
        let name = (self.next_name << PLACE_BITS) | u64::from(place);
        if let Some(entry) = self.get_mut(place) {
            entry.name = name;
            entry.request = request;
            entry.submitted_ns = now_ns;
            entry.before = newest;
            entry.after = NOWHERE;
            entry.blockers = blockers;
            entry.stage = Stage::Waiting;
            entry.alone = false;
        }
        match self.get_mut(newest) {
            Some(entry) => entry.after = place,
            None => self.oldest = place,
        }
        self.newest = place;
        place
    }

    /// Starts the first of the waiting requests that is wanted: it leads a group.
    fn start(&mut self, wanted: impl Fn(&Entry) -> bool) -> Option<&mut Entry> {
        if self.waiting == 0 {
            return None;
        }
        let mut place = self.first;
        loop {
            let entry = self.get(place)?;
            if entry.stage == Stage::Waiting && entry.blockers == 0 && wanted(entry) {
                break;
            }
            place = entry.after;
        }
        self.waiting = self.waiting.wrapping_sub(1);
        let entry = self.entries.get_mut(usize::from(place))?;
        entry.stage = Stage::Leads;
        if place == self.first {
            self.first = entry.after;
        }
        if let Some(counts) = &mut self.counts {
            counts.take_waiting(&entry.request);
        }
        Some(entry)
    }

    /// The leader of a group that has not ended.
    pub(crate) fn leader(&mut self, group: u64) -> Option<&mut Entry> {
        self.get_mut(place_of(group)).filter(|entry| entry.name == group)
    }

    /// The same, to look at.
    pub(crate) fn group(&self, group: u64) -> Option<&Entry> {
        self.get(place_of(group)).filter(|entry| entry.name == group)
    }

    /// Starts the oldest request that waits for nothing and that `allowed` admits.
    pub(crate) fn start_next(&mut self, allowed: impl Fn(&Request) -> bool) -> Option<&mut Entry> {
        self.start(|entry| allowed(&entry.request))
    }

    /// Starts the request whose turn it is, and all of it as one fragment: if it waits for
    /// nothing, is `usual`, and nothing that waits could be joined with it.
    #[inline(always)]
    pub(crate) fn start_whole(&mut self, usual: impl FnOnce(&Request) -> bool) -> Option<&mut Entry> {
        if self.waiting == 0 {
            return None;
        }
        let entry = self.entries.get_mut(usize::from(self.first))?;
        if entry.stage != Stage::Waiting || entry.blockers > 0 || !usual(&entry.request) {
            return None;
        }
        match &mut self.counts {
            Some(counts) => {
                if self.waiting > 1 && counts.may_wait_at(entry.request.end()) {
                    return None;
                }
                counts.take_waiting(&entry.request);
            }
            None if self.waiting > 1 => return None,
            None => {}
        }
        self.waiting = self.waiting.wrapping_sub(1);
        self.first = entry.after;
        entry.stage = Stage::Leads;
        Some(entry)
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
        if !self.may_wait_at(lba) {
            return None;
        }
        let entry = self.start(|entry| {
            let request = &entry.request;
            request.lba.0 == lba
                && request.operation == operation
                && request.sectors <= sectors_max
                && !entry.alone
                && allowed(request)
        })?;
        entry.stage = Stage::Follows(place_of(leader));
        let Request { id, sectors, .. } = entry.request;
        Some(Member { id, place: place_of(entry.name), first: 0, sectors })
    }

    /// Whether anything has not been started.
    pub(crate) const fn has_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// Whether one that begins there may wait to be started.
    #[inline]
    pub(crate) fn may_wait_at(&self, lba: u64) -> bool {
        self.counts.as_ref().is_none_or(|counts| counts.may_wait_at(lba))
    }

    /// Whether more than one has not been started.
    pub(crate) const fn has_others_waiting(&self) -> bool {
        self.waiting > 1
    }

    /// Ends a request; also tells when it was submitted.
    #[inline(always)]
    pub(crate) fn finish(&mut self, place: u16) -> Option<(Request, u64)> {
        let entry = self.entries.get_mut(usize::from(place))?;
        let (before, after) = (entry.before, entry.after);
        let (done, submitted_ns) = (entry.request, entry.submitted_ns);
        match entry.stage {
            Stage::Ended => return None,
            Stage::Waiting => {
                self.waiting = self.waiting.wrapping_sub(1);
                if let Some(counts) = &mut self.counts {
                    counts.take_waiting(&done);
                }
            }
            Stage::Leads | Stage::Follows(_) => {}
        }
        if entry.blockers > 0 {
            self.blocked = self.blocked.wrapping_sub(1);
        }
        entry.stage = Stage::Ended;
        entry.name = 0;
        self.unlink(place, before, after);
        if let Some(counts) = &mut self.counts {
            counts.take(&done);
        }
        if self.blocked > 0 {
            self.unblock(after, &done);
        }
        Some((done, submitted_ns))
    }

    /// Ends a request that went out in one piece, and has come back well.
    #[inline(always)]
    pub(crate) fn finish_whole(&mut self, fragment: &Fragment) -> Option<(RequestId, u64)> {
        let place = place_of(fragment.group);
        let entry = self.entries.get_mut(usize::from(place))?;
        if entry.name != fragment.group || !entry.ends_with(fragment) || self.blocked > 0 {
            return None;
        }
        let (id, submitted_ns) = (entry.request.id, entry.submitted_ns);
        if let Some(counts) = &mut self.counts {
            counts.take(&entry.request);
        }
        entry.stage = Stage::Ended;
        entry.name = 0;
        let (before, after) = (entry.before, entry.after);
        self.unlink(place, before, after);
        Some((id, submitted_ns))
    }

    /// Takes an entry out of the order of submission.
    #[inline(always)]
    fn unlink(&mut self, place: u16, before: u16, after: u16) {
        if self.first == place {
            self.first = after;
        }
        match self.get_mut(before) {
            Some(entry) => entry.after = after,
            None => self.oldest = after,
        }
        match self.get_mut(after) {
            Some(entry) => entry.before = before,
            None => self.newest = before,
        }
        self.free.push(place);
        self.live = self.live.wrapping_sub(1);
    }

    /// Those from `place` on wait for one request less.
    #[inline(never)]
    fn unblock(&mut self, mut place: u16, done: &Request) {
        let mut free = 0;
        while let Some(entry) = self.get_mut(place) {
            if entry.blockers > 0 && waits(&entry.request, done) {
                entry.blockers = entry.blockers.wrapping_sub(1);
                free += usize::from(entry.blockers == 0);
            }
            place = entry.after;
        }
        self.blocked = self.blocked.wrapping_sub(free);
    }

    /// Puts a started request back, to be tried by itself.
    pub(crate) fn restart(&mut self, place: u16) {
        self.next_name = self.next_name.wrapping_add(1);
        let name = (self.next_name << PLACE_BITS) | u64::from(place);
        let Some(entry) = self.entries.get_mut(usize::from(place)) else { return };
        if !matches!(entry.stage, Stage::Leads | Stage::Follows(_)) {
            return;
        }
        // What is under way for the old name is nobody's.
        entry.name = name;
        entry.stage = Stage::Waiting;
        entry.alone = true;
        entry.more = None;
        self.waiting = self.waiting.wrapping_add(1);
        if let Some(counts) = &mut self.counts {
            counts.add_waiting(&entry.request);
        }
        // Whoever waits is looked for from the beginning.
        self.first = self.oldest;
    }

    /// The oldest request.
    pub(crate) fn oldest(&self) -> Option<&Entry> {
        self.get(self.oldest)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        let next_name = self.next_name;
        *self = Self::new();
        self.next_name = next_name;
    }

    fn live(&self) -> impl Iterator<Item = &Entry> {
        core::iter::successors(self.get(self.oldest), |entry| self.get(entry.after))
    }

    /// Requests in order of submission.
    fn unfinished(&self) -> impl Iterator<Item = &Request> {
        self.live().map(|entry| &entry.request)
    }

    /// The same, as they must be carried to another node.
    pub(crate) fn all(&self) -> Vec<Request> {
        self.unfinished().copied().collect()
    }

    /// Everything, for a test that failed.
    #[cfg(test)]
    pub(crate) fn describe(&self) -> alloc::string::String {
        alloc::format!("{:?}", self.live().collect::<Vec<_>>())
    }
}

/// Where a group's leader is.
pub(crate) fn place_of(group: u64) -> u16 {
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

    fn place(order: &Order, id: u64) -> u16 {
        place_of(order.live().find(|it| it.request.id.0 == id).unwrap().name)
    }

    fn finish(order: &mut Order, id: u64) {
        order.finish(place(order, id)).unwrap();
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
        finish(&mut order, 1);
        assert_eq!(started(&mut order), Some(2));
        assert_eq!(started(&mut order), None);
        finish(&mut order, 2);
        assert_eq!(started(&mut order), Some(3), "6 came after the flush");
        assert_eq!(started(&mut order), Some(5));
        assert!(!order.has_waiting());
        assert_eq!(order.all().len(), 4);
    }

    #[test]
    fn neighbours_are_found_and_put_back() {
        let mut order = Order::new();
        for (id, lba) in [(1, 0), (2, 16), (3, 8), (4, 8)] {
            order.submit(request(id, Operation::Write, lba, 8), id).unwrap();
        }
        let first = order.start_next(|_| true).unwrap();
        assert_eq!((first.request, first.alone), (request(1, Operation::Write, 0, 8), false));
        let next = |order: &mut Order, lba, most| {
            order.start_adjacent(1, Operation::Write, lba, most, |_| true).map(|it| it.id.0)
        };
        assert_eq!(next(&mut order, 8, 7), None);
        assert_eq!(next(&mut order, 8, 8), Some(3), "4 waits for it");
        assert_eq!(next(&mut order, 16, 8), Some(2));
        order.restart(place(&order, 3));
        assert_eq!(next(&mut order, 8, 8), None, "by itself");
        let again = order.start_next(|_| true).unwrap();
        assert_eq!((again.request, again.alone), (request(3, Operation::Write, 8, 8), true));
        assert_eq!(order.oldest().map(|it| (it.request.id.0, it.submitted_ns)), Some((1, 1)));
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
        finish(&mut order, 1);
        assert_eq!(order.submit(request(5, Operation::Read, 0, 1), 0), Err(SubmitError::DuplicateId));
    }
}
