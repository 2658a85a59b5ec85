//! Instruction decoding for memory-mapped I/O and for instruction lengths.
//!
//! Only what compilers use to reach device registers: MOV in its forms, MOVZX,
//! MOVSX, MOVSXD. Everything else that touches a device page is refused, and the
//! guest gets an invalid-opcode exception. The address comes from the nested page
//! fault, so memory operands are only measured. Spec: APM volume 3, 1.2 and
//! appendix A.

/// Longest instruction in bytes.
pub const MAX_LENGTH: usize = 15;

/// What an instruction does with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Device to register.
    Load {
        /// Register number 0-15.
        register: u8,
        /// Whether bits 8-15 of registers 0-3 are meant (AH to BH).
        high_byte: bool,
        /// Sign-extend instead of zero-extend.
        sign: bool,
        /// Operand size in bytes: how much of the register changes.
        operand: u8,
    },
    /// Register to device.
    StoreRegister {
        /// Register number 0-15.
        register: u8,
        /// Whether bits 8-15 of registers 0-3 are meant.
        high_byte: bool,
    },
    /// Constant to device.
    StoreImmediate(u64),
}

/// A decoded access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Bytes of the instruction.
    pub length: u8,
    /// Bytes moved: 1, 2, 4 or 8.
    pub width: u8,
    /// What is done.
    pub action: Action,
}

impl Access {
    /// Whether the device is written, not read.
    #[must_use]
    pub const fn is_write(&self) -> bool {
        !matches!(self.action, Action::Load { .. })
    }
}

/// What stands where a guest faulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Faulting {
    /// The access that faulted.
    Access(Access),
    /// Another one: a vCPU has put it there since. It faults by itself.
    Changed,
    /// None that is known.
    Unknown,
}

/// The access at the instruction pointer of a guest that faulted reading, or writing.
#[must_use]
pub fn faulting(bytes: &[u8], mode: Mode, write: bool) -> Faulting {
    match access(bytes, mode) {
        Some(access) if access.is_write() == write => Faulting::Access(access),
        Some(_) => Faulting::Changed,
        None => Faulting::Unknown,
    }
}

/// The code segment's mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 64-bit.
    Long,
    /// 32-bit.
    Bits32,
    /// 16-bit.
    Bits16,
}

/// A segment register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Extra.
    Es,
    /// Code.
    Cs,
    /// Stack.
    Ss,
    /// Data.
    Ds,
    /// FS.
    Fs,
    /// GS.
    Gs,
}

/// Where in an instruction the decoder is.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes taken so far.
    pub(crate) fn length(&self) -> Option<u8> {
        u8::try_from(self.at).ok()
    }

    fn take(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        (self.at <= MAX_LENGTH).then_some(byte)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.at += count;
        (self.at <= self.bytes.len().min(MAX_LENGTH)).then_some(())
    }

    fn immediate(&mut self, width: u8) -> Option<u64> {
        let mut value = 0;
        for shift in 0..u32::from(width) {
            value |= u64::from(self.take()?) << (8 * shift);
        }
        Some(value)
    }
}

/// What stands before an opcode.
#[derive(Clone, Copy, Default)]
pub(crate) struct Prefixes {
    rex: u8,
    operand: bool,
    address: bool,
    /// A segment override.
    pub(crate) segment: Option<Segment>,
    /// A repeat prefix.
    pub(crate) repeats: bool,
}

impl Prefixes {
    pub(crate) const fn operand_size(self, mode: Mode) -> u8 {
        if self.rex & 8 != 0 {
            8
        } else if self.operand == matches!(mode, Mode::Bits16) {
            4
        } else {
            2
        }
    }

    pub(crate) const fn address_size(self, mode: Mode) -> u8 {
        match (mode, self.address) {
            (Mode::Long, false) => 8,
            (Mode::Long, true) | (Mode::Bits32, false) | (Mode::Bits16, true) => 4,
            (Mode::Bits32, true) | (Mode::Bits16, false) => 2,
        }
    }
}

