//! Physical memory: the direct map, the frame allocator, page tables.

use crate::watch::Mutex;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use heapless::Vec;
use hv_core::boot_params::{BootParams, E820_USABLE};
use hv_core::frames::{Frames, bitmap_words, chunks_for};
use hv_core::kept::AREA_BYTES;
use hv_x86::page::{ADDRESS, LARGE, NO_EXECUTE, PRESENT, WRITABLE, index};
use hv_x86::{HUGE_PAGE_SIZE, LARGE_PAGE_SIZE, PAGE_SIZE, to_usize};
use spin::Once;

/// Where all physical memory appears.
pub(crate) const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Where the stub put the first page tables; see `boot/stub.s`.
pub(crate) const BOOT_TABLES: u64 = 0xff_0000;
/// What outlives a reset: below the first page tables, above where an image may reach.
pub(crate) const KEPT: u64 = BOOT_TABLES - (AREA_BYTES as u64).next_multiple_of(PAGE_SIZE);
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
pub(crate) const fn direct(address: u64) -> u64 {
    DIRECT_MAP + address
}

/// Whether all of `start..end` is memory that the firmware reported usable.
pub(crate) fn is_ram(start: u64, end: u64) -> bool {
    ranges().iter().any(|range| start >= range.0 && end <= range.1)
}

