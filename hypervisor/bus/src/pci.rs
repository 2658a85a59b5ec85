//! PCI functions: the walk over the buses, base addresses, capabilities.
//!
//! Spec: PCI Local Bus 3.0, 6.1 (configuration header), 6.2.5 (base addresses), 6.7
//! (capabilities).

use hv_x86::{Hpa, low16};

use crate::limits::PCI_CAPABILITIES_MAX;

/// Configuration space of all functions, by bus << 8 | device << 3 | function.
pub trait Configuration {
    /// Reads the aligned 32-bit word at an offset; all ones where there is no function.
    fn read(&self, function: u16, offset: u16) -> u32;
    /// Writes it.
    fn write(&self, function: u16, offset: u16, value: u32);
}

/// Offset of command (low half) and status.
const COMMAND_OFFSET: u16 = 0x04;
/// Memory space and bus mastering, no INTx.
const COMMAND: u32 = 1 << 1 | 1 << 2 | 1 << 10;
/// Status: there is a list of capabilities.
const STATUS_CAPABILITIES: u32 = 1 << 20;
/// Offset of the header's type in bits 23:16.
const HEADER_OFFSET: u16 = 0x0c;
/// Header type: more functions than one.
const HEADER_SEVERAL: u32 = 1 << 23;
/// Offset of the first base address register.
const BAR_OFFSET: u16 = 0x10;
/// Offset of the first capability's offset.
const POINTER_OFFSET: u16 = 0x34;
/// Capabilities lie behind the header.
const FIRST_CAPABILITY: u8 = 0x40;

/// Vendor and device identifier of a function.
#[must_use]
pub fn identity(space: &impl Configuration, function: u16) -> (u16, u16) {
    let word = u64::from(space.read(function, 0));
    (low16(word), low16(word >> 16))
}

/// Visits every function on every bus until one is accepted.
pub fn find<T>(space: &impl Configuration, mut look: impl FnMut(u16) -> Option<T>) -> Option<T> {
    for bus in 0..=255_u16 {
        for device in 0..32_u16 {
            let first = bus << 8 | device << 3;
            if space.read(first, 0) == u32::MAX {
                continue;
            }
            let functions = if space.read(first, HEADER_OFFSET) & HEADER_SEVERAL != 0 { 8 } else { 1 };
            for function in first..first + functions {
                if let Some(found) = look(function) {
                    return Some(found);
                }
            }
        }
        // Buses behind bridges are numbered by firmware; most machines have few.
        if bus == 0 && !has_bridge(space) {
            return None;
        }
    }
    None
}

fn has_bridge(space: &impl Configuration) -> bool {
    (0..32_u16).any(|device| space.read(device << 3, HEADER_OFFSET) >> 16 & 0x7f == 1)
}

/// Lets a function answer at its base addresses and reach memory.
pub fn enable(space: &impl Configuration, function: u16) {
    space.write(function, COMMAND_OFFSET, space.read(function, COMMAND_OFFSET) & 0xffff | COMMAND);
}

/// Address and length of a memory base address register.
#[must_use]
pub fn bar_range(space: &impl Configuration, function: u16, bar: u8) -> Option<(Hpa, u64)> {
    if bar > 5 {
        return None;
    }
    let offset = BAR_OFFSET + u16::from(bar) * 4;
    let low = space.read(function, offset);
    if low & 1 != 0 {
        return None;
    }
    let wide = low >> 1 & 3 == 2;
    if wide && bar == 5 {
        return None;
    }
    let high = if wide { space.read(function, offset + 4) } else { 0 };
    space.write(function, offset, u32::MAX);
    let mask = space.read(function, offset) & !15;
    space.write(function, offset, low);
    let address = u64::from(low & !15) | u64::from(high) << 32;
    let length = u64::from(mask.wrapping_neg());
    (mask != 0 && address != 0).then_some((Hpa(address), length))
}

/// The list of capabilities of a function does not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndlessList;

