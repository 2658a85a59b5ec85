//! Ring 0 when it fails: every CPU stops, the cause is logged and persisted, the machine
//! restarts after a while.

use crate::apic::Message;
use crate::cpu::{self, Cpu};
use crate::{apic, clock, log_sink, persisted, power, raw, watchdog};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use hv_abi::MAX_RESTART_DELAY_MS;
use hv_abi::previous::Ended;

/// How long a failed node stands still unless its owner sealed another time.
const RESTART_DELAY_MS: u64 = 10_000;
/// How long the other CPUs have to report where they stopped.
const STOP_NS: u64 = 20_000_000;

/// From now on an NMI is the order to stop; read by `boot/switch.s`.
#[unsafe(no_mangle)]
static STOP_AT_NMI: AtomicBool = AtomicBool::new(false);
/// The APIC identifier of the CPU that failed first, plus one.
static FAILED: AtomicU32 = AtomicU32::new(0);
static DELAY_MS: AtomicU64 = AtomicU64::new(RESTART_DELAY_MS);

/// Sets how long a failed node stands still; false when that is too long.
pub(crate) fn set_delay(milliseconds: u64) -> bool {
    let fits = milliseconds <= MAX_RESTART_DELAY_MS;
    if fits {
        DELAY_MS.store(milliseconds, Ordering::Relaxed);
    }
    fits
}

/// Ends this run of the node.
pub(crate) fn fail(ended: Ended, cause: fmt::Arguments<'_>) -> ! {
    let own = apic::id();
    match FAILED.compare_exchange(0, own + 1, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {}
        // It failed again in failing: what was persisted until then must do.
        Err(first) if first == own + 1 => power::reset(),
        Err(_) => raw::halt(),
    }
    stop_others(own);
    // SAFETY: the others were stopped, and this function does not return.
    let say = |line: fmt::Arguments<'_>| unsafe { log_sink::last_words(line) };
    say(format_args!("hypervisor failed: {cause}"));
    for cpu in cpus() {
        let rip = cpu.stopped_at.load(Ordering::Acquire);
        if cpu.apic_id != own {
            say(format_args!("cpu {} stopped at {rip:#x}", cpu.number));
        }
    }
    let delay_ms = DELAY_MS.load(Ordering::Relaxed);
    say(format_args!("restart in {delay_ms} ms"));
    // SAFETY: the others were stopped.
    unsafe { persisted::write(ended, cause) };
    let end = clock::now_ns().saturating_add(delay_ms * 1_000_000);
    while clock::now_ns() < end {
        watchdog::feed();
        core::hint::spin_loop();
    }
    power::reset()
}

fn cpus() -> impl Iterator<Item = &'static Cpu> {
    (0..cpu::count()).filter_map(cpu::by_number)
}

fn stop_others(own: u32) {
    STOP_AT_NMI.store(true, Ordering::SeqCst);
    let others = || cpus().filter(|cpu| cpu.apic_id != own);
    for cpu in others() {
        apic::send(cpu.apic_id, Message::Nmi);
    }
    let end = clock::now_ns().saturating_add(STOP_NS);
    while clock::now_ns() < end && others().any(|cpu| cpu.stopped_at.load(Ordering::Acquire) == 0) {
        core::hint::spin_loop();
    }
}

/// Where an NMI ends when it is the order to stop. GS may be dom0's.
#[unsafe(no_mangle)]
extern "C" fn rust_stopped(frame: &[u64; 7]) -> ! {
    let own = apic::id();
    if let Some(cpu) = cpus().find(|cpu| cpu.apic_id == own) {
        cpu.stopped_at.store(frame[2].max(1), Ordering::Release);
    }
    raw::halt()
}
