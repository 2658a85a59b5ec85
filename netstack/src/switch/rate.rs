//! A limit on what a port may send into the switch.

/// A limit on what a port may send into the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Sustained octets per second.
    pub bytes_per_second: u64,
    /// Octets that may be sent at once after a pause.
    pub burst_bytes: u64,
}

/// A full token bucket counts octets times nanoseconds-per-second, so that no
/// fraction is ever lost to rounding.
const UNIT: u128 = 1_000_000_000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    rate: Rate,
    level: u128,
    filled_ns: u64,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(rate: Rate, now_ns: u64) -> Self {
        Self { rate, level: u128::from(rate.burst_bytes) * UNIT, filled_ns: now_ns }
    }

    pub(super) fn take(&mut self, bytes: usize, now_ns: u64) -> bool {
        let elapsed_ns = now_ns.saturating_sub(self.filled_ns);
        self.filled_ns = self.filled_ns.max(now_ns);
        let capacity = u128::from(self.rate.burst_bytes) * UNIT;
        let gained = u128::from(elapsed_ns) * u128::from(self.rate.bytes_per_second);
        self.level = self.level.saturating_add(gained).min(capacity);
        let cost = (bytes as u128) * UNIT;
        let affordable = self.level >= cost;
        if affordable {
            self.level -= cost;
        }
        affordable
    }
}
