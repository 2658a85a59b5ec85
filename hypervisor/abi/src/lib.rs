//! What dom0 and the hypervisor say to each other.
//!
//! Plain types only: this crate has no code that runs at ring 0 and none that
//! makes a system call. The hypervisor implements the calls, the ring-3 binary
//! issues them, and both agree here.
#![no_std]
#![forbid(unsafe_code)]

pub mod device;
