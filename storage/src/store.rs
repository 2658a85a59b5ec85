//! A small crash-safe store on a volume: what a node must not forget.
//!
//! Keys with values, changed in transactions. A transaction is one record of a log
//! (`record`); it is confirmed once the volume has flushed it. The volume has two
//! halves: when the log has filled one, all that lives is copied to the other, and
//! only when that is durable does the other's header make it the newer one. So at
//! any cut of power one half is whole, and what was confirmed is in it.
//!
//! Sans-IO: [`Store::operation`] says what to do with the volume, one operation at a time;
//! [`Store::read`], [`Store::done`] and [`Store::failed`] say how it went.
//!
//! What a cut of power may leave behind is a torn last record, never more: behind the
//! last good record nothing of the same log may follow. If something does, the
//! volume was damaged and the store refuses to open, rather than go back in time.

mod changing;
mod key;
mod opening;
mod record;

use crate::random::Random;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Bound;
pub use key::StoreKey;
use record::{Change, Digest, Found, Header, Place};

/// Octets of a block: the unit of this store, of any size of sector.
pub const BLOCK_BYTES: usize = 4096;
/// Blocks a volume must have: each half holds all that may live, and room for new records.
pub const BLOCKS_MIN: u64 = 2 * HALF_BLOCKS;
/// Blocks of a half: 8 MiB, also of a larger volume, so that it may grow.
const HALF_BLOCKS: u64 = 2048;
/// Blocks read at once.
const READ_BLOCKS: u64 = 8;
/// Octets of changes in a record of a copy; a change may go beyond it once.
const COPY_BYTES: usize = 16 * 1024;

/// What to do with the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOperation<'a> {
    /// Read blocks and hand them to [`Store::read`].
    Read {
        /// The first.
        first: u64,
        /// How many.
        blocks: u64,
    },
    /// Write whole blocks.
    Write {
        /// The first.
        first: u64,
        /// Their octets.
        bytes: &'a [u8],
    },
    /// Make durable what was written.
    Flush,
}

/// Why a volume cannot be opened, or no longer be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// It has never been formatted.
    Blank,
    /// It holds foreign data.
    Foreign,
    /// It holds a store that this key does not authenticate.
    Unauthentic,
    /// What was confirmed is no longer all there.
    Damaged,
    /// It has fewer than [`BLOCKS_MIN`].
    TooSmall,
    /// An operation failed.
    Volume,
}

impl core::fmt::Display for StoreError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(match self {
            Self::Blank => "is empty: it has not been formatted",
            Self::Foreign => "holds data that is not a node's state",
            Self::Unauthentic => {
                "holds no state under this image's key: it is another node's or another owner's, or was altered"
            }
            Self::Damaged => "is damaged: what was confirmed is not all there",
            Self::TooSmall => "is smaller than 16 MiB",
            Self::Volume => "could not be read or written",
        })
    }
}

/// Why a change is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreRefusal {
    /// The store is not open.
    Closed,
    /// The key is empty or too long, or the value is too long.
    TooLong,
    /// More than the store may hold.
    Full,
    /// More changes at once than a transaction may have.
    Busy,
}

/// Where the work is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Reads the headers of both halves.
    Headers,
    /// Reads the log of the newer half.
    Replay,
    /// Looks for records behind the end of the log, from this block on.
    Scan(u64),
    /// Both headers are blank: looks whether all is, from this block on.
    Inspect(u64),
    /// Makes durable what the log holds, before the caller relies on it.
    FlushOpened,
    /// Nothing to do but transactions.
    Open,
    Append,
    FlushAppend,
    /// Writes a record of the copy.
    Copy,
    FlushCopy,
    WriteHeader,
    FlushHeader,
    /// Makes the other half blank, for formatting.
    WriteBlank,
    FlushBlank,
    Stopped(StoreError),
}

/// The store of one volume.
#[derive(Debug)]
pub struct Store {
    phase: Phase,
    outstanding: bool,
    key: StoreKey,
    identity: [u8; 16],
    /// The half in use, 0 or 1.
    half: u64,
    generation: u64,
    log: u64,
    /// Of the last record, from 1 in each log.
    sequence: u64,
    /// Its digest.
    last: Digest,
    /// The block after the log.
    tail: u64,
    headers: [Option<Found>; 2],
    /// Records that the header says were there before it, and the last one's digest.
    promised: u64,
    promised_last: Digest,
    /// Blocks read, from `buffer_first` on.
    buffer: Vec<u8>,
    buffer_first: u64,
    entries: BTreeMap<String, Vec<u8>>,
    bytes: usize,
    /// The transaction that waits, and what its record will take.
    pending: Vec<Change>,
    pending_bytes: usize,
    /// Number of the transaction that waits or is being written.
    ticket: u64,
    /// The one that is being written.
    writing: u64,
    confirmed: u64,
    output: Vec<u8>,
    output_digest: Digest,
    /// What is still to be copied, record by record.
    copy: VecDeque<Vec<Change>>,
    /// Octets of records that were made since it was asked last.
    work: usize,
    random: Random,
}

