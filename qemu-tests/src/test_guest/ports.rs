//! Programs for guests: one reads and writes random ports for ever, one moves strings.
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
const RANDOM: [u8; 73] = [
    0xb8, 0xac, 0x00, 0x00, 0x00, 0xbf, 0x03, 0x00, 0x00, 0x00, 0x0f, 0x05, 0x0f, 0x31, 0x44, 0x8d, 0x44,
    0x00, 0x01, 0x44, 0x89, 0xc1, 0xc1, 0xe1, 0x0d, 0x41, 0x31, 0xc8, 0x44, 0x89, 0xc1, 0xc1, 0xe9, 0x11,
    0x41, 0x31, 0xc8, 0x44, 0x89, 0xc1, 0xc1, 0xe1, 0x05, 0x41, 0x31, 0xc8, 0x44, 0x89, 0xc2, 0x41, 0x69,
    0xc0, 0xb1, 0x79, 0x37, 0x9e, 0x41, 0x0f, 0xba, 0xe0, 0x14, 0x72, 0x04, 0xed, 0xec, 0xeb, 0xd0, 0xef,
    0x66, 0xef, 0xee, 0xeb, 0xca,
];
/// iopl(3); reads a string from a port that nothing answers, which is all ones, writes one
/// there, and prints [`WORDS`] on the serial port.
///
/// ```text
///     mov eax, 172; mov edi, 3; syscall      ; iopl(3)
///     cld; mov edx, 0x1230; sub rsp, 64; mov rdi, rsp; mov ecx, 4
///     rep insd
///     cmp qword [rsp], -1; jne end; cmp qword [rsp + 8], -1; jne end
///     mov rsi, rsp; mov ecx, 8
///     rep outsw
///     test ecx, ecx; jne end
///     mov edx, 0x3f8; lea rsi, [rip + words]; mov ecx, words.length
///     rep outsb
/// end:
///     mov eax, 60; xor edi, edi; syscall     ; exit(0)
/// words:
/// ```
const STRINGS: [u8; 90] = [
    0xb8, 0xac, 0x00, 0x00, 0x00, 0xbf, 0x03, 0x00, 0x00, 0x00, 0x0f, 0x05, 0xfc, 0xba, 0x30, 0x12, 0x00,
    0x00, 0x48, 0x83, 0xec, 0x40, 0x48, 0x89, 0xe7, 0xb9, 0x04, 0x00, 0x00, 0x00, 0xf3, 0x6d, 0x48, 0x83,
    0x3c, 0x24, 0xff, 0x75, 0x2a, 0x48, 0x83, 0x7c, 0x24, 0x08, 0xff, 0x75, 0x22, 0x48, 0x89, 0xe6, 0xb9,
    0x08, 0x00, 0x00, 0x00, 0x66, 0xf3, 0x6f, 0x85, 0xc9, 0x75, 0x13, 0xba, 0xf8, 0x03, 0x00, 0x00, 0x48,
    0x8d, 0x35, 0x10, 0x00, 0x00, 0x00, 0xb9, 0x17, 0x00, 0x00, 0x00, 0xf3, 0x6e, 0xb8, 0x3c, 0x00, 0x00,
    0x00, 0x31, 0xff, 0x0f, 0x05,
];
/// What it prints.
const WORDS: &[u8; 23] = b"TEST strings of ports\r\n";
/// Where it is loaded.
const BASE: u64 = 0x40_0000;
/// Bytes of the file's header and of its one program header.
const HEADERS: u64 = 64 + 56;

/// The program that reads and writes random ports.
#[must_use]
pub(super) fn random() -> Vec<u8> {
    file(&RANDOM)
}

/// The program that moves strings.
#[must_use]
pub(super) fn strings() -> Vec<u8> {
    file(&[&STRINGS[..], WORDS].concat())
}

/// A program as an ELF file.
fn file(code: &[u8]) -> Vec<u8> {
    let length = HEADERS + code.len() as u64;
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
    bytes.extend_from_slice(code);
    bytes
}
