//! What a session can carry, and the parts that requests are cut into for it.

use crate::block::{BlockError, Operation, Request, SECTOR_BYTES};
use crate::mutants::{Mutant, mutated};

/// What a session can carry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Sectors of the disk.
    pub(crate) capacity: u64,
    /// Sectors of a block: the unit of every address and length.
    pub(crate) block: u32,
    /// Most sectors of a read or write.
    pub(crate) data: u32,
    /// Most sectors of a discard; zero when there is none.
    pub(crate) discard: u32,
    /// Most sectors of a write of zeroes.
    pub(crate) zeroes: u32,
}

impl Shape {
    /// Most sectors of a fragment: whole blocks, one at least.
    pub(super) fn most(&self, operation: Operation) -> u32 {
        let limit = match operation {
            Operation::Discard => self.discard,
            Operation::WriteZeroes => self.zeroes,
            _ => self.data,
        };
        (limit / self.block.max(1)).max(1).saturating_mul(self.block.max(1))
    }

    /// Whether it is within the disk, in whole blocks, and not too long for a read or
    /// write.
    #[inline]
    pub(super) fn takes(&self, request: &Request) -> bool {
        request.end() <= self.capacity && request.sectors <= self.data && self.aligns(request)
    }

    /// Whether it is in whole blocks.
    const fn aligns(&self, request: &Request) -> bool {
        let block = self.block;
        block <= 1 || (request.lba.0.is_multiple_of(block as u64) && request.sectors.is_multiple_of(block))
    }

    /// The result of a request that needs no target.
    pub(super) fn refuses(&self, request: &Request) -> Option<Result<(), BlockError>> {
        match request.operation {
            Operation::Flush if mutated(Mutant::FlushSkipped) => Some(Ok(())),
            Operation::Flush => None,
            _ if request.end() > self.capacity => Some(Err(BlockError::OutOfRange)),
            Operation::Discard if self.discard == 0 => Some(Err(BlockError::Unsupported)),
            _ if !self.aligns(request) => Some(Err(BlockError::Unsupported)),
            Operation::WriteZeroes if mutated(Mutant::ZeroesSkipped) => Some(Ok(())),
            _ => None,
        }
    }
}

/// A part of a group, given to the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) group: u64,
    pub(crate) operation: Operation,
    /// First sector on the disk.
    pub(crate) lba: u64,
    /// First sector within the group.
    pub(crate) first: u32,
    pub(crate) sectors: u32,
}

impl Fragment {
    /// Octets of payload.
    pub(crate) fn octets(&self) -> usize {
        usize::try_from(self.sectors).unwrap_or(0).saturating_mul(SECTOR_BYTES)
    }
}
