//! What a guest sees of its machine besides CPUs: memory, devices, tables, and how its kernel
//! is loaded.
//!
//! Pure: it is given a guest's accesses and its memory by copy, and returns values, bytes
//! and events.
//!
//! * [`layout`]: a guest's physical address space;
//! * [`guest_memory`]: how its memory may be used; [`fault`]: what a guest does wrong;
//! * [`devices`]: everything it sees besides CPUs and RAM;
//! * [`acpi`]: the tables that describe that to it;
//! * [`loader`]: how its kernel gets into memory;
//! * [`limits`]: bounds of what grows at its will.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acpi;
pub mod devices;
pub mod fault;
mod gpa;
pub mod guest_memory;
pub mod layout;
pub mod limits;
pub mod loader;

#[cfg(test)]
extern crate std;

#[cfg(test)]
#[path = "../../../storage/src/tests/mutate.rs"]
mod mutate;
#[cfg(any(test, feature = "fake"))]
pub mod test_random;
