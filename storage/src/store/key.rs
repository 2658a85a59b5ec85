//! The key under which a store's header and records are authentic.

use core::fmt;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

/// A key of 32 bytes for HMAC-SHA256; wiped when dropped.
#[derive(Clone)]
pub struct StoreKey(Zeroizing<[u8; 64]>);

impl StoreKey {
    /// The key with these bytes, which serve nothing else.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        // Zeroes fill a key up to the hash's block (RFC 2104 section 2).
        let mut block = [0; 64];
        let (head, _) = block.split_at_mut(bytes.len());
        head.copy_from_slice(&bytes);
        Self(Zeroizing::new(block))
    }

    fn hmac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut hmac = Hmac::<Sha256>::new(&(*self.0).into());
        for part in parts {
            hmac.update(part);
        }
        hmac
    }

    /// The MAC of these parts, one after the other.
    pub(super) fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.hmac(parts).finalize().into_bytes().into()
    }

    /// Whether `mac` is that of `message`; takes the same time wherever they differ.
    pub(super) fn verifies(&self, message: &[u8], mac: &[u8]) -> bool {
        self.hmac(&[message]).verify_slice(mac).is_ok()
    }
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("StoreKey")
    }
}
