//! iSCSI: discovery and a volume's sessions, error-recovery level 0.
//!
//! Spec: RFC 7143; SCSI commands after SPC-4 and SBC-3.
//!
//! The caller owns the TCP connections: it asks [`Session::connect`] for each path,
//! opens what is wanted, and moves octets. Whatever goes wrong on a connection ends
//! it; the path then logs in again with the same ISID, which makes the target drop
//! the old session's tasks (section 6.3.5), and only then is what was unanswered
//! there issued again. A volume with several paths goes on at once on another one:
//! it makes the target drop what the lost path left behind by a reset of the logical
//! unit, and keeps new writes off those ranges until nothing of it can arrive.

mod chap;
mod crc32c;
mod login;
mod negotiated;
pub mod pdu;
pub mod scsi;
mod session;
mod stream;
mod target_name;
mod tasks;
mod text;

pub use chap::{Credentials, Secret};
pub use crc32c::crc32c;
pub use login::DigestPolicy;
pub use negotiated::{Digest, Negotiated};
pub use scsi::Reservation;
pub use session::{
    DiscoveredTarget, PathPolicy, Piece, Portal, Session, SessionConfig, SessionKind, TargetList,
};
pub use target_name::TargetName;
