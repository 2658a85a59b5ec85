//! The chipset's watchdog, where there is one, watches the first processor, which watches
//! with the second one at all others; and persists the log in case this run is cut off.

mod chipset;

use crate::cpu::Cpu;
use crate::{log_sink, persisted, watch};
use core::sync::atomic::{AtomicU64, Ordering};
use hv_abi::domain::WATCHDOG_PROCESSOR;
use hv_abi::previous::Ended;

/// Bytes of log that are persisted.
static PERSISTED_BYTES: AtomicU64 = AtomicU64::new(0);

/// Sets the chipset's watchdog up.
pub(crate) fn init() {
    chipset::init();
}

/// What notices that a processor hangs.
pub(crate) fn watchdogs() -> u32 {
    chipset::kind() | if watch::has_second() { WATCHDOG_PROCESSOR } else { 0 }
}

/// The chipset continues to wait waiting.
pub(crate) fn feed() {
    chipset::feed();
}

/// Checks the others if it is time to; the first processor then also feeds the chipset's
/// watchdog and persists the log.
pub(crate) fn look(cpu: &Cpu, now_ns: u64) {
    if !watch::check_others(cpu, now_ns) || cpu.number != 0 {
        return;
    }
    feed();
    let written = log_sink::written();
    if written != PERSISTED_BYTES.swap(written, Ordering::Relaxed) {
        // SAFETY: this is the first CPU.
        unsafe {
            persisted::write(Ended::Cut, format_args!("cut off from outside, or by the chipset's watchdog"))
        };
    }
}
