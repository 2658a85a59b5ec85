//! What a guest did wrong: the device it did it to stops until reset.

use serde::{Deserialize, Serialize};

use crate::gpa::Gpa;

/// A guest broke the rules of its platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestFault {
    /// An address range is not wholly RAM.
    OutsideMemory {
        /// First byte.
        gpa: Gpa,
        /// Length in bytes.
        length: u64,
    },
    /// A ring has a size that is zero, too large or no power of two, or an
    /// address that is not aligned.
    RingLayout,
    /// The available index is further ahead than the ring is long.
    AvailableIndex,
    /// A descriptor number is beyond its table.
    DescriptorIndex,
    /// A chain is longer than allowed, or a loop.
    ChainLength,
    /// A descriptor of no bytes.
    EmptyDescriptor,
    /// A device-readable descriptor after a device-writable one.
    DescriptorOrder,
    /// An indirect table inside an indirect table, together with a next
    /// descriptor, not a whole number of descriptors, or not negotiated.
    IndirectTable,
    /// A chain is made available again before it was returned.
    HeadInFlight,
    /// A request lacks its header or its status byte.
    ShortRequest,
}

impl core::fmt::Display for GuestFault {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let text = match self {
            Self::OutsideMemory { gpa, length } => {
                return write!(formatter, "{length} bytes at {:#x} are not RAM", gpa.0);
            }
            Self::RingLayout => "ring with an impossible size or address",
            Self::AvailableIndex => "available index beyond the ring",
            Self::DescriptorIndex => "descriptor number beyond its table",
            Self::ChainLength => "descriptor chain too long or a loop",
            Self::EmptyDescriptor => "descriptor of no bytes",
            Self::DescriptorOrder => "readable descriptor after a writable one",
            Self::IndirectTable => "malformed indirect descriptor table",
            Self::HeadInFlight => "descriptor chain made available twice",
            Self::ShortRequest => "request without header or status",
        };
        formatter.write_str(text)
    }
}
