//! A guest's doorbells, as the hypervisor is told of them.

use alloc::vec;

use hv_x86::to_usize;
use machine::guest_memory::GuestMemory;

use crate::guests::guest::Guest;
use crate::hypervisor::Hypervisor;
use crate::limits::WORK_OF_DOORBELL;

impl<M: GuestMemory> Guest<M> {
    /// Registers those anew that have moved, come or gone.
    pub(crate) fn update_doorbells<H: Hypervisor<Memory = M>>(&mut self, hypervisor: &mut H) {
        let Some((domain, _)) = &self.domain else { return };
        if !self.platform.take_doorbells_changed() {
            return;
        }
        // Only those that changed are a call each: a guest may move one about for ever.
        let mut now = vec![(0, 0); to_usize(self.platform.doorbell_count().into())];
        for bell in self.platform.doorbells() {
            if let Some(place) = now.get_mut(to_usize(bell.index.into())) {
                *place = (bell.gpa, bell.width);
            }
        }
        self.doorbells.resize(now.len(), (0, 0));
        for ((index, old), (gpa, width)) in (0..).zip(&self.doorbells).zip(&now) {
            if *old != (*gpa, *width) {
                self.exit_work = self.exit_work.saturating_add(WORK_OF_DOORBELL);
                let _ = hypervisor.doorbell(*domain, *gpa, *width, index);
            }
        }
        self.doorbells = now;
    }
}
