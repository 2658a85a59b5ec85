//! Repeatable randomness for tests (xorshift64).

use hv_x86::{low8, to_usize};

/// A generator; its seed belongs into every assertion message.
#[derive(Clone, Debug)]
pub struct TestRandom(pub u64);

impl TestRandom {
    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`, which is not zero.
    pub const fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// An index into a list of that length, which is not empty.
    pub const fn index(&mut self, length: usize) -> usize {
        to_usize(self.below(length as u64))
    }

    /// Eight bits.
    pub const fn byte(&mut self) -> u8 {
        low8(self.next() >> 24)
    }
}
