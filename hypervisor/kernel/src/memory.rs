//! Physical memory: the direct map, the frame allocator, page tables.

use crate::watch::Mutex;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use heapless::Vec;
use hv_core::boot_params::{BootParams, E820_USABLE};
use hv_core::frames::{Frames, bitmap_words, chunks_for};
use hv_core::persisted::AREA_BYTES;
use hv_x86::page::{ADDRESS, LARGE, NO_EXECUTE, PRESENT, WRITABLE, index};
use hv_x86::{HUGE_PAGE_SIZE, Hpa, LARGE_PAGE_SIZE, PAGE_SIZE, to_usize};
use spin::Once;

/// Where all physical memory appears.
pub(crate) const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Where the stub put the first page tables; see `boot/stub.s`.
pub(crate) const BOOT_TABLES: Hpa = Hpa(0xff_0000);
/// The persisted record: below the first page tables, above where an image may reach.
pub(crate) const PERSISTED: Hpa = Hpa(BOOT_TABLES.0 - (AREA_BYTES as u64).next_multiple_of(PAGE_SIZE));
/// Where the stub put this program.
pub(crate) const PLACE: u64 = 0x100_0000;
/// Where this program runs.
const IMAGE: u64 = 0xffff_ffff_8000_0000;
/// From where on stacks are mapped: behind all that this program may grow to.
static NEXT_STACK: AtomicU64 = AtomicU64::new(IMAGE + (32 << 20));
/// Most memory in use: one directory pointer's worth.
const MAX_MEMORY: u64 = 512 << 30;
/// Most ranges of usable memory.
const MAX_RANGES: usize = 32;

/// The allocator, once memory is known.
pub(crate) static FRAMES: Mutex<Option<Frames<'static>>> = Mutex::new(None);
static RANGES: Once<Vec<(u64, u64), MAX_RANGES>> = Once::new();
static USABLE: AtomicU64 = AtomicU64::new(0);
static HUGE_PAGES: AtomicBool = AtomicBool::new(false);

unsafe extern "C" {
    static image_end: u8;
    static text_end: u8;
    static rodata_end: u8;
    static boot_stack_guard: u8;
}

/// Virtual address of a physical one.
pub(crate) const fn direct(address: Hpa) -> u64 {
    DIRECT_MAP + address.0
}

/// Whether all of `start..end` is memory that the firmware reported usable.
pub(crate) fn is_ram(start: Hpa, end: Hpa) -> bool {
    ranges().iter().any(|range| start.0 >= range.0 && end.0 <= range.1)
}

/// Whether any of `start..end` is usable memory.
pub(crate) fn touches_ram(start: Hpa, end: Hpa) -> bool {
    ranges().iter().any(|range| start.0 < range.1 && end.0 > range.0)
}

fn ranges() -> &'static [(u64, u64)] {
    RANGES.get().map_or(&[], Vec::as_slice)
}

/// Whether pages may have 1 GiB.
pub(crate) fn has_huge_pages() -> bool {
    HUGE_PAGES.load(Ordering::Relaxed)
}

/// Bytes of usable memory.
pub(crate) fn usable_bytes() -> u64 {
    USABLE.load(Ordering::Relaxed)
}

/// Bytes neither used nor promised.
pub(crate) fn available_bytes() -> u64 {
    FRAMES.lock().as_ref().map_or(0, Frames::available_bytes)
}

/// The physical address behind one of ring 0's own.
pub(crate) fn physical(address: u64) -> Option<Hpa> {
    let mut table = Table::ROOT;
    for level in (1..=4).rev() {
        let slot = index(address, level);
        let Some(below) = table.below(slot) else {
            let entry = table.get(slot);
            let mask = (1 << (12 + 9 * (u32::from(level) - 1))) - 1;
            return (entry & PRESENT != 0).then_some(Hpa(entry & ADDRESS & !mask | address & mask));
        };
        table = below;
    }
    None
}

/// Maps a stack with pages below and above that are not there; returns its top.
pub(crate) fn map_stack(bytes: u64) -> Option<u64> {
    let bottom = NEXT_STACK.fetch_add(bytes + PAGE_SIZE, Ordering::Relaxed) + PAGE_SIZE;
    for offset in (0..bytes).step_by(4096) {
        let address = bottom + offset;
        let table = Table::IMAGE.descend(index(address, 2), PRESENT | WRITABLE)?;
        let entry = take_frame()?.0 | PRESENT | WRITABLE | NO_EXECUTE;
        // SAFETY: ring 0's own address that nothing has been at, and a frame just taken.
        unsafe { table.set(index(address, 1), entry) };
    }
    Some(bottom + bytes)
}

