//! A disk by name, whatever protocol carries it.
//!
//! Names: `aoe:e11.1` and `iscsi://[user@]portal[:port]/iqn[/lun]`; also
//! `iscsi://iqn@portal[:port]/lun`, as other tools write it.

use alloc::vec::Vec;

use crate::aoe::Target;
use crate::block::{Completion, PathRefusal, Request, SubmitError, VolumeStatus};
use crate::iscsi::Session;
use crate::rate::Limits;

mod name;
pub mod user;

pub use name::{NameError, VolumeName};

/// A session of either protocol. Frames and octets go through the session itself.
pub enum Volume {
    /// ATA over Ethernet: give it frames.
    Aoe(Target),
    /// iSCSI: give it a connection.
    Iscsi(Session),
}

impl Volume {
    /// Heap that it takes at most with the paths that it has now, besides TCP's buffers.
    #[must_use]
    pub fn heap_bytes_max(&self) -> usize {
        match self {
            Self::Aoe(_) => Target::HEAP_BYTES_MAX,
            Self::Iscsi(session) => {
                let paths = session.paths().saturating_mul(Session::PATH_HEAP_BYTES_MAX);
                Session::HEAP_BYTES_MAX.saturating_add(paths)
            }
        }
    }

    /// Accepts a request.
    ///
    /// # Errors
    /// Nothing was accepted.
    #[inline(always)]
    pub fn submit(&mut self, request: Request, now_ns: u64) -> Result<(), SubmitError> {
        match self {
            Self::Aoe(target) => target.submit(request, now_ns),
            Self::Iscsi(session) => session.submit(request, now_ns),
        }
    }

    /// The next finished request.
    pub fn take_completion(&mut self) -> Option<Completion> {
        match self {
            Self::Aoe(target) => target.take_completion(),
            Self::Iscsi(session) => session.take_completion(),
        }
    }

    /// Advances timers.
    pub fn poll(&mut self, now_ns: u64) {
        match self {
            Self::Aoe(target) => target.poll(now_ns),
            Self::Iscsi(session) => session.poll(now_ns),
        }
    }

    /// Limits what the volume may do.
    pub fn set_limits(&mut self, limits: Limits, now_ns: u64) {
        match self {
            Self::Aoe(target) => target.set_limits(limits, now_ns),
            Self::Iscsi(session) => session.set_limits(limits, now_ns),
        }
    }

    /// How long a request may wait for the target before it fails; `None` is for
    /// ever.
    pub fn set_deadline(&mut self, deadline_ns: Option<u64>) {
        match self {
            Self::Aoe(target) => target.set_deadline(deadline_ns),
            Self::Iscsi(session) => session.set_deadline(deadline_ns),
        }
    }

    /// Takes a path out of use, or back into it. What is in flight there goes on
    /// elsewhere.
    ///
    /// # Errors
    /// See [`PathRefusal`]; nothing was changed.
    pub fn set_path_enabled(&mut self, path: usize, enabled: bool) -> Result<(), PathRefusal> {
        match self {
            Self::Aoe(target) => target.set_path_enabled(path, enabled),
            Self::Iscsi(session) => session.set_path_enabled(path, enabled),
        }
    }

    /// When the session next needs attention.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        match self {
            Self::Aoe(target) => target.next_deadline(),
            Self::Iscsi(session) => session.next_deadline(),
        }
    }

    /// The submitter was reset and its memory is void: all requests are forgotten,
    /// none completes, and none that comes later is overtaken by them.
    pub fn abandon(&mut self) {
        match self {
            Self::Aoe(target) => target.abandon(),
            Self::Iscsi(session) => session.abandon(),
        }
    }

    /// The disk's sectors, as far as they are known.
    #[must_use]
    pub fn capacity(&self) -> Option<u64> {
        match self {
            Self::Aoe(target) => target.capacity(),
            Self::Iscsi(session) => session.capacity(),
        }
    }

    /// Whether it serves, and the disk's sectors: cheap to ask.
    #[must_use]
    pub fn ready_capacity(&self) -> Option<u64> {
        match self {
            Self::Aoe(target) => target.ready_capacity(),
            Self::Iscsi(session) => session.ready_capacity(),
        }
    }

    /// How the volume is.
    #[must_use]
    pub fn status(&self) -> VolumeStatus {
        match self {
            Self::Aoe(target) => target.status(),
            Self::Iscsi(session) => session.status(),
        }
    }

    /// Requests accepted and not finished, in order of submission.
    #[must_use]
    pub fn unfinished(&self) -> Vec<Request> {
        match self {
            Self::Aoe(target) => target.unfinished(),
            Self::Iscsi(session) => session.unfinished(),
        }
    }
}
