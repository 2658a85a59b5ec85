//! A byte ring that keeps the newest bytes: the node's log.

/// Keeps the last `N` bytes written, addressed by a running offset.
#[derive(Debug)]
pub struct Ring<const N: usize> {
    bytes: [u8; N],
    written: u64,
}

impl<const N: usize> Ring<N> {
    /// An empty ring.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; N], written: 0 }
    }

    /// Appends bytes, overwriting the oldest.
    pub fn write(&mut self, source: &[u8]) {
        for byte in source {
            let at = hv_x86::to_usize(self.written % N as u64);
            if let Some(slot) = self.bytes.get_mut(at) {
                *slot = *byte;
            }
            self.written += 1;
        }
    }

    /// Copies bytes from running offset `from` on; returns how many and the
    /// offset after them. What was overwritten is skipped.
    pub fn read(&self, from: u64, target: &mut [u8]) -> (usize, u64) {
        let mut next = from.clamp(self.written.saturating_sub(N as u64), self.written);
        let mut count = 0;
        // In one piece up to the end of the buffer, then from its start.
        while let (Some(rest), true) = (target.get_mut(count..), next < self.written) {
            let piece = self.bytes.get(hv_x86::to_usize(next % N as u64)..).unwrap_or_default();
            let left = hv_x86::to_usize(self.written - next);
            let length = piece.len().min(rest.len()).min(left);
            let (Some(to), Some(from)) = (rest.get_mut(..length), piece.get(..length)) else { break };
            if length == 0 {
                break;
            }
            to.copy_from_slice(from);
            next += length as u64;
            count += length;
        }
        (count, next)
    }

    /// How many bytes were ever written.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }
}

impl<const N: usize> Default for Ring<N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::Ring;

    #[test]
    fn keeps_the_newest() {
        let mut ring = Ring::<4>::new();
        ring.write(b"abcdef");
        let mut target = [0; 8];
        assert_eq!(ring.read(0, &mut target), (4, 6));
        assert_eq!(&target[..4], b"cdef");
        assert_eq!(ring.read(6, &mut target), (0, 6));
        assert_eq!(ring.read(99, &mut target), (0, 6));
        ring.write(b"g");
        assert_eq!(ring.read(6, &mut target), (1, 7));
        assert_eq!(target[0], b'g');
        assert_eq!(ring.read(4, &mut target[..2]), (2, 6));
        assert_eq!(&target[..2], b"ef");
        assert_eq!((ring.read(4, &mut []), ring.written()), ((0, 4), 7));
    }
}
