//! Where things are in a guest's physical address space.
//!
//! ```text
//! 0000_0000  RAM; start-up data of the loader below 640 KiB
//! 000a_0000  reserved; ACPI tables from 000e_0000
//! 0010_0000  RAM up to 3 GiB at most
//! c000_0000  PCI memory window (base address registers)
//! e000_0000  PCI configuration space (ECAM), bus 0
//! fec0_0000  I/O APIC (dom0)
//! fee0_0000  local APIC (hypervisor)
//! 1_0000_0000  the rest of the RAM
//! ```

use crate::gpa::Gpa;

/// One past the highest low RAM.
pub const LOW_MEMORY_END: u64 = hv_abi::domain::LOW_MEMORY_END;
/// First byte of high RAM.
pub const HIGH_MEMORY_START: u64 = hv_abi::domain::HIGH_MEMORY_START;

/// Where conventional memory ends.
pub const CONVENTIONAL_END: u64 = 0xa_0000;
/// ACPI tables, root pointer first; firmware scans start here.
pub const ACPI_START: u64 = 0xe_0000;
/// One past the space for ACPI tables.
pub const ACPI_END: u64 = 0xf_0000;
/// Where extended memory begins.
pub const EXTENDED_START: u64 = 0x10_0000;

/// PCI memory window.
pub const PCI_WINDOW_START: u64 = 0xc000_0000;
/// One past the PCI memory window.
pub const PCI_WINDOW_END: u64 = 0xe000_0000;
/// PCI configuration space of bus 0.
pub const ECAM_START: u64 = 0xe000_0000;
/// Its length: 32 devices of 8 functions of 4 KiB.
pub const ECAM_BYTES: u64 = 1 << 20;
/// I/O APIC registers.
pub const IOAPIC_START: u64 = 0xfec0_0000;
/// Their length.
pub const IOAPIC_BYTES: u64 = 0x1000;
/// Local APIC registers.
pub const LOCAL_APIC_START: u64 = 0xfee0_0000;
/// Their length.
pub const LOCAL_APIC_BYTES: u64 = 0x1000;

/// Loader: global descriptor table.
pub const BOOT_GDT: u64 = 0x5000;
/// Loader: PVH start information, modules and memory map.
pub const BOOT_START_INFO: u64 = 0x6000;
/// Loader: Linux boot parameters ("zero page").
pub const BOOT_PARAMETERS: u64 = 0x7000;
/// Loader: top of the first stack.
pub const BOOT_STACK_TOP: u64 = 0x8ff0;
/// Loader: page tables, 6 pages.
pub const BOOT_PAGE_TABLES: u64 = 0x9000;
/// Loader: kernel command line.
pub const BOOT_COMMAND_LINE: u64 = 0x2_0000;

