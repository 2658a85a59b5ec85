//! A volume at an iSCSI target: its requests, its unit, and the paths to it.
//!
//! Spec: RFC 7143 sections 4.2 (numbering), 6.3.5 (reinstatement), 7 (recovery).

use alloc::vec::Vec;
use core::fmt;

use log::Level;

use super::scsi;
use crate::block::{
    BlockError, Completion, Operation, PathRefusal, PathState, PathStatus, Payload, Request, RequestId,
    SECTOR_BYTES, Stage, SubmitError, VolumeState, VolumeStatus,
};
use crate::limits::{ISCSI_COMMANDS_MAX, ISCSI_PATHS_MAX, ISCSI_RESPONSE_MAX, ISCSI_TEXT_MAX};
use crate::lines::Lines;
use crate::mutants::{Mutant, mutated};
use crate::random::Random;
use crate::rate::Limits;
use crate::requests::{Release, Requests};

mod commands;
mod config;
mod connection;
mod discovery;
mod dispatch;
mod in_flight;
mod management;
mod outcome;
mod path;
mod probes;
mod status;
mod traffic;
mod transfer;
mod unit;

pub use config::{DiscoveredTarget, PathPolicy, Portal, SessionConfig, SessionKind};
pub use discovery::TargetList;
use path::{Path, State};
pub use transfer::Piece;
use unit::{FlushForm, Unit};

/// How often lost paths are tried while the active one says nothing.
const LOST_PATH_RETRY_NS: u64 = 600_000_000;
/// A volume that has stalled for so long is left to the default retry intervals: its target is down.
const LOST_PATH_RETRIES_NS: u64 = 5_000_000_000;

/// What is known of a unit, and the configuration: names, portals, secrets.
const UNIT_BYTES: usize = 16 * 1024;

/// What all paths share.
struct Shared {
    config: SessionConfig,
    requests: Requests,
    unit: Unit,
    /// How commands name it.
    lun: [u8; 8],
    /// Commands of all paths have ended silently.
    unit_was_reset: bool,
    discovered: TargetList,
    finished: bool,
    /// No more requests; log out when what is there has ended.
    closing: bool,
    random: Random,
    /// More than one path: a silent one is given up sooner.
    several: bool,
    last_error: Option<&'static str>,
    served: bool,
    stalled_since_ns: Option<u64>,
    /// It served before, and does not now.
    has_stalled: bool,
    now_ns: u64,
    lines: Lines,
}

impl Shared {
    /// Writes to the log what became of the volume; `list` shows it anyway.
    fn say(&mut self, level: Level, line: fmt::Arguments<'_>) {
        if let SessionKind::Normal { target, lun } = &self.config.kind
            && !self.closing
        {
            self.lines.say(self.now_ns, level, format_args!("{target} lun {lun}"), line);
        }
    }

    /// The longest answer that is held in memory.
    const fn response_max(&self) -> usize {
        match self.config.kind {
            SessionKind::Discovery => ISCSI_TEXT_MAX,
            SessionKind::Normal { .. } => ISCSI_RESPONSE_MAX,
        }
    }
}

/// A volume.
pub struct Session {
    shared: Shared,
    paths: Vec<Path>,
    active: usize,
    failovers: u64,
    /// When lost paths were last tried because the active one says nothing.
    retried_ns: u64,
    /// Until then nothing but requests and their data needs to be looked after: all
    /// paths are as they should be. Whatever else happens makes it zero.
    calm_until_ns: u64,
}

impl Session {
    /// Heap that a volume takes at most, besides its paths.
    pub const HEAP_BYTES_MAX: usize = Requests::HEAP_BYTES_MAX + UNIT_BYTES;
    /// Heap that one of its paths takes at most, besides TCP's buffers.
    pub const PATH_HEAP_BYTES_MAX: usize = Path::HEAP_BYTES_MAX;

