//! What the node tells of itself and its guests.

use alloc::string::String;
use alloc::vec::Vec;

use mgmt_proto::verb::{GuestFacts, NodeFacts, State, Traffic};

use crate::hypervisor::Hypervisor;
use crate::node::Node;
use crate::node::guest::{Guest, Life};
use crate::node::nic::Nic;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// What the guests' network cards moved.
    pub(super) fn traffic(&self) -> Vec<Traffic> {
        let of = |guest: &Guest<H::Memory>| Traffic {
            id: guest.domain_id().map_or(0, |domain| domain.0),
            bytes: self.network.bytes(guest.number),
        };
        self.guests.iter().map(of).collect()
    }

    pub(super) fn node_facts(&mut self, now_ns: u64) -> NodeFacts {
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
            guests: u32::try_from(self.guests.len()).unwrap_or(u32::MAX),
            fresh_identity: self.state.is_fresh(),
            tsc_khz: info.tsc_khz,
            claims: self.address_claims(),
            portals_moved: self.neighbourhood.portals_moved,
        }
    }

    pub(super) fn guest_facts(&mut self, index: usize) -> Option<GuestFacts> {
        let guest = self.guests.get(index)?;
        let domain = guest.domain_id();
        let info = domain.and_then(|domain| {
            self.hypervisor.domain_info(domain.slot()).ok().filter(|info| info.domain == domain.0)
        });
        let info = info.unwrap_or_default();
        let state = match guest.life {
            Life::Connecting => State::Connecting,
            Life::Paused => State::Paused,
            Life::Off => State::Off,
            Life::Crashed => State::Crashed,
            Life::Started if !guest.has_devices() => State::Detached,
            Life::Started if info.vcpus_runnable > 0 => State::Running,
            Life::Started => State::Blocked,
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
