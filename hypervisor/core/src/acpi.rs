//! What the hypervisor needs from the firmware's ACPI tables: the processors and
//! how to turn the machine off.
//!
//! Spec: ACPI 6.4, 5.2.5 (RSDP), 5.2.7-8 (RSDT, XSDT), 5.2.9 (FADT), 5.2.12 (MADT).
//! The tables come from firmware; lengths are checked all the same.

/// Reads physical memory.
pub trait Physical {
    /// Copies bytes at a physical address; false when they are not readable.
    fn read(&self, address: u64, target: &mut [u8]) -> bool;
}

/// Most bytes of a table that are looked at.
const MAX_TABLE: u64 = 64 * 1024;
/// Most tables that are looked at.
const MAX_TABLES: u64 = 128;

fn read<const N: usize>(memory: &dyn Physical, address: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    memory.read(address, &mut bytes).then_some(bytes)
}

fn read_u32(memory: &dyn Physical, address: u64) -> Option<u32> {
    read(memory, address).map(u32::from_le_bytes)
}

fn sum(memory: &dyn Physical, address: u64, length: u64) -> Option<u8> {
    let mut total = 0_u8;
    for offset in 0..length {
        total = total.wrapping_add(read::<1>(memory, address + offset)?[0]);
    }
    Some(total)
}

/// Looks for the root pointer where a BIOS puts it (5.2.5.1).
#[must_use]
pub fn find_rsdp(memory: &dyn Physical) -> Option<u64> {
    let ebda = u64::from(u16::from_le_bytes(read(memory, 0x40e)?)) << 4;
    let areas = [(ebda, 0x400), (0xe_0000, 0x2_0000)];
    areas.into_iter().find_map(|(start, length)| {
        (start..start + length).step_by(16).find(|address| {
            read(memory, *address) == Some(*b"RSD PTR ") && sum(memory, *address, 20) == Some(0)
        })
    })
}

/// Physical address and length of the table with a signature.
#[must_use]
pub fn find_table(memory: &dyn Physical, rsdp: u64, signature: [u8; 4]) -> Option<(u64, u64)> {
    let revision = read::<1>(memory, rsdp + 15)?[0];
    let xsdt = if revision >= 2 { u64::from_le_bytes(read(memory, rsdp + 24)?) } else { 0 };
    let (root, width) = if xsdt == 0 { (u64::from(read_u32(memory, rsdp + 16)?), 4) } else { (xsdt, 8) };
    let length = u64::from(read_u32(memory, root + 4)?).min(MAX_TABLE);
    let entries = length.checked_sub(36)? / width;
    (0..entries.min(MAX_TABLES)).find_map(|index| {
        let at = root + 36 + index * width;
        let table =
            if width == 8 { u64::from_le_bytes(read(memory, at)?) } else { u64::from(read_u32(memory, at)?) };
        if read(memory, table)? != signature {
            return None;
        }
        let length = u64::from(read_u32(memory, table + 4)?);
        (36..=MAX_TABLE).contains(&length).then_some((table, length))
    })
}

/// Calls `found` with the APIC identifier of every enabled processor.
pub fn processors(memory: &dyn Physical, rsdp: u64, mut found: impl FnMut(u32)) {
    let Some((madt, length)) = find_table(memory, rsdp, *b"APIC") else { return };
    let end = madt + length;
    let mut at = madt + 44;
    while at + 2 <= end {
        let Some([kind, size]) = read::<2>(memory, at) else { return };
        if size < 2 || at + u64::from(size) > end {
            return;
        }
        // Bit 0 of the flags: enabled (5.2.12.2, 5.2.12.12).
        if kind == 0 && size >= 8 {
            if let (Some([identifier]), Some(flags)) = (read::<1>(memory, at + 3), read_u32(memory, at + 4))
                && flags & 1 == 1
            {
                found(u32::from(identifier));
            }
        } else if kind == 9
            && size >= 16
            && let (Some(identifier), Some(flags)) = (read_u32(memory, at + 4), read_u32(memory, at + 8))
            && flags & 1 == 1
        {
            found(identifier);
        }
        at += u64::from(size);
    }
}

/// How to enter the soft-off state through the fixed hardware (4.8.3.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftOff {
    /// PM1a control port.
    pub port: u16,
    /// Value with the sleep type and the enable bit.
    pub value: u16,
}

