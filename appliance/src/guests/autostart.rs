//! The guests that start with the node, as they are on its state volume.

use alloc::vec::Vec;

use mgmt_proto::config::KeptGuest;
use mgmt_proto::machine::Digest;
use mgmt_proto::reason::{Reason, Refusal};

use crate::ledger::description_bytes;

pub(crate) const PREFIX: &str = "guest/";

/// What sealing adds to a value.
pub(crate) const SEALING_BYTES: usize = 40;

/// A guest, and what keeps it from starting.
pub(crate) struct Kept {
    pub(crate) guest: KeptGuest,
    pub(crate) problem: Option<Reason>,
}

/// All of them, in the order in which they start.
#[derive(Default)]
pub(crate) struct AutostartGuests {
    pub(crate) list: Vec<Kept>,
    /// Until when a guest waits for those before it; 0 for no longer.
    pub(crate) patience_ns: u64,
}

impl AutostartGuests {
    pub(crate) const fn count(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn next_deadline(&self) -> Option<u64> {
        Some(self.patience_ns).filter(|at| *at != 0)
    }

    /// Heap that they take.
    pub(crate) fn bytes(&self) -> usize {
        let kept = self.list.iter().map(|kept| &kept.guest);
        kept.map(|guest| description_bytes(&guest.machine, &guest.settings)).sum()
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Kept> {
        self.list.iter().find(|kept| kept.guest.machine.name == name)
    }

    pub(crate) fn put(&mut self, guest: KeptGuest) {
        self.list.retain(|kept| kept.guest.machine.name != guest.machine.name);
        self.list.push(Kept { guest, problem: None });
        self.list.sort_by(|one, other| {
            let key = |kept: &Kept| (kept.guest.order, kept.guest.machine.name.clone());
            key(one).cmp(&key(other))
        });
    }

    /// Whether a guest that is kept needs a file.
    pub(crate) fn needs(&self, digest: &Digest) -> bool {
        self.list.iter().any(|kept| needs(&kept.guest, digest))
    }
}

/// Whether a guest needs a file.
pub(crate) fn needs(guest: &KeptGuest, digest: &Digest) -> bool {
    files(guest).any(|file| file == *digest)
}

/// Kernel and initrd of a guest.
pub(crate) fn files(guest: &KeptGuest) -> impl Iterator<Item = Digest> {
    [Some(guest.machine.kernel), guest.machine.ramdisk].into_iter().flatten()
}

/// A guest from the bytes that were kept, checked as if an operator had sent it.
pub(crate) fn decode(name: &str, bytes: &[u8]) -> Option<KeptGuest> {
    KeptGuest::decode(bytes).filter(|guest| guest.machine.name == name && check(guest).is_ok())
}

/// What can be checked of a guest without starting it.
pub(crate) fn check(guest: &KeptGuest) -> Result<(), Refusal> {
    guest.machine.validate()?;
    Ok(guest.settings.validate(&guest.machine.disks)?)
}
