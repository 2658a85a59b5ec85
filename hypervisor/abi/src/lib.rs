//! The interface of dom0 and the hypervisor.
//!
//! Plain types only: this crate has no code that runs at ring 0 and none that
//! makes a system call. The hypervisor implements the calls, the ring-3 binary
//! issues them, and both agree here.
//!
//! * [`call`]: the system calls, their arguments and errors;
//! * [`event`]: what `wait` returns;
//! * [`domain`]: guests as the hypervisor sees them;
//! * [`boot`]: what dom0 finds when it starts;
//! * [`image`]: the parts of the one file;
//! * [`device`]: handles through which drivers reach hardware;
//! * [`previous`]: how the run before ended;
//! * [`random`]: the generator of random numbers that each of the two has.
#![no_std]
#![forbid(unsafe_code)]

pub mod boot;
pub mod call;
pub mod device;
pub mod domain;
pub mod event;
pub mod image;
pub mod log_line;
pub mod previous;
pub mod random;

/// Most domains at a time.
pub const MAX_DOMAINS: usize = 64;
const _: () = assert!(MAX_DOMAINS.is_power_of_two(), "numbers wrap without a jump between slots");
/// Highest number of a domain; after it they begin anew.
const NUMBER_MAX: u32 = 0x7fff_ffff;
/// Most vCPUs of one domain.
pub const MAX_DOMAIN_VCPUS: usize = 32;
/// Most vCPUs of all domains together.
pub const MAX_VCPUS: usize = 256;
/// Most doorbells of one domain.
pub const MAX_DOORBELLS: usize = 64;
/// Most device interrupts bound to dom0.
pub const MAX_INTERRUPTS: usize = 64;
/// Bytes the hypervisor keeps for dom0 for each domain across dom0's restart.
pub const STORE_BYTES: usize = 16 * 1024;

/// Longest time that a node may stand still after it failed.
pub const MAX_RESTART_DELAY_MS: u64 = 3_600_000;

/// A domain: its number says which slot it is in. Numbers are counted up, so that they are
/// small, as operators see them, and not soon used again for another guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub u32);

/// A place in the table of domains, which also chooses the window of guest memory. Unlike a
/// number it is soon used again for another guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainSlot(usize);

impl DomainSlot {
    /// The slot with an index, if there are so many.
    #[must_use]
    pub const fn new(index: usize) -> Option<Self> {
        if index < MAX_DOMAINS { Some(Self(index)) } else { None }
    }

    /// Its index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0
    }

    /// All there are.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..MAX_DOMAINS).map(Self)
    }
}

impl core::fmt::Display for DomainSlot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

impl DomainId {
    /// The slot it is in.
    #[must_use]
    pub const fn slot(self) -> DomainSlot {
        DomainSlot(self.0 as usize % MAX_DOMAINS)
    }

    /// The number after `last` for a new domain: the next one whose slot is free. Never 0,
    /// so that 0 can mean none; none when no slot is free.
    #[must_use]
    pub fn after(last: u32, is_free: impl Fn(DomainSlot) -> bool) -> Option<Self> {
        let next = |step: u32| Self(last.wrapping_add(step) & NUMBER_MAX);
        // One more than there are slots, since 0 is left out.
        (1..).take(MAX_DOMAINS + 1).map(next).find(|id| id.0 != 0 && is_free(id.slot()))
    }
}

#[cfg(test)]
mod tests {
    use super::{DomainId, DomainSlot, MAX_DOMAINS, NUMBER_MAX};

    #[test]
    fn numbers_are_counted_up_past_slots_that_are_taken() {
        let after = |last, is_free: &dyn Fn(DomainSlot) -> bool| {
            DomainId::after(last, is_free).map(|id| (id.0, id.slot().index()))
        };
        let all = |_| true;
        assert_eq!(after(0, &all), Some((1, 1)));
        assert_eq!(after(1, &all), Some((2, 2)), "also when the first has gone");
        assert_eq!(after(1, &|slot| !matches!(slot.index(), 2 | 3)), Some((4, 4)));
        assert_eq!(after(63, &all), Some((64, 0)));
        assert_eq!(after(5, &|slot| slot.index() == 5), Some((69, 5)));
        assert_eq!(after(5, &|_| false), None);
        assert_eq!(after(NUMBER_MAX, &all), Some((1, 1)), "0 is none");
        assert_eq!(after(NUMBER_MAX, &|slot| slot.index() == 0), Some((64, 0)));
        assert_eq!(MAX_DOMAINS, 64, "as above");
    }
}
