//! What is told about disks.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use mgmt_proto::code::Code;
use mgmt_proto::reason::Refusal;
use mgmt_proto::units::mac_text;
use mgmt_proto::verb::DiskFacts;
use mgmt_proto::volume::{Condition, PathCondition, PathFacts, Stage as Reached, VolumeFacts};
use storage::histogram::Histogram;
use storage::iscsi::Reservation;
use storage::volume::{Volume, VolumeName};
use storage::{PathState, PathStatus, Stage, VolumeState, VolumeStatus};

use crate::guests::number::GuestNumber;
use crate::volumes::connection::Connections;
use crate::volumes::{VolumeSettings, Volumes};

impl Volumes {
    /// Why a guest's disks are not ready: which one, at which stage.
    #[must_use]
    pub fn failure(&self, guest: GuestNumber, name: &str) -> Refusal {
        let waiting = self.bindings.iter().filter(|binding| binding.guest == guest).find_map(|binding| {
            let status = binding.volume.status();
            (status.state != VolumeState::Ready || status.capacity.is_none()).then_some((binding, status))
        });
        let Some((binding, status)) = waiting else {
            return Refusal::said(Code::Storage, name, "its disks are not ready", "try again");
        };
        let refused = status.state == VolumeState::Refused;
        let stage = match (&binding.volume, status.stage) {
            (Volume::Aoe(_), Stage::Silent) => "no target answers to that shelf and slot",
            (Volume::Aoe(_), _) if refused => "the target refuses",
            (Volume::Aoe(_), _) => "the target answers but does not identify itself",
            (Volume::Iscsi(_), Stage::Silent) => "the portal does not accept a connection",
            (Volume::Iscsi(_), Stage::Connected) if refused => {
                "the portal is connected, the login was refused"
            }
            (Volume::Iscsi(_), Stage::Connected) => "the portal is connected, login did not finish",
            (Volume::Iscsi(_), _) if refused => "the target accepted the login, the disk refuses",
            (Volume::Iscsi(_), _) => "the target accepted the login, inquiry did not finish",
        };
        let detail = status.trouble().map_or_else(String::new, |error| format!(": {error}"));
        let holder = match &binding.volume {
            Volume::Iscsi(session) => match session.holder() {
                Reservation::Held(key) if key != self.reservation_key() => Some(key),
                _ => None,
            },
            Volume::Aoe(_) => None,
        };
        let message = format!("disk {}: {stage}{detail}", binding.name);
        match holder.filter(|_| refused) {
            Some(key) => {
                let message = format!("{message}, under the key {key:#018x}");
                let remedy = format!("release it there; if that node is surely gone, preempt={key:#018x}");
                Refusal::said(Code::Conflict, name, message, remedy)
            }
            None => Refusal::said(
                Code::Storage,
                name,
                message,
                "check the target, then `redoubt storage discover`",
            ),
        }
    }

    /// Facts about a guest's disk.
    #[must_use]
    pub fn facts(&self, guest: GuestNumber, device: usize, volume: &str) -> DiskFacts {
        let binding = self.binding(guest, device);
        let status = binding.map(|binding| binding.volume.status());
        disk_facts(volume, status.as_ref(), binding.map_or([0; 3], |binding| binding.operations))
    }

    /// How a guest's disk is: condition, since when it stalls, sectors.
    #[must_use]
    pub fn condition(&self, guest: GuestNumber, device: usize) -> Option<(Condition, Option<u64>, u64)> {
        let binding = self.binding(guest, device)?;
        let status = binding.volume.status();
        Some((condition(status.state), status.stalled_since_ns, status.capacity.unwrap_or(0)))
    }

    /// Everything about a guest's disk.
    #[must_use]
    pub fn volume_facts(&self, guest: GuestNumber, device: usize) -> Option<VolumeFacts> {
        let it = self.binding(guest, device)?;
        let mut facts = volume_facts(&it.name, it.read_only, &it.settings, &it.volume.status());
        self.name_cards(&mut facts, &it.connections);
        Some(facts)
    }

    /// Says of each path over TCP from which card it leaves.
    pub(crate) fn name_cards(&self, facts: &mut VolumeFacts, connections: &Connections) {
        for (index, path) in facts.paths.iter_mut().enumerate() {
            if let Some(wire) = connections.card(index).and_then(|card| self.wires.get(card)) {
                path.negotiated.push(("Card".to_string(), mac_text(wire.mac)));
            }
        }
    }

