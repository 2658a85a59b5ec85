//! A signed command.
//!
//! ```text
//! signature 64 | node key 32 | boot nonce 32 | session 32 | counter 8 | request
//! ```
//!
//! The signature covers the four fields after it and the SHA-256 of the request, so
//! a command is good for one node, one boot, one session and one place in it. It is
//! checked over the bytes as they came; only then are they decoded. Signature,
//! fields and digest are a [`Proof`] that says for ever who asked for what, also
//! where the request itself is not kept.

use crate::codec;
use crate::handshake::{OperatorKey, PeerFault, field};
use crate::limits::MESSAGE_BYTES;
pub use crate::proof::{Binding, Proof};
use crate::proof::{header, message};
use crate::verb::Request;
use alloc::vec::Vec;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

const HEADER_BYTES: usize = 64 + 32 + 32 + 32 + 8;

/// Something an operator signed for this node, boot, session and place. Only
/// [`open`] makes one.
#[derive(Debug, PartialEq, Eq)]
pub struct Verified<T> {
    inner: T,
    operator: [u8; 32],
    proof: Proof,
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

    /// That it was signed.
    pub const fn proof(&self) -> &Proof {
        &self.proof
    }

    /// A look at what was signed.
    pub const fn get(&self) -> &T {
        &self.inner
    }
}

/// The digest by which a request is signed and recorded; None for one without end.
#[must_use]
pub fn request_digest(request: &Request) -> Option<[u8; 32]> {
    // It may hold secrets.
    let bytes = Zeroizing::new(postcard::to_allocvec(request).ok()?);
    Some(Sha256::digest(&*bytes).into())
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
    // It may hold secrets.
    let request = Zeroizing::new(postcard::to_allocvec(request).map_err(|_| PeerFault::Length)?);
    if request.len() > MESSAGE_BYTES {
        return Err(PeerFault::Length);
    }
    let signature = key.sign(&message(binding, counter, &Sha256::digest(&*request).into()))?;
    Ok([&signature[..], &header(binding, counter), &request].concat())
}

/// What a command says of itself, of which nothing is verified, and its request.
pub(crate) fn parse(bytes: &[u8]) -> Result<(Proof, &[u8]), PeerFault> {
    let request = bytes.get(HEADER_BYTES..).filter(|request| request.len() <= MESSAGE_BYTES);
    let request = request.ok_or(PeerFault::Length)?;
    let binding =
        Binding { node: field(bytes, 64)?, boot_nonce: field(bytes, 96)?, session: field(bytes, 128)? };
    let proof = Proof {
        signature: field(bytes, 0)?,
        binding,
        counter: u64::from_le_bytes(field(bytes, 160)?),
        request: Sha256::digest(request).into(),
    };
    Ok((proof, request))
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
    let (proof, request) = parse(bytes)?;
    if !proof.is_by(operator) {
        return Err(PeerFault::Signature);
    }
    if proof.binding != *binding || proof.counter != expected {
        return Err(PeerFault::Seal);
    }
    let request = codec::whole::<Request>(request).ok_or(PeerFault::Unexpected)?;
    Ok(Verified { inner: request, operator: *operator, proof })
}
