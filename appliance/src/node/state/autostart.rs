//! The guests that start with the node: in their order, each when its files are read
//! and its disks answer, however late. One whose disks do not answer holds those after
//! it back for a while only.

use mgmt_proto::code::Failure;

use crate::hypervisor::Hypervisor;
use crate::node::Node;
use crate::node::guest::Life;
use crate::node::nic::Nic;

/// How long a guest waits for those before it.
const PATIENCE_NS: u64 = 30_000_000_000;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Begins the guests that start with the node, once since power-on.
    pub(super) fn start_kept_guests(&mut self, now_ns: u64) {
        if core::mem::replace(&mut self.state.started, true) {
            return;
        }
        for index in 0..self.state.guests.count() {
            let Some(kept) = self.state.guests.list.get(index) else { break };
            let guest = kept.guest.clone();
            let name = guest.machine.name.clone();
            if self.guests.iter().any(|other| other.machine.name == name) {
                continue;
            }
            let begun = self
                .check_description(&guest.machine, &guest.settings)
                .and_then(|()| self.admit(guest.machine, guest.settings, false, now_ns));
            match begun {
                Ok(number) => {
                    let new = self.guests.iter_mut().find(|guest| guest.number == number);
                    if let Some(new) = new {
                        (new.order, new.awaits_files) = (Some(guest.order), true);
                        new.start_deadline_ns = None;
                    }
                    self.state.guests.patience_ns = now_ns.saturating_add(PATIENCE_NS);
                }
                Err(failure) => {
                    let text = alloc::format!("guest {failure}");
                    self.hypervisor.log(&text);
                    self.note_problem(&name, Some(failure));
                }
            }
        }
    }

    /// A guest that starts with the node cannot: it is kept to be looked at.
    pub(super) fn kept_failed(&mut self, index: usize, failure: Failure, now_ns: u64) {
        let Some(guest) = self.guests.get_mut(index) else { return };
        guest.awaits_files = false;
        let name = guest.machine.name.clone();
        self.start_failed(index, &failure, now_ns);
        self.note_problem(&name, Some(failure));
    }

    fn note_problem(&mut self, name: &str, failure: Option<Failure>) {
        let kept = self.state.guests.list.iter_mut().find(|kept| kept.guest.machine.name == name);
        if let Some(kept) = kept {
            kept.problem = failure.map(|failure| failure.message);
        }
    }

    /// Whether a guest waits: for its files, or for those that start before it.
    pub(in crate::node) fn is_held_back(&self, index: usize) -> bool {
        let Some(guest) = self.guests.get(index) else { return false };
        if guest.awaits_files {
            return true;
        }
        let Some(order) = guest.order.filter(|_| self.state.guests.patience_ns != 0) else { return false };
        self.guests
            .iter()
            .any(|other| other.life == Life::Connecting && other.order.is_some_and(|earlier| earlier < order))
    }
}
