//! What CPUID tells a guest: an allow-list over the host's answers.
//!
//! A feature that is not named here does not exist for guests, so a new
//! processor's additions stay hidden until they are understood.
//! Spec: APM volume 3 appendix E; SDM volume 2 CPUID.

use crate::lapic::TIMER_KHZ;
use hv_x86::cpuid::{
    CLOCK_RATES, E1_EDX_HUGE_PAGES, F1_ECX_HYPERVISOR, F1_ECX_OSXSAVE, F1_ECX_TSC_DEADLINE, F1_ECX_X2APIC,
    F1_ECX_XSAVE, F1_EDX_APIC, F1_EDX_HTT, KVM_FEATURE_CLOCKSOURCE_STABLE, KVM_FEATURE_CLOCKSOURCE2,
    KVM_FEATURE_NOP_IO_DELAY, KVM_FEATURE_PV_EOI, KVM_FEATURES, KVM_SIGNATURE, Leaf,
};
use hv_x86::reg::{CR4_OSXSAVE, XCR0_AVX, XCR0_SSE, XCR0_X87};

/// Leaf 1 ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CX16, SSE4.1, SSE4.2, MOVBE, POPCNT,
/// AES, XSAVE, AVX, F16C, RDRAND.
const F1_ECX: u32 = 1
    | 1 << 1
    | 1 << 9
    | 1 << 12
    | 1 << 13
    | 1 << 19
    | 1 << 20
    | 1 << 22
    | 1 << 23
    | 1 << 25
    | 1 << 26
    | 7 << 28;
/// Leaf 1 EDX: FPU VME DE PSE TSC MSR PAE CX8 APIC SEP PGE CMOV PAT PSE36 CLFSH
/// MMX FXSR SSE SSE2.
const F1_EDX: u32 = 0x7f | 1 << 8 | 1 << 9 | 1 << 11 | 1 << 13 | 7 << 15 | 1 << 19 | 15 << 23;
/// Leaf 7 EBX: FSGSBASE BMI1 AVX2 SMEP BMI2 ERMS RDSEED ADX SMAP CLFLUSHOPT CLWB
/// SHA.
const F7_EBX: u32 = 1 | 1 << 3 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 7 << 18 | 1 << 23 | 1 << 24 | 1 << 29;
/// Leaf 7 ECX: UMIP, VAES, VPCLMULQDQ, RDPID.
const F7_ECX: u32 = 1 << 2 | 1 << 9 | 1 << 10 | 1 << 22;
/// Leaf 7 EDX: FSRM.
const F7_EDX: u32 = 1 << 4;
/// Leaf 0x8000_0001 ECX: LAHF, CR8 in 32-bit mode, LZCNT, SSE4A, misaligned SSE,
/// PREFETCHW.
const E1_ECX: u32 = 1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8;
/// Leaf 0x8000_0001 EDX: what repeats leaf 1, SYSCALL NX MMXEXT 1GiB RDTSCP LM.
const E1_EDX: u32 =
    (F1_EDX & 0x0183_f3ff) | 1 << 11 | 1 << 20 | 1 << 22 | E1_EDX_HUGE_PAGES | 1 << 27 | 1 << 29;
/// Leaf 0x8000_0008 EBX, what there is against speculation and what is not needed: IBPB,
/// IBRS, STIBP, both always on, IBRS preferred, SSBD, SSB_NO, PSFD, BTC_NO, IBPB_RET.
const E8_EBX: u32 = 1 << 12 | 31 << 14 | 1 << 24 | 1 << 26 | 7 << 28;
/// Leaf 0x8000_0021 EAX: LFENCE always serializes, VERW clears, automatic IBRS, SBPB, IBPB
/// covers branch types, SRSO_NO, SRSO_USER_KERNEL_NO.
const E21_EAX: u32 = 1 << 2 | 1 << 5 | 1 << 8 | 15 << 27;
/// Leaf 0x8000_0021 ECX: TSA_SQ_NO, TSA_L1_NO.
const E21_ECX: u32 = 3 << 1;
/// State components a guest may enable.
pub const GUEST_XCR0: u64 = XCR0_X87 | XCR0_SSE | XCR0_AVX;

