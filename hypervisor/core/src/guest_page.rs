//! Walks a guest's own page tables, to fetch the instruction behind a fault.
//!
//! Reads only; accessed bits are left alone, since the processor has just set
//! them. Spec: APM 5.2 (legacy), 5.3 (long mode).

use hv_x86::page::{ADDRESS, LARGE, PRESENT, index};
use hv_x86::reg::{CR0_PG, CR4_LA57, CR4_PAE, CR4_PSE, EFER_LMA};

/// Guest-physical memory.
pub trait GuestPhysical {
    /// Copies bytes at a guest-physical address; false outside RAM.
    fn read(&self, gpa: u64, target: &mut [u8]) -> bool;
}

/// The registers that choose the paging mode.
#[derive(Clone, Copy, Debug)]
pub struct Paging {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
}

fn entry(memory: &dyn GuestPhysical, gpa: u64, width: usize) -> Option<u64> {
    let mut bytes = [0; 8];
    memory
        .read(gpa, bytes.get_mut(..width)?)
        .then(|| u64::from_le_bytes(bytes))
        .filter(|entry| entry & PRESENT != 0)
}

/// Translates a linear address; None where a page is missing.
#[must_use]
pub fn translate(memory: &dyn GuestPhysical, paging: &Paging, linear: u64) -> Option<u64> {
    if paging.cr0 & CR0_PG == 0 {
        return Some(linear & 0xffff_ffff);
    }
    if paging.cr4 & CR4_PAE == 0 {
        return translate_legacy(memory, paging, linear & 0xffff_ffff);
    }
    let (levels, mut table) = if paging.efer & EFER_LMA == 0 {
        // Three levels; the top one has four entries at a 32-byte boundary.
        let pointer = (paging.cr3 & 0xffff_ffe0) + (linear >> 30 & 3) * 8;
        (2, entry(memory, pointer, 8)? & ADDRESS)
    } else if paging.cr4 & CR4_LA57 == 0 {
        (4, paging.cr3 & ADDRESS)
    } else {
        (5, paging.cr3 & ADDRESS)
    };
    for level in (1..=levels).rev() {
        let found = entry(memory, table + index(linear, level) as u64 * 8, 8)?;
        if level == 1 || (level <= 3 && found & LARGE != 0) {
            let mask = (1_u64 << (12 + 9 * (u32::from(level) - 1))) - 1;
            return Some(found & ADDRESS & !mask | linear & mask);
        }
        table = found & ADDRESS;
    }
    None
}

fn translate_legacy(memory: &dyn GuestPhysical, paging: &Paging, linear: u64) -> Option<u64> {
    let directory = entry(memory, (paging.cr3 & 0xffff_f000) + (linear >> 22) * 4, 4)?;
    if directory & LARGE != 0 && paging.cr4 & CR4_PSE != 0 {
        return Some(directory & 0xffc0_0000 | (directory >> 13 & 0xff) << 32 | linear & 0x3f_ffff);
    }
    let page = entry(memory, (directory & 0xffff_f000) + (linear >> 12 & 0x3ff) * 4, 4)?;
    Some(page & 0xffff_f000 | linear & 0xfff)
}

/// Fetches up to `target.len()` bytes at a linear address; returns how many could
/// be read before a missing page.
pub fn fetch(memory: &dyn GuestPhysical, paging: &Paging, linear: u64, target: &mut [u8]) -> usize {
    let mut done = 0;
    while let Some(rest) = target.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = linear.wrapping_add(done as u64);
        let in_page = hv_x86::to_usize(4096 - (at & 0xfff)).min(rest.len());
        let Some(gpa) = translate(memory, paging, at) else { break };
        let Some(part) = rest.get_mut(..in_page) else { break };
        if !memory.read(gpa, part) {
            break;
        }
        done += in_page;
    }
    done
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::{GuestPhysical, Paging, fetch, translate};
    use std::vec::Vec;

    struct Memory(Vec<u8>);

    impl GuestPhysical for Memory {
        fn read(&self, gpa: u64, target: &mut [u8]) -> bool {
            let Ok(start) = usize::try_from(gpa) else { return false };
            let Some(source) = start.checked_add(target.len()).and_then(|end| self.0.get(start..end)) else {
                return false;
            };
            target.copy_from_slice(source);
            true
        }
    }

    fn put(memory: &mut Memory, at: usize, value: u64) {
        memory.0[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    #[test]
    fn long_mode_pages_of_each_size() {
        let mut memory = Memory(std::vec![0; 0x10000]);
        put(&mut memory, 0x1000, 0x2003);
        put(&mut memory, 0x2000, 0x3003);
        put(&mut memory, 0x2008, 0x4000_0083);
        put(&mut memory, 0x3000, 0x4003);
        put(&mut memory, 0x3008, 0x20_0083);
        put(&mut memory, 0x4008, 0x5003 | 1 << 63);
        let paging = Paging { cr0: 1 << 31, cr3: 0x1000, cr4: 1 << 5, efer: 1 << 10 };
        assert_eq!(translate(&memory, &paging, 0x1abc), Some(0x5abc));
        assert_eq!(translate(&memory, &paging, 0x20_1234), Some(0x20_1234));
        assert_eq!(translate(&memory, &paging, 0x4012_3456), Some(0x4012_3456));
        assert_eq!(translate(&memory, &paging, 0x2abc), None);
        memory.0[0x5ffe..0x6000].copy_from_slice(&[0x89, 0x08]);
        let mut bytes = [0; 15];
        assert_eq!(fetch(&memory, &paging, 0x1ffe, &mut bytes), 2, "the next page is missing");
        assert_eq!(bytes[..2], [0x89, 0x08]);
    }

    #[test]
    fn legacy_and_no_paging() {
        let mut memory = Memory(std::vec![0; 0x10000]);
        let paging = Paging { cr0: 0, cr3: 0, cr4: 0, efer: 0 };
        assert_eq!(translate(&memory, &paging, 0x1_0000_1234), Some(0x1234));
        put(&mut memory, 0x1000, 0x2003);
        put(&mut memory, 0x2004, 0x3003);
        let paging = Paging { cr0: 1 << 31, cr3: 0x1000, cr4: 0, efer: 0 };
        assert_eq!(translate(&memory, &paging, 0x1234), Some(0x3234));
    }

    #[test]
    fn tables_that_point_anywhere() {
        let mut memory = Memory(std::vec![0xff; 0x1000]);
        put(&mut memory, 0, 1);
        let paging = Paging { cr0: 1 << 31, cr3: u64::MAX, cr4: 1 << 5 | 1 << 12, efer: 1 << 10 };
        assert_eq!(translate(&memory, &paging, u64::MAX), None);
    }
}
