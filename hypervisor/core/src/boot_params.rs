//! The Linux boot parameters that every boot path hands over.
//!
//! Spec: Linux documentation `arch/x86/boot.rst` and `zero-page.rst`.

/// Bytes of the structure.
pub const BYTES: usize = 4096;

/// Memory the firmware calls usable RAM.
pub const E820_USABLE: u32 = 1;

const ACPI_RSDP: usize = 0x070;
const E820_ENTRIES: usize = 0x1e8;
const COMMAND_LINE_POINTER: usize = 0x228;
const E820_TABLE: usize = 0x2d0;
const E820_MAX: usize = 128;

/// One entry of the firmware's memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820 {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// 1 for usable RAM.
    pub kind: u32,
}

/// A view of the parameters. They come from the loader and are not trusted.
#[derive(Clone, Copy, Debug)]
pub struct BootParams<'a>(pub &'a [u8; BYTES]);

impl BootParams<'_> {
    fn bytes<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.0.get(offset..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }

    /// Physical address of the ACPI root pointer, if the loader knew it.
    #[must_use]
    pub fn acpi_rsdp(&self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(ACPI_RSDP))).filter(|address| *address != 0)
    }

    /// Physical address of the zero-terminated command line.
    #[must_use]
    pub fn command_line_address(&self) -> u64 {
        u64::from(u32::from_le_bytes(self.bytes(COMMAND_LINE_POINTER)))
    }

    /// The memory map; entries that wrap are dropped.
    pub fn memory_map(&self) -> impl Iterator<Item = E820> + '_ {
        let count = usize::from(self.bytes::<1>(E820_ENTRIES)[0]).min(E820_MAX);
        (0..count).filter_map(|index| {
            let offset = E820_TABLE + index * 20;
            let start = u64::from_le_bytes(self.bytes(offset));
            let length = u64::from_le_bytes(self.bytes(offset + 8));
            let kind = u32::from_le_bytes(self.bytes(offset + 16));
            Some(E820 { start, end: start.checked_add(length)?, kind })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{BYTES, BootParams, E820};

    #[test]
    fn reads_the_map() {
        let mut page = [0; BYTES];
        page[0x1e8] = 2;
        page[0x2d0..0x2d8].copy_from_slice(&0x10_0000_u64.to_le_bytes());
        page[0x2d8..0x2e0].copy_from_slice(&0x1000_u64.to_le_bytes());
        page[0x2e0] = 1;
        page[0x2e4..0x2ec].copy_from_slice(&u64::MAX.to_le_bytes());
        page[0x2ec..0x2f4].copy_from_slice(&2_u64.to_le_bytes());
        let params = BootParams(&page);
        let mut map = params.memory_map();
        assert_eq!(map.next(), Some(E820 { start: 0x10_0000, end: 0x10_1000, kind: 1 }));
        assert_eq!(map.next(), None, "an entry that wraps is dropped");
        assert_eq!(params.acpi_rsdp(), None);
    }
}
