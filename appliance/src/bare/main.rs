//! dom0 as a program in ring 3: the unsafe edge around the safe `appliance`
//! library.
//!
//! * `system`: the system calls;
//! * `heap`: memory for `alloc`.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "system calls and memory windows of the ring-3 program")]

extern crate alloc;

mod heap;
mod system;
mod window;

use hv_abi::boot::{BOOT_INFO, BootInfo};

core::arch::global_asm!(include_str!("../../../hypervisor/kernel/src/boot/memory.s"), options(att_syntax));
// The precompiled `alloc` names the unwinder, which never runs: panics abort.
core::arch::global_asm!(
    ".globl _Unwind_Resume, rust_eh_personality",
    "_Unwind_Resume:",
    "rust_eh_personality:",
    "ud2"
);

/// Where the hypervisor enters.
#[unsafe(no_mangle)]
extern "C" fn dom0_start(information: *const BootInfo) -> ! {
    debug_assert_eq!(information as u64, BOOT_INFO);
    // SAFETY: the hypervisor mapped the page, read-only, before it entered here.
    let information = unsafe { &*information };
    heap::init();
    system::log(&alloc::format!("dom0: start {}, {} cpus", information.dom0_starts, information.cpus));
    let mut events = [hv_abi::event::Event::default(); 16];
    loop {
        let _ = system::wait(u64::MAX, &mut events);
    }
}

#[panic_handler]
fn panic(information: &core::panic::PanicInfo<'_>) -> ! {
    system::fail(format_args!("dom0 panicked: {information}"))
}
