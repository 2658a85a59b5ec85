//! Opening a store: which half is newer, what its log says, and whether all that was
//! confirmed is there.

use super::record::{self, Found, Header};
use super::{BLOCK_BYTES, BLOCKS_MIN, HALF_BLOCKS, Phase, Store, StoreError, blocks_of};
use crate::limits::{STORE_BYTES_MAX, STORE_KEYS_MAX};
use alloc::vec::Vec;

impl Store {
    /// The header of one half; with both it is clear where to continue.
    pub(super) fn header_read(&mut self, block: &[u8]) {
        if let Some(slot) = self.headers.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some(Header::find(&self.key, block));
        }
        let [Some(first), Some(second)] = self.headers else { return };
        let newer = match (first, second) {
            (Found::Header(a), Found::Header(b)) if a.identity != b.identity => None,
            (Found::Header(a), Found::Header(b)) if b.generation > a.generation => Some((1, b)),
            (Found::Header(a), _) => Some((0, a)),
            (_, Found::Header(b)) => Some((1, b)),
            _ => None,
        };
        let Some((half, header)) = newer else {
            self.phase = match (first, second) {
                (Found::Blank, Found::Blank) => Phase::Inspect(0),
                (Found::Foreign, _) | (_, Found::Foreign) => Phase::Stopped(StoreError::Foreign),
                _ => Phase::Stopped(StoreError::Unauthentic),
            };
            return;
        };
        (self.half, self.identity, self.generation) = (half, header.identity, header.generation);
        (self.promised, self.promised_last) = (header.records, header.last);
        self.log = header.log;
        self.last = Header::seed(&self.key, &self.identity, self.log);
        self.tail = half * HALF_BLOCKS + 1;
        self.buffer_first = self.tail;
        self.phase = Phase::Replay;
    }

    /// Applies the records that the buffer holds whole.
    pub(super) fn replay(&mut self) {
        let end = (self.half + 1) * HALF_BLOCKS;
        loop {
            let used = usize::try_from(self.tail - self.buffer_first).unwrap_or(0) * BLOCK_BYTES;
            let bytes = self.buffer.get(used..).unwrap_or(&[]);
            let length = record::length(bytes);
            let is_all_read = self.tail + blocks_of(bytes.len()) >= end;
            if !is_all_read && (bytes.is_empty() || length.is_some_and(|length| length > bytes.len())) {
                self.buffer.drain(..used.min(self.buffer.len()));
                self.buffer_first = self.tail;
                return;
            }
            let found = record::decode(&self.key, bytes).filter(|(place, ..)| *place == self.place());
            let Some((place, digest, changes)) = found else { break };
            self.tail += blocks_of(length.unwrap_or(0));
            (self.last, self.sequence) = (digest, place.sequence);
            for (key, value) in changes {
                self.apply(&key, value);
            }
            // This program never writes that much.
            if self.bytes > STORE_BYTES_MAX || self.entries.len() > STORE_KEYS_MAX {
                self.phase = Phase::Stopped(StoreError::Damaged);
                return;
            }
            if self.sequence == self.promised && self.last != self.promised_last {
                self.phase = Phase::Stopped(StoreError::Damaged);
                return;
            }
        }
        self.buffer = Vec::new();
        self.phase = if self.sequence < self.promised {
            Phase::Stopped(StoreError::Damaged)
        } else if self.tail < end {
            Phase::Scan(self.tail)
        } else {
            Phase::FlushOpened
        };
    }

    /// Only what is blank all over may be formatted: not everything begins at the
    /// first block.
    pub(super) fn inspect(&mut self, first: u64, bytes: &[u8]) {
        let next = first + blocks_of(bytes.len());
        self.phase = if bytes.iter().any(|byte| *byte != 0) {
            Phase::Stopped(StoreError::Foreign)
        } else if bytes.is_empty() || next >= BLOCKS_MIN {
            Phase::Stopped(StoreError::Blank)
        } else {
            Phase::Inspect(next)
        };
    }

    /// Looks for whole records of this log where none may be. One that goes
    /// on beyond what was read at once is not seen; those behind it are.
    pub(super) fn scan(&mut self, first: u64, bytes: &[u8]) {
        let blocks = bytes.len() / BLOCK_BYTES;
        let is_damaged = (0..blocks).any(|block| {
            bytes
                .get(block * BLOCK_BYTES..)
                .and_then(|bytes| record::decode(&self.key, bytes))
                .is_some_and(|(place, ..)| place.log == self.log && place.sequence > self.sequence)
        });
        let next = first + blocks as u64;
        self.phase = if is_damaged {
            Phase::Stopped(StoreError::Damaged)
        } else if blocks == 0 || next >= (self.half + 1) * HALF_BLOCKS {
            Phase::FlushOpened
        } else {
            Phase::Scan(next)
        };
    }
}
