//! What every session does with requests, whatever carries them: starts them in
//! order, joins neighbours, cuts them into fragments, gathers the fragments'
//! results, and acknowledges.
//!
//! A group is one or more joined requests. Fragments name ranges of a group; their
//! data is found through it, so that nothing of a finished request is ever touched.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::block::{
    BlockError, Completion, Counters, Operation, Payload, Request, RequestId, SECTOR_BYTES, SubmitError,
};
use crate::histogram::Histogram;
use crate::limits::REQUESTS_MAX;
use crate::order::{Order, Started};
use crate::planted::{Bug, planted};
use crate::rate::{Limiter, Limits};

mod held;

use held::Holds;
pub(crate) use held::Release;

/// What a session can carry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Sectors of the disk.
    pub(crate) capacity: u64,
    /// Sectors of a block: the unit of every address and length.
    pub(crate) block: u32,
    /// Most sectors of a read or write.
    pub(crate) data: u32,
    /// Most sectors of a discard; zero when there is none.
    pub(crate) discard: u32,
    /// Most sectors of a write of zeroes.
    pub(crate) zeroes: u32,
}

/// A part of a group, given to the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) group: u64,
    pub(crate) operation: Operation,
    /// First sector on the disk.
    pub(crate) lba: u64,
    /// First sector within the group.
    pub(crate) first: u32,
    pub(crate) sectors: u32,
}

impl Fragment {
    /// Octets of payload.
    pub(crate) fn octets(&self) -> usize {
        usize::try_from(self.sectors).unwrap_or(0).saturating_mul(SECTOR_BYTES)
    }
}

#[derive(Clone, Copy, Debug)]
struct Member {
    id: RequestId,
    /// Its place in the order.
    number: u64,
    first: u32,
    sectors: u32,
}

/// Requests under way together.
#[derive(Debug)]
struct Group {
    name: u64,
    operation: Operation,
    lba: u64,
    /// First sector not yet in a fragment, and the end.
    next: u32,
    sectors: u32,
    /// Ranges (first, count) to be sent again.
    again: Vec<(u32, u32)>,
    unacknowledged: u32,
    in_flight: u32,
    failed: Option<BlockError>,
    lead: Member,
    joined: Vec<Member>,
}

impl Group {
    fn has_work(&self) -> bool {
        let fresh = self.next < self.sectors || (self.sectors == 0 && self.next == 0);
        self.failed.is_none() && (fresh || !self.again.is_empty())
    }

    fn members(&self) -> impl Iterator<Item = Member> {
        core::iter::once(self.lead).chain(self.joined.iter().copied())
    }
}

/// The requests of one volume.
pub(crate) struct Requests {
    order: Order,
    /// In the order of their names, with gaps.
    groups: VecDeque<Group>,
    /// No group before this one has work.
    work_from: usize,
    next_name: u64,
    pub(crate) held: Holds,
    completions: VecDeque<Completion>,
    limiter: Limiter,
    deadline_ns: Option<u64>,
    now_ns: u64,
    pub(crate) counters: Counters,
    pub(crate) latency: Histogram,
}

impl Requests {
    pub(crate) fn new() -> Self {
        Self {
            order: Order::new(),
            groups: VecDeque::new(),
            work_from: 0,
            next_name: 0,
            held: Holds::new(),
            completions: VecDeque::new(),
            limiter: Limiter::default(),
            deadline_ns: None,
            now_ns: 0,
            counters: Counters::default(),
            latency: Histogram::default(),
        }
    }

    pub(crate) fn submit(&mut self, request: Request, now_ns: u64) -> Result<(), SubmitError> {
        if self.order.len().saturating_add(self.completions.len()) >= REQUESTS_MAX {
            return Err(SubmitError::Full);
        }
        self.order.submit(request, now_ns)
    }

