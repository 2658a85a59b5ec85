//! iSCSI: discovery and one session per volume, error-recovery level 0.
//!
//! Spec: RFC 7143; SCSI commands after SPC-4 and SBC-3.
//!
//! The caller owns the TCP connection: it asks [`Session::connection_wanted`], opens
//! it, and moves octets. Whatever goes wrong on a connection ends it; the session
//! then logs in again with the same ISID, which makes the target drop the old
//! session's tasks (section 6.3.5), and only then reissues what was unanswered.

mod crc32c;
mod login;
pub mod pdu;
pub mod scsi;
mod session;
mod stream;
mod tasks;
mod text;

pub use crc32c::crc32c;
pub use login::{Digest, Negotiated};
pub use session::{DiscoveredTarget, Portal, Session, SessionConfig, SessionKind};
