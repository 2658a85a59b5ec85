//! The end of an interrupt without an exit: KVM's paravirtual EOI.
//!
//! While no other interrupt waits for the end of the one in service, a bit in the
//! guest's memory says so; the guest clears it instead of writing the register.
//! Spec: Linux, Documentation/virt/kvm/x86/msr.rst, MSR_KVM_PV_EOI_EN.

use crate::domain;
use hv_core::guest_page::GuestPhysical;
use hv_core::lapic::Lapic;

/// One vCPU's bit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SilentEoi {
    /// The register: where, and in bit 0 whether.
    value: u64,
    /// The bit is set in the guest's memory.
    offered: bool,
}

impl SilentEoi {
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

    /// Sets the bit before guest mode where it may be.
    pub(super) fn offer(&mut self, lapic: &Lapic, slot: usize) {
        if self.is_on() && lapic.may_end_unseen() {
            self.offered = self.write(slot, 1);
        }
    }

    /// Takes the bit back after guest mode; a guest that cleared it has ended its
    /// interrupt.
    pub(super) fn take(&mut self, lapic: &mut Lapic, slot: usize) {
        if !core::mem::take(&mut self.offered) {
            return;
        }
        let mut flags = [0];
        let gpa = self.value & !3;
        let read = domain::with_slot(slot, |domain| domain.nested.read(gpa, &mut flags));
        if read != Some(true) {
            return;
        }
        if flags == [0] {
            lapic.end_of_interrupt();
        } else {
            self.write(slot, 0);
        }
    }

    fn write(&self, slot: usize, flag: u8) -> bool {
        let gpa = self.value & !3;
        domain::with_slot(slot, |domain| domain.nested.write(gpa, &[flag])) == Some(true)
    }
}
