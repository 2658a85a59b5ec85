//! Walks a guest's own page tables, to fetch the instruction behind a fault, and for what
//! ring 0 moves between a port and memory.
//!
//! Reads only; accessed bits are left alone, since the processor has just set
//! them. Spec: APM 5.2 (legacy), 5.3 (long mode), 5.6 (protection).

use hv_x86::Gpa;
use hv_x86::page::{ADDRESS, LARGE, PRESENT, USER, WRITABLE, index};
use hv_x86::reg::{CR0_PG, CR0_WP, CR4_LA57, CR4_PAE, CR4_PSE, CR4_SMAP, EFER_LMA};

/// Guest-physical memory.
pub trait GuestPhysical {
    /// Copies bytes at a guest-physical address; false outside RAM.
    fn read(&self, gpa: Gpa, target: &mut [u8]) -> bool;
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

/// Where a linear address leads, and what may be done there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    gpa: Gpa,
    user: bool,
    writable: bool,
}

/// The kind of a memory access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// At privilege level 3.
    pub user: bool,
    /// A write.
    pub write: bool,
    /// The alignment check flag, which lets a kernel touch its programs' pages.
    pub alignment_check: bool,
}

fn entry(memory: &dyn GuestPhysical, gpa: u64, width: usize) -> Option<u64> {
    let mut bytes = [0; 8];
    memory
        .read(Gpa(gpa), bytes.get_mut(..width)?)
        .then(|| u64::from_le_bytes(bytes))
        .filter(|entry| entry & PRESENT != 0)
}

/// Translates a linear address; None where a page is missing.
#[must_use]
pub fn translate(memory: &dyn GuestPhysical, paging: &Paging, linear: u64) -> Option<Gpa> {
    walk(memory, paging, linear).map(|page| page.gpa)
}

/// Translates a linear address for an access.
///
/// # Errors
/// The error code of the page fault (APM volume 2, 8.4.2).
pub fn translate_for(
    memory: &dyn GuestPhysical,
    paging: &Paging,
    linear: u64,
    touch: Touch,
) -> Result<Gpa, u32> {
    let code = u32::from(touch.write) << 1 | u32::from(touch.user) << 2;
    let page = walk(memory, paging, linear).ok_or(code)?;
    let read_only = touch.write && !page.writable && (touch.user || paging.cr0 & CR0_WP != 0);
    let of_a_program = page.user && !touch.user && paging.cr4 & CR4_SMAP != 0 && !touch.alignment_check;
    if paging.cr0 & CR0_PG != 0 && (touch.user && !page.user || read_only || of_a_program) {
        return Err(code | 1);
    }
    Ok(page.gpa)
}

