//! INS and OUTS, one element at a time.
//!
//! A repeated one continues by running again, as on a processor between two elements, where
//! interrupts are taken. Spec: APM volume 3, INS/INSB/INSW/INSD, OUTS/OUTSB/OUTSW/OUTSD,
//! 1.2.6 (repeat prefixes); volume 2, 4.5.3 (segments in 64-bit mode).

use crate::decode::{Cursor, Mode, Segment, prefixes};

/// A string port instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringIo {
    /// INS: from the port into memory.
    pub input: bool,
    /// Bytes of an element: 1, 2 or 4.
    pub width: u8,
    /// Bytes of index and count that are used: 2, 4 or 8.
    pub address_size: u8,
    /// Where memory is: ES for INS.
    pub segment: Segment,
    /// Repeated as often as the count says.
    pub repeats: bool,
    /// Bytes of the instruction.
    pub length: u8,
}

/// The registers that it uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// RDI for INS, RSI for OUTS.
    pub index: u64,
    /// RCX.
    pub count: u64,
}

/// Decodes the instruction at the start of `bytes`, which may be longer than it.
#[must_use]
pub fn decode(bytes: &[u8], mode: Mode) -> Option<StringIo> {
    let mut cursor = Cursor::new(bytes);
    let (found, opcode) = prefixes(&mut cursor, mode)?;
    let input = match opcode {
        0x6c | 0x6d => true,
        0x6e | 0x6f => false,
        _ => return None,
    };
    // There is none of 8 bytes.
    let width = if opcode & 1 == 0 { 1 } else { found.operand_size(mode).min(4) };
    let segment = if input { Segment::Es } else { found.segment.unwrap_or(Segment::Ds) };
    let address_size = found.address_size(mode);
    Some(StringIo { input, width, address_size, segment, repeats: found.repeats, length: cursor.length()? })
}

impl StringIo {
    const fn mask(&self) -> u64 {
        match self.address_size {
            2 => 0xffff,
            4 => 0xffff_ffff,
            _ => u64::MAX,
        }
    }

    /// What a register holds of which the low `address_size` bytes become `value`.
    const fn merged(&self, old: u64, value: u64) -> u64 {
        match self.address_size {
            2 => old & !0xffff | value & 0xffff,
            // 32-bit results clear the upper half (APM volume 3, 1.2.3).
            4 => value & 0xffff_ffff,
            _ => value,
        }
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub const fn is_over(&self, place: Place) -> bool {
        self.repeats && place.count & self.mask() == 0
    }

    /// The linear address of the next element, in a segment with this base.
    #[must_use]
    pub const fn linear(&self, place: Place, base: u64, mode: Mode) -> u64 {
        let linear = base.wrapping_add(place.index & self.mask());
        if matches!(mode, Mode::Long) { linear } else { linear & 0xffff_ffff }
    }

    /// The registers after an element, and whether that was the last one. `down` is the
    /// direction flag.
    #[must_use]
    pub const fn after(&self, place: Place, down: bool) -> (Place, bool) {
        let step = self.width as u64;
        let index = if down { place.index.wrapping_sub(step) } else { place.index.wrapping_add(step) };
        let index = self.merged(place.index, index);
        if !self.repeats {
            return (Place { index, count: place.count }, true);
        }
        let count = self.merged(place.count, (place.count & self.mask()).wrapping_sub(1));
        (Place { index, count }, count & self.mask() == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, StringIo, decode};
    use crate::decode::{Mode, Segment};

    /// An instruction without repetition, with the data segment, in 64-bit mode.
    const OUTSB: StringIo =
        StringIo { input: false, width: 1, address_size: 8, segment: Segment::Ds, repeats: false, length: 1 };

    #[test]
    fn literal_encodings() {
        let rep = StringIo { repeats: true, ..OUTSB };
        let ins = StringIo { input: true, segment: Segment::Es, ..OUTSB };
        let cases: &[(&[u8], Mode, StringIo)] = &[
            (&[0x6e], Mode::Long, OUTSB),
            (&[0xf3, 0x6e], Mode::Long, StringIo { length: 2, ..rep }),
            (&[0xf3, 0x66, 0x6f], Mode::Long, StringIo { width: 2, length: 3, ..rep }),
            (&[0xf2, 0x48, 0x6f], Mode::Long, StringIo { width: 4, length: 3, ..rep }),
            (
                &[0x67, 0x65, 0xf3, 0x6f],
                Mode::Long,
                StringIo { width: 4, address_size: 4, segment: Segment::Gs, length: 4, ..rep },
            ),
            (
                &[0x2e, 0x6e],
                Mode::Bits32,
                StringIo { address_size: 4, segment: Segment::Cs, length: 2, ..OUTSB },
            ),
            (&[0xf3, 0x6c], Mode::Bits16, StringIo { address_size: 2, repeats: true, length: 2, ..ins }),
            (
                &[0x66, 0x67, 0x36, 0x6d],
                Mode::Bits16,
                StringIo { width: 4, address_size: 4, length: 4, ..ins },
            ),
            (&[0x6d], Mode::Bits16, StringIo { width: 2, address_size: 2, ..ins }),
        ];
        for (bytes, mode, expected) in cases {
            assert_eq!(decode(bytes, *mode), Some(*expected), "{bytes:x?}");
            assert_eq!(decode(&bytes[..bytes.len() - 1], *mode), None);
        }
        assert_eq!(decode(&[0xf3, 0xa4], Mode::Long), None);
        assert_eq!(decode(&[0x66; 15], Mode::Long), None);
    }

    #[test]
    fn elements_follow_until_the_count_is_zero() {
        let outs = decode(&[0xf3, 0x6f], Mode::Bits16).unwrap();
        let mut place = Place { index: 0x1_0000_fffe, count: 0xffff_0002 };
        assert!(!outs.is_over(place));
        assert_eq!(outs.linear(place, 0xffff_0000, Mode::Bits16), 0xffff_fffe);
        let (next, is_last) = outs.after(place, false);
        assert_eq!((next, is_last), (Place { index: 0x1_0000_0000, count: 0xffff_0001 }, false));
        place = next;
        let (next, is_last) = outs.after(place, true);
        assert_eq!((next, is_last), (Place { index: 0x1_0000_fffe, count: 0xffff_0000 }, true));
        assert!(outs.is_over(next));
        let single = decode(&[0x6e], Mode::Bits16).unwrap();
        assert!(!single.is_over(next));
        assert_eq!(single.after(next, false), (Place { index: 0x1_0000_ffff, count: 0xffff_0000 }, true));
        let wide = decode(&[0x67, 0xf3, 0x6e], Mode::Long).unwrap();
        let (next, is_last) = wide.after(Place { index: u64::MAX, count: 0x5_0000_0000 }, false);
        assert_eq!((next, is_last), (Place { index: 0, count: 0xffff_ffff }, false));
        let long = decode(&[0xf3, 0x6e], Mode::Long).unwrap();
        let (next, is_last) = long.after(Place { index: u64::MAX, count: 1 << 40 }, false);
        assert_eq!((next, is_last), (Place { index: 0, count: (1 << 40) - 1 }, false));
    }
}
