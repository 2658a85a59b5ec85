//! Puts the audit log onto the state volume: [`crate::operators::history`].

use alloc::vec::Vec;

use mgmt_proto::audit::Entry;

use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::operators::history::{BATCH_ENTRIES, PREFIX, key, unbroken};

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Goes on with the log that was kept; what was recorded since power-on follows it.
    pub(crate) fn take_history(&mut self) {
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
            self.operators.audit.entry(last.sequence).is_some_and(|entry| entry.digest() == last.digest())
        });
        if !goes_on {
            let since = self.operators.audit.all();
            self.operators.audit.restore(&tail);
            for entry in since {
                self.operators.audit.append(entry);
            }
        }
        self.operators.history.next = next;
        self.operators.history.durable = next;
    }

    /// Puts new entries onto the volume.
    pub(crate) fn poll_history(&mut self) {
        if let Some((batch, next)) = self.operators.history.under_way {
            if !self.state.changes.is_confirmed(batch) {
                return;
            }
            (self.operators.history.durable, self.operators.history.under_way) = (next, None);
        }
        let (first, length) = (self.operators.history.next, self.operators.audit.length());
        if first >= length {
            return;
        }
        let end = length.min(first.saturating_add(BATCH_ENTRIES));
        let entries: Vec<Entry> =
            (first..end).filter_map(|sequence| self.operators.audit.entry(sequence)).collect();
        let changes: Vec<_> = entries
            .iter()
            .filter_map(|entry| self.sealed_value(&key(entry.sequence), &entry.encode()))
            .collect();
        self.operators.history.under_way = Some((self.state.changes.add(changes), end));
        self.operators.history.next = end;
    }

    /// Entries that are not on the volume yet, and would be lost if they were overwritten.
    pub(crate) fn history_waiting(&self) -> u64 {
        let is_persistent = self.state.is_persistent();
        if is_persistent {
            self.operators.audit.length().saturating_sub(self.operators.history.durable)
        } else {
            0
        }
    }

    /// How much of the log may be shown: what cannot be lost any more.
    pub(crate) fn history_shown(&self) -> u64 {
        if self.state.is_persistent() {
            self.operators.history.durable
        } else {
            self.operators.audit.length()
        }
    }
}
