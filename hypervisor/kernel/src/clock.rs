//! The monotonic clock, calibrated once against the interval timer.

use crate::raw;
use core::sync::atomic::{AtomicU64, Ordering};
use hv_core::clock::{Scale, unix_seconds};

static TSC_BASE: AtomicU64 = AtomicU64::new(0);
static TSC_KHZ: AtomicU64 = AtomicU64::new(0);
static TO_NS: AtomicU64 = AtomicU64::new(0);
static WALL_BASE_NS: AtomicU64 = AtomicU64::new(0);

/// Frequency of the interval timer in hertz.
const PIT_HZ: u64 = 1_193_182;
/// How long calibration takes.
const CALIBRATION_MS: u64 = 5;

/// Waits [`CALIBRATION_MS`] on channel 2 of the interval timer, which needs no
/// interrupt.
pub(crate) fn wait_calibration() {
    let count = PIT_HZ * CALIBRATION_MS / 1000;
    let gate = raw::port_read(0x61, 1);
    raw::port_write(0x61, 1, gate & !3);
    raw::port_write(0x43, 1, 0xb0);
    raw::port_write(0x42, 1, hv_x86::low32(count & 0xff));
    raw::port_write(0x42, 1, hv_x86::low32(count >> 8));
    raw::port_write(0x61, 1, gate & !2 | 1);
    // Bit 5 is the channel's output; bounded, should the timer be missing.
    for _ in 0..50_000_000 {
        if raw::port_read(0x61, 1) & 0x20 != 0 {
            break;
        }
    }
}

/// Calibrates; `also` is run around the same wait.
pub(crate) fn init(also: impl FnOnce()) {
    let start = raw::tsc();
    also();
    let khz = (raw::tsc() - start) / CALIBRATION_MS;
    let scale = Scale::new(khz);
    TSC_BASE.store(start, Ordering::Relaxed);
    TSC_KHZ.store(scale.khz, Ordering::Relaxed);
    TO_NS.store(scale.to_ns, Ordering::Relaxed);
    WALL_BASE_NS.store(read_cmos().saturating_mul(1_000_000_000), Ordering::Relaxed);
}

/// Nanoseconds since power-on, nearly.
pub(crate) fn now_ns() -> u64 {
    hv_abi::boot::tsc_to_ns(raw::tsc(), TSC_BASE.load(Ordering::Relaxed), TO_NS.load(Ordering::Relaxed))
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
    raw::port_write(0x70, 1, register);
    u64::from(raw::port_read(0x71, 1))
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
