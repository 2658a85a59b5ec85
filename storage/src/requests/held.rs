//! Ranges that an old copy of a write could still reach: no new write starts there.

use alloc::vec::Vec;

use crate::block::Request;
use crate::limits::HELD_RANGES_MAX;
use crate::planted::{Bug, planted};

/// When a range is free for new writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    At(u64),
    /// When this path has logged in again.
    Path(usize),
}

#[derive(Clone, Copy, Debug)]
struct Held {
    first: u64,
    end: u64,
    release: Release,
}

/// All held ranges of a volume.
#[derive(Debug)]
pub(crate) struct Holds {
    ranges: Vec<Held>,
    /// Every write waits until then.
    all_until_ns: u64,
}

impl Holds {
    /// Heap that they take at most.
    pub(super) const HEAP_BYTES_MAX: usize = HELD_RANGES_MAX * size_of::<Held>();

    pub(super) const fn new() -> Self {
        Self { ranges: Vec::new(), all_until_ns: 0 }
    }

    /// Keeps new writes off a range.
    pub(crate) fn hold(&mut self, lba: u64, sectors: u64, release: Release) {
        if planted(Bug::CopiesForgotten) {
            return;
        }
        if self.ranges.len() < HELD_RANGES_MAX {
            self.ranges.push(Held { first: lba, end: lba.saturating_add(sectors), release });
        } else if let Release::At(at_ns) = release {
            // Out of room: no write starts until nothing can wander any more.
            self.hold_all(at_ns);
        } else {
            // One range over all, for every path that has any.
            let paths: Vec<Release> = self.ranges.iter().map(|held| held.release).chain([release]).collect();
            let latest = self.until_ns();
            self.ranges.clear();
            self.hold_all(latest);
            for path in paths.into_iter().filter(|it| matches!(it, Release::Path(_))) {
                if !self.ranges.iter().any(|held| held.release == path) {
                    self.ranges.push(Held { first: 0, end: u64::MAX, release: path });
                }
            }
        }
    }

    /// Keeps all new writes back until then.
    pub(crate) fn hold_all(&mut self, until_ns: u64) {
        self.all_until_ns = self.all_until_ns.max(until_ns);
    }

    /// A path has logged in again: nothing of its past can arrive any more.
    pub(crate) fn release(&mut self, path: usize) {
        self.ranges.retain(|held| held.release != Release::Path(path));
    }

    /// What any path left behind is gone at a known time.
    pub(crate) fn release_at(&mut self, at_ns: u64) {
        for held in &mut self.ranges {
            if matches!(held.release, Release::Path(_)) {
                held.release = Release::At(at_ns);
            }
        }
    }

    /// Whether anything that a path left behind may still arrive, no matter when.
    pub(crate) fn awaits_path(&self) -> bool {
        self.ranges.iter().any(|held| matches!(held.release, Release::Path(_)))
    }

    fn times(&self) -> impl Iterator<Item = u64> {
        let timed = self.ranges.iter().filter_map(|held| match held.release {
            Release::At(at_ns) => Some(at_ns),
            Release::Path(_) => None,
        });
        timed.chain([self.all_until_ns])
    }

    /// Until when any range is held by time.
    pub(crate) fn until_ns(&self) -> u64 {
        self.times().max().unwrap_or(0)
    }

    /// When the next range is released by time.
    pub(super) fn next_ns(&self, now_ns: u64) -> Option<u64> {
        self.times().filter(|at_ns| *at_ns > now_ns).min()
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn expire(&mut self, now_ns: u64) {
        if !self.ranges.is_empty() {
            self.ranges.retain(|held| !matches!(held.release, Release::At(at_ns) if at_ns <= now_ns));
        }
    }

    /// Whether a write would touch a held range.
    pub(super) fn covers(&self, request: &Request, now_ns: u64) -> bool {
        let under = |held: &Held| request.lba.0 < held.end && held.first < request.end();
        now_ns < self.all_until_ns || self.ranges.iter().any(under)
    }
}
