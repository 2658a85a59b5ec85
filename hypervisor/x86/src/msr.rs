//! Model-specific register numbers.
//!
//! Spec: APM appendix A; SDM volume 4; KVM numbers from the Linux documentation
//! `virt/kvm/x86/msr.rst`.

/// Time-stamp counter.
pub const TSC: u32 = 0x10;
/// Local APIC base and enable.
pub const APIC_BASE: u32 = 0x1b;
/// Microcode update signature (patch level on AMD).
pub const BIOS_SIGN_ID: u32 = 0x8b;
/// Speculation control.
pub const SPEC_CTRL: u32 = 0x48;
/// Commands to the predictors.
pub const PRED_CMD: u32 = 0x49;
/// MTRR capabilities.
pub const MTRR_CAP: u32 = 0xfe;
/// SYSENTER code segment.
pub const SYSENTER_CS: u32 = 0x174;
/// SYSENTER stack pointer.
pub const SYSENTER_ESP: u32 = 0x175;
/// SYSENTER instruction pointer.
pub const SYSENTER_EIP: u32 = 0x176;
/// Machine-check capabilities.
pub const MCG_CAP: u32 = 0x179;
/// Machine-check status.
pub const MCG_STATUS: u32 = 0x17a;
/// MCG_CAP: there is an MCG_CTL.
pub const MCG_CAP_CTL: u64 = 1 << 8;
/// MCG_STATUS: what was interrupted can continue.
pub const MCG_STATUS_RIPV: u64 = 1 << 0;
/// Which banks report.
pub const MCG_CTL: u32 = 0x17b;
/// Control of the first bank; status, address and more follow, then the next bank.
pub const MC0_CTL: u32 = 0x400;
/// Miscellaneous enables.
pub const MISC_ENABLE: u32 = 0x1a0;
/// Page attribute table.
pub const PAT: u32 = 0x277;
/// Default MTRR type.
pub const MTRR_DEF_TYPE: u32 = 0x2ff;
/// TSC deadline of the local APIC timer.
pub const TSC_DEADLINE: u32 = 0x6e0;
/// First x2APIC register.
pub const X2APIC_FIRST: u32 = 0x800;
/// Last x2APIC register.
pub const X2APIC_LAST: u32 = 0x8ff;
/// Extended feature enables.
pub const EFER: u32 = 0xc000_0080;
/// SYSCALL segments.
pub const STAR: u32 = 0xc000_0081;
/// SYSCALL target in long mode.
pub const LSTAR: u32 = 0xc000_0082;
/// SYSCALL target in compatibility mode.
pub const CSTAR: u32 = 0xc000_0083;
/// SYSCALL flag mask.
pub const SFMASK: u32 = 0xc000_0084;
/// FS base.
pub const FS_BASE: u32 = 0xc000_0100;
/// GS base.
pub const GS_BASE: u32 = 0xc000_0101;
/// GS base that SWAPGS exchanges.
pub const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// Auxiliary TSC value that RDTSCP returns.
pub const TSC_AUX: u32 = 0xc000_0103;
/// AMD system configuration.
pub const SYSCFG: u32 = 0xc001_0010;
/// AMD hardware configuration.
pub const HWCR: u32 = 0xc001_0015;
/// AMD patch level loader and interrupt-pending message.
pub const INT_PENDING: u32 = 0xc001_0055;
/// SVM control: SVM disable and lock (APM 15.30.1).
pub const VM_CR: u32 = 0xc001_0114;
/// Physical address of the host save area (APM 15.30.4).
pub const VM_HSAVE_PA: u32 = 0xc001_0117;
/// AMD branch prediction configuration.
pub const BP_CFG: u32 = 0xc001_102e;
/// Zen 2: what decides whether branches are predicted where there are none.
pub const ZEN2_CHICKEN: u32 = 0xc001_10e3;
/// AMD decode configuration.
pub const DE_CFG: u32 = 0xc001_1029;

/// VM_CR: SVM is disabled by firmware.
pub const VM_CR_SVMDIS: u64 = 1 << 4;

/// KVM wall clock, old number.
pub const KVM_WALL_CLOCK: u32 = 0x11;
/// KVM system time, old number.
pub const KVM_SYSTEM_TIME: u32 = 0x12;
/// KVM wall clock.
pub const KVM_WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
/// KVM system time.
pub const KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
/// KVM paravirtual end of interrupt.
pub const KVM_PV_EOI: u32 = 0x4b56_4d04;
