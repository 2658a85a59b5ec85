//! The request type shared by guests, checkpoint and migration.

use alloc::string::String;
use alloc::vec::Vec;

use crate::histogram::Histogram;

/// Octets of a sector: the unit of every address and length here.
pub const SECTOR_BYTES: usize = 512;

/// The submitter's name for a request; unique among its unfinished ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A sector's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lba(pub u64);

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Fill the payload from the disk.
    Read,
    /// Write the payload to the disk.
    Write,
    /// Make every acknowledged write durable. Address and length are zero.
    Flush,
    /// The range's content is no longer needed. No payload.
    Discard,
    /// The range becomes zero. No payload.
    WriteZeroes,
}

impl Operation {
    /// Whether it changes what the disk holds.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Discard | Self::WriteZeroes)
    }
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The submitter's name for it.
    pub id: RequestId,
    /// What to do.
    pub operation: Operation,
    /// First sector.
    pub lba: Lba,
    /// Number of sectors.
    pub sectors: u32,
}

impl Request {
    pub(crate) fn end(&self) -> u64 {
        self.lba.0.saturating_add(u64::from(self.sectors))
    }
}

/// Payload memory, owned by the submitter (a guest's memory): octets are copied
/// once, straight between a wire buffer and the guest. Only requests that have not
/// finished are named.
pub trait Payload {
    /// Copies the request's octets from `offset` into `target` (writes).
    fn load(&mut self, id: RequestId, offset: usize, target: &mut [u8]);
    /// Copies `source` to the request's octets at `offset` (reads).
    fn store(&mut self, id: RequestId, offset: usize, source: &[u8]);
}

/// Payload in octets that can be borrowed, as is not said of a guest's memory.
pub trait Octets {
    /// A request's octets from `offset` on; none if it has not so many.
    fn find(&mut self, id: RequestId, offset: usize, length: usize) -> Option<&mut [u8]>;
}

impl<T: Octets> Payload for T {
    fn load(&mut self, id: RequestId, offset: usize, target: &mut [u8]) {
        if let Some(data) = self.find(id, offset, target.len()) {
            target.copy_from_slice(data);
        }
    }

    fn store(&mut self, id: RequestId, offset: usize, source: &[u8]) {
        if let Some(data) = self.find(id, offset, source.len()) {
            data.copy_from_slice(source);
        }
    }
}

/// Why a request failed for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BlockError {
    /// Beyond the disk's end.
    OutOfRange,
    /// The disk is read-only.
    WriteProtected,
    /// The target could not read or write the medium.
    Medium,
    /// The target cannot do this.
    Unsupported,
    /// Another initiator holds a reservation.
    Reserved,
    /// The target did not answer within the volume's policy deadline.
    Deadline,
}

/// Why a request was not accepted; nothing will be heard of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// Too many requests are unfinished: submit again after a completion.
    Full,
    /// The length is zero or too large.
    BadLength,
    /// An unfinished request has this name.
    DuplicateId,
    /// The volume is read-only.
    ReadOnly,
}

/// A finished request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The submitter's name for it.
    pub id: RequestId,
    /// How it ended.
    pub result: Result<(), BlockError>,
}

/// A disk's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Octets of a logical block: all addresses and lengths are of whole ones.
    pub block_bytes: u32,
    /// Logical blocks of a physical one, as a power of two.
    pub physical_exponent: u8,
    /// The first logical block with which a physical one begins.
    pub aligned_block: u8,
    /// Logical blocks of the shortest transfer that costs nothing more.
    pub least_blocks: u16,
}

impl Geometry {
    /// Sectors in a logical block.
    #[must_use]
    pub const fn block_sectors(&self) -> u32 {
        if self.block_bytes > 512 { self.block_bytes / 512 } else { 1 }
    }
}

impl Default for Geometry {
    fn default() -> Self {
        Self { block_bytes: 512, physical_exponent: 0, aligned_block: 0, least_blocks: 1 }
    }
}

/// How a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeState {
    /// Never reached yet.
    Starting,
    /// Serving.
    Ready,
    /// Reached once; not answering now.
    Stalled,
    /// The target refused us for a reason that retrying is unlikely to cure
    /// (it is retried all the same).
    Refused,
}

/// How far the last try to reach the target came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing has answered.
    #[default]
    Silent,
    /// A connection is open, or the MAC address is known.
    Connected,
    /// The target knows us.
    LoggedIn,
    /// The disk is known.
    Ready,
}

/// Work done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests finished well.
    pub completed: u64,
    /// Requests failed.
    pub failed: u64,
    /// Octets read.
    pub bytes_read: u64,
    /// Octets written.
    pub bytes_written: u64,
    /// Frames or connections tried again.
    pub retries: u64,
    /// Digest mismatches.
    pub digest_errors: u64,
    /// Frames or PDUs dropped: not ours, malformed, late or forged.
    pub rejected: u64,
    /// Times the volume stalled.
    pub stalls: u64,
    /// Requests joined with a neighbour.
    pub merged: u64,
}

/// How a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathState {
    /// Looking for the target.
    Starting,
    /// In use.
    Active,
    /// It works; another one is in use.
    Standby,
    /// It does not answer.
    Lost,
    /// The target refuses us there, or it leads elsewhere.
    Refused,
    /// The operator took it out of use.
    Disabled,
}

/// Why a path was not taken out of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathRefusal {
    /// There is no such path.
    Unknown,
    /// It is the last one in use.
    Last,
}

/// What a path reports about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStatus {
    /// Its ends, in words.
    pub name: String,
    /// How it is.
    pub state: PathState,
    /// How far it came.
    pub stage: Stage,
    /// Smoothed round-trip time.
    pub rtt_ns: Option<u64>,
    /// Since when it does not answer.
    pub lost_since_ns: Option<u64>,
    /// Commands or frames answered, by the time that took.
    pub latency: Histogram,
    /// Octets read.
    pub bytes_read: u64,
    /// Octets written.
    pub bytes_written: u64,
    /// Frames or connections tried again.
    pub retries: u64,
    /// Digest mismatches.
    pub digest_errors: u64,
    /// Times it was lost.
    pub stalls: u64,
    /// The last thing that went wrong, in words.
    pub last_error: Option<&'static str>,
    /// What was negotiated, by name.
    pub negotiated: Vec<(&'static str, String)>,
}

/// What a volume reports about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeStatus {
    /// How it is.
    pub state: VolumeState,
    /// How far the last try came.
    pub stage: Stage,
    /// Since when it does not answer.
    pub stalled_since_ns: Option<u64>,
    /// Tries since then.
    pub retries: u64,
    /// Smoothed round-trip time.
    pub rtt_ns: Option<u64>,
    /// Sectors of the disk, once known.
    pub capacity: Option<u64>,
    /// The target is read-only.
    pub write_protected: bool,
    /// Ranges can be discarded.
    pub can_discard: bool,
    /// Its blocks.
    pub geometry: Geometry,
    /// Requests unfinished.
    pub pending: usize,
    /// Work done.
    pub counters: Counters,
    /// Requests by the time from submission to completion.
    pub latency: Histogram,
    /// The last thing that went wrong, in words.
    pub last_error: Option<&'static str>,
    /// Why what is asked for cannot be used, and what there is instead.
    pub unusable: Option<String>,
    /// What was negotiated with the target, by name.
    pub negotiated: Vec<(&'static str, String)>,
    /// The paths to the target.
    pub paths: Vec<PathStatus>,
}

impl VolumeStatus {
    /// The last thing that went wrong, as exactly as it is known.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.unusable.clone().or_else(|| self.last_error.map(String::from))
    }
}
