//! A guest that knows what its disk must hold.
//!
//! A write's sectors carry its number. What a sector may hold is what the last
//! acknowledged write left, or what writes that failed or were abandoned since then
//! may have left.

use std::collections::{BTreeMap, BTreeSet};
use std::vec;
use std::vec::Vec;

use super::{Random, SECOND, SECTORS};
use crate::volume::Volume;
use crate::{BlockError, Lba, Octets, Operation, Request, RequestId};

/// Data of unfinished requests. Naming any other is a bug.
pub(super) struct Memory(pub(super) BTreeMap<RequestId, Vec<u8>>);

impl Octets for Memory {
    fn find(&mut self, id: RequestId, offset: usize, length: usize) -> Option<&mut [u8]> {
        Some(&mut self.0.get_mut(&id).unwrap()[offset..offset + length])
    }
}

/// A sector that a write left.
pub(super) fn sector(number: u64) -> [u8; 512] {
    let mut bytes = [0; 512];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = number.to_le_bytes()[index % 8];
    }
    bytes
}

/// The write that left a sector.
fn number_of(bytes: &[u8]) -> u64 {
    let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(bytes == sector(number), "a sector of several writes");
    number
}

pub(super) struct Guest {
    pub(super) memory: Memory,
    /// What each sector may hold.
    allowed: Vec<BTreeSet<u64>>,
    /// The last request that was acknowledged to have changed it.
    last: Vec<u64>,
    pub(super) in_flight: BTreeMap<RequestId, (Request, u64)>,
    next_id: u64,
    pub(super) submitted: u32,
    /// The longest that a request took, from its submission to its end.
    pub(super) slowest_ns: u64,
    /// The time of a request that was in flight then is counted from here.
    pub(super) counted_from_ns: u64,
    /// Requests that touch these sectors may fail.
    pub(super) bad: std::ops::Range<u64>,
    pub(super) deadline_ns: Option<u64>,
    pub(super) discards: bool,
    /// It only writes, and always to the same place, as a journal's owner does: each write
    /// waits for the one before.
    pub(super) journals: bool,
}

fn sectors(request: &Request) -> std::ops::Range<usize> {
    let first = request.lba.0 as usize;
    first..first + request.sectors as usize
}

impl Guest {
    pub(super) fn new() -> Self {
        Self {
            memory: Memory(BTreeMap::new()),
            allowed: vec![BTreeSet::from([0]); SECTORS as usize],
            last: vec![0; SECTORS as usize],
            in_flight: BTreeMap::new(),
            next_id: 1,
            submitted: 0,
            slowest_ns: 0,
            counted_from_ns: 0,
            bad: 0..0,
            deadline_ns: None,
            discards: false,
            journals: false,
        }
    }

    /// Requests may end in time, or touch sectors that cannot be used.
    pub(super) fn plan(&mut self, random: &mut Random) {
        if random.chance(15) {
            self.deadline_ns = Some((1 + random.below(20)) * SECOND);
        }
        if random.chance(15) {
            let first = random.below(60);
            self.bad = first..first + 1 + random.below(3);
        }
    }

    pub(super) fn submit(&mut self, volume: &mut Volume, random: &mut Random, now: u64) {
        let operation = match random.below(20) {
            _ if self.journals => Operation::Write,
            0 | 1 => Operation::Flush,
            2 => Operation::WriteZeroes,
            3 if self.discards => Operation::Discard,
            3..=11 => Operation::Write,
            _ => Operation::Read,
        };
        let count = if operation == Operation::Flush { 0 } else { 1 + random.below(12) as u32 };
        // Sometimes right behind the one before: neighbours to be joined.
        let after = self.in_flight.values().next_back().map(|(it, _)| it.lba.0 + u64::from(it.sectors));
        let room = SECTORS - u64::from(count);
        let lba =
            after.filter(|lba| random.chance(40) && *lba <= room).unwrap_or_else(|| random.below(room + 1));
        let lba = if operation == Operation::Flush || self.journals { 0 } else { lba };
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.submitted += 1;
        let data = (0..count).flat_map(|_| sector(id.0)).collect();
        self.memory.0.insert(id, data);
        let request = Request { id, operation, lba: Lba(lba), sectors: count };
        self.in_flight.insert(id, (request, now));
        volume.submit(request, now).unwrap();
    }

