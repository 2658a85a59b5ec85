//! Limits on octets and operations per second, for a volume or a guest.
//!
//! A bucket of credit that is refilled every 10 ms. Something may start while there
//! is credit, and is charged its whole size: the debt of a large request is paid
//! before the next one, so that the long-term rate is exact whatever the sizes.

/// Credit comes at this interval.
pub const REFILL_NS: u64 = 10_000_000;
const REFILLS_PER_SECOND: i64 = 100;

/// What is allowed. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Octets per second.
    pub bytes_per_s: Option<u64>,
    /// Operations per second.
    pub operations_per_s: Option<u64>,
    /// Credit that may be saved up while idle, as milliseconds of the rate.
    pub burst_ms: u32,
}

/// Credit in hundredths, so that each refill adds a whole number.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: i64,
    most: i64,
    credit: i64,
}

impl Bucket {
    fn new(rate: Option<u64>, burst_ms: u32) -> Option<Self> {
        // A zero rate would be a stall for ever: one per second is the least.
        let rate = i64::try_from(rate?.clamp(1, 1 << 40)).unwrap_or(i64::MAX);
        let refills = i64::from(burst_ms.min(60_000) / 10).max(1);
        let most = rate.saturating_mul(refills);
        Some(Self { rate, most, credit: most })
    }

    fn refill(&mut self, ticks: u64) {
        let ticks = i64::try_from(ticks).unwrap_or(i64::MAX);
        self.credit = self.credit.saturating_add(self.rate.saturating_mul(ticks)).min(self.most);
    }

    fn charge(&mut self, amount: u64) {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        self.credit = self.credit.saturating_sub(amount.saturating_mul(REFILLS_PER_SECOND));
    }

    /// Refills until there is credit.
    fn missing_ticks(&self) -> u64 {
        if self.credit > 0 {
            return 0;
        }
        u64::try_from(self.credit.saturating_neg() / self.rate.max(1)).unwrap_or(0).saturating_add(1)
    }
}

/// A limiter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limiter {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
    tick: u64,
}

impl Limiter {
    /// A limiter with its burst saved up.
    #[must_use]
    pub fn new(limits: Limits, now_ns: u64) -> Self {
        Self {
            bytes: Bucket::new(limits.bytes_per_s, limits.burst_ms),
            operations: Bucket::new(limits.operations_per_s, limits.burst_ms),
            tick: now_ns / REFILL_NS,
        }
    }

    fn refill(&mut self, now_ns: u64) {
        let tick = now_ns / REFILL_NS;
        let ticks = tick.saturating_sub(self.tick);
        self.tick = self.tick.max(tick);
        for bucket in [&mut self.bytes, &mut self.operations].into_iter().flatten() {
            bucket.refill(ticks);
        }
    }

    /// Whether it limits nothing.
    pub(crate) const fn is_idle(&self) -> bool {
        self.bytes.is_none() && self.operations.is_none()
    }

    /// Whether something may start now.
    pub fn is_ready(&mut self, now_ns: u64) -> bool {
        if self.is_idle() {
            return true;
        }
        self.refill(now_ns);
        [self.bytes, self.operations].into_iter().flatten().all(|bucket| bucket.credit > 0)
    }

    /// Charges an operation that starts.
    pub fn charge(&mut self, bytes: u64) {
        if let Some(bucket) = &mut self.bytes {
            bucket.charge(bytes);
        }
        if let Some(bucket) = &mut self.operations {
            bucket.charge(1);
        }
    }

    /// When something may start, if not now.
    #[must_use]
    pub fn next_ready_ns(&self) -> Option<u64> {
        let buckets = [self.bytes, self.operations].into_iter().flatten();
        let ticks = buckets.map(|bucket| bucket.missing_ticks()).max().filter(|ticks| *ticks > 0)?;
        Some(self.tick.saturating_add(ticks).saturating_mul(REFILL_NS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What passes in `seconds` when `size` octets are always waiting.
    fn passed(limits: Limits, size: u64, seconds: u64) -> (u64, u64) {
        let mut limiter = Limiter::new(limits, 0);
        let (mut bytes, mut operations, mut now_ns) = (0, 0, 0);
        while now_ns < seconds * 1_000_000_000 {
            while limiter.is_ready(now_ns) {
                limiter.charge(size);
                bytes += size;
                operations += 1;
            }
            let next_ns = limiter.next_ready_ns().unwrap();
            assert!(next_ns > now_ns && next_ns.is_multiple_of(REFILL_NS));
            now_ns = next_ns;
        }
        (bytes, operations)
    }

    fn within(value: u64, wanted: u64, percent: u64) {
        let slack = wanted * percent / 100;
        assert!(value.abs_diff(wanted) <= slack, "{value} of {wanted}");
    }

    #[test]
    fn rates_are_kept_within_five_percent() {
        for rate in [64_000, 1_000_000, 12_500_000, 1_250_000_000] {
            for size in [512, 4_096, 65_536, 1 << 20] {
                let limits = Limits { bytes_per_s: Some(rate), ..Limits::default() };
                let seconds = (20 * size / rate).max(10);
                within(passed(limits, size, seconds).0, rate * seconds, 5);
            }
        }
        for rate in [10, 500, 20_000] {
            let limits = Limits { operations_per_s: Some(rate), ..Limits::default() };
            within(passed(limits, 4_096, 10).1, rate * 10, 5);
        }
        // The tighter of two limits holds.
        let limits = Limits { bytes_per_s: Some(4_096_000), operations_per_s: Some(100), burst_ms: 0 };
        within(passed(limits, 4_096, 10).1, 1_000, 5);
    }

    #[test]
    fn a_burst_is_saved_up_once() {
        let limits = Limits { operations_per_s: Some(100), burst_ms: 2_000, ..Limits::default() };
        let mut limiter = Limiter::new(limits, 0);
        let burst = |limiter: &mut Limiter, now_ns| {
            let mut count = 0;
            while limiter.is_ready(now_ns) {
                limiter.charge(0);
                count += 1;
            }
            count
        };
        assert_eq!(burst(&mut limiter, 0), 200);
        assert_eq!(burst(&mut limiter, 500_000_000), 50);
        assert_eq!(burst(&mut limiter, 100_000_000_000), 200, "and no more than that");
        assert_eq!(Limiter::default().next_ready_ns(), None);
    }
}
