//! How long requests took: counts in buckets less than two percent wide.

/// Buckets for each doubling, as a power of two.
const STEP_BITS: u32 = 6;
const STEPS: u64 = 1 << STEP_BITS;

/// The last one takes all from about five hours on.
const BUCKETS: usize = 39 << STEP_BITS;

/// Times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Latency {
    counts: Vec<u64>,
    total: u64,
    sum_ns: u64,
    longest_ns: u64,
}

fn bucket(time_ns: u64) -> usize {
    let doublings = (time_ns | STEPS).ilog2() - STEP_BITS;
    let step = time_ns >> doublings;
    usize::try_from(u64::from(doublings) * STEPS + step).unwrap_or(usize::MAX)
}

/// The longest time that falls into a bucket.
fn longest(bucket: usize) -> u64 {
    let bucket = u64::try_from(bucket).unwrap_or(u64::MAX);
    let doublings = (bucket / STEPS).saturating_sub(1);
    let step = bucket - doublings * STEPS;
    ((step + 1) << doublings) - 1
}

impl Default for Latency {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, sum_ns: 0, longest_ns: 0 }
    }
}

impl Latency {
    /// Counts one.
    pub fn record(&mut self, time_ns: u64) {
        if let Some(count) = self.counts.get_mut(bucket(time_ns).min(BUCKETS - 1)) {
            *count += 1;
        }
        self.total += 1;
        self.sum_ns += time_ns;
        self.longest_ns = self.longest_ns.max(time_ns);
    }

    /// How many were counted.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.total
    }

    /// The longest.
    #[must_use]
    pub const fn longest_ns(&self) -> u64 {
        self.longest_ns
    }

    /// The mean.
    #[must_use]
    pub fn mean_ns(&self) -> u64 {
        self.sum_ns / self.total.max(1)
    }

    /// The time that `per_mille` of a thousand did not exceed.
    #[must_use]
    pub fn percentile_ns(&self, per_mille: u64) -> u64 {
        let wanted = (self.total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return longest(bucket).min(self.longest_ns);
            }
        }
        self.longest_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_are_narrow() {
        let mut before = 0;
        for time_ns in 0..20_000 {
            let next = bucket(time_ns);
            assert!(next == before || next == before + 1, "{time_ns}: {next} after {before}");
            before = next;
        }
        for time_ns in (0..20_000).chain((1..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit])) {
            let longest = longest(bucket(time_ns));
            assert!(longest >= time_ns && longest - time_ns <= time_ns / 64, "{time_ns} {longest}");
        }
    }

    #[test]
    fn percentiles() {
        let mut latency = Latency::default();
        assert_eq!((latency.percentile_ns(500), latency.mean_ns()), (0, 0));
        (1..=1000).for_each(|microsecond| latency.record(microsecond * 1000));
        let close = |found: u64, wanted: u64| found >= wanted && found - wanted <= wanted / 50;
        assert!(close(latency.percentile_ns(500), 500_000), "{}", latency.percentile_ns(500));
        assert!(close(latency.percentile_ns(990), 990_000));
        assert!(close(latency.percentile_ns(999), 999_000));
        assert_eq!((latency.percentile_ns(1000), latency.longest_ns()), (1_000_000, 1_000_000));
        assert_eq!((latency.mean_ns(), latency.count()), (500_500, 1000));
    }
}
