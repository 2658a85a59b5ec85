//! Whole-node tests: a node over a fake hypervisor on a simulated wire.

mod addressing;
mod audit;
mod capture;
mod claims;
mod dhcp;
mod disks;
mod driver;
mod failover;
mod fake_disk;
mod fake_hypervisor;
mod fake_nic;
mod fleet;
mod guests;
mod heap;
mod hostile;
mod jobs;
mod liars;
mod lockdown;
mod lockout;
mod log_sink;
mod management;
mod names;
mod network;
mod power;
mod rename;
mod replay;
mod restart;
mod revisions;
mod roles;
mod shares;
mod state;
mod state_forgery;
mod storage;
mod targets;
mod trust;
mod turns;
mod units;
mod uploads;
mod vifs;
mod wires;
mod world;

/// A guest for tests of what is kept.
pub(crate) fn machine() -> mgmt_proto::machine::Machine {
    world::machine("web", [1; 32])
}

/// Creates a guest and leaves it paused.
fn create_paused(machine: mgmt_proto::machine::Machine) -> mgmt_proto::verb::Request {
    let settings = mgmt_proto::disk::GuestSettings::default();
    mgmt_proto::verb::Request::Create { machine, settings, paused: true, autostart: None }
}

/// Settings as an owner seals them.
pub(crate) fn sealed() -> mgmt_proto::manifest::Manifest {
    world::settings().manifest
}
