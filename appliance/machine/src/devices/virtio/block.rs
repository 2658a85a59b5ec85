//! virtio-blk: a guest's disk.
//!
//! Spec: virtio 1.2, section 5.2. The device decides nothing about storage: it
//! turns chains into [`BlockOperation`]s, copies data when asked, and returns a
//! chain when told how it ended.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use hv_x86::low32;
use serde::{Deserialize, Serialize};

use super::chain::{Chain, Segment, Segments};
use super::transport::Transport;
use crate::fault::GuestFault;
use crate::guest_memory::GuestMemory;
use crate::limits::{
    BLOCK_RANGE_SECTORS_MAX, BLOCK_REQUEST_BYTES_MAX, BLOCK_SEGMENT_BYTES_MAX, BLOCK_SEGMENTS_HELD_MAX,
    BLOCK_SEGMENTS_MAX, BLOCK_SERIAL_BYTES, CHAIN_DESCRIPTORS_MAX, CHAINS_PER_CALL_MAX, QUEUE_SIZE_MAX,
};

mod bounds;

/// Size of a sector in bytes.
pub const SECTOR_BYTES: u32 = 512;

const FEATURE_SIZE_MAX: u64 = 1 << 1;
const FEATURE_SEGMENTS_MAX: u64 = 1 << 2;
const FEATURE_READ_ONLY: u64 = 1 << 5;
const FEATURE_BLOCK_SIZE: u64 = 1 << 6;
const FEATURE_FLUSH: u64 = 1 << 9;
const FEATURE_TOPOLOGY: u64 = 1 << 10;
const FEATURE_DISCARD: u64 = 1 << 13;
const FEATURE_WRITE_ZEROES: u64 = 1 << 14;

const REQUEST_IN: u32 = 0;
const REQUEST_OUT: u32 = 1;
const REQUEST_FLUSH: u32 = 4;
const REQUEST_GET_ID: u32 = 8;
const REQUEST_DISCARD: u32 = 11;
const REQUEST_WRITE_ZEROES: u32 = 13;
const HEADER_BYTES: u64 = 16;

/// A disk's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockGeometry {
    /// Bytes of a block: requests are of whole ones.
    pub block_bytes: u32,
    /// Blocks of a physical one, as a power of two.
    pub physical_exponent: u8,
    /// The first block with which a physical one begins.
    pub aligned_block: u8,
    /// Blocks of the shortest transfer that costs nothing more.
    pub least_blocks: u16,
}

impl Default for BlockGeometry {
    fn default() -> Self {
        Self { block_bytes: SECTOR_BYTES, physical_exponent: 0, aligned_block: 0, least_blocks: 1 }
    }
}

/// What a disk is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockConfig {
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Whether the volume can discard and write zeroes.
    pub discard: bool,
    /// Its blocks.
    pub geometry: BlockGeometry,
    /// Serial number; longer ones are cut to 20 bytes.
    pub serial: Vec<u8>,
}

/// Names one operation until it is complete. A device reset invalidates all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlockToken {
    generation: u32,
    head: u16,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockKind {
    /// Disk to guest.
    Read,
    /// Guest to disk.
    Write,
    /// Everything acknowledged so far becomes durable.
    Flush,
    /// The range's content is no longer needed.
    Discard,
    /// The range becomes zero.
    WriteZeroes,
}

/// One request for the storage layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockOperation {
    /// Its name.
    pub token: BlockToken,
    /// What to do.
    pub kind: BlockKind,
    /// First sector.
    pub sector: u64,
    /// Length in bytes, a multiple of 512; zero for a flush.
    pub length: u64,
    /// Into how many pieces of guest memory the data is scattered.
    pub segments: usize,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockStatus {
    /// Done.
    Ok,
    /// Not done.
    IoError,
    /// Not something this disk does.
    Unsupported,
}

/// Why data was not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockRefusal {
    /// The operation was completed, or forgotten by a reset.
    Stale,
    /// The operation has no such bytes, or copies the other way.
    Range,
    /// The guest's memory is gone.
    Guest(GuestFault),
}

/// Places of a list that grew to so many elements, four at first.
const fn places(count: usize) -> usize {
    if count == 0 {
        return 0;
    }
    let places = count.next_power_of_two();
    if places < 4 { 4 } else { places }
}

