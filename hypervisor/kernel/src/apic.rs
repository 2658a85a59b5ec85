//! This machine's local APICs: timer, messages between CPUs.

use crate::cpu::{VECTOR_SPURIOUS, VECTOR_TIMER};
use crate::{clock, memory, raw};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use hv_x86::{Hpa, apic, cpuid, msr};

/// Where the registers are in memory.
const BASE: Hpa = Hpa(apic::DEFAULT_BASE);

/// A message to another CPU (SDM 10.6.1).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Message {
    /// A fixed interrupt.
    Interrupt(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// Back to where it is before it starts.
    Init,
    /// Start in real mode at a page below 1 MiB.
    StartUp(u8),
}

impl Message {
    const fn bits(self) -> u32 {
        let kind = match self {
            Self::Interrupt(vector) => vector as u32,
            Self::Nmi => apic::DELIVERY_NMI << 8,
            Self::Init => apic::DELIVERY_INIT << 8,
            Self::StartUp(page) => apic::DELIVERY_STARTUP << 8 | page as u32,
        };
        apic::ICR_ASSERT | kind
    }
}

static X2APIC: AtomicBool = AtomicBool::new(false);
/// Timer ticks a millisecond at divisor 1; zero when the TSC deadline is used.
static TICKS_MS: AtomicU64 = AtomicU64::new(0);

fn read(register: u32) -> u32 {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: the processor has the registers of its local APIC.
        return hv_x86::low32(unsafe { raw::read_msr(msr::X2APIC_FIRST + (register >> 4)) });
    }
    let address = memory::direct(BASE.after(u64::from(register))) as *const u32;
    // SAFETY: the register page is in the direct map and not RAM.
    unsafe { address.read_volatile() }
}

fn write(register: u32, value: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: interrupts only arrive where `boot/switch.s` expects them.
        unsafe { raw::write_msr(msr::X2APIC_FIRST + (register >> 4), u64::from(value)) };
        return;
    }
    let address = memory::direct(BASE.after(u64::from(register))) as *mut u32;
    // SAFETY: the register page is in the direct map and not RAM.
    unsafe { address.write_volatile(value) };
}

/// Where assembly writes the end of an interrupt; zero in x2APIC mode.
pub(crate) fn eoi_address() -> u64 {
    if X2APIC.load(Ordering::Relaxed) { 0 } else { memory::direct(BASE.after(u64::from(apic::EOI))) }
}

/// Enables this CPU's APIC.
pub(crate) fn enable() {
    let features = raw::cpuid(1, 0).ecx;
    let x2apic = features & cpuid::F1_ECX_X2APIC != 0;
    DEADLINE_MODE.store(features & cpuid::F1_ECX_TSC_DEADLINE != 0, Ordering::Relaxed);
    // SAFETY: every processor in 64-bit mode has it.
    let mut base = unsafe { raw::read_msr(msr::APIC_BASE) } | apic::BASE_ENABLE;
    if x2apic {
        base |= apic::BASE_X2APIC;
    }
    // SAFETY: only the mode changes; the page stays where it is.
    unsafe { raw::write_msr(msr::APIC_BASE, base) };
    X2APIC.store(x2apic, Ordering::Relaxed);
    write(apic::TPR, 0);
    for entry in [apic::LVT_LINT0, apic::LVT_LINT1, apic::LVT_ERROR, apic::LVT_PERFORMANCE, apic::LVT_THERMAL]
    {
        write(entry, apic::LVT_MASKED);
    }
    write(apic::SVR, apic::SVR_ENABLE | u32::from(VECTOR_SPURIOUS));
    write(apic::TIMER_DIVIDE, 0xb);
    let mode = if deadline_mode() { apic::LVT_TIMER_DEADLINE } else { 0 };
    write(apic::LVT_TIMER, mode | u32::from(VECTOR_TIMER));
}

/// Whether the timer is armed by its deadline: asked for each time, and CPUID is slow
/// where this node is a guest.
static DEADLINE_MODE: AtomicBool = AtomicBool::new(false);

fn deadline_mode() -> bool {
    DEADLINE_MODE.load(Ordering::Relaxed)
}

/// This CPU's identifier.
pub(crate) fn id() -> u32 {
    let id = read(apic::ID);
    if X2APIC.load(Ordering::Relaxed) { id } else { id >> 24 }
}

/// The timer's current count while it runs free, to be measured.
pub(crate) fn free_count() -> u64 {
    u64::from(read(apic::TIMER_CURRENT))
}

/// Runs `measure` with the timer running free; it returns the timer's frequency
/// in kHz.
pub(crate) fn calibrate(measure: impl FnOnce() -> u64) {
    if deadline_mode() {
        measure();
        return;
    }
    write(apic::LVT_TIMER, apic::LVT_MASKED);
    write(apic::TIMER_INITIAL, u32::MAX);
    let khz = measure();
    write(apic::TIMER_INITIAL, 0);
    write(apic::LVT_TIMER, u32::from(VECTOR_TIMER));
    TICKS_MS.store(khz.max(1), Ordering::Relaxed);
}

/// Arms the timer for a moment of the monotonic clock; the far future disarms it.
pub(crate) fn set_timer(deadline_ns: u64, now_ns: u64) {
    // An hour is far enough to look again.
    let span = deadline_ns.saturating_sub(now_ns).min(3_600_000_000_000);
    if deadline_mode() {
        let deadline = raw::tsc().after(clock::scale().ticks(span).max(1)).0;
        let deadline = if deadline_ns == u64::MAX { 0 } else { deadline };
        // SAFETY: arms an interrupt that ring 0 expects.
        unsafe { raw::write_msr(msr::TSC_DEADLINE, deadline) };
        return;
    }
    let ticks = span.saturating_mul(TICKS_MS.load(Ordering::Relaxed)) / 1_000_000;
    let count = if deadline_ns == u64::MAX { 0 } else { u32::try_from(ticks.max(1)).unwrap_or(u32::MAX) };
    write(apic::TIMER_INITIAL, count);
}

/// Sends a message to one CPU.
pub(crate) fn send(apic_id: u32, message: Message) {
    let low = message.bits();
    if X2APIC.load(Ordering::Relaxed) {
        let value = u64::from(apic_id) << 32 | u64::from(low);
        // SAFETY: every CPU in use expects the vectors that are sent.
        unsafe { raw::write_msr(msr::X2APIC_FIRST + (apic::ICR_LOW >> 4), value) };
        return;
    }
    while read(apic::ICR_LOW) & apic::ICR_PENDING != 0 {
        core::hint::spin_loop();
    }
    write(apic::ICR_HIGH, apic_id << 24);
    write(apic::ICR_LOW, low);
}

/// Sends a fixed interrupt to a CPU by number.
pub(crate) fn interrupt(cpu: u32, vector: u8) {
    if let Some(cpu) = crate::cpu::by_number(cpu) {
        send(cpu.apic_id, Message::Interrupt(vector));
    }
}
