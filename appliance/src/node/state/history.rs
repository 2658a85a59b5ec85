//! The end of the audit log on the state volume: entries follow as they come, so that
//! no copy of the log holds one that a power cut could take away.

use alloc::vec::Vec;

use mgmt_proto::audit::Entry;

use crate::hypervisor::Hypervisor;
use crate::node::Node;
use crate::node::nic::Nic;

/// Entries that are kept.
const ENTRIES: u64 = 1024;
/// Entries of one batch.
const BATCH_ENTRIES: u64 = 8;
const PREFIX: &str = "audit/";

fn key(sequence: u64) -> alloc::string::String {
    alloc::format!("{PREFIX}{:04}", sequence % ENTRIES)
}

/// How far the log is on the volume.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The next entry to be put there.
    next: u64,
    /// A batch on its way, and the entry after it.
    under_way: Option<(u64, u64)>,
    /// The entry after the last durable one.
    durable: u64,
}

impl History {
    pub(super) const fn kept(&self) -> u64 {
        if self.durable < ENTRIES { self.durable } else { ENTRIES }
    }
}

/// The longest run of entries that ends with the newest and has no gap.
fn unbroken(mut entries: Vec<Entry>) -> Vec<Entry> {
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

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Goes on with the log that was kept; what was recorded since power-on follows it.
    pub(super) fn take_history(&mut self) {
        let keys = self.state.keys(PREFIX);
        let found: Vec<Entry> = keys
            .iter()
            .filter_map(|name| {
                let entry = Entry::decode(&self.state.value(name)?)?;
                (key(entry.sequence) == *name).then_some(entry)
            })
            .collect();
        let tail = unbroken(found);
        if tail.len() < keys.len() {
            log::warn!("{} audit entries of {} are lost", keys.len() - tail.len(), keys.len());
        }
        let next = tail.last().map_or(0, |last| last.sequence.saturating_add(1));
        let goes_on = tail.last().is_none_or(|last| {
            self.audit.entry(last.sequence).is_some_and(|entry| entry.digest() == last.digest())
        });
        if !goes_on {
            let since = self.audit.all();
            self.audit.restore(&tail);
            for entry in since {
                self.audit.append(entry);
            }
        }
        self.state.history.next = next;
        self.state.history.durable = next;
    }

    /// Puts new entries onto the volume.
    pub(super) fn settle_history(&mut self) {
        if let Some((batch, next)) = self.state.history.under_way {
            if !self.state.changes.is_confirmed(batch) {
                return;
            }
            (self.state.history.durable, self.state.history.under_way) = (next, None);
        }
        let (first, length) = (self.state.history.next, self.audit.length());
        if first >= length {
            return;
        }
        let end = length.min(first.saturating_add(BATCH_ENTRIES));
        let entries: Vec<Entry> = (first..end).filter_map(|sequence| self.audit.entry(sequence)).collect();
        let changes: Vec<_> = entries
            .iter()
            .filter_map(|entry| self.sealed_value(&key(entry.sequence), &entry.encode()))
            .collect();
        self.state.history.under_way = Some((self.state.changes.add(changes), end));
        self.state.history.next = end;
    }

    /// Entries that are not on the volume yet, and would be lost if they were overwritten.
    pub(in crate::node) fn history_waiting(&self) -> u64 {
        let is_kept = self.state.is_kept();
        if is_kept { self.audit.length().saturating_sub(self.state.history.durable) } else { 0 }
    }

    /// How much of the log may be shown: what cannot be lost any more.
    pub(in crate::node) fn history_shown(&self) -> u64 {
        if self.state.is_kept() { self.state.history.durable } else { self.audit.length() }
    }
}
