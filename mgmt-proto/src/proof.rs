//! That an operator signed a request: what a command carries and an audit log keeps.

use crate::handshake::SessionId;
use alloc::vec::Vec;
use ed25519_dalek::{Signature, VerifyingKey};

const LABEL: &[u8] = b"redoubt command 1";

/// What a command is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The node's public key.
    pub node: [u8; 32],
    /// The nonce of its boot.
    pub boot_nonce: [u8; 32],
    /// The session.
    pub session: SessionId,
}

/// That an operator signed a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Ed25519 signature.
    pub signature: [u8; 64],
    /// Node, boot and session.
    pub binding: Binding,
    /// Place in the session.
    pub counter: u64,
    /// SHA-256 of the encoded request.
    pub request: [u8; 32],
}

impl Proof {
    /// Whether this operator signed it.
    #[must_use]
    pub fn is_by(&self, operator: &[u8; 32]) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(operator) else { return false };
        let message = message(&self.binding, self.counter, &self.request);
        key.verify_strict(&message, &Signature::from_bytes(&self.signature)).is_ok()
    }
}

pub(crate) fn header(binding: &Binding, counter: u64) -> Vec<u8> {
    [&binding.node[..], &binding.boot_nonce, &binding.session, &counter.to_le_bytes()].concat()
}

/// What the signature covers.
pub(crate) fn message(binding: &Binding, counter: u64, request: &[u8; 32]) -> Vec<u8> {
    [LABEL, &header(binding, counter), request].concat()
}
