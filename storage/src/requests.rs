//! What every session does with requests, whatever carries them: starts them in
//! order, joins neighbours, cuts them into fragments, gathers the fragments'
//! results, and acknowledges.
//!
//! A group is one or more joined requests. Fragments are ranges of a group; their
//! data is found through it, so that nothing of a finished request is ever touched.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::block::{
    BlockError, Completion, Counters, Operation, Payload, Request, RequestId, SECTOR_BYTES, SubmitError,
};
use crate::histogram::Histogram;
use crate::limits::REQUESTS_MAX;
use crate::mutants::{Mutant, mutated};
use crate::rate::{Limiter, Limits};
use crate::request_queue::{Entry, Member, RequestQueue, Stage, index_of};

mod fences;
mod shape;

pub(crate) use fences::Release;
use fences::WriteFences;
pub(crate) use shape::{Fragment, Shape};

/// The requests of one volume.
pub(crate) struct Requests {
    queue: RequestQueue,
    /// Groups that have more work than their last fragment, and maybe some that had.
    work: VecDeque<u64>,
    pub(crate) fences: WriteFences,
    /// Those before `taken` have been taken.
    completions: Vec<Completion>,
    taken: usize,
    limiter: Limiter,
    deadline_ns: Option<u64>,
    /// No request is late before then.
    late_ns: u64,
    now_ns: u64,
    pub(crate) counters: Counters,
    pub(crate) latency: Histogram,
}

impl Requests {
    /// Heap that the requests of a volume take at most: they, what few of them have, what
    /// is counted of them, write fences, and one of these lists once more while it
    /// grows.
    pub(crate) const HEAP_BYTES_MAX: usize = RequestQueue::HEAP_BYTES_MAX
        + 4 * REQUESTS_MAX * size_of::<u64>()
        + REQUESTS_MAX * size_of::<Completion>()
        + 3 * WriteFences::HEAP_BYTES_MAX / 2;

    pub(crate) fn new() -> Self {
        Self {
            queue: RequestQueue::new(),
            work: VecDeque::new(),
            fences: WriteFences::new(),
            completions: Vec::new(),
            taken: 0,
            limiter: Limiter::default(),
            deadline_ns: None,
            late_ns: u64::MAX,
            now_ns: 0,
            counters: Counters::default(),
            latency: Histogram::default(),
        }
    }

    #[inline(always)]
    pub(crate) fn submit(&mut self, request: Request, now_ns: u64) -> Result<(), SubmitError> {
        if self.queue.len().wrapping_add(self.completions.len()).wrapping_sub(self.taken) >= REQUESTS_MAX {
            return Err(SubmitError::Full);
        }
        self.queue.submit(request, now_ns)
    }

    pub(crate) fn take_completion(&mut self) -> Option<Completion> {
        let completion = *self.completions.get(self.taken)?;
        self.taken = self.taken.wrapping_add(1);
        if self.taken >= self.completions.len() {
            self.completions.clear();
            self.taken = 0;
        }
        Some(completion)
    }

    pub(crate) fn unfinished(&self) -> Vec<Request> {
        self.queue.all()
    }

    pub(crate) const fn len(&self) -> usize {
        self.queue.len()
    }

    /// Everything, for a test that failed.
    #[cfg(test)]
    pub(crate) fn describe(&self) -> alloc::string::String {
        alloc::format!("{:?} {:?} {}", self.work, self.fences, self.queue.describe())
    }

    pub(crate) fn set_limits(&mut self, limits: Limits, now_ns: u64) {
        self.limiter = Limiter::new(limits, now_ns);
    }

    /// How long a request may wait before it fails; `None` is for ever.
    pub(crate) fn set_deadline(&mut self, deadline_ns: Option<u64>) {
        self.deadline_ns = deadline_ns.filter(|_| !mutated(Mutant::DeadlineIgnored));
        self.find_late(self.now_ns);
    }

    /// Time passes. IDs of groups that ended at the policy deadline are returned:
    /// what is in flight for them must be abandoned by the session.
    pub(crate) fn poll(&mut self, now_ns: u64) -> Vec<u64> {
        self.pass_time(now_ns);
        if now_ns < self.calm_until_ns() { Vec::new() } else { self.end_late(now_ns) }
    }

