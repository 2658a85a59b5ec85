//! A chain of entries in a ring of slots, each with the length of an entry and the entry.
//!
//! Slot and sequence number belong together, so a restarted dom0 finds the end by looking
//! at all of them.

use alloc::vec::Vec;

use machine::guest_memory::{Gpa, GuestMemory};
use mgmt_proto::audit::{Entry, Head, Log, Page};
use mgmt_proto::limits::{AUDIT_ENTRIES, AUDIT_ENTRY_BYTES};
use mgmt_proto::server::Identity;

pub(crate) const SLOT_BYTES: usize = 2 + AUDIT_ENTRY_BYTES;

/// One of a node's logs.
pub(crate) struct Chain {
    log: Log,
    /// Where its slots begin, and how many they are.
    at: u64,
    slots: u64,
    /// The oldest entry that is there.
    pub(crate) oldest: u64,
    pub(crate) length: u64,
    pub(crate) digest: [u8; 32],
}

/// The entry in a slot of a ring; none for what is no entry of that place.
pub(crate) fn decode_slot(slots: u64, slot: u64, bytes: &[u8]) -> Option<Entry> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let entry = rest.get(..usize::from(u16::from_le_bytes(*length)))?;
    // An empty slot has a length of zero, which is no entry.
    Entry::decode(entry).filter(|entry| entry.sequence.checked_rem(slots) == Some(slot))
}

impl Chain {
    pub(crate) const fn new(log: Log, at: u64, slots: u64) -> Self {
        Self { log, at, slots, oldest: 0, length: 0, digest: [0; 32] }
    }

    fn slot(&self, sequence: u64) -> u64 {
        sequence.checked_rem(self.slots).unwrap_or(0)
    }

    fn read_slot<M: GuestMemory>(&self, memory: &M, slot: u64) -> Option<Entry> {
        let mut bytes = [0; SLOT_BYTES];
        memory.read(Gpa(self.at + slot * SLOT_BYTES as u64), &mut bytes).ok()?;
        decode_slot(self.slots, slot, &bytes)
    }

    /// Goes on with what an earlier dom0 wrote; the newest entry.
    pub(crate) fn adopt<M: GuestMemory>(&mut self, memory: &M) -> Option<Entry> {
        let all = (0..self.slots).filter_map(|slot| self.read_slot(memory, slot));
        let newest = all.max_by_key(|entry| entry.sequence)?;
        self.length = newest.sequence.saturating_add(1);
        self.oldest = newest.sequence;
        let mut previous = newest.previous;
        while let Some(before) = self.oldest.checked_sub(1)
            && let Some(earlier) = self.read_slot(memory, self.slot(before))
            && earlier.sequence == before
            && earlier.digest() == previous
        {
            (self.oldest, previous) = (before, earlier.previous);
        }
        self.digest = newest.digest();
        Some(newest)
    }

    /// Adds an entry at the end; as it is there, or none when it is not.
    pub(crate) fn append<M: GuestMemory>(&mut self, memory: &mut M, mut entry: Entry) -> Option<Entry> {
        (entry.sequence, entry.previous) = (self.length, self.digest);
        let bytes = entry.encode();
        let length = u16::try_from(bytes.len()).ok().filter(|_| bytes.len() <= AUDIT_ENTRY_BYTES)?;
        let slot = [&length.to_le_bytes()[..], &bytes].concat();
        memory.write(Gpa(self.at + self.slot(self.length) * SLOT_BYTES as u64), &slot).ok()?;
        self.length += 1;
        self.oldest = self.oldest.max(self.length.saturating_sub(self.slots));
        self.digest = entry.digest();
        Some(entry)
    }

    /// An entry by its number, if it is there.
    pub(crate) fn entry<M: GuestMemory>(&self, memory: &M, sequence: u64) -> Option<Entry> {
        let known = (self.oldest..self.length).contains(&sequence);
        known.then(|| self.read_slot(memory, self.slot(sequence))).flatten()
    }

    /// Entries from a sequence number on, as many as one reply takes, of the first `shown`
    /// ever made.
    pub(crate) fn page<M: GuestMemory>(
        &self,
        memory: Option<&M>,
        from: u64,
        shown: u64,
        identity: &Identity,
    ) -> Page {
        let shown = shown.min(self.length);
        let first = from.max(self.oldest);
        let end = shown.min(first.saturating_add(AUDIT_ENTRIES as u64));
        let entry = |sequence| self.entry(memory?, sequence);
        let entries: Vec<Entry> = (first..end).filter_map(entry).collect();
        let digest = entry(shown).map_or(self.digest, |next| next.previous);
        Page { entries, oldest: self.oldest, head: Head::sign(&identity.key, self.log, shown, digest) }
    }
}