/// Reads prefixes and returns them with the first opcode byte.
pub(crate) fn prefixes(cursor: &mut Cursor<'_>, mode: Mode) -> Option<(Prefixes, u8)> {
    let mut found = Prefixes::default();
    loop {
        let byte = cursor.take()?;
        match byte {
            0x66 => found.operand = true,
            0x67 => found.address = true,
            0x26 => found.segment = Some(Segment::Es),
            0x2e => found.segment = Some(Segment::Cs),
            0x36 => found.segment = Some(Segment::Ss),
            0x3e => found.segment = Some(Segment::Ds),
            0x64 => found.segment = Some(Segment::Fs),
            0x65 => found.segment = Some(Segment::Gs),
            0xf2 | 0xf3 => found.repeats = true,
            // LOCK: no effect on what is decoded here.
            0xf0 => {}
            0x40..=0x4f if mode == Mode::Long => {
                found.rex = byte;
                return Some((found, cursor.take()?));
            }
            _ => return Some((found, byte)),
        }
    }
}

/// Reads ModRM with everything that belongs to its memory operand; returns the
/// register field. None for a register operand: that cannot have faulted here.
fn memory_operand(cursor: &mut Cursor<'_>, address_size: u8) -> Option<u8> {
    let modrm = cursor.take()?;
    let (kind, register, memory) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    if kind == 3 {
        return None;
    }
    let displacement = if address_size == 2 {
        match (kind, memory) {
            (0, 6) | (2, _) => 2,
            (1, _) => 1,
            _ => 0,
        }
    } else {
        let base = if memory == 4 { cursor.take()? & 7 } else { memory };
        match (kind, base) {
            (0, 5) | (2, _) => 4,
            (1, _) => 1,
            _ => 0,
        }
    };
    cursor.skip(displacement)?;
    Some(register)
}

/// Decodes the instruction at the start of `bytes`, which may be longer than it.
#[must_use]
pub fn access(bytes: &[u8], mode: Mode) -> Option<Access> {
    let mut cursor = Cursor::new(bytes);
    let (found, opcode) = prefixes(&mut cursor, mode)?;
    let operand = found.operand_size(mode);
    let address = found.address_size(mode);
    let extend = if found.rex & 4 != 0 { 8 } else { 0 };
    // Without REX, byte registers 4-7 are AH, CH, DH, BH (APM volume 3, 1.4.2).
    let byte_register = |field: u8| {
        if found.rex == 0 && field >= 4 { (field - 4, true) } else { (field | extend, false) }
    };
    let (width, action) = match opcode {
        0x88 => {
            let (register, high_byte) = byte_register(memory_operand(&mut cursor, address)?);
            (1, Action::StoreRegister { register, high_byte })
        }
        0x89 => {
            let register = memory_operand(&mut cursor, address)? | extend;
            (operand, Action::StoreRegister { register, high_byte: false })
        }
        0x8a => {
            let (register, high_byte) = byte_register(memory_operand(&mut cursor, address)?);
            (1, Action::Load { register, high_byte, sign: false, operand: 1 })
        }
        0x8b => {
            let register = memory_operand(&mut cursor, address)? | extend;
            (operand, Action::Load { register, high_byte: false, sign: false, operand })
        }
        0x63 if mode == Mode::Long => {
            let register = memory_operand(&mut cursor, address)? | extend;
            (4, Action::Load { register, high_byte: false, sign: true, operand })
        }
        0xa0..=0xa3 => {
            cursor.skip(usize::from(address))?;
            let width = if opcode & 1 == 0 { 1 } else { operand };
            let action = if opcode < 0xa2 {
                Action::Load { register: 0, high_byte: false, sign: false, operand: width }
            } else {
                Action::StoreRegister { register: 0, high_byte: false }
            };
            (width, action)
        }
        0xc6 | 0xc7 => {
            if memory_operand(&mut cursor, address)? != 0 {
                return None;
            }
            let width = if opcode == 0xc6 { 1 } else { operand };
            let value = cursor.immediate(width.min(4))?;
            // A 64-bit store sign-extends its 32-bit constant.
            let value = if width == 8 { extend_sign(value, 4, 8) } else { value };
            (width, Action::StoreImmediate(value))
        }
        0x0f => {
            let second = cursor.take()?;
            let width = match second {
                0xb6 | 0xbe => 1,
                0xb7 | 0xbf => 2,
                _ => return None,
            };
            let register = memory_operand(&mut cursor, address)? | extend;
            (width, Action::Load { register, high_byte: false, sign: second >= 0xbe, operand })
        }
        _ => return None,
    };
    Some(Access { length: cursor.length()?, width, action })
}

