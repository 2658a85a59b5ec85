//! Network disks: the block layer and its AoE and iSCSI initiators.
//!
//! Sessions are state machines: they are given requests, bytes and the time, and
//! return bytes and completions. No socket, clock, thread or callback is inside,
//! so the same code runs in the node, in simulation and in a workstation tool.
//!
//! Rules that hold for every session:
//! - A request is acknowledged only after the target acknowledged all of it.
//! - Loss of the target is a stall: requests wait and are retried with jittered
//!   back-off of at most 5 s, for ever or until the volume's policy deadline, when they
//!   fail; `status` says so.
//! - A request that overlaps an unfinished one, where either writes, waits until
//!   that one ends. Otherwise requests may finish in any order.
//! - Where an old copy of a write could still land (a frame sent twice, a command left
//!   behind on a lost path, a write of a guest that was reset) no new write starts.
//! - Neighbouring requests may be joined; an error of a joint command fails no request until
//!   each was tried by itself. Limits hold requests back before they start.
//! - A flush starts when every write submitted before it has been acknowledged, and
//!   completes when the target says that they are durable.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod aoe;
pub mod block;
pub mod histogram;
pub mod iscsi;
pub mod limits;
mod lines;
pub mod local;
mod mutants;
mod random;
pub mod rate;
mod request_queue;
mod requests;
pub mod store;
#[cfg(test)]
mod tests;
pub mod volume;

pub use block::{
    BlockError, Completion, Counters, Geometry, Lba, Octets, Operation, PathRefusal, PathState, PathStatus,
    Payload, Request, RequestId, Stage, SubmitError, VolumeState, VolumeStatus,
};
