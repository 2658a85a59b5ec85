//! What the node tells of itself and its guests.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use hv_abi::domain::{NodeInfo, WATCHDOG_I6300ESB, WATCHDOG_PROCESSOR, WATCHDOG_TCO};
use hv_abi::previous::{self, LOG_CAUSE};
use mgmt_proto::limits::STREAM_BYTES;
use mgmt_proto::platform::{Ended, Platform, Watchdog};
use mgmt_proto::verb::{GuestFacts, NodeFacts, State, Stream, Traffic};

use crate::guests::guest::{Guest, RunState};
use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;

/// Most bytes of why the run before ended.
const CAUSE_BYTES: usize = 480;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// What the guests' network cards moved.
    pub(crate) fn traffic(&self) -> Vec<Traffic> {
        let of = |guest: &Guest<H::Memory>| Traffic {
            id: guest.domain_id().map_or(0, |domain| domain.0),
            bytes: self.network.bytes(guest.number),
        };
        self.guests.list.iter().map(of).collect()
    }

    pub(crate) fn node_facts(&mut self, now_ns: u64) -> NodeFacts {
        let info = self.hypervisor.node_info();
        let lease = self.network.stacks.first.lease();
        NodeFacts {
            version: String::from(env!("CARGO_PKG_VERSION")),
            image_sha256: self.settings.image_sha256,
            image_bytes: self.settings.image_bytes,
            cpus: info.cpus,
            memory_bytes: info.memory_bytes,
            memory_free_bytes: info.memory_free_bytes,
            hypervisor_bytes: info.hypervisor_bytes,
            dom0_bytes: info.dom0_bytes,
            uptime_ns: now_ns,
            dom0_starts: self.settings.dom0_starts,
            mac: self.network.nic.mac(),
            address: lease.map(|lease| (lease.address.octets(), lease.prefix)),
            guests: u32::try_from(self.guests.list.len()).unwrap_or(u32::MAX),
            fresh_identity: self.state.is_fresh(),
            tsc_khz: info.tsc_khz,
            claims: self.address_claims(),
            portals_moved: self.neighbourhood.portals_moved,
            paths_shortened: self.paths_shortened(),
            log_errors: info.log_errors,
            log_warnings: info.log_warnings,
            platform: self.platform(&info),
        }
    }

    /// The machine under this node, as its hypervisor tells of it.
    fn platform(&mut self, info: &NodeInfo) -> Platform {
        let mut cause = vec![0; CAUSE_BYTES];
        let (length, _) = self.hypervisor.log_read(LOG_CAUSE, 0, &mut cause);
        cause.truncate(length);
        let known = [
            (WATCHDOG_PROCESSOR, Watchdog::Processor),
            (WATCHDOG_TCO, Watchdog::Tco),
            (WATCHDOG_I6300ESB, Watchdog::I6300esb),
        ];
        Platform {
            ended: previous::Ended::from_number(info.previous_end).map(|ended| match ended {
                previous::Ended::Cut => Ended::Cut,
                previous::Ended::Ordered => Ended::Ordered,
                previous::Ended::Failed => Ended::Failed,
                previous::Ended::Hung => Ended::Hung,
                previous::Ended::MachineCheck => Ended::MachineCheck,
            }),
            cause: String::from_utf8_lossy(&cause).into_owned(),
            watchdogs: known.iter().filter(|(bit, _)| info.watchdogs & bit != 0).map(|(_, it)| *it).collect(),
            smt: self.settings.manifest.smt,
            threads_resting: info.threads_resting,
        }
    }

    /// Part of one of the logs.
    pub(crate) fn read_log(&mut self, which: u64, from: u64) -> Stream {
        let mut bytes = vec![0; STREAM_BYTES];
        let (mut length, mut next) = (0, from);
        while let Some(rest) = bytes.get_mut(length..).filter(|rest| !rest.is_empty()) {
            let (count, after) = self.hypervisor.log_read(which, next, rest);
            (length, next) = (length + count, after);
            if count == 0 {
                break;
            }
        }
        bytes.truncate(length);
        Stream { bytes, next }
    }

    pub(crate) fn guest_facts(&mut self, index: usize) -> Option<GuestFacts> {
        let guest = self.guests.get(index)?;
        let domain = guest.domain_id();
        let info = domain.and_then(|domain| {
            self.hypervisor.domain_info(domain.slot().index()).ok().filter(|info| info.domain == domain.0)
        });
        let info = info.unwrap_or_default();
        let state = match guest.life {
            RunState::Connecting => State::Connecting,
            RunState::Paused => State::Paused,
            RunState::Off => State::Off,
            RunState::Crashed => State::Crashed,
            RunState::Started if !guest.has_devices() => State::Detached,
            RunState::Started if info.vcpus_runnable > 0 => State::Running,
            RunState::Started => State::Blocked,
        };
        Some(GuestFacts {
            id: domain.map_or(0, |domain| domain.0),
            machine: guest.machine.clone(),
            state,
            cpu_time_ns: info.cpu_time_ns,
            populated_bytes: info.populated_bytes,
            created_ns: guest.created_ns,
            first_run_ns: info.first_run_ns,
            exits: info.exits,
            frames: self.network.frames(guest.number),
            drops: self.network.drops(guest.number),
            disks: guest
                .machine
                .disks
                .iter()
                .zip(&guest.slots)
                .map(|(disk, slot)| self.volumes.facts(guest.number, slot.device, &disk.volume))
                .collect(),
        })
    }
}
