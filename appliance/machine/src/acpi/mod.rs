//! The ACPI tables of a guest: hardware-reduced, no legacy devices.
//!
//! Spec: ACPI 6.4, section 5.2; PCI Firmware 3.2, section 4.1.2 (MCFG).

pub mod aml;
mod dsdt;

use alloc::vec;
use alloc::vec::Vec;

use hv_x86::{low8, low32};

use crate::guest_memory::Gpa;
use crate::layout::{
    ACPI_END, ACPI_START, CONVENTIONAL_END, ECAM_START, EXTENDED_START, IOAPIC_START, LOCAL_APIC_START,
    RESET_PORT, RESET_VALUE, SLEEP_CONTROL_PORT, SLEEP_STATUS_PORT,
};

const HEADER_BYTES: usize = 36;
const OEM_ID: [u8; 6] = *b"REDOUB";
const OEM_TABLE_ID: [u8; 8] = *b"REDOUBT ";
const _: () = assert!(CONVENTIONAL_END <= ACPI_START && ACPI_END <= EXTENDED_START, "in the firmware's area");

/// Most processors that the space for the tables holds.
const PROCESSORS_MAX: u32 = 1024;

/// Tables and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiTables {
    /// Address of the root pointer, for the loader.
    pub root: Gpa,
    /// Address and bytes of each table.
    pub parts: Vec<(Gpa, Vec<u8>)>,
}

/// Builds the tables for `vcpus` processors whose local APIC numbers count from 0.
#[must_use]
pub fn build(vcpus: u32) -> AcpiTables {
    let mut next = ACPI_START + 64;
    let mut parts = Vec::new();
    let mut place = |table: Vec<u8>| {
        let address = next;
        next = (next + table.len() as u64).next_multiple_of(16);
        debug_assert!(next <= ACPI_END, "the tables outgrew their space");
        parts.push((Gpa(address), table));
        address
    };
    let dsdt = place(table(*b"DSDT", 2, &dsdt::body()));
    let described = [place(fadt(dsdt)), place(madt(vcpus.clamp(1, PROCESSORS_MAX))), place(mcfg())];
    let entries: Vec<u8> = described.iter().flat_map(|address| address.to_le_bytes()).collect();
    let xsdt = place(table(*b"XSDT", 1, &entries));
    parts.push((Gpa(ACPI_START), rsdp(xsdt)));
    AcpiTables { root: Gpa(ACPI_START), parts }
}

/// The byte that makes the sum of all zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    if let Some(target) = bytes.get_mut(offset..offset.saturating_add(value.len())) {
        target.copy_from_slice(value);
    }
}

/// A table with its header (5.2.6).
fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let length = low32((HEADER_BYTES + body.len()) as u64);
    let mut bytes = vec![0; HEADER_BYTES];
    put(&mut bytes, 0, &signature);
    put(&mut bytes, 4, &length.to_le_bytes());
    put(&mut bytes, 8, &[revision]);
    put(&mut bytes, 10, &OEM_ID);
    put(&mut bytes, 16, &OEM_TABLE_ID);
    put(&mut bytes, 24, &1u32.to_le_bytes());
    put(&mut bytes, 28, b"RDBT");
    put(&mut bytes, 32, &1u32.to_le_bytes());
    bytes.extend_from_slice(body);
    let sum = checksum(&bytes);
    put(&mut bytes, 9, &[sum]);
    bytes
}

/// Root pointer, revision 2 (5.2.5.3).
fn rsdp(xsdt: u64) -> Vec<u8> {
    let mut bytes = vec![0; 36];
    put(&mut bytes, 0, b"RSD PTR ");
    put(&mut bytes, 9, &OEM_ID);
    put(&mut bytes, 15, &[2]);
    put(&mut bytes, 20, &36u32.to_le_bytes());
    put(&mut bytes, 24, &xsdt.to_le_bytes());
    let first = checksum(bytes.get(..20).unwrap_or_default());
    put(&mut bytes, 8, &[first]);
    let all = checksum(&bytes);
    put(&mut bytes, 32, &[all]);
    bytes
}

/// A byte-wide port as a generic address (5.2.3.2).
fn port_address(port: u16) -> [u8; 12] {
    let [low, high] = port.to_le_bytes();
    [1, 8, 0, 1, low, high, 0, 0, 0, 0, 0, 0]
}