impl Store {
    /// Begins to open a volume of `blocks` whose header and records `key` authenticates;
    /// `seed` is random.
    #[must_use]
    pub const fn open(blocks: u64, key: StoreKey, seed: u64) -> Self {
        let phase = if blocks < BLOCKS_MIN { Phase::Stopped(StoreError::TooSmall) } else { Phase::Headers };
        Self {
            phase,
            outstanding: false,
            key,
            identity: [0; 16],
            half: 0,
            generation: 0,
            log: 0,
            sequence: 0,
            last: [0; 32],
            tail: 0,
            headers: [None; 2],
            promised: 0,
            promised_last: [0; 32],
            buffer: Vec::new(),
            buffer_first: 0,
            entries: BTreeMap::new(),
            bytes: 0,
            pending: Vec::new(),
            pending_bytes: 0,
            ticket: 1,
            writing: 0,
            confirmed: 0,
            output: Vec::new(),
            output_digest: [0; 32],
            copy: VecDeque::new(),
            work: 0,
            random: Random::new(seed),
        }
    }

    /// Begins to format a volume of `blocks`, whatever it holds. `identity`, which
    /// tells volumes apart, and `seed` are random.
    #[must_use]
    pub fn format(blocks: u64, key: StoreKey, identity: [u8; 16], seed: u64) -> Self {
        let mut store = Self::open(blocks, key, seed);
        if store.phase == Phase::Headers {
            store.phase = Phase::WriteBlank;
            (store.identity, store.half) = (identity, 1);
            store.output = alloc::vec![0; BLOCK_BYTES];
        }
        store
    }