    pub(crate) fn take_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    pub(crate) fn unfinished(&self) -> Vec<Request> {
        self.order.unfinished()
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Everything, for a test that failed.
    #[cfg(test)]
    pub(crate) fn describe(&self) -> alloc::string::String {
        let (groups, held) = (&self.groups, &self.held);
        let waiting = self.order.unfinished();
        alloc::format!("{groups:?} {held:?} of {waiting:?}")
    }

    pub(crate) fn set_limits(&mut self, limits: Limits, now_ns: u64) {
        self.limiter = Limiter::new(limits, now_ns);
    }

    /// How long a request may wait before it fails; `None` is for ever.
    pub(crate) fn set_deadline(&mut self, deadline_ns: Option<u64>) {
        self.deadline_ns = deadline_ns;
    }

    /// Time passes. Names of groups that ended at the policy deadline are returned:
    /// what is in flight for them must be abandoned by the session.
    pub(crate) fn poll(&mut self, now_ns: u64) -> Vec<u64> {
        self.now_ns = self.now_ns.max(now_ns);
        self.held.expire(now_ns);
        let mut ended = Vec::new();
        let Some(deadline_ns) = self.deadline_ns.filter(|_| !planted(Bug::DeadlineIgnored)) else {
            return ended;
        };
        while let Some((number, submitted_ns)) = self.order.oldest()
            && submitted_ns.saturating_add(deadline_ns) <= now_ns
        {
            let group = self.groups.iter().position(|it| it.members().any(|it| it.number == number));
            if let Some(group) = group.and_then(|index| self.remove(index)) {
                for member in group.members().filter(|it| it.number != number) {
                    self.order.restart(member.number);
                }
                ended.push(group.name);
            }
            self.complete(number, Err(BlockError::Deadline));
        }
        ended
    }

    /// When time matters next.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let expiry =
            self.deadline_ns.and_then(|deadline_ns| Some(self.order.oldest()?.1.saturating_add(deadline_ns)));
        if !self.order.has_waiting() {
            return expiry;
        }
        [expiry, self.held.next_ns(self.now_ns), self.limiter.next_ready_ns()].into_iter().flatten().min()
    }

    /// The submitter is gone: nothing of it is remembered but what its writes may
    /// still do. The caller holds the ranges of those.
    pub(crate) fn abandon(&mut self) {
        self.order.clear();
        self.groups.clear();
        self.work_from = 0;
        self.completions.clear();
    }

    /// Whether there may be a fragment to send.
    pub(crate) fn has_work(&self) -> bool {
        self.order.has_waiting() || self.work_from < self.groups.len()
    }

    /// The next fragment to send.
    pub(crate) fn next_fragment(&mut self, shape: &Shape) -> Option<Fragment> {
        loop {
            let from = self.work_from.min(self.groups.len());
            if let Some(index) = self.groups.range(from..).position(Group::has_work) {
                let index = from.saturating_add(index);
                let fragment = self.cut(index, shape);
                let more = self.groups.get(index).is_some_and(Group::has_work);
                self.work_from = index.saturating_add(usize::from(!more));
                return fragment;
            }
            self.work_from = self.groups.len();
            self.start(shape)?;
        }
    }

    /// Takes a group out.
    fn remove(&mut self, index: usize) -> Option<Group> {
        if index < self.work_from {
            self.work_from = self.work_from.saturating_sub(1);
        }
        if index == 0 { self.groups.pop_front() } else { self.groups.remove(index) }
    }

    fn cut(&mut self, index: usize, shape: &Shape) -> Option<Fragment> {
        let group = self.groups.get_mut(index)?;
        let limit = match group.operation {
            Operation::Discard => shape.discard,
            Operation::WriteZeroes => shape.zeroes,
            _ => shape.data,
        };
        // Whole blocks, one at least.
        let limit = (limit / shape.block.max(1)).max(1).saturating_mul(shape.block.max(1));
        group.in_flight = group.in_flight.saturating_add(1);
        let (first, sectors) = if let Some((first, count)) = group.again.pop() {
            if count > limit {
                group.again.push((first.saturating_add(limit), count - limit));
            }
            (first, count.min(limit))
        } else {
            let first = group.next;
            let count = group.sectors.saturating_sub(first).min(limit);
            // A flush has no sectors: its one fragment is out when `next` moves.
            group.next = first.saturating_add(count.max(1));
            (first, count)
        };
        let skew = u64::from(planted(Bug::SplitOffByOne) && first > 0);
        Some(Fragment {
            group: group.name,
            operation: group.operation,
            lba: group.lba.saturating_add(u64::from(first)).saturating_add(skew),
            first,
            sectors,
        })
    }

