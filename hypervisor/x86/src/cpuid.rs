//! CPUID leaves and bits that the node reads or shapes.
//!
//! Spec: APM volume 3 appendix E; KVM leaves from the Linux documentation
//! `virt/kvm/x86/cpuid.rst`.

/// What one CPUID leaf returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// Leaf 1 ECX: MONITOR/MWAIT.
pub const F1_ECX_MONITOR: u32 = 1 << 3;
/// Leaf 1 ECX: VMX.
pub const F1_ECX_VMX: u32 = 1 << 5;
/// Leaf 1 ECX: process-context identifiers.
pub const F1_ECX_PCID: u32 = 1 << 17;
/// Leaf 1 ECX: x2APIC.
pub const F1_ECX_X2APIC: u32 = 1 << 21;
/// Leaf 1 ECX: TSC-deadline timer.
pub const F1_ECX_TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1 ECX: XSAVE.
pub const F1_ECX_XSAVE: u32 = 1 << 26;
/// Leaf 1 ECX: operating system enabled XSAVE.
pub const F1_ECX_OSXSAVE: u32 = 1 << 27;
/// Leaf 1 ECX: a hypervisor is present.
pub const F1_ECX_HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: machine-check exception.
pub const F1_EDX_MCE: u32 = 1 << 7;
/// Leaf 1 EDX: local APIC.
pub const F1_EDX_APIC: u32 = 1 << 9;
/// Leaf 1 EDX: machine-check architecture.
pub const F1_EDX_MCA: u32 = 1 << 14;
/// Leaf 1 EDX: several logical processors in the package.
pub const F1_EDX_HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001 ECX: SVM.
pub const E1_ECX_SVM: u32 = 1 << 2;
/// Leaf 0x8000_0001 EDX: 1 GiB pages.
pub const E1_EDX_HUGE_PAGES: u32 = 1 << 26;
/// Leaf 0x8000_000A EDX: nested paging.
pub const SVM_EDX_NPT: u32 = 1 << 0;
/// Leaf 0x8000_000A EDX: next RIP is saved on intercepts.
pub const SVM_EDX_NRIP_SAVE: u32 = 1 << 3;
/// Leaf 0x8000_000A EDX: TLB flushes by ASID.
pub const SVM_EDX_FLUSH_BY_ASID: u32 = 1 << 6;
/// Leaf 0x8000_000A EDX: decode assists.
pub const SVM_EDX_DECODE_ASSISTS: u32 = 1 << 7;

/// First KVM leaf: signature.
pub const KVM_SIGNATURE: u32 = 0x4000_0000;
/// KVM leaf: features.
pub const KVM_FEATURES: u32 = 0x4000_0001;
/// Rates of the clocks under a hypervisor, which several agree on: TSC and APIC timer, in
/// kilohertz (proposed by VMware, lwn.net/Articles/301888).
pub const CLOCK_RATES: u32 = 0x4000_0010;
/// KVM feature: the clock behind the current MSR numbers.
pub const KVM_FEATURE_CLOCKSOURCE2: u32 = 1 << 3;
/// KVM feature: I/O needs no delays.
pub const KVM_FEATURE_NOP_IO_DELAY: u32 = 1 << 1;
/// KVM feature: an interrupt may be ended by clearing a bit in memory.
pub const KVM_FEATURE_PV_EOI: u32 = 1 << 6;
/// KVM feature: the clock is the same on all vCPUs.
pub const KVM_FEATURE_CLOCKSOURCE_STABLE: u32 = 1 << 24;
