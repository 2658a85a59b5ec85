//! As much of the ACPI machine language as the tables here need.
//!
//! Spec: ACPI 6.4, section 20.2 (grammar) and 6.4 (resource descriptors).

use alloc::vec::Vec;

use hv_x86::{low8, low16, low32};

/// A term: encoded bytes.
pub type Term = Vec<u8>;

/// Several terms one after the other.
#[must_use]
pub fn terms(parts: &[Term]) -> Term {
    parts.concat()
}

/// `PkgLength` counts itself (20.2.4).
fn with_length(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(body.len() + 4);
    let length = body.len() as u64;
    if length + 1 < 0x40 {
        bytes.push(low8(length + 1));
    } else {
        // Low four bits beside the count of bytes that follow, here always two:
        // bodies up to a megabyte.
        let total = length + 3;
        bytes.push(0x80 | low8(total & 0x0f));
        bytes.push(low8(total >> 4));
        bytes.push(low8(total >> 12));
    }
    bytes.extend_from_slice(body);
    bytes
}

fn package_like(opcode: &[u8], body: &[u8]) -> Term {
    let mut bytes = opcode.to_vec();
    bytes.extend(with_length(body));
    bytes
}

/// `Name (name, value)`.
#[must_use]
pub fn name(name: [u8; 4], value: &[u8]) -> Term {
    [&[0x08], name.as_slice(), value].concat()
}

/// `Scope (\name) { body }`.
#[must_use]
pub fn scope(name: [u8; 4], body: &[Term]) -> Term {
    package_like(&[0x10], &[b"\\", name.as_slice(), &terms(body)].concat())
}

/// `Device (name) { body }`.
#[must_use]
pub fn device(name: [u8; 4], body: &[Term]) -> Term {
    package_like(&[0x5b, 0x82], &[name.as_slice(), &terms(body)].concat())
}

/// `Method (name, arguments, Serialized) { body }`.
#[must_use]
pub fn method(name: [u8; 4], arguments: u8, body: &[Term]) -> Term {
    package_like(&[0x14], &[name.as_slice(), &[(arguments & 7) | 8], &terms(body)].concat())
}

/// `Notify (\parent.child, value)`.
#[must_use]
pub fn notify(parent: [u8; 4], child: [u8; 4], value: u8) -> Term {
    // Root, dual name prefix.
    [&[0x86, b'\\', 0x2e], parent.as_slice(), child.as_slice(), &integer(u64::from(value))].concat()
}

/// `Notify (name, value)`, the name being near.
#[must_use]
pub fn notify_near(name: [u8; 4], value: u8) -> Term {
    [&[0x86], name.as_slice(), &integer(u64::from(value))].concat()
}

/// `\one.two.three`, as a call of a method without arguments.
#[must_use]
pub fn call(path: [[u8; 4]; 3]) -> Term {
    [&[b'\\', 0x2f, 3], path.as_flattened()].concat()
}

/// `OperationRegion (name, SystemIO, first, length)` (20.2.5.2).
#[must_use]
pub fn port_region(name: [u8; 4], first: u16, length: u8) -> Term {
    let bounds = [integer(u64::from(first)), integer(u64::from(length))].concat();
    [&[0x5b, 0x80], name.as_slice(), &[1], &bounds].concat()
}

/// `Field (region, DWordAcc, NoLock, Preserve)` of 32-bit words, one after the other.
#[must_use]
pub fn words(region: [u8; 4], names: &[[u8; 4]]) -> Term {
    let fields: Vec<u8> = names.iter().flat_map(|name| [name.as_slice(), &[32]].concat()).collect();
    package_like(&[0x5b, 0x81], &[region.as_slice(), &[3], &fields].concat())
}

/// The first argument of a method.
pub const ARGUMENT_0: u8 = 0x68;
/// A local variable of a method.
pub const LOCAL_0: u8 = 0x60;

/// `Store (name, variable)`.
#[must_use]
pub fn store_name(name: [u8; 4], variable: u8) -> Term {
    [&[0x70], name.as_slice(), &[variable]].concat()
}

/// `Store (value, name)`.
#[must_use]
pub fn store(value: u64, name: [u8; 4]) -> Term {
    [[0x70].as_slice(), &integer(value), &name].concat()
}

/// `If (variable & mask) { body }`.
#[must_use]
pub fn if_any(variable: u8, mask: u64, body: &[Term]) -> Term {
    let test = [[0x7b, variable].as_slice(), &integer(mask), &[0]].concat();
    package_like(&[0xa0], &[test, terms(body)].concat())
}

/// `If (variable == value) { one } Else { other }`.
#[must_use]
pub fn if_equal(variable: u8, value: u64, one: &[Term], other: &[Term]) -> Term {
    let test = [[0x93, variable].as_slice(), &integer(value)].concat();
    let one = package_like(&[0xa0], &[test, terms(one)].concat());
    [one, package_like(&[0xa1], &terms(other))].concat()
}

/// An integer constant in its shortest form.
#[must_use]
pub fn integer(value: u64) -> Term {
    match value {
        0 => [0x00].to_vec(),
        1 => [0x01].to_vec(),
        2..=0xff => [0x0a, low8(value)].to_vec(),
        0x100..=0xffff => [&[0x0b], low16(value).to_le_bytes().as_slice()].concat(),
        0x1_0000..=0xffff_ffff => [&[0x0c], low32(value).to_le_bytes().as_slice()].concat(),
        _ => [&[0x0e], value.to_le_bytes().as_slice()].concat(),
    }
}

