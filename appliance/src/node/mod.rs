//! The node: everything of dom0, as one state machine.
//!
//! * [`guest`]: a guest and its life;
//! * [`blobs`]: kernels and initrds.

pub mod blobs;
pub mod guest;
