//! Faults of a peer.

/// Why a peer is not believed. Never told to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerFault {
    /// Another version of the protocol.
    Version,
    /// Not enough or too many bytes.
    Length,
    /// A key that is none.
    Key,
    /// A signature that does not fit.
    Signature,
    /// A sealed message that was altered, replayed or is out of order.
    Seal,
    /// A key that is not trusted.
    Stranger,
    /// Another node was meant.
    Elsewhere,
    /// More often than it may: it may try again.
    Busy,
    /// Something that does not belong here.
    Unexpected,
    /// More than the bounds allow.
    Flood,
}

impl core::fmt::Display for PeerFault {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(match self {
            Self::Version => "speaks another version of the protocol",
            Self::Length => "sent a message of the wrong length",
            Self::Key => "sent a key that is none",
            Self::Signature => "sent a signature that does not fit",
            Self::Seal => "sent an altered, replayed or misplaced message",
            Self::Stranger => "has a key that is not trusted",
            Self::Elsewhere => "means another node",
            Self::Busy => "comes more often than it may",
            Self::Unexpected => "sent something unexpected",
            Self::Flood => "sent more than it may",
        })
    }
}

impl core::error::Error for PeerFault {}
