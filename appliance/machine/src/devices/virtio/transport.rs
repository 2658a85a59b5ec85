//! The PCI transport that all virtio devices share.
//!
//! Spec: virtio 1.2, sections 2.1 (status), 2.2 (features), 3.1 (initialization)
//! and 4.1 (PCI).

use alloc::vec;
use alloc::vec::Vec;

use hv_x86::{low8, low16, low32};
use serde::{Deserialize, Serialize};

use super::chain::Chain;
use super::queue::{NO_VECTOR, Part, Queue, RingFeatures};
use super::registers;
use crate::devices::pci::{PciFunction, PciIdentity};
use crate::fault::GuestFault;
use crate::guest_memory::GuestMemory;
use crate::limits::{QUEUE_SIZE_MAX, WORK_OF_CHAIN, WORK_OF_DESCRIPTOR};

/// Feature: indirect descriptors.
pub const FEATURE_INDIRECT: u64 = 1 << 28;
/// Feature: used and available event index.
pub const FEATURE_EVENT_INDEX: u64 = 1 << 29;
/// Feature: virtio 1.
pub const FEATURE_VERSION_1: u64 = 1 << 32;
const FEATURES_COMMON: u64 = FEATURE_INDIRECT | FEATURE_EVENT_INDEX | FEATURE_VERSION_1;

/// Status: the driver runs.
const STATUS_DRIVER_OK: u8 = 4;
/// Status: features are agreed.
const STATUS_FEATURES_OK: u8 = 8;
/// Status: the device gave up until reset.
const STATUS_NEEDS_RESET: u8 = 0x40;
/// Status: the driver gave up.
const STATUS_FAILED: u8 = 0x80;

/// What a register access leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportEvent {
    /// The driver made chains available in this queue.
    Notify(u16),
    /// The driver reset the device: everything in flight is forgotten.
    Reset,
}

/// State of the transport: PCI function, negotiation and queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transport {
    /// The PCI function.
    pub function: PciFunction,
    device_features: u64,
    driver_features: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    config_vector: u16,
    config_generation: u8,
    config_interrupt: bool,
    queue_interrupt: bool,
    status: u8,
    queue_select: u16,
    queues: Vec<Queue>,
    fault: Option<GuestFault>,
    /// Work that was done for the guest and not yet charged.
    work: u64,
}

impl Transport {
    /// The transport of a device of `kind` (virtio 1.2, chapter 5) with the
    /// features it offers besides those of every device.
    #[must_use]
    pub fn new(kind: u16, class: u32, features: u64, queues: u16, base_address: u32) -> Self {
        // 4.1.2: device number 0x1040 + kind, vendor 0x1af4, revision at least 1.
        let device = 0x1040 + kind;
        let identity = PciIdentity { vendor: 0x1af4, device, class, revision: 1, subsystem: device };
        Self {
            function: PciFunction::virtio(identity, base_address, queues + 1),
            device_features: features | FEATURES_COMMON,
            driver_features: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            config_vector: NO_VECTOR,
            config_generation: 0,
            config_interrupt: false,
            queue_interrupt: false,
            status: 0,
            queue_select: 0,
            queues: vec![Queue::new(); usize::from(queues)],
            fault: None,
            work: 0,
        }
    }

    /// Number of queues.
    #[must_use]
    pub fn queue_count(&self) -> u16 {
        u16::try_from(self.queues.len()).unwrap_or(0)
    }

    /// Whether the driver accepted a feature.
    #[must_use]
    pub const fn has(&self, feature: u64) -> bool {
        self.driver_features & feature == feature
    }

