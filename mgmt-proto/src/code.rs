//! Error codes: the same numbers on the wire, in documents and as the CLI's exit
//! status.

use alloc::string::String;
use serde::{Deserialize, Serialize};

/// What kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Code {
    /// A fault of Redoubt itself.
    Internal = 1,
    /// The request makes no sense.
    Usage = 2,
    /// No such guest, blob, volume.
    NotFound = 3,
    /// Wrong state, or a name or address already in use.
    Conflict = 4,
    /// Signature, role or replay refused.
    Refused = 5,
    /// The node cannot be reached.
    Unreachable = 6,
    /// The deadline passed; the work goes on.
    Deadline = 7,
    /// Some nodes failed.
    Partial = 8,
    /// A volume or its target.
    Storage = 9,
    /// Policy or lockdown.
    Policy = 10,
    /// Not enough memory or slots.
    Capacity = 11,
    /// The two sides speak different versions.
    Version = 12,
    /// Bytes are not what their digest says.
    Integrity = 13,
}

/// A failure in words, as workstations show it: what, about which object, and what to do.
/// [`crate::reason::Refusal`] is what a node sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub code: Code,
    /// The guest, disk, volume or file it is about.
    pub object: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub remedy: String,
}

impl Failure {
    /// A failure with everything said.
    pub fn new(
        code: Code,
        object: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { code, object: object.into(), message: message.into(), remedy: remedy.into() }
    }
}

impl core::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if !self.object.is_empty() {
            write!(formatter, "{}: ", self.object)?;
        }
        formatter.write_str(&self.message)?;
        if !self.remedy.is_empty() {
            write!(formatter, " ({})", self.remedy)?;
        }
        Ok(())
    }
}

impl core::error::Error for Failure {}
