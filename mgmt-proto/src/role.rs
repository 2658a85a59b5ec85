//! Roles.

use serde::{Deserialize, Serialize};

/// What an operator may do; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Run guests.
    Operator,
    /// Stop the node.
    Admin,
}
