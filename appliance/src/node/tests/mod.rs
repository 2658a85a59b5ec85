//! Whole-node tests: a node over a fake hypervisor on a simulated wire.

mod dhcp;
mod fake_hypervisor;
mod fake_nic;
mod management;
mod targets;
mod world;
