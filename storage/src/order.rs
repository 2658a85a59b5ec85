//! Which request may start when: overlap and flush rules in one place.

use alloc::vec::Vec;

use crate::block::{Operation, Request, RequestId, SubmitError};
use crate::limits::{RANGE_SECTORS_MAX, REQUEST_SECTORS_MAX, REQUESTS_MAX};
use crate::planted::{Bug, planted};

mod counts;
mod entry;

use counts::Counts;
pub(crate) use entry::{Entry, Member, Stage};
use entry::{More, NOWHERE};

/// Bits of a group's name that are its place.
const PLACE_BITS: u32 = 16;
/// So few requests are looked at one by one.
const FEW: usize = 4;
/// So many of those that may be started next are looked at for one to be joined:
/// whoever writes or reads on submits the next piece soon.
const NEIGHBOURS: usize = 4;

/// Unfinished requests.
pub(crate) struct Order {
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
    /// Heap that they take at most: a list, what few of them have, and counts.
    pub(crate) const HEAP_BYTES_MAX: usize = REQUESTS_MAX * size_of::<Entry>()
        + REQUESTS_MAX * (size_of::<More>() + 4 * size_of::<Member>())
        + Counts::HEAP_BYTES;

    pub(crate) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            free: NOWHERE,
            first: NOWHERE,
            last: NOWHERE,
            ready: 0,
            live: 0,
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

    fn get_mut(&mut self, place: u16) -> Option<&mut Entry> {
        self.entries.get_mut(usize::from(place))
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
        let blockers = if alike { self.look(&request)? } else { 0 };
        let place = self.append(request, blockers, now_ns);
        self.live = self.live.wrapping_add(1);
        if blockers > 0 {
            self.blocked = self.blocked.wrapping_add(1);
            return Ok(());
        }
        // None is newer.
        match self.entries.get_mut(usize::from(self.last)) {
            Some(last) => last.after = place,
            None => self.first = place,
        }
        self.last = place;
        self.ready = self.ready.wrapping_add(1);
        Ok(())
    }

