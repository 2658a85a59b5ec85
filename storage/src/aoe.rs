//! ATA over Ethernet: discovery and a session per shelf and slot.
//!
//! Spec: AoE (ATA over Ethernet), revision 11; ATA/ATAPI-7, volume 1.
//!
//! AoE has neither authentication nor sequence numbers, so only configured (or
//! the first answering) MAC addresses are accepted, tags are unpredictable and do not
//! repeat while a frame can wander, and no write starts where a wandering copy of
//! an older write could still land.

mod discovery;
mod target;
pub mod wire;

pub use discovery::{Discovered, Discovery, Filter};
pub use target::{Administration, Outcome, Source, Target, TargetConfig};
pub use wire::{MacAddress, TargetAddress};
