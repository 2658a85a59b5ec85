//! A guest's memory: nested page tables, filled as the guest touches RAM, 2 MiB at
//! a time; 1 GiB that has all been touched becomes one page where it can.
//!
//! The tables have one directory-pointer table for the guest's 512 GiB. dom0's
//! window onto the guest is that same table under an entry of dom0's own root,
//! so the window costs nothing and shares accessed and dirty bits.

use crate::memory::{self, FRAMES, Table};
use hv_abi::domain::{HIGH_MEMORY_START, LOW_MEMORY_END};
use hv_core::frames::Frames;
use hv_core::guest_page::GuestPhysical;
use hv_x86::page::{ADDRESS, LARGE, PRESENT, USER, WRITABLE, index};
use hv_x86::{Gpa, HUGE_PAGE_SIZE, Hpa, LARGE_PAGE_SIZE, to_usize};

const FLAGS: u64 = PRESENT | WRITABLE | USER;

/// Why a guest address has no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The address is not RAM.
    NotRam,
    /// A table could not be allocated.
    NoMemory,
}

/// The nested tables of one domain, with its promised memory.
pub(crate) struct Nested {
    root: Table,
    pointers: Table,
    memory_bytes: u64,
    /// Chunks promised and not yet taken.
    reserved: usize,
    populated: u64,
    /// Whether a page of 1 GiB was made: logged once.
    promoted: bool,
}

impl Nested {
    /// Reserves `memory_bytes`, a multiple of 2 MiB.
    pub(crate) fn new(memory_bytes: u64) -> Option<Self> {
        let chunks = to_usize(memory_bytes / LARGE_PAGE_SIZE);
        if !FRAMES.lock().as_mut()?.reserve(chunks) {
            return None;
        }
        let tables = Table::new(4).and_then(|root| Some((root, Table::new(3)?)));
        let Some((root, pointers)) = tables else {
            FRAMES.lock().as_mut()?.unreserve(chunks);
            return None;
        };
        // SAFETY: an empty table of the guest's own.
        unsafe { root.set(0, pointers.address().0 | FLAGS) };
        Some(Self { root, pointers, memory_bytes, reserved: chunks, populated: 0, promoted: false })
    }

    /// Reserves more, so that there are `memory_bytes`, a multiple of 2 MiB; false when
    /// there is no memory, or less was asked for.
    pub(crate) fn grow(&mut self, memory_bytes: u64) -> bool {
        let Some(more) = memory_bytes.checked_sub(self.memory_bytes) else { return false };
        let chunks = to_usize(more / LARGE_PAGE_SIZE);
        let grown = FRAMES.lock().as_mut().is_some_and(|frames| frames.reserve(chunks));
        if grown {
            self.memory_bytes = memory_bytes;
            self.reserved += chunks;
        }
        grown
    }

    /// For the control block.
    pub(crate) const fn root(&self) -> Table {
        self.root
    }

    /// For dom0's window.
    pub(crate) const fn pointers(&self) -> Table {
        self.pointers
    }

    /// RAM in bytes.
    pub(crate) const fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// RAM that was touched, in bytes.
    pub(crate) const fn populated_bytes(&self) -> u64 {
        self.populated
    }

    /// Whether an address is the guest's RAM.
    pub(crate) const fn is_ram(&self, gpa: Gpa) -> bool {
        let gpa = gpa.0;
        let low = if self.memory_bytes < LOW_MEMORY_END { self.memory_bytes } else { LOW_MEMORY_END };
        gpa < low || (gpa >= HIGH_MEMORY_START && gpa - HIGH_MEMORY_START < self.memory_bytes - low)
    }

    /// The host address behind a guest address that was touched before.
    fn translate(&self, gpa: Gpa) -> Option<Hpa> {
        if gpa.0 >= 512 * HUGE_PAGE_SIZE {
            return None;
        }
        let (entry, size) = match self.pointers.below(index(gpa.0, 3)) {
            Some(directory) => (directory.get(index(gpa.0, 2)), LARGE_PAGE_SIZE),
            None => (self.pointers.get(index(gpa.0, 3)), HUGE_PAGE_SIZE),
        };
        (entry & PRESENT != 0).then_some(Hpa((entry & ADDRESS & !(size - 1)) | gpa.offset_in(size)))
    }

    /// Whether a host address is this guest's.
    pub(crate) fn holds(&self, host: Hpa) -> bool {
        let within = |entry: u64, size: u64| {
            entry != 0 && host.align_down(size) == Hpa(entry & ADDRESS).align_down(size)
        };
        (0..512).any(|slot| match self.pointers.below(slot) {
            Some(directory) => (0..512).any(|entry| within(directory.get(entry), LARGE_PAGE_SIZE)),
            None => within(self.pointers.get(slot), HUGE_PAGE_SIZE),
        })
    }

