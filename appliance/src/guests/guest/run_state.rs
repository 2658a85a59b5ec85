//! Where a guest is in its life, how it ends, and what it wishes.

/// Where a guest is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// Its disks are being connected; it has no domain yet.
    Connecting,
    /// Its vCPUs may run.
    Started,
    /// An operator paused it.
    Paused,
    /// It turned itself off and is kept.
    Off,
    /// It failed and is kept.
    Crashed,
}

/// How a guest ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It turned itself off.
    PoweredOff,
    /// It asked for a reset.
    Reset,
    /// The hypervisor stopped it.
    Crashed,
    /// Its kernel said that it has panicked.
    Panicked,
}

/// What an event of a guest asks of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestRequest {
    /// Nothing more.
    Nothing,
    /// It turned itself off.
    PowerOff,
    /// It wants to start anew.
    Reset,
    /// Its kernel has panicked; true when a kernel of its own for that case goes on.
    Panicked(bool),
    /// A queue of a device has work.
    Queue(usize, u16),
    /// A device was reset: its operations are void.
    DeviceReset(usize),
    /// It gives a device back.
    Ejected(usize),
}