/// A string constant.
#[must_use]
pub fn string(value: &str) -> Term {
    [&[0x0d], value.as_bytes(), &[0]].concat()
}

/// `Package () { elements }`.
#[must_use]
pub fn package(elements: &[Term]) -> Term {
    let count = low8(elements.len() as u64);
    package_like(&[0x12], &[&[count], terms(elements).as_slice()].concat())
}

/// `EisaId (id)` for `PNP` and four hexadecimal digits (6.1.5: compressed, and
/// stored with the bytes swapped).
#[must_use]
pub fn pnp_id(number: u16) -> Term {
    let compressed = (0x41d0_u32 << 16) | u32::from(number);
    [&[0x0c], compressed.to_be_bytes().as_slice()].concat()
}

/// `ResourceTemplate () { descriptors }`.
#[must_use]
pub fn resources(descriptors: &[Term]) -> Term {
    // 6.4.2.9: end tag; checksum zero means "not checked".
    let content = [terms(descriptors).as_slice(), &[0x79, 0]].concat();
    package_like(&[0x11], &[integer(content.len() as u64), content].concat())
}

/// `WordBusNumber` for the buses from `first` to `last` (6.4.3.5.3).
#[must_use]
pub fn bus_numbers(first: u16, last: u16) -> Term {
    let words = [0, first, last, 0, last - first + 1];
    let mut bytes = [0x88, 13, 0, 2, 0x0c, 0].to_vec();
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    bytes
}

/// `DWordMemory` that a bridge passes on: not cacheable, writable (6.4.3.5.2).
#[must_use]
pub fn memory_window(first: u32, last: u32) -> Term {
    let words = [0, first, last, 0, last - first + 1];
    let mut bytes = [0x87, 23, 0, 0, 0x0c, 1].to_vec();
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    bytes
}

/// `IO (Decode16, ...)` of a fixed range (6.4.2.5).
#[must_use]
pub fn ports(first: u16, count: u8) -> Term {
    let [low, high] = first.to_le_bytes();
    [0x47, 1, low, high, low, high, 1, count].to_vec()
}

/// `Memory32Fixed (ReadWrite, ...)` (6.4.3.4).
#[must_use]
pub fn fixed_memory(start: u32, length: u32) -> Term {
    [&[0x86, 9, 0, 1], start.to_le_bytes().as_slice(), &length.to_le_bytes()].concat()
}

/// `Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive)` (6.4.3.6).
#[must_use]
pub fn edge_interrupt(number: u8) -> Term {
    [0x89, 6, 0, 0x03, 1, number, 0, 0, 0].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_encodings() {
        assert_eq!(pnp_id(0x0a08), [0x0c, 0x41, 0xd0, 0x0a, 0x08]);
        assert_eq!(integer(0x80), [0x0a, 0x80]);
        assert_eq!(integer(0x1234), [0x0b, 0x34, 0x12]);
        let sleep = name(*b"_S5_", &package(&[integer(5), integer(5), integer(0), integer(0)]));
        assert_eq!(sleep, *b"\x08_S5_\x12\x08\x04\x0a\x05\x0a\x05\x00\x00");
        assert_eq!(notify(*b"_SB_", *b"PWRB", 0x80), *b"\x86\\\x2e_SB_PWRB\x0a\x80");
        assert_eq!(device(*b"ABCD", &[]), *b"\x5b\x82\x05ABCD");
        assert_eq!(method(*b"_EVT", 1, &[]), *b"\x14\x06_EVT\x09");
        assert_eq!(resources(&[]), *b"\x11\x05\x0a\x02\x79\x00");
        assert_eq!(notify_near(*b"S02_", 3), *b"\x86S02_\x0a\x03");
        assert_eq!(call([*b"_SB_", *b"PCI0", *b"PCNT"]), *b"\\\x2f\x03_SB_PCI0PCNT");
        assert_eq!(port_region(*b"PCST", 0x610, 12), *b"\x5b\x80PCST\x01\x0b\x10\x06\x0a\x0c");
        assert_eq!(words(*b"PCST", &[*b"PCIU"]), *b"\x5b\x81\x0bPCST\x03PCIU\x20");
        assert_eq!(store_name(*b"PCIU", LOCAL_0), *b"\x70PCIU\x60");
        assert_eq!(store(4, *b"PCEJ"), *b"\x70\x0a\x04PCEJ");
        assert_eq!(if_any(LOCAL_0, 4, &[integer(1)]), *b"\xa0\x07\x7b\x60\x0a\x04\x00\x01");
        let either = if_equal(ARGUMENT_0, 10, &[integer(1)], &[integer(0)]);
        assert_eq!(either, *b"\xa0\x06\x93\x68\x0a\x0a\x01\xa1\x02\x00");
    }

    #[test]
    fn long_packages_count_their_length_bytes() {
        // 62 bytes and the length byte are 63, the most that one byte says.
        assert_eq!(with_length(&[0; 62])[..1], [0x3f]);
        let long = with_length(&[0; 63]);
        assert_eq!(long[..3], [0x80 | (66 & 15), 66 >> 4, 0]);
        assert_eq!(long.len(), 66);
    }
}