    /// Whether it can be used.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        matches!(
            self.phase,
            Phase::Open
                | Phase::Append
                | Phase::FlushAppend
                | Phase::Copy
                | Phase::FlushCopy
                | Phase::WriteHeader
                | Phase::FlushHeader
        ) && self.generation != 0
    }

    /// Why it cannot be used, for ever.
    #[must_use]
    pub const fn error(&self) -> Option<StoreError> {
        match self.phase {
            Phase::Stopped(error) => Some(error),
            _ => None,
        }
    }

    /// Which volume this is.
    #[must_use]
    pub const fn identity(&self) -> [u8; 16] {
        self.identity
    }

    /// The value of a key, with changes that are not confirmed yet.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.entries.get(key).map(Vec::as_slice)
    }

    /// Keys that begin with `prefix`, and their values, in the order of the keys.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.entries
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.as_str(), value.as_slice()))
    }

    /// Octets of keys and values.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Octets of records that were made, or taken apart, since this was asked last: each is
    /// hashed.
    pub const fn take_work(&mut self) -> usize {
        core::mem::replace(&mut self.work, 0)
    }

    /// The last transaction that is durable, with all before it.
    #[must_use]
    pub const fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// What to do with the volume now: one operation at a time.
    pub fn operation(&mut self) -> Option<StoreOperation<'_>> {
        if self.outstanding {
            return None;
        }
        if self.phase == Phase::Open && !self.pending.is_empty() {
            self.begin_transaction();
        }
        let start = self.half * HALF_BLOCKS;
        let end = start + HALF_BLOCKS;
        let operation = match self.phase {
            Phase::Open | Phase::Stopped(_) => return None,
            Phase::Headers => {
                let half = u64::from(self.headers.first().is_some_and(Option::is_some));
                StoreOperation::Read { first: half * HALF_BLOCKS, blocks: 1 }
            }
            Phase::Replay => {
                let first = self.buffer_first + blocks_of(self.buffer.len());
                StoreOperation::Read { first, blocks: READ_BLOCKS.min(end - first) }
            }
            Phase::Scan(first) => StoreOperation::Read { first, blocks: READ_BLOCKS.min(end - first) },
            Phase::Inspect(first) => {
                StoreOperation::Read { first, blocks: READ_BLOCKS.min(BLOCKS_MIN - first) }
            }
            Phase::Append | Phase::Copy => StoreOperation::Write { first: self.tail, bytes: &self.output },
            Phase::WriteHeader | Phase::WriteBlank => {
                StoreOperation::Write { first: start, bytes: &self.output }
            }
            Phase::FlushOpened
            | Phase::FlushAppend
            | Phase::FlushCopy
            | Phase::FlushHeader
            | Phase::FlushBlank => StoreOperation::Flush,
        };
        self.outstanding = true;
        Some(operation)
    }

    /// The blocks that were asked for.
    pub fn read(&mut self, bytes: &[u8]) {
        self.outstanding = false;
        self.work = self.work.saturating_add(bytes.len());
        match self.phase {
            Phase::Headers => self.header_read(bytes),
            Phase::Replay => {
                self.buffer.extend_from_slice(bytes);
                self.replay();
            }
            Phase::Scan(first) => self.scan(first, bytes),
            Phase::Inspect(first) => self.inspect(first, bytes),
            _ => {}
        }
    }

    /// A write or flush succeeded.
    pub fn done(&mut self) {
        self.outstanding = false;
        match self.phase {
            Phase::FlushOpened => self.phase = Phase::Open,
            Phase::Append => {
                self.tail += blocks_of(self.output.len());
                self.phase = Phase::FlushAppend;
            }
            Phase::FlushAppend => {
                (self.last, self.confirmed) = (self.output_digest, self.writing);
                self.phase = Phase::Open;
            }
            Phase::Copy => {
                self.tail += blocks_of(self.output.len());
                if !self.copy_record() {
                    self.phase = Phase::FlushCopy;
                }
            }
            Phase::FlushCopy => self.write_header(),
            Phase::WriteHeader => self.phase = Phase::FlushHeader,
            Phase::FlushHeader => {
                self.confirmed = self.writing;
                self.phase = Phase::Open;
            }
            Phase::WriteBlank => self.phase = Phase::FlushBlank,
            Phase::FlushBlank => self.begin_copy(),
            _ => {}
        }
    }

    /// An operation failed: what was confirmed stays, nothing more is taken.
    pub const fn failed(&mut self) {
        self.outstanding = false;
        self.phase = Phase::Stopped(StoreError::Volume);
    }

    /// Takes what waits into the next record, or the other half if this one is full.
    fn begin_transaction(&mut self) {
        let place = self.place();
        let (bytes, digest) = record::encode(&self.key, &place, &self.pending);
        self.work = self.work.saturating_add(bytes.len());
        if self.tail + blocks_of(bytes.len()) > (self.half + 1) * HALF_BLOCKS {
            self.begin_copy();
            return;
        }
        self.take_pending();
        self.sequence = place.sequence;
        (self.output, self.output_digest) = (bytes, digest);
        self.phase = Phase::Append;
    }

    /// The transaction that waited is being written from now on.
    fn take_pending(&mut self) {
        self.pending.clear();
        self.pending_bytes = 0;
        self.writing = self.ticket;
        self.ticket += 1;
    }

    /// Copies all that lives to the other half, as it is now.
    fn begin_copy(&mut self) {
        self.take_pending();
        self.half = 1 - self.half;
        self.generation += 1;
        self.log = self.random.next();
        self.sequence = 0;
        self.last = Header::seed(&self.key, &self.identity, self.log);
        self.tail = self.half * HALF_BLOCKS + 1;
        // As it is now, whatever comes meanwhile. Records are made one at a time.
        let (mut changes, mut bytes) = (Vec::new(), 0);
        for (key, value) in &self.entries {
            bytes += record::change_bytes(key, Some(value));
            changes.push((key.clone(), Some(value.clone())));
            if bytes > COPY_BYTES {
                self.copy.push_back(core::mem::take(&mut changes));
                bytes = 0;
            }
        }
        if !changes.is_empty() {
            self.copy.push_back(changes);
        }
        if self.copy_record() {
            self.phase = Phase::Copy;
        } else {
            self.write_header();
        }
    }

    /// Begins what makes the copy the one that counts.
    fn write_header(&mut self) {
        let header = Header {
            identity: self.identity,
            generation: self.generation,
            log: self.log,
            records: self.sequence,
            last: self.last,
        };
        self.output = header.to_block(&self.key);
        self.phase = Phase::WriteHeader;
    }

    /// Makes the next record of a copy; false when there is none.
    fn copy_record(&mut self) -> bool {
        let Some(changes) = self.copy.pop_front() else { return false };
        let place = self.place();
        let (record, digest) = record::encode(&self.key, &place, &changes);
        self.work = self.work.saturating_add(record.len());
        self.output = record;
        (self.last, self.sequence) = (digest, place.sequence);
        true
    }

    /// The place of the next record.
    const fn place(&self) -> Place {
        Place { log: self.log, sequence: self.sequence + 1, before: self.last }
    }
}

/// Whole blocks that `bytes` take.
const fn blocks_of(bytes: usize) -> u64 {
    bytes.div_ceil(BLOCK_BYTES) as u64
}

#[cfg(test)]
mod tests;
