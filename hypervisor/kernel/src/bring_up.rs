//! Makes a processor ready: its block, descriptor tables, control registers.

use crate::cpu::{self, Cpu};
use crate::frame::{FrameBox, Page};
use crate::host::Host;
use crate::vendor::Machine;
use crate::{apic, machine_check, memory, raw, speculation, xstate};
use core::sync::atomic::{AtomicU64, Ordering};
use hv_x86::{PAGE_SIZE, cpuid, msr, reg};

/// Physical address of the interrupt descriptor table, shared by all.
static IDT: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn interrupt_entries();
    fn system_call_entry();
}

/// A pointer operand for LGDT and LIDT.
#[repr(C, packed)]
struct DescriptorPointer {
    limit: u16,
    base: u64,
}

/// Makes the block of the next CPU.
pub(crate) fn create(apic_id: u32) -> Option<&'static Cpu> {
    let frame = memory::take_frame()?;
    // Stacks of the interrupts that must not trust the current one: #DF, NMI
    // and #MC (APM 8.9.4), of a page each.
    let mut tss = FrameBox::<Page>::new()?;
    for offset in [0x24, 0x2c, 0x34] {
        let top = memory::map_stack(PAGE_SIZE)?;
        if let Some(slot) = tss.get_mut(offset..offset + 8) {
            slot.copy_from_slice(&top.to_le_bytes());
        }
    }
    // No port is open to ring 3: the permission map lies beyond the limit.
    if let Some(slot) = tss.get_mut(0x66..0x68) {
        slot.copy_from_slice(&0x68_u16.to_le_bytes());
    }
    let host = FrameBox::<Page>::new()?;
    let asids = raw::cpuid(0x8000_000a, 0).ebx.max(2);
    let (place, tss_place) = (memory::direct(frame), memory::direct(tss.address()));
    let block = Cpu::new(place, apic_id, apic::eoi_address(), tss_place, host.address().0, asids);
    core::mem::forget((tss, host));
    const { assert!(size_of::<Cpu>() <= 4096) };
    let pointer = place as *mut Cpu;
    // SAFETY: the frame is fresh, large enough and page aligned.
    unsafe { pointer.write(block) };
    // SAFETY: it was just written and is never freed.
    let block = unsafe { &*pointer };
    cpu::add(block).map(|()| block)
}

/// Makes this block the running CPU's own: tables, registers, system calls.
///
/// # Safety
/// It was made for the CPU this runs on, and no other has it.
pub(crate) unsafe fn install(cpu: &'static Cpu) {
    load_tables(cpu);
    // SAFETY: the block lives for ever; ring 0 reads it through GS.
    unsafe { raw::write_msr(msr::GS_BASE, cpu.place()) };
    // SAFETY: the value that ring 3 sees as its GS base.
    unsafe { raw::write_msr(msr::KERNEL_GS_BASE, 0) };
    // SAFETY: selectors of the table just loaded: ring 0 at 8, ring 3 at 0x10.
    unsafe { raw::write_msr(msr::STAR, 0x10 << 48 | 8 << 32) };
    let entry: unsafe extern "C" fn() = system_call_entry;
    // SAFETY: the entry saves everything it changes.
    unsafe { raw::write_msr(msr::LSTAR, entry as usize as u64) };
    let mask = reg::RFLAGS_IF | reg::RFLAGS_DF | reg::RFLAGS_TF | 1 << 18 | 1 << 14;
    // SAFETY: system calls start with these flags clear.
    unsafe { raw::write_msr(msr::SFMASK, mask) };
    // SAFETY: every processor in 64-bit mode has it.
    let efer = unsafe { raw::read_msr(msr::EFER) } | reg::EFER_SCE;
    // SAFETY: only SYSCALL is added.
    unsafe { raw::write_msr(msr::EFER, efer) };
    let mut cr4 = x86_64::registers::control::Cr4::read_raw() | reg::CR4_OSXSAVE;
    let features = raw::cpuid(7, 0).ebx;
    if features & 1 << 7 != 0 {
        cr4 |= reg::CR4_SMEP;
    }
    if features & 1 << 20 != 0 {
        cr4 |= reg::CR4_SMAP;
    }
    if raw::cpuid(7, 0).ecx & 1 << 2 != 0 {
        cr4 |= reg::CR4_UMIP;
    }
    // SAFETY: the features were checked; ring 0 never touches user pages.
    unsafe { x86_64::registers::control::Cr4::write_raw(cr4) };
    xstate::enable();
    machine_check::enable();
    speculation::set_up();
}

fn load_tables(cpu: &'static Cpu) {
    let base = cpu.tss();
    let mut gdt = cpu.gdt.lock();
    let low = 0x67 | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    // Null, code 0, data 0, data 3, code 3, TSS in two words (APM 4.8).
    *gdt = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        low,
        base >> 32,
        0,
    ];
    let pointer = DescriptorPointer { limit: 63, base: gdt.as_ptr() as u64 };
    // SAFETY: the table lives in this CPU's block, which is never freed; the
    // code segment keeps its selector and meaning.
    unsafe {
        core::arch::asm!(
            "lgdt [{0}]",
            "push 8",
            "lea {1}, [rip + 2f]",
            "push {1}",
            "retfq",
            "2: mov {1:e}, 0x10",
            "mov ss, {1:e}",
            "xor {1:e}, {1:e}",
            "mov ds, {1:e}",
            "mov es, {1:e}",
            "mov fs, {1:e}",
            "mov gs, {1:e}",
            "mov {1:e}, 0x28",
            "ltr {1:x}",
            in(reg) &raw const pointer,
            out(reg) _,
        );
    };
    let idt = DescriptorPointer { limit: 4095, base: IDT.load(Ordering::Relaxed) };
    // SAFETY: the table is complete and never freed.
    unsafe { core::arch::asm!("lidt [{}]", in(reg) &raw const idt, options(nostack, preserves_flags)) };
}

/// Builds the interrupt table (APM 4.8.4): 256 gates into ring 0.
pub(crate) fn init_interrupts() -> Option<()> {
    xstate::init();
    let mut table = FrameBox::<[[u64; 2]; 256]>::new()?;
    let entries: unsafe extern "C" fn() = interrupt_entries;
    for (vector, gate) in table.iter_mut().enumerate() {
        let target = entries as usize as u64 + vector as u64 * 16;
        let ist = match vector {
            8 => 1,
            2 => 2,
            18 => 3,
            _ => 0,
        };
        *gate = [
            target & 0xffff | 8 << 16 | ist << 32 | 0x8e << 40 | (target >> 16 & 0xffff) << 48,
            target >> 32,
        ];
    }
    IDT.store(memory::direct(table.address()), Ordering::Relaxed);
    core::mem::forget(table);
    Some(())
}

/// Why this processor cannot run guests, if it cannot.
pub(crate) fn missing_feature() -> Option<&'static str> {
    let features = raw::cpuid(1, 0);
    if features.ecx & cpuid::F1_ECX_XSAVE == 0 {
        return Some("XSAVE");
    }
    Host::missing_feature()
}
