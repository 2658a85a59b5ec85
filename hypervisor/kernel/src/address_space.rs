//! dom0's address space: its own pages, device registers, DMA memory, and a window
//! onto each guest.

use crate::memory::{self, Table};
use crate::nested::Nested;
use crate::watch::Mutex;
use core::sync::atomic::{AtomicU64, Ordering};
use hv_abi::DomainSlot;
use hv_abi::boot;
use hv_abi::call::Error;
use hv_core::frames::chunks_for;
use hv_core::set_aside::SetAside;
use hv_x86::page::{ADDRESS, NO_EXECUTE, PRESENT, USER, WRITABLE, index};
use hv_x86::{Gpa, Hpa, LARGE_PAGE_SIZE, PAGE_SIZE, to_usize};
use spin::Once;

/// An entry whose frame is dom0's own: freed when dom0 is.
pub(crate) const OWNED: u64 = 1 << 9;
/// Root entries below this are dom0's own memory, above are windows.
const FIRST_WINDOW: usize = index(boot::WINDOW, 4);

/// Pages that heap and stack may grow to.
const HEAP_PAGES: u64 = boot::HEAP_BYTES / PAGE_SIZE;
const STACK_PAGES: u64 = boot::STACK_BYTES / PAGE_SIZE;
/// Chunks for both.
const CHUNKS: usize = chunks_for((HEAP_PAGES + STACK_PAGES) * PAGE_SIZE);
/// Of the memory that there is, at most one part in as many is set aside.
const SET_ASIDE_SHARE: u64 = 4;

/// What heap and stack grow into.
static SET_ASIDE: Mutex<SetAside<CHUNKS>> = Mutex::new(SetAside::new());
static ROOT: Once<Table> = Once::new();
static OWNED_PAGES: AtomicU64 = AtomicU64::new(0);

/// Makes the root, with the upper half of every other, and loads it.
pub(crate) fn init() -> Option<()> {
    let root = Table::new(4)?;
    for slot in 256..512 {
        // SAFETY: the half that every root has, for ring 0 alone.
        unsafe { root.set(slot, Table::ROOT.get(slot)) };
    }
    ROOT.call_once(|| root);
    flush();
    let most = chunks_for(memory::usable_bytes() / SET_ASIDE_SHARE);
    let mut frames = memory::FRAMES.lock();
    let bytes = SET_ASIDE.lock().promise(frames.as_mut()?, most);
    drop(frames);
    if bytes < boot::HEAP_BYTES + boot::STACK_BYTES {
        let (there, wanted) = (bytes >> 20, boot::HEAP_BYTES >> 20);
        log::warn!("{there} of {wanted} MiB are set aside for dom0; guests may leave it no more");
    }
    Some(())
}

/// dom0's root; before there is one, ring 0's.
fn root() -> Table {
    ROOT.get().copied().unwrap_or(Table::ROOT)
}

/// Bytes of memory dom0 uses.
pub(crate) fn owned_bytes() -> u64 {
    OWNED_PAGES.load(Ordering::Relaxed) * PAGE_SIZE + SET_ASIDE.lock().used_bytes()
}

/// Bytes of memory that are dom0's and that it does not use yet.
pub(crate) fn unused_bytes() -> u64 {
    SET_ASIDE.lock().unused_bytes()
}

/// The tables that heap and stack will need, so that growing takes nothing else.
pub(crate) fn make_tables() -> Option<()> {
    let heap = (boot::HEAP..boot::HEAP + boot::HEAP_BYTES).step_by(to_usize(LARGE_PAGE_SIZE));
    for address in heap.chain([boot::STACK_TOP - boot::STACK_BYTES, boot::STACK_TOP - 1]) {
        leaf_table(address)?;
    }
    Some(())
}

/// The last table on the way to an address of dom0's.
fn leaf_table(address: u64) -> Option<Table> {
    let mut table = root();
    for level in (2..=4).rev() {
        table = table.descend(index(address, level), PRESENT | WRITABLE | USER)?;
    }
    Some(table)
}

/// The number of a page of heap or stack, of all that are set aside.
fn growing_page(address: u64) -> Option<usize> {
    let stack = address.checked_sub(boot::STACK_TOP - boot::STACK_BYTES).map(|offset| offset / PAGE_SIZE);
    let heap = address.checked_sub(boot::HEAP).map(|offset| offset / PAGE_SIZE);
    let stack = stack.filter(|page| *page < STACK_PAGES).map(|page| HEAP_PAGES + page);
    stack.or_else(|| heap.filter(|page| *page < HEAP_PAGES)).map(to_usize)
}

