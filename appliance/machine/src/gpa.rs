//! Addresses in a guest's memory.

use serde::{Deserialize, Serialize};

/// A guest-physical address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Gpa(pub u64);

impl Gpa {
    /// The address `bytes` further on; saturates, which no RAM check passes.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }
}
