//! The end of an interrupt without an exit: KVM's paravirtual EOI.
//!
//! While no other interrupt waits for the end of the one in service, a bit in the
//! guest's memory is set; the guest clears it instead of writing the register.
//! Spec: Linux, Documentation/virt/kvm/x86/msr.rst, MSR_KVM_PV_EOI_EN.

use hv_core::lapic::Lapic;
use hv_x86::Gpa;

/// One vCPU's bit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PvEoi {
    /// The register: the address, and in bit 0 the enable bit.
    value: u64,
    /// The bit is set in the guest's memory.
    offered: bool,
}

impl PvEoi {
    /// Not in use.
    pub(crate) const OFF: Self = Self { value: 0, offered: false };

    /// As the guest wrote the register; None with bit 1 set, which is reserved.
    pub(crate) fn new(value: u64) -> Option<Self> {
        (value & 2 == 0).then_some(Self { value, offered: false })
    }

    /// The register.
    pub(crate) const fn value(&self) -> u64 {
        self.value
    }

    /// Whether the guest uses it.
    pub(crate) const fn is_on(&self) -> bool {
        self.value & 1 == 1
    }

    /// Where the bit may be set before guest mode.
    pub(crate) fn place(&self, lapic: &Lapic) -> Option<Gpa> {
        (self.is_on() && lapic.may_offer_pv_eoi()).then_some(self.gpa())
    }

    /// Remembers whether it was.
    pub(crate) const fn set_offered(&mut self, offered: bool) {
        self.offered = offered;
    }

    /// Where the bit must be read after guest mode, if it was set.
    pub(crate) const fn take(&mut self) -> Option<Gpa> {
        if core::mem::replace(&mut self.offered, false) { Some(self.gpa()) } else { None }
    }

    const fn gpa(&self) -> Gpa {
        Gpa(self.value & !3)
    }
}