/// Takes away what the first page tables had beside ring 0's own places: low memory at its
/// physical addresses. Each CPU must forget it as well.
pub(crate) fn drop_identity() {
    // SAFETY: ring 0 uses the direct map; nothing of it lies at a physical address.
    unsafe { Table::ROOT.set(0, 0) };
}

/// Copies from physical memory below the mapped limit.
pub(crate) fn read(address: Hpa, target: &mut [u8]) -> bool {
    let end = address.checked_after(target.len() as u64).filter(|end| end.0 <= MAX_MEMORY);
    let Some(end) = end else { return false };
    if end.0 > 1 << 32 && !is_ram(address, end) {
        return false;
    }
    let source = direct(address) as *const u8;
    // SAFETY: the direct map covers the first 4 GiB and all RAM; bytes are copied
    // out, so other writers can only garble the copy.
    unsafe { core::ptr::copy_nonoverlapping(source, target.as_mut_ptr(), target.len()) };
    true
}

/// Copies into physical memory; false when it is not RAM.
///
/// # Safety
/// The memory is not this program's own: it is of frames that the caller has just taken, or
/// that page tables of dom0 or of a guest give to them.
pub(crate) unsafe fn write(address: Hpa, source: &[u8]) -> bool {
    let end = address.checked_after(source.len() as u64).filter(|end| is_ram(address, *end));
    if end.is_none() {
        return false;
    }
    let target = direct(address) as *mut u8;
    // SAFETY: the direct map covers all RAM; the caller vouches for whose it is.
    unsafe { core::ptr::copy_nonoverlapping(source.as_ptr(), target, source.len()) };
    true
}

/// Fills physical memory with zeros.
///
/// # Safety
/// The memory is RAM, and nothing of this program is there: it was just taken from the
/// allocator, or is given back to dom0.
pub(crate) unsafe fn clear(address: Hpa, length: u64) {
    // SAFETY: the direct map covers all RAM; the caller vouches for whose it is.
    unsafe { core::ptr::write_bytes(direct(address) as *mut u8, 0, to_usize(length)) };
}

/// Takes a zeroed frame.
pub(crate) fn take_frame() -> Option<Hpa> {
    take_contiguous(1)
}

/// Takes zeroed frames in a row.
pub(crate) fn take_contiguous(count: usize) -> Option<Hpa> {
    let address = FRAMES.lock().as_mut()?.take_contiguous(count).map(Hpa)?;
    // SAFETY: the allocator gives out RAM that nothing else has.
    unsafe { clear(address, count as u64 * PAGE_SIZE) };
    Some(address)
}

/// Gives a frame back.
///
/// # Safety
/// It was taken by [`take_frame`], and nothing uses it any more.
pub(crate) unsafe fn free_frame(address: Hpa) {
    if let Some(frames) = FRAMES.lock().as_mut() {
        frames.free_frame(address.0);
    }
}

/// A page table in a frame of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    address: Hpa,
    /// 1 for a table whose entries are pages, 4 for a root.
    level: u8,
}

impl Table {
    /// Ring 0's own root.
    pub(crate) const ROOT: Self = Self { address: BOOT_TABLES, level: 4 };
    /// The directory pointers of the direct map.
    const DIRECT: Self = Self { address: BOOT_TABLES.after(0x1000), level: 3 };
    /// The directory of this program and its stacks.
    const IMAGE: Self = Self { address: BOOT_TABLES.after(0x7000), level: 2 };

    /// A new, empty table.
    pub(crate) fn new(level: u8) -> Option<Self> {
        take_frame().map(|address| Self { address, level })
    }

    /// The table in a frame.
    ///
    /// # Safety
    /// There is a table of this level, from [`Table::new`].
    pub(crate) const unsafe fn at(address: Hpa, level: u8) -> Self {
        Self { address, level }
    }

    /// Where it is.
    pub(crate) const fn address(self) -> Hpa {
        self.address
    }

