//! What is never printed, logged or kept longer than it is needed.

use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// A secret: it has no text form and is wiped when it goes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Takes a secret.
    #[must_use]
    pub const fn new(secret: Vec<u8>) -> Self {
        Self(secret)
    }

    /// The secret itself, for whoever must prove that it knows it.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How long it is.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.0.len()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(withheld)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::new(b"open sesame".to_vec());
        assert_eq!(alloc::format!("{secret:?} {:#?}", Some(&secret)), "(withheld) Some(\n    (withheld),\n)");
        assert_eq!((secret.expose(), secret.length()), (&b"open sesame"[..], 11));
    }
}
