//! The machine under the node: how its last run ended, and what watches over this one.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// How a run of the node ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// Without a word: a reset from outside, or by the chipset's watchdog.
    Cut,
    /// An operator asked for a restart.
    Ordered,
    /// The hypervisor failed.
    Failed,
    /// A processor did not come back from what it did.
    Hung,
    /// The processor reported damage that was not contained.
    MachineCheck,
}

impl Ended {
    /// In one word, as it is shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Ordered => "ordered",
            Self::Failed => "failed",
            Self::Hung => "hung",
            Self::MachineCheck => "machine-check",
        }
    }
}

/// What notices that a processor hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Watchdog {
    /// Another processor.
    Processor,
    /// The chipset: ICH9's TCO.
    Tco,
    /// The chipset: an i6300ESB's timer.
    I6300esb,
}

impl Watchdog {
    /// In one word, as it is shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Processor => "processor",
            Self::Tco => "tco",
            Self::I6300esb => "i6300esb",
        }
    }
}

/// Facts about the machine under the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// How the run before this one ended; none where memory did not keep it.
    pub ended: Option<Ended>,
    /// Why, as it was found in memory: printable, and not to be trusted.
    pub cause: String,
    /// What notices that a processor hangs.
    pub watchdogs: Vec<Watchdog>,
    /// Both threads of a core run, as it is sealed.
    pub smt: bool,
    /// Threads that rest because another one of their core runs.
    pub threads_resting: u32,
}