    /// 1 for a table whose entries are pages, 4 for a root.
    pub(crate) const fn level(self) -> u8 {
        self.level
    }

    fn slot(self, index: usize) -> *mut u64 {
        (direct(self.address) as *mut u64).wrapping_add(index & 511)
    }

    /// The entry at an index.
    pub(crate) fn get(self, index: usize) -> u64 {
        // SAFETY: a table is a frame within the direct map, the index below 512.
        unsafe { self.slot(index).read_volatile() }
    }

    /// Changes an entry.
    ///
    /// # Safety
    /// What the entry leads to is for whom these tables are: a table of theirs one level
    /// lower, or memory that they may have, and what it led to is not used by it any more.
    pub(crate) unsafe fn set(self, index: usize, entry: u64) {
        // SAFETY: a table is a frame within the direct map, the index below 512.
        unsafe { self.slot(index).write_volatile(entry) };
    }

    /// The table below an entry.
    pub(crate) fn below(self, index: usize) -> Option<Self> {
        let entry = self.get(index);
        let is_table = self.level > 1 && entry & PRESENT != 0 && entry & LARGE == 0;
        is_table.then_some(Self { address: Hpa(entry & ADDRESS), level: self.level - 1 })
    }

    /// The same, made if it is missing.
    pub(crate) fn descend(self, index: usize, flags: u64) -> Option<Self> {
        if self.level == 1 || self.get(index) & PRESENT != 0 {
            return self.below(index);
        }
        let table = Self::new(self.level - 1)?;
        // SAFETY: an empty table leads nowhere.
        unsafe { self.set(index, table.address.0 | flags) };
        Some(table)
    }

    /// Gives its frame back.
    ///
    /// # Safety
    /// It is of [`Table::new`], and no processor walks it any more.
    pub(crate) unsafe fn free(self) {
        // SAFETY: as the caller says.
        unsafe { free_frame(self.address) };
    }
}

/// Finds memory, completes the direct map and starts the allocator. `image` is
/// where the payload is; it stays untouched.
pub(crate) fn init(params: &BootParams<'_>, image: Range<u64>) {
    let mut list = Vec::new();
    let (mut usable, mut unused) = (0, 0);
    for entry in params.memory_map().filter(|entry| entry.kind == E820_USABLE) {
        let (start, end) =
            (entry.start.next_multiple_of(PAGE_SIZE), entry.end.min(MAX_MEMORY) & !(PAGE_SIZE - 1));
        if start < end && list.push((start, end)).is_ok() {
            usable += end - start;
            unused += entry.end.saturating_sub(end.max(start)) & !(PAGE_SIZE - 1);
        } else {
            unused += entry.end.saturating_sub(start);
        }
    }
    RANGES.call_once(|| list);
    USABLE.store(usable, Ordering::Relaxed);

    let own_end = PLACE + (core::ptr::addr_of!(image_end) as u64 - IMAGE);
    let end = ranges().iter().map(|range| range.1).max().unwrap_or(0);
    let mut next = own_end.max(image.end).next_multiple_of(PAGE_SIZE);
    map_all(end, &mut next);
    let chunks = chunks_for(end);
    // SAFETY: memory behind this program and its tables, which nothing else has.
    let free = unsafe { early_slice::<u16>(&mut next, chunks) };
    // SAFETY: the same.
    let bitmap = unsafe { early_slice::<u64>(&mut next, bitmap_words(chunks)) };
    let mut frames = Frames::new(free, bitmap);
    // Below 1 MiB are firmware data and the trampoline; then comes the image,
    // the persisted record, the first page tables, this program and the tables just made.
    let reserved = [0..0x10_0000, image, PERSISTED.0..next];
    for range in ranges() {
        add_except(&mut frames, range.0..range.1, &reserved);
    }
    let in_use = usable - frames.available_bytes();
    *FRAMES.lock() = Some(frames);
    log::info!("{} MiB usable, {} KiB in use", usable >> 20, in_use >> 10);
    if unused >> 20 != 0 {
        let most = MAX_MEMORY >> 30;
        log::warn!("{} MiB stay unused, above {most} GiB or in more than {MAX_RANGES} pieces", unused >> 20);
    }
}