    /// Whether a volume of this name is meant by another.
    #[must_use]
    pub fn is_volume(&self, guest: GuestNumber, device: usize, name: &VolumeName) -> bool {
        let binding = self.binding(guest, device);
        binding.is_some_and(|it| it.name.is_same_disk(name))
    }
}

const fn condition(state: VolumeState) -> Condition {
    match state {
        VolumeState::Starting => Condition::Connecting,
        VolumeState::Ready => Condition::Ready,
        VolumeState::Stalled => Condition::Stalled,
        VolumeState::Refused => Condition::Refused,
    }
}

const fn reached(stage: Stage) -> Reached {
    match stage {
        Stage::Silent => Reached::Silent,
        Stage::Connected => Reached::Connected,
        Stage::LoggedIn => Reached::LoggedIn,
        Stage::Ready => Reached::Ready,
    }
}

fn latency(histogram: &Histogram) -> Vec<u64> {
    let used = histogram.buckets.iter().rposition(|count| *count != 0).map_or(0, |last| last + 1);
    histogram.buckets.iter().take(used).copied().collect()
}

fn named<T>(list: impl IntoIterator<Item = (&'static str, T)>) -> Vec<(String, T)> {
    list.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

/// What is told about a volume; its guest and slot are filled in by who knows them.
pub(crate) fn volume_facts(
    name: &VolumeName,
    read_only: bool,
    settings: &VolumeSettings,
    status: &VolumeStatus,
) -> VolumeFacts {
    let counters = &status.counters;
    VolumeFacts {
        guest: String::new(),
        slot: 0,
        volume: name.to_string(),
        read_only: read_only || status.write_protected,
        condition: condition(status.state),
        stage: reached(status.stage),
        stalled_since_ns: status.stalled_since_ns,
        retry: status.retries,
        sectors: status.capacity,
        pending: u32::try_from(status.pending).unwrap_or(u32::MAX),
        rtt_ns: status.rtt_ns,
        latency: latency(&status.latency),
        counters: named([
            ("completed", counters.completed),
            ("failed", counters.failed),
            ("bytes_read", counters.bytes_read),
            ("bytes_written", counters.bytes_written),
            ("retries", counters.retries),
            ("digest_errors", counters.digest_errors),
            ("rejected", counters.rejected),
            ("stalls", counters.stalls),
            ("merged", counters.merged),
        ]),
        last_error: status.trouble(),
        negotiated: named(status.negotiated.iter().cloned()),
        settings: settings.report(name),
        paths: status.paths.iter().map(path_facts).collect(),
    }
}

fn path_facts(path: &PathStatus) -> PathFacts {
    PathFacts {
        name: path.name.clone(),
        condition: match path.state {
            PathState::Starting => PathCondition::Connecting,
            PathState::Active => PathCondition::Active,
            PathState::Standby => PathCondition::Standby,
            PathState::Lost => PathCondition::Lost,
            PathState::Refused => PathCondition::Refused,
            PathState::Disabled => PathCondition::Disabled,
        },
        stage: reached(path.stage),
        lost_since_ns: path.lost_since_ns,
        rtt_ns: path.rtt_ns,
        latency: latency(&path.latency),
        counters: named([
            ("bytes_read", path.bytes_read),
            ("bytes_written", path.bytes_written),
            ("retries", path.retries),
            ("digest_errors", path.digest_errors),
            ("stalls", path.stalls),
        ]),
        last_error: path.last_error.map(String::from),
        negotiated: named(path.negotiated.iter().cloned()),
    }
}

fn disk_facts(volume: &str, status: Option<&VolumeStatus>, operations: [u64; 3]) -> DiskFacts {
    let Some(status) = status else {
        return DiskFacts {
            volume: volume.to_string(),
            sectors: 0,
            state: String::from("detached"),
            stalled_since_ns: None,
            operations,
            bytes: [0; 2],
            retries: 0,
        };
    };
    let state = match status.state {
        VolumeState::Starting => "connecting",
        VolumeState::Ready => "ready",
        VolumeState::Stalled => "stalled",
        VolumeState::Refused => "refused",
    };
    DiskFacts {
        volume: volume.to_string(),
        sectors: status.capacity.unwrap_or(0),
        state: String::from(state),
        stalled_since_ns: status.stalled_since_ns,
        operations,
        bytes: [status.counters.bytes_read, status.counters.bytes_written],
        retries: status.counters.retries,
    }
}
