//! Time: TSC scaling and the KVM paravirtual clock.
//!
//! Spec: Linux documentation `virt/kvm/x86/msr.rst` (pvclock structures).

/// A value of the host's time-stamp counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tsc(pub u64);

impl Tsc {
    /// So many ticks later; the far future at most.
    #[must_use]
    pub const fn after(self, ticks: u64) -> Self {
        Self(self.0.saturating_add(ticks))
    }

    /// Ticks since an earlier value; none since a later one.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// What a guest reads at the same time whose counter is this much ahead.
    #[must_use]
    pub const fn of_guest(self, offset: u64) -> GuestTsc {
        GuestTsc(self.0.wrapping_add(offset))
    }

    /// How far a guest's counter is ahead that begins at zero now.
    #[must_use]
    pub const fn zero_offset(self) -> u64 {
        self.0.wrapping_neg()
    }
}

/// A value of a guest's time-stamp counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestTsc(pub u64);

impl GuestTsc {
    /// Ticks since an earlier value; none since a later one.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A conversion from TSC ticks to nanoseconds and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Ticks a millisecond.
    pub khz: u64,
    /// Nanoseconds a tick, 32.32 fixed point.
    pub to_ns: u64,
}

impl Scale {
    /// For a TSC of `khz`, which must not be zero.
    #[must_use]
    pub const fn new(khz: u64) -> Self {
        let khz = if khz == 0 { 1 } else { khz };
        Self { khz, to_ns: (1_000_000 << 32) / khz }
    }

    /// Ticks in a span; saturates.
    #[must_use]
    pub fn ticks(&self, ns: u64) -> u64 {
        u64::try_from(u128::from(ns) * u128::from(self.khz) / 1_000_000).unwrap_or(u64::MAX)
    }

    /// Nanoseconds in a number of ticks.
    #[must_use]
    pub const fn ns(&self, ticks: u64) -> u64 {
        hv_abi::boot::tsc_to_ns(ticks, 0, self.to_ns)
    }

    /// The multiplier and shift of a pvclock structure: with `shift` applied to
    /// the tick count first, ns = ticks * multiplier >> 32.
    #[must_use]
    pub fn pvclock(&self) -> (u32, i8) {
        let mut shift = 0_i8;
        let mut multiplier = self.to_ns;
        while multiplier > u64::from(u32::MAX) && shift < 31 {
            multiplier >>= 1;
            shift += 1;
        }
        while multiplier < 1 << 31 && shift > -31 {
            multiplier <<= 1;
            shift -= 1;
        }
        (u32::try_from(multiplier).unwrap_or(u32::MAX), shift)
    }
}

/// The clock does not differ between vCPUs.
const PVCLOCK_TSC_STABLE: u8 = 1;

/// Fills a `pvclock_vcpu_time_info`. `version` must be even; the caller writes
/// the odd version first so that a reader on another vCPU never sees a mixture.
#[must_use]
pub fn pvclock_bytes(version: u32, tsc: GuestTsc, system_ns: u64, scale: &Scale) -> [u8; 32] {
    let (multiplier, shift) = scale.pvclock();
    let mut bytes = [0; 32];
    let (head, tail) = bytes.split_at_mut(24);
    for (field, value) in head.chunks_exact_mut(8).zip([u64::from(version), tsc.0, system_ns]) {
        field.copy_from_slice(&value.to_le_bytes());
    }
    if let [a, b, c, d, shift_byte, flags, ..] = tail {
        [*a, *b, *c, *d] = multiplier.to_le_bytes();
        *shift_byte = shift.to_le_bytes()[0];
        *flags = PVCLOCK_TSC_STABLE;
    }
    bytes
}

/// Seconds since 1970 of a date in the Gregorian calendar, from 1970 on.
#[must_use]
pub const fn unix_seconds(year: u64, month: u64, day: u64, hour: u64, minute: u64, second: u64) -> u64 {
    // Days from the civil calendar with March as the first month.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted / 400;
    let year_of_era = shifted % 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    days * 86_400 + hour * 3600 + minute * 60 + second
}

#[cfg(test)]
mod tests {
    use super::{GuestTsc, Scale, pvclock_bytes, unix_seconds};

    #[test]
    fn scales_both_ways() {
        let scale = Scale::new(2_000_000);
        assert_eq!(scale.ticks(5), 10);
        assert_eq!(scale.ns(10), 5);
        for khz in [1, 999, 1_000_000, 2_345_678, 5_000_000] {
            let scale = Scale::new(khz);
            let (multiplier, shift) = scale.pvclock();
            let ticks: u64 = 123_456_789;
            let shifted = if shift < 0 { ticks >> -shift } else { ticks << shift };
            let ns = (u128::from(shifted) * u128::from(multiplier)) >> 32;
            let exact = u128::from(ticks) * 1_000_000 / u128::from(khz);
            assert!(ns.abs_diff(exact) <= exact / 1_000_000 + 2, "{khz}: {ns} {exact}");
        }
    }

    #[test]
    fn the_layout_is_kvms() {
        let bytes = pvclock_bytes(2, GuestTsc(0x1122), 0x3344, &Scale::new(1_000_000));
        assert_eq!(bytes[0..4], 2_u32.to_le_bytes());
        assert_eq!(bytes[8..16], 0x1122_u64.to_le_bytes());
        assert_eq!(bytes[16..24], 0x3344_u64.to_le_bytes());
        assert_eq!(bytes[24..28], 0x8000_0000_u32.to_le_bytes());
        assert_eq!(bytes[28], 1);
        assert_eq!(bytes[29], 1);
    }

    #[test]
    fn dates() {
        assert_eq!(unix_seconds(1970, 1, 1, 0, 0, 0), 0);
        assert_eq!(unix_seconds(2000, 2, 29, 12, 0, 0), 951_825_600);
        assert_eq!(unix_seconds(2026, 11, 21, 0, 0, 0), 1_795_219_200);
    }
}
