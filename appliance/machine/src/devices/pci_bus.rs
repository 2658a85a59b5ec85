//! PCI bus 0: the host bridge, the guest's devices, and both ways to them.
//!
//! Spec: PCI Local Bus 3.0, section 3.2.2.3.2 (configuration mechanism 1);
//! PCI Express 3.0, section 7.2.2 (ECAM).

use alloc::vec::Vec;

use hv_x86::{low16, low32};
use serde::{Deserialize, Serialize};

use super::msix::MsiMessage;
use super::pci::PciFunction;
use super::virtio::transport::TransportEvent;
use super::virtio::{VirtioDevice, registers};
use crate::layout::{PCI_WINDOW_END, PCI_WINDOW_START};
use crate::limits::PCI_DEVICES_MAX;

/// Configuration address: enable.
const ADDRESS_ENABLE: u32 = 1 << 31;

/// A guest address that the hypervisor may watch instead of stopping the vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Doorbell {
    /// Its number within the guest.
    pub index: u32,
    /// Where the guest writes.
    pub gpa: u64,
    /// Width of the write in bytes.
    pub width: u16,
    /// Which device it is for.
    pub device: usize,
    /// Which of its queues.
    pub queue: u16,
}

/// What a guest did to a device: its number and what happened.
pub type DeviceEvent = (usize, TransportEvent);

/// The bus. Device `n` is function 00:`n + 1`.0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciBus {
    bridge: PciFunction,
    address: u32,
    doorbells_changed: bool,
    /// Which devices are there, one bit each.
    present: u32,
    /// The devices, also those that are gone.
    pub devices: Vec<VirtioDevice>,
}

/// The base address that device `n` starts with.
#[must_use]
pub fn base_address(device: usize) -> u32 {
    let index = low32(device.min(PCI_DEVICES_MAX) as u64);
    low32(PCI_WINDOW_START).saturating_add(index.saturating_mul(registers::BAR_BYTES))
}

impl PciBus {
    /// A bus with devices, of which it takes the first [`PCI_DEVICES_MAX`].
    #[must_use]
    pub fn new(mut devices: Vec<VirtioDevice>) -> Self {
        devices.truncate(PCI_DEVICES_MAX);
        let present = low32((1 << devices.len()) - 1);
        Self { bridge: PciFunction::host_bridge(), address: 0, doorbells_changed: true, present, devices }
    }

    /// Whether a device is there.
    #[must_use]
    pub const fn is_present(&self, device: usize) -> bool {
        device < PCI_DEVICES_MAX && self.present >> device & 1 == 1
    }

    /// The first number that no device has.
    #[must_use]
    pub fn free(&self, first: usize) -> Option<usize> {
        (first..PCI_DEVICES_MAX).find(|device| !self.is_present(*device) && *device <= self.devices.len())
    }

    /// Adds a device under a number that [`Self::free`] told.
    pub fn insert(&mut self, number: usize, device: VirtioDevice) -> bool {
        if self.is_present(number) || number >= PCI_DEVICES_MAX || number > self.devices.len() {
            return false;
        }
        match self.devices.get_mut(number) {
            Some(gone) => *gone = device,
            None => self.devices.push(device),
        }
        self.present |= 1 << number;
        self.doorbells_changed = true;
        true
    }

    /// Takes a device away.
    pub fn remove(&mut self, number: usize) {
        if self.is_present(number) {
            self.present &= !(1 << number);
            self.doorbells_changed = true;
        }
    }

    /// Back to power-on.
    pub fn power_on(&mut self) {
        self.bridge = PciFunction::host_bridge();
        self.address = 0;
        self.doorbells_changed = true;
        for (index, device) in self.devices.iter_mut().enumerate() {
            device.power_on(base_address(index));
        }
    }

    /// Reads the configuration address register.
    #[must_use]
    pub const fn address(&self) -> u32 {
        self.address
    }

    /// Writes the configuration address register.
    pub const fn set_address(&mut self, value: u32) {
        // Bits 30:24 and 1:0 are reserved.
        self.address = value & 0x80ff_fffc;
    }

    /// Reads through the data window at byte `offset` (0-3) of it.
    pub fn read_data(&mut self, offset: u8, size: u8) -> u32 {
        if self.address & ADDRESS_ENABLE == 0 {
            return ones(size);
        }
        let function = low16(u64::from(self.address >> 8));
        let register = low16(u64::from(self.address & 0xfc)) + u16::from(offset & 3);
        self.read_register(function, register, size)
    }

    /// Writes through the data window.
    pub fn write_data(&mut self, offset: u8, size: u8, value: u32) -> Option<DeviceEvent> {
        if self.address & ADDRESS_ENABLE == 0 {
            return None;
        }
        let function = low16(u64::from(self.address >> 8));
        let register = low16(u64::from(self.address & 0xfc)) + u16::from(offset & 3);
        self.write_register(function, register, size, value)
    }

    /// Reads memory-mapped configuration space.
    pub fn read_ecam(&mut self, offset: u64, size: u8) -> u64 {
        let function = low16(offset >> 12);
        let register = low16(offset & 0xfff);
        if size == 8 {
            let low = self.read_register(function, register, 4);
            let high = self.read_register(function, register + 4, 4);
            return u64::from(low) | (u64::from(high) << 32);
        }
        u64::from(self.read_register(function, register, size))
    }

    /// Writes memory-mapped configuration space.
    pub fn write_ecam(&mut self, offset: u64, size: u8, value: u64) -> Option<DeviceEvent> {
        let function = low16(offset >> 12);
        let register = low16(offset & 0xfff);
        if size == 8 {
            let first = self.write_register(function, register, 4, low32(value));
            return self.write_register(function, register + 4, 4, low32(value >> 32)).or(first);
        }
        self.write_register(function, register, size, low32(value))
    }

