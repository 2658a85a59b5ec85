//! Write fences: ranges that an old copy of a write could still reach. No new write starts there.

use alloc::vec::Vec;

use crate::block::Request;
use crate::limits::WRITE_FENCES_MAX;
use crate::mutants::{Mutant, mutated};

/// When a fence is lifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    At(u64),
    /// When this path has logged in again.
    Path(usize),
}

#[derive(Clone, Copy, Debug)]
struct Fence {
    first: u64,
    end: u64,
    release: Release,
}

/// All write fences of a volume.
#[derive(Debug)]
pub(crate) struct WriteFences {
    ranges: Vec<Fence>,
    /// Every write waits until then.
    all_until_ns: u64,
}

impl WriteFences {
    /// Heap that they take at most.
    pub(super) const HEAP_BYTES_MAX: usize = WRITE_FENCES_MAX * size_of::<Fence>();

    pub(super) const fn new() -> Self {
        Self { ranges: Vec::new(), all_until_ns: 0 }
    }

    /// Fences a range off from new writes.
    pub(crate) fn add(&mut self, lba: u64, sectors: u64, release: Release) {
        if mutated(Mutant::CopiesForgotten) {
            return;
        }
        if self.ranges.len() < WRITE_FENCES_MAX {
            self.ranges.push(Fence { first: lba, end: lba.saturating_add(sectors), release });
        } else if let Release::At(at_ns) = release {
            // Out of room: no write starts until nothing can wander any more.
            self.fence_all(at_ns);
        } else {
            // One range over all, for every path that has any.
            let paths: Vec<Release> =
                self.ranges.iter().map(|fence| fence.release).chain([release]).collect();
            let latest = self.until_ns();
            self.ranges.clear();
            self.fence_all(latest);
            for path in paths.into_iter().filter(|it| matches!(it, Release::Path(_))) {
                if !self.ranges.iter().any(|fence| fence.release == path) {
                    self.ranges.push(Fence { first: 0, end: u64::MAX, release: path });
                }
            }
        }
    }

    /// Fences off all new writes until then.
    pub(crate) fn fence_all(&mut self, until_ns: u64) {
        self.all_until_ns = self.all_until_ns.max(until_ns);
    }

    /// A path has logged in again: none of its old frames can arrive any more.
    pub(crate) fn release(&mut self, path: usize) {
        self.ranges.retain(|fence| fence.release != Release::Path(path));
    }

    /// What any path left behind is gone at a known time.
    pub(crate) fn release_at(&mut self, at_ns: u64) {
        for fence in &mut self.ranges {
            if matches!(fence.release, Release::Path(_)) {
                fence.release = Release::At(at_ns);
            }
        }
    }

    /// Whether anything that a path left behind may still arrive, no matter when.
    pub(crate) fn awaits_path(&self) -> bool {
        self.ranges.iter().any(|fence| matches!(fence.release, Release::Path(_)))
    }

    fn times(&self) -> impl Iterator<Item = u64> {
        let timed = self.ranges.iter().filter_map(|fence| match fence.release {
            Release::At(at_ns) => Some(at_ns),
            Release::Path(_) => None,
        });
        timed.chain([self.all_until_ns])
    }

    /// When the last timed fence is lifted.
    pub(crate) fn until_ns(&self) -> u64 {
        self.times().max().unwrap_or(0)
    }

    /// When the next timed fence is lifted.
    pub(super) fn next_ns(&self, now_ns: u64) -> Option<u64> {
        self.times().filter(|at_ns| *at_ns > now_ns).min()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn expire(&mut self, now_ns: u64) {
        if !self.ranges.is_empty() {
            self.ranges.retain(|fence| !matches!(fence.release, Release::At(at_ns) if at_ns <= now_ns));
        }
    }

    /// Whether a write would touch a fenced range.
    pub(super) fn covers(&self, request: &Request, now_ns: u64) -> bool {
        let under = |fence: &Fence| request.lba.0 < fence.end && fence.first < request.end();
        now_ns < self.all_until_ns || self.ranges.iter().any(under)
    }
}