/// Calls `found` with the offset of each capability and its first four octets; `read` returns
/// the aligned word at an offset. False when there is no list.
///
/// # Errors
/// [`EndlessList`].
pub fn capabilities(
    read: &mut impl FnMut(u16) -> u32,
    mut found: impl FnMut(&mut dyn FnMut(u16) -> u32, u8, [u8; 4]),
) -> Result<bool, EndlessList> {
    if read(COMMAND_OFFSET) & STATUS_CAPABILITIES == 0 {
        return Ok(false);
    }
    let [mut pointer, ..] = read(POINTER_OFFSET).to_le_bytes();
    for _ in 0..PCI_CAPABILITIES_MAX {
        pointer &= !3;
        if pointer < FIRST_CAPABILITY {
            return Ok(true);
        }
        let word = read(u16::from(pointer)).to_le_bytes();
        found(read, pointer, word);
        [_, pointer, ..] = word;
    }
    Err(EndlessList)
}

#[cfg(test)]
pub(crate) mod tests {
    extern crate std;
    use super::{COMMAND, Configuration, bar_range, enable, find, identity};
    use core::cell::RefCell;
    use hv_x86::Hpa;
    use std::collections::BTreeMap;

    /// Functions with the words that they have, and how long their base addresses reach.
    #[derive(Default)]
    pub(crate) struct Space {
        pub(crate) words: RefCell<BTreeMap<(u16, u16), u32>>,
        lengths: BTreeMap<(u16, u16), u32>,
    }

    impl Space {
        pub(crate) fn put(&self, function: u16, words: &[(u16, u32)]) {
            for (offset, word) in words {
                self.words.borrow_mut().insert((function, *offset), *word);
            }
        }
    }

    impl Configuration for Space {
        fn read(&self, function: u16, offset: u16) -> u32 {
            let words = self.words.borrow();
            let missing = if words.contains_key(&(function, 0)) { 0 } else { u32::MAX };
            words.get(&(function, offset)).copied().unwrap_or(missing)
        }

        fn write(&self, function: u16, offset: u16, value: u32) {
            let fixed = self
                .lengths
                .get(&(function, offset))
                .map_or(value, |length| value & length.wrapping_neg() | self.read(function, offset) & 15);
            self.words.borrow_mut().insert((function, offset), fixed);
        }
    }

    #[test]
    fn functions_are_found_in_bus_order() {
        let space = Space::default();
        space.put(0x0008, &[(0, 0x1041_1af4)]);
        space.put(0x0010, &[(0, 0x1042_1af4), (12, 1 << 23)]);
        space.put(0x0012, &[(0, 0x1000_8086)]);
        space.put(0x0108, &[(0, 0x1041_1af4)]);
        let all = |space: &Space| {
            let mut all = std::vec::Vec::new();
            let none: Option<()> = find(space, |function| {
                if identity(space, function).0 != 0xffff {
                    all.push(function);
                }
                None
            });
            assert_eq!(none, None);
            all
        };
        assert_eq!(all(&space), [0x0008, 0x0010, 0x0012]);
        assert_eq!(find(&space, |it| (identity(&space, it) == (0x1af4, 0x1042)).then_some(it)), Some(0x0010));
        space.put(0x0018, &[(0, 0x0001_8086), (12, 1 << 16)]);
        assert_eq!(all(&space), [0x0008, 0x0010, 0x0012, 0x0018, 0x0108]);
    }

    #[test]
    fn base_addresses_are_measured_and_put_back() {
        let mut space = Space::default();
        space.put(
            8,
            &[(0, 0x1041_1af4), (4, 0x10_0003), (0x10, 0xfe00_0000), (0x14, 0xc001), (0x18, 0xe000_000c)],
        );
        space.put(8, &[(0x1c, 2)]);
        space.lengths.insert((8, 0x10), 0x1000);
        space.lengths.insert((8, 0x18), 0x4000);
        let before = space.words.borrow().clone();
        assert_eq!(bar_range(&space, 8, 0), Some((Hpa(0xfe00_0000), 0x1000)));
        assert_eq!(bar_range(&space, 8, 1), None, "of ports");
        assert_eq!(bar_range(&space, 8, 2), Some((Hpa(0x2_e000_0000), 0x4000)));
        assert_eq!(*space.words.borrow(), before);
        assert_eq!(bar_range(&space, 8, 4), None, "nothing there");
        assert_eq!(bar_range(&space, 8, 6), None);
        enable(&space, 8);
        assert_eq!(space.read(8, 4), COMMAND | 3);
    }
}
