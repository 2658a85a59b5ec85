//! What lies where in the memory that the node keeps for itself across dom0's restart: the audit
//! log's ring, the trust bundles, what was refused, and the lockdown in the last eight bytes.

use mgmt_proto::limits::TRUST_BYTES;

/// Bytes of the audit log's ring, which is at the beginning.
pub(crate) const RING_BYTES: u64 = 2 << 20;
/// Where the length of the trust bundles is, and then they.
pub(crate) const BUNDLES_AT: u64 = RING_BYTES;
/// Where the ring of what was refused is.
pub(crate) const REFUSALS_AT: u64 = RING_BYTES + (1 << 20);
/// Where it is kept that the node is locked down.
pub(crate) const LOCKED_AT: u64 = MEMORY_BYTES - 8;
/// All of it.
pub(crate) const MEMORY_BYTES: u64 = 4 << 20;
const _: () = assert!(BUNDLES_AT + 4 + TRUST_BYTES as u64 <= REFUSALS_AT);
