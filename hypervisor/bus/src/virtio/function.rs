//! A virtio function as its driver sees it: registers, reset, negotiation, queues.
//!
//! Spec: Virtual I/O Device (VIRTIO) 1.2, sections 2.1 (status), 3.1 (initialization),
//! 4.1.4.3 (common configuration), 4.1.5 (PCI-specific initialization).

use hv_abi::device::Mmio;
use hv_x86::BusAddress;

use super::{Location, Locations};
use crate::limits::VIRTIO_RESET_POLLS_MAX;

/// The device is one of version 1 or later (6).
pub const FEATURE_VERSION_1: u64 = 1 << 32;
/// The device reaches memory as the platform lets it (6).
pub const FEATURE_ACCESS_PLATFORM: u64 = 1 << 33;
/// "No vector" (4.1.5.1.2).
const NO_VECTOR: u16 = 0xffff;

// 2.1.
const STATUS_ACKNOWLEDGE: u8 = 1;
const STATUS_DRIVER: u8 = 2;
const STATUS_DRIVER_OK: u8 = 4;
const STATUS_FEATURES_OK: u8 = 8;
const STATUS_NEEDS_RESET: u8 = 64;
const STATUS_FAILED: u8 = 128;

/// The common configuration (4.1.4.3).
pub mod register {
    /// Which half of what is offered is shown.
    pub const DEVICE_FEATURE_SELECT: usize = 0;
    /// What is offered.
    pub const DEVICE_FEATURE: usize = 4;
    /// Which half of what is used is written.
    pub const DRIVER_FEATURE_SELECT: usize = 8;
    /// What is used.
    pub const DRIVER_FEATURE: usize = 12;
    /// The interrupt of configuration changes.
    pub const CONFIG_VECTOR: usize = 16;
    /// How far driver and device are.
    pub const DEVICE_STATUS: usize = 20;
    /// The queue that the following are about.
    pub const QUEUE_SELECT: usize = 22;
    /// Its descriptors.
    pub const QUEUE_SIZE: usize = 24;
    /// Its interrupt.
    pub const QUEUE_VECTOR: usize = 26;
    /// Whether it is used.
    pub const QUEUE_ENABLE: usize = 28;
    /// Its doorbell's number.
    pub const QUEUE_NOTIFY_OFF: usize = 30;
    /// Its descriptor table.
    pub const QUEUE_DESCRIPTORS: usize = 32;
    /// Its available ring.
    pub const QUEUE_AVAILABLE: usize = 40;
    /// Its used ring.
    pub const QUEUE_USED: usize = 48;
    /// Octets of all of them.
    pub const COMMON_BYTES: usize = 56;
}

/// Why a function cannot be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FunctionError {
    /// A register window is missing or too short.
    BadWindow,
    /// The device did not finish its reset.
    ResetTimeout,
    /// The device is older than version 1 or refused our features.
    FeaturesRefused,
    /// A ring is missing or smaller than asked.
    RingTooSmall,
    /// The device refused an interrupt vector.
    VectorRefused,
}

/// A queue as its driver wants it: where its three parts are, as the device reaches them.
#[derive(Clone, Copy, Debug)]
pub struct Queue {
    /// Its number.
    pub number: u16,
    /// Descriptors, a power of two.
    pub entries: u16,
    /// MSI-X table index, if any.
    pub vector: Option<u16>,
    /// The descriptor table.
    pub descriptors: BusAddress,
    /// The available ring.
    pub available: BusAddress,
    /// The used ring.
    pub used: BusAddress,
}

/// Where the device is told of a queue's buffers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Doorbell {
    bar: u8,
    offset: usize,
}

/// The lower and the upper half.
const fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

/// A function's registers.
pub struct Function<M> {
    bars: [Option<M>; 6],
    locations: Locations,
}

impl<M: Mmio> Function<M> {
    /// `bars` are the windows of the function's base address registers, as far as
    /// `locations` names them.
    pub const fn new(bars: [Option<M>; 6], locations: Locations) -> Self {
        Self { bars, locations }
    }

    fn bar(&self, location: &Location) -> Option<&M> {
        self.bars.get(usize::from(location.bar))?.as_ref()
    }

    /// The common configuration's window, and where a register is in it.
    fn common(&self, register: usize) -> Option<(&M, usize)> {
        let common = &self.locations.common;
        Some((self.bar(common)?, common.offset.saturating_add(register)))
    }

    fn status(&self) -> u8 {
        self.common(register::DEVICE_STATUS).map_or(0xff, |(bar, at)| bar.read_u8(at))
    }

    fn set_status(&self, status: u8) {
        if let Some((bar, at)) = self.common(register::DEVICE_STATUS) {
            bar.write_u8(at, status);
        }
    }

    fn read_u16(&self, register: usize) -> u16 {
        self.common(register).map_or(0, |(bar, at)| bar.read_u16(at))
    }

    fn read_u32(&self, register: usize) -> u32 {
        self.common(register).map_or(0, |(bar, at)| bar.read_u32(at))
    }

    fn write_u16(&self, register: usize, value: u16) {
        if let Some((bar, at)) = self.common(register) {
            bar.write_u16(at, value);
        }
    }

    fn write_u32(&self, register: usize, value: u32) {
        if let Some((bar, at)) = self.common(register) {
            bar.write_u32(at, value);
        }
    }

    /// 64-bit registers are written as two halves (4.1.3.1).
    fn write_u64(&self, register: usize, value: u64) {
        let [low, high] = halves(value);
        self.write_u32(register, low);
        self.write_u32(register.saturating_add(4), high);
    }