    /// Takes completions; `durable` is what the target would keep without power.
    pub(super) fn collect(&mut self, volume: &mut Volume, durable: &[u8], now: u64) {
        while let Some(completion) = volume.take_completion() {
            let (request, since) = self.in_flight.remove(&completion.id).unwrap();
            let data = self.memory.0.remove(&completion.id).unwrap();
            self.slowest_ns = self.slowest_ns.max(now - since.max(self.counted_from_ns));
            match completion.result {
                Ok(()) => self.succeeded(&request, &data, durable),
                Err(error) => self.failed(&request, error, now - since),
            }
        }
        if let (Some(deadline), Some((_, (request, since)))) =
            (self.deadline_ns, self.in_flight.first_key_value())
        {
            assert!(now < since + deadline + SECOND, "{request:?} is past its deadline");
        }
    }

    /// The longest that a request took, or has been waiting for until now.
    pub(super) fn slowest_ns(&self, now: u64) -> u64 {
        let waits = |(_, since): &(Request, u64)| now - (*since).max(self.counted_from_ns);
        self.in_flight.values().map(waits).max().unwrap_or(0).max(self.slowest_ns)
    }

    fn succeeded(&mut self, request: &Request, data: &[u8], durable: &[u8]) {
        if request.operation.writes() {
            sectors(request).for_each(|at| self.last[at] = request.id.0);
        }
        match request.operation {
            Operation::Write => {
                sectors(request).for_each(|at| self.allowed[at] = BTreeSet::from([request.id.0]));
            }
            Operation::WriteZeroes => {
                sectors(request).for_each(|at| self.allowed[at] = BTreeSet::from([0]));
            }
            Operation::Discard => sectors(request).for_each(|at| {
                self.allowed[at].insert(0);
            }),
            Operation::Read => {
                for (at, bytes) in sectors(request).zip(data.chunks(512)) {
                    let found = number_of(bytes);
                    let allowed = &self.allowed[at];
                    assert!(
                        allowed.contains(&found),
                        "{request:?}: sector {at} holds {found}, not {allowed:?}"
                    );
                }
            }
            Operation::Flush => {
                let open = self.in_flight.values().filter(|(it, _)| it.operation.writes());
                let open: Vec<Request> = open.map(|(it, _)| *it).collect();
                assert!(open.iter().all(|it| it.id > request.id), "a write before the flush is not done");
                for at in 0..SECTORS as usize {
                    if open.iter().any(|it| sectors(it).contains(&at)) || self.allowed[at].len() > 1 {
                        continue;
                    }
                    let kept = number_of(&durable[at * 512..(at + 1) * 512]);
                    assert!(self.is_newer_or_allowed(at, kept, request.id.0), "sector {at} is not durable");
                }
            }
        }
    }

    /// Writes after the flush may have become durable, or not, but nothing is older.
    fn is_newer_or_allowed(&self, at: usize, kept: u64, flush: u64) -> bool {
        self.allowed[at].contains(&kept) || kept > flush || self.last[at] > flush
    }

    fn failed(&mut self, request: &Request, error: BlockError, age: u64) {
        let touches =
            self.bad.start < request.lba.0 + u64::from(request.sectors) && request.lba.0 < self.bad.end;
        let excused = match error {
            BlockError::Medium => touches,
            BlockError::Deadline => self.deadline_ns.is_some_and(|deadline| age >= deadline),
            _ => false,
        };
        assert!(excused, "{request:?} failed after {age} ns: {error:?}");
        self.doubt(request);
    }

    /// Whether it was done is unknown.
    fn doubt(&mut self, request: &Request) {
        let left = match request.operation {
            Operation::Write => request.id.0,
            Operation::WriteZeroes | Operation::Discard => 0,
            _ => return,
        };
        sectors(request).for_each(|at| {
            self.allowed[at].insert(left);
        });
    }

    /// The guest is reset: its memory is void.
    pub(super) fn reset(&mut self, volume: &mut Volume) {
        volume.abandon();
        self.memory.0.clear();
        for (request, _) in core::mem::take(&mut self.in_flight).into_values() {
            self.doubt(&request);
        }
    }

    /// The disk at the end.
    pub(super) fn check(&self, disk: &[u8]) {
        for (at, bytes) in disk.chunks(512).enumerate() {
            let (found, allowed) = (number_of(bytes), &self.allowed[at]);
            assert!(allowed.contains(&found), "sector {at} holds {found} at the end, not {allowed:?}");
        }
    }
}