/// Fixed description, revision 6 (5.2.9). Offsets are of the whole table.
fn fadt(dsdt: u64) -> Vec<u8> {
    // No VGA, no ASPM, no CMOS clock; no 8042 and no legacy devices by absence.
    const BOOT_ARCHITECTURE: u16 = 1 << 2 | 1 << 4 | 1 << 5;
    // WBINVD works, C1 works, no fixed power or sleep button, reset register,
    // hardware-reduced.
    const FLAGS: u32 = 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 10 | 1 << 20;
    let mut body = vec![0; 276 - HEADER_BYTES];
    let mut field = |offset: usize, value: &[u8]| put(&mut body, offset - HEADER_BYTES, value);
    field(40, &low32(dsdt).to_le_bytes());
    field(45, &[4]); // enterprise server
    field(109, &BOOT_ARCHITECTURE.to_le_bytes());
    field(112, &FLAGS.to_le_bytes());
    field(116, &port_address(RESET_PORT));
    field(128, &[RESET_VALUE]);
    field(131, &[4]); // minor version
    field(140, &dsdt.to_le_bytes());
    field(244, &port_address(SLEEP_CONTROL_PORT));
    field(256, &port_address(SLEEP_STATUS_PORT));
    field(268, b"Redoubt\0");
    table(*b"FACP", 6, &body)
}

/// Interrupt controllers (5.2.12).
fn madt(vcpus: u32) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&low32(LOCAL_APIC_START).to_le_bytes());
    body.extend_from_slice(&0u32.to_le_bytes()); // no PIC
    for id in 0..vcpus {
        if id < 255 {
            let id = low8(u64::from(id));
            body.extend_from_slice(&[0, 8, id, id, 1, 0, 0, 0]);
        } else {
            body.extend_from_slice(&[9, 16, 0, 0]);
            for word in [id, 1, id] {
                body.extend_from_slice(&word.to_le_bytes());
            }
        }
    }
    body.extend_from_slice(&[1, 12, 0, 0]);
    body.extend_from_slice(&low32(IOAPIC_START).to_le_bytes());
    body.extend_from_slice(&0u32.to_le_bytes()); // first interrupt
    table(*b"APIC", 5, &body)
}

/// Memory-mapped PCI configuration of segment 0, bus 0.
fn mcfg() -> Vec<u8> {
    let mut body = vec![0; 24];
    put(&mut body, 8, &ECAM_START.to_le_bytes());
    table(*b"MCFG", 1, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn word(bytes: &[u8], offset: usize) -> u32 {
        u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
    }

    fn find<'a>(tables: &'a AcpiTables, signature: &[u8]) -> &'a (Gpa, Vec<u8>) {
        tables.parts.iter().find(|(_, bytes)| bytes.starts_with(signature)).unwrap()
    }

    #[test]
    fn tables_are_whole_apart_and_reachable() {
        for vcpus in [1, 2, 32, 300, 5000] {
            let tables = build(vcpus);
            let mut ranges: Vec<_> =
                tables.parts.iter().map(|(gpa, bytes)| (gpa.0, gpa.0 + bytes.len() as u64)).collect();
            ranges.sort_unstable();
            assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
            assert!(ranges.iter().all(|range| range.0 >= ACPI_START && range.1 <= ACPI_END));
            for (_, bytes) in &tables.parts {
                assert_eq!(sum(bytes), 0);
                if !bytes.starts_with(b"RSD PTR ") {
                    assert_eq!(word(bytes, 4) as usize, bytes.len());
                }
            }
            let (root, rsdp) = find(&tables, b"RSD PTR ");
            assert_eq!(*root, tables.root);
            assert_eq!(sum(&rsdp[..20]), 0);
            let (xsdt_at, xsdt) = find(&tables, b"XSDT");
            assert_eq!(u64::from(word(rsdp, 24)), xsdt_at.0);
            let listed: Vec<_> = xsdt[36..].chunks(8).map(|entry| u64::from(word(entry, 0))).collect();
            for signature in [b"FACP", b"APIC", b"MCFG"] {
                assert!(listed.contains(&find(&tables, signature).0.0));
            }
            let fadt = &find(&tables, b"FACP").1;
            assert_eq!(u64::from(word(fadt, 140)), find(&tables, b"DSDT").0.0);
        }
    }

    #[test]
    fn fixed_description_is_hardware_reduced_with_reset_and_sleep() {
        let tables = build(2);
        let fadt = &find(&tables, b"FACP").1;
        assert_eq!(fadt.len(), 276);
        assert_ne!(word(fadt, 112) & (1 << 20), 0);
        assert_ne!(word(fadt, 112) & (1 << 10), 0);
        assert_eq!(fadt[116..122], [1, 8, 0, 1, 0x04, 0x06]);
        assert_eq!(fadt[128], 6);
        assert_eq!(fadt[248..250], [0x00, 0x06]);
        assert_eq!(fadt[260..262], [0x01, 0x06]);
    }

    #[test]
    fn processors_beyond_254_are_x2apic_entries() {
        let tables = build(256);
        let madt = &find(&tables, b"APIC").1;
        let mut offset = 44;
        let mut kinds = [0; 10];
        while offset < madt.len() {
            kinds[usize::from(madt[offset])] += 1;
            offset += usize::from(madt[offset + 1]);
        }
        assert_eq!((kinds[0], kinds[9], kinds[1]), (255, 1, 1));
    }
}
