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

/// Unpredictable tags that do not repeat before all others were used:
/// a counter through a keyed permutation of 32 bits (four Feistel rounds).
#[derive(Clone, Debug)]
pub(crate) struct Marks {
    key: u64,
    counter: u32,
}

impl Marks {
    pub(crate) fn new(random: &mut Random) -> Self {
        Self { key: random.next(), counter: random.next_u32() }
    }

    pub(crate) fn next(&mut self) -> u32 {
        self.counter = self.counter.wrapping_add(1);
        let [a, b, c, d] = self.counter.to_be_bytes();
        let (mut left, mut right) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        for round in 0..4u64 {
            let mut mixed = Random(self.key ^ (round << 48) ^ u64::from(right)).next();
            mixed ^= mixed >> 32;
            let [.., high, low] = mixed.to_be_bytes();
            (left, right) = (right, left ^ u16::from_be_bytes([high, low]));
        }
        let ([a, b], [c, d]) = (left.to_be_bytes(), right.to_be_bytes());
        u32::from_be_bytes([a, b, c, d])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    #[test]
    fn marks_do_not_repeat() {
        let mut marks = Marks::new(&mut Random::new(7));
        let mut seen = BTreeSet::new();
        let mut ones = [0u32; 32];
        for _ in 0..100_000 {
            let mark = marks.next();
            assert!(seen.insert(mark));
            for (bit, count) in ones.iter_mut().enumerate() {
                *count += (mark >> bit) & 1;
            }
        }
        assert!(ones.iter().all(|count| (49_000..51_000).contains(count)), "{ones:?}");
    }
}
