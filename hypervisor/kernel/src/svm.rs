//! AMD's virtualization: turning it on, the control block, entering a guest.

use crate::cpu::Cpu;
use crate::memory;
use crate::raw;
use crate::registers::Registers;
use crate::vcpu::Inner;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hv_x86::svm::{
    EVENT_ERROR_VALID, EVENT_EXCEPTION, EVENT_INTERRUPT, EVENT_NMI, EVENT_SOFTWARE, EVENT_TYPE, EVENT_VALID,
    INTERCEPT1_CPUID, INTERCEPT1_HLT, INTERCEPT1_INIT, INTERCEPT1_INTR, INTERCEPT1_INVD, INTERCEPT1_INVLPGA,
    INTERCEPT1_IOIO, INTERCEPT1_MSR, INTERCEPT1_NMI, INTERCEPT1_RDPMC, INTERCEPT1_SHUTDOWN, INTERCEPT1_SMI,
    INTERCEPT1_TASK_SWITCH, INTERCEPT1_VINTR, INTERCEPT2_CLGI, INTERCEPT2_MONITOR, INTERCEPT2_MWAIT,
    INTERCEPT2_SKINIT, INTERCEPT2_STGI, INTERCEPT2_VMLOAD, INTERCEPT2_VMMCALL, INTERCEPT2_VMRUN,
    INTERCEPT2_VMSAVE, INTERCEPT2_WBINVD, INTERCEPT2_XSETBV, VINTR_IGNORE_TPR, VINTR_IRQ, VINTR_MASKING,
    Vmcb,
};
use hv_x86::{msr, reg};

/// Physical addresses of the permission maps, the same for all guests.
static PORT_MAP: AtomicU64 = AtomicU64::new(0);
static MSR_MAP: AtomicU64 = AtomicU64::new(0);
/// Leaf 0x8000_000A EDX: CPUID itself is slow where this node is a guest.
static FEATURES: AtomicU32 = AtomicU32::new(0);

/// What this processor's SVM offers.
pub(crate) fn features() -> u32 {
    FEATURES.load(Ordering::Relaxed)
}

/// Registers that are the guest's own in the control block and need no policy.
const DIRECT_MSRS: [u32; 10] = [
    msr::FS_BASE,
    msr::GS_BASE,
    msr::KERNEL_GS_BASE,
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::SFMASK,
    msr::SYSENTER_CS,
    msr::SYSENTER_ESP,
    msr::SYSENTER_EIP,
];

unsafe extern "C" {
    fn run_guest(registers: *mut Registers, vmcb: u64, host_vmcb: u64);
}

/// Builds the permission maps: every port and nearly every MSR exits
/// (APM 15.10.1, 15.11).
pub(crate) fn init() -> Option<()> {
    FEATURES.store(raw::cpuid(0x8000_000a, 0).edx, Ordering::Relaxed);
    let ports = memory::take_contiguous(3)?;
    let msrs = memory::take_contiguous(2)?;
    let ones = [0xff; 4096];
    for (base, pages) in [(ports, 3), (msrs, 2)] {
        for page in 0..pages {
            let _ = memory::write(base + page * 4096, &ones);
        }
    }
    for register in DIRECT_MSRS {
        // Two bits each, in a section for each range of numbers.
        let (section, index) =
            if register >= 0xc000_0000 { (0x800, register - 0xc000_0000) } else { (0, register) };
        let at = msrs + section + u64::from(index / 4);
        let mut byte = [0];
        let _ = memory::read(at, &mut byte);
        byte[0] &= !(3 << (index % 4 * 2));
        let _ = memory::write(at, &byte);
    }
    PORT_MAP.store(ports, Ordering::Relaxed);
    MSR_MAP.store(msrs, Ordering::Relaxed);
    Some(())
}

/// Turns SVM on for this CPU.
pub(crate) fn enable(cpu: &Cpu) {
    let efer = raw::read_msr(msr::EFER) | reg::EFER_SVME;
    // SAFETY: support was checked at start.
    unsafe { raw::write_msr(msr::EFER, efer) };
    if let Some(area) = memory::take_frame() {
        // SAFETY: the frame belongs to the processor from now on.
        unsafe { raw::write_msr(msr::VM_HSAVE_PA, area) };
    }
    // SAFETY: VMSAVE writes this CPU's own page, which nothing else uses.
    unsafe { core::arch::asm!("vmsave rax", in("rax") cpu.host_vmcb, options(nostack, preserves_flags)) };
}

