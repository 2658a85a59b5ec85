//! What tells guests and their devices apart.

use core::fmt;

/// A guest's number on its node, never used again. Its place in the list is another number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestNumber(pub(crate) u64);

impl fmt::Display for GuestNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
