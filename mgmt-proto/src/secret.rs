//! What is never printed, logged or kept longer than it is needed.

use crate::disk::DiskSetting;
use crate::verb::{Discover, Request};
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

impl Request {
    /// Whether it holds a secret, or may: who asks must know whom.
    #[must_use]
    pub fn has_secret(&self) -> bool {
        let is_secret =
            |setting: &DiskSetting| matches!(setting, DiskSetting::Secret(_) | DiskSetting::TargetSecret(..));
        match self {
            Self::StorageDiscover(Discover::Iscsi { settings, .. })
            | Self::StorageProbe { settings, .. }
            | Self::StorageReserve { settings, .. }
            | Self::StorageRelease { settings, .. }
            | Self::BlockAttach { settings, .. } => settings.iter().any(is_secret),
            Self::Check { settings, .. } | Self::Create { settings, .. } => {
                settings.disks.iter().flatten().any(is_secret)
            }
            // People type passwords there.
            Self::ConsoleWrite { .. } => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;

    #[test]
    fn no_request_with_a_secret_is_missed() {
        let discoveries = vectors::discoveries().into_iter().map(Request::StorageDiscover);
        let mut found = 0;
        for request in vectors::requests().into_iter().chain(discoveries) {
            let bytes = postcard::to_allocvec(&request).unwrap();
            let shows = bytes.windows(6).any(|window| window == b"sesame");
            assert_eq!(request.has_secret(), shows, "{request:?}");
            found += usize::from(shows);
        }
        assert!(found >= 4, "{found}");
    }

    #[test]
    fn a_secret_is_not_printed() {
        let secret = Secret::new(b"open sesame".to_vec());
        assert_eq!(alloc::format!("{secret:?} {:#?}", Some(&secret)), "(withheld) Some(\n    (withheld),\n)");
        assert_eq!((secret.expose(), secret.length()), (&b"open sesame"[..], 11));
    }
}
