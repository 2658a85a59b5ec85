//! What a disk takes and does at most.

use super::{CHAIN_PLACES_MAX, InFlight, Segment, VirtioBlock};
use crate::limits::{BLOCK_SEGMENTS_HELD_MAX, QUEUE_SIZE_MAX};

impl VirtioBlock {
    /// Heap that a disk takes at most: its requests in flight, in a tree whose nodes may be
    /// half empty, and their lists.
    pub const HEAP_BYTES_MAX: usize = BLOCK_SEGMENTS_HELD_MAX * size_of::<Segment>()
        + 2 * QUEUE_SIZE_MAX as usize * (size_of::<InFlight>() + size_of::<u16>() + 8)
        + 2 * QUEUE_SIZE_MAX as usize * size_of::<u16>()
        + 2 * CHAIN_PLACES_MAX * size_of::<Segment>();

    /// Whether [`Self::next_operation`] found nothing because it looked for long enough.
    #[must_use]
    pub const fn has_more(&self) -> bool {
        self.more
    }
}