/// Whether any of `start..end` is usable memory.
pub(crate) fn touches_ram(start: u64, end: u64) -> bool {
    ranges().iter().any(|range| start < range.1 && end > range.0)
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
pub(crate) fn physical(address: u64) -> Option<u64> {
    let mut table = Table(BOOT_TABLES);
    for level in (1..=4).rev() {
        let entry = table.get(index(address, level));
        if entry & PRESENT == 0 {
            return None;
        }
        if level == 1 || entry & LARGE != 0 {
            let mask = (1 << (12 + 9 * (u32::from(level) - 1))) - 1;
            return Some(entry & ADDRESS & !mask | address & mask);
        }
        table = Table(entry & ADDRESS);
    }
    None
}

/// Maps a stack with pages below and above that are not there; returns its top.
pub(crate) fn map_stack(bytes: u64) -> Option<u64> {
    let bottom = NEXT_STACK.fetch_add(bytes + PAGE_SIZE, Ordering::Relaxed) + PAGE_SIZE;
    let directory = Table(BOOT_TABLES + 0x7000);
    for offset in (0..bytes).step_by(4096) {
        let address = bottom + offset;
        let table = directory.descend(index(address, 2), PRESENT | WRITABLE)?;
        table.set(index(address, 1), take_frame()? | PRESENT | WRITABLE | NO_EXECUTE);
    }
    Some(bottom + bytes)
}

/// Takes away what the first page tables had beside ring 0's own places: low memory at its
/// physical addresses. Each CPU must forget it as well.
pub(crate) fn drop_identity() {
    Table(BOOT_TABLES).set(0, 0);
}

/// Copies from physical memory below the mapped limit.
pub(crate) fn read(address: u64, target: &mut [u8]) -> bool {
    let Some(end) = address.checked_add(target.len() as u64).filter(|end| *end <= MAX_MEMORY) else {
        return false;
    };
    if end > 1 << 32 && !is_ram(address, end) {
        return false;
    }
    let source = direct(address) as *const u8;
    // SAFETY: the direct map covers the first 4 GiB and all RAM; bytes are copied
    // out, so whoever else writes them can only garble the copy.
    unsafe { core::ptr::copy_nonoverlapping(source, target.as_mut_ptr(), target.len()) };
    true
}

/// Copies into physical memory that is RAM.
pub(crate) fn write(address: u64, source: &[u8]) -> bool {
    let Some(end) = address.checked_add(source.len() as u64) else { return false };
    if !is_ram(address, end) {
        return false;
    }
    let target = direct(address) as *mut u8;
    // SAFETY: the direct map covers all RAM; callers pass addresses taken from
    // guest or dom0 page tables, never memory of this program.
    unsafe { core::ptr::copy_nonoverlapping(source.as_ptr(), target, source.len()) };
    true
}

/// Fills physical memory with zeros.
pub(crate) fn clear(address: u64, length: u64) {
    // SAFETY: callers have just taken this memory from the allocator.
    unsafe { core::ptr::write_bytes(direct(address) as *mut u8, 0, to_usize(length)) };
}

/// Takes a zeroed frame.
pub(crate) fn take_frame() -> Option<u64> {
    take_contiguous(1)
}

/// Takes zeroed frames in a row.
pub(crate) fn take_contiguous(count: usize) -> Option<u64> {
    let address = FRAMES.lock().as_mut()?.take_contiguous(count)?;
    clear(address, count as u64 * PAGE_SIZE);
    Some(address)
}

/// Gives a frame back.
pub(crate) fn free_frame(address: u64) {
    if let Some(frames) = FRAMES.lock().as_mut() {
        frames.free_frame(address);
    }
}

/// A page table in a frame of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table(pub(crate) u64);

impl Table {
    /// A new, empty table.
    pub(crate) fn new() -> Option<Self> {
        take_frame().map(Self)
    }

    fn slot(self, index: usize) -> *mut u64 {
        (direct(self.0) as *mut u64).wrapping_add(index & 511)
    }

    /// The entry at an index.
    pub(crate) fn get(self, index: usize) -> u64 {
        // SAFETY: a table is a frame within the direct map, the index below 512.
        unsafe { self.slot(index).read_volatile() }
    }

    /// Changes an entry.
    pub(crate) fn set(self, index: usize, entry: u64) {
        // SAFETY: a table is a frame within the direct map, the index below 512.
        unsafe { self.slot(index).write_volatile(entry) };
    }

    /// The table below an entry, made if it is missing.
    pub(crate) fn descend(self, index: usize, flags: u64) -> Option<Self> {
        let entry = self.get(index);
        if entry & PRESENT != 0 {
            return (entry & LARGE == 0).then_some(Self(entry & ADDRESS));
        }
        let table = Self::new()?;
        self.set(index, table.0 | flags);
        Some(table)
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
    let free = early_slice::<u16>(&mut next, chunks);
    let bitmap = early_slice::<u64>(&mut next, bitmap_words(chunks));
    let mut frames = Frames::new(free, bitmap);
    // Below 1 MiB are firmware data and the trampoline; then comes the image,
    // what outlives a reset, the first page tables, this program and the tables just made.
    let kept = [0..0x10_0000, image, KEPT..next];
    for range in ranges() {
        add_except(&mut frames, range.0..range.1, &kept);
    }
    let in_use = usable - frames.available_bytes();
    *FRAMES.lock() = Some(frames);
    log::info!("{} MiB usable, {} KiB in use", usable >> 20, in_use >> 10);
    if unused >> 20 != 0 {
        let most = MAX_MEMORY >> 30;
        log::warn!("{} MiB stay unused, above {most} GiB or in more than {MAX_RANGES} pieces", unused >> 20);
    }
}

fn add_except(frames: &mut Frames<'_>, range: Range<u64>, kept: &[Range<u64>; 3]) {
    let mut start = range.start;
    for keep in kept {
        if keep.start > start && keep.start < range.end {
            frames.add(start, keep.start);
        }
        if keep.end > start && keep.start < range.end {
            start = keep.end;
        }
    }
    if start < range.end {
        frames.add(start, range.end);
    }
}

/// Zeroed memory behind this program, before there is an allocator.
fn early_slice<T: zerocopy::FromZeros>(next: &mut u64, length: usize) -> &'static mut [T] {
    let bytes = (length * size_of::<T>()) as u64;
    let address = direct(*next);
    *next = (*next + bytes).next_multiple_of(PAGE_SIZE);
    clear(address - DIRECT_MAP, bytes);
    // SAFETY: the memory lies behind this program and is given out once; zero is
    // a valid value of every `T: FromZeros`, and pages are aligned for it.
    unsafe { core::slice::from_raw_parts_mut(address as *mut T, length) }
}

/// Extends the direct map over RAM beyond the stub's 4 GiB, and drops execution
/// from it.
fn map_all(end: u64, next: &mut u64) {
    let pointers = Table(BOOT_TABLES + 0x1000);
    let root = Table(BOOT_TABLES);
    let huge = crate::raw::cpuid(0x8000_0001, 0).edx & hv_x86::cpuid::E1_EDX_HUGE_PAGES != 0;
    HUGE_PAGES.store(huge, Ordering::Relaxed);
    let mut address = 4 * HUGE_PAGE_SIZE;
    while address < end {
        let slot = to_usize(address / HUGE_PAGE_SIZE);
        if huge {
            pointers.set(slot, address | PRESENT | WRITABLE | LARGE);
        } else {
            let directory = Table(*next);
            clear(*next, PAGE_SIZE);
            *next += PAGE_SIZE;
            for entry in 0..512 {
                directory.set(entry, (address + entry as u64 * LARGE_PAGE_SIZE) | PRESENT | WRITABLE | LARGE);
            }
            pointers.set(slot, directory.0 | PRESENT | WRITABLE);
        }
        address += HUGE_PAGE_SIZE;
    }
    let slot = index(DIRECT_MAP, 4);
    root.set(slot, root.get(slot) | NO_EXECUTE);
}

/// Maps this program page by page: code cannot be written, data not executed.
pub(crate) fn protect_image() -> Option<()> {
    let directory = Table(BOOT_TABLES + 0x7000);
    let text = core::ptr::addr_of!(text_end) as u64 - IMAGE;
    let rodata = core::ptr::addr_of!(rodata_end) as u64 - IMAGE;
    let end = core::ptr::addr_of!(image_end) as u64 - IMAGE;
    let guard = core::ptr::addr_of!(boot_stack_guard) as u64 - IMAGE;
    for large in 0..8_u64 {
        let slot = to_usize(large);
        if large * LARGE_PAGE_SIZE >= end {
            directory.set(slot, 0);
            continue;
        }
        let table = Table::new()?;
        for page in 0..512_u64 {
            let offset = large * LARGE_PAGE_SIZE + page * PAGE_SIZE;
            let flags = match offset {
                _ if offset == guard => continue,
                _ if offset < text => PRESENT,
                _ if offset < rodata => PRESENT | NO_EXECUTE,
                _ if offset < end => PRESENT | WRITABLE | NO_EXECUTE,
                _ => continue,
            };
            table.set(to_usize(page), (PLACE + offset) | flags);
        }
        directory.set(slot, table.0 | PRESENT | WRITABLE);
    }
    x86_64::instructions::tlb::flush_all();
    Some(())
}

/// Reads firmware tables.
pub(crate) struct Firmware;

impl hv_core::acpi::Physical for Firmware {
    fn read(&self, address: u64, target: &mut [u8]) -> bool {
        read(address, target)
    }
}
