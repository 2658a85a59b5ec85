//! The node's network: NIC drivers, the virtual switch and the host's TCP/IP stack.
//!
//! Everything here is safe code without clock, thread or callback: frames and the
//! time come in, frames and decisions go out. The three parts do not know each
//! other; the node joins them.
//!
//! - [`nics`]: drivers of network cards over register and DMA handles.
//! - [`offload`]: checksums and segmentation that a sender left to others.
//! - [`switch`]: decides where each frame goes; owns no frame.
//! - [`host`]: ARP, IPv4, DHCP and TCP for the node itself, over smoltcp.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod frame;
pub mod host;
mod keyed;
pub mod limits;
pub mod nics;
pub mod offload;
pub mod switch;

pub use frame::MacAddress;
