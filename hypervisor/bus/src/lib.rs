//! What drivers of PCI functions share.
//!
//! * [`pci`]: finding functions, their base addresses and capabilities;
//! * [`msix`]: interrupts as messages;
//! * [`virtio`]: where a virtio function keeps its registers, how it is started, and the
//!   driver's end of its rings.
//!
//! All of it is safe code over the handles of [`hv_abi::device`]. Devices are not trusted:
//! lists that do not end, windows that are too short and indices out of range are found.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod limits;
pub mod msix;
pub mod pci;
pub mod virtio;