    /// Time passes, before [`Self::calm_until_ns`].
    pub(crate) fn pass_time(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// Until then time changes nothing here.
    pub(crate) const fn calm_until_ns(&self) -> u64 {
        if self.fences.is_empty() { self.late_ns } else { 0 }
    }

    /// Ends requests that waited for too long.
    fn end_late(&mut self, now_ns: u64) -> Vec<u64> {
        self.fences.expire(now_ns);
        let mut ended = Vec::new();
        let Some(deadline_ns) = self.deadline_ns else { return ended };
        while let Some(oldest) = self.queue.oldest()
            && oldest.submitted_ns.saturating_add(deadline_ns) <= now_ns
        {
            let index = index_of(oldest.group_id);
            let leader = match oldest.stage {
                Stage::Whole | Stage::Leads => Some(index),
                Stage::Follows(leader) => Some(leader),
                Stage::Waiting | Stage::Ended => None,
            };
            ended.extend(leader.and_then(|leader| self.break_up(leader)));
            self.complete(index, Err(BlockError::Deadline));
        }
        self.find_late(now_ns);
        ended
    }

    /// What comes later than the oldest is late later.
    fn find_late(&mut self, now_ns: u64) {
        let since_ns = self.queue.oldest().map_or(now_ns, |oldest| oldest.submitted_ns);
        self.late_ns = self.deadline_ns.map_or(u64::MAX, |deadline_ns| since_ns.saturating_add(deadline_ns));
    }

    /// Ends a group whose requests have not ended: each will be tried by itself.
    fn break_up(&mut self, leader: u16) -> Option<u64> {
        let group_id = self.queue.group_id(leader)?;
        let more = self.queue.leader(group_id)?.more.take();
        self.queue.restart(leader);
        for member in more.iter().flat_map(|more| &more.joined) {
            self.queue.restart(member.index);
        }
        Some(group_id)
    }

    /// When time matters next.
    #[inline]
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let expiry = (self.deadline_ns.is_some() && self.queue.len() > 0).then_some(self.late_ns);
        if self.queue.has_ready() { self.find_deadline(expiry) } else { expiry }
    }

    fn find_deadline(&self, expiry: Option<u64>) -> Option<u64> {
        [expiry, self.fences.next_ns(self.now_ns), self.limiter.next_ready_ns()].into_iter().flatten().min()
    }

    /// The submitter is gone: nothing of it is remembered but what its writes may
    /// still do. The caller fences the ranges of those.
    pub(crate) fn abandon(&mut self) {
        self.queue.clear();
        self.work.clear();
        self.completions.clear();
        self.taken = 0;
    }

    /// Whether there may be a fragment to send.
    pub(crate) fn has_work(&self) -> bool {
        self.queue.has_ready() || !self.work.is_empty()
    }

    /// Whether any may be started.
    pub(crate) const fn has_ready(&self) -> bool {
        self.queue.has_ready()
    }

    /// Whether requests may take the fast path: none that has been begun is
    /// to be continued, nothing is limited.
    pub(crate) fn takes_fast_path(&self) -> bool {
        self.work.is_empty() && self.limiter.is_idle()
    }

    /// The next request to send, if it is a read or write that goes out in one piece as
    /// it is, and writes no more than so many octets. Otherwise, or unless they
    /// [take the fast path](Self::takes_fast_path), ask for the next fragment.
    #[inline(always)]
    pub(crate) fn next_whole(&mut self, shape: &Shape, octets_max: usize) -> Option<&Entry> {
        let request = self.queue.turn()?;
        let free = match request.operation {
            Operation::Read => true,
            Operation::Write => {
                octets(request.sectors) <= octets_max && !self.fences.covers(request, self.now_ns)
            }
            _ => false,
        };
        if free && shape.takes(request) { self.queue.start_whole() } else { None }
    }

    /// The next fragment to send.
    pub(crate) fn next_fragment(&mut self, shape: &Shape) -> Option<Fragment> {
        if !self.work.is_empty()
            && let Some(fragment) = self.continue_group(shape)
        {
            return Some(fragment);
        }
        while self.queue.has_ready() && self.limiter.is_ready(self.now_ns) {
            let (fences, now_ns) = (&self.fences, self.now_ns);
            let free = |request: &Request| !request.operation.writes() || !fences.covers(request, now_ns);
            let leader = self.queue.start_next(free)?;
            let (group_id, request) = (leader.group_id, leader.request);
            if let Some(result) = shape.refuses(&request) {
                self.complete(index_of(group_id), result);
                continue;
            }
            self.limiter.charge(charge(&request));
            let data = matches!(request.operation, Operation::Read | Operation::Write);
            let joins = data && !leader.alone && request.sectors < shape.data;
            leader.lead(request.sectors);
            if joins {
                self.join(group_id, &request, shape);
            }
            let leader = self.queue.leader(group_id)?;
            let fragment = leader.cut(shape.most(request.operation));
            if leader.next < leader.sectors {
                leader.listed = true;
                self.work.push_back(group_id);
            }
            return Some(fragment);
        }
        None
    }

