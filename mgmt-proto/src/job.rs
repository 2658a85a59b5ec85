//! Long work: a job has a number, goes on when its session breaks, and is found again.

use crate::handshake::SessionId;
use crate::reason::Refusal;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// In what progress is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Bytes moved.
    Bytes,
    /// Disks that serve.
    Disks,
    /// Time that has passed, of what is allowed.
    Milliseconds,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// So much is done.
    pub done: u64,
    /// Of so much.
    pub total: u64,
    /// In what it is counted.
    pub unit: Unit,
}

/// What became of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobState {
    /// It goes on.
    Running,
    /// It was done.
    Done,
    /// It failed.
    Failed,
    /// An operator cancelled it; nothing of it is left.
    Cancelled,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFacts {
    /// Its number, from 1 on in each boot of dom0.
    pub id: u64,
    /// Who asked.
    pub operator: [u8; 32],
    /// In which session.
    pub session: SessionId,
    /// At which place in it: with the session, how whoever asked finds the job again.
    pub counter: u64,
    /// The verb.
    pub verb: String,
    /// The guest or volume it is about; may be empty.
    pub object: String,
    /// What became of it.
    pub state: JobState,
    /// How far it is, or was when it ended.
    pub progress: Progress,
    /// Uptime when it began, in nanoseconds.
    pub began_ns: u64,
    /// Uptime when it ended.
    pub ended_ns: Option<u64>,
    /// Why it failed.
    pub failure: Option<Refusal>,
}

/// All jobs that a node knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPage {
    /// Uptime now, in nanoseconds.
    pub now_ns: u64,
    /// The jobs, oldest first.
    pub jobs: Vec<JobFacts>,
}