    /// A volume that wants its connections at once.
    #[must_use]
    pub fn new(config: SessionConfig) -> Self {
        let mut random = Random::new(config.seed);
        let portals = config.portals.iter().take(ISCSI_PATHS_MAX).enumerate();
        let paths: Vec<Path> =
            portals.map(|(index, portal)| Path::new(index, *portal, random.next_u32())).collect();
        Self {
            shared: Shared {
                lun: config.lun(),
                unit_was_reset: false,
                config,
                requests: Requests::new(),
                unit: Unit::new(),
                discovered: TargetList::default(),
                finished: false,
                closing: false,
                random,
                several: paths.len() > 1,
                last_error: None,
                served: false,
                stalled_since_ns: None,
                has_stalled: false,
                now_ns: 0,
                lines: Lines::new(),
            },
            paths,
            active: 0,
            failovers: 0,
            retried_ns: 0,
            calm_until_ns: 0,
        }
    }

    /// Accepts a request.
    ///
    /// # Errors
    /// Nothing was accepted.
    #[inline(always)]
    pub fn submit(&mut self, request: Request, now_ns: u64) -> Result<(), SubmitError> {
        if self.shared.config.read_only && request.operation.writes() {
            return Err(SubmitError::ReadOnly);
        }
        self.shared.requests.submit(request, now_ns)
    }

    /// The next finished request.
    pub fn take_completion(&mut self) -> Option<Completion> {
        self.shared.requests.take_completion()
    }

    /// Requests accepted and not finished, in order of submission.
    #[must_use]
    pub fn unfinished(&self) -> Vec<Request> {
        self.shared.requests.unfinished()
    }

    /// Limits what the volume may do.
    pub fn set_limits(&mut self, limits: Limits, now_ns: u64) {
        self.shared.requests.set_limits(limits, now_ns);
    }

    /// How long a request may wait for the target before it fails; `None` is for
    /// ever.
    pub fn set_deadline(&mut self, deadline_ns: Option<u64>) {
        self.calm_until_ns = 0;
        self.shared.requests.set_deadline(deadline_ns);
    }

    /// Takes the reservation, or with `None` gives it up.
    pub fn set_reservation(&mut self, key: Option<u64>, preempt: Option<u64>) {
        self.calm_until_ns = 0;
        let given_up = self.shared.config.reservation.filter(|_| key.is_none());
        self.shared.config.reservation = key;
        self.shared.config.preempt = preempt;
        for path in &mut self.paths {
            path.reserve_again(given_up);
        }
    }

    /// The submitter was reset and its memory is void: all requests are forgotten,
    /// none completes. Connections with writes in flight are given up, and the next
    /// login makes the target drop them.
    pub fn abandon(&mut self) {
        self.calm_until_ns = 0;
        self.shared.requests.abandon();
        for path in &mut self.paths {
            if path.has_writes() && !mutated(Mutant::ResetForgotten) {
                path.fail(&mut self.shared, "the guest was reset");
            }
        }
    }

    /// Ends the session when its requests have ended: the reservation is given up,
    /// the target told. [`Self::is_closed`] says when that is done.
    pub fn close(&mut self) {
        self.calm_until_ns = 0;
        self.shared.closing = true;
        let given_up = self.shared.config.reservation.take();
        for path in &mut self.paths {
            path.reserve_again(given_up);
        }
    }

