//! x87, SSE and AVX state: what is enabled, saving and loading it.
//!
//! Spec: SDM volume 1, chapter 13.

use crate::raw;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use hv_core::cpuid::allowed_xcr0;
use hv_core::xsave::forget_initial_x87;
use hv_x86::reg::{XCR0_AVX, XCR0_SSE, XCR0_X87};
use zerocopy::{FromZeros, Immutable, KnownLayout};

/// Components that ring 0 saves and restores for guests.
static HOST_MASK: AtomicU64 = AtomicU64::new(XCR0_X87);

/// Components in use, which this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mask(u64);

impl Mask {
    /// After reset: x87 alone.
    pub(crate) const INITIAL: Self = Self(XCR0_X87);

    /// A value for XCR0; None when XSETBV would refuse it.
    pub(crate) fn new(value: u64) -> Option<Self> {
        let legal = value & XCR0_X87 != 0
            && value & !HOST_MASK.load(Ordering::Relaxed) == 0
            && (value & XCR0_AVX == 0 || value & XCR0_SSE != 0);
        legal.then_some(Self(value))
    }

    /// All that ring 0 saves.
    fn host() -> Self {
        Self(HOST_MASK.load(Ordering::Relaxed))
    }
}

/// Where state is saved, at first the initial one.
#[derive(FromZeros, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub(crate) struct Area([u8; 4096]);

impl Area {
    /// Sets MXCSR as it is after reset; XRSTOR takes it from here even for initial state
    /// (SDM volume 1, 13.8.1).
    pub(crate) fn reset(&mut self) {
        if let Some(slot) = self.0.get_mut(24..28) {
            slot.copy_from_slice(&0x1f80_u32.to_le_bytes());
        }
    }
}

/// Learns what this processor has.
pub(crate) fn init() {
    HOST_MASK.store(allowed_xcr0(&raw::cpuid), Ordering::Relaxed);
}

/// Enables all that ring 0 saves.
pub(crate) fn enable() {
    set(Mask::host());
}

/// Sets XCR0.
pub(crate) fn set(mask: Mask) {
    let (low, high) = (hv_x86::low32(mask.0), hv_x86::low32(mask.0 >> 32));
    // SAFETY: a mask is within what CPUID leaf 0DH allows and has bit 0; OSXSAVE is set on
    // every CPU in use.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") low, in("edx") high, options(nomem, nostack, preserves_flags))
    };
}

/// Reads XCR0.
pub(crate) fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: OSXSAVE is set on every CPU in use.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Saves all state; returns what was in use, which a guest may also have changed where
/// XSETBV cannot be intercepted.
pub(crate) fn save(area: &mut Area) -> Mask {
    let used = Mask(xcr0() & Mask::host().0 | XCR0_X87);
    enable();
    // SAFETY: the area is 64-byte aligned and larger than the state.
    unsafe {
        asm!("xsave64 [{0}]", in(reg) area.0.as_mut_ptr(), in("eax") u32::MAX, in("edx") u32::MAX, options(nostack, preserves_flags))
    };
    forget_initial_x87(&mut area.0);
    used
}

/// Loads all state, and leaves `used` in use.
pub(crate) fn load(area: &Area, used: Mask) {
    enable();
    // SAFETY: the area was written by `save` or is zero but for MXCSR, which is the initial
    // state; the XMM registers are the caller's to lose.
    unsafe {
        asm!("xrstor64 [{0}]", in(reg) area.0.as_ptr(), in("eax") u32::MAX, in("edx") u32::MAX, options(nostack, preserves_flags), out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _)
    };
    set(used);
}
