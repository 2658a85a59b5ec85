//! A guest's output for readers that come late: the oldest bytes go first.

use alloc::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// A bounded ring of bytes with a running position.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputRing {
    bytes: VecDeque<u8>,
    capacity: usize,
    end: u64,
}

impl OutputRing {
    /// An empty ring.
    #[must_use]
    pub const fn new(capacity: usize) -> Self {
        Self { bytes: VecDeque::new(), capacity, end: 0 }
    }

    /// Position one past the newest byte: the number of bytes ever written.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Position of the oldest byte still kept.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.end.saturating_sub(self.bytes.len() as u64)
    }

    /// Appends bytes; what no longer fits is forgotten at the front.
    pub fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.bytes.len() >= self.capacity {
                self.bytes.pop_front();
            }
            self.bytes.push_back(*byte);
        }
        self.end = self.end.saturating_add(bytes.len() as u64);
    }

    /// Copies bytes from position `from` on (from the oldest, if that is gone)
    /// and returns their number and the position to go on from.
    pub fn read(&self, from: u64, target: &mut [u8]) -> (usize, u64) {
        let start = self.start();
        let from = from.clamp(start, self.end);
        let skip = hv_x86::to_usize(from - start);
        let mut count = 0;
        for (slot, byte) in target.iter_mut().zip(self.bytes.iter().skip(skip)) {
            *slot = *byte;
            count += 1;
        }
        (count, from.saturating_add(count as u64))
    }

    /// Forgets the bytes, not the position.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_and_skips_what_is_gone() {
        let mut ring = OutputRing::new(4);
        ring.push(b"abcdef");
        let mut target = [0; 8];
        assert_eq!(ring.read(0, &mut target), (4, 6));
        assert_eq!(&target[..4], b"cdef");
        assert_eq!(ring.read(5, &mut target), (1, 6));
        assert_eq!(ring.read(6, &mut target), (0, 6));
        assert_eq!(ring.read(99, &mut target), (0, 6));
        assert_eq!(ring.read(0, &mut target[..1]), (1, 3));
    }
}