    /// Reads 1, 2 or 4 bytes of a function (`bus << 8 | device << 3 | function`).
    fn read_register(&mut self, function: u16, register: u16, size: u8) -> u32 {
        let Some((shift, _)) = lane(register, size) else { return ones(size) };
        let aligned = register & !3;
        // Beyond 256 bytes there is no extended capability: zero.
        let word = match self.slot(function) {
            None => return ones(size),
            Some(_) if aligned >= 0x100 => 0,
            Some(0) => self.bridge.read(aligned),
            Some(slot) => {
                let Some(device) = self.devices.get_mut(slot - 1) else { return ones(size) };
                device.read_config(aligned)
            }
        };
        (word >> shift) & ones(size)
    }

    fn write_register(&mut self, function: u16, register: u16, size: u8, value: u32) -> Option<DeviceEvent> {
        let (shift, mask) = lane(register, size)?;
        let aligned = register & !3;
        let slot = self.slot(function)?;
        if aligned >= 0x100 {
            return None;
        }
        if slot == 0 {
            self.bridge.write(aligned, value << shift, mask);
            return None;
        }
        let device = self.devices.get_mut(slot - 1)?;
        let (changed, event) = device.write_config(aligned, value << shift, mask);
        self.doorbells_changed |= changed;
        event.map(|event| (slot - 1, event))
    }

    /// Which slot a function is in, if anything is there.
    fn slot(&self, function: u16) -> Option<usize> {
        let slot = usize::from(function >> 3);
        let there = slot.checked_sub(1).is_none_or(|device| self.is_present(device));
        (function & 7 == 0 && there).then_some(slot)
    }

    /// The device whose window an access hits, and the offset in it.
    fn decode(&self, gpa: u64, size: u8) -> Option<(usize, u32)> {
        for (index, device) in self.devices.iter().enumerate() {
            if self.is_present(index)
                && let Some((base, length)) = device.transport().function.window()
                && let Some(offset) = gpa.checked_sub(base)
                && offset.saturating_add(u64::from(size)) <= u64::from(length)
            {
                return Some((index, low32(offset)));
            }
        }
        None
    }

    /// Reads a device's memory window; nothing when no device is there.
    pub fn read_memory(&mut self, gpa: u64, size: u8) -> Option<u64> {
        let (index, offset) = self.decode(gpa, size)?;
        Some(self.devices.get_mut(index)?.read_window(offset, size))
    }

    /// Writes a device's memory window; nothing when no device is there.
    pub fn write_memory(&mut self, gpa: u64, size: u8, value: u64) -> Option<Option<DeviceEvent>> {
        let (index, offset) = self.decode(gpa, size)?;
        let event = self.devices.get_mut(index)?.write_window(offset, size, value);
        Some(event.map(|event| (index, event)))
    }

    /// The doorbells of the devices whose windows are decoded.
    pub fn doorbells(&self) -> impl Iterator<Item = Doorbell> {
        let mut index = 0u32;
        self.devices.iter().enumerate().flat_map(move |(device, virtio)| {
            let first = index;
            let transport = virtio.transport();
            index += u32::from(transport.queue_count());
            let window = transport.function.window().filter(|(base, size)| {
                self.is_present(device)
                    && *base >= PCI_WINDOW_START
                    && base.saturating_add(u64::from(*size)) <= PCI_WINDOW_END
            });
            (0..transport.queue_count()).filter_map(move |queue| {
                let (base, _) = window?;
                let offset = registers::NOTIFY + u32::from(queue) * registers::NOTIFY_MULTIPLIER;
                Some(Doorbell {
                    index: first + u32::from(queue),
                    gpa: base + u64::from(offset),
                    width: registers::NOTIFY_WIDTH,
                    device,
                    queue,
                })
            })
        })
    }

    /// Whose doorbell a number is.
    #[must_use]
    pub fn doorbell_target(&self, index: u32) -> Option<(usize, u16)> {
        let mut first = 0;
        for (device, virtio) in self.devices.iter().enumerate() {
            let count = u32::from(virtio.transport().queue_count());
            if let Some(queue) = index.checked_sub(first).filter(|queue| *queue < count) {
                return Some((device, low16(u64::from(queue))));
            }
            first += count;
        }
        None
    }

    /// Whether the doorbells may have changed since this was asked last.
    pub const fn take_doorbells_changed(&mut self) -> bool {
        core::mem::replace(&mut self.doorbells_changed, false)
    }

    /// Makes [`Self::take_doorbells_changed`] true.
    pub const fn mark_doorbells_changed(&mut self) {
        self.doorbells_changed = true;
    }

    /// The next interrupt of any device. A message is a memory write, which only
    /// a bus master may make.
    pub fn next_interrupt(&mut self) -> Option<MsiMessage> {
        let present = self.present;
        let there = self.devices.iter_mut().enumerate().filter(|(index, _)| present >> index & 1 == 1);
        there.map(|(_, device)| device).find_map(|device| {
            let function = &mut device.transport_mut().function;
            if !function.is_master() {
                return None;
            }
            function.msix.as_mut()?.next_message()
        })
    }
}

/// All ones of an access width.
const fn ones(size: u8) -> u32 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => 0xffff_ffff,
    }
}

/// Shift and mask of an access within its 32-bit register.
fn lane(register: u16, size: u8) -> Option<(u32, u32)> {
    let byte = u32::from(register & 3);
    (matches!(size, 1 | 2 | 4) && byte + u32::from(size) <= 4).then(|| (byte * 8, ones(size) << (byte * 8)))
}
