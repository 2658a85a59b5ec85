//! Counts by remainder: most questions about requests under way are answered with
//! "nothing like that" without a look at any of them.

use alloc::boxed::Box;

use crate::block::{Operation, Request};

/// Sectors of a region, as a power of two: 4 KiB.
const REGION_BITS: u32 = 3;
/// A request of more regions than this may touch any.
const REGIONS_MAX: u64 = 32;

/// Counts of numbers by remainder. As many as make it rare that a few dozen requests
/// under way look like something that they are not.
struct Table([u16; 1024]);

/// Numbers that follow each other, or are multiples of a power of two, spread well.
#[inline(always)]
fn remainder(number: u64) -> usize {
    let [low, high, ..] = (number ^ (number >> 10)).to_le_bytes();
    usize::from(u16::from_le_bytes([low, high & 3]))
}

impl Table {
    fn add(&mut self, number: u64) {
        if let Some(count) = self.0.get_mut(remainder(number)) {
            *count = count.wrapping_add(1);
        }
    }

    fn take(&mut self, number: u64) {
        if let Some(count) = self.0.get_mut(remainder(number)) {
            *count = count.wrapping_sub(1);
        }
    }

    fn has(&self, number: u64) -> bool {
        self.0.get(remainder(number)).is_some_and(|count| *count > 0)
    }
}

/// First and last region of a request, unless it has too many.
fn regions(request: &Request) -> Option<(u64, u64)> {
    let (first, last) = (request.lba.0 >> REGION_BITS, request.end().saturating_sub(1) >> REGION_BITS);
    (last.wrapping_sub(first) < REGIONS_MAX).then_some((first, last))
}

/// Regions that requests touch.
struct Touched {
    regions: Table,
    /// Requests that may touch any.
    wide: u32,
}

impl Touched {
    #[inline]
    fn add(&mut self, request: &Request) {
        match regions(request) {
            Some((first, last)) if first == last => self.regions.add(first),
            Some((first, last)) => (first..=last).for_each(|region| self.regions.add(region)),
            None => self.wide = self.wide.wrapping_add(1),
        }
    }

    #[inline]
    fn take(&mut self, request: &Request) {
        match regions(request) {
            Some((first, last)) if first == last => self.regions.take(first),
            Some((first, last)) => (first..=last).for_each(|region| self.regions.take(region)),
            None => self.wide = self.wide.wrapping_sub(1),
        }
    }

    /// Whether any of them may overlap this one.
    fn may_overlap(&self, request: &Request) -> bool {
        match regions(request).filter(|_| self.wide == 0) {
            Some((first, last)) if first == last => self.regions.has(first),
            Some((first, last)) => (first..=last).any(|region| self.regions.has(region)),
            None => true,
        }
    }
}

/// What is counted of a volume's unfinished requests.
pub(super) struct Counts(Box<Tables>);

struct Tables {
    names: Table,
    reads: Touched,
    /// Whatever changes the disk.
    writes: Touched,
    /// First sectors of those that wait.
    waiting: Table,
    /// How many change the disk.
    writing: usize,
}

impl Counts {
    pub(super) fn new() -> Self {
        let table = || Table([0; 1024]);
        let touched = || Touched { regions: table(), wide: 0 };
        let (names, waiting) = (table(), table());
        Self(Box::new(Tables { names, reads: touched(), writes: touched(), waiting, writing: 0 }))
    }

    /// A request was submitted.
    #[inline(always)]
    pub(super) fn add(&mut self, request: &Request) {
        let tables = &mut *self.0;
        tables.names.add(request.id.0);
        match request.operation {
            Operation::Flush => {}
            Operation::Read => tables.reads.add(request),
            Operation::Write | Operation::Discard | Operation::WriteZeroes => {
                tables.writing = tables.writing.wrapping_add(1);
                tables.writes.add(request);
            }
        }
    }

    /// A request has ended.
    #[inline(always)]
    pub(super) fn take(&mut self, request: &Request) {
        let tables = &mut *self.0;
        tables.names.take(request.id.0);
        match request.operation {
            Operation::Flush => {}
            Operation::Read => tables.reads.take(request),
            Operation::Write | Operation::Discard | Operation::WriteZeroes => {
                tables.writing = tables.writing.wrapping_sub(1);
                tables.writes.take(request);
            }
        }
    }

    /// A request waits to be started.
    #[inline(always)]
    pub(super) fn add_waiting(&mut self, request: &Request) {
        self.0.waiting.add(request.lba.0);
    }

    /// A request does not wait any more.
    #[inline(always)]
    pub(super) fn take_waiting(&mut self, request: &Request) {
        self.0.waiting.take(request.lba.0);
    }

    /// Whether one of this name may be unfinished.
    #[inline(always)]
    pub(super) fn may_have(&self, request: &Request) -> bool {
        self.0.names.has(request.id.0)
    }

    /// Whether one that begins there may wait.
    pub(super) fn may_wait_at(&self, lba: u64) -> bool {
        self.0.waiting.has(lba)
    }

    /// Whether a request may have to wait for any.
    #[inline(always)]
    pub(super) fn may_block(&self, request: &Request) -> bool {
        let tables = &*self.0;
        match request.operation {
            Operation::Flush => tables.writing > 0,
            Operation::Read => tables.writing > 0 && tables.writes.may_overlap(request),
            _ => tables.writes.may_overlap(request) || tables.reads.may_overlap(request),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Lba, RequestId};
    use alloc::vec::Vec;

    fn overlaps(a: &Request, b: &Request) -> bool {
        a.lba.0 < b.end() && b.lba.0 < a.end()
    }

    #[test]
    fn nothing_is_overlooked_and_nothing_remains() {
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let mut random = |limit: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 8) % limit
        };
        let index = |number: u64| usize::try_from(number).unwrap();
        let mut counts = Counts::new();
        let mut there: Vec<Request> = Vec::new();
        let mut answers = [0; 2];
        for _ in 0..20_000 {
            let operation = [Operation::Read, Operation::Write, Operation::Discard][index(random(3))];
            let sectors = if random(20) == 0 { 1 + random(2_000) } else { 1 + random(16) };
            let place = if random(50) == 0 { u64::MAX - 3_000 } else { 0 };
            let (id, lba) = (RequestId(random(1 << 40)), Lba(place + random(2_000)));
            let request = Request { id, operation, lba, sectors: u32::try_from(sectors).unwrap() };
            let blocks = there
                .iter()
                .any(|it| overlaps(it, &request) && (it.operation.writes() || request.operation.writes()));
            assert!(counts.may_block(&request) || !blocks, "{request:?}");
            assert!(counts.may_have(&request) || !there.iter().any(|it| it.id == id));
            answers[usize::from(counts.may_block(&request))] += 1;
            counts.add(&request);
            there.push(request);
            if there.len() > index(random(12)) {
                let gone = there.swap_remove(index(random(there.len() as u64)));
                counts.take(&gone);
            }
        }
        assert!(answers[0] > 3_000, "{answers:?}");
        there.iter().for_each(|it| counts.take(it));
        let tables = &*counts.0;
        for table in [&tables.names, &tables.reads.regions, &tables.writes.regions, &tables.waiting] {
            assert!(table.0.iter().all(|count| *count == 0));
        }
        assert_eq!((tables.reads.wide, tables.writes.wide, tables.writing), (0, 0, 0));
    }
}
