//! A program for the hostile guest: reads and writes random ports for ever.
//!
//! Spec: System V ABI, Object Files; Intel SDM vol. 1, 19 (in, out).

/// iopl(3), then a 32-bit xorshift from the time-stamp counter chooses port,
/// value, direction and, for writes, all three widths.
///
/// ```text
///     mov eax, 172; mov edi, 3; syscall      ; iopl(3)
///     rdtsc; lea r8d, [rax + rax + 1]
/// next:
///     xorshift r8d by 13, -17, 5 through ecx
///     mov edx, r8d; imul eax, r8d, 0x9e3779b1
///     bt r8d, 20; jc write
///     in eax, dx; in al, dx; jmp next
/// write:
///     out dx, eax; out dx, ax; out dx, al; jmp next
/// ```
const CODE: [u8; 73] = [
    0xb8, 0xac, 0x00, 0x00, 0x00, 0xbf, 0x03, 0x00, 0x00, 0x00, 0x0f, 0x05, 0x0f, 0x31, 0x44, 0x8d, 0x44,
    0x00, 0x01, 0x44, 0x89, 0xc1, 0xc1, 0xe1, 0x0d, 0x41, 0x31, 0xc8, 0x44, 0x89, 0xc1, 0xc1, 0xe9, 0x11,
    0x41, 0x31, 0xc8, 0x44, 0x89, 0xc1, 0xc1, 0xe1, 0x05, 0x41, 0x31, 0xc8, 0x44, 0x89, 0xc2, 0x41, 0x69,
    0xc0, 0xb1, 0x79, 0x37, 0x9e, 0x41, 0x0f, 0xba, 0xe0, 0x14, 0x72, 0x04, 0xed, 0xec, 0xeb, 0xd0, 0xef,
    0x66, 0xef, 0xee, 0xeb, 0xca,
];
/// Where it is loaded.
const BASE: u64 = 0x40_0000;
/// Bytes of the file's header and of its one program header.
const HEADERS: u64 = 64 + 56;

/// The program as an ELF file.
#[must_use]
pub(super) fn program() -> Vec<u8> {
    let length = HEADERS + CODE.len() as u64;
    let mut bytes = Vec::new();
    // 64-bit, little-endian, version 1; executable, x86-64.
    bytes.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0");
    for field in [BASE + HEADERS, 64, 0] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    // Flags; sizes and counts of the headers.
    bytes.extend_from_slice(&[0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0]);
    // To be loaded, readable and executable.
    bytes.extend_from_slice(&[1, 0, 0, 0, 5, 0, 0, 0]);
    for field in [0, BASE, BASE, length, length, 0x1000] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes.extend_from_slice(&CODE);
    bytes
}
