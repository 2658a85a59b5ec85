//! Driver of a virtio disk of the machine: two requests at a time, each with memory
//! of its own.
//!
//! Spec: Virtual I/O Device (VIRTIO) 1.2, sections 2.7 (split virtqueues), 3.1
//! (initialization), 5.2 (block device).
//!
//! The device shares the memory and may be hostile: what it returns must be a request
//! that is under way, and anything else stops the disk.

use alloc::vec;
use alloc::vec::Vec;

use hv_abi::device::{DmaMemory, Mmio};
use netstack::virtio_pci::Locations;
use netstack::virtio_pci::function::{
    Doorbell, FEATURE_ACCESS_PLATFORM, FEATURE_VERSION_1, Function, FunctionError, Queue,
};

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
const FEATURES_WANTED: u64 = FEATURE_READ_ONLY | FEATURE_FLUSH | FEATURE_VERSION_1 | FEATURE_ACCESS_PLATFORM;

// 5.2.6: types and the one good status.
const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const STATUS_OK: u8 = 0;

const FLAG_NEXT: u16 = 1;
const FLAG_WRITE: u16 = 2;

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

impl From<FunctionError> for DiskError {
    fn from(error: FunctionError) -> Self {
        match error {
            FunctionError::BadWindow | FunctionError::RingTooSmall => Self::BadWindow,
            FunctionError::ResetTimeout => Self::ResetTimeout,
            FunctionError::FeaturesRefused => Self::FeaturesRefused,
            FunctionError::VectorRefused => Self::VectorRefused,
        }
    }
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
    function: Function<M>,
    dma: D,
    doorbell: Doorbell,
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
            function: Function::new(bars, *locations),
            dma,
            doorbell: Doorbell::default(),
            features: 0,
            sectors: 0,
            available: 0,
            used: 0,
            tags: [Under::Nothing; TAGS],
            broken: false,
        };
        if let Err(error) = disk.start(vector) {
            disk.function.fail();
            return Err(error);
        }
        Ok(disk)
    }

    fn bus(&self, offset: usize) -> u64 {
        self.dma.bus_address().wrapping_add(offset as u64)
    }

    fn start(&mut self, vector: Option<u16>) -> Result<(), DiskError> {
        self.features = self.function.negotiate(|offered| offered & FEATURES_WANTED)?;
        if self.features & FEATURE_READ_ONLY != 0 {
            return Err(DiskError::ReadOnly);
        }
        // Capacity in sectors of 512 bytes (5.2.4).
        self.sectors = self.function.device_u64(0).ok_or(DiskError::BadWindow)?;
        self.function.set_config_vector(None);
        self.doorbell = self.function.enable(&Queue {
            number: 0,
            entries: ENTRIES,
            vector,
            descriptors: self.bus(0),
            available: self.bus(AVAILABLE),
            used: self.bus(USED),
        })?;
        self.function.run();
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
        self.function.notify(self.doorbell, 0);
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
            self.function.fail();
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
