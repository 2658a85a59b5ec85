//! Page-table entries, shared by host paging and nested paging.
//!
//! Spec: APM 5.3 and 5.4; nested tables use the same format (APM 15.25.3).

/// Entry is valid.
pub const PRESENT: u64 = 1 << 0;
/// Writes are allowed.
pub const WRITABLE: u64 = 1 << 1;
/// Ring 3 may use it; every nested walk is a user access (APM 15.25.5).
pub const USER: u64 = 1 << 2;
/// Write-through.
pub const WRITE_THROUGH: u64 = 1 << 3;
/// Caching is disabled.
pub const CACHE_DISABLE: u64 = 1 << 4;
/// In a directory or directory pointer: this entry maps a page itself.
pub const LARGE: u64 = 1 << 7;
/// Instruction fetches are refused.
pub const NO_EXECUTE: u64 = 1 << 63;
/// The physical address in an entry.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Index into the table of `level` (1 = page table, 4 = PML4) for an address.
#[must_use]
pub const fn index(address: u64, level: u8) -> usize {
    crate::to_usize((address >> (12 + 9 * (level as u64 - 1))) & 0x1ff)
}
