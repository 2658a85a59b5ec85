//! A frame of the stack's own on its way to the wire.

use alloc::vec::Vec;

use crate::offload::Offload;

/// A frame of the stack's own.
#[derive(Debug, Default)]
pub struct OwnFrame {
    /// Begins with the frame, and keeps whatever a longer one left behind it.
    pub(super) buffer: Vec<u8>,
    pub(super) length: usize,
    /// What is left to do on it: the checksum of a TCP segment, and to cut it.
    pub offload: Offload,
}

impl OwnFrame {
    /// Its octets.
    #[must_use]
    pub fn octets(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }

    /// Octets of its buffer.
    pub(super) fn held_bytes(&self) -> usize {
        self.buffer.len()
    }
}
