//! How the run of the node before this one ended, as far as memory still holds it.

/// How a run ended. The numbers lie in memory over a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Ended {
    /// Without a cause: a reset from outside, or by the chipset's watchdog.
    Cut = 1,
    /// An operator asked for a restart.
    Ordered = 2,
    /// The hypervisor failed.
    Failed = 3,
    /// A processor hung.
    Hung = 4,
    /// The processor reported damage that was not contained.
    MachineCheck = 5,
}

impl Ended {
    /// The end with a number; None for a number without one.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Cut,
            2 => Self::Ordered,
            3 => Self::Failed,
            4 => Self::Hung,
            5 => Self::MachineCheck,
            _ => return None,
        })
    }
}

/// A log that `LogRead` reads: this run's.
pub const LOG_NOW: u64 = 0;
/// A log that `LogRead` reads: that of the run before.
pub const LOG_PREVIOUS: u64 = 1;
/// A log that `LogRead` reads: why the run before ended, one line.
pub const LOG_CAUSE: u64 = 2;
