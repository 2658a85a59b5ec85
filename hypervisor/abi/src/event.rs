//! What `wait` returns.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A bound device interrupt fired: `index`.
pub const INTERRUPT: u32 = 1;
/// A guest rang a doorbell: `domain`, `index`.
pub const DOORBELL: u32 = 2;
/// A vCPU waits for the answer to an access: `domain`, `index` = vCPU,
/// `access`, `address`, `value`.
pub const EXIT: u32 = 3;
/// A domain changed state by itself: `domain`; see its `DomainInfo`.
pub const DOMAIN: u32 = 4;

/// Access: port read; the answer is the value.
pub const ACCESS_PORT_READ: u16 = 1;
/// Access: port write of `value`.
pub const ACCESS_PORT_WRITE: u16 = 2;
/// Access: memory-mapped read; the answer is the value.
pub const ACCESS_MEMORY_READ: u16 = 3;
/// Access: memory-mapped write of `value`.
pub const ACCESS_MEMORY_WRITE: u16 = 4;

/// One event. Sources are level-like bits in the hypervisor, so a flood of
/// causes is one event and the queue cannot overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// Which of the constants above.
    pub kind: u32,
    /// The domain concerned.
    pub domain: u32,
    /// Interrupt, doorbell or vCPU.
    pub index: u32,
    /// Access kind of an exit.
    pub access: u16,
    /// Access width in bytes of an exit: 1, 2, 4 or 8.
    pub width: u16,
    /// Port or guest-physical address of an exit.
    pub address: u64,
    /// The value written by an exit.
    pub value: u64,
}
