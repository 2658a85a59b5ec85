//! What the guest is told about its memory.
//!
//! Spec: ACPI 6.4, section 15 (address range types).

use alloc::vec::Vec;

use crate::layout::{
    ACPI_END, ACPI_START, CONVENTIONAL_END, ECAM_BYTES, ECAM_START, EXTENDED_START, HIGH_MEMORY_START,
    IOAPIC_BYTES, IOAPIC_START, LOCAL_APIC_BYTES, LOCAL_APIC_START, MemoryLayout,
};

/// Type: RAM.
pub const RAM: u32 = 1;
/// Type: not to be used.
pub const RESERVED: u32 = 2;
/// Type: ACPI tables.
pub const ACPI: u32 = 3;

/// One range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// One of the types above.
    pub kind: u32,
}

/// The ranges in ascending order, without overlap.
#[must_use]
pub fn memory_map(memory: MemoryLayout) -> Vec<MapEntry> {
    let entries = [
        (0, CONVENTIONAL_END, RAM),
        (CONVENTIONAL_END, ACPI_START, RESERVED),
        (ACPI_START, ACPI_END, ACPI),
        (ACPI_END, EXTENDED_START, RESERVED),
        (EXTENDED_START, memory.low_end(), RAM),
        (ECAM_START, ECAM_START + ECAM_BYTES, RESERVED),
        (IOAPIC_START, IOAPIC_START + IOAPIC_BYTES, RESERVED),
        (LOCAL_APIC_START, LOCAL_APIC_START + LOCAL_APIC_BYTES, RESERVED),
        (HIGH_MEMORY_START, HIGH_MEMORY_START.saturating_add(memory.high_bytes()), RAM),
    ];
    entries
        .into_iter()
        .filter(|(start, end, _)| start < end)
        .map(|(start, end, kind)| MapEntry { start, end, kind })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest_memory::Gpa;

    #[test]
    fn ranges_are_apart_and_ram_is_ram() {
        for mebibytes in [2, 64, 3071, 3072, 3074, 5120] {
            let memory = MemoryLayout::new(mebibytes << 20);
            let map = memory_map(memory);
            assert!(map.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let ram: u64 =
                map.iter().filter(|entry| entry.kind == RAM).map(|entry| entry.end - entry.start).sum();
            assert_eq!(ram, (mebibytes << 20) - (EXTENDED_START - CONVENTIONAL_END));
            for entry in map.iter().filter(|entry| entry.kind == RAM) {
                assert!(memory.contains(Gpa(entry.start), entry.end - entry.start));
            }
            assert_eq!(map.iter().filter(|entry| entry.kind == ACPI).count(), 1);
        }
    }
}
