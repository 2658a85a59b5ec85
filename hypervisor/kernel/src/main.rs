//! The ring-0 program.
//!
//! It owns CPUs and memory, runs guests, and hosts dom0 in ring 3. It parses
//! nothing that comes from a network, and of guests only instructions and page
//! tables. Interrupts are off in ring 0 except at the two places that
//! `boot/switch.s` marks, so there is no re-entrance to think about.
//!
//! * `boot/`: what runs before Rust, and every switch of privilege;
//! * `raw`, `clock`, `cpu`, `watch`, `log_sink`: a processor, its time, its locks, the log;
//! * `memory`, `frame`, `nested`: physical memory and page tables;
//! * `apic`, `xstate`, `bring_up`, `smp`: making processors ready;
//! * `vendor`, `svm`, `host`: entering a guest, each vendor's way;
//! * `vcpu`, `run_queue`, `domain`, `exits`, `guest_mode`: guests, from state to running;
//! * `failure`, `persisted`, `watchdog`: what follows when this program fails or hangs;
//! * `events`, `address_space`, `elf`, `dom0`, `syscall`, `ring3`: dom0, from what it waits
//!   for to running it; `store`, `pci`, `power`: what else it may ask.
//!
//! What stands earlier in these lines knows nothing of what stands later.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "this is the ring-0 program: privileged instructions and page tables")]

mod address_space;
mod apic;
mod bring_up;
mod clock;
mod cpu;
mod dom0;
mod domain;
mod elf;
mod events;
mod exits;
mod failure;
mod frame;
mod guest_mode;
mod host;
mod log_sink;
mod machine_check;
mod memory;
mod nested;
mod pci;
mod persisted;
mod power;
mod random;
mod raw;
mod registers;
mod ring3;
mod run_queue;
mod slot;
mod smp;
mod speculation;
mod store;
mod string_io;
mod svm;
mod syscall;
mod vcpu;
mod vendor;
mod watch;
mod watchdog;
mod xstate;

use crate::cpu::Cpu;
use crate::host::Host;
use crate::vendor::Machine;
use core::sync::atomic::{AtomicBool, Ordering};
use hv_abi::image::{DIRECTORY_OFFSET, MAX_FILE_BYTES, PAYLOAD_ADDRESS};
use hv_abi::previous::Ended;
use hv_core::boot_params::{BYTES, BootParams};
use hv_core::scheduler::Pick;
use hv_core::watch::Doing;
use hv_x86::Hpa;

core::arch::global_asm!(include_str!("boot/setup16.s"), options(att_syntax));
core::arch::global_asm!(include_str!("boot/stub.s"), options(att_syntax));
core::arch::global_asm!(include_str!("boot/entry.s"), options(att_syntax));
core::arch::global_asm!(include_str!("boot/memory.s"), options(att_syntax));
core::arch::global_asm!(include_str!("boot/switch.s"), options(att_syntax));

/// Where the payload is.
const PAYLOAD: Hpa = Hpa(PAYLOAD_ADDRESS);
/// Bytes of the stack the boot processor starts on.
const BOOT_STACK_BYTES: usize = 64 * 1024;

core::arch::global_asm!(
    ".section .bss",
    ".balign 4096",
    ".globl boot_stack_guard",
    "boot_stack_guard:",
    ".skip 4096 + {size}",
    "boot_stack_top:",
    ".section .text",
    size = const BOOT_STACK_BYTES,
);

/// The first Rust code: `params` is the physical address of the boot parameters.
#[unsafe(no_mangle)]
extern "C" fn rust_boot(params: u64) -> ! {
    log_sink::init();
    apic::enable();
    apic::calibrate(|| clock::init(&mut apic::free_count));
    log::info!("redoubt {} starting", env!("CARGO_PKG_VERSION"));
    let mut page = [0; BYTES];
    memory::read(Hpa(params), &mut page);
    let params = BootParams(&page);
    let payload = find_payload();
    let end = PAYLOAD_ADDRESS + payload.len() as u64;
    memory::init(&params, PAYLOAD_ADDRESS..end);
    persisted::find();
    if let Some(feature) = bring_up::missing_feature() {
        panic!("this processor lacks {feature}; guests cannot run here");
    }
    let ready =
        memory::protect_image().and_then(|()| bring_up::init_interrupts()).and_then(|()| Host::init());
    let boot = ready.and_then(|()| bring_up::create(apic::id()));
    let Some(boot) = boot else { panic!("not enough memory to start") };
    // SAFETY: it was made for this processor.
    unsafe { bring_up::install(boot) };
    Host::enable(boot);
    if !speculation::plan().forgets_branches() {
        log::warn!("this processor reports no IBPB: a guest may steer branches of dom0 and of other guests");
    }
    let rsdp = params.acpi_rsdp().or_else(|| hv_core::acpi::find_rsdp(&memory::Firmware));
    if let Some(rsdp) = rsdp {
        power::init(hv_core::acpi::soft_off(&memory::Firmware, rsdp));
        smp::start_all(rsdp);
    }
    memory::drop_identity();
    let mut line = [0; 1024];
    memory::read(Hpa(params.command_line_address()), &mut line);
    let line = line.into_iter().take_while(|byte| *byte != 0).collect();
    watchdog::init();
    ring3::init(payload, line);
    READY.store(true, Ordering::Release);
    run(boot)
}

