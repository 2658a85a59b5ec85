//! Keeps guests, so that they start with the node: [`crate::guests::autostart`].

use alloc::boxed::Box;
use alloc::vec::Vec;

use mgmt_proto::config::{GuestConfig, KeptGuest};
use mgmt_proto::disk::GuestSettings;
use mgmt_proto::limits::KEPT_GUESTS;
use mgmt_proto::machine::{Digest, Machine};
use mgmt_proto::reason::{Held, Reason, Refusal};
use mgmt_proto::state::KeptFacts;
use mgmt_proto::verb::{Outcome, Reply};
use storage::limits::STORE_VALUE_BYTES_MAX;
use zeroize::Zeroize;

use crate::blobs::persisted::Keeping;
use crate::guests::autostart::{Kept, PREFIX, SEALING_BYTES, decode, files};
use crate::guests::not_found;
use crate::hypervisor::Hypervisor;
use crate::ledger::description_bytes;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::operators::jobs::{Asker, Work};
use crate::state::changes::Change;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Reads the guests that were kept.
    pub(crate) fn take_guests(&mut self) {
        for key in self.state.keys(PREFIX) {
            let name = key.strip_prefix(PREFIX).unwrap_or_default();
            let guest = self.state.value(&key).and_then(|bytes| decode(name, &bytes));
            match guest.filter(|_| self.guests.autostart.count() < KEPT_GUESTS) {
                Some(guest) => self.guests.autostart.put(guest),
                None => {
                    log::warn!("guest {name} cannot be read from the state volume");
                }
            }
        }
    }

    /// What is to be said of the guests that start with the node.
    pub(crate) fn kept_facts(&self) -> Vec<KeptFacts> {
        let facts = |kept: &Kept| {
            let machine = &kept.guest.machine;
            let missing = files(&kept.guest)
                .any(|file| self.blobs.persisted.find(&file).is_none() && self.blobs.find(&file).is_none());
            let problem = match kept.guest.secrets_left_out.first() {
                _ if missing => Some(Reason::FilesMissing),
                Some(disk) => Some(Reason::SecretMissing { disk: *disk }),
                None => kept.problem.clone(),
            };
            KeptFacts {
                name: machine.name.clone(),
                order: kept.guest.order,
                kernel: machine.kernel,
                ramdisk: machine.ramdisk,
                problem,
            }
        };
        self.guests.autostart.list.iter().map(facts).collect()
    }

    /// Starts a guest with the node from now on, or no longer.
    pub(crate) fn set_autostart(
        &mut self,
        asker: &Asker,
        name: &str,
        order: Option<u32>,
        now_ns: u64,
    ) -> Result<(), Refusal> {
        match order {
            Some(order) => self.autostart(asker, name, order, now_ns),
            None => self.forget_kept(asker, name, now_ns),
        }
    }

    /// How a guest would be created again.
    pub(crate) fn show_guest(&self, name: &str) -> Outcome {
        let kept = self.guests.autostart.find(name).map(|kept| &kept.guest);
        let order = kept.map(|kept| kept.order);
        let running = self.guests.list.iter().find(|guest| guest.machine.name == name);
        let shown = match (running, kept) {
            (Some(guest), _) => GuestConfig::new(order, &guest.machine, &guest.settings),
            (None, Some(kept)) => {
                let mut shown = GuestConfig::new(order, &kept.machine, &kept.settings);
                shown.secrets_left_out.extend(&kept.secrets_left_out);
                shown.secrets_left_out.sort_unstable();
                shown.secrets_left_out.dedup();
                shown
            }
            (None, None) => return Err(not_found(name)),
        };
        Ok(Reply::Guest(Box::new(shown)))
    }

    /// A guest that is there starts with the node from now on.
    fn autostart(&mut self, asker: &Asker, name: &str, order: u32, now_ns: u64) -> Result<(), Refusal> {
        self.check_persistence(name)?;
        let running = self.guests.list.iter().find(|guest| guest.machine.name == name);
        let guest = match (running, self.guests.autostart.find(name)) {
            (Some(running), _) => KeptGuest {
                order,
                machine: running.machine.clone(),
                settings: running.settings.clone(),
                secrets_left_out: Vec::new(),
            },
            (None, Some(kept)) => KeptGuest { order, ..kept.guest.clone() },
            (None, None) => return Err(not_found(name)),
        };
        self.check_room(core::slice::from_ref(&guest))?;
        let promise = self.state.changes.promise(Ok(Reply::Done), now_ns);
        self.operators.begin_work(asker, Work::Kept(promise), now_ns);
        self.blobs.persisted.queue.push_back(Keeping { promise, guests: alloc::vec![guest], lacking: false });
        Ok(())
    }

    /// A guest does not start with the node any more.
    fn forget_kept(&mut self, asker: &Asker, name: &str, now_ns: u64) -> Result<(), Refusal> {
        self.check_persistence(name)?;
        if self.guests.autostart.find(name).is_none() {
            return Err(Refusal::of(name, Reason::NotKept));
        }
        self.guests.autostart.list.retain(|kept| kept.guest.machine.name != name);
        for keeping in &mut self.blobs.persisted.queue {
            keeping.guests.retain(|guest| guest.machine.name != name);
        }
        let mut changes: Vec<Change> = alloc::vec![(alloc::format!("{PREFIX}{name}"), None)];
        let orphans = self.take_orphans(&mut changes);
        let batch = self.state.changes.add(changes);
        self.blobs.persisted.release(batch, orphans);
        self.wait_until_persisted(asker, Some(batch), Ok(Reply::Done), now_ns);
        Ok(())
    }

    /// Whether a new guest may start with the node.
    pub(crate) fn check_autostart(
        &self,
        machine: &Machine,
        settings: &GuestSettings,
        order: u32,
    ) -> Result<(), Refusal> {
        self.check_persistence(&machine.name)?;
        self.check_room(&[KeptGuest {
            order,
            machine: machine.clone(),
            settings: settings.clone(),
            secrets_left_out: Vec::new(),
        }])
    }

    /// A guest that was to be kept has started: those who wait for that wait until it is
    /// kept.
    pub(crate) fn persist_started(&mut self, index: usize, order: u32, reply: &Outcome, now_ns: u64) {
        let Some(guest) = self.guests.get(index) else { return };
        let number = guest.number;
        let kept = KeptGuest {
            order,
            machine: guest.machine.clone(),
            settings: guest.settings.clone(),
            secrets_left_out: Vec::new(),
        };
        let name = kept.machine.name.clone();
        let promise = self.state.changes.promise(reply.clone(), now_ns);
        self.operators.jobs.turn_into(&Work::Guest(number), Work::Kept(promise));
        match self.check_persistence(&name) {
            Ok(()) => {
                let job = Keeping { promise, guests: alloc::vec![kept], lacking: false };
                self.blobs.persisted.queue.push_back(job);
            }
            Err(failure) => {
                self.state.changes.break_promise(promise, failure.although(Held::Guest));
            }
        }
    }

    /// Whether guests fit beside those that are kept.
    pub(crate) fn check_room(&self, guests: &[KeptGuest]) -> Result<(), Refusal> {
        let list = &self.guests.autostart;
        let new = guests.iter().filter(|guest| list.find(&guest.machine.name).is_none()).count();
        let first = guests.first().map_or("", |guest| guest.machine.name.as_str());
        if list.count() + new > KEPT_GUESTS {
            return Err(Refusal::of(first, Reason::TooManyKept { most: KEPT_GUESTS as u64 }));
        }
        let bytes = guests.iter().map(|guest| description_bytes(&guest.machine, &guest.settings)).sum();
        self.check_heap_of_kept(first, bytes)?;
        let mut lengths: Vec<(Digest, u64)> = Vec::new();
        for guest in guests {
            let mut bytes = postcard::to_allocvec(guest).unwrap_or_default();
            bytes.zeroize();
            if bytes.len() + SEALING_BYTES > STORE_VALUE_BYTES_MAX {
                return Err(Refusal::of(&guest.machine.name, Reason::TooManySettings));
            }
            for file in files(guest) {
                let known = self.blobs.persisted.find(&file).is_some()
                    || lengths.iter().any(|(digest, _)| *digest == file);
                if let Some((_, length)) = self.blobs.find(&file).filter(|_| !known) {
                    lengths.push((file, length as u64));
                }
            }
        }
        let lengths: Vec<u64> = lengths.into_iter().map(|(_, length)| length).collect();
        if !self.blobs.persisted.fit(self.state.blocks, &lengths) {
            let needed: u64 = lengths.iter().sum();
            return Err(Refusal::of(first, Reason::StateNoRoom { wanted_mib: (needed >> 20) + 1 }));
        }
        Ok(())
    }

    /// Puts guests whose files are on the volume there too.
    pub(crate) fn commit(&mut self, job: Keeping) {
        let mut changes: Vec<Change> = Vec::new();
        for guest in job.guests {
            let mut bytes = postcard::to_allocvec(&guest).unwrap_or_default();
            let key = alloc::format!("{PREFIX}{}", guest.machine.name);
            changes.extend(self.sealed_value(&key, &bytes));
            bytes.zeroize();
            self.guests.autostart.put(guest);
        }
        let orphans = self.take_orphans(&mut changes);
        let batch = self.state.changes.add_many(changes);
        self.blobs.persisted.release(batch, orphans);
        self.state.changes.settle(job.promise, batch);
    }

    /// Answers a session when something is kept.
    pub(crate) fn wait_until_persisted(
        &mut self,
        asker: &Asker,
        batch: Option<u64>,
        outcome: Outcome,
        now_ns: u64,
    ) {
        let promise = self.state.changes.promise(outcome, now_ns);
        self.operators.begin_work(asker, Work::Kept(promise), now_ns);
        match batch {
            Some(batch) => self.state.changes.settle(promise, batch),
            None => {
                let failure = Refusal::of("", Reason::NotSealed);
                self.state.changes.break_promise(promise, failure);
            }
        }
    }
}
