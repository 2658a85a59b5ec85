//! Register access through the function's windows.
//!
//! Spec: VIRTIO 1.2 section 4.1.4.3 (common configuration).

use hv_abi::device::{DmaMemory, Mmio};

use super::VirtioNet;

pub(super) const DEVICE_FEATURE_SELECT: usize = 0;
pub(super) const DEVICE_FEATURE: usize = 4;
pub(super) const DRIVER_FEATURE_SELECT: usize = 8;
pub(super) const DRIVER_FEATURE: usize = 12;
pub(super) const CONFIG_VECTOR: usize = 16;
pub(super) const DEVICE_STATUS: usize = 20;
pub(super) const QUEUE_SELECT: usize = 22;
pub(super) const QUEUE_SIZE: usize = 24;
pub(super) const QUEUE_VECTOR: usize = 26;
pub(super) const QUEUE_ENABLE: usize = 28;
pub(super) const QUEUE_NOTIFY_OFF: usize = 30;
pub(super) const QUEUE_DESCRIPTORS: usize = 32;
pub(super) const QUEUE_AVAILABLE: usize = 40;
pub(super) const QUEUE_USED: usize = 48;
pub(super) const COMMON_BYTES: usize = 56;

impl<M: Mmio, D: DmaMemory> VirtioNet<M, D> {
    pub(super) fn bar(&self, number: u8) -> Option<&M> {
        self.bars.get(usize::from(number))?.as_ref()
    }

    pub(super) fn at(&self, register: usize) -> usize {
        self.common.offset.saturating_add(register)
    }

    pub(super) fn status(&self) -> u8 {
        self.bar(self.common.bar).map_or(0xff, |bar| bar.read_u8(self.at(DEVICE_STATUS)))
    }

    pub(super) fn set_status(&self, status: u8) {
        if let Some(bar) = self.bar(self.common.bar) {
            bar.write_u8(self.at(DEVICE_STATUS), status);
        }
    }

    pub(super) fn read_u16(&self, register: usize) -> u16 {
        self.bar(self.common.bar).map_or(0, |bar| bar.read_u16(self.at(register)))
    }

    pub(super) fn read_u32(&self, register: usize) -> u32 {
        self.bar(self.common.bar).map_or(0, |bar| bar.read_u32(self.at(register)))
    }

    pub(super) fn write_u16(&self, register: usize, value: u16) {
        if let Some(bar) = self.bar(self.common.bar) {
            bar.write_u16(self.at(register), value);
        }
    }

    pub(super) fn write_u32(&self, register: usize, value: u32) {
        if let Some(bar) = self.bar(self.common.bar) {
            bar.write_u32(self.at(register), value);
        }
    }

    /// 64-bit registers are written as two halves (4.1.3.1).
    pub(super) fn write_address(&self, register: usize, dma_offset: usize) {
        let address = self.dma.bus_address().wrapping_add(dma_offset as u64);
        let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
        self.write_u32(register, u32::from_le_bytes([a, b, c, d]));
        self.write_u32(register + 4, u32::from_le_bytes([e, f, g, h]));
    }

    pub(super) fn device_u8(&self, offset: usize) -> Option<u8> {
        let device = self.device.filter(|device| offset < device.length)?;
        Some(self.bar(device.bar)?.read_u8(device.offset.checked_add(offset)?))
    }

    pub(super) fn device_u16(&self, offset: usize) -> Option<u16> {
        let device = self.device.filter(|device| offset + 1 < device.length)?;
        Some(self.bar(device.bar)?.read_u16(device.offset.checked_add(offset)?))
    }
}