/// Those that the longest chain takes, whichever way its segments go.
const CHAIN_PLACES_MAX: usize = 2 * CHAIN_DESCRIPTORS_MAX;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct InFlight {
    kind: BlockKind,
    sector: u64,
    length: u64,
    readable: Segments,
    writable: Segments,
}

/// The device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioBlock {
    /// Registers and queue.
    pub transport: Transport,
    config: BlockConfig,
    generation: u32,
    in_flight: BTreeMap<u16, InFlight>,
    /// Places that their lists of segments take.
    held: usize,
    /// The last look ended before the ring did.
    more: bool,
    reissue: VecDeque<u16>,
}

impl VirtioBlock {
    /// A disk with its registers at `base_address`.
    #[must_use]
    pub fn new(mut config: BlockConfig, base_address: u32) -> Self {
        let always = FEATURE_SIZE_MAX | FEATURE_SEGMENTS_MAX | FEATURE_BLOCK_SIZE | FEATURE_FLUSH;
        let mut features = always | FEATURE_TOPOLOGY;
        if config.read_only {
            features |= FEATURE_READ_ONLY;
        } else if config.discard {
            features |= FEATURE_DISCARD | FEATURE_WRITE_ZEROES;
        }
        config.serial.truncate(BLOCK_SERIAL_BYTES);
        Self {
            transport: Transport::new(2, 0x01_8000, features, 1, base_address),
            config,
            generation: 0,
            in_flight: BTreeMap::new(),
            held: 0,
            more: false,
            reissue: VecDeque::new(),
        }
    }

    /// Operations handed out and not complete.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Size in sectors.
    #[must_use]
    pub const fn sectors(&self) -> u64 {
        self.config.sectors
    }

    /// The volume was resized.
    pub fn set_sectors(&mut self, sectors: u64) {
        self.config.sectors = sectors;
        self.transport.config_changed();
    }

    /// Hands every operation out once more: after dom0 or the connection to the
    /// storage was started anew. Their chains are read from the ring again.
    pub fn reissue_in_flight(&mut self, memory: &dyn GuestMemory) {
        self.reissue.clear();
        self.held = 0;
        for head in core::mem::take(&mut self.in_flight).into_keys() {
            let Some(chain) = self.transport.walk_again(0, head, memory) else { return };
            match self.accept(chain, memory) {
                Ok(true) => self.reissue.push_back(head),
                Ok(false) => {}
                Err(fault) => return self.transport.fail(fault),
            }
        }
    }

    /// Drops what [`Self::reissue_in_flight`] finds again in guest memory.
    pub fn compact(&mut self) {
        for entry in self.in_flight.values_mut() {
            entry.readable = Segments::default();
            entry.writable = Segments::default();
        }
        self.held = 0;
    }

    /// The next operation, if the guest asked for one. Requests that need no
    /// storage are answered here. Call it until there is none, and again after a
    /// completion if it was not called until then: the guest notifies only when
    /// its ring was found empty.
    pub fn next_operation(&mut self, memory: &dyn GuestMemory) -> Option<BlockOperation> {
        self.more = false;
        while let Some(head) = self.reissue.pop_front() {
            if let Some(operation) = self.operation(head) {
                return Some(operation);
            }
        }
        for _ in 0..CHAINS_PER_CALL_MAX {
            let has_room = self.held + CHAIN_PLACES_MAX <= BLOCK_SEGMENTS_HELD_MAX;
            if self.in_flight.len() >= usize::from(QUEUE_SIZE_MAX) || !has_room {
                return None;
            }
            let chain = self.transport.pop(0, memory)?;
            let head = chain.head;
            match self.accept(chain, memory) {
                Ok(true) => return self.operation(head),
                Ok(false) => {}
                Err(fault) => {
                    self.transport.fail(fault);
                    return None;
                }
            }
        }
        self.more = true;
        None
    }

    fn operation(&self, head: u16) -> Option<BlockOperation> {
        let entry = self.in_flight.get(&head)?;
        let segments = if entry.kind == BlockKind::Read { &entry.writable } else { &entry.readable };
        Some(BlockOperation {
            token: BlockToken { generation: self.generation, head },
            kind: entry.kind,
            sector: entry.sector,
            length: entry.length,
            segments: segments.0.len(),
        })
    }

