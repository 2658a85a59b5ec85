//! A kernel of a few bytes that halts: what starting a guest costs beside its
//! images.
//!
//! Spec: System V ABI, Object Files; Xen `docs/misc/pvh.pandoc` (the note with the
//! 32-bit entry).

/// Where it is loaded.
const BASE: u64 = 0x10_0000;
/// Bytes of the file's header and of its two program headers.
const HEADERS: u64 = 64 + 2 * 56;
/// Bytes of the note: sizes, type, "Xen\0", the entry.
const NOTE_BYTES: u64 = 12 + 4 + 8;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const NOTE_ENTRY: u32 = 18;
/// `hlt; jmp -3`.
const CODE: [u8; 3] = [0xf4, 0xeb, 0xfd];

/// The kernel as an ELF file.
#[must_use]
pub fn kernel() -> Vec<u8> {
    let length = HEADERS + NOTE_BYTES + CODE.len() as u64;
    let entry = BASE + HEADERS + NOTE_BYTES;
    let mut bytes = Vec::new();
    // 64-bit, little-endian, version 1; executable, x86-64.
    bytes.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0");
    for field in [entry, 64, 0] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    // Flags; sizes and counts of the headers.
    bytes.extend_from_slice(&[0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 64, 0, 0, 0, 0, 0]);
    // To be loaded, readable and executable: all of it.
    bytes.extend_from_slice(&[1, 0, 0, 0, 5, 0, 0, 0]);
    for field in [0, BASE, BASE, length, length, 0x1000] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    // A note, readable.
    bytes.extend_from_slice(&[4, 0, 0, 0, 4, 0, 0, 0]);
    for field in [HEADERS, BASE + HEADERS, BASE + HEADERS, NOTE_BYTES, NOTE_BYTES, 4] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    for field in [4, 8, NOTE_ENTRY] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes.extend_from_slice(b"Xen\0");
    bytes.extend_from_slice(&entry.to_le_bytes());
    bytes.extend_from_slice(&CODE);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_where_they_say() {
        let bytes = kernel();
        assert_eq!(bytes.len(), 64 + 112 + 24 + 3);
        assert_eq!(&bytes[24..32], &0x10_00c8_u64.to_le_bytes());
        assert_eq!(&bytes[64..72], &[1, 0, 0, 0, 5, 0, 0, 0]);
        assert_eq!(&bytes[120..124], &[4, 0, 0, 0]);
        assert_eq!(&bytes[176 + 12..176 + 16], b"Xen\0");
        assert_eq!(&bytes[200..], &CODE);
    }
}
