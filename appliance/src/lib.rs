//! dom0: the node, which joins guests, network, storage and operators.
//!
//! This library is pure: it is given time, bytes and guest memory by copy, and
//! returns bytes and events. What a guest sees is the crate `machine`.
//!
//! * [`hypervisor`]: what the node asks of the hypervisor;
//! * [`local_disk`]: disks of the machine itself;
//! * [`node`]: dom0 as one state machine;
//! * [`limits`]: bounds of what grows at others' will.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod hypervisor;
pub mod limits;
pub mod local_disk;
pub mod node;

#[cfg(test)]
extern crate std;

#[cfg(test)]
#[path = "../../storage/src/tests/mutate.rs"]
mod mutate;
