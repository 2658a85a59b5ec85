//! A node's key gives way to another one: the old signs the new, so that a client that knows
//! the old one can follow.
//!
//! A thief of the old key can sign such a link too, for those who have not followed yet:
//! they would have believed him anyway.

use crate::codec;
use alloc::vec::Vec;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

const LABEL: &[u8] = b"redoubt node key 1";

/// That a key is followed by another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyLink {
    /// The node's key before.
    pub from: [u8; 32],
    /// The one that followed.
    pub to: [u8; 32],
    /// Signature by the key before, first half (R of RFC 8032, 5.1.6).
    pub signature_r: [u8; 32],
    /// Second half (S).
    pub signature_s: [u8; 32],
}

fn message(from: &[u8; 32], to: &[u8; 32]) -> Vec<u8> {
    [LABEL, from, to].concat()
}

impl KeyLink {
    /// Signs that `to` follows a key.
    #[must_use]
    pub fn sign(from: &SigningKey, to: [u8; 32]) -> Self {
        let public = from.verifying_key().to_bytes();
        let signature = from.sign(&message(&public, &to));
        Self { from: public, to, signature_r: *signature.r_bytes(), signature_s: *signature.s_bytes() }
    }

    /// Whether the key before signed it.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.from) else { return false };
        let signature = Signature::from_components(self.signature_r, self.signature_s);
        key.verify_strict(&message(&self.from, &self.to), &signature).is_ok()
    }
}

/// Whether links lead from one key to another, each signed by the one before.
#[must_use]
pub fn leads(links: &[KeyLink], from: &[u8; 32], to: &[u8; 32]) -> bool {
    let mut at = *from;
    for _ in 0..=links.len() {
        if at == *to {
            return true;
        }
        match links.iter().find(|link| link.from == at && link.is_signed()) {
            Some(link) => at = link.to,
            None => return false,
        }
    }
    false
}

/// Links as a node keeps them.
#[must_use]
pub fn encode(links: &[KeyLink]) -> Vec<u8> {
    // Only a serializer that is out of memory fails, and it does not return.
    postcard::to_allocvec(links).unwrap_or_default()
}

/// Links that a node kept.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Vec<KeyLink>> {
    codec::whole(bytes)
}

#[cfg(test)]
mod tests {
    use super::{KeyLink, decode, encode, leads};
    use ed25519_dalek::SigningKey;

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn public(number: u8) -> [u8; 32] {
        key(number).verifying_key().to_bytes()
    }

    #[test]
    fn links_lead_from_old_keys_to_new_ones_only() {
        let link = |from: u8, to: u8| KeyLink::sign(&key(from), public(to));
        let links = [link(1, 2), link(2, 3), link(3, 4)];
        assert_eq!(decode(&encode(&links)).as_deref(), Some(&links[..]));
        for (from, to) in [(1, 4), (2, 4), (1, 2), (3, 3), (9, 9)] {
            assert!(leads(&links, &public(from), &public(to)), "{from} {to}");
        }
        for (from, to) in [(4, 1), (3, 2), (1, 5), (9, 4)] {
            assert!(!leads(&links, &public(from), &public(to)), "{from} {to}");
        }
        // One that is missing, one that another key signed, one that goes in circles.
        assert!(!leads(&[links[0], links[2]], &public(1), &public(4)));
        let forged = KeyLink { from: public(2), ..link(9, 3) };
        assert!(!leads(&[links[0], forged], &public(1), &public(3)));
        assert!(leads(&[links[0], forged, links[1]], &public(1), &public(3)), "beside a good one");
        assert!(!leads(&[link(1, 2), link(2, 1)], &public(1), &public(3)));
        assert!(!leads(&[KeyLink { to: public(5), ..links[0] }], &public(1), &public(5)));
    }
}
