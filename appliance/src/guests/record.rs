//! What is kept of a guest across dom0's restart.

use alloc::vec::Vec;

use mgmt_proto::disk::GuestSettings;
use mgmt_proto::machine::Machine;
use mgmt_proto::machine::decode_guest;
use zeroize::Zeroize;

/// First bytes of what is kept for a guest across dom0's restart.
const RECORD_MAGIC: [u8; 8] = *b"REDOVM02";

/// What is kept of a guest across dom0's restart; it holds secrets.
pub(crate) fn record_of(created_ns: u64, machine: &Machine, settings: &GuestSettings) -> Option<Vec<u8>> {
    let mut described = postcard::to_allocvec(&(machine, settings)).ok()?;
    let bytes = [&RECORD_MAGIC[..], &created_ns.to_le_bytes(), &described].concat();
    described.zeroize();
    Some(bytes)
}

/// When a guest was created, and what it is, from what was kept; none for what is no record
/// of one.
pub(crate) fn recorded(record: &[u8]) -> Option<(u64, Machine, GuestSettings)> {
    let (created_ns, described) = record.strip_prefix(&RECORD_MAGIC)?.split_first_chunk::<8>()?;
    let (machine, settings) = decode_guest(described)?;
    Some((u64::from_le_bytes(*created_ns), machine, settings))
}
