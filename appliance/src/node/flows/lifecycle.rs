//! How guests begin and end.

use alloc::vec;

use hv_abi::domain::STATE_CRASHED;
use hv_abi::{DomainId, MAX_DOMAINS, STORE_BYTES};
use log::Level;
use mgmt_proto::disk::GuestSettings;
use mgmt_proto::machine::{Action, Disk, Machine};
use mgmt_proto::reason::{Reason, Refusal};
use mgmt_proto::verb::Reply;
use zeroize::Zeroize;

use crate::guests::guest::{End, Guest, RunState};
use crate::guests::number::GuestNumber;
use crate::guests::record::{record_of, recorded};
use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::operators::jobs::Work;
use crate::volumes::{VolumeSettings, limits, parse};

/// A guest that ends sooner than this after its start is not restarted at once for
/// ever.
const SHORT_RUN_NS: u64 = 60_000_000_000;
/// The longest pause before a restart.
const RESTART_PAUSE_MAX_NS: u64 = 60_000_000_000;

/// How long to wait before a restart after so many short runs in a row: nothing
/// after the first, then 1 s, doubled each time.
fn restart_pause_ns(short_runs: u32) -> u64 {
    match short_runs.checked_sub(2) {
        None => 0,
        Some(more) => (1_000_000_000_u64 << more.min(6)).min(RESTART_PAUSE_MAX_NS),
    }
}

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Lists guests and blobs of an earlier dom0. Their CPUs ran on; their devices
    /// are not served until they are started again.
    pub(crate) fn adopt(&mut self, now_ns: u64) {
        let mut record = vec![0; STORE_BYTES];
        for slot in 0..MAX_DOMAINS {
            let Ok(info) = self.hypervisor.domain_info(slot) else { continue };
            let domain = DomainId(info.domain);
            let length = self.hypervisor.store_get(slot, &mut record).unwrap_or(0);
            let record = record.get(..length).unwrap_or_default();
            if self.blobs.adopt(domain, record, now_ns)
                || self.operators.audit.adopt(&mut self.hypervisor, domain, record)
            {
                continue;
            }
            if let Some((created_ns, machine, settings)) = recorded(record) {
                let layout = machine::layout::MemoryLayout::new(info.memory_bytes);
                let memory = self.hypervisor.memory(domain, layout);
                let mut guest = Guest::new(machine, settings, self.guests.new_number(), created_ns, false);
                guest.mtu = self.settings.manifest.mtu;
                guest.adopt(domain, memory, info.state);
                self.guests.list.push(guest);
            } else {
                // Half an upload, or a guest that was not recorded yet.
                let _ = self.hypervisor.domain_destroy(domain);
            }
        }
        // It may have held secrets.
        record.zeroize();
        if !self.guests.list.is_empty() {
            log::info!(target: "guests", "{} guests of an earlier dom0 are listed", self.guests.list.len());
        }
        // Crashes while no dom0 ran were not reported.
        for index in (0..self.guests.list.len()).rev() {
            let domain = self.guests.get(index).and_then(Guest::domain_id);
            let info = domain.map(|domain| self.hypervisor.domain_info(domain.slot().index()));
            if let Some(Ok(info)) = info
                && info.state == STATE_CRASHED
            {
                self.guest_ended(index, End::Crashed, now_ns);
            }
        }
    }

    /// Checks what only this node can know about a new guest.
    pub(crate) fn check_machine(
        &mut self,
        machine: &Machine,
        settings: &GuestSettings,
    ) -> Result<(), Refusal> {
        self.check_description(machine, settings)?;
        self.check_heap(machine, settings)?;
        self.check_memory(machine)?;
        crate::guests::guest::check_kernel(&mut self.hypervisor, &self.blobs, machine)
    }

    /// Whether there is memory for a guest.
    pub(crate) fn check_memory(&mut self, machine: &Machine) -> Result<(), Refusal> {
        // Unfinished uploads give way.
        let free = self.hypervisor.node_info().memory_free_bytes + self.blobs.unfinished.bytes();
        if machine.memory_bytes > free {
            let (wanted_mib, free_mib) = (machine.memory_bytes >> 20, free >> 20);
            return Err(Refusal::of(&machine.name, Reason::NoMemory { wanted_mib, free_mib }));
        }
        Ok(())
    }

    /// Checks a description against those of the other guests.
    pub(crate) fn check_description(
        &self,
        machine: &Machine,
        settings: &GuestSettings,
    ) -> Result<(), Refusal> {
        machine.validate()?;
        let name = &machine.name;
        settings.validate(&machine.disks)?;
        for (disk, settings) in machine.disks.iter().zip(&settings.disks) {
            VolumeSettings::new(&parse(disk)?, settings)?;
        }
        if self.guests.list.iter().any(|guest| guest.machine.name == *name) {
            return Err(Refusal::of(name, Reason::GuestExists));
        }
        self.check_cards(machine)?;
        self.check_disks(machine)
    }

    /// A volume that is written has one user, however its name is spelled.
    pub(crate) fn check_disks(&self, machine: &Machine) -> Result<(), Refusal> {
        for (index, disk) in machine.disks.iter().enumerate() {
            let volume = parse(disk).map_err(|failure| failure.about(machine.name.clone()))?;
            if self.volumes.is_state(&volume) {
                let own = Reason::VolumeOfState { volume: disk.volume.clone() };
                return Err(Refusal::of(&machine.name, own));
            }
            let own = machine.disks.iter().take(index);
            let others = self.guests.list.iter().filter(|guest| guest.machine.name != machine.name);
            let others = others.map(|guest| &guest.machine);
            let mut users = others.flat_map(|other| other.disks.iter().map(move |disk| (other, disk)));
            let conflicts = |other: &Disk| {
                !(other.read_only && disk.read_only)
                    && parse(other).is_ok_and(|other| other.is_same_disk(&volume))
            };
            let user = match own.clone().find(|other| conflicts(other)) {
                Some(_) => Some(machine),
                None => users.find(|(_, other)| conflicts(other)).map(|(user, _)| user),
            };
            if let Some(user) = user {
                let used = Reason::VolumeUsed { guest: user.name.clone(), volume: disk.volume.clone() };
                return Err(Refusal::of(&machine.name, used));
            }
        }
        Ok(())
    }

    /// Accepts a guest; its disks are connected before it starts.
    pub(crate) fn accept(
        &mut self,
        machine: Machine,
        settings: GuestSettings,
        paused: bool,
        now_ns: u64,
    ) -> Result<GuestNumber, Refusal> {
        self.check_machine(&machine, &settings)?;
        self.admit(machine, settings, paused, now_ns)
    }

    /// Gives a guest that was checked its cards and disks.
    pub(crate) fn admit(
        &mut self,
        machine: Machine,
        settings: GuestSettings,
        paused: bool,
        now_ns: u64,
    ) -> Result<GuestNumber, Refusal> {
        let number = self.guests.new_number();
        let mut guest = Guest::new(machine, settings, number, now_ns, paused);
        guest.mtu = self.settings.manifest.mtu;
        for (index, card) in guest.machine.network_cards.iter().enumerate() {
            let device = guest.first_card() + index;
            if self.network.attach(number, device, card.mac, card.rate, now_ns).is_err() {
                self.network.detach(number);
                return Err(Refusal::of(&guest.machine.name, Reason::SwitchFull));
            }
        }
        self.volumes.limit_guest(number, limits(&guest.settings.limits), now_ns);
        for (device, (disk, settings)) in guest.machine.disks.iter().zip(&guest.settings.disks).enumerate() {
            if let Err(failure) = self.volumes.open(number, device, disk, settings, now_ns) {
                self.network.detach(number);
                self.volumes.close(number, &mut self.network.stacks, now_ns);
                return Err(failure.about(guest.machine.name.clone()));
            }
        }
        self.guests.list.push(guest);
        self.police_cards();
        Ok(number)
    }

    /// Starts guests whose disks are there, gives up those whose are not.
    pub(crate) fn poll_starts(&mut self, now_ns: u64) {
        self.give_up_files(now_ns);
        let mut index = 0;
        while let Some(guest) = self.guests.get(index) {
            let waits = guest.life != RunState::Connecting || now_ns < guest.not_before_ns;
            if waits || self.is_held_back(index) {
                index += 1;
                continue;
            }
            let Some(guest) = self.guests.get_mut(index) else { break };
            // The pause is no part of its run.
            if core::mem::take(&mut guest.not_before_ns) != 0 {
                guest.created_ns = now_ns;
            }
            let number = guest.number;
            let outcome = match self.volumes.shapes(number) {
                Some(shapes) => {
                    let started = guest.start(&mut self.hypervisor, &mut self.blobs, &shapes);
                    let kept = guest.order.map(|_| guest.machine.name.clone());
                    if started.is_ok() {
                        self.record(index);
                        kept.iter().for_each(|name| self.record_problem(name, None));
                    }
                    started
                }
                None if guest.start_deadline_ns.is_some_and(|deadline_ns| now_ns >= deadline_ns) => {
                    Err(self.volumes.failure(number, &guest.machine.name))
                }
                None => {
                    index += 1;
                    continue;
                }
            };
            let reply = match outcome {
                Ok(()) => {
                    let id = self.guests.get(index).and_then(Guest::domain_id).map_or(0, |domain| domain.0);
                    Ok(Reply::Created(id))
                }
                Err(failure) => Err(failure),
            };
            let keep = self.guests.get_mut(index).and_then(|guest| guest.keep.take());
            match keep.filter(|_| reply.is_ok()) {
                Some(order) => self.persist_started(index, order, &reply, now_ns),
                None => self.end_work(&Work::Guest(number), &reply, now_ns),
            }
            if let Err(failure) = reply {
                self.start_failed(index, &failure, now_ns);
            }
        }
    }

    /// A new guest that is not to start is gone; one that was there stays, turned off.
    pub(crate) fn stop_starting(&mut self, index: usize, now_ns: u64) {
        let Some(guest) = self.guests.get_mut(index) else { return };
        if guest.start_deadline_ns.is_some() {
            return self.forget(index, now_ns);
        }
        let number = guest.number;
        guest.end(&mut self.hypervisor, RunState::Off);
        self.volumes.forget_all(number);
    }

    /// A new guest that cannot start is gone; one that cannot start again is kept
    /// to be looked at.
    pub(crate) fn start_failed(&mut self, index: usize, failure: &Refusal, now_ns: u64) {
        let Some(guest) = self.guests.get_mut(index) else { return };
        log::warn!(target: "guests", "guest {failure}");
        let new = guest.start_deadline_ns.is_some();
        if guest.order.is_some() {
            let name = guest.machine.name.clone();
            self.record_problem(&name, Some(failure));
        }
        if new {
            self.forget(index, now_ns);
        } else if let Some(guest) = self.guests.get_mut(index) {
            guest.end(&mut self.hypervisor, RunState::Crashed);
        }
    }

    /// Keeps a guest's description where a later dom0 finds it.
    pub(crate) fn record(&mut self, index: usize) {
        let Some(guest) = self.guests.get(index) else { return };
        let Some(domain) = guest.domain_id() else { return };
        if let Some(mut bytes) = record_of(guest.created_ns, &guest.machine, &guest.settings) {
            let kept = self.hypervisor.store_put(domain.slot().index(), &bytes);
            bytes.zeroize();
            if kept.is_err() {
                log::warn!(target: "guests", "guest {}: too long to be kept for a new dom0", guest.machine.name);
            }
        }
    }

    /// Removes a guest with everything it had.
    pub(crate) fn forget(&mut self, index: usize, now_ns: u64) {
        self.remove_leaving(index, now_ns);
        if let Some(guest) = self.guests.get_mut(index) {
            let number = guest.number;
            guest.end(&mut self.hypervisor, RunState::Off);
            self.network.detach(number);
            self.cancel_pending_attach(number, "was destroyed", now_ns);
            self.volumes.close(number, &mut self.network.stacks, now_ns);
            let gone = self.guests.list.remove(index);
            self.guests.detached.extend(gone.slots.iter().map(|slot| (number, slot.device)));
            let failure = Refusal::of(gone.machine.name, Reason::DestroyedBeforeStart);
            self.end_work(&Work::Guest(number), &Err(failure), now_ns);
        }
    }

    /// A guest ended by itself.
    pub(crate) fn guest_ended(&mut self, index: usize, end: End, now_ns: u64) {
        let Some(guest) = self.guests.get_mut(index) else { return };
        // Kernels that nothing has reset fault on purpose in the end.
        let faults_to_reset = end == End::Crashed && guest.platform.reset_tried();
        let end = if faults_to_reset { End::Reset } else { end };
        let action = guest.action(end);
        let (word, setting) = match end {
            End::PoweredOff => ("turned itself off", "on_poweroff"),
            End::Reset => ("reset itself", "on_reboot"),
            End::Crashed => ("crashed (with `reboot=t` Linux resets itself that way)", "on_crash"),
            End::Panicked => ("its kernel panicked", "on_crash"),
        };
        let action_word = match action {
            Action::Destroy => "destroyed",
            Action::Preserve => "kept to be looked at",
            Action::Restart => "started again",
        };
        let level = if matches!(end, End::Crashed | End::Panicked) { Level::Warn } else { Level::Info };
        log::log!(target: "guests", level, "guest {}: {word}; {action_word}, as {setting} says", guest.machine.name);
        match action {
            Action::Destroy => self.forget(index, now_ns),
            Action::Preserve => {
                let number = guest.number;
                let crashed = matches!(end, End::Crashed | End::Panicked);
                guest.end(&mut self.hypervisor, if crashed { RunState::Crashed } else { RunState::Off });
                self.volumes.forget_all(number);
            }
            Action::Restart => {
                let ran_ns = now_ns.saturating_sub(guest.created_ns);
                let short_runs = if ran_ns < SHORT_RUN_NS { guest.short_runs.saturating_add(1) } else { 0 };
                let pause_ns = restart_pause_ns(short_runs);
                self.restart(index, now_ns);
                if let Some(guest) = self.guests.get_mut(index) {
                    (guest.short_runs, guest.not_before_ns) = (short_runs, now_ns.saturating_add(pause_ns));
                }
            }
        }
    }

    /// Starts a guest again from its kernel, in a fresh domain.
    pub(crate) fn restart(&mut self, index: usize, now_ns: u64) {
        let Some(guest) = self.guests.get_mut(index) else { return };
        if guest.life == RunState::Connecting {
            return;
        }
        let number = guest.number;
        guest.end(&mut self.hypervisor, RunState::Connecting);
        guest.created_ns = now_ns;
        guest.start_deadline_ns = None;
        guest.start_paused = false;
        (guest.short_runs, guest.not_before_ns) = (0, 0);
        self.volumes.forget_all(number);
        self.compact_slots(index, now_ns);
        let Some(guest) = self.guests.get(index) else { return };
        // A guest that an earlier dom0 started has neither disks nor cards here.
        let (machine, settings) = (guest.machine.clone(), guest.settings.clone());
        let first_card = guest.first_card();
        self.volumes.limit_guest(number, limits(&settings.limits), now_ns);
        for (card, config) in machine.network_cards.iter().enumerate() {
            let _ = self.network.attach(number, first_card + card, config.mac, config.rate, now_ns);
        }
        self.police_cards();
        for (device, (disk, settings)) in machine.disks.iter().zip(&settings.disks).enumerate() {
            if !self.volumes.is_open(number, device)
                && let Err(failure) = self.volumes.open(number, device, disk, settings, now_ns)
            {
                log::warn!(target: "guests", "{failure}");
            }
        }
    }
}
