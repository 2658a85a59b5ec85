//! The monotonic clock, calibrated once against the interval timer.

use crate::raw::{self, Ports};
use core::sync::atomic::{AtomicU64, Ordering};
use hv_core::clock::{Scale, Tsc, unix_seconds};

static TSC_BASE: AtomicU64 = AtomicU64::new(0);
static TSC_KHZ: AtomicU64 = AtomicU64::new(0);
static TO_NS: AtomicU64 = AtomicU64::new(0);
static WALL_BASE_NS: AtomicU64 = AtomicU64::new(0);

/// The interval timer's channels and mode.
// SAFETY: legacy ports with that meaning on every PC.
const TIMER: Ports = unsafe { Ports::new(0x40, 4) };
/// Bit 0 opens the gate of channel 2, bit 1 its way to the speaker.
// SAFETY: the same.
const GATE: Ports = unsafe { Ports::new(0x61, 1) };
/// Index and data of the clock that a battery keeps.
// SAFETY: the same.
const BATTERY_CLOCK: Ports = unsafe { Ports::new(0x70, 2) };
/// Frequency of the interval timer in hertz.
const PIT_HZ: u64 = 1_193_182;
/// Ticks of the interval timer that a measurement takes at least: 2 ms.
const WINDOW_TICKS: u16 = 2386;
/// Measurements; the one least disturbed counts.
const ROUNDS: usize = 3;

/// The count of the interval timer's channel 2, which needs no interrupt and
/// wraps after 55 ms, with the TSC as near to it as can be had.
fn interval_count() -> (u16, Tsc) {
    let mut best = (0, Tsc::default(), u64::MAX);
    for _ in 0..4 {
        let before = raw::tsc();
        TIMER.write(3, 1, 0x80);
        let low = TIMER.read(2, 1);
        let high = TIMER.read(2, 1);
        let after = raw::tsc();
        if after.since(before) < best.2 {
            best = (hv_x86::low16(u64::from(high << 8 | low)), before, after.since(before));
        }
    }
    (best.0, best.1)
}

/// Measures the TSC, and with `also` another counter, against the interval timer.
/// The timer's own count says how long it took, so being late does no harm.
pub(crate) fn init(also: &mut dyn FnMut() -> u64) -> u64 {
    let base = raw::tsc();
    let gate = GATE.read(0, 1);
    GATE.write(0, 1, gate & !2 | 1);
    // Channel 2, both bytes, mode 0, from the top.
    TIMER.write(3, 1, 0xb0);
    TIMER.write(2, 1, 0xff);
    TIMER.write(2, 1, 0xff);
    let (mut khz, mut other_khz) = (u64::MAX, 0);
    for _ in 0..ROUNDS {
        let other_before = also();
        let (start_count, start_tsc) = interval_count();
        let mut now = (start_count, start_tsc);
        // Bounded, should there be no such timer.
        for _ in 0..1_000_000 {
            now = interval_count();
            if start_count.wrapping_sub(now.0) >= WINDOW_TICKS {
                break;
            }
        }
        let other = also().abs_diff(other_before);
        let ticks = u64::from(start_count.wrapping_sub(now.0)).max(1);
        let found = now.1.since(start_tsc) * PIT_HZ / ticks / 1000;
        // A wrap that was missed makes it too high: the lowest is right.
        if found < khz {
            (khz, other_khz) = (found, other * PIT_HZ / ticks / 1000);
        }
    }
    let scale = Scale::new(khz);
    TSC_BASE.store(base.0, Ordering::Relaxed);
    TSC_KHZ.store(scale.khz, Ordering::Relaxed);
    TO_NS.store(scale.to_ns, Ordering::Relaxed);
    WALL_BASE_NS.store(read_cmos().saturating_mul(1_000_000_000), Ordering::Relaxed);
    other_khz
}

/// Nanoseconds since power-on, nearly.
pub(crate) fn now_ns() -> u64 {
    hv_abi::boot::tsc_to_ns(raw::tsc().0, TSC_BASE.load(Ordering::Relaxed), TO_NS.load(Ordering::Relaxed))
}

/// How ticks and nanoseconds relate.
pub(crate) fn scale() -> Scale {
    Scale { khz: TSC_KHZ.load(Ordering::Relaxed), to_ns: TO_NS.load(Ordering::Relaxed) }
}

/// The TSC at monotonic time zero.
pub(crate) fn tsc_base() -> u64 {
    TSC_BASE.load(Ordering::Relaxed)
}

/// Wall clock at monotonic time zero, in nanoseconds since 1970.
pub(crate) fn wall_base_ns() -> u64 {
    WALL_BASE_NS.load(Ordering::Relaxed)
}

fn cmos(register: u32) -> u64 {
    BATTERY_CLOCK.write(0, 1, register);
    u64::from(BATTERY_CLOCK.read(1, 1))
}

/// The battery clock in seconds since 1970. A wrong one only misleads guests:
/// nothing that protects the node depends on it.
fn read_cmos() -> u64 {
    for _ in 0..1000 {
        if cmos(0x0a) & 0x80 == 0 {
            break;
        }
    }
    let binary = cmos(0x0b) & 4 != 0;
    let field = |register| {
        let value = cmos(register);
        if binary { value } else { (value >> 4) * 10 + (value & 15) }
    };
    let month = field(8).clamp(1, 12);
    unix_seconds(2000 + field(9) % 100, month, field(7).clamp(1, 31), field(4), field(2), field(0))
}
