//! Descriptor table and page tables that a kernel starts with.
//!
//! Spec: Linux x86 boot protocol, "64-bit boot protocol": paging on, identity
//! mapped, code selector 0x10, data selector 0x18, interrupts off.

use alloc::vec::Vec;

use hv_abi::domain::{MODE_LONG, MODE_PROTECTED, VcpuState};

use super::Placement;
use crate::guest_memory::Gpa;
use crate::layout::{BOOT_GDT, BOOT_PAGE_TABLES, BOOT_STACK_TOP};

const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const GDT_ENTRIES: u32 = 4;
/// Flat, present, accessed; 64-bit code.
const CODE_64: u64 = 0x00af_9b00_0000_ffff;
/// Flat, present, accessed; 32-bit code.
const CODE_32: u64 = 0x00cf_9b00_0000_ffff;
/// Flat, present, accessed, writable data.
const DATA: u64 = 0x00cf_9300_0000_ffff;
const PAGE_PRESENT_WRITABLE: u64 = 0x3;
const PAGE_LARGE: u64 = 0x80;
/// Gibibytes that are mapped, with a page directory each.
const MAPPED_GIB: u64 = 4;

/// 64-bit start at `entry` with RSI pointing to the boot parameters.
pub(super) fn long_mode(entry: u64, parameters: u64) -> (VcpuState, [Placement; 2]) {
    let state = VcpuState {
        mode: MODE_LONG,
        rip: entry,
        rsp: BOOT_STACK_TOP,
        rsi: parameters,
        cr3: BOOT_PAGE_TABLES,
        ..common()
    };
    (state, [gdt(CODE_64), Placement::bytes(Gpa(BOOT_PAGE_TABLES), page_tables())])
}

/// 32-bit start at `entry` with EBX pointing to the start information.
pub(super) fn protected_mode(entry: u64, start_info: u64) -> (VcpuState, Placement) {
    let state =
        VcpuState { mode: MODE_PROTECTED, rip: entry, rsp: BOOT_STACK_TOP, rbx: start_info, ..common() };
    (state, gdt(CODE_32))
}

fn common() -> VcpuState {
    VcpuState {
        gdt_base: BOOT_GDT,
        gdt_limit: GDT_ENTRIES * 8 - 1,
        code_selector: CODE_SELECTOR,
        data_selector: DATA_SELECTOR,
        ..VcpuState::default()
    }
}

fn gdt(code: u64) -> Placement {
    let entries = [0, 0, code, DATA];
    Placement::bytes(Gpa(BOOT_GDT), entries.iter().flat_map(|entry| entry.to_le_bytes()).collect())
}

/// Root, one directory-pointer page, and four directories of 2 MiB pages.
fn page_tables() -> Vec<u8> {
    let page = |index: u64| BOOT_PAGE_TABLES + index * 4096;
    let mut bytes = Vec::with_capacity(6 * 4096);
    bytes.extend_from_slice(&(page(1) | PAGE_PRESENT_WRITABLE).to_le_bytes());
    bytes.resize(4096, 0);
    for directory in 0..MAPPED_GIB {
        bytes.extend_from_slice(&(page(2 + directory) | PAGE_PRESENT_WRITABLE).to_le_bytes());
    }
    bytes.resize(2 * 4096, 0);
    for large_page in 0..MAPPED_GIB * 512 {
        let entry = (large_page << 21) | PAGE_PRESENT_WRITABLE | PAGE_LARGE;
        bytes.extend_from_slice(&entry.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_below_four_gibibytes_maps_to_itself() {
        let tables = page_tables();
        let entry = |page: usize, index: usize| {
            let at = page * 4096 + index * 8;
            u64::from_le_bytes(tables[at..at + 8].try_into().unwrap())
        };
        assert_eq!(tables.len(), 6 * 4096);
        for address in [0u64, 0x20_0000, 0x3fff_ffff, 0x4000_0000, 0xc000_0000, 0xffff_ffff] {
            let directory = entry(1, (address >> 30) as usize) & !0xfff;
            let page = ((directory - BOOT_PAGE_TABLES) / 4096) as usize;
            let leaf = entry(page, ((address >> 21) & 511) as usize);
            assert_eq!(leaf & 0x83, 0x83);
            assert_eq!(leaf & !0x1f_ffff, address & !0x1f_ffff);
        }
        assert_eq!(entry(0, 0), BOOT_PAGE_TABLES + 4096 + 3);
    }
}