/// Finds the PM1a control port and the sleep type of `\_S5` by looking for its
/// package in the DSDT, as an interpreter would be out of proportion.
#[must_use]
pub fn soft_off(memory: &dyn Physical, rsdp: u64) -> Option<SoftOff> {
    let (fadt, length) = find_table(memory, rsdp, *b"FACP")?;
    if length < 68 {
        return None;
    }
    let port = u16::try_from(read_u32(memory, fadt + 64)?).ok().filter(|port| *port != 0)?;
    let dsdt = u64::from(read_u32(memory, fadt + 40)?);
    let length = u64::from(read_u32(memory, dsdt + 4)?).min(MAX_TABLE);
    let name = (dsdt + 36..dsdt + length).find(|at| read(memory, *at) == Some(*b"_S5_"))?;
    // NameOp path PackageOp length count, then the first element (20.2.5).
    let [package, _, _, first, second] = read::<5>(memory, name + 4)?;
    if package != 0x12 {
        return None;
    }
    let sleep_type = if first == 0x0a { second } else { first };
    (sleep_type < 8).then_some(SoftOff { port, value: u16::from(sleep_type) << 10 | 1 << 13 })
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "test data is cut to size on purpose")]
mod tests {
    extern crate std;
    use super::{Physical, SoftOff, find_rsdp, processors, soft_off};
    use std::vec::Vec;

    struct Memory(Vec<u8>);

    impl Physical for Memory {
        fn read(&self, address: u64, target: &mut [u8]) -> bool {
            let start = usize::try_from(address).unwrap();
            match self.0.get(start..start + target.len()) {
                Some(source) => {
                    target.copy_from_slice(source);
                    true
                }
                None => false,
            }
        }
    }

    fn table(memory: &mut Memory, at: usize, signature: &[u8; 4], body: &[u8]) {
        memory.0[at..at + 4].copy_from_slice(signature);
        memory.0[at + 4..at + 8].copy_from_slice(&(36 + body.len() as u32).to_le_bytes());
        memory.0[at + 36..at + 36 + body.len()].copy_from_slice(body);
    }

    fn machine() -> Memory {
        let mut memory = Memory(std::vec![0; 0x10_0000]);
        memory.0[0xf_0000..0xf_0008].copy_from_slice(b"RSD PTR ");
        memory.0[0xf_0010..0xf_0014].copy_from_slice(&0x8_0000_u32.to_le_bytes());
        let total = memory.0[0xf_0000..0xf_0014].iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        memory.0[0xf_0008] = total.wrapping_neg();
        let mut root = Vec::new();
        root.extend(0x8_1000_u32.to_le_bytes());
        root.extend(0x8_2000_u32.to_le_bytes());
        table(&mut memory, 0x8_0000, b"RSDT", &root);
        let mut madt = std::vec![0; 8];
        madt.extend([0, 8, 0, 0, 1, 0, 0, 0]);
        madt.extend([1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        madt.extend([0, 8, 1, 5, 0, 0, 0, 0]);
        madt.extend([0, 8, 2, 7, 1, 0, 0, 0]);
        madt.extend([9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0]);
        table(&mut memory, 0x8_1000, b"APIC", &madt);
        let mut fadt = std::vec![0; 32];
        fadt[4..8].copy_from_slice(&0x8_3000_u32.to_le_bytes());
        fadt[28..32].copy_from_slice(&0x604_u32.to_le_bytes());
        table(&mut memory, 0x8_2000, b"FACP", &fadt);
        table(&mut memory, 0x8_3000, b"DSDT", b"\x08_S5_\x12\x06\x04\x0a\x05\x00\x00\x00");
        memory
    }

    #[test]
    fn finds_processors_and_the_off_switch() {
        let memory = machine();
        let rsdp = find_rsdp(&memory).unwrap();
        let mut found = Vec::new();
        processors(&memory, rsdp, |identifier| found.push(identifier));
        assert_eq!(found, [0, 7, 256], "the disabled one is left out");
        assert_eq!(soft_off(&memory, rsdp), Some(SoftOff { port: 0x604, value: 5 << 10 | 1 << 13 }));
    }

    #[test]
    fn damage_is_survived() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..2000 {
            let mut memory = machine();
            for _ in 0..8 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let base = [0x8_0000, 0x8_1000, 0x8_2000, 0x8_3000][(state >> 60) as usize & 3];
                memory.0[base + (state as usize >> 8) % 96] = state as u8;
            }
            processors(&memory, 0xf_0000, |_| {});
            let _ = soft_off(&memory, 0xf_0000);
        }
    }
}
