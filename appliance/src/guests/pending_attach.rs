//! A disk whose volume is being connected for a guest that runs.

use alloc::vec::Vec;

use mgmt_proto::disk::DiskSetting;
use mgmt_proto::machine::Disk;

use crate::guests::number::GuestNumber;
use crate::ledger::attaching_bytes;

/// A disk whose volume is being connected for a guest that runs.
#[derive(Debug)]
pub struct PendingAttach {
    pub(crate) guest: GuestNumber,
    pub(crate) device: usize,
    pub(crate) disk: Disk,
    pub(crate) settings: Vec<DiskSetting>,
    pub(crate) deadline_ns: u64,
}

impl PendingAttach {
    /// The disk.
    pub(crate) const fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Heap that it takes at most.
    pub(crate) fn heap_bytes(&self, cards: usize) -> usize {
        attaching_bytes(&self.disk, &self.settings, cards)
    }
}
