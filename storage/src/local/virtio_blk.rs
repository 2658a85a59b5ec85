//! Driver of a virtio disk of the machine: two requests at a time, each with memory
//! of its own.
//!
//! Spec: Virtual I/O Device (VIRTIO) 1.2, sections 2.7 (split virtqueues), 3.1
//! (initialization), 5.2 (block device).
//!
//! The device shares the memory and may be hostile: what it returns must be a request
//! that is in flight, and anything else stops the disk.

use alloc::vec;
use alloc::vec::Vec;

use hv_abi::device::{DmaMemory, Mmio};
use hv_bus::virtio::Locations;
use hv_bus::virtio::function::{
    Doorbell, FEATURE_ACCESS_PLATFORM, FEATURE_VERSION_1, Function, FunctionError, Queue,
};
use hv_bus::virtio::ring::{Part, Ring};

use super::{DiskWork, LocalDisk};

/// Requests at a time.
const TAGS: usize = 2;
/// Bytes of the largest request.
const DATA_BYTES: usize = 256 * 1024;
const SECTOR: usize = 512;

/// Descriptors of the ring: three for each request, rounded up to a power of two.
const ENTRIES: u16 = 8;
/// Descriptors of one request: header, data, status.
const STEP: u16 = 3;
const HEADERS: usize = 512;
/// Header and status of one request.
const HEADER_STEP: usize = 64;
const STATUS_OFFSET: usize = 32;
const DATA: usize = 4096;
const _: () = assert!(Ring::memory_bytes(ENTRIES) <= HEADERS, "the ring ends before the headers");

// 5.2.3.
const FEATURE_READ_ONLY: u64 = 1 << 5;
const FEATURE_FLUSH: u64 = 1 << 9;
const FEATURES_WANTED: u64 = FEATURE_READ_ONLY | FEATURE_FLUSH | FEATURE_VERSION_1 | FEATURE_ACCESS_PLATFORM;

// 5.2.6: types and the one good status.
const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const STATUS_OK: u8 = 0;

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
enum TagState {
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
    ring: Ring,
    tags: [TagState; TAGS],
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
            ring: Ring::new(ENTRIES, 0, false),
            tags: [TagState::Nothing; TAGS],
            broken: false,
        };
        if let Err(error) = disk.start(vector) {
            disk.function.fail();
            return Err(error);
        }
        Ok(disk)
    }

    fn start(&mut self, vector: Option<u16>) -> Result<(), DiskError> {
        self.features = self.function.negotiate(|offered| offered & FEATURES_WANTED)?;
        if self.features & FEATURE_READ_ONLY != 0 {
            return Err(DiskError::ReadOnly);
        }
        // Capacity in sectors of 512 bytes (5.2.4).
        self.sectors = self.function.device_u64(0).ok_or(DiskError::BadWindow)?;
        self.function.set_config_vector(None);
        let [descriptors, available, used] = self.ring.addresses(&self.dma);
        self.doorbell = self.function.enable(&Queue {
            number: 0,
            entries: ENTRIES,
            vector,
            descriptors,
            available,
            used,
        })?;
        self.function.run();
        Ok(())
    }

    /// Puts a request into the ring: header, data, status (5.2.6).
    fn submit(&mut self, tag: usize, kind: u32, sector: u64, length: usize) -> bool {
        let (header, status) = (HEADERS + tag * HEADER_STEP, HEADERS + tag * HEADER_STEP + STATUS_OFFSET);
        let mut bytes = [0; 16];
        let fields = kind.to_le_bytes().into_iter().chain([0; 4]).chain(sector.to_le_bytes());
        for (target, byte) in bytes.iter_mut().zip(fields) {
            *target = byte;
        }
        let Some(first) = u16::try_from(tag).ok().and_then(|tag| tag.checked_mul(STEP)) else { return false };
        let reads = kind == TYPE_IN;
        let parts = [
            Part { id: first, at: header, length: bytes.len(), device_writes: false },
            Part { id: first + 1, at: DATA + tag * DATA_BYTES, length, device_writes: reads },
            Part { id: first + 2, at: status, length: 1, device_writes: true },
        ];
        // Without data the status follows the header.
        let parts = parts.into_iter().filter(|part| part.length != 0);
        let written = self.dma.write(header, &bytes)
            && self.dma.write(status, &[0xff])
            && self.ring.lend(&self.dma, parts);
        if written && self.ring.wants_notification(&self.dma) {
            self.function.notify(self.doorbell, 0);
        }
        written
    }

    /// The tag of the next request that the device has returned.
    fn next_used(&mut self) -> Option<usize> {
        if self.broken {
            return None;
        }
        let Ok(taken) = self.ring.take_used(&self.dma) else {
            self.broken = true;
            self.function.fail();
            return None;
        };
        taken.map(|(id, _)| usize::from(id / STEP))
    }
}

impl<M: Mmio, D: DmaMemory> LocalDisk for VirtioBlock<M, D> {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn begin(&mut self, tag: u8, work: &DiskWork) -> bool {
        let tag = usize::from(tag);
        if self.broken || self.tags.get(tag) != Some(&TagState::Nothing) {
            return false;
        }
        let (kind, sector, length, under) = match work {
            DiskWork::Read { sector, sectors } => {
                let length = usize::try_from(*sectors).unwrap_or(usize::MAX).saturating_mul(SECTOR);
                (TYPE_IN, *sector, length, TagState::Read(length))
            }
            DiskWork::Write { sector, bytes } => (TYPE_OUT, *sector, bytes.len(), TagState::Other),
            DiskWork::Flush if self.features & FEATURE_FLUSH == 0 => (TYPE_FLUSH, 0, 0, TagState::Done),
            DiskWork::Flush => (TYPE_FLUSH, 0, 0, TagState::Other),
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
        under == TagState::Done || self.submit(tag, kind, sector, length)
    }

    fn take(&mut self) -> Option<(u8, Option<Vec<u8>>)> {
        // A broken disk ends everything, badly.
        let done =
            |under: &TagState| *under == TagState::Done || (self.broken && *under != TagState::Nothing);
        let tag = match self.tags.iter().position(done) {
            Some(tag) => tag,
            None => self.next_used()?,
        };
        let under = core::mem::replace(self.tags.get_mut(tag)?, TagState::Nothing);
        let mut status = [0xff];
        let read = self.dma.read(HEADERS + tag * HEADER_STEP + STATUS_OFFSET, &mut status);
        let good = !self.broken && (under == TagState::Done || (read && status == [STATUS_OK]));
        let length = if let TagState::Read(length) = under { length } else { 0 };
        let mut bytes = vec![0; length];
        let good = good && self.dma.read(DATA + tag * DATA_BYTES, &mut bytes);
        Some((u8::try_from(tag).unwrap_or(0), good.then_some(bytes)))
    }

    fn arm(&mut self) -> bool {
        // The device always interrupts: two requests at a time are few.
        self.tags.contains(&TagState::Done) || self.ring.pending(&self.dma)
    }
}

#[cfg(test)]
mod tests;