    /// Whether the driver runs and nothing is broken.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET | STATUS_FAILED) == STATUS_DRIVER_OK
            && self.function.is_master()
    }

    /// What the guest did wrong since the last reset, if anything.
    #[must_use]
    pub const fn fault(&self) -> Option<GuestFault> {
        self.fault
    }

    /// Stops the device until reset (2.1.1: `DEVICE_NEEDS_RESET`).
    pub fn fail(&mut self, fault: GuestFault) {
        self.fault.get_or_insert(fault);
        self.status |= STATUS_NEEDS_RESET;
        if self.status & STATUS_DRIVER_OK != 0 {
            self.raise_config();
        }
    }

    /// The device's configuration changed.
    pub fn config_changed(&mut self) {
        self.config_generation = self.config_generation.wrapping_add(1);
        if self.is_running() {
            self.raise_config();
        }
    }

    fn raise_config(&mut self) {
        self.config_interrupt = true;
        let vector = self.config_vector;
        if let Some(msix) = &mut self.function.msix {
            msix.raise(vector);
        }
    }

    const fn ring_features(&self) -> RingFeatures {
        RingFeatures { event_index: self.has(FEATURE_EVENT_INDEX), indirect: self.has(FEATURE_INDIRECT) }
    }

    /// Work that was done for the guest since this was asked last, in instructions.
    pub const fn take_work(&mut self) -> u64 {
        core::mem::replace(&mut self.work, 0)
    }

    /// Takes the next chain of a queue. A malformed one stops the device.
    pub fn pop(&mut self, queue: u16, memory: &dyn GuestMemory) -> Option<Chain> {
        self.pop_part(queue, memory, Part::WHOLE)
    }

    /// The same, where the chain is followed no further than for so much of it.
    pub fn pop_part(&mut self, queue: u16, memory: &dyn GuestMemory, part: Part) -> Option<Chain> {
        if !self.is_running() {
            return None;
        }
        let features = self.ring_features();
        match self.queues.get_mut(usize::from(queue))?.pop_part(memory, features, part) {
            Ok(chain) => {
                if let Some(chain) = &chain {
                    let descriptors = chain.readable.0.len().saturating_add(chain.writable.0.len());
                    self.work = self
                        .work
                        .saturating_add(WORK_OF_CHAIN)
                        .saturating_add(WORK_OF_DESCRIPTOR.saturating_mul(descriptors as u64));
                }
                chain
            }
            Err(fault) => {
                self.fail(fault);
                None
            }
        }
    }

    /// Walks a chain that was taken before. A malformed one stops the device.
    pub fn walk_again(&mut self, queue: u16, head: u16, memory: &dyn GuestMemory) -> Option<Chain> {
        let features = self.ring_features();
        match self.queues.get(usize::from(queue))?.walk_again(memory, head, features) {
            Ok(chain) => Some(chain),
            Err(fault) => {
                self.fail(fault);
                None
            }
        }
    }

    /// Puts the last `chains` of a queue back.
    pub fn unpop(&mut self, queue: u16, chains: u16) {
        if let Some(queue) = self.queues.get_mut(usize::from(queue)) {
            queue.unpop(chains);
        }
    }

    /// Returns chains and raises the queue's interrupt if the driver wants it.
    pub fn push_used(&mut self, queue: u16, memory: &dyn GuestMemory, chains: &[(u16, u32)]) {
        if !self.is_running() {
            return;
        }
        let features = self.ring_features();
        let Some(queue) = self.queues.get_mut(usize::from(queue)) else { return };
        let vector = queue.vector;
        match queue.push_used(memory, chains, features) {
            Ok(false) => {}
            Ok(true) => {
                self.queue_interrupt = true;
                if let Some(msix) = &mut self.function.msix {
                    msix.raise(vector);
                }
            }
            Err(fault) => self.fail(fault),
        }
    }

    /// Back to the state after reset (2.4); PCI registers stay.
    fn reset(&mut self) {
        self.driver_features = 0;
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.config_vector = NO_VECTOR;
        self.config_interrupt = false;
        self.queue_interrupt = false;
        self.status = 0;
        self.queue_select = 0;
        self.fault = None;
        self.queues.fill(Queue::new());
    }

    /// Back to power-on.
    pub fn power_on(&mut self, base_address: u32) {
        self.reset();
        self.function.reset(base_address);
    }

    /// Reads the memory window, all but the device's own configuration.
    pub fn read(&mut self, offset: u32, size: u8) -> u64 {
        match offset {
            registers::COMMON..registers::INTERRUPT_STATUS => self.read_common(offset, size),
            registers::INTERRUPT_STATUS => {
                // 4.1.4.5: bit 0 queue, bit 1 configuration; reading clears.
                let status = u64::from(self.queue_interrupt) | (u64::from(self.config_interrupt) << 1);
                self.queue_interrupt = false;
                self.config_interrupt = false;
                status
            }
            registers::MSIX_TABLE.. => self.read_msix(offset, size),
            _ => 0,
        }
    }

    fn read_msix(&self, offset: u32, size: u8) -> u64 {
        let Some(msix) = &self.function.msix else { return 0 };
        let word = |offset: u32| {
            if offset >= registers::MSIX_PENDING {
                msix.read_pending(offset - registers::MSIX_PENDING)
            } else {
                msix.read_table(offset.wrapping_sub(registers::MSIX_TABLE))
            }
        };
        match size {
            4 => u64::from(word(offset)),
            8 => u64::from(word(offset)) | (u64::from(word(offset + 4)) << 32),
            _ => 0,
        }
    }

    /// Writes the memory window, all but the device's own configuration.
    pub fn write(&mut self, offset: u32, size: u8, value: u64) -> Option<TransportEvent> {
        match offset {
            registers::COMMON..registers::INTERRUPT_STATUS => self.write_common(offset, size, value),
            registers::NOTIFY..registers::MSIX_TABLE => {
                let queue = low16(u64::from(offset - registers::NOTIFY) / 4);
                (queue < self.queue_count()).then_some(TransportEvent::Notify(queue))
            }
            registers::MSIX_TABLE..registers::MSIX_PENDING => {
                if let Some(msix) = &mut self.function.msix
                    && size >= 4
                {
                    msix.write_table(offset - registers::MSIX_TABLE, low32(value));
                    if size == 8 {
                        msix.write_table(offset + 4 - registers::MSIX_TABLE, low32(value >> 32));
                    }
                }
                None
            }
            _ => None,
        }
    }

    fn selected(&self) -> Option<&Queue> {
        self.queues.get(usize::from(self.queue_select))
    }

    /// Common configuration (4.1.4.3). Fields are read with their own width, the
    /// 64-bit ones also in halves.
    fn read_common(&self, offset: u32, size: u8) -> u64 {
        let queue = self.selected();
        match (offset, size) {
            (0x00, 4) => u64::from(self.device_feature_select),
            (0x04, 4) => feature_word(self.device_features, self.device_feature_select),
            (0x08, 4) => u64::from(self.driver_feature_select),
            (0x0c, 4) => feature_word(self.driver_features, self.driver_feature_select),
            (0x10, 2) => u64::from(self.config_vector),
            (0x12, 2) => u64::from(self.queue_count()),
            (0x14, 1) => u64::from(self.status),
            (0x15, 1) => u64::from(self.config_generation),
            (0x16, 2) => u64::from(self.queue_select),
            // 4.1.4.3.1: size 0 where no queue is.
            (0x18, 2) => queue.map_or(0, |queue| u64::from(queue.size)),
            (0x1a, 2) => queue.map_or(u64::from(NO_VECTOR), |queue| u64::from(queue.vector)),
            (0x1c, 2) => queue.map_or(0, |queue| u64::from(queue.enabled)),
            (0x1e, 2) => u64::from(self.queue_select),
            (0x20, 4 | 8) => queue.map_or(0, |queue| clip(queue.descriptors, size)),
            (0x24, 4) => queue.map_or(0, |queue| queue.descriptors >> 32),
            (0x28, 4 | 8) => queue.map_or(0, |queue| clip(queue.available, size)),
            (0x2c, 4) => queue.map_or(0, |queue| queue.available >> 32),
            (0x30, 4 | 8) => queue.map_or(0, |queue| clip(queue.used, size)),
            (0x34, 4) => queue.map_or(0, |queue| queue.used >> 32),
            _ => 0,
        }
    }

    fn write_common(&mut self, offset: u32, size: u8, value: u64) -> Option<TransportEvent> {
        match (offset, size) {
            (0x00, 4) => self.device_feature_select = low32(value),
            (0x08, 4) => self.driver_feature_select = low32(value),
            (0x0c, 4) if self.status & STATUS_FEATURES_OK == 0 => {
                let shift = match self.driver_feature_select {
                    0 => 0,
                    1 => 32,
                    _ => return None,
                };
                let word = u64::from(low32(value)) << shift;
                self.driver_features = (self.driver_features & !(0xffff_ffff << shift)) | word;
            }
            (0x10, 2) => self.config_vector = self.valid_vector(low16(value)),
            (0x14, 1) => return self.write_status(low8(value)),
            (0x16, 2) => self.queue_select = low16(value),
            (0x1a, 2) => {
                let vector = self.valid_vector(low16(value));
                if let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) {
                    queue.vector = vector;
                }
            }
            _ => self.write_queue(offset, size, value),
        }
        None
    }

    /// A vector the table has, else "none", which tells the driver (4.1.5.1.2).
    fn valid_vector(&self, vector: u16) -> u16 {
        match &self.function.msix {
            Some(msix) if vector < msix.vectors() => vector,
            _ => NO_VECTOR,
        }
    }

    fn write_queue(&mut self, offset: u32, size: u8, value: u64) {
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else { return };
        // 4.1.4.3.2: a queue is configured before it is enabled, not after.
        if queue.enabled {
            return;
        }
        match (offset, size) {
            (0x18, 2) => queue.size = low16(value).min(QUEUE_SIZE_MAX),
            (0x1c, 2) if value == 1 => match queue.check() {
                Ok(()) => queue.enabled = true,
                Err(fault) => self.fail(fault),
            },
            (0x20, 4) => set_low(&mut queue.descriptors, value),
            (0x24, 4) => set_high(&mut queue.descriptors, value),
            (0x20, 8) => queue.descriptors = value,
            (0x28, 4) => set_low(&mut queue.available, value),
            (0x2c, 4) => set_high(&mut queue.available, value),
            (0x28, 8) => queue.available = value,
            (0x30, 4) => set_low(&mut queue.used, value),
            (0x34, 4) => set_high(&mut queue.used, value),
            (0x30, 8) => queue.used = value,
            _ => {}
        }
    }

    fn write_status(&mut self, value: u8) -> Option<TransportEvent> {
        if value == 0 {
            self.reset();
            return Some(TransportEvent::Reset);
        }
        // 2.1.1: the driver never clears a bit but by reset.
        let mut status = self.status | (value & !STATUS_NEEDS_RESET);
        if status & STATUS_FEATURES_OK != 0 && self.status & STATUS_FEATURES_OK == 0 {
            // 2.2.1, 6.1: no feature that was not offered; virtio 1 is a must.
            let known = self.driver_features & !self.device_features == 0;
            if !known || !self.has(FEATURE_VERSION_1) {
                status &= !STATUS_FEATURES_OK;
            }
        }
        // 3.1.1: running without agreed features is not possible.
        if status & STATUS_FEATURES_OK == 0 {
            status &= !STATUS_DRIVER_OK;
        }
        self.status = status;
        None
    }
}

const fn feature_word(features: u64, select: u32) -> u64 {
    match select {
        0 => features & 0xffff_ffff,
        1 => features >> 32,
        _ => 0,
    }
}

const fn clip(value: u64, size: u8) -> u64 {
    if size == 8 { value } else { value & 0xffff_ffff }
}

const fn set_low(field: &mut u64, value: u64) {
    *field = (*field & !0xffff_ffff) | (value & 0xffff_ffff);
}

const fn set_high(field: &mut u64, value: u64) {
    *field = (*field & 0xffff_ffff) | (value << 32);
}