/// Fills the parts of a control block that do not change.
pub(crate) fn init_control(vmcb: &mut Vmcb, root: u64, tsc_offset: u64) {
    let control = &mut vmcb.control;
    // #DB and #AC, whose delivery can repeat without end.
    control.intercept_exceptions = 1 << 1 | 1 << 17;
    control.intercept1 = INTERCEPT1_INTR
        | INTERCEPT1_NMI
        | INTERCEPT1_SMI
        | INTERCEPT1_INIT
        | INTERCEPT1_RDPMC
        | INTERCEPT1_CPUID
        | INTERCEPT1_INVD
        | INTERCEPT1_HLT
        | INTERCEPT1_INVLPGA
        | INTERCEPT1_IOIO
        | INTERCEPT1_MSR
        | INTERCEPT1_TASK_SWITCH
        | INTERCEPT1_SHUTDOWN;
    control.intercept2 = INTERCEPT2_VMRUN
        | INTERCEPT2_VMMCALL
        | INTERCEPT2_VMLOAD
        | INTERCEPT2_VMSAVE
        | INTERCEPT2_STGI
        | INTERCEPT2_CLGI
        | INTERCEPT2_SKINIT
        | INTERCEPT2_WBINVD
        | INTERCEPT2_MONITOR
        | INTERCEPT2_MWAIT
        | INTERCEPT2_XSETBV;
    control.iopm_base = PORT_MAP.load(Ordering::Relaxed);
    control.msrpm_base = MSR_MAP.load(Ordering::Relaxed);
    control.tsc_offset = tsc_offset;
    control.vintr = VINTR_MASKING;
    control.nested_enable = 1;
    control.nested_cr3 = root;
}

/// Chooses what the guest finds when it goes on: an event that was interrupted,
/// an exception, an NMI, an interrupt, or a request to exit once it can take one
/// (APM 15.20, 15.21).
pub(crate) fn prepare_injection(inner: &mut Inner, enabled: bool) {
    let control = &mut inner.vmcb.control;
    control.vintr = VINTR_MASKING | u64::from(inner.lapic.task_priority_class());
    control.intercept1 &= !INTERCEPT1_VINTR;
    control.event_injection = 0;
    let reinject = core::mem::take(&mut inner.reinject);
    if reinject & EVENT_VALID != 0 && reinject & EVENT_TYPE != EVENT_SOFTWARE {
        control.event_injection = reinject;
    } else if let Some(exception) = inner.exception.take() {
        let error = exception.error_code.map_or(0, |code| EVENT_ERROR_VALID | u64::from(code) << 32);
        control.event_injection = u64::from(exception.vector) | EVENT_EXCEPTION | EVENT_VALID | error;
    } else if inner.nmi && control.interrupt_shadow & 1 == 0 {
        inner.nmi = false;
        control.event_injection = 2 | EVENT_NMI | EVENT_VALID;
    } else if enabled && let Some(vector) = inner.lapic.pending() {
        inner.lapic.accept(vector);
        control.event_injection = u64::from(vector) | EVENT_INTERRUPT | EVENT_VALID;
    }
    if inner.lapic.pending().is_some() || inner.nmi {
        control.vintr |= VINTR_IRQ | VINTR_IGNORE_TPR;
        control.intercept1 |= INTERCEPT1_VINTR;
    }
}

/// Guest mode until the next exit.
pub(crate) fn run(cpu: &Cpu, vmcb: &mut crate::frame::FrameBox<Vmcb>, registers: &mut Registers) {
    vmcb.save.rax = registers.rax;
    vmcb.save.rsp = registers.rsp;
    let address = vmcb.address();
    // SAFETY: both control blocks are whole and owned; the guest reaches only
    // memory its nested tables map.
    unsafe { run_guest(registers, address, cpu.host_vmcb) };
    registers.rax = vmcb.save.rax;
    registers.rsp = vmcb.save.rsp;
}