    fn start(&mut self, shape: &Shape) -> Option<()> {
        if !self.order.has_waiting() || !self.limiter.is_ready(self.now_ns) {
            return None;
        }
        let (held, now_ns) = (&self.held, self.now_ns);
        let free = |request: &Request| !request.operation.writes() || !held.covers(request, now_ns);
        let Started { number, request, joins } = self.order.start_next(free)?;
        let lead = Member { id: request.id, number, first: 0, sectors: request.sectors };
        let block = u64::from(shape.block.max(1));
        let aligned = request.lba.0.is_multiple_of(block) && u64::from(request.sectors).is_multiple_of(block);
        let refused = match request.operation {
            Operation::Flush if planted(Bug::FlushSkipped) => Some(Ok(())),
            Operation::Flush => None,
            _ if request.end() > shape.capacity => Some(Err(BlockError::OutOfRange)),
            Operation::Discard if shape.discard == 0 => Some(Err(BlockError::Unsupported)),
            _ if !aligned => Some(Err(BlockError::Unsupported)),
            Operation::WriteZeroes if planted(Bug::ZeroesSkipped) => Some(Ok(())),
            _ => None,
        };
        if let Some(result) = refused {
            self.complete(number, result);
            return Some(());
        }
        let octets = |request: &Request| u64::from(request.sectors).saturating_mul(SECTOR_BYTES as u64);
        // Ranges move no octets over the wire worth counting.
        let charge = |request: &Request| match request.operation {
            Operation::Read | Operation::Write => octets(request),
            _ => 0,
        };
        self.limiter.charge(charge(&request));
        let (mut sectors, mut joined) = (request.sectors, Vec::new());
        let joins = joins && matches!(request.operation, Operation::Read | Operation::Write);
        while joins && sectors < shape.data && self.limiter.is_ready(self.now_ns) {
            let at = request.lba.0.saturating_add(u64::from(sectors));
            let sound = |other: &Request| {
                free(other) && other.end() <= shape.capacity && u64::from(other.sectors).is_multiple_of(block)
            };
            let room = shape.data.saturating_sub(sectors);
            let Some(next) = self.order.start_adjacent(request.operation, at, room, sound) else { break };
            let Started { number, request: next, .. } = next;
            self.limiter.charge(charge(&next));
            self.counters.merged = self.counters.merged.wrapping_add(1);
            joined.push(Member { id: next.id, number, first: sectors, sectors: next.sectors });
            sectors = sectors.saturating_add(next.sectors);
        }
        self.next_name = self.next_name.wrapping_add(1);
        self.groups.push_back(Group {
            name: self.next_name,
            operation: request.operation,
            lba: request.lba.0,
            next: 0,
            sectors,
            again: Vec::new(),
            unacknowledged: sectors,
            in_flight: 0,
            failed: None,
            lead,
            joined,
        });
        Some(())
    }

    fn index(&self, fragment: &Fragment) -> Option<usize> {
        let ahead = fragment.group.checked_sub(self.groups.front()?.name)?;
        let last = self.groups.len().checked_sub(1)?;
        let mut index = usize::try_from(ahead).map_or(last, |ahead| ahead.min(last));
        loop {
            match self.groups.get(index)?.name {
                name if name == fragment.group => return Some(index),
                name if name < fragment.group => return None,
                _ => index = index.checked_sub(1)?,
            }
        }
    }

