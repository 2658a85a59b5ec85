//! Driver of a virtio disk of the machine: two requests at a time, each with memory
//! of its own.
//!
//! Spec: Virtual I/O Device (VIRTIO) 1.2, sections 2.7 (split virtqueues), 3.1
//! (initialization), 4.1.4.3 (common configuration), 5.2 (block device).
//!
//! The device shares the memory and may be hostile: what it returns must be a request
//! that is under way, and anything else stops the disk.

use alloc::vec;
use alloc::vec::Vec;

use hv_abi::device::{DmaMemory, Mmio};
use netstack::virtio_pci::{Location, Locations};

use super::{DiskWork, LocalDisk};

/// Device identifier of a modern disk (0x1040 + device type 2).
pub const DEVICE_BLOCK: u16 = 0x1042;
/// Device identifier of a transitional disk, which has the modern windows too.
pub const DEVICE_BLOCK_TRANSITIONAL: u16 = 0x1001;

/// Requests at a time.
const TAGS: usize = 2;
/// Bytes of the largest request.
const DATA_BYTES: usize = 256 * 1024;
const SECTOR: usize = 512;

/// Descriptors of the ring: three for each request, rounded up to a power of two.
const ENTRIES: u16 = 8;
const AVAILABLE: usize = 16 * ENTRIES as usize;
const USED: usize = 256;
const HEADERS: usize = 512;
/// Header and status of one request.
const HEADER_STEP: usize = 64;
const STATUS_OFFSET: usize = 32;
const DATA: usize = 4096;

// 5.2.3.
const FEATURE_READ_ONLY: u64 = 1 << 5;
const FEATURE_FLUSH: u64 = 1 << 9;
const FEATURE_VERSION_1: u64 = 1 << 32;
const FEATURE_ACCESS_PLATFORM: u64 = 1 << 33;
const FEATURES_WANTED: u64 = FEATURE_READ_ONLY | FEATURE_FLUSH | FEATURE_VERSION_1 | FEATURE_ACCESS_PLATFORM;

const STATUS_ACKNOWLEDGE: u8 = 1;
const STATUS_DRIVER: u8 = 2;
const STATUS_DRIVER_OK: u8 = 4;
const STATUS_FEATURES_OK: u8 = 8;
const STATUS_FAILED: u8 = 128;

// 5.2.6: types and the one good status.
const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const STATUS_OK: u8 = 0;

const FLAG_NEXT: u16 = 1;
const FLAG_WRITE: u16 = 2;
/// "No vector" (4.1.5.1.2).
const NO_VECTOR: u16 = 0xffff;
/// Looks at the status after a reset.
const RESET_POLLS_MAX: u32 = 100_000;

/// Common configuration (4.1.4.3).
mod register {
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
}

/// Why a disk cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// A window is missing or too small.
    BadWindow,
    /// The memory is too small.
    DmaTooSmall,
    /// It does not come out of its reset.
    ResetTimeout,
    /// It refuses what the driver needs.
    FeaturesRefused,
    /// It cannot be written.
    ReadOnly,
    /// It does not take the interrupt.
    VectorRefused,
}

/// What a tag is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Under {
    Nothing,
    /// A read of so many bytes.
    Read(usize),
    Other,
    /// A flush of a disk that has no cache: done already.
    Done,
}

/// The disk.
pub struct VirtioBlock<M, D> {
    bars: [Option<M>; 6],
    common: Location,
    dma: D,
    doorbell: (u8, usize),
    features: u64,
    sectors: u64,
    available: u16,
    used: u16,
    tags: [Under; TAGS],
    broken: bool,
}

impl<M: Mmio, D: DmaMemory> VirtioBlock<M, D> {
    /// Bytes of DMA memory that [`Self::new`] needs.
    pub const DMA_BYTES: usize = DATA + TAGS * DATA_BYTES;

