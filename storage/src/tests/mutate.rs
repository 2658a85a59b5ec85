//! What damages good bytes, for tests of decoders here and elsewhere.
//!
//! `MUTATIONS=<n>` runs that many for each decoder; without, each test has a share of
//! its own.

use std::vec::Vec;

/// Repeatable randomness (xorshift64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        random
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A place in something of this length.
    pub(crate) fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// How many mutations a decoder gets.
pub(crate) fn wanted(share: u64) -> u64 {
    std::env::var("MUTATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(share)
}

/// Bytes at which lengths, counts and numbers change their meaning.
const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xfe, 0xff, 0x20, 0x40];

/// Alters up to three of the first `header` bytes, and cuts the end off sometimes.
pub(crate) fn mutate(random: &mut Random, bytes: &mut Vec<u8>, header: usize) {
    for _ in 0..random.below(4) {
        let at = random.place(header.min(bytes.len()).max(1));
        let edge = EDGES[random.place(EDGES.len())];
        let other = if random.chance(30) { edge } else { random.byte() };
        if let Some(byte) = bytes.get_mut(at) {
            *byte = other;
        }
    }
    if random.chance(10) {
        bytes.truncate(random.place(bytes.len() + 1));
    }
}