/// Sign-extends the low `from` bytes of `value` to `to` bytes.
#[must_use]
pub const fn extend_sign(value: u64, from: u8, to: u8) -> u64 {
    let shift = 64 - 8 * from as u32;
    let extended = (value << shift).cast_signed() >> shift;
    truncate(extended.cast_unsigned(), to)
}

/// The low `width` bytes of a value.
#[must_use]
pub const fn truncate(value: u64, width: u8) -> u64 {
    if width >= 8 { value } else { value & ((1 << (8 * width as u32)) - 1) }
}

/// What a register holds after a load of `value`.
#[must_use]
pub const fn loaded(old: u64, value: u64, access: &Access) -> u64 {
    let Action::Load { high_byte, sign, operand, .. } = access.action else { return old };
    let value = truncate(value, access.width);
    let value = if sign { extend_sign(value, access.width, operand) } else { value };
    if high_byte {
        return old & !0xff00 | (value & 0xff) << 8;
    }
    match operand {
        1 => old & !0xff | value & 0xff,
        2 => old & !0xffff | value & 0xffff,
        // 32-bit results clear the upper half (APM volume 3, 1.2.3).
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

/// What a store writes, given the register's value.
#[must_use]
pub const fn stored(register: u64, access: &Access) -> u64 {
    match access.action {
        Action::StoreRegister { high_byte, .. } => {
            truncate(if high_byte { register >> 8 } else { register }, access.width)
        }
        Action::StoreImmediate(value) => truncate(value, access.width),
        Action::Load { .. } => 0,
    }
}

/// Length of an instruction whose opcode bytes are `opcode` and nothing follows
/// them, with whatever prefixes stand before it. None if it is another one.
#[must_use]
pub fn length_of(bytes: &[u8], mode: Mode, opcode: &[u8]) -> Option<u8> {
    let mut cursor = Cursor::new(bytes);
    let (_, first) = prefixes(&mut cursor, mode)?;
    if opcode.first() != Some(&first) {
        return None;
    }
    for expected in opcode.iter().skip(1) {
        if cursor.take()? != *expected {
            return None;
        }
    }
    cursor.length()
}

#[cfg(test)]
mod tests {
    use super::{Access, Action, Faulting, Mode, access, extend_sign, faulting, length_of, loaded, stored};

    fn store(register: u8, high_byte: bool) -> Action {
        Action::StoreRegister { register, high_byte }
    }

    fn load(register: u8, operand: u8, sign: bool) -> Action {
        Action::Load { register, high_byte: false, sign, operand }
    }

    #[test]
    fn an_instruction_that_was_changed_is_not_carried_out() {
        // mov [rdi], eax; mov eax, [rdi]; hlt.
        for (bytes, is_write) in [(&[0x89, 0x07], true), (&[0x8b, 0x07], false)] {
            let right = Faulting::Access(access(bytes, Mode::Long).unwrap());
            assert_eq!(faulting(bytes, Mode::Long, is_write), right);
            assert_eq!(faulting(bytes, Mode::Long, !is_write), Faulting::Changed);
        }
        for write in [false, true] {
            assert_eq!(faulting(&[0xf4], Mode::Long, write), Faulting::Unknown);
            assert_eq!(faulting(&[], Mode::Long, write), Faulting::Unknown);
        }
    }

    #[test]
    fn literal_encodings() {
        let cases: &[(&[u8], u8, u8, Action)] = &[
            (&[0x89, 0x08], 2, 4, store(1, false)),
            (&[0x44, 0x89, 0x7c, 0x24, 0x08], 5, 4, store(15, false)),
            (&[0x66, 0x89, 0x10], 3, 2, store(2, false)),
            (&[0x48, 0x89, 0x07], 3, 8, store(0, false)),
            (&[0x88, 0x27], 2, 1, store(0, true)),
            (&[0x40, 0x88, 0x27], 3, 1, store(4, false)),
            (&[0x8b, 0x05, 1, 2, 3, 4], 6, 4, load(0, 4, false)),
            (&[0x8b, 0x04, 0x25, 0xb0, 0, 0xe0, 0xfe], 7, 4, load(0, 4, false)),
            (&[0x0f, 0xb7, 0x47, 0x10], 4, 2, load(0, 4, false)),
            (&[0x48, 0x0f, 0xbe, 0x00], 4, 1, load(0, 8, true)),
            (&[0xc7, 0x00, 0x78, 0x56, 0x34, 0x12], 6, 4, Action::StoreImmediate(0x1234_5678)),
            (&[0xc6, 0x43, 0x14, 0x0f], 4, 1, Action::StoreImmediate(0x0f)),
            (&[0x48, 0xc7, 0x00, 0xff, 0xff, 0xff, 0xff], 7, 8, Action::StoreImmediate(u64::MAX)),
            (&[0x66, 0xc7, 0x00, 0x34, 0x12], 5, 2, Action::StoreImmediate(0x1234)),
            (&[0xa1, 1, 2, 3, 4, 5, 6, 7, 8], 9, 4, load(0, 4, false)),
        ];
        for (bytes, length, width, action) in cases {
            let expected = Access { length: *length, width: *width, action: *action };
            assert_eq!(access(bytes, Mode::Long), Some(expected), "{bytes:x?}");
            assert_eq!(access(&bytes[..bytes.len() - 1], Mode::Long), None, "cut short: {bytes:x?}");
        }
        assert_eq!(access(&[0xa1, 1, 2, 3, 4], Mode::Bits32).unwrap().length, 5);
        assert_eq!(access(&[0x89, 0xc8], Mode::Long), None, "register operand");
        assert_eq!(access(&[0xc7, 0x08, 0, 0, 0, 0], Mode::Long), None, "not MOV");
        let writes = |bytes: &[u8]| access(bytes, Mode::Long).unwrap().is_write();
        assert!(writes(&[0x89, 0x08]) && writes(&[0xc6, 0x43, 0x14, 0x0f]));
        assert!(!writes(&[0x8b, 0x07]) && !writes(&[0x0f, 0xb7, 0x47, 0x10]));
    }

    #[test]
    fn results() {
        let byte = access(&[0x8a, 0x27], Mode::Long).unwrap();
        assert_eq!(loaded(0x1122_3344, 0xaa, &byte), 0x1122_aa44);
        let word = access(&[0x66, 0x8b, 0x07], Mode::Long).unwrap();
        assert_eq!(loaded(u64::MAX, 0x1234, &word), 0xffff_ffff_ffff_1234);
        let double = access(&[0x8b, 0x07], Mode::Long).unwrap();
        assert_eq!(loaded(u64::MAX, 0x1234, &double), 0x1234);
        let signed = access(&[0x0f, 0xbe, 0x07], Mode::Long).unwrap();
        assert_eq!(loaded(0, 0x80, &signed), 0xffff_ff80);
        assert_eq!(extend_sign(0x80, 1, 8), 0xffff_ffff_ffff_ff80);
        assert_eq!(stored(0x1234, &access(&[0x88, 0x27], Mode::Long).unwrap()), 0x12);
    }

    #[test]
    fn lengths_with_prefixes() {
        assert_eq!(length_of(&[0x0f, 0xa2, 0x90], Mode::Long, &[0x0f, 0xa2]), Some(2));
        assert_eq!(length_of(&[0x66, 0x48, 0x0f, 0xa2], Mode::Long, &[0x0f, 0xa2]), Some(4));
        assert_eq!(length_of(&[0x0f, 0x32], Mode::Long, &[0x0f, 0xa2]), None);
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut state = 0x1234_5678_9abc_def1_u64;
        for _ in 0..200_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&state.to_le_bytes());
            bytes[8..].copy_from_slice(&state.rotate_left(29).to_le_bytes());
            for mode in [Mode::Long, Mode::Bits32, Mode::Bits16] {
                if let Some(found) = access(&bytes, mode) {
                    assert!(found.length <= 15 && [1, 2, 4, 8].contains(&found.width));
                }
            }
        }
    }
}
