//! dom0: the node, which joins guests, network, storage and operators.
//!
//! This library is pure: it is given time, bytes and guest memory by copy, and
//! returns bytes and events. What a guest sees is the crate `machine`.
//!
//! * [`hypervisor`]: what the node asks of the hypervisor;
//! * [`node`]: dom0 as one state machine, made of parts:
//! * [`guests`], [`blobs`] (kernels and uploads), [`volumes`] (disks and the sessions behind them),
//!   [`network`], [`operators`], `trust` and `state` (what outlives a power cut);
//! * [`settings`]: how the node was sealed; `ledger`: what everything may take of the heap;
//! * [`limits`]: bounds of what grows at others' will.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod blobs;
pub mod guests;
pub mod hypervisor;
pub(crate) mod ledger;
pub mod limits;
pub mod network;
pub mod node;
pub mod operators;
pub(crate) mod own_memory;
pub mod settings;
pub(crate) mod state;
pub(crate) mod trust;
pub mod volumes;

#[cfg(test)]
extern crate std;

#[cfg(test)]
#[path = "../../storage/src/tests/mutate.rs"]
mod mutate;
#[cfg(test)]
mod mutations;
