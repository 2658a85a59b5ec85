//! Who types on a guest's console: one session at a time, while any number reads.

use netstack::host::ConnectionId;

/// How long after the last key the console is still one session's.
pub(crate) const IDLE_NS: u64 = 10_000_000_000;

/// The session that types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsoleWriter {
    pub(crate) connection: ConnectionId,
    pub(crate) last_ns: u64,
}
