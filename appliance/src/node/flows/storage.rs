//! What operators ask of volumes, carried out.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use mgmt_proto::disk::{DiskSetting, validate};
use mgmt_proto::limits::VOLUME_PAGE_BYTES;
use mgmt_proto::machine::Disk;
use mgmt_proto::reason::{Reason, Refusal};
use mgmt_proto::verb::{Outcome, Reply};
use mgmt_proto::volume::{VolumeFacts, VolumePage};
use storage::PathRefusal;
use storage::volume::VolumeName;

use crate::guests::number::GuestNumber;
use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::operators::jobs::{Asker, Work};
use crate::volumes::{Task, VolumeSettings, parse};

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Begins an operation on a volume by itself.
    pub(crate) fn begin_maintenance(
        &mut self,
        asker: &Asker,
        task: Task,
        volume: String,
        settings: &[DiskSetting],
        now_ns: u64,
    ) -> Result<(), Refusal> {
        let (name, settings) = named(volume, settings)?;
        self.volumes.begin_maintenance(&name, task, settings, now_ns)?;
        self.operators.begin_work(asker, Work::MaintenanceOp(task == Task::Look), now_ns);
        Ok(())
    }

    /// Answers the operators who wait for a maintenance operation that has ended.
    pub(crate) fn poll_maintenance(&mut self, now_ns: u64) {
        let Some(ended) = self.volumes.take_maintenance(&mut self.network.stacks, now_ns) else { return };
        for facts_wanted in [true, false] {
            let outcome = ended.clone().map(|facts| match facts_wanted {
                true => Reply::Volumes(VolumePage { now_ns, volumes: [facts].to_vec(), next: None }),
                false => Reply::Done,
            });
            self.end_work(&Work::MaintenanceOp(facts_wanted), &outcome, now_ns);
        }
    }

    /// All disks of all guests: guest's index, device.
    fn disks(&self) -> impl Iterator<Item = (usize, usize)> {
        let guests = self.guests.list.iter().enumerate();
        guests.flat_map(|(index, guest)| guest.slots.iter().map(move |slot| (index, slot.device)))
    }

    fn told(&self, index: usize, device: usize) -> Option<VolumeFacts> {
        let guest = self.guests.get(index)?;
        let facts = self.volumes.volume_facts(guest.number, device)?;
        let slot = guest.slots.iter().find(|slot| slot.device == device)?.number();
        Some(VolumeFacts { guest: guest.machine.name.clone(), slot, ..facts })
    }

    /// Volumes in use, from the one with this place in the list on.
    pub(crate) fn show_volumes(&self, volume: Option<&str>, from: u32, now_ns: u64) -> Outcome {
        let wanted = volume.map(|volume| parse(&disk(volume))).transpose()?;
        let meant = |index: usize, device: usize| {
            let number = self.guests.get(index).map_or_else(GuestNumber::default, |guest| guest.number);
            wanted.as_ref().is_none_or(|name| self.volumes.is_volume(number, device, name))
        };
        let mut page = VolumePage { now_ns, volumes: Vec::new(), next: None };
        let mut bytes = 0;
        let all = self.disks().filter(|(index, device)| meant(*index, *device));
        for (place, (index, device)) in (0..).zip(all).skip(usize::try_from(from).unwrap_or(usize::MAX)) {
            let Some(facts) = self.told(index, device) else { continue };
            bytes += postcard::to_allocvec(&facts).map_or(0, |encoded| encoded.len());
            if bytes > VOLUME_PAGE_BYTES && !page.volumes.is_empty() {
                page.next = Some(place);
                break;
            }
            page.volumes.push(facts);
        }
        match volume {
            Some(volume) if page.volumes.is_empty() && from == 0 => Err(not_used(volume)),
            _ => Ok(Reply::Volumes(page)),
        }
    }

    /// Takes a path out of use, or back into it.
    pub(crate) fn use_path(&mut self, volume: &str, path: u32, enabled: bool) -> Outcome {
        let name = parse(&disk(volume))?;
        let number =
            |index: usize| self.guests.get(index).map_or_else(GuestNumber::default, |guest| guest.number);
        let found: Vec<(GuestNumber, usize)> =
            self.disks().map(|(index, device)| (number(index), device)).collect();
        let mut used =
            found.into_iter().filter(|(guest, device)| self.volumes.is_volume(*guest, *device, &name));
        let mut used: Vec<(GuestNumber, usize)> = used.by_ref().collect();
        if used.is_empty() {
            return Err(not_used(volume));
        }
        let index = usize::try_from(path).unwrap_or(usize::MAX);
        used.drain(..)
            .try_for_each(|(guest, device)| self.volumes.set_path_enabled(guest, device, index, enabled))
            .map_err(|refusal| match refusal {
                PathRefusal::Unknown => Refusal::of(volume, Reason::NoSuchPath { path }),
                PathRefusal::Last => Refusal::of(volume, Reason::LastPath { path }),
            })?;
        Ok(Reply::Done)
    }
}

fn not_used(volume: &str) -> Refusal {
    Refusal::of(volume, Reason::VolumeNotUsed)
}

/// A volume as a disk, to be read or checked.
fn disk(volume: &str) -> Disk {
    Disk { volume: volume.to_string(), read_only: false }
}

fn named(volume: String, list: &[DiskSetting]) -> Result<(VolumeName, VolumeSettings), Refusal> {
    if volume.len() > mgmt_proto::limits::VOLUME_BYTES {
        return Err(Refusal::of("", Reason::VolumeNameTooLong));
    }
    let disk = Disk { volume, read_only: false };
    validate(&disk, list)?;
    let name = parse(&disk)?;
    let settings = VolumeSettings::new(&name, list)?;
    Ok((name, settings))
}
