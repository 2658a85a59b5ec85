//! Interrupts as messages.
//!
//! Spec: PCI Local Bus 3.0, 6.8.2 (MSI-X).

use hv_abi::device::Mmio;
use hv_x86::low32;

use crate::pci::Configuration;

/// Identifier of the capability.
pub const CAPABILITY: u8 = 0x11;
/// Message control: enable.
const ENABLE: u32 = 1 << 31;
/// Message control: all vectors are masked.
const MASK_ALL: u32 = 1 << 30;
/// Octets of an entry of the table.
const ENTRY_BYTES: usize = 16;

/// Where a function's table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Base address register.
    pub bar: u8,
    /// First octet inside it.
    pub offset: usize,
}

/// Finds the table by the capability's offset in configuration space.
#[must_use]
pub fn table(space: &impl Configuration, function: u16, capability: u8) -> Option<Table> {
    let word = space.read(function, u16::from(capability).checked_add(4)?);
    let [bar, ..] = (word & 7).to_le_bytes();
    Some(Table { bar, offset: usize::try_from(word & !7).ok()? })
}

/// Sets the message that an entry of the table sends, and unmasks it.
pub fn route(window: &impl Mmio, table: Table, entry: u16, address: u64, data: u64) {
    let at = table.offset.saturating_add(usize::from(entry).saturating_mul(ENTRY_BYTES));
    let words = [low32(address), low32(address >> 32), low32(data), 0];
    for (offset, word) in (at..).step_by(4).zip(words) {
        window.write_u32(offset, word);
    }
}

/// Turns MSI-X on.
pub fn enable(space: &impl Configuration, function: u16, capability: u8) {
    let control = space.read(function, u16::from(capability));
    space.write(function, u16::from(capability), control & !MASK_ALL | ENABLE);
}

#[cfg(test)]
mod tests {
    use super::{Table, enable, route, table};
    use crate::pci::Configuration;
    use crate::pci::tests::Space;
    use core::cell::RefCell;
    use hv_abi::device::Mmio;

    struct Window(RefCell<[u32; 16]>);

    impl Mmio for Window {
        fn length(&self) -> usize {
            64
        }
        fn read_u8(&self, _: usize) -> u8 {
            0xff
        }
        fn read_u16(&self, _: usize) -> u16 {
            0xffff
        }
        fn read_u32(&self, offset: usize) -> u32 {
            self.0.borrow()[offset / 4]
        }
        fn write_u8(&self, _: usize, _: u8) {}
        fn write_u16(&self, _: usize, _: u16) {}
        fn write_u32(&self, offset: usize, value: u32) {
            self.0.borrow_mut()[offset / 4] = value;
        }
    }

    #[test]
    fn a_vector_is_routed() {
        let space = Space::default();
        space.put(8, &[(0, 1), (0x98, 0x4002_8411), (0x9c, 0x11)]);
        let found = table(&space, 8, 0x98).unwrap();
        assert_eq!(found, Table { bar: 1, offset: 16 });
        let window = Window(RefCell::new([7; 16]));
        route(&window, found, 1, 0x1_fee0_1000, 0x31);
        assert_eq!(window.0.borrow()[8..12], [0xfee0_1000, 1, 0x31, 0]);
        assert!(window.0.borrow()[..8].iter().all(|word| *word == 7));
        enable(&space, 8, 0x98);
        assert_eq!(space.read(8, 0x98), 0x8002_8411);
    }
}