    /// The next fragment of a group that has been begun.
    fn continue_group(&mut self, shape: &Shape) -> Option<Fragment> {
        while let Some(group_id) = self.work.front() {
            if let Some(group) = self.queue.leader(*group_id) {
                let fragment = group.has_work().then(|| group.cut(shape.most(group.request.operation)));
                let more = group.has_work();
                group.listed = more;
                if !more {
                    self.work.pop_front();
                }
                if fragment.is_some() {
                    return fragment;
                }
            } else {
                self.work.pop_front();
            }
        }
        None
    }

    /// Joins a request that has been started with those that continue it.
    fn join(&mut self, group_id: u64, request: &Request, shape: &Shape) {
        let (fences, now_ns) = (&self.fences, self.now_ns);
        let sound = |other: &Request| {
            let free = !other.operation.writes() || !fences.covers(other, now_ns);
            free && shape.refuses(other).is_none()
        };
        let mut sectors = request.sectors;
        while sectors < shape.data && self.limiter.is_ready(self.now_ns) {
            let at = request.lba.0.saturating_add(u64::from(sectors));
            let room = shape.data.saturating_sub(sectors);
            let next = self.queue.start_adjacent(group_id, request.operation, at, room, sound);
            let Some(member) = next else { return };
            self.limiter.charge(u64::from(member.sectors).saturating_mul(SECTOR_BYTES as u64));
            self.counters.merged = self.counters.merged.wrapping_add(1);
            let Some(leader) = self.queue.leader(group_id) else { return };
            leader.more.get_or_insert_default().joined.push(Member { first: sectors, ..member });
            sectors = sectors.saturating_add(member.sectors);
            leader.lead(sectors);
        }
    }

    /// A fragment succeeded.
    #[inline(always)]
    pub(crate) fn complete_fragment(&mut self, fragment: &Fragment) {
        // One request in one piece, as it mostly is.
        if let Some((id, submitted_ns)) = self.queue.finish_whole(fragment.group) {
            let octets = octets(fragment.sectors) as u64;
            let counters = &mut self.counters;
            if fragment.operation == Operation::Read {
                counters.bytes_read = counters.bytes_read.wrapping_add(octets);
            } else if fragment.operation == Operation::Write {
                counters.bytes_written = counters.bytes_written.wrapping_add(octets);
            }
            counters.completed = counters.completed.wrapping_add(1);
            self.latency.record(self.now_ns.saturating_sub(submitted_ns));
            self.completions.push(Completion { id, result: Ok(()) });
        } else {
            self.done(fragment, Ok(()));
        }
    }

    /// A fragment has ended.
    pub(crate) fn done(&mut self, fragment: &Fragment, result: Result<(), BlockError>) {
        let Some(group) = self.queue.leader(fragment.group) else { return };
        group.in_flight = group.in_flight.saturating_sub(1);
        group.unacknowledged = group.unacknowledged.saturating_sub(fragment.sectors);
        if let Err(error) = result
            && !mutated(Mutant::ErrorHidden)
        {
            group.failed = group.failed.or(Some(error));
        }
        self.advance_group(fragment.group);
    }

    /// A fragment was not carried out, or that is unknown: it is to be sent again.
    pub(crate) fn requeue(&mut self, fragment: &Fragment) {
        let Some(group) = self.queue.leader(fragment.group) else { return };
        group.in_flight = group.in_flight.saturating_sub(1);
        if group.failed.is_none() && !mutated(Mutant::ReissueForgotten) {
            group.send_again(fragment.first, fragment.sectors);
            if !core::mem::replace(&mut group.listed, true) {
                self.work.push_front(fragment.group);
            }
        }
        self.advance_group(fragment.group);
    }

    /// Ends a group whose last fragment has ended. A failed one ends only when none
    /// of its fragments can still land.
    fn advance_group(&mut self, group_id: u64) {
        let Some(group) = self.queue.leader(group_id) else { return };
        let early = mutated(Mutant::AcknowledgedEarly) && group.unacknowledged < group.sectors;
        let over = group.in_flight == 0 && (group.failed.is_some() || !group.has_work());
        if !(early || over) || (group.failed.is_none() && group.unacknowledged > 0 && !early) {
            return;
        }
        let result = group.failed.map_or(Ok(()), Err);
        match group.more.take() {
            // One of them failed: let each find out by itself.
            Some(more) if result.is_err() && !more.joined.is_empty() => {
                self.queue.restart(index_of(group_id));
                more.joined.iter().for_each(|member| self.queue.restart(member.index));
            }
            more => {
                self.complete(index_of(group_id), result);
                for member in more.iter().flat_map(|more| &more.joined) {
                    self.complete(member.index, result);
                }
            }
        }
    }