    /// Resets the disk, negotiates and starts it (3.1.1). `bars` are the windows of the
    /// function's base address registers, as far as `locations` names them.
    ///
    /// # Errors
    /// [`DiskError`]; the disk is then marked failed.
    pub fn new(
        bars: [Option<M>; 6],
        locations: &Locations,
        dma: D,
        vector: Option<u16>,
    ) -> Result<Self, DiskError> {
        if dma.length() < Self::DMA_BYTES {
            return Err(DiskError::DmaTooSmall);
        }
        let mut disk = Self {
            bars,
            common: locations.common,
            dma,
            doorbell: (0, 0),
            features: 0,
            sectors: 0,
            available: 0,
            used: 0,
            tags: [Under::Nothing; TAGS],
            broken: false,
        };
        if let Err(error) = disk.start(locations, vector) {
            disk.set_status(STATUS_FAILED);
            return Err(error);
        }
        Ok(disk)
    }

    fn common(&self) -> Option<&M> {
        self.bars.get(usize::from(self.common.bar))?.as_ref()
    }

    fn at(&self, register: usize) -> usize {
        self.common.offset.saturating_add(register)
    }

    fn status(&self) -> u8 {
        self.common().map_or(u8::MAX, |bar| bar.read_u8(self.at(register::DEVICE_STATUS)))
    }

    fn set_status(&self, status: u8) {
        if let Some(bar) = self.common() {
            bar.write_u8(self.at(register::DEVICE_STATUS), status);
        }
    }

    fn read_u16(&self, register: usize) -> u16 {
        self.common().map_or(0, |bar| bar.read_u16(self.at(register)))
    }

    fn read_u32(&self, register: usize) -> u32 {
        self.common().map_or(0, |bar| bar.read_u32(self.at(register)))
    }

    fn write_u16(&self, register: usize, value: u16) {
        if let Some(bar) = self.common() {
            bar.write_u16(self.at(register), value);
        }
    }

    fn write_u32(&self, register: usize, value: u32) {
        if let Some(bar) = self.common() {
            bar.write_u32(self.at(register), value);
        }
    }

    /// 64-bit registers are written as two halves (4.1.3.1).
    fn write_u64(&self, register: usize, value: u64) {
        self.write_u32(register, hv_x86::low32(value));
        self.write_u32(register + 4, hv_x86::low32(value >> 32));
    }

    fn bus(&self, offset: usize) -> u64 {
        self.dma.bus_address().wrapping_add(offset as u64)
    }

