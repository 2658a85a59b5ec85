//! Where a guest's disks are, from its start on or plugged in later.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use machine::devices::platform::{DeviceConfig, DriverState};
use machine::devices::virtio::block::{BlockConfig, BlockGeometry};
use mgmt_proto::disk::DiskSetting;
use mgmt_proto::machine::Disk;

use crate::guests::guest::Guest;
use crate::volumes::geometry::DiskGeometry;

/// Where a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSlot {
    /// Its device number.
    pub device: usize,
    /// The guest started with it.
    pub from_start: bool,
    /// Since when the guest has been asked to give it back.
    pub leaving_ns: Option<u64>,
}

impl DiskSlot {
    /// A disk that a guest starts with.
    #[must_use]
    pub const fn from_start(device: usize) -> Self {
        Self { device, from_start: true, leaving_ns: None }
    }

    /// What operators call it: its place on the guest's PCI bus.
    #[must_use]
    pub fn number(&self) -> u32 {
        u32::try_from(self.device).unwrap_or(u32::MAX).saturating_add(1)
    }
}

/// A disk as a device; `index` tells it from the guest's others.
pub(crate) fn block(index: usize, disk: &Disk, shape: &DiskGeometry) -> DeviceConfig {
    let mut serial = String::from("disk").into_bytes();
    serial.extend_from_slice(index.to_string().as_bytes());
    DeviceConfig::Block(BlockConfig {
        sectors: shape.sectors,
        read_only: disk.read_only || shape.write_protected,
        discard: shape.discard,
        geometry: BlockGeometry {
            block_bytes: shape.geometry.block_bytes,
            physical_exponent: shape.geometry.physical_exponent,
            aligned_block: shape.geometry.aligned_block,
            least_blocks: shape.geometry.least_blocks,
        },
        serial,
    })
}

impl<M> Guest<M> {
    /// The lowest device number of a disk that comes later.
    #[must_use]
    pub const fn first_plugged(&self) -> usize {
        self.rng_device() + 1
    }

    /// Index of the disk with this device number.
    #[must_use]
    pub fn disk_at(&self, device: usize) -> Option<usize> {
        self.slots.iter().position(|slot| slot.device == device)
    }

    /// The number that a disk which comes now gets.
    #[must_use]
    pub fn free_device(&self) -> Option<usize> {
        self.platform.pci.free(self.first_plugged())
    }

    /// Shows the guest a disk whose volume serves. Returns its slot; None when there
    /// is no place.
    pub fn plug_disk(
        &mut self,
        device: usize,
        disk: &Disk,
        settings: Vec<DiskSetting>,
        shape: &DiskGeometry,
    ) -> Option<u32> {
        let config = block(device, disk, shape);
        self.platform.plug(device, &config).filter(|got| *got == device)?;
        self.machine.disks.push(disk.clone());
        self.settings.disks.push(settings);
        let slot = DiskSlot { device, from_start: false, leaving_ns: None };
        self.slots.push(slot);
        Some(slot.number())
    }

    /// Takes a disk out of the description and off the bus.
    pub fn unplug_disk(&mut self, device: usize) {
        self.platform.unplug(device);
        if let Some(index) = self.disk_at(device) {
            self.slots.remove(index);
            self.machine.disks.remove(index);
            self.settings.disks.remove(index);
        }
    }

    /// Before the next start: all disks are ones it starts with. Returns the device
    /// numbers that they had.
    pub fn compact_slots(&mut self) -> Vec<usize> {
        let old = self.slots.iter().map(|slot| slot.device).collect();
        self.first_disks = self.slots.len();
        self.slots = (0..self.first_disks).map(DiskSlot::from_start).collect();
        old
    }

    /// How far it has come with a disk.
    #[must_use]
    pub fn driver_state(&self, device: usize) -> DriverState {
        self.platform.driver_state(device)
    }
}
