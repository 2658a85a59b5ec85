//! The encrypted frames of a session.
//!
//! A record is its length in four bytes, little-endian, then that many bytes of
//! ChaCha20-Poly1305 (RFC 8439). The nonce counts records in each direction, so
//! a record that is replayed, dropped, moved or altered does not open.

use crate::fault::PeerFault;
use crate::limits::RECORD_BYTES;
use alloc::vec::Vec;
use chacha20poly1305::aead::Aead;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce};
use ed25519_dalek::SigningKey;
use x25519_dalek::StaticSecret;
use zeroize::ZeroizeOnDrop;

/// Bytes that sealing adds.
pub const TAG_BYTES: usize = 16;
/// Bytes of the length before a record.
pub const LENGTH_BYTES: usize = 4;

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    let (_, tail) = bytes.split_at_mut(4);
    tail.copy_from_slice(&counter.to_le_bytes());
    Nonce::from(bytes)
}

/// Seals records in order. Its key is wiped when it is dropped.
pub struct Sealer {
    cipher: ChaCha20Poly1305,
    counter: u64,
}

impl Sealer {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self { cipher: ChaCha20Poly1305::new(key.into()), counter: 0 }
    }

    /// Seals one record, without its length.
    ///
    /// # Errors
    /// Too long, or too many records.
    pub fn seal(&mut self, plain: &[u8]) -> Result<Vec<u8>, PeerFault> {
        if plain.len() > RECORD_BYTES {
            return Err(PeerFault::Length);
        }
        let sealed = self.cipher.encrypt(&nonce(self.counter), plain).map_err(|_| PeerFault::Seal)?;
        self.counter = self.counter.checked_add(1).ok_or(PeerFault::Flood)?;
        Ok(sealed)
    }
}

/// Opens records in order. Its key is wiped when it is dropped.
pub struct Opener {
    cipher: ChaCha20Poly1305,
    counter: u64,
}

impl Opener {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self { cipher: ChaCha20Poly1305::new(key.into()), counter: 0 }
    }

    /// Opens one record.
    ///
    /// # Errors
    /// It is not the next record the other end sealed.
    pub fn open(&mut self, sealed: &[u8]) -> Result<Vec<u8>, PeerFault> {
        let plain = self.cipher.decrypt(&nonce(self.counter), sealed).map_err(|_| PeerFault::Seal)?;
        self.counter = self.counter.checked_add(1).ok_or(PeerFault::Flood)?;
        Ok(plain)
    }
}

/// The ciphers wipe their keys, which hold one feature of their crate.
const _: fn() = || {
    const fn is_wiped<T: ZeroizeOnDrop>() {}
    is_wiped::<ChaCha20Poly1305>();
    is_wiped::<StaticSecret>();
    is_wiped::<SigningKey>();
};

/// Length of the sealed record at the start of `bytes`, once its length is there.
///
/// # Errors
/// A length no record has.
pub(crate) fn length(bytes: &[u8]) -> Result<Option<usize>, PeerFault> {
    let Some(prefix) = bytes.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = usize::try_from(u32::from_le_bytes(*prefix)).map_err(|_| PeerFault::Length)?;
    if !(TAG_BYTES + 1..=RECORD_BYTES + TAG_BYTES).contains(&length) {
        return Err(PeerFault::Length);
    }
    Ok(Some(length))
}

/// Appends a sealed record with its length.
pub(crate) fn append(target: &mut Vec<u8>, sealed: &[u8]) -> Result<(), PeerFault> {
    let length = u32::try_from(sealed.len()).map_err(|_| PeerFault::Length)?;
    target.extend_from_slice(&length.to_le_bytes());
    target.extend_from_slice(sealed);
    Ok(())
}

/// First byte of a record: a signed command.
pub(crate) const KIND_COMMAND: u8 = 1;
/// First byte of a record: bytes of the blob that was announced.
pub(crate) const KIND_DATA: u8 = 2;
/// First byte of a record: the outcome of the oldest unanswered command.
pub(crate) const KIND_OUTCOME: u8 = 3;
/// First byte of a record: the operator is there, and nothing else.
pub(crate) const KIND_HERE: u8 = 5;
/// First byte of a record: how far the job is that the session waits for.
pub(crate) const KIND_PROGRESS: u8 = 4;
