//! The guests that start with the node: in their order, each when its files are read
//! and its disks answer, however late. One whose disks do not answer holds those after
//! it back for a while only.

use mgmt_proto::reason::{Reason, Refusal};

use crate::guests::guest::{Guest, RunState};
use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::operators::jobs::{Asker, Work};

/// How long a guest waits for those before it.
const PATIENCE_NS: u64 = 30_000_000_000;
/// How long the files of a guest that an operator starts may take.
const FILES_TIMEOUT_NS: u64 = 60_000_000_000;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Begins the guests that start with the node, once since power-on.
    pub(crate) fn start_guests_of_node(&mut self, now_ns: u64) {
        if core::mem::replace(&mut self.state.started, true) {
            return;
        }
        for index in 0..self.guests.autostart.count() {
            let Some(kept) = self.guests.autostart.list.get(index) else { break };
            let guest = kept.guest.clone();
            let name = guest.machine.name.clone();
            if self.guests.list.iter().any(|other| other.machine.name == name) {
                continue;
            }
            let begun = self
                .check_description(&guest.machine, &guest.settings)
                .and_then(|()| self.check_heap(&guest.machine, &guest.settings))
                .and_then(|()| self.admit(guest.machine, guest.settings, false, now_ns));
            match begun {
                Ok(number) => {
                    let new = self.guests.list.iter_mut().find(|guest| guest.number == number);
                    if let Some(new) = new {
                        (new.order, new.awaits_files) = (Some(guest.order), true);
                        new.start_deadline_ns = None;
                    }
                    self.guests.autostart.patience_ns = now_ns.saturating_add(PATIENCE_NS);
                }
                Err(failure) => {
                    log::warn!(target: "guests", "guest {failure}");
                    self.record_problem(&name, Some(&failure));
                }
            }
        }
    }

    /// Starts a guest that is kept and not there, or one that has ended and is.
    pub(crate) fn start_guest(&mut self, asker: &Asker, name: &str, now_ns: u64) -> Result<(), Refusal> {
        let refuse = |reason| Err(Refusal::of(name, reason));
        if let Ok(index) = self.guests.find(name) {
            let guest = self.guests.get(index);
            let Some(guest) = guest.filter(|guest| matches!(guest.life, RunState::Off | RunState::Crashed))
            else {
                return refuse(Reason::GuestPresent);
            };
            let number = guest.number;
            self.restart(index, now_ns);
            self.operators.begin_work(asker, Work::Guest(number), now_ns);
            return Ok(());
        }
        let Some(kept) = self.guests.autostart.find(name).map(|kept| kept.guest.clone()) else {
            return refuse(Reason::NoGuestAnywhere);
        };
        self.check_persistence(name)?;
        if let Some(disk) = kept.secrets_left_out.first() {
            return refuse(Reason::SecretMissing { disk: *disk });
        }
        self.check_description(&kept.machine, &kept.settings)?;
        self.check_heap(&kept.machine, &kept.settings)?;
        self.check_memory(&kept.machine)?;
        let number = self.admit(kept.machine, kept.settings, false, now_ns)?;
        if let Some(new) = self.guests.list.iter_mut().find(|guest| guest.number == number) {
            (new.order, new.awaits_files) = (Some(kept.order), true);
            new.start_deadline_ns = Some(now_ns.saturating_add(FILES_TIMEOUT_NS));
        }
        self.operators.begin_work(asker, Work::Guest(number), now_ns);
        Ok(())
    }

    /// Files of a guest that an operator started have not come in time.
    pub(crate) fn give_up_files(&mut self, now_ns: u64) {
        let late = |guest: &Guest<H::Memory>| {
            guest.awaits_files && guest.start_deadline_ns.is_some_and(|deadline_ns| now_ns >= deadline_ns)
        };
        while let Some(index) = self.guests.list.iter().position(late) {
            let name = self.guests.get(index).map_or("", |guest| guest.machine.name.as_str());
            let failure = Refusal::of(name, Reason::FilesLate);
            self.autostart_failed(index, failure, now_ns);
        }
    }

    /// A guest that starts with the node cannot: it is kept to be looked at.
    pub(crate) fn autostart_failed(&mut self, index: usize, failure: Refusal, now_ns: u64) {
        let Some(guest) = self.guests.get_mut(index) else { return };
        guest.awaits_files = false;
        let number = guest.number;
        self.end_work(&Work::Guest(number), &Err(failure.clone()), now_ns);
        self.start_failed(index, &failure, now_ns);
    }

    /// What keeps a guest from starting with the node, or does no longer.
    pub(crate) fn record_problem(&mut self, name: &str, failure: Option<&Refusal>) {
        let kept = self.guests.autostart.list.iter_mut().find(|kept| kept.guest.machine.name == name);
        if let Some(kept) = kept {
            kept.problem = failure.map(|failure| failure.reason.clone());
        }
    }

    /// Whether a guest waits: for its files, or for those that start before it.
    pub(crate) fn is_held_back(&self, index: usize) -> bool {
        let Some(guest) = self.guests.get(index) else { return false };
        if guest.awaits_files {
            return true;
        }
        let Some(order) = guest.order.filter(|_| self.guests.autostart.patience_ns != 0) else {
            return false;
        };
        self.guests.list.iter().any(|other| {
            other.life == RunState::Connecting && other.order.is_some_and(|earlier| earlier < order)
        })
    }
}