    fn start(&mut self, locations: &Locations, vector: Option<u16>) -> Result<(), DiskError> {
        let window = self.common().map_or(0, Mmio::length);
        if self.common.length < register::COMMON_BYTES || self.at(register::COMMON_BYTES) > window {
            return Err(DiskError::BadWindow);
        }
        self.set_status(0);
        if !(0..RESET_POLLS_MAX).any(|_| self.status() == 0) {
            return Err(DiskError::ResetTimeout);
        }
        self.set_status(STATUS_ACKNOWLEDGE | STATUS_DRIVER);
        self.negotiate()?;
        self.read_capacity(locations)?;
        self.write_u16(register::CONFIG_VECTOR, NO_VECTOR);
        self.enable_queue(locations, vector)?;
        self.set_status(STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
        Ok(())
    }

    fn negotiate(&mut self) -> Result<(), DiskError> {
        let half = |select| {
            self.write_u32(register::DEVICE_FEATURE_SELECT, select);
            u64::from(self.read_u32(register::DEVICE_FEATURE))
        };
        self.features = (half(0) | half(1) << 32) & FEATURES_WANTED;
        if self.features & FEATURE_READ_ONLY != 0 {
            return Err(DiskError::ReadOnly);
        }
        if self.features & FEATURE_VERSION_1 == 0 {
            return Err(DiskError::FeaturesRefused);
        }
        for (select, half) in [(0, self.features), (1, self.features >> 32)] {
            self.write_u32(register::DRIVER_FEATURE_SELECT, select);
            self.write_u32(register::DRIVER_FEATURE, hv_x86::low32(half));
        }
        self.set_status(STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
        if self.status() & STATUS_FEATURES_OK == 0 { Err(DiskError::FeaturesRefused) } else { Ok(()) }
    }

    /// Capacity in sectors of 512 bytes (5.2.4).
    fn read_capacity(&mut self, locations: &Locations) -> Result<(), DiskError> {
        let device = locations.device.filter(|device| device.length >= 8).ok_or(DiskError::BadWindow)?;
        let bar = self.bars.get(usize::from(device.bar)).and_then(Option::as_ref);
        let bar = bar.ok_or(DiskError::BadWindow)?;
        let low = u64::from(bar.read_u32(device.offset));
        let high = u64::from(bar.read_u32(device.offset.checked_add(4).ok_or(DiskError::BadWindow)?));
        self.sectors = low | high << 32;
        Ok(())
    }

    fn enable_queue(&mut self, locations: &Locations, vector: Option<u16>) -> Result<(), DiskError> {
        self.write_u16(register::QUEUE_SELECT, 0);
        if self.read_u16(register::QUEUE_SIZE) < ENTRIES {
            return Err(DiskError::BadWindow);
        }
        self.write_u16(register::QUEUE_SIZE, ENTRIES);
        let wanted = vector.unwrap_or(NO_VECTOR);
        self.write_u16(register::QUEUE_VECTOR, wanted);
        // 4.1.5.1.2.2: the device answers NO_VECTOR when it has no resources.
        if vector.is_some() && self.read_u16(register::QUEUE_VECTOR) != wanted {
            return Err(DiskError::VectorRefused);
        }
        self.write_u64(register::QUEUE_DESCRIPTORS, self.bus(0));
        self.write_u64(register::QUEUE_AVAILABLE, self.bus(AVAILABLE));
        self.write_u64(register::QUEUE_USED, self.bus(USED));
        let step = usize::from(self.read_u16(register::QUEUE_NOTIFY_OFF));
        let multiplier = usize::try_from(locations.notify_multiplier).unwrap_or(usize::MAX);
        let inside = step.checked_mul(multiplier).ok_or(DiskError::BadWindow)?;
        if inside.checked_add(2).is_none_or(|end| end > locations.notify.length) {
            return Err(DiskError::BadWindow);
        }
        self.doorbell = (locations.notify.bar, locations.notify.offset.saturating_add(inside));
        self.write_u16(register::QUEUE_ENABLE, 1);
        Ok(())
    }

    fn describe(&self, index: usize, at: usize, length: usize, flags: u16) -> bool {
        let length = u32::try_from(length).unwrap_or(0);
        let next = u16::try_from(index + 1).unwrap_or(0);
        let mut bytes = [0; 16];
        let fields = self
            .bus(at)
            .to_le_bytes()
            .into_iter()
            .chain(length.to_le_bytes())
            .chain(flags.to_le_bytes())
            .chain(if flags & FLAG_NEXT != 0 { next.to_le_bytes() } else { [0; 2] });
        for (target, byte) in bytes.iter_mut().zip(fields) {
            *target = byte;
        }
        self.dma.write(index * 16, &bytes)
    }

    /// Puts a request into the ring: header, data, status (5.2.6).
    fn submit(&mut self, tag: usize, kind: u32, sector: u64, length: usize) -> bool {
        let (header, status) = (HEADERS + tag * HEADER_STEP, HEADERS + tag * HEADER_STEP + STATUS_OFFSET);
        let mut bytes = [0; 16];
        let fields = kind.to_le_bytes().into_iter().chain([0; 4]).chain(sector.to_le_bytes());
        for (target, byte) in bytes.iter_mut().zip(fields) {
            *target = byte;
        }
        let first = tag * 3;
        let data_flags = if kind == TYPE_IN { FLAG_WRITE | FLAG_NEXT } else { FLAG_NEXT };
        let mut written = self.dma.write(header, &bytes) && self.dma.write(status, &[0xff]);
        if length == 0 {
            // No data: the status follows the header in the next place.
            written &= self.describe(first, header, 16, FLAG_NEXT)
                && self.describe(first + 1, status, 1, FLAG_WRITE);
        } else {
            written &= self.describe(first, header, 16, FLAG_NEXT)
                && self.describe(first + 1, DATA + tag * DATA_BYTES, length, data_flags)
                && self.describe(first + 2, status, 1, FLAG_WRITE);
        }
        let slot = usize::from(self.available % ENTRIES);
        let head = u16::try_from(first).unwrap_or(0);
        if !written || !self.dma.write(AVAILABLE + 4 + 2 * slot, &head.to_le_bytes()) {
            return false;
        }
        self.available = self.available.wrapping_add(1);
        self.dma.store_u16(AVAILABLE + 2, self.available);
        self.dma.fence();
        let (bar, offset) = self.doorbell;
        if let Some(bar) = self.bars.get(usize::from(bar)).and_then(Option::as_ref) {
            bar.write_u16(offset, 0);
        }
        true
    }

    /// The tag of the next request that the device has returned.
    fn next_used(&mut self) -> Option<usize> {
        let waiting = self.dma.load_u16(USED + 2).wrapping_sub(self.used);
        if waiting == 0 || self.broken {
            return None;
        }
        let slot = usize::from(self.used % ENTRIES);
        let mut element = [0; 8];
        let read = self.dma.read(USED + 4 + 8 * slot, &mut element);
        let [id, ..] = element;
        let tag = usize::from(id / 3);
        let whole = matches!(element, [_, 0, 0, 0, ..]) && id % 3 == 0;
        let under_way = matches!(self.tags.get(tag), Some(Under::Read(_) | Under::Other));
        if !read || waiting > ENTRIES || !whole || !under_way {
            self.broken = true;
            self.set_status(STATUS_FAILED);
            return None;
        }
        self.used = self.used.wrapping_add(1);
        Some(tag)
    }
}

impl<M: Mmio, D: DmaMemory> LocalDisk for VirtioBlock<M, D> {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn begin(&mut self, tag: u8, work: &DiskWork) -> bool {
        let tag = usize::from(tag);
        if self.broken || self.tags.get(tag) != Some(&Under::Nothing) {
            return false;
        }
        let (kind, sector, length, under) = match work {
            DiskWork::Read { sector, sectors } => {
                let length = usize::try_from(*sectors).unwrap_or(usize::MAX).saturating_mul(SECTOR);
                (TYPE_IN, *sector, length, Under::Read(length))
            }
            DiskWork::Write { sector, bytes } => (TYPE_OUT, *sector, bytes.len(), Under::Other),
            DiskWork::Flush if self.features & FEATURE_FLUSH == 0 => (TYPE_FLUSH, 0, 0, Under::Done),
            DiskWork::Flush => (TYPE_FLUSH, 0, 0, Under::Other),
        };
        let end = sector.saturating_add((length / SECTOR) as u64);
        let empty = length == 0 && kind != TYPE_FLUSH;
        if empty || length > DATA_BYTES || !length.is_multiple_of(SECTOR) || end > self.sectors {
            return false;
        }
        if let DiskWork::Write { bytes, .. } = work
            && !self.dma.write(DATA + tag * DATA_BYTES, bytes)
        {
            return false;
        }
        if let Some(slot) = self.tags.get_mut(tag) {
            *slot = under;
        }
        under == Under::Done || self.submit(tag, kind, sector, length)
    }

    fn take(&mut self) -> Option<(u8, Option<Vec<u8>>)> {
        // A broken disk ends everything, badly.
        let done = |under: &Under| *under == Under::Done || (self.broken && *under != Under::Nothing);
        let tag = match self.tags.iter().position(done) {
            Some(tag) => tag,
            None => self.next_used()?,
        };
        let under = core::mem::replace(self.tags.get_mut(tag)?, Under::Nothing);
        let mut status = [0xff];
        let read = self.dma.read(HEADERS + tag * HEADER_STEP + STATUS_OFFSET, &mut status);
        let good = !self.broken && (under == Under::Done || (read && status == [STATUS_OK]));
        let length = if let Under::Read(length) = under { length } else { 0 };
        let mut bytes = vec![0; length];
        let good = good && self.dma.read(DATA + tag * DATA_BYTES, &mut bytes);
        Some((u8::try_from(tag).unwrap_or(0), good.then_some(bytes)))
    }

    fn arm(&mut self) -> bool {
        // The device always interrupts: two requests at a time are few.
        self.tags.contains(&Under::Done) || self.dma.load_u16(USED + 2) != self.used
    }
}

#[cfg(test)]
mod tests;
