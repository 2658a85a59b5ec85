//! Which operators the node obeys: the trust bundle that holds, whether that is known, and the
//! lockdown under it; and who the node is.
//!
//! Bundles and lockdown are in the memory that outlives dom0 (`own_memory`); on the state volume
//! they are kept by a flow of the node.

pub(crate) mod persisted;
pub(crate) mod rotation;

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use machine::guest_memory::{Gpa, GuestMemory};
use mgmt_proto::limits::TRUST_BYTES;
use mgmt_proto::node_key::KeyLink;
use mgmt_proto::server::Identity;
use mgmt_proto::trust::Trust;

use crate::own_memory::{BUNDLES_AT, LOCKED_AT};
use crate::trust::rotation::Rotation;

/// The node's key, and those that it had.
pub(crate) struct NodeKeys {
    /// As operators know it.
    pub(crate) identity: Identity,
    /// From the keys that it had before to the one that it has.
    pub(crate) links: Vec<KeyLink>,
    /// Another key that is on its way to the state volume.
    pub(crate) rotation: Option<Rotation>,
}

impl NodeKeys {
    /// Sets what leads from earlier keys to the one that the node has.
    pub(crate) fn set_links(&mut self, links: Vec<KeyLink>) {
        self.identity.former = links.iter().map(|link| link.from).collect();
        self.links = links;
    }
}

/// Which operators the node obeys.
#[derive(Debug)]
pub(crate) struct Authority {
    /// The bundle that holds, and what leads to it.
    pub(crate) bundles: Trust,
    /// Least serial that the owner sealed; 0 for none.
    serial_min: u64,
    /// The bundle under which the node was locked down, if it was.
    locked_under: Option<u64>,
    /// Why it is not known which bundle holds, if it is not.
    doubt: Option<&'static str>,
    /// Serial of the bundle that is on the state volume.
    pub(crate) persisted_serial: u64,
    /// The batch with a later one, and its serial.
    pub(crate) persisting: Option<(u64, u64)>,
}

impl Authority {
    /// What was sealed into the image holds.
    pub(crate) const fn new(sealed: Trust, serial_min: u64) -> Self {
        Self {
            bundles: sealed,
            serial_min,
            locked_under: None,
            doubt: None,
            persisted_serial: 0,
            persisting: None,
        }
    }

    /// Serial of the bundle that holds.
    pub(crate) fn serial(&self) -> u64 {
        self.bundles.bundle().serial
    }

    /// Whether the owner sealed a least serial.
    pub(crate) const fn has_minimum(&self) -> bool {
        self.serial_min > 0
    }

    /// Whether the bundle that holds is one that the owner sealed as new enough.
    pub(crate) fn is_above_minimum(&self) -> bool {
        self.has_minimum() && self.serial() >= self.serial_min
    }

    /// Why it is not known which keys the owner trusts now, if it is not.
    pub(crate) fn doubt(&self) -> Option<String> {
        let (serial, minimum) = (self.serial(), self.serial_min);
        if serial < minimum {
            return Some(alloc::format!("trust bundle {serial} is older than {minimum}, which was sealed"));
        }
        self.doubt.map(String::from)
    }

    /// Whether it is not known which bundle holds, whatever was sealed.
    pub(crate) const fn is_lost(&self) -> bool {
        self.doubt.is_some()
    }

    /// It is known again, or it is not known any more.
    pub(crate) const fn set_doubt(&mut self, why: Option<&'static str>) {
        self.doubt = why;
    }

    /// Whether the node is locked down now.
    pub(crate) fn is_locked(&self) -> bool {
        self.locked_under == Some(self.serial())
    }

    /// The lockdown holds under this bundle, also for the next dom0.
    pub(crate) fn lock_under<M: GuestMemory>(&mut self, serial: u64, memory: Option<&M>) {
        self.locked_under = Some(serial);
        // One more, so that zeros mean that it never was.
        let kept = serial.saturating_add(1).to_le_bytes();
        if memory.is_none_or(|memory| memory.write(Gpa(LOCKED_AT), &kept).is_err()) {
            log::error!("no memory to keep the lockdown in: a restart of dom0 ends it");
        }
    }

    /// Goes back to the lockdown and the bundles that an earlier dom0 kept; false if the bundles
    /// were lost.
    pub(crate) fn restore<M: GuestMemory>(&mut self, memory: &M) -> bool {
        let mut kept = [0; 8];
        if memory.read(Gpa(LOCKED_AT), &mut kept).is_ok() {
            self.locked_under = u64::from_le_bytes(kept).checked_sub(1);
        }
        let mut length = [0; 4];
        if memory.read(Gpa(BUNDLES_AT), &mut length).is_err() {
            return false;
        }
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length == 0 {
            return true;
        }
        let mut kept: Vec<u8> = Vec::new();
        if length <= TRUST_BYTES {
            kept = vec![0; length];
        }
        !kept.is_empty() && memory.read(Gpa(BUNDLES_AT + 4), &mut kept).is_ok() && self.bundles.restore(&kept)
    }

    /// Keeps the bundles where the next dom0 finds them.
    pub(crate) fn write_bundles<M: GuestMemory>(&self, memory: Option<&M>) {
        let kept = self.bundles.kept();
        let length = u32::try_from(kept.len()).unwrap_or(0).to_le_bytes();
        // The length last: half a bundle is never taken for one.
        let is_persistent = memory.is_some_and(|memory| {
            memory.write(Gpa(BUNDLES_AT), &[0; 4]).is_ok()
                && memory.write(Gpa(BUNDLES_AT + 4), &kept).is_ok()
                && memory.write(Gpa(BUNDLES_AT), &length).is_ok()
        });
        if !is_persistent {
            log::error!("no memory for the trust bundle: dom0 forgets it when it restarts");
        }
    }
}
