//! The window onto a device's registers in its configuration space.
//!
//! Spec: virtio 1.2, section 4.1.4.9.

use serde::{Deserialize, Serialize};

/// Where the virtio configuration access capability points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigWindow {
    /// Base address register number; only 0 exists.
    pub bar: u8,
    /// Offset in it.
    pub offset: u32,
    /// Access width in bytes.
    pub length: u32,
}
