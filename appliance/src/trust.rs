//! Trust bundles in the memory that outlives dom0.

use alloc::vec;
use alloc::vec::Vec;

use mgmt_proto::limits::TRUST_BYTES;
use mgmt_proto::trust::Trust;

use crate::own_memory::BUNDLES_AT;
use machine::guest_memory::{Gpa, GuestMemory};

/// Goes back to what an earlier dom0 kept; false if that was not possible.
pub(crate) fn restore<M: GuestMemory>(trust: &mut Trust, memory: &M) -> bool {
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
    !kept.is_empty() && memory.read(Gpa(BUNDLES_AT + 4), &mut kept).is_ok() && trust.restore(&kept)
}