    fn complete(&mut self, index: u16, result: Result<(), BlockError>) {
        self.end(index, result);
    }

    #[inline(always)]
    fn end(&mut self, index: u16, result: Result<(), BlockError>) {
        let Some((request, submitted_ns)) = self.queue.finish(index) else { return };
        let octets = u64::from(request.sectors).saturating_mul(SECTOR_BYTES as u64);
        let counters = &mut self.counters;
        match (result, request.operation) {
            (Err(_), _) => counters.failed = counters.failed.wrapping_add(1),
            (Ok(()), Operation::Read) => counters.bytes_read = counters.bytes_read.wrapping_add(octets),
            (Ok(()), Operation::Write) => {
                counters.bytes_written = counters.bytes_written.wrapping_add(octets);
            }
            (Ok(()), _) => {}
        }
        if result.is_ok() {
            counters.completed = counters.completed.wrapping_add(1);
            self.latency.record(self.now_ns.saturating_sub(submitted_ns));
        }
        self.completions.push(Completion { id: request.id, result });
    }

    /// Copies a fragment's octets from `offset` into `target`: zeroes where there is
    /// nothing to copy from.
    pub(crate) fn load(
        &self,
        fragment: &Fragment,
        offset: usize,
        target: &mut [u8],
        payload: &mut dyn Payload,
    ) {
        if fragment.operation != Operation::Write {
            return target.fill(0);
        }
        let Some(group) = self.queue.group(fragment.group) else {
            return target.fill(0);
        };
        if let Some((id, at)) = alone(group, fragment, offset, target.len()) {
            return payload.load(id, at, target);
        }
        let mut room = target;
        for (id, at, length) in pieces(group, fragment, offset, room.len()) {
            let (piece, rest) = room.split_at_mut(length.min(room.len()));
            payload.load(id, at, piece);
            room = rest;
        }
        room.fill(0);
    }

    /// Copies octets to a fragment's place, from `offset`.
    pub(crate) fn store(&self, fragment: &Fragment, offset: usize, source: &[u8], payload: &mut dyn Payload) {
        let Some(group) = self.queue.group(fragment.group) else { return };
        if let Some((id, at)) = alone(group, fragment, offset, source.len()) {
            return payload.store(id, at, source);
        }
        let mut rest = source;
        for (id, at, length) in pieces(group, fragment, offset, source.len()) {
            let (piece, more) = rest.split_at(length.min(rest.len()));
            payload.store(id, at, piece);
            rest = more;
        }
    }
}

/// Ranges move no octets over the wire worth counting.
fn charge(request: &Request) -> u64 {
    match request.operation {
        Operation::Read | Operation::Write => u64::from(request.sectors).saturating_mul(SECTOR_BYTES as u64),
        _ => 0,
    }
}

/// Octets of so many sectors.
pub(crate) fn octets(sectors: u32) -> usize {
    usize::try_from(sectors).unwrap_or(0).saturating_mul(SECTOR_BYTES)
}

/// Where a piece of a fragment is, if its group is one request and it lies within that.
fn alone(group: &Entry, fragment: &Fragment, offset: usize, length: usize) -> Option<(RequestId, usize)> {
    // No request is so long that this could wrap.
    let at = octets(fragment.first).wrapping_add(offset);
    let within = at.wrapping_add(length) <= octets(group.request.sectors);
    (within && group.joined().is_empty()).then_some((group.request.id, at))
}

/// Which members' octets a piece of a fragment is: request, offset, length.
fn pieces(
    group: &Entry,
    fragment: &Fragment,
    offset: usize,
    length: usize,
) -> impl Iterator<Item = (RequestId, usize, usize)> {
    let from = octets(fragment.first).saturating_add(offset);
    let to = from.saturating_add(length);
    let Request { id, sectors, .. } = group.request;
    let lead = Member { id, index: index_of(group.group_id), first: 0, sectors };
    let swapped = mutated(Mutant::MergeSwapped) && !group.joined().is_empty();
    let other = group.joined().first().map_or(lead, |it| *it);
    core::iter::once(lead).chain(group.joined().iter().copied()).filter_map(move |member| {
        let begin = octets(member.first);
        let end = begin.saturating_add(octets(member.sectors));
        let (low, high) = (from.max(begin), to.min(end));
        let id = if swapped && member.sectors <= other.sectors { other.id } else { member.id };
        (low < high).then(|| (id, low.saturating_sub(begin), high.saturating_sub(low)))
    })
}

#[cfg(test)]
mod tests;
