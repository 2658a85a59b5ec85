//! Notices that a processor hangs: its progress must change while others check.
//!
//! Checks are counted, not time: where the whole machine stood still for a while, as a
//! virtual one does, no processor is to blame.

/// How often others check.
pub const LOOK_NS: u64 = 1_000_000_000;
/// Checks in a row that find no progress before a processor counts as hung.
pub const LOOKS: u8 = 10;

/// What a processor does, in the low bits of its progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It sleeps until an interrupt, or runs a guest: both may take long.
    Away = 0,
    /// It is in ring 0, which never takes long.
    Ring0 = 1,
    /// It runs dom0, which is interrupted often.
    Dom0 = 2,
}

/// The progress after `progress` of a processor that now does something else.
#[must_use]
pub const fn step(progress: u64, doing: Doing) -> u64 {
    (progress & !3).wrapping_add(4) | doing as u64
}

/// What is remembered of one processor between two looks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watched {
    seen: u64,
    looks: u8,
}

impl Watched {
    /// Nothing yet.
    pub const NEW: Self = Self { seen: 0, looks: 0 };

    /// Checks it; true when it hangs.
    pub const fn look(&mut self, progress: u64) -> bool {
        if progress != self.seen || progress & 3 == Doing::Away as u64 {
            *self = Self { seen: progress, looks: 0 };
            return false;
        }
        self.looks = self.looks.saturating_add(1);
        self.looks >= LOOKS
    }
}

#[cfg(test)]
mod tests {
    use super::{Doing, LOOKS, Watched, step};

    #[test]
    fn only_standing_still_in_ring_0_or_dom0_counts() {
        for (doing, hangs) in [(Doing::Away, false), (Doing::Ring0, true), (Doing::Dom0, true)] {
            let mut watched = Watched::NEW;
            let progress = step(0, doing);
            for look in 0..LOOKS {
                assert!(!watched.look(progress), "{doing:?} at look {look}");
            }
            assert_eq!(watched.look(progress), hangs, "{doing:?}");
        }
    }

    #[test]
    fn progress_between_looks_starts_the_count_anew() {
        let (mut watched, mut progress) = (Watched::NEW, 0);
        for round in 0..1000 {
            if round % u64::from(LOOKS) == 0 {
                progress = step(progress, Doing::Ring0);
            }
            assert!(!watched.look(progress), "round {round}");
        }
    }

    #[test]
    fn steps_differ_even_when_nothing_else_does() {
        let mut progress = u64::MAX;
        for doing in [Doing::Ring0, Doing::Ring0, Doing::Away, Doing::Dom0] {
            let next = step(progress, doing);
            assert!(next != progress && next & 3 == doing as u64);
            progress = next;
        }
    }
}
