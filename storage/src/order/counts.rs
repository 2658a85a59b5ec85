//! Counts by remainder: most questions about requests under way are answered with
//! "nothing like that" without a look at any of them.

use alloc::boxed::Box;

use crate::block::{Operation, Request};

/// Sectors of a region, as a power of two: 4 KiB.
const REGION_BITS: u32 = 3;
/// A request of more regions than this may touch any.
const REGIONS_MAX: u64 = 32;

/// Counts of numbers by remainder.
struct Table([u16; 256]);

/// Numbers that follow each other, or are multiples of a power of two, spread well.
fn remainder(number: u64) -> usize {
    let [low, ..] = (number ^ (number >> 8) ^ (number >> 16)).to_le_bytes();
    usize::from(low)
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
    fn change(&mut self, request: &Request, adds: bool) {
        let Some((first, last)) = regions(request) else {
            self.wide = if adds { self.wide.wrapping_add(1) } else { self.wide.wrapping_sub(1) };
            return;
        };
        let mut region = first;
        while region <= last {
            if adds {
                self.regions.add(region);
            } else {
                self.regions.take(region);
            }
            region = region.wrapping_add(1);
        }
    }

    /// Whether any of them may overlap this one.
    fn may_overlap(&self, request: &Request) -> bool {
        let Some((first, last)) = regions(request).filter(|_| self.wide == 0) else { return true };
        let mut region = first;
        while region <= last {
            if self.regions.has(region) {
                return true;
            }
            region = region.wrapping_add(1);
        }
        false
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
        let table = || Table([0; 256]);
        let touched = || Touched { regions: table(), wide: 0 };
        let (names, waiting) = (table(), table());
        Self(Box::new(Tables { names, reads: touched(), writes: touched(), waiting, writing: 0 }))
    }

    /// A request was submitted (`adds`) or has ended.
    pub(super) fn change(&mut self, request: &Request, adds: bool) {
        let tables = &mut *self.0;
        if adds {
            tables.names.add(request.id.0);
        } else {
            tables.names.take(request.id.0);
        }
        if request.operation == Operation::Read {
            tables.reads.change(request, adds);
        } else if request.operation.writes() {
            tables.writing =
                if adds { tables.writing.wrapping_add(1) } else { tables.writing.wrapping_sub(1) };
            tables.writes.change(request, adds);
        }
    }

    /// A request waits to be started (`adds`) or does not any more.
    pub(super) fn change_waiting(&mut self, request: &Request, adds: bool) {
        if adds {
            self.0.waiting.add(request.lba.0);
        } else {
            self.0.waiting.take(request.lba.0);
        }
    }

    /// Whether one of this name may be unfinished.
    pub(super) fn may_have(&self, request: &Request) -> bool {
        self.0.names.has(request.id.0)
    }

    /// Whether one that begins there may wait.
    pub(super) fn may_wait_at(&self, lba: u64) -> bool {
        self.0.waiting.has(lba)
    }

    /// Whether a request may have to wait for any.
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
            counts.change(&request, true);
            there.push(request);
            if there.len() > index(random(12)) {
                let gone = there.swap_remove(index(random(there.len() as u64)));
                counts.change(&gone, false);
            }
        }
        assert!(answers[0] > 3_000, "{answers:?}");
        there.iter().for_each(|it| counts.change(it, false));
        let tables = &*counts.0;
        for table in [&tables.names, &tables.reads.regions, &tables.writes.regions, &tables.waiting] {
            assert!(table.0.iter().all(|count| *count == 0));
        }
        assert_eq!((tables.reads.wide, tables.writes.wide, tables.writing), (0, 0, 0));
    }
}