/// Set once dom0 exists; the other processors wait for it.
static READY: AtomicBool = AtomicBool::new(false);

/// The payload where the loader put it; its length is in the directory, which the
/// stub has already used.
fn find_payload() -> &'static [u8] {
    let mut length = [0; 8];
    memory::read(PAYLOAD.after(DIRECTORY_OFFSET as u64 + 8), &mut length);
    let length = hv_x86::to_usize(u64::from_le_bytes(length));
    assert!(length <= MAX_FILE_BYTES, "the image is larger than the node accepts");
    let start = memory::direct(PAYLOAD) as *const u8;
    // SAFETY: this memory is kept out of the allocator and never written.
    unsafe { core::slice::from_raw_parts(start, length) }
}

/// What a CPU does for ever.
pub(crate) fn run(cpu: &'static Cpu) -> ! {
    while !READY.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
    // The identity mapping is gone by now.
    x86_64::instructions::tlb::flush_all();
    loop {
        let pending = cpu.take_pending();
        handle_pending(cpu, &pending);
        watch::record(cpu, Doing::Ring0);
        if cpu.number == 0 {
            ring3::service(cpu);
        }
        let now = clock::now_ns();
        watchdog::look(cpu, now);
        machine_check::poll(cpu, now);
        let pick = run_queue::SCHEDULER.lock().pick(cpu.number, now);
        match pick {
            Pick::Run(slot, until) => guest_mode::run(cpu, slot, until.min(watch::next_ns(cpu))),
            Pick::Idle(until) => {
                arm(cpu, until.min(watch::next_ns(cpu)), now);
                if !cpu.has_pending() && !events::wants(cpu, now) {
                    watch::record(cpu, Doing::Away);
                    idle();
                }
            }
        }
    }
}

fn idle() {
    unsafe extern "C" {
        fn idle_wait();
    }
    // SAFETY: returns with interrupts off; interrupts there only leave a mark.
    unsafe { idle_wait() };
}

/// Sets this CPU's timer for what comes first: `deadline`, or dom0's own.
pub(crate) fn arm(cpu: &Cpu, deadline_ns: u64, now_ns: u64) {
    let deadline = deadline_ns.min(events::deadline(cpu));
    if cpu.armed_ns.swap(deadline, Ordering::Relaxed) != deadline {
        apic::set_timer(deadline, now_ns);
    }
}

/// Acts on the interrupts that arrived.
pub(crate) fn handle_pending(cpu: &Cpu, pending: &[u64; 4]) {
    if *pending == [0; 4] {
        return;
    }
    if cpu::has_vector(pending, cpu::VECTOR_STOP) {
        raw::halt();
    }
    if cpu::has_vector(pending, cpu::VECTOR_MACHINE_CHECK) {
        machine_check::contain();
    }
    if cpu::has_vector(pending, cpu::VECTOR_TIMER) {
        cpu.armed_ns.store(u64::MAX, Ordering::Relaxed);
    }
    let first = cpu::VECTOR_DEVICES;
    events::add_interrupts(pending[0] >> first | pending[1] << (64 - first));
}

/// Whether GS leads to a CPU's block.
fn has_block() -> bool {
    // SAFETY: every processor in 64-bit mode has it.
    cpu::is_block(unsafe { raw::read_msr(hv_x86::msr::GS_BASE) })
}

/// A fault in ring 0: the frame is vector, error, RIP, CS, RFLAGS, RSP, SS.
#[unsafe(no_mangle)]
extern "C" fn rust_exception(frame: &[u64; 7]) -> ! {
    let fault = x86_64::registers::control::Cr2::read_raw();
    let [vector, error, rip, _, _, rsp, _] = frame;
    if *vector == 18 {
        // Ring 3's is still there between SYSCALL and the first SWAPGS.
        if !has_block() {
            // SAFETY: every processor in 64-bit mode has it.
            let own = unsafe { raw::read_msr(hv_x86::msr::KERNEL_GS_BASE) };
            // SAFETY: this processor's block, which SWAPGS would have put there.
            unsafe { raw::write_msr(hv_x86::msr::GS_BASE, own) };
        }
        machine_check::in_ring0();
    }
    // In ring 0 it is always this processor's block: see `svm::Svm::holds_host_state`.
    if !has_block() {
        panic!("exception {vector} at {rip:#x}: the emulated processor lost its state");
    }
    // The words on the stack tell what was interrupted.
    let mut words = [[0; 8]; 16];
    let readable = words.iter_mut().zip(0..).all(|(word, index)| {
        memory::physical(rsp.wrapping_add(index * 8)).is_some_and(|place| memory::read(place, word))
    });
    let words = words.map(u64::from_le_bytes);
    panic!(
        "exception {vector} error {error:#x} at {rip:#x}, stack {rsp:#x}, address {fault:#x}, words {:x?}",
        readable.then_some(words)
    );
}

#[panic_handler]
fn panic(information: &core::panic::PanicInfo<'_>) -> ! {
    match watch::hung() {
        Some(number) => failure::fail(Ended::Hung, format_args!("cpu {number} hangs")),
        None => failure::fail(Ended::Failed, format_args!("{information}")),
    }
}
