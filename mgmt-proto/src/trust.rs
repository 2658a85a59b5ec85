//! Who may do what.

use crate::limits::OPERATORS;
use crate::verb::Request;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// What an operator may do; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Role {
    /// Look.
    Viewer,
    /// Run guests.
    Operator,
    /// Stop the node.
    Admin,
}

/// Someone a node listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// Public Ed25519 key.
    pub key: [u8; 32],
    /// What it may do.
    pub role: Role,
}

/// Everyone a node listens to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust {
    operators: Vec<Operator>,
}

impl Trust {
    /// At most [`OPERATORS`]; the rest is ignored.
    #[must_use]
    pub fn new(mut operators: Vec<Operator>) -> Self {
        operators.truncate(OPERATORS);
        Self { operators }
    }

    /// The role of a key, if it is trusted.
    #[must_use]
    pub fn role(&self, key: &[u8; 32]) -> Option<Role> {
        self.operators.iter().find(|operator| operator.key == *key).map(|operator| operator.role)
    }
}

/// The least role for a request. Every request is named, so that a new one does
/// not compile until somebody decides.
#[must_use]
pub const fn required(request: &Request) -> Role {
    match request {
        Request::NodeInfo
        | Request::NodeLog { .. }
        | Request::StorageDiscover(_)
        | Request::BlobMissing(_)
        | Request::Check(_)
        | Request::List
        | Request::Info { .. }
        | Request::AuditRead { .. }
        | Request::CheckWith { .. }
        | Request::StorageShow { .. }
        | Request::BlockList { .. } => Role::Viewer,
        Request::BlobPut { .. }
        | Request::Create { .. }
        | Request::ConsoleRead { .. }
        | Request::ConsoleWrite { .. }
        | Request::Pause { .. }
        | Request::Unpause { .. }
        | Request::Shutdown { .. }
        | Request::Reboot { .. }
        | Request::Destroy { .. }
        | Request::CreateWith { .. }
        | Request::StorageProbe { .. }
        | Request::StorageReserve { force: false, .. }
        | Request::StorageRelease { force: false, .. }
        | Request::StoragePath { .. }
        | Request::BlockAttach { .. }
        | Request::BlockDetach { .. }
        | Request::Limit { .. } => Role::Operator,
        // What another node holds may be in use there.
        Request::StorageReserve { force: true, .. } | Request::StorageRelease { force: true, .. } => {
            Role::Admin
        }
        Request::NodeStop { .. } | Request::InjectFault(_) => Role::Admin,
    }
}