fn walk(memory: &dyn GuestPhysical, paging: &Paging, linear: u64) -> Option<Page> {
    if paging.cr0 & CR0_PG == 0 {
        return Some(Page { gpa: Gpa(linear & 0xffff_ffff), user: true, writable: true });
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
    let mut allowed = u64::MAX;
    for level in (1..=levels).rev() {
        let found = entry(memory, table + index(linear, level) as u64 * 8, 8)?;
        allowed &= found;
        if level == 1 || (level <= 3 && found & LARGE != 0) {
            let mask = (1_u64 << (12 + 9 * (u32::from(level) - 1))) - 1;
            return Some(page(found & ADDRESS & !mask | linear & mask, allowed));
        }
        table = found & ADDRESS;
    }
    None
}

const fn page(gpa: u64, allowed: u64) -> Page {
    Page { gpa: Gpa(gpa), user: allowed & USER != 0, writable: allowed & WRITABLE != 0 }
}

fn translate_legacy(memory: &dyn GuestPhysical, paging: &Paging, linear: u64) -> Option<Page> {
    let directory = entry(memory, (paging.cr3 & 0xffff_f000) + (linear >> 22) * 4, 4)?;
    if directory & LARGE != 0 && paging.cr4 & CR4_PSE != 0 {
        let gpa = directory & 0xffc0_0000 | (directory >> 13 & 0xff) << 32 | linear & 0x3f_ffff;
        return Some(page(gpa, directory));
    }
    let found = entry(memory, (directory & 0xffff_f000) + (linear >> 12 & 0x3ff) * 4, 4)?;
    Some(page(found & 0xffff_f000 | linear & 0xfff, directory & found))
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
    use super::{Gpa, GuestPhysical, Paging, Touch, fetch, translate, translate_for};
    use std::vec::Vec;

    struct Memory(Vec<u8>);

    impl GuestPhysical for Memory {
        fn read(&self, Gpa(gpa): Gpa, target: &mut [u8]) -> bool {
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
        assert_eq!(translate(&memory, &paging, 0x1abc), Some(Gpa(0x5abc)));
        assert_eq!(translate(&memory, &paging, 0x20_1234), Some(Gpa(0x20_1234)));
        assert_eq!(translate(&memory, &paging, 0x4012_3456), Some(Gpa(0x4012_3456)));
        assert_eq!(translate(&memory, &paging, 0x2abc), None);
        memory.0[0x5ffe..0x6000].copy_from_slice(&[0x89, 0x08]);
        let mut bytes = [0; 15];
        assert_eq!(fetch(&memory, &paging, 0x1ffe, &mut bytes), 2, "the next page is missing");
        assert_eq!(bytes[..2], [0x89, 0x08]);
    }

    #[test]
    fn access_needs_permission_at_all_levels() {
        let mut memory = Memory(std::vec![0; 0x10000]);
        let paging =
            |cr0: u64, cr4: u64| Paging { cr0: 1 << 31 | cr0, cr3: 0x1000, cr4: 1 << 5 | cr4, efer: 1 << 10 };
        let (write_protect, smap) = (1 << 16, 1 << 21);
        // Each bit is missing at each level once.
        for missing in 0..9_usize {
            let bits = |level: usize| if missing / 2 == level { 7 & !(2 << (missing % 2)) } else { 7 };
            put(&mut memory, 0x1000, 0x2000 | bits(0));
            put(&mut memory, 0x2000, 0x3000 | bits(1));
            put(&mut memory, 0x3000, 0x4000 | bits(2));
            put(&mut memory, 0x4000, 0x5000 | bits(3));
            let (writable, user) = (missing == 8 || missing % 2 == 1, missing == 8 || missing % 2 == 0);
            for case in 0..32_u64 {
                let touch =
                    Touch { user: case & 1 != 0, write: case & 2 != 0, alignment_check: case & 4 != 0 };
                let (protects, smap_on) = (case & 8 != 0, case & 16 != 0);
                let paging = paging(if protects { write_protect } else { 0 }, if smap_on { smap } else { 0 });
                let allowed = if touch.user {
                    user && (writable || !touch.write)
                } else {
                    let is_foreign = user && smap_on && !touch.alignment_check;
                    !is_foreign && (writable || !touch.write || !protects)
                };
                let code = 1 | u32::from(touch.write) << 1 | u32::from(touch.user) << 2;
                let expected = if allowed { Ok(Gpa(0x5abc)) } else { Err(code) };
                assert_eq!(translate_for(&memory, &paging, 0xabc, touch), expected, "{missing} {case}");
            }
        }
        let touch = Touch { user: true, write: true, alignment_check: false };
        assert_eq!(translate_for(&memory, &paging(0, 0), 0x1000, touch), Err(6), "no page");
        let off = Paging { cr0: 0, ..paging(0, 0) };
        assert_eq!(translate_for(&memory, &off, 0x1000, touch), Ok(Gpa(0x1000)));
    }

    #[test]
    fn legacy_and_no_paging() {
        let mut memory = Memory(std::vec![0; 0x10000]);
        let paging = Paging { cr0: 0, cr3: 0, cr4: 0, efer: 0 };
        assert_eq!(translate(&memory, &paging, 0x1_0000_1234), Some(Gpa(0x1234)));
        put(&mut memory, 0x1000, 0x2003);
        put(&mut memory, 0x2004, 0x3003);
        let paging = Paging { cr0: 1 << 31, cr3: 0x1000, cr4: 0, efer: 0 };
        assert_eq!(translate(&memory, &paging, 0x1234), Some(Gpa(0x3234)));
    }

    #[test]
    fn tables_that_point_anywhere() {
        let mut memory = Memory(std::vec![0xff; 0x1000]);
        put(&mut memory, 0, 1);
        let paging = Paging { cr0: 1 << 31, cr3: u64::MAX, cr4: 1 << 5 | 1 << 12, efer: 1 << 10 };
        assert_eq!(translate(&memory, &paging, u64::MAX), None);
    }
}
