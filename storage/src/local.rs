//! A disk of the machine itself, as the node sees it, and drivers of such disks, one module
//! for each kind.

pub mod virtio_blk;
use alloc::vec::Vec;

/// What is asked of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskWork {
    /// Read so many sectors of 512 bytes.
    Read {
        /// The first.
        sector: u64,
        /// How many.
        sectors: u32,
    },
    /// Write whole sectors.
    Write {
        /// The first.
        sector: u64,
        /// Their bytes.
        bytes: Vec<u8>,
    },
    /// Make durable what was written.
    Flush,
}

/// A disk that does what it is asked, one thing for each of a few tags at a time.
pub trait LocalDisk {
    /// Its size in sectors of 512 bytes.
    fn sectors(&self) -> u64;
    /// Begins a work; false when it cannot be begun now or ever.
    fn begin(&mut self, tag: u8, work: &DiskWork) -> bool;
    /// The next work that has ended, and what was read; None inside when it failed.
    fn take(&mut self) -> Option<(u8, Option<Vec<u8>>)>;
    /// Asks for an interrupt at the next end; true when something has ended already.
    fn arm(&mut self) -> bool;
}
