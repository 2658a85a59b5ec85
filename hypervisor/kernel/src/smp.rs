//! Starts the other processors.

use crate::apic::Message;
use crate::cpu::{self, Cpu};
use crate::host::Host;
use crate::vendor::Machine;
use crate::{apic, bring_up, clock, memory, watch};
use core::sync::atomic::{AtomicU32, Ordering};
use hv_core::speculation::thread_bits;
use hv_core::watch::Doing;
use hv_x86::{Hpa, PAGE_SIZE, to_usize};

/// The page below 1 MiB where the trampoline is copied.
const START_PAGE: u8 = 8;
const TRAMPOLINE: Hpa = Hpa(START_PAGE as u64 * PAGE_SIZE);
/// How long a processor may take to appear after each start-up message.
const START_TIMEOUT_NS: u64 = 2_000_000_000;

/// Processors that have reached Rust.
static ARRIVED: AtomicU32 = AtomicU32::new(1);

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
    static trampoline_root: u8;
    static trampoline_stack: u8;
}

/// Writes to the trampoline page, which the allocator never gives out.
fn write_low(offset: usize, bytes: &[u8]) {
    assert!(offset + bytes.len() <= to_usize(PAGE_SIZE), "the trampoline has one page");
    let target = (memory::direct(TRAMPOLINE) as *mut u8).wrapping_add(offset);
    // SAFETY: memory below 1 MiB is kept for this; the copy fits the page.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
}

/// Starts every processor that the firmware lists, one after the other.
pub(crate) fn start_all(rsdp: u64) {
    let start = core::ptr::addr_of!(trampoline_start);
    let end = core::ptr::addr_of!(trampoline_end);
    let root = core::ptr::addr_of!(trampoline_root) as usize - start as usize;
    let stack = core::ptr::addr_of!(trampoline_stack) as usize - start as usize;
    // SAFETY: both symbols delimit one object in read-only data.
    let code = unsafe { core::slice::from_raw_parts(start, end as usize - start as usize) };
    write_low(0, code);
    write_low(root, &memory::BOOT_TABLES.0.to_le_bytes());
    let own = apic::id();
    let (mut missing, mut surplus) = (0, 0);
    hv_core::acpi::processors(&memory::Firmware, rsdp, |identifier| {
        if identifier == own {
            return;
        }
        if cpu::count() as usize >= cpu::MAX_CPUS {
            surplus += 1;
            return;
        }
        // One that is late would take the newest block for its own: start no more.
        if missing != 0 {
            missing += 1;
            return;
        }
        let before = ARRIVED.load(Ordering::Acquire);
        let created = bring_up::create(identifier).and_then(|_| memory::map_stack(cpu::STACK_BYTES));
        let Some(stack_top) = created else {
            log::error!("CPU with APIC id {identifier}: no memory to start it");
            return;
        };
        write_low(stack, &stack_top.to_le_bytes());
        if !start_one(identifier, before) {
            // Should it still arrive, it finds neither tables nor a path to them.
            apic::send(identifier, Message::Init);
            missing += 1;
        }
    });
    // cli; hlt; and again.
    write_low(0, &[0xfa, 0xf4, 0xeb, 0xfc]);
    log::info!("{} CPUs started, {missing} not started, {} rest", ARRIVED.load(Ordering::Acquire), resting());
    if surplus != 0 {
        log::warn!("{surplus} CPUs stay unused, this version drives {}", cpu::MAX_CPUS);
    }
}

/// INIT, then start-up twice if the first is not enough (SDM 8.4.4.1). False when
/// it has not arrived by then.
fn start_one(identifier: u32, before: u32) -> bool {
    apic::send(identifier, Message::Init);
    for _ in 0..2 {
        apic::send(identifier, Message::StartUp(START_PAGE));
        let deadline = clock::now_ns() + START_TIMEOUT_NS;
        while clock::now_ns() < deadline {
            if ARRIVED.load(Ordering::Acquire) != before {
                return true;
            }
            core::hint::spin_loop();
        }
    }
    log::warn!("CPU with APIC id {identifier}: did not start");
    false
}

/// Lets siblings run, if the owner wants it: they rest until then.
pub(crate) fn run_threads(run: bool) {
    if run && cpu::set_threads_run() {
        siblings().for_each(|cpu| apic::interrupt(cpu.number, cpu::VECTOR_RESCHEDULE));
    }
}

/// Whether an earlier processor is another thread of the same core.
fn is_sibling(cpu: &Cpu) -> bool {
    let bits = thread_bits(&crate::raw::cpuid);
    let core = |cpu: &Cpu| cpu.apic_id >> bits;
    bits != 0 && (0..cpu.number).filter_map(cpu::by_number).any(|other| core(other) == core(cpu))
}

fn siblings() -> impl Iterator<Item = &'static Cpu> {
    (0..cpu::count()).filter_map(cpu::by_number).filter(|cpu| is_sibling(cpu))
}

/// How many processors rest.
pub(crate) fn resting() -> u32 {
    if cpu::threads_run() { 0 } else { u32::try_from(siblings().count()).unwrap_or(0) }
}

/// How many run.
pub(crate) fn running() -> u32 {
    cpu::count() - resting()
}

/// Where the other processors arrive, each on its own stack.
#[unsafe(no_mangle)]
extern "C" fn rust_secondary() -> ! {
    // Processors start one by one: this is the newest block.
    let Some(cpu) = cpu::by_number(cpu::count() - 1) else { crate::raw::halt() };
    // SAFETY: it was made for this processor.
    unsafe { bring_up::install(cpu) };
    apic::enable();
    Host::enable(cpu);
    let rests = is_sibling(cpu);
    if !rests {
        watch::begin(cpu);
    }
    ARRIVED.fetch_add(1, Ordering::Release);
    while rests && !cpu::threads_run() {
        watch::record(cpu, Doing::Away);
        crate::idle();
    }
    crate::run(cpu)
}
