//! What is on the state volume is sealed: a thief of the volume can neither
//! read a value nor make one, nor put one in the place of another.
//!
//! The image's key for the state serves nothing itself: values and the store's chain have
//! keys of their own, derived from it.
//!
//! Spec: RFC 8439 (ChaCha20-Poly1305); draft-irtf-cfrg-xchacha-03 (the longer nonce,
//! which may be random).
//!
//! ```text
//! value  nonce 24 | ciphertext | tag 16; authenticated too: label | volume 16 | key
//! ```

use alloc::vec::Vec;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use storage::store::StoreKey;
use zeroize::Zeroizing;

const LABEL: &[u8] = b"redoubt state 1";
const VALUES_LABEL: &[u8] = b"redoubt state values 1";
const CHAIN_LABEL: &[u8] = b"redoubt state chain 1";
/// Bytes of a nonce.
pub(crate) const NONCE_BYTES: usize = 24;

/// A key for one purpose from the one in the image; None if that is none.
fn derive(key: &[u8], label: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let key: &[u8; 32] = key.try_into().ok()?;
    let hmac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).ok()?;
    Some(Zeroizing::new(hmac.chain_update(label).finalize().into_bytes().into()))
}

/// The key under which header and records of the store are authentic; None if the image
/// has none.
#[must_use]
pub(crate) fn store_key(key: &[u8]) -> Option<StoreKey> {
    derive(key, CHAIN_LABEL).map(|key| StoreKey::new(*key))
}

/// The key of one volume.
pub(crate) struct Sealing {
    cipher: XChaCha20Poly1305,
    volume: [u8; 16],
}

impl Sealing {
    /// With the key that was sealed into the image; None if it is none.
    #[must_use]
    pub(crate) fn new(key: &[u8], volume: [u8; 16]) -> Option<Self> {
        let key = derive(key, VALUES_LABEL)?;
        Some(Self { cipher: XChaCha20Poly1305::new((&*key).into()), volume })
    }

    fn context(&self, key: &str) -> Vec<u8> {
        [LABEL, &self.volume, key.as_bytes()].concat()
    }

    /// A value as it is kept; `nonce` is random.
    #[must_use]
    pub(crate) fn seal(&self, key: &str, plain: &[u8], nonce: [u8; NONCE_BYTES]) -> Option<Vec<u8>> {
        let payload = Payload { msg: plain, aad: &self.context(key) };
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), payload).ok()?;
        Some([&nonce[..], &sealed].concat())
    }

    /// A value that was kept; None for one that was altered, moved or is another's.
    #[must_use]
    pub(crate) fn open(&self, key: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let payload = Payload { msg: sealed, aad: &self.context(key) };
        self.cipher.decrypt(&XNonce::from(*nonce), payload).ok().map(Zeroizing::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_only_where_it_was_sealed() {
        let own = Sealing::new(&[1; 32], [2; 16]).unwrap();
        let sealed = own.seal("identity", b"secret", [3; 24]).unwrap();
        assert_eq!(sealed.len(), 24 + 6 + 16);
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        assert_eq!(own.open("identity", &sealed).as_deref().map(Vec::as_slice), Some(&b"secret"[..]));
        assert_eq!(own.open("trust", &sealed), None, "another key");
        let others = [Sealing::new(&[9; 32], [2; 16]), Sealing::new(&[1; 32], [9; 16])];
        assert!(others.iter().flatten().all(|other| other.open("identity", &sealed).is_none()));
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(own.open("identity", &altered), None, "byte {at}");
            assert_eq!(own.open("identity", &sealed[..at]), None, "cut at {at}");
        }
        assert!(Sealing::new(&[1; 31], [2; 16]).is_none());
    }
}
