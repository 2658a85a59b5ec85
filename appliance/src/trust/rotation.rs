//! Another key for the node, while it runs.
//!
//! The new key and the old one's signature of it become durable together; only then is
//! the node who it will be. Sessions go on under the key they began with.

use alloc::vec::Vec;

use ed25519_dalek::SigningKey;
use mgmt_proto::node_key::KeyLink;

/// Where the keys before are.
pub(crate) const LINKS: &str = "identity/links";

/// A key that is on its way to the volume.
pub(crate) struct Rotation {
    pub(crate) batch: u64,
    pub(crate) key: SigningKey,
    pub(crate) links: Vec<KeyLink>,
}
