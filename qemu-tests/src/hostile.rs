//! Scripted hostile targets: what an initiator must survive.
//!
//! The targets are honest but for one piece of mischief, a script each, after the
//! published lists of initiator tests (login and full feature phase). They watch the
//! initiator all the time: whatever it does against the protocol is a fault. A run is
//! in one process with a clock of its own, so that minutes of silence cost nothing.
//!
//! * [`work`]: a guest's reads, writes and flushes, and what must come of them;
//! * [`iscsi_target`]: an iSCSI target; [`iscsi_scripts`]: what it does wrong;
//! * [`iscsi_run`]: an initiator against it;
//! * [`discovery`]: the same for an initiator that asks for a list of targets;
//! * [`aoe_target`], [`aoe_scripts`]: the same for AoE;
//! * [`sockets`]: iSCSI scripts over TCP, by the workstation's initiator; [`wire`]: AoE
//!   scripts over an Ethernet of the operating system's, by the same;
//! * [`coverage`]: the published lists, and what walks each item of them.

pub mod aoe_scripts;
pub mod aoe_target;
pub mod coverage;
pub mod discovery;
pub mod iscsi_run;
pub mod iscsi_scripts;
pub mod iscsi_target;
pub mod sockets;
pub mod wire;
pub mod work;

/// Sectors of the disk.
pub const SECTORS: u64 = 512;
/// A millisecond.
pub const MS: u64 = 1_000_000;
/// A second.
pub const SECOND: u64 = 1_000_000_000;

/// What a sector holds that a write left, each unlike any other.
#[must_use]
pub fn pattern(write: u64, sectors: usize) -> Vec<u8> {
    let word = |at: usize| (write << 32 | at as u64).to_le_bytes();
    (0..sectors * 64).flat_map(word).collect()
}
