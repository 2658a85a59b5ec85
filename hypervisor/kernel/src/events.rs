//! What dom0 waits for: a deadline, its devices' interrupts, and what domains have for it.

use crate::{apic, clock, cpu};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use hv_abi::{DomainSlot, MAX_DOMAINS};

/// How long a guest on dom0's CPU runs at least before doorbells and devices' interrupts
/// take it away from it again (interrupt moderation): a busy device brings much at a time,
/// and what follows a pause is served at once. When the guest idles dom0 runs earlier.
const COALESCE_NS: u64 = 50_000;

static WAITING: AtomicBool = AtomicBool::new(false);
static DEADLINE: AtomicU64 = AtomicU64::new(u64::MAX);
/// When dom0 began to wait.
static WAITS_SINCE: AtomicU64 = AtomicU64::new(0);
/// Something arrived that is not coalesced.
static URGENT: AtomicBool = AtomicBool::new(false);
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);
/// What each domain has for dom0; outside the domain's lock.
static DOMAINS: [Events; MAX_DOMAINS] = [const { Events::new() }; MAX_DOMAINS];
/// Domains with something in [`DOMAINS`], one bit each.
static WORK: AtomicU64 = AtomicU64::new(0);

/// Causes for dom0 to poll a domain.
pub(crate) struct Events {
    /// Doorbells rung.
    pub(crate) doorbells: AtomicU64,
    /// vCPUs that wait for an answer and were not reported yet.
    pub(crate) exits: AtomicU32,
    /// The domain changed state.
    pub(crate) changed: AtomicBool,
}

impl Events {
    const fn new() -> Self {
        Self { doorbells: AtomicU64::new(0), exits: AtomicU32::new(0), changed: AtomicBool::new(false) }
    }

    /// Forgets them all.
    pub(crate) fn clear(&self) {
        self.doorbells.store(0, Ordering::Relaxed);
        self.exits.store(0, Ordering::Relaxed);
        self.changed.store(false, Ordering::Relaxed);
    }
}

/// Those of the domain in a slot.
pub(crate) fn of_domain(slot: DomainSlot) -> Option<&'static Events> {
    DOMAINS.get(slot.index())
}

/// Marks that a domain has something for dom0, and waits for it.
pub(crate) fn notify(slot: DomainSlot) {
    URGENT.store(true, Ordering::Release);
    notify_coalesced(slot);
}

/// Marks that a domain has something for dom0.
pub(crate) fn notify_coalesced(slot: DomainSlot) {
    mark(slot);
    wake();
}

/// The same for dom0 itself, which looks before it waits.
pub(crate) fn mark(slot: DomainSlot) {
    WORK.fetch_or(1 << slot.index(), Ordering::Release);
}

/// Takes the set of domains with something.
pub(crate) fn take_work() -> u64 {
    WORK.swap(0, Ordering::Acquire)
}

/// Something happened that dom0 may wait for.
fn wake() {
    fence(Ordering::SeqCst);
    if WAITING.load(Ordering::SeqCst) && cpu::current().number != 0 {
        apic::interrupt(0, cpu::VECTOR_RESCHEDULE);
    }
}

/// Devices bound to dom0 fired.
pub(crate) fn add_interrupts(bits: u64) {
    if bits != 0 {
        INTERRUPTS.fetch_or(bits, Ordering::Release);
    }
}

/// Takes the set of devices that fired.
pub(crate) fn take_interrupts() -> u64 {
    INTERRUPTS.swap(0, Ordering::Acquire)
}

fn has_work() -> bool {
    INTERRUPTS.load(Ordering::Acquire) != 0 || WORK.load(Ordering::Acquire) != 0
}

/// dom0 begins to wait.
pub(crate) fn begin_wait(deadline_ns: u64) {
    WAITS_SINCE.store(clock::now_ns(), Ordering::Relaxed);
    DEADLINE.store(deadline_ns, Ordering::Relaxed);
    // Seen by all before dom0's CPU looks for work once more: what brings some either is
    // seen, or sees that it must wake.
    WAITING.store(true, Ordering::SeqCst);
}

/// dom0 is held back for a while.
pub(crate) fn hold(until_ns: u64) {
    DEADLINE.store(until_ns, Ordering::Relaxed);
    WAITING.store(true, Ordering::Release);
}

/// dom0 resumes.
pub(crate) fn end_wait() {
    WAITING.store(false, Ordering::Release);
    URGENT.store(false, Ordering::Release);
}

/// Whether a wait is over.
pub(crate) fn is_due(now_ns: u64) -> bool {
    has_work() || now_ns >= DEADLINE.load(Ordering::Relaxed)
}

/// Whether dom0 has something to do on the CPU that asks.
pub(crate) fn wants(cpu: &cpu::Cpu, now_ns: u64) -> bool {
    cpu.number == 0 && (!WAITING.load(Ordering::Acquire) || is_due(now_ns))
}

/// Whether that is reason enough to interrupt a guest that runs there.
pub(crate) fn interrupts(cpu: &cpu::Cpu, now_ns: u64) -> bool {
    if !wants(cpu, now_ns) {
        return false;
    }
    let gathers = WAITING.load(Ordering::Acquire)
        && now_ns < DEADLINE.load(Ordering::Relaxed)
        && !URGENT.load(Ordering::Acquire);
    !gathers || now_ns >= gathered_ns()
}

/// When what is gathered is served.
fn gathered_ns() -> u64 {
    WAITS_SINCE.load(Ordering::Relaxed).saturating_add(COALESCE_NS)
}

/// When the boot CPU must poll dom0 again. While dom0 runs its last deadline
/// means nothing: were it in the past, the timer would interrupt dom0 before each
/// instruction.
pub(crate) fn deadline(cpu: &cpu::Cpu) -> u64 {
    let waits = cpu.number == 0 && WAITING.load(Ordering::Acquire);
    let gathered = if has_work() { gathered_ns() } else { u64::MAX };
    if waits { DEADLINE.load(Ordering::Relaxed).min(gathered) } else { u64::MAX }
}
