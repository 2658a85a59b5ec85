//! What dom0 and the hypervisor say to each other.
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
pub mod previous;
pub mod random;

/// Most domains at a time.
pub const MAX_DOMAINS: usize = 64;
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

/// A domain: index of its slot in the low byte, generation above, so that a
/// number is not soon used again for another guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub u32);

impl DomainId {
    /// The slot, which also chooses the window of guest memory.
    #[must_use]
    pub const fn slot(self) -> usize {
        (self.0 & 0xff) as usize
    }
}
