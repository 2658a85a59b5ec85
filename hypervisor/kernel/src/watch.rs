//! Watches over the processors: the first two look at all others, and who waits for a lock
//! looks meanwhile. The chipset's watchdog, where there is one, looks at the first.
//!
//! A processor that hangs is stopped with all others by NMI, and the node restarts.

mod chipset;

use crate::cpu::{self, Cpu, MAX_CPUS};
use crate::{clock, failure, kept, log_sink};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hv_abi::domain::WATCHDOG_PROCESSOR;
use hv_abi::previous::Ended;
use hv_core::watch::{Doing, LOOK_NS, Watched};
use spin::mutex::SpinMutex;
use spin::relax::RelaxStrategy;

/// A lock. Waiting for one that a hung processor holds is noticed as well.
pub(crate) type Mutex<T> = spin::mutex::Mutex<T, Watchful>;

/// One that is held.
pub(crate) type Guard<'a, T> = spin::mutex::MutexGuard<'a, T, Watchful>;

/// Looks at the others while it waits.
pub(crate) struct Watchful;

impl RelaxStrategy for Watchful {
    #[cold]
    #[inline(never)]
    fn relax() {
        core::hint::spin_loop();
        // Before there is another processor there is nothing to wait for.
        if cpu::count() > 1 {
            look_at_others(cpu::current(), clock::now_ns());
        }
    }
}

/// Processors that look, the first one and [`SECOND`]; the others sleep as long as they like.
const WATCHERS: usize = 2;
/// The second processor that runs; zero is none.
static SECOND: AtomicU32 = AtomicU32::new(0);

/// What each watcher remembers of each processor. Only its owner takes it.
static SEEN: [SpinMutex<[Watched; MAX_CPUS]>; WATCHERS] =
    [const { SpinMutex::new([Watched::NEW; MAX_CPUS]) }; WATCHERS];
/// Bytes of log that are kept for the case that this run is cut off.
static KEPT: AtomicU64 = AtomicU64::new(0);

/// Sets the chipset's watchdog up.
pub(crate) fn init() {
    chipset::init();
}

/// What notices that a processor hangs.
pub(crate) fn watchdogs() -> u32 {
    chipset::kind() | if SECOND.load(Ordering::Relaxed) != 0 { WATCHDOG_PROCESSOR } else { 0 }
}

/// The chipset goes on waiting.
pub(crate) fn feed() {
    chipset::feed();
}

/// Notes that a processor begins something.
pub(crate) fn note(cpu: &Cpu, doing: Doing) {
    let progress = cpu.progress.load(Ordering::Relaxed);
    cpu.progress.store(hv_core::watch::step(progress, doing), Ordering::Relaxed);
}

/// A processor begins to run: the second one looks at the first.
pub(crate) fn begin(cpu: &Cpu) {
    let _ = SECOND.compare_exchange(0, cpu.number, Ordering::Relaxed, Ordering::Relaxed);
}

/// Which of those that look a processor is.
fn place(cpu: &Cpu) -> Option<usize> {
    match cpu.number {
        0 => Some(0),
        number => (number == SECOND.load(Ordering::Relaxed)).then_some(1),
    }
}

/// When a processor must look again.
pub(crate) fn next_ns(cpu: &Cpu) -> u64 {
    if place(cpu).is_some() { cpu.look_ns.load(Ordering::Relaxed) } else { u64::MAX }
}

/// Looks at the others if it is time to; the first processor then also feeds the chipset's
/// watchdog and keeps the log.
pub(crate) fn look(cpu: &Cpu, now_ns: u64) {
    if !look_at_others(cpu, now_ns) || cpu.number != 0 {
        return;
    }
    feed();
    let written = log_sink::written();
    if written != KEPT.swap(written, Ordering::Relaxed) {
        kept::write(Ended::Cut, format_args!("cut off from outside, or by the chipset's watchdog"));
    }
}

/// False when it is not time to.
fn look_at_others(cpu: &Cpu, now_ns: u64) -> bool {
    if now_ns < next_ns(cpu) {
        return false;
    }
    cpu.look_ns.store(now_ns.saturating_add(LOOK_NS), Ordering::Relaxed);
    let Some(mut seen) = place(cpu).and_then(|place| SEEN.get(place)?.try_lock()) else { return false };
    for (number, watched) in (0..cpu::count()).zip(seen.iter_mut()) {
        let progress = cpu::by_number(number).map_or(0, |cpu| cpu.progress.load(Ordering::Relaxed));
        if number != cpu.number && watched.look(progress) {
            failure::fail(Ended::Hung, format_args!("cpu {number} hangs"));
        }
    }
    true
}