    /// Resets the device and negotiates (3.1.1, steps 1 to 6): `choose` is given what is
    /// offered and reports what is used of it. Returns what is used.
    ///
    /// # Errors
    /// [`FunctionError`]; call [`Self::fail`] then.
    pub fn negotiate(&self, choose: impl FnOnce(u64) -> u64) -> Result<u64, FunctionError> {
        let common = &self.locations.common;
        let window = self.bar(common).map_or(0, Mmio::length);
        if common.length < register::COMMON_BYTES
            || common.offset.saturating_add(register::COMMON_BYTES) > window
        {
            return Err(FunctionError::BadWindow);
        }
        self.reset();
        if !(0..VIRTIO_RESET_POLLS_MAX).any(|_| self.status() == 0) {
            return Err(FunctionError::ResetTimeout);
        }
        self.set_status(STATUS_ACKNOWLEDGE);
        self.set_status(STATUS_ACKNOWLEDGE | STATUS_DRIVER);
        let half = |select| {
            self.write_u32(register::DEVICE_FEATURE_SELECT, select);
            u64::from(self.read_u32(register::DEVICE_FEATURE))
        };
        let features = choose(half(0) | half(1) << 32);
        if features & FEATURE_VERSION_1 == 0 {
            return Err(FunctionError::FeaturesRefused);
        }
        for (select, half) in (0..).zip(halves(features)) {
            self.write_u32(register::DRIVER_FEATURE_SELECT, select);
            self.write_u32(register::DRIVER_FEATURE, half);
        }
        self.set_status(STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
        if self.status() & STATUS_FEATURES_OK == 0 {
            Err(FunctionError::FeaturesRefused)
        } else {
            Ok(features)
        }
    }

    /// Which interrupt reports changes of the device's configuration, if any does.
    pub fn set_config_vector(&self, vector: Option<u16>) {
        self.write_u16(register::CONFIG_VECTOR, vector.unwrap_or(NO_VECTOR));
    }

    /// Gives a queue to the device (4.1.5.1.3).
    ///
    /// # Errors
    /// [`FunctionError`]; call [`Self::fail`] then.
    pub fn enable(&self, queue: &Queue) -> Result<Doorbell, FunctionError> {
        self.write_u16(register::QUEUE_SELECT, queue.number);
        if self.read_u16(register::QUEUE_SIZE) < queue.entries {
            return Err(FunctionError::RingTooSmall);
        }
        self.write_u16(register::QUEUE_SIZE, queue.entries);
        let wanted = queue.vector.unwrap_or(NO_VECTOR);
        self.write_u16(register::QUEUE_VECTOR, wanted);
        // 4.1.5.1.2.2: the device answers NO_VECTOR when it has no resources.
        if queue.vector.is_some() && self.read_u16(register::QUEUE_VECTOR) != wanted {
            return Err(FunctionError::VectorRefused);
        }
        self.write_u64(register::QUEUE_DESCRIPTORS, queue.descriptors.0);
        self.write_u64(register::QUEUE_AVAILABLE, queue.available.0);
        self.write_u64(register::QUEUE_USED, queue.used.0);
        // 4.1.4.4.
        let Locations { notify, notify_multiplier, .. } = &self.locations;
        let step = usize::from(self.read_u16(register::QUEUE_NOTIFY_OFF));
        let multiplier = usize::try_from(*notify_multiplier).unwrap_or(usize::MAX);
        let inside = step.checked_mul(multiplier).ok_or(FunctionError::BadWindow)?;
        if inside.checked_add(2).is_none_or(|end| end > notify.length) {
            return Err(FunctionError::BadWindow);
        }
        self.write_u16(register::QUEUE_ENABLE, 1);
        Ok(Doorbell { bar: notify.bar, offset: notify.offset.saturating_add(inside) })
    }

    /// The device may begin (3.1.1, step 8).
    pub fn run(&self) {
        self.set_status(STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
    }

    /// The driver has given up on the device.
    pub fn fail(&self) {
        self.set_status(STATUS_FAILED);
    }

    /// Stops whatever the device does.
    pub fn reset(&self) {
        self.set_status(0);
    }

    /// Whether the device asks to be reset (2.1.2).
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        self.status() & STATUS_NEEDS_RESET != 0
    }

    /// Notifies the device of buffers in a queue.
    pub fn notify(&self, doorbell: Doorbell, queue: u16) {
        if let Some(bar) = self.bars.get(usize::from(doorbell.bar)).and_then(Option::as_ref) {
            bar.write_u16(doorbell.offset, queue);
        }
    }

    /// A place in the device's own configuration (4.1.4.6), if so many octets are there.
    fn device(&self, offset: usize, length: usize) -> Option<(&M, usize)> {
        let device = self.locations.device.as_ref()?;
        let within = offset.checked_add(length).is_some_and(|end| end <= device.length);
        if within { Some((self.bar(device)?, device.offset.checked_add(offset)?)) } else { None }
    }

    /// An octet of the device's own configuration.
    #[must_use]
    pub fn device_u8(&self, offset: usize) -> Option<u8> {
        self.device(offset, 1).map(|(bar, at)| bar.read_u8(at))
    }

    /// Two octets of it.
    #[must_use]
    pub fn device_u16(&self, offset: usize) -> Option<u16> {
        self.device(offset, 2).map(|(bar, at)| bar.read_u16(at))
    }

    /// Eight octets of it, read as two halves (4.1.3.1).
    #[must_use]
    pub fn device_u64(&self, offset: usize) -> Option<u64> {
        let (bar, at) = self.device(offset, 8)?;
        Some(u64::from(bar.read_u32(at)) | u64::from(bar.read_u32(at.checked_add(4)?)) << 32)
    }

    /// Gives the windows back.
    pub fn into_bars(self) -> [Option<M>; 6] {
        self.bars
    }
}
