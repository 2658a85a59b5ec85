//! The end of the audit log on the state volume: entries follow as they come, so that
//! no copy of the log holds one that a power cut could take away.

use alloc::vec::Vec;

use mgmt_proto::audit::Entry;

/// Entries that are kept.
const ENTRIES: u64 = 1024;
/// Entries of one batch.
pub(crate) const BATCH_ENTRIES: u64 = 8;
pub(crate) const PREFIX: &str = "audit/";

pub(crate) fn key(sequence: u64) -> alloc::string::String {
    alloc::format!("{PREFIX}{:04}", sequence % ENTRIES)
}

/// How far the log is on the volume.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The next entry to be put there.
    pub(crate) next: u64,
    /// A batch on its way, and the entry after it.
    pub(crate) under_way: Option<(u64, u64)>,
    /// The entry after the last durable one.
    pub(crate) durable: u64,
}

impl History {
    pub(crate) const fn kept(&self) -> u64 {
        if self.durable < ENTRIES { self.durable } else { ENTRIES }
    }
}

/// The longest run of entries that ends with the newest and has no gap.
pub(crate) fn unbroken(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_unstable_by_key(|entry| entry.sequence);
    let mut first = entries.len().saturating_sub(1);
    while let Some(before) = first.checked_sub(1)
        && let (Some(earlier), Some(later)) = (entries.get(before), entries.get(first))
        && earlier.sequence.checked_add(1) == Some(later.sequence)
        && earlier.digest() == later.previous
    {
        first = before;
    }
    entries.split_off(first)
}
