//! What a session tells about itself: how it is, and when it needs a call.

use alloc::{format, vec};

use super::path::{Phase, mac_text};
use super::{Path, PathState, PathStatus, Stage, Target, VolumeState, VolumeStatus};
use crate::block::Geometry;

impl Target {
    /// When [`Self::poll`] and [`Self::transmit`] are next needed.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let frames = (!self.slots.is_empty()).then_some(self.due_ns);
        let probes = self.paths.iter().filter(|path| path.is_live()).map(|path| path.sizes.again_ns);
        let probes = probes.filter(|again_ns| *again_ns != u64::MAX).min();
        let asks = (0..self.paths.len()).filter_map(|index| self.ask_at_ns(index)).min();
        [frames, probes, asks, self.requests.next_deadline()].into_iter().flatten().min()
    }

    /// Everything, for a test that failed.
    #[cfg(test)]
    pub(crate) fn describe(&self) -> alloc::string::String {
        let paths =
            self.paths.iter().map(|path| (path.phase, path.in_flight, path.window, path.lost_since_ns));
        let paths: vec::Vec<_> = paths.collect();
        format!("now {} {paths:?} {:#?} {}", self.now_ns, self.slots, self.requests.describe())
    }

    /// The target's MAC addresses.
    pub fn macs(&self) -> impl Iterator<Item = super::MacAddress> {
        self.paths.iter().filter_map(|path| path.mac)
    }

    /// The MAC addresses that hold the target, as far as was asked.
    #[must_use]
    pub fn holders(&self) -> Option<&[super::MacAddress]> {
        self.holders.as_deref()
    }

    /// Whether it serves, and the disk's sectors: cheap to ask.
    #[must_use]
    pub fn ready_capacity(&self) -> Option<u64> {
        self.capacity().filter(|_| self.state() == VolumeState::Ready)
    }

    /// The disk's sectors, as far as they are known.
    #[must_use]
    pub fn capacity(&self) -> Option<u64> {
        self.identity.map(|identity| identity.capacity)
    }

    pub(super) fn state(&self) -> VolumeState {
        let stage = self.paths.iter().map(Path::stage).max().unwrap_or_default();
        match (stage, self.stalled_since_ns) {
            _ if self.refused => VolumeState::Refused,
            (Stage::Ready, None) => VolumeState::Ready,
            _ if self.identity.is_some() => VolumeState::Stalled,
            _ => VolumeState::Starting,
        }
    }

    /// How the volume is.
    #[must_use]
    pub fn status(&self) -> VolumeStatus {
        let retries = self.slots.iter().map(|slot| u64::from(slot.tries.saturating_sub(1))).max();
        let paths: vec::Vec<_> = self.paths.iter().map(path_status).collect();
        let best = paths.iter().max_by_key(|path| (path.state == PathState::Active, path.stage));
        let mut negotiated = best.map(|path| path.negotiated.clone()).unwrap_or_default();
        // That is a path's alone.
        negotiated.retain(|(key, _)| *key != "Card");
        let holders = self.holders.iter().flatten().map(|mac| mac_text(*mac));
        let holders = holders.collect::<vec::Vec<_>>().join(" ");
        negotiated.push(("Reservation", if self.config.reserve { holders } else { "not asked for".into() }));
        VolumeStatus {
            state: self.state(),
            stage: best.map_or(Stage::Silent, |path| path.stage),
            stalled_since_ns: self.stalled_since_ns,
            retries: retries.unwrap_or(0),
            rtt_ns: best.and_then(|path| path.rtt_ns),
            capacity: self.identity.map(|identity| identity.capacity),
            write_protected: false,
            can_discard: false,
            geometry: Geometry::default(),
            pending: self.requests.len(),
            counters: self.requests.counters,
            latency: self.requests.latency,
            last_error: self.last_error,
            unusable: None,
            negotiated,
            paths,
        }
    }
}

fn path_status(path: &Path) -> PathStatus {
    let state = match path.phase {
        _ if path.disabled => PathState::Disabled,
        Phase::Refused => PathState::Refused,
        _ if path.lost_since_ns.is_some() => PathState::Lost,
        Phase::Ready => PathState::Active,
        _ => PathState::Starting,
    };
    let mut negotiated = vec![
        ("Card", mac_text(path.source)),
        ("SectorsPerFrame", format!("{}", path.sizes.good)),
        ("SectorsAdvertised", format!("{}", path.sizes.limit)),
        ("FrameSizeFellBack", format!("{}", path.sizes.fell_back())),
        ("BufferCount", format!("{}", path.buffers)),
        ("Firmware", format!("{:#06x}", path.firmware)),
        ("Window", format!("{}", path.window / 16)),
    ];
    if let Some(mac) = path.mac {
        negotiated.push(("TargetMac", mac_text(mac)));
    }
    PathStatus {
        name: path.name(),
        state,
        stage: path.stage(),
        rtt_ns: path.srtt_ns,
        lost_since_ns: path.lost_since_ns,
        latency: path.latency,
        bytes_read: path.bytes_read,
        bytes_written: path.bytes_written,
        retries: path.retries,
        digest_errors: 0,
        stalls: path.stalls,
        last_error: path.last_error,
        negotiated,
    }
}
