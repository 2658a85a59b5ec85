//! What a node tells of the volumes it uses.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// How a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// It was never reached yet.
    Connecting,
    /// It serves.
    Ready,
    /// It served once and does not answer now.
    Stalled,
    /// The target refuses; it is tried all the same.
    Refused,
    /// Nothing: dom0 was restarted and no longer serves it.
    Detached,
}

/// How a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PathCondition {
    /// Looking for the target.
    Connecting,
    /// In use.
    Active,
    /// It works; another one is in use.
    Standby,
    /// It does not answer.
    Lost,
    /// The target refuses there, or it leads elsewhere.
    Refused,
    /// An operator took it out of use.
    Disabled,
}

/// How far the last try to reach a target came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Nothing has answered.
    Silent,
    /// A connection is open, or the station is known.
    Connected,
    /// The target knows the node.
    LoggedIn,
    /// The disk is known.
    Ready,
}

/// A path of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathFacts {
    /// Its ends, in words.
    pub name: String,
    /// How it is.
    pub condition: PathCondition,
    /// How far it came.
    pub stage: Stage,
    /// Since when it does not answer, in nanoseconds of uptime.
    pub lost_since_ns: Option<u64>,
    /// Smoothed round-trip time.
    pub rtt_ns: Option<u64>,
    /// Answers by the time they took, as [`VolumeFacts::latency`].
    pub latency: Vec<u64>,
    /// Counters by name.
    pub counters: Vec<(String, u64)>,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
    /// What was negotiated, by name.
    pub negotiated: Vec<(String, String)>,
}

/// A volume that is in use or was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeFacts {
    /// The guest that uses it; empty for one that was tried.
    pub guest: String,
    /// The slot of the disk in that guest.
    pub slot: u32,
    /// Its name.
    pub volume: String,
    /// The guest may not write.
    pub read_only: bool,
    /// How it is.
    pub condition: Condition,
    /// How far the last try to reach it came.
    pub stage: Stage,
    /// Since when it does not answer, in nanoseconds of uptime.
    pub stalled_since_ns: Option<u64>,
    /// Tries since then.
    pub retry: u64,
    /// Size in 512-byte sectors, once known.
    pub sectors: Option<u64>,
    /// Requests unfinished.
    pub pending: u32,
    /// Smoothed round-trip time.
    pub rtt_ns: Option<u64>,
    /// Requests by the time they took: entry `n` counts those below `2^n` microseconds
    /// that no entry before it counts; zeroes at the end are left out.
    pub latency: Vec<u64>,
    /// Counters by name.
    pub counters: Vec<(String, u64)>,
    /// The last thing that went wrong.
    pub last_error: Option<String>,
    /// What was negotiated with the target, by name.
    pub negotiated: Vec<(String, String)>,
    /// What is set for it, by name; no secrets.
    pub settings: Vec<(String, String)>,
    /// The ways to the target.
    pub paths: Vec<PathFacts>,
}

/// Volumes, as many as one reply takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumePage {
    /// Uptime of the node in nanoseconds.
    pub now_ns: u64,
    /// The volumes.
    pub volumes: Vec<VolumeFacts>,
    /// Where to go on, if there are more.
    pub next: Option<u32>,
}

/// How far a disk has come in its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Plugged {
    /// The guest is not there, or has not looked at it.
    Offered,
    /// The guest has seen it, its driver does not run.
    Seen,
    /// Its driver runs.
    Running,
    /// The guest was asked to give it back.
    Leaving,
}

/// A disk in a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockFacts {
    /// The slot it is in: a number that stays while the guest runs.
    pub slot: u32,
    /// Name of the volume.
    pub volume: String,
    /// Writes are refused.
    pub read_only: bool,
    /// How the volume is.
    pub condition: Condition,
    /// Since when it does not answer, in nanoseconds of uptime.
    pub stalled_since_ns: Option<u64>,
    /// Size in 512-byte sectors, 0 until known.
    pub sectors: u64,
    /// How far it has come in the guest.
    pub plugged: Plugged,
    /// It was there when the guest started.
    pub from_start: bool,
}