/// First port of the UART.
pub const UART_PORT: u16 = 0x3f8;
/// Interrupt pin of the UART.
pub const UART_PIN: u8 = 4;
/// Interrupt pin of the generic event device (power button).
pub const EVENT_PIN: u8 = 9;
/// Interrupt pin of the generic event device (disks that come and go).
pub const HOT_PLUG_PIN: u8 = 10;
/// What has come and gone on the PCI bus: bit 0 asks for a look at all slots. Cleared
/// by reading, 32 bits.
pub const HOT_PLUG_RESCAN_PORT: u16 = 0x610;
/// Slots that are to be given back, one bit each. Cleared by reading, 32 bits.
pub const HOT_PLUG_LEAVING_PORT: u16 = 0x614;
/// Slots that the guest gives back, one bit each, 32 bits.
pub const HOT_PLUG_EJECT_PORT: u16 = 0x618;
/// Slots of the PCI bus that the ACPI tables describe: those of a guest with as many
/// devices as it may have.
pub const HOT_PLUG_SLOTS: u32 = 22;
/// Keyboard controller command port, of which only "reset" is answered.
pub const KEYBOARD_COMMAND_PORT: u16 = 0x64;
/// ACPI sleep control register.
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// ACPI sleep status register.
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// ACPI reset register.
pub const RESET_PORT: u16 = 0x604;
/// What resets when written there.
pub const RESET_VALUE: u8 = 0x06;
/// Where a PC's BIOS starts. A guest that finds neither UEFI nor another way to
/// reset jumps there in real mode: Linux does on hardware-reduced ACPI.
pub const RESET_VECTOR: u64 = 0xf_fff0;
/// Real-mode code for it: `mov dx, RESET_PORT; mov al, RESET_VALUE; out dx, al;
/// hlt; jmp $-1`.
pub const RESET_CODE: [u8; 9] = [0xba, 0x04, 0x06, 0xb0, RESET_VALUE, 0xee, 0xf4, 0xeb, 0xfd];
/// Where a guest's kernel says that it has panicked: QEMU's pvpanic device
/// (qemu.org, specs/pvpanic), for which stock kernels have a driver.
pub const PANIC_PORT: u16 = 0x505;
/// There, one bit each: it has panicked.
pub const PANIC_PANICKED: u8 = 1 << 0;
/// It has panicked, and a kernel of its own for that case goes on.
pub const PANIC_CRASH_LOADED: u8 = 1 << 1;
/// Reset control register of PC chip sets.
pub const CHIPSET_RESET_PORT: u16 = 0xcf9;
/// PCI configuration address.
pub const PCI_ADDRESS_PORT: u16 = 0xcf8;
/// PCI configuration data.
pub const PCI_DATA_PORT: u16 = 0xcfc;
/// Sleep type that means "off" in the sleep control register.
pub const SLEEP_TYPE_OFF: u8 = 5;

/// How a guest's RAM is split around the hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MemoryLayout {
    memory_bytes: u64,
}

impl MemoryLayout {
    /// The layout for that much RAM in total.
    #[must_use]
    pub const fn new(memory_bytes: u64) -> Self {
        Self { memory_bytes }
    }

    /// RAM in total.
    #[must_use]
    pub const fn memory_bytes(self) -> u64 {
        self.memory_bytes
    }

    /// One past the last byte of low RAM.
    #[must_use]
    pub const fn low_end(self) -> u64 {
        if self.memory_bytes < LOW_MEMORY_END { self.memory_bytes } else { LOW_MEMORY_END }
    }

    /// Bytes of RAM from 4 GiB up.
    #[must_use]
    pub const fn high_bytes(self) -> u64 {
        self.memory_bytes.saturating_sub(LOW_MEMORY_END)
    }

    /// Whether `length` bytes from `gpa` are all RAM and adjacent.
    #[must_use]
    pub const fn contains(self, gpa: Gpa, length: u64) -> bool {
        let Some(end) = gpa.0.checked_add(length) else { return false };
        if end <= self.low_end() {
            return true;
        }
        gpa.0 >= HIGH_MEMORY_START && end <= HIGH_MEMORY_START.saturating_add(self.high_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn memory_is_split_around_the_hole() {
        let small = MemoryLayout::new(64 << 20);
        assert_eq!((small.low_end(), small.high_bytes()), (64 << 20, 0));
        let large = MemoryLayout::new(5 * GIB);
        assert_eq!((large.low_end(), large.high_bytes()), (3 * GIB, 2 * GIB));
        assert!(large.contains(Gpa(3 * GIB - 8), 8));
        assert!(!large.contains(Gpa(3 * GIB - 8), 9));
        assert!(!large.contains(Gpa(0xe000_0000), 1));
        assert!(!large.contains(Gpa(4 * GIB - 1), 2));
        assert!(large.contains(Gpa(6 * GIB - 1), 1));
        assert!(!large.contains(Gpa(6 * GIB - 1), 2));
        assert!(!large.contains(Gpa(u64::MAX), 2));
    }
}
