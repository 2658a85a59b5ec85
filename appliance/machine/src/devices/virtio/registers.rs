//! Where a virtio function keeps its structures.
//!
//! Spec: virtio 1.2, section 4.1.4. One memory window: configuration on its first
//! page, notifications alone on the second so that a hypervisor can match each
//! queue's address, the MSI-X table on the third.

use crate::devices::config_window::ConfigWindow;

/// Size of the window in bytes.
pub const BAR_BYTES: u32 = 0x4000;
/// Common configuration structure.
pub const COMMON: u32 = 0;
/// Its length.
pub const COMMON_BYTES: u32 = 0x38;
/// Interrupt status.
pub const INTERRUPT_STATUS: u32 = 0x100;
/// Device-specific configuration.
pub const DEVICE: u32 = 0x200;
/// Its length.
pub const DEVICE_BYTES: u32 = 0x100;
/// Notifications.
pub const NOTIFY: u32 = 0x1000;
/// Their length.
pub const NOTIFY_BYTES: u32 = 0x1000;
/// Distance of two queues' notification addresses.
pub const NOTIFY_MULTIPLIER: u32 = 4;
/// Width of a notification in bytes.
pub const NOTIFY_WIDTH: u16 = 2;
/// MSI-X table.
pub const MSIX_TABLE: u32 = 0x2000;
/// MSI-X pending bits.
pub const MSIX_PENDING: u32 = 0x3000;

/// Configuration space: first of the vendor capabilities.
pub const CAPABILITY_COMMON: u16 = 0x50;
const CAPABILITY_NOTIFY: u16 = 0x60;
const CAPABILITY_STATUS: u16 = 0x74;
const CAPABILITY_DEVICE: u16 = 0x84;
const CAPABILITY_WINDOW: u16 = 0x94;
/// Configuration access capability: which window.
pub const WINDOW_BAR: u16 = CAPABILITY_WINDOW + 4;
/// Configuration access capability: offset.
pub const WINDOW_OFFSET: u16 = CAPABILITY_WINDOW + 8;
/// Configuration access capability: width.
pub const WINDOW_LENGTH: u16 = CAPABILITY_WINDOW + 12;
/// Configuration access capability: data.
pub const WINDOW_DATA: u16 = CAPABILITY_WINDOW + 16;

/// Reads a 32-bit register of the vendor capabilities (virtio 1.2, 4.1.4).
#[must_use]
pub fn capability(offset: u16, window: ConfigWindow) -> u32 {
    // Each: id 9, next, length, kind; bar 0; offset; length.
    match offset {
        CAPABILITY_COMMON => header(CAPABILITY_NOTIFY, 16, 1),
        0x58 => COMMON,
        0x5c => COMMON_BYTES,
        CAPABILITY_NOTIFY => header(CAPABILITY_STATUS, 20, 2),
        0x68 => NOTIFY,
        0x6c => NOTIFY_BYTES,
        0x70 => NOTIFY_MULTIPLIER,
        CAPABILITY_STATUS => header(CAPABILITY_DEVICE, 16, 3),
        0x7c => INTERRUPT_STATUS,
        0x80 => 1,
        CAPABILITY_DEVICE => header(CAPABILITY_WINDOW, 16, 4),
        0x8c => DEVICE,
        0x90 => DEVICE_BYTES,
        CAPABILITY_WINDOW => header(0, 20, 5),
        WINDOW_BAR => u32::from(window.bar),
        WINDOW_OFFSET => window.offset,
        WINDOW_LENGTH => window.length,
        _ => 0,
    }
}

const fn header(next: u16, length: u32, kind: u32) -> u32 {
    9 | ((next as u32) << 8) | (length << 16) | (kind << 24)
}
