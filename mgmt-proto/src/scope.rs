//! Which nodes or guests a grant is about.

use crate::limits::{NAME_BYTES, SCOPE_PATTERNS};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// Which nodes or guests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// All of them.
    All,
    /// Those with one of these names; a `*` at the end stands for any rest.
    Named(Vec<String>),
}

impl Scope {
    /// Whether a name belongs.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(patterns) => patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == pattern,
            }),
        }
    }

    pub(crate) fn is_sound(&self) -> bool {
        match self {
            Self::All => true,
            Self::Named(patterns) => {
                patterns.len() <= SCOPE_PATTERNS && patterns.iter().all(|pattern| is_name(pattern))
            }
        }
    }
}

pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES && name.chars().all(|letter| letter.is_ascii_graphic())
}
