//! A guest gets another name, where it runs and where it is kept.

use alloc::string::ToString;
use alloc::vec::Vec;

use mgmt_proto::machine::Machine;
use mgmt_proto::reason::{Reason, Refusal};
use mgmt_proto::verb::{Outcome, Reply};
use zeroize::Zeroize;

use crate::guests::autostart::PREFIX;
use crate::guests::guest::RunState;
use crate::guests::not_found;
use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::node::flows::commands::not_yours;
use crate::operators::jobs::Asker;
use crate::state::changes::Change;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Gives a guest another name; None when that is answered once it is kept.
    pub(crate) fn rename(&mut self, asker: &Asker, name: &str, to: &str, now_ns: u64) -> Option<Outcome> {
        let change = match self.check_rename(asker, name, to) {
            Ok(()) => self.renamed_change(name, to),
            Err(failure) => return Some(Err(failure)),
        };
        if let Some(index) = self.guests.list.iter().position(|guest| guest.machine.name == name) {
            if let Some(guest) = self.guests.get_mut(index) {
                guest.machine.name = to.to_string();
            }
            self.record(index);
        }
        log::info!(target: "guests", "guest {name} is {to} from now on");
        let Some(changes) = change else { return Some(Ok(Reply::Done)) };
        let batch = self.state.changes.add(changes);
        self.wait_until_persisted(asker, Some(batch), Ok(Reply::Done), now_ns);
        None
    }

    /// Whether a guest may have that name now.
    fn check_rename(&self, asker: &Asker, name: &str, to: &str) -> Result<(), Refusal> {
        let running = self.guests.list.iter().find(|guest| guest.machine.name == name);
        let kept = self.guests.autostart.find(name);
        let machine = running.map(|guest| &guest.machine).or_else(|| kept.map(|kept| &kept.guest.machine));
        let machine = machine.ok_or_else(|| not_found(name))?;
        Machine { name: to.to_string(), ..machine.clone() }.validate()?;
        if !self.trust.bundles.covers_guest(&asker.operator, to) {
            return Err(not_yours(to));
        }
        let queued = |name: &str| {
            let mut waiting = self.blobs.persisted.queue.iter().flat_map(|keeping| &keeping.guests);
            waiting.any(|guest| guest.machine.name == name)
        };
        let exists = self.guests.list.iter().any(|guest| guest.machine.name == to);
        if exists || self.guests.autostart.find(to).is_some() || queued(to) {
            return Err(Refusal::of(to, Reason::GuestExists));
        }
        let starting = running.is_some_and(|guest| guest.life == RunState::Connecting);
        if starting || queued(name) || self.operators.jobs.is_about(name) {
            return Err(Refusal::of(name, Reason::GuestBusy));
        }
        if kept.is_some() { self.check_persistence(name) } else { Ok(()) }
    }

    /// What changes on the volume, and does in the list of guests that are kept; none for
    /// one that is not.
    fn renamed_change(&mut self, name: &str, to: &str) -> Option<Vec<Change>> {
        let place = self.guests.autostart.list.iter().position(|kept| kept.guest.machine.name == name)?;
        let mut kept = self.guests.autostart.list.remove(place);
        kept.guest.machine.name = to.to_string();
        let mut bytes = postcard::to_allocvec(&kept.guest).unwrap_or_default();
        // Both in one batch: after a power cut it has one name.
        let mut changes: Vec<Change> = alloc::vec![(alloc::format!("{PREFIX}{name}"), None)];
        changes.extend(self.sealed_value(&alloc::format!("{PREFIX}{to}"), &bytes));
        bytes.zeroize();
        let problem = kept.problem.take();
        self.guests.autostart.put(kept.guest);
        if let Some(kept) = self.guests.autostart.list.iter_mut().find(|kept| kept.guest.machine.name == to) {
            kept.problem = problem;
        }
        Some(changes)
    }
}
