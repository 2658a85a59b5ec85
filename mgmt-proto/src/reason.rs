//! Why a node refused a request or failed at it: data, which its reader puts into
//! words.
//!
//! A node only makes values; the texts of [`Reason`] are for workstations, and the linker
//! leaves them out of an image that never asks for them.

mod list;

use crate::code::{Code, Failure};
use alloc::format;
use alloc::string::String;
pub use list::{EXPLANATIONS, Reason};
use serde::{Deserialize, Serialize};

/// What is known of a reason without a request that failed by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Its name.
    pub name: &'static str,
    /// Its code; None for one that comes with different ones.
    pub code: Option<Code>,
    /// What it means.
    pub meaning: &'static str,
    /// What is said of it, with its fields in braces.
    pub message: &'static str,
    /// What to do about it, with its fields in braces.
    pub remedy: &'static str,
}

/// Why a job cannot be cancelled any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TooLate {
    /// Its guest has started.
    GuestStarted,
    /// Its target was asked.
    TargetAsked,
    /// Its guest was asked.
    GuestAsked,
    /// It holds, and is being written.
    Holds,
}

impl core::fmt::Display for TooLate {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(match self {
            Self::GuestStarted => "the guest has started",
            Self::TargetAsked => "its target was asked already",
            Self::GuestAsked => "the guest was asked already",
            Self::Holds => "it holds, and is being written to the state volume",
        })
    }
}

/// Whether a change that is not durable holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Persisted {
    /// It holds already.
    Holds,
    /// Not before it is durable.
    NotYet,
}

impl core::fmt::Display for Persisted {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(match self {
            Self::Holds => "holds now, and is",
            Self::NotYet => "does not hold yet, and is",
        })
    }
}

/// To what an address belongs that a guest is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressOwner {
    /// The node.
    Node,
    /// Its gateway.
    Gateway,
    /// The server of its lease.
    DhcpServer,
    /// A portal of a volume.
    Portal,
    /// A guest that reaches the management port, or that this one would impersonate.
    Manager,
}

impl core::fmt::Display for AddressOwner {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(match self {
            Self::Node => "the node's own",
            Self::Gateway => "the gateway's, on which the node depends",
            Self::DhcpServer => "the DHCP server's, on which the node depends",
            Self::Portal => "an iSCSI portal's, on which disks depend",
            Self::Manager => "another guest's, and one of them reaches the management port by it",
        })
    }
}

/// Why a node refused a request or failed at it, and about which object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The guest, disk, volume, node or file it is about.
    pub object: String,
    /// Why.
    pub reason: Reason,
    /// What holds all the same.
    pub held: Option<Held>,
}

/// What was done and holds though it could not be persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Held {
    /// A change of a guest.
    Change,
    /// A guest that runs.
    Guest,
    /// A lockdown.
    Lockdown,
    /// A trust bundle.
    Bundle {
        /// Its serial.
        serial: u64,
    },
}

impl Refusal {
    /// A refusal about an object.
    pub fn of(object: impl Into<String>, reason: Reason) -> Self {
        Self { object: object.into(), reason, held: None }
    }

    /// One that is put into words where it is made.
    pub fn said(
        code: Code,
        object: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::of(object, Reason::Said { code, message: message.into(), remedy: remedy.into() })
    }

    /// The same about another object.
    #[must_use]
    pub fn about(self, object: impl Into<String>) -> Self {
        Self { object: object.into(), ..self }
    }

    /// The same, where something holds though.
    #[must_use]
    pub fn although(self, held: Held) -> Self {
        Self { held: Some(held), ..self }
    }

    /// What kind of failure it is.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.reason.code()
    }
}

/// For the node's log: the object, and the reason as it is named by `redoubt explain`.
impl core::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if !self.object.is_empty() {
            write!(formatter, "{}: ", self.object)?;
        }
        match &self.reason {
            Reason::Said { message, .. } => formatter.write_str(message),
            reason => write!(formatter, "{reason:?}"),
        }
    }
}

impl core::error::Error for Refusal {}

/// Of a check that a workstation makes too.
impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::said(failure.code, failure.object, failure.message, failure.remedy)
    }
}

/// In words.
impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let Refusal { object, reason, held } = refusal;
        let message = reason.message();
        let message = match held {
            None => message,
            Some(Held::Change) => format!("holds now, and is not kept: {message}"),
            Some(Held::Guest) => format!("runs, and is not kept: {message}"),
            Some(Held::Lockdown) => format!("is locked down, and that is not kept: {message}"),
            Some(Held::Bundle { serial }) => format!("bundle {serial} holds, and is not kept: {message}"),
        };
        Self { code: reason.code(), object, message, remedy: reason.remedy() }
    }
}

#[cfg(test)]
mod tests {
    use super::{EXPLANATIONS, Failure, Held, Reason, Refusal};
    use alloc::string::ToString;

    #[test]
    fn each_reason_says_what_it_means_and_what_to_do() {
        for it in EXPLANATIONS {
            assert!(it.meaning.ends_with('.') && !it.message.is_empty() && !it.remedy.is_empty(), "{it:?}");
            assert_eq!(EXPLANATIONS.iter().filter(|other| other.name == it.name).count(), 1, "{it:?}");
        }
    }

    #[test]
    fn words_name_the_object_and_what_holds() {
        let refusal = Refusal::of("web", Reason::NoSuchSlot { slot: 3 });
        assert_eq!(refusal.to_string(), "web: NoSuchSlot { slot: 3 }");
        let said = Failure::from(refusal.clone()).to_string();
        assert_eq!(said, "web: has no disk in slot 3 (see `redoubt block-list`)");
        let said = Failure::from(refusal.although(Held::Bundle { serial: 7 })).message;
        assert_eq!(said, "bundle 7 holds, and is not kept: has no disk in slot 3");
    }
}
