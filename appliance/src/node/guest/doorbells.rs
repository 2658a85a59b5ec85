//! Which doorbells of a guest the hypervisor knows.

use alloc::vec::Vec;

use crate::devices::platform::Platform;

/// A doorbell as the hypervisor was told of it: where, and how wide; width 0 is none.
type Told = (u64, u16);

/// What the hypervisor was told, by the doorbells' numbers.
#[derive(Debug, Default)]
pub(super) struct Doorbells(Vec<Told>);

impl Doorbells {
    /// Tells of those that have changed, and of no others: a guest may move a device's window
    /// as often as it likes.
    pub(super) fn update(&mut self, platform: &Platform, mut tell: impl FnMut(u32, Told)) {
        let count = hv_x86::to_usize(u64::from(platform.doorbell_count()));
        let mut now: Vec<Told> = alloc::vec![(0, 0); count];
        for bell in platform.doorbells() {
            if let Some(place) = now.get_mut(hv_x86::to_usize(u64::from(bell.index))) {
                *place = (bell.gpa, bell.width);
            }
        }
        self.0.resize(count, (0, 0));
        for ((index, before), now) in (0..).zip(&self.0).zip(&now) {
            if before != now {
                tell(index, *now);
            }
        }
        self.0 = now;
    }
}