    /// A fragment has ended.
    pub(crate) fn done(&mut self, fragment: &Fragment, result: Result<(), BlockError>) {
        let Some(index) = self.index(fragment) else { return };
        let Some(group) = self.groups.get_mut(index) else { return };
        group.in_flight = group.in_flight.saturating_sub(1);
        group.unacknowledged = group.unacknowledged.saturating_sub(fragment.sectors);
        if let Err(error) = result
            && !planted(Bug::ErrorHidden)
        {
            group.failed = group.failed.or(Some(error));
        }
        self.settle(index);
    }

    /// A fragment was not carried out, or nobody knows: it is to be sent again.
    pub(crate) fn give_back(&mut self, fragment: &Fragment) {
        let Some(index) = self.index(fragment) else { return };
        let Some(group) = self.groups.get_mut(index) else { return };
        group.in_flight = group.in_flight.saturating_sub(1);
        if group.failed.is_none() && !planted(Bug::ReissueForgotten) {
            group.again.push((fragment.first, fragment.sectors));
            self.work_from = self.work_from.min(index);
        }
        self.settle(index);
    }

    /// Ends a group whose last fragment has ended. A failed one ends only when none
    /// of its fragments can still land.
    fn settle(&mut self, index: usize) {
        let Some(group) = self.groups.get(index) else { return };
        let early = planted(Bug::AcknowledgedEarly) && group.unacknowledged < group.sectors;
        let over = group.in_flight == 0 && (group.failed.is_some() || !group.has_work());
        if !(early || over) || (group.failed.is_none() && group.unacknowledged > 0 && !early) {
            return;
        }
        let Some(group) = self.remove(index) else { return };
        if group.failed.is_some() && !group.joined.is_empty() {
            // One of them failed: let each find out by itself.
            return group.members().for_each(|member| self.order.restart(member.number));
        }
        let result = group.failed.map_or(Ok(()), Err);
        for member in group.members() {
            self.complete(member.number, result);
        }
    }

    fn complete(&mut self, number: u64, result: Result<(), BlockError>) {
        let Some((request, submitted_ns)) = self.order.finish(number) else { return };
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
        self.completions.push_back(Completion { id: request.id, result });
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
        let Some(group) = self.index(fragment).and_then(|index| self.groups.get(index)) else {
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
        let Some(group) = self.index(fragment).and_then(|index| self.groups.get(index)) else { return };
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

/// Where a piece of a fragment is, if its group is one request and it lies within that.
fn alone(group: &Group, fragment: &Fragment, offset: usize, length: usize) -> Option<(RequestId, usize)> {
    let octets = |sectors: u32| usize::try_from(sectors).unwrap_or(0).saturating_mul(SECTOR_BYTES);
    let at = octets(fragment.first).saturating_add(offset);
    let within = at.saturating_add(length) <= octets(group.lead.sectors);
    (group.joined.is_empty() && within).then_some((group.lead.id, at))
}

/// Which members' octets a piece of a fragment is: request, offset, length.
fn pieces(
    group: &Group,
    fragment: &Fragment,
    offset: usize,
    length: usize,
) -> impl Iterator<Item = (RequestId, usize, usize)> {
    let octets = |sectors: u32| usize::try_from(sectors).unwrap_or(0).saturating_mul(SECTOR_BYTES);
    let from = octets(fragment.first).saturating_add(offset);
    let to = from.saturating_add(length);
    let swapped = planted(Bug::MergeSwapped) && !group.joined.is_empty();
    let other = group.joined.first().map_or(group.lead, |it| *it);
    group.members().filter_map(move |member| {
        let begin = octets(member.first);
        let end = begin.saturating_add(octets(member.sectors));
        let (low, high) = (from.max(begin), to.min(end));
        let id = if swapped && member.sectors <= other.sectors { other.id } else { member.id };
        (low < high).then(|| (id, low.saturating_sub(begin), high.saturating_sub(low)))
    })
}

#[cfg(test)]
mod tests;
