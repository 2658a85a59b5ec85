//! The hypervisor's decisions as plain code.
//!
//! Nothing here touches a processor or reads a clock: the ring-0 program hands in
//! time, registers and memory, and acts on what comes back. So all of it is
//! tested on a workstation.
#![no_std]
#![forbid(unsafe_code)]

pub mod acpi;
pub mod asid;
pub mod boot_params;
pub mod clock;
pub mod cpuid;
pub mod decode;
pub mod frames;
pub mod guest_page;
pub mod lapic;
pub mod machine_check;
pub mod msr;
pub mod nospec;
pub mod persisted;
pub mod ring;
pub mod scheduler;
pub mod set_aside;
pub mod speculation;
pub mod string_io;
pub mod watch;
pub mod xsave;