    /// Parses a request. True when it is now in flight, false when it was
    /// answered on the spot.
    fn accept(&mut self, chain: Chain, memory: &dyn GuestMemory) -> Result<bool, GuestFault> {
        if self.in_flight.contains_key(&chain.head) {
            return Err(GuestFault::HeadInFlight);
        }
        let mut header = [0; 16];
        chain.readable.load(memory, 0, &mut header)?;
        let [t0, t1, t2, t3, _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = header;
        let request = u32::from_le_bytes([t0, t1, t2, t3]);
        let mut sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        // 5.2.6: the status is the last writable byte.
        let inward = chain.writable.length().checked_sub(1).ok_or(GuestFault::ShortRequest)?;
        let outward = chain.readable.length().saturating_sub(HEADER_BYTES);
        let (kind, length) = match request {
            REQUEST_IN => (BlockKind::Read, inward),
            REQUEST_OUT => (BlockKind::Write, outward),
            REQUEST_FLUSH => (BlockKind::Flush, 0),
            REQUEST_GET_ID => return self.answer_serial(&chain, inward, memory),
            REQUEST_DISCARD | REQUEST_WRITE_ZEROES if self.config.discard => {
                let mut range = [0; 16];
                if outward != 16 {
                    return self.answer(&chain, inward, BlockStatus::Unsupported, memory);
                }
                chain.readable.load(memory, HEADER_BYTES, &mut range)?;
                let [a, b, c, d, e, f, g, h, n0, n1, n2, n3, _, _, _, _] = range;
                sector = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
                let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
                if sectors > BLOCK_RANGE_SECTORS_MAX {
                    return self.answer(&chain, inward, BlockStatus::IoError, memory);
                }
                let kind =
                    if request == REQUEST_DISCARD { BlockKind::Discard } else { BlockKind::WriteZeroes };
                (kind, u64::from(sectors) * u64::from(SECTOR_BYTES))
            }
            _ => return self.answer(&chain, inward, BlockStatus::Unsupported, memory),
        };
        if kind == BlockKind::Flush {
            sector = 0;
        } else if !self.is_possible(kind, sector, length) {
            return self.answer(&chain, inward, BlockStatus::IoError, memory);
        }
        let Chain { head, readable, writable } = chain;
        let entry = InFlight { kind, sector, length, readable, writable };
        self.held = self.held.saturating_add(entry.places());
        self.in_flight.insert(head, entry);
        Ok(true)
    }

    fn is_possible(&self, kind: BlockKind, sector: u64, length: u64) -> bool {
        let (block, whole) = (u64::from(SECTOR_BYTES), u64::from(self.config.geometry.block_bytes));
        let transfer = matches!(kind, BlockKind::Read | BlockKind::Write);
        length != 0
            && length.is_multiple_of(whole)
            && sector.checked_mul(block).is_some_and(|start| start.is_multiple_of(whole))
            && (!transfer || length <= BLOCK_REQUEST_BYTES_MAX)
            && (kind == BlockKind::Read || !self.config.read_only)
            && sector.checked_add(length / block).is_some_and(|end| end <= self.config.sectors)
    }

    /// Answers a request without storage.
    fn answer(
        &mut self,
        chain: &Chain,
        status_offset: u64,
        status: BlockStatus,
        memory: &dyn GuestMemory,
    ) -> Result<bool, GuestFault> {
        chain.writable.store(memory, status_offset, &[status.byte()])?;
        self.transport.push_used(0, memory, &[(chain.head, 1)]);
        Ok(false)
    }

    fn answer_serial(
        &mut self,
        chain: &Chain,
        room: u64,
        memory: &dyn GuestMemory,
    ) -> Result<bool, GuestFault> {
        // 5.2.6.1: 20 bytes, padded with zeroes, terminated only if shorter.
        let mut serial = [0; BLOCK_SERIAL_BYTES];
        for (target, source) in serial.iter_mut().zip(&self.config.serial) {
            *target = *source;
        }
        let length = hv_x86::to_usize(room).min(serial.len());
        chain.writable.store(memory, 0, serial.get(..length).unwrap_or_default())?;
        chain.writable.store(memory, room, &[BlockStatus::Ok.byte()])?;
        self.transport.push_used(0, memory, &[(chain.head, low32(length as u64) + 1)]);
        Ok(false)
    }

    fn entry(&self, token: BlockToken) -> Result<&InFlight, BlockRefusal> {
        if token.generation != self.generation {
            return Err(BlockRefusal::Stale);
        }
        self.in_flight.get(&token.head).ok_or(BlockRefusal::Stale)
    }

    /// Copies what a write wants written, from `offset` of its data.
    ///
    /// # Errors
    /// See [`BlockRefusal`]; nothing is to be written then.
    pub fn load(
        &self,
        token: BlockToken,
        offset: u64,
        target: &mut [u8],
        memory: &dyn GuestMemory,
    ) -> Result<(), BlockRefusal> {
        let entry = self.entry(token)?;
        entry.check(BlockKind::Write, offset, target.len())?;
        entry.readable.load(memory, offset + HEADER_BYTES, target).map_err(BlockRefusal::Guest)
    }

    /// Copies what a read found, to `offset` of its data.
    ///
    /// # Errors
    /// See [`BlockRefusal`].
    pub fn store(
        &self,
        token: BlockToken,
        offset: u64,
        source: &[u8],
        memory: &dyn GuestMemory,
    ) -> Result<(), BlockRefusal> {
        let entry = self.entry(token)?;
        entry.check(BlockKind::Read, offset, source.len())?;
        entry.writable.store(memory, offset, source).map_err(BlockRefusal::Guest)
    }

    /// Ends an operation: status, used ring, interrupt. False when it is stale.
    pub fn complete(&mut self, token: BlockToken, status: BlockStatus, memory: &dyn GuestMemory) -> bool {
        if token.generation != self.generation {
            return false;
        }
        let Some(entry) = self.in_flight.remove(&token.head) else { return false };
        self.held = self.held.saturating_sub(entry.places());
        let status_offset = entry.writable.length().saturating_sub(1);
        if let Err(fault) = entry.writable.store(memory, status_offset, &[status.byte()]) {
            self.transport.fail(fault);
            return true;
        }
        let written = if entry.kind == BlockKind::Read && status == BlockStatus::Ok {
            low32(entry.length.saturating_add(1))
        } else {
            1
        };
        self.transport.push_used(0, memory, &[(token.head, written)]);
        true
    }

    /// Forgets everything in flight: after a reset.
    pub fn forget(&mut self) {
        self.in_flight.clear();
        self.held = 0;
        self.reissue.clear();
        self.generation = self.generation.wrapping_add(1);
    }

    /// The configuration structure (5.2.4).
    #[must_use]
    pub fn config_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(60);
        bytes.extend_from_slice(&self.config.sectors.to_le_bytes());
        bytes.extend_from_slice(&BLOCK_SEGMENT_BYTES_MAX.to_le_bytes());
        bytes.extend_from_slice(&BLOCK_SEGMENTS_MAX.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]); // geometry
        let geometry = &self.config.geometry;
        bytes.extend_from_slice(&geometry.block_bytes.to_le_bytes());
        // Topology: in blocks. The best transfer is not known.
        bytes.extend_from_slice(&[geometry.physical_exponent, geometry.aligned_block]);
        bytes.extend_from_slice(&geometry.least_blocks.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&[0; 4]); // writeback, unused, queues
        if self.config.discard {
            for _ in 0..2 {
                // Discard: sectors, ranges, alignment; zeroes: sectors, ranges.
                bytes.extend_from_slice(&BLOCK_RANGE_SECTORS_MAX.to_le_bytes());
                bytes.extend_from_slice(&1u32.to_le_bytes());
                if bytes.len() == 44 {
                    // In sectors.
                    bytes.extend_from_slice(&(geometry.block_bytes / SECTOR_BYTES).to_le_bytes());
                }
            }
        }
        bytes.resize(60, 0);
        bytes
    }
}

impl InFlight {
    /// Places that its lists take, which grew by doubling.
    fn places(&self) -> usize {
        places(self.readable.0.len()).saturating_add(places(self.writable.0.len()))
    }

    fn check(&self, kind: BlockKind, offset: u64, length: usize) -> Result<(), BlockRefusal> {
        let end = offset.checked_add(length as u64);
        if self.kind == kind && end.is_some_and(|end| end <= self.length) {
            Ok(())
        } else {
            Err(BlockRefusal::Range)
        }
    }
}

impl BlockStatus {
    const fn byte(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::IoError => 1,
            Self::Unsupported => 2,
        }
    }
}

#[cfg(test)]
#[path = "block/tests.rs"]
mod tests;
