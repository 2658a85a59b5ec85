//! How long things took, counted by powers of two.

/// Buckets: the last one takes everything from about 134 s up.
pub const BUCKETS: usize = 28;

/// Counts of durations: bucket `n` holds those below `2^n` microseconds that no
/// smaller bucket holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// The counts.
    pub buckets: [u64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS] }
    }
}

impl Histogram {
    /// Counts a duration.
    pub fn record(&mut self, duration_ns: u64) {
        let micros = duration_ns / 1_000;
        // The odd number has one bit more, and is never zero.
        let bits = (micros.wrapping_shl(1) | 1).ilog2();
        let index = usize::try_from(bits).unwrap_or(BUCKETS).min(BUCKETS - 1);
        if let Some(count) = self.buckets.get_mut(index) {
            *count = count.wrapping_add(1);
        }
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, count| sum.wrapping_add(*count))
    }

    /// A duration that `permille` of a thousand did not exceed, rounded up to the
    /// bucket's limit; `None` when nothing was counted.
    #[must_use]
    pub fn quantile_ns(&self, permille: u64) -> Option<u64> {
        let count = self.count();
        let wanted = count.saturating_mul(permille).div_ceil(1_000).max(1);
        let mut seen = 0u64;
        for (index, bucket) in self.buckets.iter().enumerate() {
            seen = seen.wrapping_add(*bucket);
            if count > 0 && seen >= wanted {
                return Some(1_000u64 << index);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_and_quantiles() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_ns(500), None);
        for micros in [0u64, 1, 2, 3, 900, u64::MAX / 1_000] {
            histogram.record(micros * 1_000);
        }
        assert_eq!(&histogram.buckets[..4], &[1, 1, 2, 0]);
        assert_eq!((histogram.buckets[10], histogram.buckets[BUCKETS - 1]), (1, 1));
        assert_eq!((histogram.count(), histogram.quantile_ns(500)), (6, Some(4_000)));
        assert_eq!(histogram.quantile_ns(800), Some(1_024_000));
    }
}
