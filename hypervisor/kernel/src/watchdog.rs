//! The chipset's watchdog, where there is one, looks at the first processor, which looks
//! with the second one at all others; and keeps the log for the case that this run is cut off.

mod chipset;

use crate::cpu::Cpu;
use crate::{kept, log_sink, watch};
use core::sync::atomic::{AtomicU64, Ordering};
use hv_abi::domain::WATCHDOG_PROCESSOR;
use hv_abi::previous::Ended;

/// Bytes of log that are kept.
static KEPT: AtomicU64 = AtomicU64::new(0);

/// Sets the chipset's watchdog up.
pub(crate) fn init() {
    chipset::init();
}

/// What notices that a processor hangs.
pub(crate) fn watchdogs() -> u32 {
    chipset::kind() | if watch::has_second() { WATCHDOG_PROCESSOR } else { 0 }
}

/// The chipset goes on waiting.
pub(crate) fn feed() {
    chipset::feed();
}

/// Looks at the others if it is time to; the first processor then also feeds the chipset's
/// watchdog and keeps the log.
pub(crate) fn look(cpu: &Cpu, now_ns: u64) {
    if !watch::look_at_others(cpu, now_ns) || cpu.number != 0 {
        return;
    }
    feed();
    let written = log_sink::written();
    if written != KEPT.swap(written, Ordering::Relaxed) {
        // SAFETY: this is the first CPU.
        unsafe {
            kept::write(Ended::Cut, format_args!("cut off from outside, or by the chipset's watchdog"))
        };
    }
}
