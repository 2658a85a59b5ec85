//! What a volume tells about itself.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::path::{Path, State};
use super::{
    DiscoveredTarget, LOST_PATH_RETRY_NS, PathState, PathStatus, Portal, Session, SessionKind, Shared, Stage,
    TargetList, VolumeState, VolumeStatus, scsi,
};

impl Session {
    /// Targets found by a discovery session.
    #[must_use]
    pub fn discovered(&self) -> &[DiscoveredTarget] {
        &self.shared.discovered.targets
    }

    /// Everything that a discovery session was told.
    #[must_use]
    pub const fn target_list(&self) -> &TargetList {
        &self.shared.discovered
    }

    /// The portal that a path was made for; its target may have sent it elsewhere.
    #[must_use]
    pub fn portal(&self, path: usize) -> Option<Portal> {
        self.paths.get(path).map(|path| path.portal)
    }

    /// The initiator that holds the unit, if it was asked.
    #[must_use]
    pub const fn holder(&self) -> scsi::Reservation {
        self.shared.unit.holder
    }

    /// Whether discovery has the whole list.
    #[must_use]
    pub fn discovery_finished(&self) -> bool {
        self.shared.finished
    }

    /// Whether it serves, and the disk's sectors: cheap to ask.
    #[must_use]
    pub fn ready_capacity(&self) -> Option<u64> {
        self.capacity().filter(|_| self.state() == VolumeState::Ready)
    }

    /// The disk's sectors, as far as they are known.
    #[must_use]
    pub fn capacity(&self) -> Option<u64> {
        self.shared.unit.capacity.map(|capacity| capacity.sectors())
    }

    /// Everything, for a test that failed.
    #[cfg(test)]
    pub(crate) fn describe(&self) -> String {
        let paths = self.paths.iter().map(|path| {
            let (state, probe, tasks) = (path.state, path.probe, &path.tasks);
            let management = &path.management;
            format!("{state:?} {probe:?} {management:?} resume {} {tasks:?}", path.resume_ns)
        });
        let paths: Vec<String> = paths.collect();
        format!(
            "now {} active {} {paths:#?} {}",
            self.shared.now_ns,
            self.active,
            self.shared.requests.describe()
        )
    }

    /// Whether a path is past its login and uses both digests.
    #[cfg(test)]
    pub(crate) fn uses_digests(&self, path: usize) -> bool {
        let crc = crate::iscsi::negotiated::Digest::Crc32c;
        self.paths[path].state == State::Full && self.paths[path].negotiated.data_digest == crc
    }

    /// When [`Self::poll`] or [`Self::connect`] is next needed.
    #[must_use]
    #[inline(always)]
    pub fn next_deadline(&self) -> Option<u64> {
        let calm = self.is_calm() && !self.shared.requests.has_ready();
        if calm { Some(self.calm_until_ns) } else { self.find_deadline() }
    }

    #[cold]
    fn find_deadline(&self) -> Option<u64> {
        let retry_ns = self.wants_lost_paths().then(|| self.retried_ns.saturating_add(LOST_PATH_RETRY_NS));
        let mut next_ns = [retry_ns, self.shared.requests.next_deadline()].into_iter().flatten().min();
        for path in &self.paths {
            let path_ns = path.next_deadline(&self.shared);
            next_ns = next_ns.map_or(path_ns, |next_ns| Some(path_ns.map_or(next_ns, |it| it.min(next_ns))));
        }
        next_ns
    }

    fn state(&self) -> VolumeState {
        let now_ns = self.shared.now_ns;
        let active = self.paths.get(self.active).filter(|path| path.is_ready());
        match (active, self.shared.served) {
            (Some(path), _) if path.resume_ns > now_ns => VolumeState::Stalled,
            (Some(_), _) => VolumeState::Ready,
            (None, _) if self.paths.iter().any(|path| path.refused) => VolumeState::Refused,
            (None, true) => VolumeState::Stalled,
            (None, false) => VolumeState::Starting,
        }
    }

    /// How the volume is.
    #[must_use]
    pub fn status(&self) -> VolumeStatus {
        let shared = &self.shared;
        let paths: Vec<PathStatus> =
            self.paths.iter().map(|path| path_status(shared, path, path.index == self.active)).collect();
        let active = self.paths.get(self.active);
        let mut negotiated = paths.get(self.active).map(|path| path.negotiated.clone()).unwrap_or_default();
        negotiated.extend(shared.unit.report());
        negotiated.push(("Failovers", format!("{}", self.failovers)));
        VolumeStatus {
            state: self.state(),
            stage: self.paths.iter().map(|path| path.stage).max().unwrap_or_default(),
            stalled_since_ns: shared.stalled_since_ns.filter(|_| self.state() != VolumeState::Ready),
            retries: active.map_or(0, |path| u64::from(path.failures)),
            rtt_ns: active.and_then(|path| path.srtt_ns),
            capacity: shared.unit.capacity.map(|capacity| capacity.sectors()),
            write_protected: shared.unit.write_protected,
            can_discard: shared.unit.can_discard(),
            geometry: shared.unit.geometry(),
            pending: shared.requests.len(),
            counters: shared.requests.counters,
            latency: shared.requests.latency,
            last_error: shared.last_error,
            unusable: shared.unusable(),
            negotiated,
            paths,
        }
    }
}

impl Shared {
    /// Why the unit that is asked for cannot be used.
    fn unusable(&self) -> Option<String> {
        match self.config.kind {
            SessionKind::Normal { lun, .. } => self.unit.unusable(lun),
            SessionKind::Discovery => None,
        }
    }
}

fn path_status(shared: &Shared, path: &Path, active: bool) -> PathStatus {
    let state = match path.state {
        _ if path.disabled => PathState::Disabled,
        _ if path.refused => PathState::Refused,
        _ if path.is_ready() && active => PathState::Active,
        _ if path.is_ready() => PathState::Standby,
        State::Connecting { .. } | State::Login | State::Full if path.lost_since_ns.is_none() => {
            PathState::Starting
        }
        _ if path.lost_since_ns.is_none() => PathState::Starting,
        _ => PathState::Lost,
    };
    let mut negotiated = path.negotiated.report();
    let window = path.command_number_max.wrapping_sub(path.command_number).wrapping_add(1);
    negotiated.push(("CommandWindow", format!("{window}")));
    let isid = path.isid(shared);
    negotiated
        .push(("InitiatorSessionId", isid.iter().map(|octet| format!("{octet:02x}")).collect::<String>()));
    PathStatus {
        name: path.name(),
        state,
        stage: if path.state == State::Full { path.stage.max(Stage::LoggedIn) } else { path.stage },
        rtt_ns: path.srtt_ns,
        lost_since_ns: path.lost_since_ns,
        latency: path.latency,
        bytes_read: path.bytes_read,
        bytes_written: path.bytes_written,
        retries: path.retries,
        digest_errors: path.digest_errors,
        stalls: path.stalls,
        last_error: path.last_error,
        negotiated,
    }
}