/// What the answers depend on beside the host.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// Which vCPU asks; also its APIC identifier.
    pub vcpu: u32,
    /// How many there are.
    pub vcpus: u32,
    /// Its CR4.
    pub cr4: u64,
    /// Its XCR0.
    pub xcr0: u64,
    /// LFENCE serializes on this node.
    pub lfence: bool,
    /// Rate of its TSC in kilohertz.
    pub tsc_khz: u32,
}

/// The host's CPUID instruction.
pub type Host<'a> = &'a dyn Fn(u32, u32) -> Leaf;

/// State components both the host and the policy allow.
#[must_use]
pub fn allowed_xcr0(host: Host<'_>) -> u64 {
    if host(1, 0).ecx & F1_ECX_XSAVE == 0 {
        return 0;
    }
    u64::from(host(0xd, 0).eax) & GUEST_XCR0
}

/// The guest's answer for a leaf and subleaf.
#[must_use]
pub fn leaf(function: u32, subleaf: u32, guest: &Guest, host: Host<'_>) -> Leaf {
    let own = host(function, subleaf);
    match function {
        0 => Leaf { eax: own.eax.min(0xd), ..own },
        1 => features(own, guest, host),
        // Caches and TLBs describe the host.
        2 | 0x8000_0005 | 0x8000_0006 | 0x8000_0002..=0x8000_0004 => own,
        4 => Leaf { eax: own.eax & !(0x3f << 26) & !(0xfff << 14), ..own },
        6 => Leaf { eax: own.eax & 1 << 2, ..Leaf::default() },
        7 if subleaf == 0 => {
            Leaf { eax: 0, ebx: own.ebx & F7_EBX, ecx: own.ecx & F7_ECX, edx: own.edx & F7_EDX }
        }
        0xb => topology(subleaf, guest),
        0xd => extended_state(subleaf, guest, host),
        KVM_SIGNATURE => Leaf {
            eax: CLOCK_RATES,
            ebx: u32::from_le_bytes(*b"KVMK"),
            ecx: u32::from_le_bytes(*b"VMKV"),
            edx: u32::from_le_bytes(*b"M\0\0\0"),
        },
        KVM_FEATURES => Leaf {
            eax: KVM_FEATURE_CLOCKSOURCE2
                | KVM_FEATURE_NOP_IO_DELAY
                | KVM_FEATURE_PV_EOI
                | KVM_FEATURE_CLOCKSOURCE_STABLE,
            ..Leaf::default()
        },
        // For kernels that are to do without the paravirtual clock.
        CLOCK_RATES => Leaf { eax: guest.tsc_khz, ebx: TIMER_KHZ, ..Leaf::default() },
        0x8000_0000 => Leaf { eax: own.eax.min(0x8000_0021), ..own },
        0x8000_0001 => Leaf { eax: own.eax, ebx: own.ebx, ecx: own.ecx & E1_ECX, edx: own.edx & E1_EDX },
        // Bit 8: the TSC runs at a constant rate in every state.
        0x8000_0007 => Leaf { edx: own.edx & 1 << 8, ..Leaf::default() },
        0x8000_0008 => Leaf {
            eax: own.eax & 0xffff,
            ebx: own.ebx & E8_EBX,
            ecx: guest.vcpus.saturating_sub(1) & 0xff,
            edx: 0,
        },
        // That LFENCE serializes is also true where ring 0 has made it so.
        0x8000_0021 => Leaf {
            eax: own.eax & E21_EAX | u32::from(guest.lfence) << 2,
            ecx: own.ecx & E21_ECX,
            ..Leaf::default()
        },
        _ => Leaf::default(),
    }
}

fn features(own: Leaf, guest: &Guest, host: Host<'_>) -> Leaf {
    let mut ecx = own.ecx & F1_ECX | F1_ECX_X2APIC | F1_ECX_TSC_DEADLINE | F1_ECX_HYPERVISOR;
    if allowed_xcr0(host) & XCR0_AVX == 0 {
        ecx &= !(1 << 28 | 1 << 12 | 1 << 29);
    }
    if guest.cr4 & CR4_OSXSAVE != 0 {
        ecx |= F1_ECX_OSXSAVE;
    }
    let mut edx = own.edx & F1_EDX | F1_EDX_APIC;
    if guest.vcpus > 1 {
        edx |= F1_EDX_HTT;
    }
    let ebx = own.ebx & 0xffff | (guest.vcpus & 0xff) << 16 | (guest.vcpu & 0xff) << 24;
    Leaf { eax: own.eax, ebx, ecx, edx }
}

