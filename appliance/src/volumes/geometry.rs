//! What a guest is told of a disk before it sees it.

use storage::Geometry;

/// What a guest is told of a disk before it sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskGeometry {
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// Ranges can be discarded and zeroed.
    pub discard: bool,
    /// The target refuses writes.
    pub write_protected: bool,
    /// Its blocks.
    pub geometry: Geometry,
}
