//! A signed command.
//!
//! ```text
//! signature 64 | node key 32 | boot nonce 32 | session 32 | counter 8 | request
//! ```
//!
//! The signature covers all that follows it, so a command is good for one node,
//! one boot, one session and one place in it. It is checked over the bytes as
//! they came; only then are they decoded. The stored bytes prove later who asked
//! for what.

use crate::handshake::{OperatorKey, PeerFault, SessionId, field};
use crate::limits::MESSAGE_BYTES;
use crate::verb::Request;
use alloc::vec::Vec;
use ed25519_dalek::{Signature, VerifyingKey};

const LABEL: &[u8] = b"redoubt command 1";
const HEADER_BYTES: usize = 64 + 32 + 32 + 32 + 8;

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

/// Something an operator signed for this node, boot, session and place. Only
/// [`open`] makes one.
#[derive(Debug, PartialEq, Eq)]
pub struct Verified<T> {
    inner: T,
    operator: [u8; 32],
}

impl<T> Verified<T> {
    /// What was signed.
    pub fn into_inner(self) -> T {
        self.inner
    }

    /// Who signed.
    pub const fn operator(&self) -> &[u8; 32] {
        &self.operator
    }

    /// A look at what was signed.
    pub const fn get(&self) -> &T {
        &self.inner
    }
}

fn signed_part(binding: &Binding, counter: u64, request: &[u8]) -> Vec<u8> {
    [&binding.node[..], &binding.boot_nonce, &binding.session, &counter.to_le_bytes(), request].concat()
}

/// Signs a request.
///
/// # Errors
/// The request is too long or the key cannot sign.
pub fn seal(
    key: &dyn OperatorKey,
    binding: &Binding,
    counter: u64,
    request: &Request,
) -> Result<Vec<u8>, PeerFault> {
    let request = postcard::to_allocvec(request).map_err(|_| PeerFault::Length)?;
    if request.len() > MESSAGE_BYTES {
        return Err(PeerFault::Length);
    }
    let part = signed_part(binding, counter, &request);
    let signature = key.sign(&[LABEL, &part].concat())?;
    Ok([&signature[..], &part].concat())
}

/// Verifies a command and decodes it. `expected` is the place in the session it
/// must have.
///
/// # Errors
/// Why it is not believed.
pub fn open(
    bytes: &[u8],
    operator: &[u8; 32],
    binding: &Binding,
    expected: u64,
) -> Result<Verified<Request>, PeerFault> {
    let request = bytes.get(HEADER_BYTES..).filter(|request| request.len() <= MESSAGE_BYTES);
    let request = request.ok_or(PeerFault::Length)?;
    let signed = bytes.get(64..).ok_or(PeerFault::Length)?;
    let key = VerifyingKey::from_bytes(operator).map_err(|_| PeerFault::Key)?;
    let signature = Signature::from_bytes(&field(bytes, 0)?);
    key.verify_strict(&[LABEL, signed].concat(), &signature).map_err(|_| PeerFault::Signature)?;
    let bound =
        Binding { node: field(bytes, 64)?, boot_nonce: field(bytes, 96)?, session: field(bytes, 128)? };
    if bound != *binding || u64::from_le_bytes(field(bytes, 160)?) != expected {
        return Err(PeerFault::Seal);
    }
    let (request, rest) = postcard::take_from_bytes::<Request>(request).map_err(|_| PeerFault::Unexpected)?;
    if !rest.is_empty() {
        return Err(PeerFault::Length);
    }
    Ok(Verified { inner: request, operator: *operator })
}
