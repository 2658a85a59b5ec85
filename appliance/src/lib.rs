//! dom0: the node and its guests' devices.
//!
//! This library is pure: it is given time, bytes and guest memory by copy, and
//! returns bytes and events.
//!
//! * [`layout`]: a guest's physical address space;
//! * [`guest_memory`]: how its memory may be used;
//! * [`devices`]: everything it sees besides CPUs and RAM;
//! * [`acpi`]: the tables that describe that to it;
//! * [`loader`]: how its kernel gets into memory;
//! * [`hypervisor`]: what the node asks of the hypervisor;
//! * [`node`]: dom0 as one state machine.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acpi;
pub mod devices;
pub mod fault;
mod gpa;
pub mod guest_memory;
pub mod hypervisor;
pub mod layout;
pub mod limits;
pub mod loader;
pub mod local_disk;
pub mod node;

#[cfg(test)]
extern crate std;

#[cfg(test)]
#[path = "../../storage/src/tests/mutate.rs"]
mod mutate;
#[cfg(test)]
mod test_random;
