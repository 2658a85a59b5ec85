//! A descriptor chain after it was checked: claims on guest memory.

use alloc::vec::Vec;

use hv_x86::to_usize;
use serde::{Deserialize, Serialize};

use crate::fault::GuestFault;
use crate::guest_memory::{Gpa, GuestMemory};

/// A piece of guest memory that was RAM when the chain was walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// First byte.
    pub gpa: Gpa,
    /// Length in bytes, not zero.
    pub length: u32,
}

/// Pieces of guest memory that are one run of bytes to the device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segments(pub Vec<Segment>);

impl Segments {
    /// Length of the run in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.0.iter().fold(0u64, |sum, segment| sum.saturating_add(u64::from(segment.length)))
    }

    /// Copies bytes from `offset` of the run into `target`.
    ///
    /// # Errors
    /// The run is shorter, or the memory is gone.
    pub fn load(&self, memory: &dyn GuestMemory, offset: u64, target: &mut [u8]) -> Result<(), GuestFault> {
        let mut rest = target;
        for (gpa, length) in self.pieces(offset) {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at_mut(length.min(rest.len()));
            memory.read(gpa, now)?;
            rest = later;
        }
        if rest.is_empty() { Ok(()) } else { Err(GuestFault::ShortRequest) }
    }

    /// Copies `source` to `offset` of the run.
    ///
    /// # Errors
    /// The run is shorter, or the memory is gone.
    pub fn store(&self, memory: &dyn GuestMemory, offset: u64, source: &[u8]) -> Result<(), GuestFault> {
        let mut rest = source;
        for (gpa, length) in self.pieces(offset) {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(length.min(rest.len()));
            memory.write(gpa, now)?;
            rest = later;
        }
        if rest.is_empty() { Ok(()) } else { Err(GuestFault::ShortRequest) }
    }

    /// The pieces from `offset` on.
    fn pieces(&self, offset: u64) -> impl Iterator<Item = (Gpa, usize)> {
        let mut skip = offset;
        self.0.iter().filter_map(move |segment| {
            let length = u64::from(segment.length);
            let skipped = skip.min(length);
            skip -= skipped;
            (skipped < length).then(|| (segment.gpa.plus(skipped), to_usize(length - skipped)))
        })
    }
}

/// A chain taken from a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Number of its first descriptor, to be returned in the used ring.
    pub head: u16,
    /// What the device may read.
    pub readable: Segments,
    /// What the device may write.
    pub writable: Segments,
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::guest_memory::FakeMemory;

    #[test]
    fn copies_cross_segments_and_respect_the_end() {
        let memory = FakeMemory::new(0x1000, 0x1000);
        memory.put(0x10, b"abc");
        memory.put(0x20, b"defg");
        memory.put(0x1_0000_0000, b"hi");
        let run = Segments(vec![
            Segment { gpa: Gpa(0x10), length: 3 },
            Segment { gpa: Gpa(0x20), length: 4 },
            Segment { gpa: Gpa(0x1_0000_0000), length: 2 },
        ]);
        assert_eq!(run.length(), 9);
        for start in 0..=9u8 {
            for end in start..=9 {
                let mut target = vec![0; usize::from(end - start)];
                run.load(&memory, u64::from(start), &mut target).unwrap();
                assert_eq!(target, &b"abcdefghi"[usize::from(start)..usize::from(end)]);
            }
        }
        assert_eq!(run.load(&memory, 8, &mut [0; 2]), Err(GuestFault::ShortRequest));
        run.store(&memory, 2, b"XYZ").unwrap();
        assert_eq!(memory.bytes(0x10, 3), b"abX");
        assert_eq!(memory.bytes(0x20, 4), b"YZfg");
        assert_eq!(run.store(&memory, 10, b"1"), Err(GuestFault::ShortRequest));
    }
}
