//! What a guest sees besides CPUs and RAM.

pub mod config_window;
pub mod ioapic;
pub mod msix;
pub mod output_ring;
pub mod pci;
pub mod pci_bus;
pub mod platform;
pub mod uart16550;
pub mod virtio;
