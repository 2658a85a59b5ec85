//! Watches over the processors: the first two check all others, and a processor that waits for a lock
//! checks meanwhile. A processor that hangs ends this run of the node.

use crate::clock;
use crate::cpu::{self, Cpu, MAX_CPUS};
use core::sync::atomic::{AtomicU32, Ordering};
use hv_core::watch::{Doing, LOOK_NS, Watched};
use spin::mutex::SpinMutex;
use spin::relax::RelaxStrategy;

/// A lock. Waiting for one that a hung processor holds is noticed as well.
pub(crate) type Mutex<T> = spin::mutex::Mutex<T, Watchful>;

/// One that is held.
pub(crate) type Guard<'a, T> = spin::mutex::MutexGuard<'a, T, Watchful>;

/// Checks the others while it waits.
pub(crate) struct Watchful;

impl RelaxStrategy for Watchful {
    #[cold]
    #[inline(never)]
    fn relax() {
        core::hint::spin_loop();
        // Before there is another processor there is nothing to wait for.
        if cpu::count() > 1 {
            check_others(cpu::current(), clock::now_ns());
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
/// The number of a processor that was seen to hang, plus one.
static HUNG: AtomicU32 = AtomicU32::new(0);

/// The processor that was seen to hang.
pub(crate) fn hung() -> Option<u32> {
    HUNG.load(Ordering::Relaxed).checked_sub(1)
}

/// Whether there is a second processor that looks.
pub(crate) fn has_second() -> bool {
    SECOND.load(Ordering::Relaxed) != 0
}

/// Notes that a processor begins something.
pub(crate) fn record(cpu: &Cpu, doing: Doing) {
    let progress = cpu.progress.load(Ordering::Relaxed);
    cpu.progress.store(hv_core::watch::step(progress, doing), Ordering::Relaxed);
}

/// A processor begins to run: the second one watches the first.
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

/// Checks the others; false when it is not time to.
pub(crate) fn check_others(cpu: &Cpu, now_ns: u64) -> bool {
    if now_ns < next_ns(cpu) {
        return false;
    }
    cpu.look_ns.store(now_ns.saturating_add(LOOK_NS), Ordering::Relaxed);
    let Some(mut seen) = place(cpu).and_then(|place| SEEN.get(place)?.try_lock()) else { return false };
    for (number, watched) in (0..cpu::count()).zip(seen.iter_mut()) {
        let progress = cpu::by_number(number).map_or(0, |cpu| cpu.progress.load(Ordering::Relaxed));
        if number != cpu.number && watched.look(progress) {
            HUNG.store(number + 1, Ordering::Relaxed);
            panic!("cpu {number} hangs");
        }
    }
    true
}
