//! What is told about disks.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use mgmt_proto::code::{Code, Failure};
use mgmt_proto::machine::Disk;
use mgmt_proto::verb::DiskFacts;
use storage::volume::Volume;
use storage::{Stage, VolumeState, VolumeStatus};

use super::Volumes;

impl Volumes {
    /// Why a guest's disks are not ready: which one, at which stage.
    #[must_use]
    pub fn failure(&self, guest: u64, name: &str) -> Failure {
        let waiting = self.bindings.iter().filter(|binding| binding.guest == guest).find_map(|binding| {
            let status = binding.volume.status();
            (status.state != VolumeState::Ready || status.capacity.is_none()).then_some((binding, status))
        });
        let Some((binding, status)) = waiting else {
            return Failure::new(Code::Storage, name, "its disks are not ready", "try again");
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
        let detail = status.last_error.map_or_else(String::new, |error| format!(": {error}"));
        let message = format!("disk {}: {stage}{detail}", binding.name);
        Failure::new(Code::Storage, name, message, "check the target, then `redoubt storage discover`")
    }

    /// Facts about a guest's disks, in their order.
    #[must_use]
    pub fn facts(&self, guest: u64, disks: &[Disk]) -> Vec<DiskFacts> {
        let facts = disks.iter().enumerate().map(|(device, disk)| {
            let binding = self.bindings.iter().find(|it| it.guest == guest && it.device == device);
            let status = binding.map(|binding| binding.volume.status());
            disk_facts(disk, status.as_ref(), binding.map_or([0; 3], |binding| binding.operations))
        });
        facts.collect()
    }
}

fn disk_facts(disk: &Disk, status: Option<&VolumeStatus>, operations: [u64; 3]) -> DiskFacts {
    let Some(status) = status else {
        return DiskFacts {
            volume: disk.volume.clone(),
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
        volume: disk.volume.clone(),
        sectors: status.capacity.unwrap_or(0),
        state: String::from(state),
        stalled_since_ns: status.stalled_since_ns,
        operations,
        bytes: [status.counters.bytes_read, status.counters.bytes_written],
        retries: status.counters.retries,
    }
}
