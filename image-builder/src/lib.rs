//! Composes, seals, signs and verifies the one file.
//!
//! * [`programs`]: builds the two bare-metal programs;
//! * [`compose`]: joins them into a file that boot loaders take for a Linux
//!   kernel.

pub mod compose;
pub mod programs;