    /// Whether the session has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let over = |path: &Path| matches!(path.state, State::Finished | State::Idle { .. });
        self.shared.closing && self.paths.iter().all(over)
    }

    /// Takes a path out of use, or back into it.
    ///
    /// # Errors
    /// There is no such path, or no other one is in use.
    pub fn set_path_enabled(&mut self, path: usize, enabled: bool) -> Result<(), PathRefusal> {
        let others = self.paths.iter().filter(|other| other.index != path && !other.disabled).count();
        let path = self.paths.get_mut(path).ok_or(PathRefusal::Unknown)?;
        if !enabled && others == 0 {
            return Err(PathRefusal::Last);
        }
        path.set_enabled(&mut self.shared, enabled);
        self.advance();
        Ok(())
    }

    /// One more path, to a portal that is reached over one more path: from another network
    /// card, say. Its number, unless there are too many.
    pub fn add_path(&mut self, portal: Portal) -> Option<usize> {
        let index = self.paths.len();
        if index >= ISCSI_PATHS_MAX {
            return None;
        }
        self.calm_until_ns = 0;
        self.paths.push(Path::new(index, portal, self.shared.random.next_u32()));
        self.shared.several = self.paths.len() > 1;
        Some(index)
    }

    /// Retries a path at once instead of waiting for its next try: the obstacle is gone.
    pub fn retry_now(&mut self, path: usize, now_ns: u64) {
        if let Some(path) = self.paths.get_mut(path) {
            path.retry_now(now_ns);
        }
    }

    /// How many paths there are; their numbers go from zero.
    #[must_use]
    pub fn paths(&self) -> usize {
        self.paths.len()
    }

    /// Where to connect for a path, if a connection is wanted now. Open one, then
    /// tell [`Self::on_connected`] or [`Self::on_disconnected`].
    pub fn connect(&mut self, path: usize, now_ns: u64) -> Option<Portal> {
        if self.shared.closing || self.shared.finished {
            return None;
        }
        self.paths.get_mut(path)?.connect(now_ns)
    }

    /// Whether a connection has been asked for and is not open yet.
    #[must_use]
    pub fn is_connecting(&self, path: usize) -> bool {
        self.paths.get(path).is_some_and(|path| matches!(path.state, State::Connecting { .. }))
    }

    /// Whether the connection is to be closed; tell [`Self::on_disconnected`] then.
    #[must_use]
    pub fn disconnect_wanted(&self, path: usize) -> bool {
        self.paths.get(path).is_some_and(|path| matches!(path.state, State::Broken | State::Finished))
    }

    /// The connection is open: login begins.
    pub fn on_connected(&mut self, path: usize, now_ns: u64) {
        self.shared.now_ns = now_ns;
        if let Some(path) = self.paths.get_mut(path) {
            path.on_connected(&mut self.shared);
        }
    }

    /// The connection is gone, or could not be opened.
    pub fn on_disconnected(&mut self, path: usize, now_ns: u64) {
        self.shared.now_ns = now_ns;
        if let Some(path) = self.paths.get_mut(path) {
            path.on_disconnected(&mut self.shared);
        }
        self.advance();
    }

    /// Whether the path has the connection it wants: neither [`Self::connect`] nor
    /// [`Self::disconnect_wanted`] has anything to say.
    #[must_use]
    pub fn is_connected(&self, path: usize) -> bool {
        self.paths.get(path).is_some_and(Path::is_connected)
    }

    /// PDUs received on a path so far.
    #[must_use]
    pub fn pdus(&self, path: usize) -> u64 {
        self.paths.get(path).map_or(0, |path| path.pdus)
    }

    /// Whether [`Self::transmit`] has nothing to say, [`Self::connect`] and
    /// [`Self::disconnect_wanted`] neither: cheap to ask, and false where that would have
    /// to be looked into.
    #[must_use]
    pub fn is_quiet(&self, path: usize, now_ns: u64) -> bool {
        let calm = now_ns < self.calm_until_ns && !self.shared.requests.has_work();
        calm && self.paths.get(path).is_some_and(|path| path.is_quiet(&self.shared))
    }

    /// Advances timers: login, keep-alive, policy deadline.
    #[inline]
    pub fn poll(&mut self, now_ns: u64) {
        self.pass_time(self.shared.now_ns.max(now_ns));
        if !self.is_calm() {
            self.poll_all();
        }
    }

    #[cold]
    fn poll_all(&mut self) {
        let ended = self.shared.requests.poll(self.shared.now_ns);
        for path in &mut self.paths {
            if !ended.is_empty() && path.writes_for(&ended) {
                path.fail(&mut self.shared, "a request passed its policy deadline");
            }
            path.poll(&mut self.shared);
        }
        self.retry_lost_paths();
        self.advance();
        self.calm_until_ns = self.find_calm();
    }

    /// The active path says nothing, or is lost: whatever another one waits for may be over.
    /// TCP's own pauses are longer than a request may wait for another path.
    fn retry_lost_paths(&mut self) {
        let now_ns = self.shared.now_ns;
        if !self.wants_lost_paths() || now_ns < self.retried_ns.saturating_add(LOST_PATH_RETRY_NS) {
            return;
        }
        self.retried_ns = now_ns;
        for path in &mut self.paths {
            path.try_anew(now_ns);
        }
    }

    /// Whether lost paths are wanted.
    fn wants_lost_paths(&self) -> bool {
        let silent = |path: &Path| !path.is_ready() || path.pinged_ns.is_some();
        let others = || self.paths.iter().any(|path| !path.is_ready());
        let shared = &self.shared;
        let since_ns = shared.stalled_since_ns.unwrap_or(shared.now_ns);
        let lately = shared.served && shared.now_ns.saturating_sub(since_ns) < LOST_PATH_RETRIES_NS;
        let several = shared.several && lately && !mutated(Mutant::LostPathsLeft);
        several && self.paths.get(self.active).is_some_and(silent) && others()
    }

    #[inline]
    fn pass_time(&mut self, now_ns: u64) {
        self.shared.now_ns = now_ns;
        self.shared.requests.pass_time(now_ns);
    }

    /// Whether nothing but requests and their data needs to be looked after: no path is to
    /// be connected or disconnected.
    #[must_use]
    pub const fn is_calm(&self) -> bool {
        self.shared.now_ns < self.calm_until_ns
    }

    /// Until when time changes nothing, if no path needs attention.
    fn find_calm(&self) -> u64 {
        let shared = &self.shared;
        let undisturbed =
            |path: &Path| path.is_ready() && path.resume_ns <= shared.now_ns && !path.is_fencing();
        let one_carries = shared.config.policy == PathPolicy::Failover || self.paths.len() == 1;
        let all = one_carries
            && !shared.unit_was_reset
            && !shared.closing
            && !shared.unit.ten_byte
            && shared.stalled_since_ns.is_none();
        if !all || !self.paths.iter().all(undisturbed) {
            return 0;
        }
        let paths = self.paths.iter().map(|path| path.calm_until_ns);
        paths.fold(shared.requests.calm_until_ns(), u64::min)
    }

    /// Whether a path may be given requests now.
    #[cold]
    fn carries(&self, index: usize) -> bool {
        let Some(path) = self.paths.get(index) else { return false };
        if !path.is_ready() || self.is_fencing() || path.tasks.len() >= ISCSI_COMMANDS_MAX {
            return false;
        }
        match self.shared.config.policy {
            PathPolicy::Failover => index == self.active,
            PathPolicy::RoundRobin => {
                let usable = self.paths.iter().filter(|path| path.is_ready());
                usable.map(|path| path.tasks.len()).min().is_none_or(|least| path.tasks.len() <= least)
            }
        }
    }

    fn is_fencing(&self) -> bool {
        self.shared.requests.fences.awaits_path() || self.paths.iter().any(Path::is_fencing)
    }

    /// After anything happened: is there a path to use, is anything of a lost path
    /// to be fenced off, does the volume stall?
    fn advance(&mut self) {
        self.calm_until_ns = 0;
        let usable = |path: &Path| path.is_ready();
        let reset = core::mem::take(&mut self.shared.unit_was_reset);
        if !self.paths.get(self.active).is_some_and(usable)
            && let Some(other) = self.paths.iter().position(usable)
        {
            self.active = other;
            self.failovers = self.failovers.wrapping_add(1);
        }
        let serves = self.paths.get(self.active).is_some_and(usable);
        let shared = &mut self.shared;
        if serves {
            let since_ns = shared.stalled_since_ns.take();
            if let Some(since_ns) = since_ns.filter(|_| shared.has_stalled) {
                let after_ms = shared.now_ns.saturating_sub(since_ns) / 1_000_000;
                shared.say(Level::Info, format_args!("serves again after {after_ms} ms"));
            }
            shared.has_stalled = false;
        } else if shared.stalled_since_ns.is_none() {
            shared.stalled_since_ns = Some(shared.now_ns);
            let counters = &mut shared.requests.counters;
            counters.stalls = counters.stalls.wrapping_add(u64::from(shared.served));
            if shared.served {
                shared.has_stalled = true;
                shared.say(Level::Warn, format_args!("no path is left, requests wait"));
            }
        }
        if mutated(Mutant::FenceForgotten) {
            (0..self.paths.len()).for_each(|path| shared.requests.fences.release(path));
        }
        let fences =
            serves && shared.requests.fences.awaits_path() && !self.paths.iter().any(Path::is_fencing);
        if fences && let Some(path) = self.paths.get_mut(self.active) {
            path.fence(shared);
        }
        if reset {
            // The reset ended the commands of all paths, silently.
            for path in &mut self.paths {
                if !core::mem::take(&mut path.has_reset_unit) && !path.tasks.is_empty() {
                    path.fail(shared, "another path has reset the unit");
                }
            }
        }
    }
}