/// One thread a core, all cores in one package (SDM volume 2, leaf 0BH).
fn topology(subleaf: u32, guest: &Guest) -> Leaf {
    let bits = guest.vcpus.next_power_of_two().trailing_zeros();
    let (eax, ebx, kind) = match subleaf {
        0 => (0, 1, 1),
        1 => (bits, guest.vcpus, 2),
        _ => (0, 0, 0),
    };
    Leaf { eax, ebx, ecx: subleaf & 0xff | kind << 8, edx: guest.vcpu }
}

fn extended_state(subleaf: u32, guest: &Guest, host: Host<'_>) -> Leaf {
    let allowed = allowed_xcr0(host);
    let avx = host(0xd, 2);
    // The legacy area and header are 576 bytes (SDM volume 1, 13.4).
    let size = |mask: u64| if mask & XCR0_AVX == 0 { 576 } else { avx.ebx.saturating_add(avx.eax).max(576) };
    match subleaf {
        0 => Leaf { eax: hv_x86::low32(allowed), ebx: size(guest.xcr0), ecx: size(allowed), edx: 0 },
        // XSAVEOPT only: the others need state this policy hides.
        1 => Leaf { eax: host(0xd, 1).eax & 1, ..Leaf::default() },
        2 if allowed & XCR0_AVX != 0 => Leaf { ecx: 0, edx: 0, ..avx },
        _ => Leaf::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Guest, leaf};
    use hv_x86::cpuid::{E1_ECX_SVM, F1_ECX_MONITOR, F1_ECX_OSXSAVE, F1_ECX_VMX, F1_ECX_X2APIC, Leaf};

    const ONES: Leaf = Leaf { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX };

    fn guest() -> Guest {
        Guest { vcpu: 3, vcpus: 4, cr4: 0, xcr0: 1, lfence: false, tsc_khz: 2_500_000 }
    }

    #[test]
    fn a_host_with_everything_leaks_nothing() {
        let host = |_, _| ONES;
        let one = leaf(1, 0, &guest(), &host);
        assert_eq!(one.ecx & (F1_ECX_VMX | F1_ECX_MONITOR | F1_ECX_OSXSAVE), 0);
        assert_ne!(one.ecx & F1_ECX_X2APIC, 0);
        assert_eq!(one.ebx >> 24, 3);
        assert_eq!(leaf(0x8000_0001, 0, &guest(), &host).ecx & E1_ECX_SVM, 0);
        assert_eq!(leaf(0x8000_000a, 0, &guest(), &host), Leaf::default());
        assert_eq!(leaf(0x1f, 0, &guest(), &host), Leaf::default());
        assert_eq!(leaf(0xa, 0, &guest(), &host), Leaf::default());
        assert_eq!(leaf(0xd, 0, &guest(), &host).eax, 7);
        assert_eq!(leaf(0x8000_0008, 0, &guest(), &host).ebx, 0x7507_d000 & !(1 << 25));
        let last = leaf(0x8000_0021, 0, &guest(), &host);
        assert_eq!((last.eax, last.ebx, last.ecx, last.edx), (0x7800_0124, 0, 6, 0));
        assert_eq!(leaf(0x8000_0022, 0, &guest(), &host), Leaf::default());
    }

    #[test]
    fn a_bare_host_is_promised_nothing() {
        let host = |_, _| Leaf::default();
        let one = leaf(1, 0, &guest(), &host);
        assert_eq!(one.ecx & 1, 0);
        assert_eq!(leaf(0x8000_0021, 0, &guest(), &host).eax, 0);
        let fenced = Guest { lfence: true, ..guest() };
        assert_eq!(leaf(0x8000_0021, 0, &fenced, &host).eax, 1 << 2, "as ring 0 has made it");
        assert_eq!(leaf(0x4000_0000, 0, &guest(), &host).eax, 0x4000_0010);
        let rates = Leaf { eax: 2_500_000, ebx: 1_000_000, ecx: 0, edx: 0 };
        assert_eq!(leaf(0x4000_0010, 0, &guest(), &host), rates);
        assert_eq!(leaf(0x4000_0002, 0, &guest(), &host), Leaf::default());
        assert_eq!(leaf(0xd, 0, &guest(), &host).eax, 0);
        assert_eq!(leaf(0xb, 1, &guest(), &host), Leaf { eax: 2, ebx: 4, ecx: 0x201, edx: 3 });
    }
}
