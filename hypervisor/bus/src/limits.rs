//! Bounds of what a device may ask of its driver.

/// Status reads granted to a device to finish its reset.
pub const VIRTIO_RESET_POLLS_MAX: u32 = 100_000;
/// Capabilities followed in a PCI function's list; a longer list is a loop.
pub const PCI_CAPABILITIES_MAX: usize = 48;
