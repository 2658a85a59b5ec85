//! Finds a virtio function's register windows in its PCI configuration space;
//! [`function`] is what drivers do with them, [`ring`] how they and the device hand buffers
//! to each other.
//!
//! Spec: Virtual I/O Device (VIRTIO) 1.2, section 4.1.4; PCI Local Bus 3.0, section 6.7.

use crate::{msix, pci};

pub mod function;
pub mod ring;

/// PCI vendor of virtio functions (section 4.1.2).
pub const VENDOR: u16 = 0x1af4;
/// Device identifier of a modern network card (0x1040 + device type 1).
pub const DEVICE_NET: u16 = 0x1041;
/// Device identifier of a transitional network card, which has the modern windows too.
pub const DEVICE_NET_TRANSITIONAL: u16 = 0x1000;

/// Device identifier of a modern disk (0x1040 + device type 2).
pub const DEVICE_BLOCK: u16 = 0x1042;
/// Device identifier of a transitional disk, which has the modern windows too.
pub const DEVICE_BLOCK_TRANSITIONAL: u16 = 0x1001;

const CAPABILITY_VENDOR: u8 = 0x09;

/// A window inside a base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Base address register, 0 to 5.
    pub bar: u8,
    /// First octet inside it.
    pub offset: usize,
    /// Octets.
    pub length: usize,
}

/// Where a virtio function keeps its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locations {
    /// Common configuration (4.1.4.3).
    pub common: Location,
    /// Notification area (4.1.4.4).
    pub notify: Location,
    /// Octets between the doorbells of consecutive `queue_notify_off`.
    pub notify_multiplier: u32,
    /// Interrupt status (4.1.4.5); not used with MSI-X.
    pub interrupt_status: Option<Location>,
    /// Device-specific configuration (4.1.4.6).
    pub device: Option<Location>,
    /// Configuration-space offset of the MSI-X capability.
    pub msix_capability: Option<u8>,
}

/// Why a function cannot be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// The function has no capability list.
    NoCapabilities,
    /// The list does not end.
    Loop,
    /// The common configuration or the notification area is missing: a legacy device.
    NotModern,
}

/// Walks the capability list; `read` returns the aligned 32-bit word of
/// configuration space at an offset that is a multiple of four.
///
/// # Errors
/// The list is absent, endless or lacks the modern windows.
pub fn walk(mut read: impl FnMut(u16) -> u32) -> Result<Locations, WalkError> {
    let (mut common, mut notify, mut interrupt_status, mut device) = (None, None, None, None);
    let mut notify_multiplier = 0;
    let mut msix_capability = None;
    let is_list = pci::capabilities(&mut read, |read, pointer, [identifier, _, length, kind]| {
        if identifier == msix::CAPABILITY && msix_capability.is_none() {
            msix_capability = Some(pointer);
        }
        if identifier != CAPABILITY_VENDOR || length < 16 {
            return;
        }
        let base = u16::from(pointer);
        match (kind, location(base, read)) {
            (1, Some(found)) => common = common.or(Some(found)),
            (2, Some(found)) if notify.is_none() => {
                notify = Some(found);
                notify_multiplier = if length >= 20 { read(base.saturating_add(16)) } else { 0 };
            }
            (3, Some(found)) => interrupt_status = interrupt_status.or(Some(found)),
            (4, Some(found)) => device = device.or(Some(found)),
            _ => {}
        }
    });
    if !is_list.map_err(|pci::EndlessList| WalkError::Loop)? {
        return Err(WalkError::NoCapabilities);
    }
    Ok(Locations {
        common: common.ok_or(WalkError::NotModern)?,
        notify: notify.ok_or(WalkError::NotModern)?,
        notify_multiplier,
        interrupt_status,
        device,
        msix_capability,
    })
}

/// Reserved BAR values are skipped, as 4.1.4 asks of drivers.
fn location(base: u16, read: &mut dyn FnMut(u16) -> u32) -> Option<Location> {
    let [bar, ..] = read(base.saturating_add(4)).to_le_bytes();
    let offset = usize::try_from(read(base.saturating_add(8))).ok()?;
    let length = usize::try_from(read(base.saturating_add(12))).ok()?;
    offset.checked_add(length)?;
    (bar <= 5).then_some(Location { bar, offset, length })
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "tests cut random numbers to size")]
mod tests {
    use super::*;

    fn put(space: &mut [u8; 256], at: usize, bytes: &[u8]) {
        space[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn reader(space: &[u8; 256]) -> impl FnMut(u16) -> u32 + '_ {
        |offset| {
            assert_eq!(offset % 4, 0);
            space
                .get(usize::from(offset)..)
                .and_then(|rest| rest.first_chunk())
                .map_or(u32::MAX, |word| u32::from_le_bytes(*word))
        }
    }

    fn qemu_like() -> [u8; 256] {
        let mut space = [0; 256];
        space[6] = 0x10;
        space[0x34] = 0x98;
        put(&mut space, 0x98, &[0x11, 0x84, 2, 0, 1, 0, 0, 0]);
        put(&mut space, 0x84, &[9, 0x70, 20, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        put(&mut space, 0x70, &[9, 0x60, 20, 2, 4, 0, 0, 0, 0, 0x30, 0, 0, 0, 0x10, 0, 0, 4]);
        put(&mut space, 0x60, &[9, 0x50, 16, 4, 4, 0, 0, 0, 0, 0x20, 0, 0, 0, 0x10, 0, 0]);
        put(&mut space, 0x50, &[9, 0x40, 16, 3, 4, 0, 0, 0, 0, 0x10, 0, 0, 0, 0x10, 0, 0]);
        put(&mut space, 0x40, &[9, 0, 16, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0]);
        space
    }

    #[test]
    fn layout_of_qemu() {
        let space = qemu_like();
        let found = walk(reader(&space)).unwrap();
        assert_eq!(found.common, Location { bar: 4, offset: 0, length: 0x1000 });
        assert_eq!(found.notify, Location { bar: 4, offset: 0x3000, length: 0x1000 });
        assert_eq!(found.notify_multiplier, 4);
        assert_eq!(found.device.unwrap().offset, 0x2000);
        assert_eq!(found.msix_capability, Some(0x98));
    }

    #[test]
    fn loops_legacy_and_noise_end() {
        let mut space = qemu_like();
        space[0x41] = 0x98;
        assert_eq!(walk(reader(&space)), Err(WalkError::Loop));
        space[0x34] = 0;
        assert_eq!(walk(reader(&space)), Err(WalkError::NotModern));
        space[6] = 0;
        assert_eq!(walk(reader(&space)), Err(WalkError::NoCapabilities));
        let mut state = 88_172_645_463_325_252u64;
        for _ in 0..100_000 {
            let mut space = qemu_like();
            for _ in 0..4 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                space[(state % 256) as usize] = (state >> 32) as u8;
            }
            let _ = walk(reader(&space));
        }
    }
}