    /// Looks for one of the same name, and counts those that it waits for. It has been
    /// counted, if there are counts.
    #[inline(never)]
    fn look(&mut self, request: &Request) -> Result<u16, SubmitError> {
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

    /// Takes a request in; returns its place.
    #[inline(always)]
    fn append(&mut self, request: Request, blockers: u16, now_ns: u64) -> u16 {
        if self.free == NOWHERE {
            self.grow(request);
        }
        let place = self.free;
        self.next_name = self.next_name.wrapping_add(1);
        let name = (self.next_name << PLACE_BITS) | u64::from(place);
        if let Some(entry) = self.entries.get_mut(usize::from(place)) {
            self.free = entry.after;
            entry.name = name;
            entry.sequence = name;
            entry.request = request;
            entry.submitted_ns = now_ns;
            entry.after = NOWHERE;
            entry.blockers = blockers;
            entry.stage = Stage::Waiting;
            entry.alone = false;
        }
        place
    }

    /// One more place.
    #[cold]
    fn grow(&mut self, request: Request) {
        // There are REQUESTS_MAX at most.
        self.free = u16::try_from(self.entries.len()).unwrap_or(NOWHERE);
        self.entries.push(Entry::new(request));
    }

    /// Puts one that waits for nothing where it belongs.
    fn enqueue(&mut self, place: u16) {
        let Some(sequence) = self.get(place).map(|entry| entry.sequence) else { return };
        let (mut before, mut after) = (NOWHERE, self.first);
        while let Some(entry) = self.get(after).filter(|entry| entry.sequence < sequence) {
            (before, after) = (after, entry.after);
        }
        if let Some(entry) = self.get_mut(place) {
            entry.after = after;
        }
        match self.get_mut(before) {
            Some(entry) => entry.after = place,
            None => self.first = place,
        }
        if after == NOWHERE {
            self.last = place;
        }
        self.ready = self.ready.wrapping_add(1);
    }

    /// Takes one out of those that may be started; `before` is there, or it is the first.
    fn dequeue(&mut self, before: u16, place: u16) {
        let after = self.get(place).map_or(NOWHERE, |entry| entry.after);
        match self.get_mut(before) {
            Some(entry) => entry.after = after,
            None => self.first = after,
        }
        if self.last == place {
            self.last = before;
        }
        self.ready = self.ready.wrapping_sub(1);
    }

    /// The first of the next `most` that may be started which is wanted, and the one
    /// before it.
    fn find(&self, most: usize, wanted: impl Fn(&Entry) -> bool) -> Option<(u16, u16)> {
        let (mut before, mut place) = (NOWHERE, self.first);
        for _ in 0..most {
            let entry = self.get(place)?;
            if wanted(entry) {
                return Some((before, place));
            }
            (before, place) = (place, entry.after);
        }
        None
    }

    /// The leader of a group that has not ended.
    pub(crate) fn leader(&mut self, group: u64) -> Option<&mut Entry> {
        let entry = self.get_mut(place_of(group)).filter(|entry| entry.name == group)?;
        entry.lead_as_usual();
        Some(entry)
    }

    /// The same, to look at.
    pub(crate) fn group(&self, group: u64) -> Option<&Entry> {
        self.get(place_of(group)).filter(|entry| entry.name == group)
    }

    /// The name of the group that a request leads.
    pub(crate) fn name(&self, place: u16) -> Option<u64> {
        self.get(place).filter(|entry| entry.stage != Stage::Ended).map(|entry| entry.name)
    }

    /// Starts the oldest request that waits for nothing and that `allowed` admits: it
    /// leads a group.
    pub(crate) fn start_next(&mut self, allowed: impl Fn(&Request) -> bool) -> Option<&mut Entry> {
        let (before, place) = self.find(usize::MAX, |entry| allowed(&entry.request))?;
        self.dequeue(before, place);
        let entry = self.get_mut(place)?;
        entry.stage = Stage::Leads;
        Some(entry)
    }

    /// The request whose turn it is, unless any of the next could be joined with it.
    #[inline(always)]
    pub(crate) fn turn(&self) -> Option<&Request> {
        let entry = self.get(self.first)?;
        (entry.after == NOWHERE || !self.has_neighbour(entry)).then_some(&entry.request)
    }

    /// Starts the request whose turn it is, all of it in one piece.
    #[inline(always)]
    pub(crate) fn start_whole(&mut self) -> Option<&Entry> {
        let place = self.first;
        let after = self.get(place)?.after;
        self.first = after;
        if after == NOWHERE {
            self.last = NOWHERE;
        }
        self.ready = self.ready.wrapping_sub(1);
        let entry = self.entries.get_mut(usize::from(place))?;
        entry.stage = Stage::Whole;
        Some(entry)
    }

    /// Whether any of the next continues one that may be started.
    fn has_neighbour(&self, entry: &Entry) -> bool {
        let (operation, end) = (entry.request.operation, entry.request.end());
        let mut place = entry.after;
        for _ in 0..NEIGHBOURS {
            let Some(entry) = self.get(place) else { return false };
            if entry.request.lba.0 == end && entry.request.operation == operation {
                return true;
            }
            place = entry.after;
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
        let (before, place) = self.find(NEIGHBOURS, |entry| {
            let request = &entry.request;
            request.lba.0 == lba
                && request.operation == operation
                && request.sectors <= sectors_max
                && !entry.alone
                && allowed(request)
        })?;
        self.dequeue(before, place);
        let entry = self.get_mut(place)?;
        entry.stage = Stage::Follows(place_of(leader));
        let Request { id, sectors, .. } = entry.request;
        Some(Member { id, place, first: 0, sectors })
    }

    /// Whether anything may be started.
    pub(crate) const fn has_ready(&self) -> bool {
        self.ready > 0
    }

    /// Ends a request; also tells when it was submitted.
    #[inline]
    pub(crate) fn finish(&mut self, place: u16) -> Option<(Request, u64)> {
        let entry = self.get(place)?;
        let (stage, blockers) = (entry.stage, entry.blockers);
        match stage {
            Stage::Ended => return None,
            Stage::Waiting if blockers > 0 => self.blocked = self.blocked.wrapping_sub(1),
            Stage::Waiting => {
                let name = entry.name;
                if let Some((before, place)) = self.find(usize::MAX, |entry| entry.name == name) {
                    self.dequeue(before, place);
                }
            }
            Stage::Whole | Stage::Leads | Stage::Follows(_) => {}
        }
        let Entry { request, submitted_ns, .. } = *self.get(place)?;
        self.end(place);
        Some((request, submitted_ns))
    }

    /// Ends a request that went out in one piece, and has come back well.
    #[inline(always)]
    pub(crate) fn finish_whole(&mut self, group: u64) -> Option<(RequestId, u64)> {
        let place = place_of(group);
        let entry = self.get(place)?;
        if entry.name != group || entry.stage != Stage::Whole {
            return None;
        }
        let (id, submitted_ns) = (entry.request.id, entry.submitted_ns);
        self.end(place);
        Some((id, submitted_ns))
    }

    /// Makes a place free.
    #[inline(always)]
    fn end(&mut self, place: u16) {
        let Some(entry) = self.entries.get_mut(usize::from(place)) else { return };
        if let Some(counts) = &mut self.counts {
            counts.take(&entry.request);
        }
        entry.stage = Stage::Ended;
        entry.name = 0;
        entry.blockers = 0;
        entry.after = self.free;
        self.free = place;
        self.live = self.live.wrapping_sub(1);
        if self.blocked > 0 {
            self.unblock(place);
        }
    }

    /// Those that came later than this one, which has ended, wait for one request less.
    #[inline(never)]
    fn unblock(&mut self, done: u16) {
        let Some(Entry { request, sequence, .. }) = self.get(done) else { return };
        let (done, sequence) = (*request, *sequence);
        for place in 0..u16::try_from(self.entries.len()).unwrap_or(NOWHERE) {
            if let Some(entry) = self.get_mut(place)
                && entry.blockers > 0
                && entry.sequence > sequence
                && waits(&entry.request, &done)
            {
                entry.blockers = entry.blockers.wrapping_sub(1);
                if entry.blockers == 0 {
                    self.blocked = self.blocked.wrapping_sub(1);
                    self.enqueue(place);
                }
            }
        }
    }

    /// Puts a started request back, to be tried by itself.
    pub(crate) fn restart(&mut self, place: u16) {
        self.next_name = self.next_name.wrapping_add(1);
        let name = (self.next_name << PLACE_BITS) | u64::from(place);
        let Some(entry) = self.get_mut(place) else { return };
        if !matches!(entry.stage, Stage::Whole | Stage::Leads | Stage::Follows(_)) {
            return;
        }
        // What is under way for the old name is nobody's.
        entry.name = name;
        entry.stage = Stage::Waiting;
        entry.alone = true;
        entry.more = None;
        self.enqueue(place);
    }

    /// The oldest request.
    pub(crate) fn oldest(&self) -> Option<&Entry> {
        self.live().min_by_key(|entry| entry.sequence)
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        let next_name = self.next_name;
        *self = Self::new();
        self.next_name = next_name;
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
        assert!(!order.has_ready());
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
