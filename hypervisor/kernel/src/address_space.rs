//! dom0's address space: its own pages, device registers, DMA memory, and a window
//! onto each guest.

use crate::domain;
use crate::memory::{self, Table};
use core::sync::atomic::{AtomicU64, Ordering};
use hv_abi::boot;
use hv_abi::call::Error;
use hv_x86::page::{ADDRESS, LARGE, NO_EXECUTE, PRESENT, USER, WRITABLE, index};
use hv_x86::{PAGE_SIZE, to_usize};

/// An entry whose frame is dom0's own: freed when dom0 is.
pub(crate) const OWNED: u64 = 1 << 9;
/// Root entries below this are dom0's own memory, above are windows.
const FIRST_WINDOW: usize = index(boot::WINDOW, 4);

static ROOT: AtomicU64 = AtomicU64::new(0);
static OWNED_PAGES: AtomicU64 = AtomicU64::new(0);

/// Makes the root, with the upper half of every other, and loads it.
pub(crate) fn init() -> Option<()> {
    let root = Table::new()?;
    let kernel = Table(memory::BOOT_TABLES);
    for slot in 256..512 {
        root.set(slot, kernel.get(slot));
    }
    ROOT.store(root.0, Ordering::Relaxed);
    flush();
    Some(())
}

/// Bytes of memory dom0 owns.
pub(crate) fn owned_bytes() -> u64 {
    OWNED_PAGES.load(Ordering::Relaxed) * PAGE_SIZE
}

/// Loads the root, which also drops stale translations.
pub(crate) fn flush() {
    let root = ROOT.load(Ordering::Relaxed);
    // SAFETY: the root has the same upper half as every other.
    unsafe { core::arch::asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}

/// Shows or hides a guest's memory: the guest's own directory pointers under an
/// entry of dom0's root, not executable.
pub(crate) fn map_window(slot: usize, pointers: Option<u64>) {
    let root = Table(ROOT.load(Ordering::Relaxed));
    root.set(FIRST_WINDOW + slot, pointers.map_or(0, |table| table | PRESENT | WRITABLE | USER | NO_EXECUTE));
    flush();
}

/// Maps one page for ring 3.
pub(crate) fn map(address: u64, frame: u64, flags: u64) -> Option<()> {
    let mut table = Table(ROOT.load(Ordering::Relaxed));
    for level in (2..=4).rev() {
        table = table.descend(index(address, level), PRESENT | WRITABLE | USER)?;
    }
    if flags & OWNED != 0 {
        OWNED_PAGES.fetch_add(1, Ordering::Relaxed);
    }
    table.set(index(address, 1), frame | flags | PRESENT | USER);
    Some(())
}

/// Maps one page of the program: straight from the image when it is not written.
pub(crate) fn map_segment(address: u64, bytes: &[u8], writable: bool, executable: bool) -> Option<()> {
    let execute = if executable { 0 } else { NO_EXECUTE };
    let source = bytes.as_ptr() as u64;
    if !writable && bytes.len() == 4096 && source.is_multiple_of(PAGE_SIZE) {
        return map(address, source - memory::DIRECT_MAP, execute);
    }
    let frame = memory::take_frame()?;
    let _ = memory::write(frame, bytes);
    map(address, frame, execute | OWNED | if writable { WRITABLE } else { 0 })
}

/// Backs memory that grows by being touched: heap, stack, guest windows.
pub(crate) fn touch(address: u64) -> bool {
    let heap = boot::HEAP..boot::HEAP + boot::HEAP_BYTES;
    let stack = boot::STACK_TOP - boot::STACK_BYTES..boot::STACK_TOP;
    if heap.contains(&address) || stack.contains(&address) {
        if lookup(address, true).is_some() {
            return false;
        }
        return memory::take_frame()
            .and_then(|frame| map(address & !(PAGE_SIZE - 1), frame, WRITABLE | NO_EXECUTE | OWNED))
            .is_some();
    }
    let Some(offset) = address.checked_sub(boot::WINDOW) else { return false };
    let slot = to_usize(offset / boot::WINDOW_BYTES);
    slot < hv_abi::MAX_DOMAINS && domain::populate(slot, offset % boot::WINDOW_BYTES)
}

/// Physical address behind an address of dom0's, if it is mapped for ring 3.
fn lookup(address: u64, write: bool) -> Option<u64> {
    if address >> 47 != 0 {
        return None;
    }
    let wanted = PRESENT | USER | if write { WRITABLE } else { 0 };
    let mut table = Table(ROOT.load(Ordering::Relaxed));
    for level in (1..=4).rev() {
        let entry = table.get(index(address, level));
        if entry & wanted != wanted {
            return None;
        }
        if level == 1 {
            return Some(entry & ADDRESS | address & 0xfff);
        }
        if entry & LARGE != 0 {
            // Only guests' windows have large pages: no system call needs them.
            return None;
        }
        table = Table(entry & ADDRESS);
    }
    None
}

fn each_page(
    address: u64,
    length: usize,
    write: bool,
    mut part: impl FnMut(u64, usize, usize) -> bool,
) -> Result<(), Error> {
    let mut done = 0;
    while done < length {
        let at = address.checked_add(done as u64).ok_or(Error::Pointer)?;
        let count = to_usize(PAGE_SIZE - (at & 0xfff)).min(length - done);
        let found = lookup(at, write).or_else(|| if touch(at) { lookup(at, write) } else { None });
        if !part(found.ok_or(Error::Pointer)?, done, count) {
            return Err(Error::Pointer);
        }
        done += count;
    }
    Ok(())
}

/// Copies from dom0's memory.
pub(crate) fn copy_in(address: u64, target: &mut [u8]) -> Result<(), Error> {
    each_page(address, target.len(), false, |physical, offset, count| {
        target.get_mut(offset..offset + count).is_some_and(|part| memory::read(physical, part))
    })
}

/// Copies into dom0's memory.
pub(crate) fn copy_out(address: u64, source: &[u8]) -> Result<(), Error> {
    each_page(address, source.len(), true, |physical, offset, count| {
        source.get(offset..offset + count).is_some_and(|part| memory::write(physical, part))
    })
}

/// Frees everything dom0 owned, and its tables.
pub(crate) fn free_lower_half() {
    let root = Table(ROOT.load(Ordering::Relaxed));
    for slot in 0..FIRST_WINDOW {
        let entry = root.get(slot);
        if entry & PRESENT != 0 {
            free_table(Table(entry & ADDRESS), 3);
            root.set(slot, 0);
        }
    }
    flush();
}

fn free_table(table: Table, level: u8) {
    for slot in 0..512 {
        let entry = table.get(slot);
        if entry & PRESENT == 0 {
            continue;
        }
        if level > 1 {
            free_table(Table(entry & ADDRESS), level - 1);
        } else if entry & OWNED != 0 {
            OWNED_PAGES.fetch_sub(1, Ordering::Relaxed);
            memory::free_frame(entry & ADDRESS);
        }
    }
    memory::free_frame(table.0);
}
