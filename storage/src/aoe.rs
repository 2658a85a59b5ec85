//! ATA over Ethernet: discovery and a session per shelf and slot.
//!
//! Spec: AoE (ATA over Ethernet), revision 11; ATA/ATAPI-7, volume 1.
//!
//! AoE has neither authentication nor sequence numbers, so a target is bound to
//! one station address, tags are unpredictable and retire for as long as a frame
//! can wander, and no write starts where a wandering copy of an older write could
//! still land.

mod discovery;
mod target;
pub mod wire;

pub use discovery::{Discovered, Discovery};
pub use target::{Target, TargetConfig};
pub use wire::{MacAddress, TargetAddress};