fn add_except(frames: &mut Frames<'_>, range: Range<u64>, reserved: &[Range<u64>; 3]) {
    let mut start = range.start;
    for hole in reserved {
        if hole.start > start && hole.start < range.end {
            frames.add(start, hole.start);
        }
        if hole.end > start && hole.start < range.end {
            start = hole.end;
        }
    }
    if start < range.end {
        frames.add(start, range.end);
    }
}

/// Zeroed memory behind this program, before there is an allocator.
///
/// # Safety
/// From `next` on there is RAM that nothing else has.
unsafe fn early_slice<T: zerocopy::FromZeros>(next: &mut u64, length: usize) -> &'static mut [T] {
    let bytes = (length * size_of::<T>()) as u64;
    let address = Hpa(*next);
    *next = (*next + bytes).next_multiple_of(PAGE_SIZE);
    // SAFETY: as the caller says.
    unsafe { clear(address, bytes) };
    // SAFETY: the memory is given out once; zero is a valid value of every `T: FromZeros`,
    // and pages are aligned for it.
    unsafe { core::slice::from_raw_parts_mut(direct(address) as *mut T, length) }
}

/// Extends the direct map over RAM beyond the stub's 4 GiB, and drops execution
/// from it.
fn map_all(end: u64, next: &mut u64) {
    let huge = crate::raw::cpuid(0x8000_0001, 0).edx & hv_x86::cpuid::E1_EDX_HUGE_PAGES != 0;
    HUGE_PAGES.store(huge, Ordering::Relaxed);
    let mut address = 4 * HUGE_PAGE_SIZE;
    while address < end {
        let entry = if huge {
            address | PRESENT | WRITABLE | LARGE
        } else {
            let directory = Table { address: Hpa(*next), level: 2 };
            // SAFETY: memory behind this program, which nothing else has.
            unsafe { clear(directory.address, PAGE_SIZE) };
            *next += PAGE_SIZE;
            for slot in 0..512 {
                let page = address + slot as u64 * LARGE_PAGE_SIZE;
                // SAFETY: the direct map shows physical memory to ring 0 alone.
                unsafe { directory.set(slot, page | PRESENT | WRITABLE | LARGE) };
            }
            directory.address.0 | PRESENT | WRITABLE
        };
        // SAFETY: the direct map shows physical memory to ring 0 alone.
        unsafe { Table::DIRECT.set(to_usize(address / HUGE_PAGE_SIZE), entry) };
        address += HUGE_PAGE_SIZE;
    }
    let slot = index(DIRECT_MAP, 4);
    // SAFETY: it leads where it did; code does not run there.
    unsafe { Table::ROOT.set(slot, Table::ROOT.get(slot) | NO_EXECUTE) };
}

/// Maps this program page by page: code cannot be written, data not executed.
pub(crate) fn protect_image() -> Option<()> {
    let text = core::ptr::addr_of!(text_end) as u64 - IMAGE;
    let rodata = core::ptr::addr_of!(rodata_end) as u64 - IMAGE;
    let end = core::ptr::addr_of!(image_end) as u64 - IMAGE;
    let guard = core::ptr::addr_of!(boot_stack_guard) as u64 - IMAGE;
    for large in 0..8_u64 {
        let slot = to_usize(large);
        if large * LARGE_PAGE_SIZE >= end {
            // SAFETY: nothing of this program lies behind its end.
            unsafe { Table::IMAGE.set(slot, 0) };
            continue;
        }
        let table = Table::new(1)?;
        for page in 0..512_u64 {
            let offset = large * LARGE_PAGE_SIZE + page * PAGE_SIZE;
            let flags = match offset {
                _ if offset == guard => continue,
                _ if offset < text => PRESENT,
                _ if offset < rodata => PRESENT | NO_EXECUTE,
                _ if offset < end => PRESENT | WRITABLE | NO_EXECUTE,
                _ => continue,
            };
            // SAFETY: this program's own pages, where they were.
            unsafe { table.set(to_usize(page), (PLACE + offset) | flags) };
        }
        // SAFETY: the same pages as before, with fewer rights.
        unsafe { Table::IMAGE.set(slot, table.address.0 | PRESENT | WRITABLE) };
    }
    x86_64::instructions::tlb::flush_all();
    Some(())
}

/// Reads firmware tables.
pub(crate) struct Firmware;

impl hv_core::acpi::Physical for Firmware {
    fn read(&self, address: u64, target: &mut [u8]) -> bool {
        read(Hpa(address), target)
    }
}
