//! Keeps what operators do to the disks of guests that start with the node: [`crate::guests::following`].

use mgmt_proto::config::KeptGuest;
use mgmt_proto::reason::{Held, Refusal};
use mgmt_proto::verb::Outcome;

use crate::blobs::persisted::Keeping;
use crate::guests::autostart::check;
use crate::guests::following::{Step, after};
use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::operators::jobs::Work;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// What will be kept of a guest when everything that was begun is durable.
    fn latest(&self, name: &str) -> Option<&KeptGuest> {
        let queued = self.blobs.persisted.queue.iter().rev().flat_map(|keeping| &keeping.guests);
        let mut queued = queued.filter(|guest| guest.machine.name == name);
        queued.next().or_else(|| self.guests.autostart.find(name).map(|kept| &kept.guest))
    }

    /// Whether what is kept of a guest can follow a step, before the step is made.
    pub(crate) fn check_step(&self, name: &str, step: Step<'_>) -> Result<(), Refusal> {
        match self.latest(name).and_then(|kept| after(kept, step)) {
            Some(next) => check(&next).and_then(|()| self.check_room(core::slice::from_ref(&next))),
            None => Ok(()),
        }
    }

    /// A step was made: what is kept of the guest follows. None if there is nothing to
    /// keep; otherwise those who wait receive `outcome` when it is durable.
    pub(crate) fn follow(
        &mut self,
        name: &str,
        step: Step<'_>,
        outcome: &Outcome,
        now_ns: u64,
    ) -> Option<Work> {
        let next = after(self.latest(name)?, step)?;
        let promise = self.state.changes.promise(outcome.clone(), now_ns);
        match self.check_persistence(name) {
            Ok(()) => self.blobs.persisted.queue.push_back(Keeping {
                promise,
                guests: alloc::vec![next],
                // Its files are on the volume, or were found missing before.
                lacking: true,
            }),
            Err(failure) => {
                self.state.changes.break_promise(promise, failure.although(Held::Change));
            }
        }
        Some(Work::Kept(promise))
    }
}
