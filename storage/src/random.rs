//! Seeded randomness for tags, jitter and identifiers.
//!
//! Unpredictable if the seed is: the caller draws it from the node's generator.
//! SplitMix64 over a secret 64-bit state; its outputs guard against blind forgery
//! and lockstep retries, they are not keys.

/// A generator.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The upper half: 32 bits.
    pub(crate) fn next_u32(&mut self) -> u32 {
        u32::try_from(self.next() >> 32).unwrap_or(0)
    }

    /// `value` varied by up to a quarter down, so that many retries never align.
    pub(crate) fn jitter(&mut self, value: u64) -> u64 {
        let quarter = value / 4;
        value.saturating_sub(self.next() % quarter.saturating_add(1))
    }
}