    /// Backs the chunk around `gpa` with zeroed memory.
    pub(crate) fn populate(&mut self, gpa: Gpa) -> Result<(), Missing> {
        if !self.is_ram(gpa) {
            return Err(Missing::NotRam);
        }
        if self.translate(gpa).is_some() {
            return Ok(());
        }
        let directory = self.directory(gpa).ok_or(Missing::NoMemory)?;
        let entry = directory.get(index(gpa.0, 2));
        let chunk = if entry == 0 {
            self.reserved = self.reserved.saturating_sub(1);
            FRAMES.lock().as_mut().and_then(Frames::take_reserved_chunk).map(Hpa).ok_or(Missing::NoMemory)?
        } else {
            Hpa(entry & ADDRESS)
        };
        self.populated += LARGE_PAGE_SIZE;
        // SAFETY: the chunk was taken for this guest, which has not reached it yet.
        unsafe { memory::clear(chunk, LARGE_PAGE_SIZE) };
        // SAFETY: the same.
        unsafe { directory.set(index(gpa.0, 2), chunk.0 | FLAGS | LARGE) };
        self.promote(gpa, directory);
        Ok(())
    }

    /// The directory for `gpa`. A new one whose 1 GiB is all RAM is given 1 GiB in
    /// a row where there is one: its entries then name their chunks before they
    /// are touched, and are not present until then.
    fn directory(&mut self, gpa: Gpa) -> Option<Table> {
        let slot = index(gpa.0, 3);
        if let Some(directory) = self.pointers.below(slot) {
            return Some(directory);
        }
        let directory = Table::new(2)?;
        let start = gpa.align_down(HUGE_PAGE_SIZE);
        if memory::has_huge_pages()
            && self.is_ram(start)
            && self.is_ram(start.after(HUGE_PAGE_SIZE - 1))
            && let Some(mut chunk) = FRAMES.lock().as_mut().and_then(Frames::take_reserved_huge)
        {
            self.reserved = self.reserved.saturating_sub(512);
            for entry in 0..512 {
                // SAFETY: not present: it names the chunk, which was taken for this guest.
                unsafe { directory.set(entry, chunk) };
                chunk += LARGE_PAGE_SIZE;
            }
        }
        // SAFETY: a table of the guest's own.
        unsafe { self.pointers.set(slot, directory.address().0 | FLAGS) };
        Some(directory)
    }

    /// Maps 1 GiB as one page once all of it has been touched and lies in a row.
    /// Both ways of mapping it say the same, so nothing is flushed; the directory
    /// stays as it is, for processors that still walk it, and is kept by the root,
    /// of which only the first entry is in use.
    fn promote(&mut self, gpa: Gpa, directory: Table) {
        let slot = index(gpa.0, 3);
        let first = directory.get(0) & ADDRESS;
        let in_a_row = (0..512).all(|entry| {
            let found = directory.get(entry);
            found & PRESENT != 0 && found & ADDRESS == first + entry as u64 * LARGE_PAGE_SIZE
        });
        if memory::has_huge_pages() && slot < 511 && in_a_row && first.is_multiple_of(HUGE_PAGE_SIZE) {
            // SAFETY: not present: it only keeps the directory.
            unsafe { self.root.set(slot + 1, directory.address().0) };
            // SAFETY: the guest's own memory, where it was.
            unsafe { self.pointers.set(slot, first | FLAGS | LARGE) };
            if !core::mem::replace(&mut self.promoted, true) {
                log::info!(
                    "a guest's memory is mapped by pages of 1 GiB from {:#x}",
                    gpa.align_down(HUGE_PAGE_SIZE)
                );
            }
        }
    }

    /// Writes guest memory, page by page, backing it where needed.
    pub(crate) fn write(&mut self, gpa: Gpa, source: &[u8]) -> bool {
        for (offset, byte) in source.iter().enumerate() {
            let at = gpa.after(offset as u64);
            if self.populate(at).is_err() {
                return false;
            }
            let Some(host) = self.translate(at) else { return false };
            // SAFETY: the guest's tables give it the memory.
            if !unsafe { memory::write(host, core::slice::from_ref(byte)) } {
                return false;
            }
        }
        true
    }
}

impl GuestPhysical for Nested {
    fn read(&self, gpa: Gpa, target: &mut [u8]) -> bool {
        // Instruction bytes and page-table entries: never across a chunk, except
        // an instruction, which the caller already cuts at pages.
        match self.translate(gpa) {
            Some(host) => memory::read(host, target),
            None => false,
        }
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        for slot in 0..512 {
            let pointer = self.pointers.get(slot);
            if pointer & PRESENT == 0 {
                continue;
            }
            let directory = if pointer & LARGE != 0 { self.root.get(slot + 1) } else { pointer };
            // SAFETY: the directory of these entries, where `promote` kept it if it did.
            let table = unsafe { Table::at(Hpa(directory & ADDRESS), 2) };
            for entry in 0..512 {
                let chunk = table.get(entry) & ADDRESS;
                if chunk != 0
                    && let Some(frames) = FRAMES.lock().as_mut()
                {
                    frames.free_chunk(chunk);
                }
            }
            // SAFETY: of `Table::new`; the guest is gone.
            unsafe { table.free() };
        }
        // SAFETY: the same.
        unsafe { self.pointers.free() };
        // SAFETY: the same.
        unsafe { self.root.free() };
        if let Some(frames) = FRAMES.lock().as_mut() {
            frames.unreserve(self.reserved);
        }
    }
}
