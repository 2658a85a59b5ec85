//! Whole-node tests: a node over a fake hypervisor on a simulated wire.

mod dhcp;
mod disks;
mod driver;
mod fake_hypervisor;
mod fake_nic;
mod guests;
mod management;
mod targets;
mod world;
