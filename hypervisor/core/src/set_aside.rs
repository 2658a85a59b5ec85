//! Memory that is one program's from the start, page by page as it touches it: what it
//! may need is promised before any guest is, and stays its own when it starts again.

use crate::frames::Frames;
use hv_x86::{LARGE_PAGE_SIZE, PAGE_SIZE, to_usize};

/// Pages in a chunk.
const CHUNK_PAGES: usize = to_usize(LARGE_PAGE_SIZE / PAGE_SIZE);

/// `CHUNKS` chunks of 2 MiB: promised, or taken and the program's for good.
#[derive(Debug)]
pub struct SetAside<const CHUNKS: usize> {
    /// Physical addresses.
    chunks: [Option<u64>; CHUNKS],
    /// Chunks that the allocator holds for it.
    promised: usize,
    /// Chunks that were taken.
    taken: usize,
    /// Pages in use since the program started.
    pages: usize,
}

impl<const CHUNKS: usize> SetAside<CHUNKS> {
    /// Nothing is set aside yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { chunks: [None; CHUNKS], promised: 0, taken: 0, pages: 0 }
    }

    /// Has the allocator promise all of it, or as many chunks as `most` and the allocator
    /// allow; bytes that are set aside now.
    pub fn promise(&mut self, frames: &mut Frames<'_>, most: usize) -> u64 {
        while self.promised < most.min(CHUNKS - self.taken) && frames.reserve(1) {
            self.promised += 1;
        }
        (self.promised + self.taken) as u64 * LARGE_PAGE_SIZE
    }

    /// The physical address behind a page of the program's, that it touches for the first
    /// time since it started. What was not promised is taken if there is any.
    pub fn page(&mut self, frames: &mut Frames<'_>, page: usize) -> Option<u64> {
        let chunk = self.chunks.get_mut(page / CHUNK_PAGES)?;
        let address = match *chunk {
            Some(address) => address,
            None => {
                if self.promised > 0 {
                    self.promised -= 1;
                } else if !frames.reserve(1) {
                    return None;
                }
                let address = frames.take_reserved_chunk()?;
                self.taken += 1;
                *chunk.insert(address)
            }
        };
        self.pages += 1;
        Some(address + (page % CHUNK_PAGES) as u64 * PAGE_SIZE)
    }

    /// The program starts again, and has touched nothing.
    pub const fn start_again(&mut self) {
        self.pages = 0;
    }

    /// Bytes in use.
    #[must_use]
    pub const fn used_bytes(&self) -> u64 {
        self.pages as u64 * PAGE_SIZE
    }

    /// Bytes that are set aside and not in use.
    #[must_use]
    pub const fn unused_bytes(&self) -> u64 {
        ((self.promised + self.taken) as u64 * LARGE_PAGE_SIZE).saturating_sub(self.used_bytes())
    }
}

impl<const CHUNKS: usize> Default for SetAside<CHUNKS> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::{CHUNK_PAGES, SetAside};
    use crate::frames::{Frames, bitmap_words, chunks_for};
    use hv_x86::{LARGE_PAGE_SIZE, PAGE_SIZE};
    use std::collections::BTreeSet;
    use std::vec;

    const ALL: usize = 5;
    const END: u64 = 20 * LARGE_PAGE_SIZE;

    /// Runs with an allocator over as many chunks.
    fn with(chunks: u64, test: impl FnOnce(&mut Frames<'_>)) {
        let mut free = vec![0; chunks_for(END)];
        let mut bitmap = vec![0; bitmap_words(chunks_for(END))];
        let mut frames = Frames::new(&mut free, &mut bitmap);
        frames.add(0, chunks * LARGE_PAGE_SIZE);
        test(&mut frames);
    }

    #[test]
    fn guests_that_take_all_there_is_leave_it() {
        with(20, |frames| {
            let mut own = SetAside::<ALL>::new();
            assert_eq!(own.promise(frames, ALL), 5 * LARGE_PAGE_SIZE);
            assert_eq!((own.used_bytes(), own.unused_bytes()), (0, 5 * LARGE_PAGE_SIZE));
            assert!(!frames.reserve(16));
            assert!(frames.reserve(14));
            let mut guests = BTreeSet::new();
            for _ in 0..14 {
                guests.insert(frames.take_reserved_chunk().unwrap());
            }
            // The last chunk, which no guest was promised, goes in frames.
            while let Some(frame) = frames.take_frame() {
                guests.insert(frame & !(LARGE_PAGE_SIZE - 1));
            }
            assert_eq!(guests.len(), 15);
            let mut pages = BTreeSet::new();
            for page in (0..ALL * CHUNK_PAGES).rev() {
                let address = own.page(frames, page).unwrap();
                assert_eq!(address % LARGE_PAGE_SIZE, (page % CHUNK_PAGES) as u64 * PAGE_SIZE);
                assert!(!guests.contains(&(address & !(LARGE_PAGE_SIZE - 1))));
                assert!(pages.insert(address));
            }
            assert_eq!((own.used_bytes(), own.unused_bytes()), (5 * LARGE_PAGE_SIZE, 0));
            assert_eq!(own.page(frames, ALL * CHUNK_PAGES), None, "beyond the end");
            assert_eq!(frames.available_bytes(), 0);
        });
    }

    #[test]
    fn the_next_start_gets_the_same_pages() {
        with(20, |frames| {
            let mut own = SetAside::<ALL>::new();
            own.promise(frames, ALL);
            let first = [0, 700, 2000].map(|page| own.page(frames, page).unwrap());
            let left = frames.available_bytes();
            own.start_again();
            assert_eq!((own.used_bytes(), own.unused_bytes()), (0, 5 * LARGE_PAGE_SIZE));
            assert_eq!([0, 700, 2000].map(|page| own.page(frames, page).unwrap()), first);
            assert_eq!((frames.available_bytes(), own.used_bytes()), (left, 3 * PAGE_SIZE));
            assert_eq!(own.promise(frames, ALL), 5 * LARGE_PAGE_SIZE, "no more than all");
            assert_eq!(frames.available_bytes(), left);
        });
    }

    #[test]
    fn a_small_machine_promises_a_part() {
        with(4, |frames| {
            let mut own = SetAside::<ALL>::new();
            assert_eq!(own.promise(frames, 2), 2 * LARGE_PAGE_SIZE);
            for chunk in 0..4 {
                assert!(own.page(frames, chunk * CHUNK_PAGES).is_some());
            }
            assert_eq!(own.page(frames, 4 * CHUNK_PAGES), None, "there is no more");
            assert_eq!(own.promise(frames, ALL), 4 * LARGE_PAGE_SIZE);
            assert_eq!(own.unused_bytes(), 4 * (LARGE_PAGE_SIZE - PAGE_SIZE));
        });
        with(4, |frames| {
            let mut own = SetAside::<ALL>::new();
            assert_eq!(own.promise(frames, ALL), 4 * LARGE_PAGE_SIZE);
            assert!(!frames.reserve(1));
        });
    }
}
