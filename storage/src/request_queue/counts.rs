//! Counts by remainder: most questions about requests in flight are answered with
//! "nothing like that" without a look at any of them.

use alloc::boxed::Box;

use crate::block::{Operation, Request};

/// Sectors of a region, as a power of two: 4 KiB.
const REGION_BITS: u32 = 3;
/// Numbers that are told apart, as a power of two.
const TABLE_BITS: u32 = 11;
/// A request of more regions than this may touch any.
const REGIONS_MAX: u64 = 32;

/// Counts of numbers by remainder. As many as make it rare that a few dozen requests
/// in flight look like something that they are not.
struct Table([u16; 1 << TABLE_BITS]);

/// Numbers that follow each other, or are multiples of a power of two, spread well.
#[inline(always)]
fn remainder(number: u64) -> usize {
    let [low, high, ..] = (number ^ (number >> TABLE_BITS)).to_le_bytes();
    usize::from(u16::from_le_bytes([low, high])) % (1 << TABLE_BITS)
}

impl Table {
    /// Counts one more; whether there was any like it.
    #[inline(always)]
    fn add(&mut self, number: u64) -> bool {
        let Some(count) = self.0.get_mut(remainder(number)) else { return true };
        let any = *count > 0;
        *count = count.wrapping_add(1);
        any
    }

    #[inline(always)]
    fn take(&mut self, number: u64) {
        if let Some(count) = self.0.get_mut(remainder(number)) {
            *count = count.wrapping_sub(1);
        }
    }

    fn has(&self, number: u64) -> bool {
        self.0.get(remainder(number)).is_some_and(|count| *count > 0)
    }
}

/// First and last region of a request.
fn regions(request: &Request) -> (u64, u64) {
    (request.lba.0 >> REGION_BITS, request.end().saturating_sub(1) >> REGION_BITS)
}

/// Regions that requests touch.
struct Touched {
    regions: Table,
    /// Requests that may touch any.
    wide: u32,
    /// All requests.
    requests: u32,
}

impl Touched {
    /// Counts one more; whether any that was there may overlap it.
    #[inline(always)]
    fn add(&mut self, request: &Request) -> bool {
        self.requests = self.requests.wrapping_add(1);
        let (first, last) = regions(request);
        let any = if first == last { self.regions.add(first) } else { self.add_long(first, last) };
        any || self.wide > 0
    }

    #[inline(never)]
    fn add_long(&mut self, first: u64, last: u64) -> bool {
        if last.wrapping_sub(first) < REGIONS_MAX {
            let mut any = false;
            (first..=last).for_each(|region| any |= self.regions.add(region));
            any
        } else {
            self.wide = self.wide.wrapping_add(1);
            true
        }
    }

    #[inline(always)]
    fn take(&mut self, request: &Request) {
        self.requests = self.requests.wrapping_sub(1);
        let (first, last) = regions(request);
        if first == last {
            self.regions.take(first);
        } else {
            self.take_long(first, last);
        }
    }

    #[inline(never)]
    fn take_long(&mut self, first: u64, last: u64) {
        if last.wrapping_sub(first) < REGIONS_MAX {
            (first..=last).for_each(|region| self.regions.take(region));
        } else {
            self.wide = self.wide.wrapping_sub(1);
        }
    }

    /// Whether any of them may overlap this one.
    #[inline(always)]
    fn may_overlap(&self, request: &Request) -> bool {
        self.requests > 0 && self.may_touch(regions(request))
    }

    #[inline(never)]
    fn may_touch(&self, (first, last): (u64, u64)) -> bool {
        let wide = self.wide > 0 || last.wrapping_sub(first) >= REGIONS_MAX;
        wide || (first..=last).any(|region| self.regions.has(region))
    }
}

/// What is counted of a volume's unfinished requests.
pub(super) struct Counts(Box<Tables>);

struct Tables {
    names: Table,
    reads: Touched,
    /// Whatever changes the disk.
    writes: Touched,
}

impl Counts {
    /// Heap that they take.
    pub(super) const HEAP_BYTES: usize = size_of::<Tables>();

    pub(super) fn new() -> Self {
        let table = || Table([0; 1 << TABLE_BITS]);
        let touched = || Touched { regions: table(), wide: 0, requests: 0 };
        Self(Box::new(Tables { names: table(), reads: touched(), writes: touched() }))
    }

    /// A request is submitted: whether an unfinished one may have its ID, or may have
    /// to end before it starts.
    #[inline(always)]
    pub(super) fn add(&mut self, request: &Request) -> bool {
        let Tables { names, reads, writes } = &mut *self.0;
        let named = names.add(request.id.0);
        let blocks = match request.operation {
            Operation::Flush => writes.requests > 0,
            Operation::Read => {
                reads.add(request);
                writes.may_overlap(request)
            }
            Operation::Write | Operation::Discard | Operation::WriteZeroes => {
                writes.add(request) || reads.may_overlap(request)
            }
        };
        named || blocks
    }

    /// A request has ended.
    #[inline(always)]
    pub(super) fn take(&mut self, request: &Request) {
        let Tables { names, reads, writes } = &mut *self.0;
        names.take(request.id.0);
        match request.operation {
            Operation::Flush => {}
            Operation::Read => reads.take(request),
            Operation::Write | Operation::Discard | Operation::WriteZeroes => writes.take(request),
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
            let blocks = |it: &Request| {
                overlaps(it, &request) && (it.operation.writes() || request.operation.writes())
            };
            let alike = there.iter().any(|it| it.id == id || blocks(it));
            let found = counts.add(&request);
            assert!(found || !alike, "{request:?}");
            answers[usize::from(found)] += 1;
            there.push(request);
            if there.len() > index(random(12)) {
                let gone = there.swap_remove(index(random(there.len() as u64)));
                counts.take(&gone);
            }
        }
        assert!(answers[0] > 3_000, "{answers:?}");
        there.iter().for_each(|it| counts.take(it));
        let tables = &*counts.0;
        for table in [&tables.names, &tables.reads.regions, &tables.writes.regions] {
            assert!(table.0.iter().all(|count| *count == 0));
        }
        for touched in [&tables.reads, &tables.writes] {
            assert_eq!((touched.wide, touched.requests), (0, 0));
        }
    }
}
