//! dom0 as a program in ring 3: the unsafe edge around the safe `appliance`
//! library.
//!
//! * `system`: the system calls;
//! * `heap`: memory for `alloc`;
//! * `window`: guest memory;
//! * `handles`: device registers and DMA memory;
//! * `card`: finds and starts the network cards; `disk`: the disk for what is kept.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "system calls and memory windows of the ring-3 program")]

extern crate alloc;

mod card;
mod disk;
mod handles;
mod heap;
mod system;
mod window;
use appliance::node::Node;
use appliance::settings::Settings;
use hv_abi::boot::{BOOT_INFO, BootInfo, IMAGE, tsc_to_ns};
use hv_abi::event::Event;

core::arch::global_asm!(include_str!("../../../hypervisor/kernel/src/boot/memory.s"), options(att_syntax));
// The precompiled `alloc` names the unwinder, which never runs: panics abort.
core::arch::global_asm!(
    ".globl _Unwind_Resume, rust_eh_personality",
    "_Unwind_Resume:",
    "rust_eh_personality:",
    "ud2"
);

/// Events taken at a time.
const EVENTS: usize = 64;

/// Where the hypervisor enters.
#[unsafe(no_mangle)]
extern "C" fn dom0_start(information: *const BootInfo) -> ! {
    debug_assert_eq!(information as u64, BOOT_INFO);
    // SAFETY: the hypervisor mapped the page, read-only, before it entered here.
    let information = unsafe { &*information };
    heap::init();
    system::start_log();
    let length = hv_x86::to_usize(information.image_bytes);
    // SAFETY: the hypervisor mapped the image there, read-only, for ever.
    let payload = unsafe { core::slice::from_raw_parts(IMAGE as *const u8, length) };
    let settings = match Settings::from_image(payload, information.dom0_starts) {
        Ok(settings) => settings,
        Err(fault) => stop(&alloc::format!("{fault}; nothing is started")),
    };
    let cards = card::find(&settings.manifest);
    if cards.is_empty() {
        stop("no network card that can be driven was found");
    }
    let now = || now_ns(information);
    let Some(calls) = system::SystemCalls::new(&information.seed) else {
        stop("the processor's source of random numbers is silent or stuck; nothing is started")
    };
    match Node::new(calls, cards, settings, now()) {
        Ok(mut node) => {
            if let Some(number) = node.local_disk_wanted() {
                node.use_local_disk(disk::find(number), now());
            }
            run(&mut node, &now)
        }
        Err(error) => stop(&alloc::format!("cannot start: {error:?}")),
    }
}

fn run(node: &mut Node<system::SystemCalls, card::Card>, now: &dyn Fn() -> u64) -> ! {
    let mut events = [Event::default(); EVENTS];
    let mut count = 0;
    loop {
        let mut deadline = node.turn(events.get(..count).unwrap_or_default(), now());
        if deadline > now() && node.arm() {
            deadline = 0;
        }
        count = system::wait(deadline, &mut events).len();
    }
}

/// The time-stamp counter.
fn counter() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe {
        core::arch::asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Monotonic nanoseconds.
fn now_ns(information: &BootInfo) -> u64 {
    tsc_to_ns(counter(), information.tsc_base, information.tsc_to_ns)
}

/// Says why and waits for ever: starting again would not help.
fn stop(text: &str) -> ! {
    log::error!("{text}");
    loop {
        let _ = system::wait(u64::MAX, &mut []);
    }
}

#[panic_handler]
fn panic(information: &core::panic::PanicInfo<'_>) -> ! {
    system::fail(format_args!("dom0: {information}"))
}
