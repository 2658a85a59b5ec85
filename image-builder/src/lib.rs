//! Composes, seals, signs and verifies the one file.
//!
//! * [`programs`]: builds the two bare-metal programs;
//! * [`speculation`]: holds ring 0's code to what it promises of each exit of a guest;
//! * [`compose`]: joins them into a file that boot loaders take for a Linux
//!   kernel, or takes such a file apart;
//! * [`seal`]: adds the owner's manifest and signature;
//! * [`verify`]: verifies that a file is exactly what its owner sealed;
//! * [`settings`]: the file in which an owner writes the settings; [`state`]: where the
//!   node keeps what it must not forget;
//! * [`dev`]: an image with development keys, as `cargo image` makes it.
#![forbid(unsafe_code)]

pub mod addressing;
pub mod cards;
pub mod compose;
pub mod dev;
pub mod programs;
pub mod seal;
pub mod settings;
pub mod speculation;
pub mod state;
pub mod verify;

#[cfg(test)]
mod tests;
