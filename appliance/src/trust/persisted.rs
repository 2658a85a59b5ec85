//! How identity, trust bundles and lockdown are named on the state volume, and read there.

use alloc::string::String;
use alloc::vec::Vec;

use mgmt_proto::limits::TRUST_LINKS;

use crate::state::State;

pub(crate) const IDENTITY: &str = "identity";
/// Serial and number of the bundles that are kept.
pub(crate) const TRUST: &str = "trust";
pub(crate) const TRUST_PREFIX: &str = "trust/";
/// Serial of the bundle that held, then 1 if the node was locked down under it.
pub(crate) const LOCKDOWN: &str = "lockdown";

pub(crate) fn link_key(serial: u64, index: usize) -> String {
    alloc::format!("{TRUST_PREFIX}{serial:016x}/{index:02}")
}

pub(crate) fn decode_lockdown(value: &[u8]) -> Option<(u64, bool)> {
    match value.split_first_chunk::<8>()? {
        (serial, [locked @ 0..=1]) => Some((u64::from_le_bytes(*serial), *locked == 1)),
        _ => None,
    }
}

/// The bundles that are kept, from the sealed root on: serial and links.
pub(crate) fn links(state: &State) -> Option<(u64, Vec<Vec<u8>>)> {
    let head = state.value(TRUST)?;
    let (serial, count) = head.split_first_chunk::<8>()?;
    let serial = u64::from_le_bytes(*serial);
    let [count] = *count else { return None };
    let count = usize::from(count);
    let links = (0..count.min(TRUST_LINKS)).map(|index| state.value(&link_key(serial, index)));
    let links: Option<Vec<Vec<u8>>> = links.map(|link| link.map(|link| link.to_vec())).collect();
    Some((serial, links?))
}