/// Loads the root, which also drops stale translations.
pub(crate) fn flush() {
    let root = root().address().0;
    // SAFETY: the root has the same upper half as every other.
    unsafe { core::arch::asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}

/// Shows or hides a guest's memory: the guest's own directory pointers under an
/// entry of dom0's root, not executable.
pub(crate) fn map_window(slot: DomainSlot, guest: Option<&Nested>) {
    let entry = guest.map_or(0, |it| it.pointers().address().0 | PRESENT | WRITABLE | USER | NO_EXECUTE);
    // SAFETY: dom0 may have the memory of every guest.
    unsafe { root().set(FIRST_WINDOW + slot.index(), entry) };
    flush();
}

/// Maps one page for ring 3.
///
/// # Safety
/// dom0 may have the frame: it was taken for it, is a device's, or is of the image and not
/// written. An owned frame is freed with dom0.
pub(crate) unsafe fn map(address: u64, frame: Hpa, flags: u64) -> Option<()> {
    let table = leaf_table(address)?;
    if flags & OWNED != 0 {
        OWNED_PAGES.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: as the caller says.
    unsafe { table.set(index(address, 1), frame.0 | flags | PRESENT | USER) };
    Some(())
}

/// Maps one page of the program: straight from the image when it is not written.
pub(crate) fn map_segment(address: u64, bytes: &[u8], writable: bool, executable: bool) -> Option<()> {
    let execute = if executable { 0 } else { NO_EXECUTE };
    let source = bytes.as_ptr() as u64;
    if !writable && bytes.len() == 4096 && source.is_multiple_of(PAGE_SIZE) {
        let frame = Hpa(source.checked_sub(memory::DIRECT_MAP)?);
        // SAFETY: a whole page of the image, which is never written.
        return unsafe { map(address, frame, execute) };
    }
    let frame = memory::take_frame()?;
    // SAFETY: the frame was just taken.
    let _ = unsafe { memory::write(frame, bytes) };
    // SAFETY: it was taken for dom0.
    unsafe { map(address, frame, execute | OWNED | if writable { WRITABLE } else { 0 }) }
}

/// Backs heap and stack, which grow by being touched.
pub(crate) fn touch(address: u64) -> bool {
    let Some(page) = growing_page(address) else { return false };
    lookup(address, true).is_none() && grow(address & !(PAGE_SIZE - 1), page).is_some()
}

/// The domain's slot and the guest-physical address that an address within a window is.
pub(crate) fn in_window(address: u64) -> Option<(DomainSlot, Gpa)> {
    let offset = address.checked_sub(boot::WINDOW)?;
    let slot = DomainSlot::new(to_usize(offset / boot::WINDOW_BYTES))?;
    Some((slot, Gpa(offset % boot::WINDOW_BYTES)))
}

/// Backs a page of heap or stack: out of what is set aside, or else of any memory.
fn grow(address: u64, page: usize) -> Option<()> {
    let set_aside = memory::FRAMES.lock().as_mut().and_then(|frames| SET_ASIDE.lock().page(frames, page));
    if let Some(frame) = set_aside.map(Hpa) {
        // SAFETY: the frame is set aside for this page alone, where nothing is yet.
        unsafe { memory::clear(frame, PAGE_SIZE) };
        // SAFETY: the same.
        return unsafe { map(address, frame, WRITABLE | NO_EXECUTE) };
    }
    let frame = memory::take_frame()?;
    // SAFETY: it was taken for dom0.
    unsafe { map(address, frame, WRITABLE | NO_EXECUTE | OWNED) }
}

/// Physical address behind an address of dom0's, if it is mapped for ring 3.
fn lookup(address: u64, write: bool) -> Option<Hpa> {
    if address >> 47 != 0 {
        return None;
    }
    let wanted = PRESENT | USER | if write { WRITABLE } else { 0 };
    let mut table = root();
    loop {
        let slot = index(address, table.level());
        let entry = table.get(slot);
        if entry & wanted != wanted {
            return None;
        }
        if table.level() == 1 {
            return Some(Hpa(entry & ADDRESS | address & 0xfff));
        }
        // Only guests' windows have large pages: no system call needs them.
        table = table.below(slot)?;
    }
}

fn each_page(
    address: u64,
    length: usize,
    write: bool,
    mut part: impl FnMut(Hpa, usize, usize) -> bool,
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
        // SAFETY: dom0's tables give it the memory, and let it write there.
        source.get(offset..offset + count).is_some_and(|part| unsafe { memory::write(physical, part) })
    })
}

/// Frees everything dom0 owned, and its tables.
pub(crate) fn free_lower_half() {
    let root = root();
    for slot in 0..FIRST_WINDOW {
        if let Some(table) = root.below(slot) {
            free_table(table);
            // SAFETY: dom0 does not run, and is not entered before this is flushed.
            unsafe { root.set(slot, 0) };
        }
    }
    SET_ASIDE.lock().start_again();
    flush();
}

fn free_table(table: Table) {
    for slot in 0..512 {
        if let Some(below) = table.below(slot) {
            free_table(below);
            continue;
        }
        let entry = table.get(slot);
        if table.level() == 1 && entry & PRESENT != 0 && entry & OWNED != 0 {
            OWNED_PAGES.fetch_sub(1, Ordering::Relaxed);
            // SAFETY: dom0, whose alone it was, does not run any more.
            unsafe { memory::free_frame(Hpa(entry & ADDRESS)) };
        }
    }
    // SAFETY: all of dom0's tables are of `Table::new`, and dom0 does not run any more.
    unsafe { table.free() };
}
