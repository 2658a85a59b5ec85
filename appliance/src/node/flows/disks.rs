//! Attaches disks to guests that run, and detaches them.

use alloc::string::String;
use alloc::vec::Vec;

use machine::devices::platform::DriverState;
use mgmt_proto::disk::{DiskSetting, Limit, validate};
use mgmt_proto::limits::DISKS;
use mgmt_proto::machine::Disk;
use mgmt_proto::reason::{Reason, Refusal};
use mgmt_proto::verb::{Outcome, Reply};
use mgmt_proto::volume::{BlockFacts, Condition, Plugged};

use crate::guests::following::Step;
use crate::guests::guest::RunState;
use crate::guests::number::GuestNumber;
use crate::guests::pending_attach::PendingAttach;
use crate::hypervisor::Hypervisor;
use crate::limits::{DETACH_TIMEOUT_NS, START_TIMEOUT_NS};
use crate::network::nic::Nic;
use crate::node::Node;
use crate::operators::jobs::{Asker, Work};
use crate::volumes::{VolumeSettings, limits, parse};

fn no_such_slot(name: &str, slot: u32) -> Refusal {
    Refusal::of(name, Reason::NoSuchSlot { slot })
}

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Begins to add a disk to a guest that runs.
    pub(crate) fn attach_disk(
        &mut self,
        asker: &Asker,
        name: &str,
        disk: Disk,
        settings: Vec<DiskSetting>,
        now_ns: u64,
    ) -> Result<(), Refusal> {
        let work = self.begin_attach(name, disk, settings, now_ns)?;
        self.operators.begin_work(asker, work, now_ns);
        Ok(())
    }

    /// Begins to take a disk from a guest.
    pub(crate) fn detach_disk(
        &mut self,
        asker: &Asker,
        name: &str,
        slot: u32,
        force: bool,
        now_ns: u64,
    ) -> Result<(), Refusal> {
        let work = self.begin_detach(name, slot, force, now_ns)?;
        self.operators.begin_work(asker, work, now_ns);
        Ok(())
    }

    fn begin_attach(
        &mut self,
        name: &str,
        disk: Disk,
        settings: Vec<DiskSetting>,
        now_ns: u64,
    ) -> Result<Work, Refusal> {
        let guest = self.guests.named(name)?;
        if !matches!(guest.life, RunState::Started | RunState::Paused) || !guest.has_devices() {
            return Err(Refusal::of(name, Reason::NotRunning));
        }
        let number = guest.number;
        if self.guests.attaching.iter().any(|coming| coming.guest == number) {
            return Err(Refusal::of(name, Reason::DiskAttaching));
        }
        let mut machine = guest.machine.clone();
        machine.disks.push(disk.clone());
        machine.validate()?;
        validate(&disk, &settings)?;
        VolumeSettings::new(&parse(&disk)?, &settings)?;
        let Some(device) = guest.free_device().filter(|_| guest.slots.len() < DISKS) else {
            return Err(Refusal::of(name, Reason::NoDiskSlot));
        };
        self.check_disks(&machine)?;
        self.check_heap_of_disk(name, &disk, &settings)?;
        self.check_step(name, Step::Attached(&disk, &settings))?;
        self.volumes.open(number, device, &disk, &settings, now_ns)?;
        let deadline_ns = now_ns.saturating_add(START_TIMEOUT_NS);
        self.guests.attaching.push(PendingAttach { guest: number, device, disk, settings, deadline_ns });
        Ok(Work::Attach(number, device))
    }

    fn begin_detach(&mut self, name: &str, slot: u32, force: bool, now_ns: u64) -> Result<Work, Refusal> {
        let index = self.guests.find(name)?;
        let guest = self.guests.named_mut(name)?;
        if guest.life == RunState::Connecting {
            return Err(Refusal::of(name, Reason::Starting));
        }
        let number = guest.number;
        let runs = matches!(guest.life, RunState::Started | RunState::Paused) && guest.has_devices();
        let found = guest.slots.iter_mut().find(|it| it.number() == slot);
        let found = found.ok_or_else(|| no_such_slot(name, slot))?;
        let device = found.device;
        if runs && !force {
            found.leaving_ns = Some(now_ns);
            guest.platform.ask_back(device);
        } else {
            // The guest does not run, or is not asked.
            found.leaving_ns = Some(now_ns);
            return Ok(self.remove_disk(index, device, now_ns).unwrap_or(Work::Detach(number, device)));
        }
        Ok(Work::Detach(number, device))
    }

    /// A guest gave a device back, asked or not.
    pub(crate) fn disk_given_back(&mut self, index: usize, device: usize, now_ns: u64) {
        let Some(guest) = self.guests.get(index) else { return };
        // Its network cards stay, whatever it says.
        if guest.disk_at(device).is_some() {
            self.remove_disk(index, device, now_ns);
        }
    }

    /// Takes a disk away; returns what those who wait for that wait for now, if it is persisted.
    fn remove_disk(&mut self, index: usize, device: usize, now_ns: u64) -> Option<Work> {
        let guest = self.guests.get_mut(index)?;
        let number = guest.number;
        // What a guest gives back unasked it has again when it starts with the node.
        let asked = guest.slots.iter().any(|slot| slot.device == device && slot.leaving_ns.is_some());
        let volume = guest.disk_at(device).and_then(|place| guest.machine.disks.get(place));
        let volume = volume.filter(|_| asked).map(|disk| disk.volume.clone());
        let name = guest.machine.name.clone();
        guest.unplug_disk(device);
        self.volumes.close_disk(number, device, &mut self.network.stacks, now_ns);
        self.record(index);
        let done = Ok(Reply::Done);
        let kept = volume.and_then(|volume| self.follow(&name, Step::Detached(&volume), &done, now_ns));
        match kept {
            Some(kept) => self.operators.jobs.turn_into(&Work::Detach(number, device), kept),
            None => self.guests.detached.push((number, device)),
        }
        kept
    }

    /// A guest that ends has given back what it was asked for.
    pub(crate) fn remove_leaving(&mut self, index: usize, now_ns: u64) {
        let Some(guest) = self.guests.get(index) else { return };
        let leaving: Vec<usize> =
            guest.slots.iter().filter(|slot| slot.leaving_ns.is_some()).map(|slot| slot.device).collect();
        for device in leaving {
            self.remove_disk(index, device, now_ns);
        }
    }

    /// Before a guest starts again: what it was asked for is gone, the rest are disks
    /// that it starts with.
    pub(crate) fn compact_slots(&mut self, index: usize, now_ns: u64) {
        let Some(guest) = self.guests.get(index) else { return };
        let (number, first_card) = (guest.number, guest.first_card());
        self.remove_leaving(index, now_ns);
        self.cancel_pending_attach(number, "was started again", now_ns);
        let Some(guest) = self.guests.get_mut(index) else { return };
        let old = guest.compact_slots();
        self.volumes.renumber(number, &old);
        if guest.first_card() != first_card {
            // The cards have other numbers now.
            self.network.detach(number);
        }
    }

    /// Disks of a guest that is not there any more, or not as it was, do not come.
    pub(crate) fn cancel_pending_attach(&mut self, number: GuestNumber, why: &str, now_ns: u64) {
        let gone: Vec<PendingAttach> =
            self.guests.attaching.extract_if(.., |coming| coming.guest == number).collect();
        for PendingAttach { guest, device, disk, .. } in gone {
            self.volumes.close_disk(guest, device, &mut self.network.stacks, now_ns);
            let failure = Refusal::of(disk.volume, Reason::GuestGone { why: why.into() });
            self.end_work(&Work::Attach(guest, device), &Err(failure), now_ns);
        }
    }

    /// A disk whose caller no longer waits is not attached.
    pub(crate) fn drop_pending_attach(&mut self, number: GuestNumber, device: usize, now_ns: u64) {
        self.guests.attaching.retain(|coming| (coming.guest, coming.device) != (number, device));
        self.volumes.close_disk(number, device, &mut self.network.stacks, now_ns);
    }

    /// Shows guests the disks whose volumes serve, gives up those whose do not, and
    /// answers those who wait for disks to come or go.
    pub(crate) fn poll_attachments(&mut self, now_ns: u64) {
        for (guest, device) in core::mem::take(&mut self.guests.detached) {
            self.end_work(&Work::Detach(guest, device), &Ok(Reply::Done), now_ns);
        }
        for index in 0..self.guests.list.len() {
            self.remind_guest(index, now_ns);
        }
        let mut place = 0;
        while let Some(coming) = self.guests.attaching.get(place) {
            let shape = self.volumes.shape(coming.guest, coming.device);
            if shape.is_none() && now_ns < coming.deadline_ns {
                place += 1;
                continue;
            }
            let PendingAttach { guest: number, device, disk, settings, .. } =
                self.guests.attaching.remove(place);
            let (volume, set) = (disk.clone(), settings.clone());
            let index = self.guests.index_of(number);
            let plugged = match (shape, index.and_then(|index| self.guests.get_mut(index))) {
                (Some(shape), Some(guest)) => {
                    guest.plug_disk(device, &disk, settings, &shape).map(Reply::Attached).ok_or_else(|| {
                        Refusal::of(&disk.volume, Reason::GuestGone { why: "has no place for it".into() })
                    })
                }
                _ => Err(self.volumes.failure(number, &disk.volume)),
            };
            match (&plugged, index) {
                (Ok(_), Some(index)) => self.record(index),
                _ => self.volumes.close_disk(number, device, &mut self.network.stacks, now_ns),
            }
            let work = Work::Attach(number, device);
            let name = index.and_then(|index| self.guests.get(index)).map(|guest| guest.machine.name.clone());
            let step = Step::Attached(&volume, &set);
            match name.filter(|_| plugged.is_ok()).and_then(|name| self.follow(&name, step, &plugged, now_ns))
            {
                Some(kept) => self.operators.jobs.turn_into(&work, kept),
                None => self.end_work(&work, &plugged, now_ns),
            }
        }
    }

    /// A guest that does not give a disk back in time is asked again when an operator
    /// wants it to; those who waited are told.
    fn remind_guest(&mut self, index: usize, now_ns: u64) {
        let Some(guest) = self.guests.get(index) else { return };
        let (number, name) = (guest.number, guest.machine.name.clone());
        let late = guest.slots.iter().filter(|slot| {
            slot.leaving_ns.is_some_and(|since_ns| now_ns >= since_ns.saturating_add(DETACH_TIMEOUT_NS))
        });
        let late: Vec<usize> = late.map(|slot| slot.device).collect();
        for device in late {
            if !self.operators.jobs.is_waited_for(&Work::Detach(number, device)) {
                continue;
            }
            let failure = Refusal::of(&name, Reason::DiskNotReleased);
            self.end_work(&Work::Detach(number, device), &Err(failure), now_ns);
        }
    }

    /// When an operator who waits for a disk is to be told something.
    pub(crate) fn next_disk_deadline(&self) -> Option<u64> {
        let coming = self.guests.attaching.iter().map(|coming| coming.deadline_ns);
        let slots =
            self.guests.list.iter().flat_map(|guest| guest.slots.iter().map(|slot| (guest.number, slot)));
        let leaving = slots.filter_map(|(number, slot)| {
            let until_ns = slot.leaving_ns?.saturating_add(DETACH_TIMEOUT_NS);
            self.operators.jobs.is_waited_for(&Work::Detach(number, slot.device)).then_some(until_ns)
        });
        let now = (!self.guests.detached.is_empty()).then_some(0);
        coming.chain(leaving).chain(now).min()
    }

    /// The disks of a guest.
    pub(crate) fn list_disks(&self, name: &str) -> Outcome {
        let guest = self.guests.named(name)?;
        let disks = guest.machine.disks.iter().zip(&guest.slots).map(|(disk, slot)| {
            let known = self.volumes.condition(guest.number, slot.device);
            let (condition, stalled_since_ns, sectors) = known.unwrap_or((Condition::Detached, None, 0));
            let plugged = match (slot.leaving_ns, guest.driver_state(slot.device)) {
                (Some(_), _) => Plugged::Leaving,
                (None, DriverState::Running) => Plugged::Running,
                (None, DriverState::Seen) => Plugged::Seen,
                (None, DriverState::No) => Plugged::Offered,
            };
            BlockFacts {
                slot: slot.number(),
                volume: disk.volume.clone(),
                read_only: disk.read_only,
                condition,
                stalled_since_ns,
                sectors,
                plugged,
                from_start: slot.from_start,
            }
        });
        Ok(Reply::Disks(disks.collect()))
    }

    /// Sets limits of a guest or of one of its disks.
    /// None is answered when it is kept.
    pub(crate) fn limit(
        &mut self,
        asker: &Asker,
        name: &str,
        slot: Option<u32>,
        list: &[Limit],
        now_ns: u64,
    ) -> Option<Outcome> {
        let volume = match self.limit_now(name, slot, list, now_ns) {
            Ok(volume) => volume,
            Err(failure) => return Some(Err(failure)),
        };
        let step = Step::Limited(volume.as_deref(), list);
        match self.follow(name, step, &Ok(Reply::Done), now_ns) {
            Some(kept) => {
                self.operators.begin_work(asker, kept, now_ns);
                None
            }
            None => Some(Ok(Reply::Done)),
        }
    }

    /// The volume that is limited, unless all are.
    fn limit_now(
        &mut self,
        name: &str,
        slot: Option<u32>,
        list: &[Limit],
        now_ns: u64,
    ) -> Result<Option<String>, Refusal> {
        if list.len() > mgmt_proto::limits::DISK_SETTINGS {
            return Err(Refusal::of(name, Reason::TooManyLimits));
        }
        let index = self.guests.find(name)?;
        let guest = self.guests.named_mut(name)?;
        let number = guest.number;
        let mut volume = None;
        match slot {
            None => {
                guest.settings.limits = list.to_vec();
                self.volumes.limit_guest(number, limits(list), now_ns);
            }
            Some(slot) => {
                let disk = guest.slots.iter().position(|it| it.number() == slot);
                let disk = disk.ok_or_else(|| no_such_slot(name, slot))?;
                let device = guest.slots.get(disk).map_or(0, |slot| slot.device);
                volume = guest.machine.disks.get(disk).map(|disk| disk.volume.clone());
                if let Some(settings) = guest.settings.disks.get_mut(disk) {
                    settings.retain(|setting| !matches!(setting, DiskSetting::Limit(_)));
                    settings.extend(list.iter().map(|limit| DiskSetting::Limit(*limit)));
                }
                if let Some(settings) = self.volumes.settings(number, device).cloned() {
                    let settings = VolumeSettings { limits: limits(list), ..settings };
                    self.volumes.configure(number, device, settings, now_ns);
                }
            }
        }
        self.record(index);
        Ok(volume)
    }
}
