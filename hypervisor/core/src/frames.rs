//! Physical memory: 4 KiB frames and 2 MiB chunks.
//!
//! Guests are backed by whole chunks, everything small by frames. A guest's
//! chunks are reserved when it is created and taken when it first touches them,
//! so creation is quick and never promises memory that is not there.

use hv_x86::{LARGE_PAGE_SIZE, PAGE_SIZE, to_usize};

/// Frames in a chunk.
const CHUNK_FRAMES: u16 = 512;
/// Chunks in 1 GiB.
const HUGE_CHUNKS: usize = 512;
/// Words of the bitmap for a chunk.
const CHUNK_WORDS: usize = 8;

/// How many chunks the tables must cover for memory up to `end`.
#[must_use]
pub const fn chunks_for(end: u64) -> usize {
    to_usize(end.div_ceil(LARGE_PAGE_SIZE))
}

/// Bitmap words needed for `chunks`.
#[must_use]
pub const fn bitmap_words(chunks: usize) -> usize {
    chunks * CHUNK_WORDS
}

/// The allocator, over tables that its owner provides.
#[derive(Debug)]
pub struct Frames<'a> {
    /// Free frames of each chunk.
    free: &'a mut [u16],
    /// One bit a frame, set when free.
    bitmap: &'a mut [u64],
    /// Chunks that are wholly free.
    free_chunks: usize,
    /// All free frames.
    free_frames: usize,
    /// Wholly free chunks that are promised to guests.
    reserved_chunks: usize,
    /// Where the next search for a frame begins.
    frame_hint: usize,
    /// Where the next search for a chunk begins.
    chunk_hint: usize,
}

impl<'a> Frames<'a> {
    /// An allocator with nothing free. `free` has one entry a chunk, `bitmap`
    /// [`bitmap_words`]; both zero.
    #[must_use]
    pub fn new(free: &'a mut [u16], bitmap: &'a mut [u64]) -> Self {
        Self {
            free,
            bitmap,
            free_chunks: 0,
            free_frames: 0,
            reserved_chunks: 0,
            frame_hint: 0,
            chunk_hint: 0,
        }
    }

    /// Gives usable memory to the allocator, cut to whole frames.
    pub fn add(&mut self, start: u64, end: u64) {
        let mut frame = start.div_ceil(PAGE_SIZE) * PAGE_SIZE;
        while frame + PAGE_SIZE <= end {
            self.free_frame(frame);
            frame += PAGE_SIZE;
        }
    }

    /// Bytes neither used nor promised.
    #[must_use]
    pub const fn available_bytes(&self) -> u64 {
        (self.free_frames as u64) * PAGE_SIZE - (self.reserved_chunks as u64) * LARGE_PAGE_SIZE
    }

    /// Promises `chunks` to a guest; false when there are not enough.
    #[must_use]
    pub const fn reserve(&mut self, chunks: usize) -> bool {
        if self.free_chunks - self.reserved_chunks < chunks {
            return false;
        }
        self.reserved_chunks += chunks;
        true
    }

    /// Takes a promise back.
    pub const fn unreserve(&mut self, chunks: usize) {
        self.reserved_chunks = self.reserved_chunks.saturating_sub(chunks);
    }

    /// A chunk out of the caller's own reservation.
    pub fn take_reserved_chunk(&mut self) -> Option<u64> {
        if self.reserved_chunks == 0 {
            return None;
        }
        let count = self.free.len();
        for step in 0..count {
            let chunk = (self.chunk_hint + step) % count;
            if self.free.get(chunk) == Some(&CHUNK_FRAMES) {
                self.chunk_hint = chunk + 1;
                self.reserved_chunks -= 1;
                self.set_chunk(chunk, false);
                return Some(chunk as u64 * LARGE_PAGE_SIZE);
            }
        }
        None
    }

    /// A naturally aligned 1 GiB of chunks out of the caller's own reservation.
    pub fn take_reserved_huge(&mut self) -> Option<u64> {
        if self.reserved_chunks < HUGE_CHUNKS {
            return None;
        }
        let found = self.free.chunks_exact(HUGE_CHUNKS).position(|chunks| {
            // The ends first: a range in use mostly shows there.
            chunks.last() == Some(&CHUNK_FRAMES) && chunks.iter().all(|free| *free == CHUNK_FRAMES)
        })?;
        let first = found * HUGE_CHUNKS;
        for chunk in first..first + HUGE_CHUNKS {
            self.set_chunk(chunk, false);
        }
        self.reserved_chunks -= HUGE_CHUNKS;
        Some(first as u64 * LARGE_PAGE_SIZE)
    }

    /// Gives a chunk back.
    pub fn free_chunk(&mut self, address: u64) {
        self.set_chunk(to_usize(address / LARGE_PAGE_SIZE), true);
    }

    fn set_chunk(&mut self, chunk: usize, free: bool) {
        let words = chunk * CHUNK_WORDS..(chunk + 1) * CHUNK_WORDS;
        if let (Some(count), Some(words)) = (self.free.get_mut(chunk), self.bitmap.get_mut(words)) {
            words.fill(if free { u64::MAX } else { 0 });
            *count = if free { CHUNK_FRAMES } else { 0 };
            if free {
                self.free_chunks += 1;
                self.free_frames += usize::from(CHUNK_FRAMES);
            } else {
                self.free_chunks -= 1;
                self.free_frames -= usize::from(CHUNK_FRAMES);
            }
        }
    }

    /// One frame; chunks already broken up go first.
    pub fn take_frame(&mut self) -> Option<u64> {
        self.take_contiguous(1)
    }

    /// `count` frames in a row within one chunk, for DMA.
    pub fn take_contiguous(&mut self, count: usize) -> Option<u64> {
        if count == 0 || count > usize::from(CHUNK_FRAMES) {
            return None;
        }
        if let Some(address) = self.search(count, false) {
            return Some(address);
        }
        // A whole chunk may be broken only if no guest was promised it.
        (self.free_chunks > self.reserved_chunks).then(|| self.search(count, true)).flatten()
    }

    fn search(&mut self, count: usize, whole: bool) -> Option<u64> {
        let chunks = self.free.len();
        for step in 0..chunks {
            let chunk = (self.frame_hint + step) % chunks;
            let free = *self.free.get(chunk)?;
            if usize::from(free) < count || (free == CHUNK_FRAMES) != whole {
                continue;
            }
            if let Some(first) = self.find_run(chunk, count) {
                self.frame_hint = chunk;
                for frame in first..first + count {
                    self.mark(chunk, frame, false);
                }
                return Some(chunk as u64 * LARGE_PAGE_SIZE + first as u64 * PAGE_SIZE);
            }
        }
        None
    }

    fn find_run(&self, chunk: usize, count: usize) -> Option<usize> {
        let mut run = 0;
        let mut frame = 0;
        while frame < usize::from(CHUNK_FRAMES) {
            let word = *self.bitmap.get(chunk * CHUNK_WORDS + frame / 64)?;
            if word == 0 {
                run = 0;
                frame = (frame / 64 + 1) * 64;
                continue;
            }
            run = if word >> (frame % 64) & 1 == 1 { run + 1 } else { 0 };
            frame += 1;
            if run == count {
                return Some(frame - count);
            }
        }
        None
    }

    fn mark(&mut self, chunk: usize, frame: usize, free: bool) {
        let Some(word) = self.bitmap.get_mut(chunk * CHUNK_WORDS + frame / 64) else { return };
        let Some(count) = self.free.get_mut(chunk) else { return };
        let bit = 1 << (frame % 64);
        if (*word & bit != 0) == free {
            return;
        }
        *word ^= bit;
        if free {
            *count += 1;
            self.free_frames += 1;
            if *count == CHUNK_FRAMES {
                self.free_chunks += 1;
            }
        } else {
            if *count == CHUNK_FRAMES {
                self.free_chunks -= 1;
            }
            *count -= 1;
            self.free_frames -= 1;
        }
    }

    /// Gives one frame back.
    pub fn free_frame(&mut self, address: u64) {
        let frame = to_usize(address % LARGE_PAGE_SIZE / PAGE_SIZE);
        self.mark(to_usize(address / LARGE_PAGE_SIZE), frame, true);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::{Frames, bitmap_words, chunks_for};
    use hv_x86::{HUGE_PAGE_SIZE, LARGE_PAGE_SIZE, PAGE_SIZE};
    use std::collections::BTreeSet;
    use std::vec;
    use std::vec::Vec;

    const END: u64 = 8 * LARGE_PAGE_SIZE;

    #[test]
    fn reservations_are_kept() {
        let mut free = vec![0; chunks_for(END)];
        let mut bitmap = vec![0; bitmap_words(chunks_for(END))];
        let mut frames = Frames::new(&mut free, &mut bitmap);
        frames.add(LARGE_PAGE_SIZE / 2 + 1, END);
        assert!(!frames.reserve(8));
        assert!(frames.reserve(7));
        assert_eq!(frames.available_bytes(), LARGE_PAGE_SIZE / 2 - PAGE_SIZE);
        let mut small = 0;
        while frames.take_frame().is_some() {
            small += 1;
        }
        assert_eq!(small, 255);
        let chunks: BTreeSet<u64> = (0..7).map(|_| frames.take_reserved_chunk().unwrap()).collect();
        assert_eq!(chunks.len(), 7);
        assert_eq!(frames.take_reserved_chunk(), None);
        for chunk in chunks {
            frames.free_chunk(chunk);
        }
        assert!(frames.take_frame().is_some());
    }

    #[test]
    fn what_is_given_back_is_whole_again() {
        let mut free = vec![0; chunks_for(END)];
        let mut bitmap = vec![0; bitmap_words(chunks_for(END))];
        let mut frames = Frames::new(&mut free, &mut bitmap);
        frames.add(0, END);
        let before = frames.available_bytes();
        let run = frames.take_contiguous(100).unwrap();
        let other = frames.take_contiguous(500).unwrap();
        assert_ne!(run / LARGE_PAGE_SIZE, other / LARGE_PAGE_SIZE);
        assert_eq!(frames.take_contiguous(513), None);
        for (start, count) in [(run, 100), (other, 500)] {
            for frame in 0..count {
                frames.free_frame(start + frame * PAGE_SIZE);
            }
        }
        assert_eq!(frames.available_bytes(), before);
        assert!(frames.reserve(8));
    }

    #[test]
    fn huge_ranges_are_aligned_and_promised() {
        let end = 4 * HUGE_PAGE_SIZE;
        let mut free = vec![0; chunks_for(end)];
        let mut bitmap = vec![0; bitmap_words(chunks_for(end))];
        let mut frames = Frames::new(&mut free, &mut bitmap);
        frames.add(LARGE_PAGE_SIZE, end);
        assert_eq!(frames.take_reserved_huge(), None, "nothing was promised");
        assert!(frames.reserve(1600));
        let first = frames.take_reserved_huge().unwrap();
        assert_eq!(first, HUGE_PAGE_SIZE);
        // What is left of the second whole one goes in pieces.
        assert_eq!(frames.take_reserved_huge(), Some(2 * HUGE_PAGE_SIZE));
        assert_eq!(frames.take_reserved_huge(), Some(3 * HUGE_PAGE_SIZE));
        assert_eq!(frames.take_reserved_huge(), None);
        let mut pieces = 0;
        while frames.take_reserved_chunk().is_some() {
            pieces += 1;
        }
        assert_eq!(pieces, 1600 - 3 * 512);
        for chunk in 0..512 {
            frames.free_chunk(first + chunk * LARGE_PAGE_SIZE);
        }
        assert!(frames.reserve(512));
        assert_eq!(frames.take_reserved_huge(), Some(first));
    }

    /// What is given out never overlaps what is in use, whatever the order.
    #[test]
    fn nothing_is_given_out_twice() {
        let end = 64 * LARGE_PAGE_SIZE;
        for seed in 1..20_u64 {
            let mut free = vec![0; chunks_for(end)];
            let mut bitmap = vec![0; bitmap_words(chunks_for(end))];
            let mut frames = Frames::new(&mut free, &mut bitmap);
            frames.add(5 * PAGE_SIZE, 3 * LARGE_PAGE_SIZE / 2);
            frames.add(2 * LARGE_PAGE_SIZE - 20 * PAGE_SIZE, end - 7 * PAGE_SIZE);
            let total = frames.available_bytes();
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut random = |below: usize| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                usize::try_from(state >> 33).unwrap() % below
            };
            let mut taken: Vec<(u64, u64)> = Vec::new();
            let mut used = BTreeSet::new();
            let mut reserved = 0_u64;
            for _ in 0..2000 {
                let got = match random(8) {
                    0 | 1 => frames.take_frame().map(|address| (address, 1)),
                    2 => {
                        let count = 1 + random(40);
                        frames.take_contiguous(count).map(|address| (address, count as u64))
                    }
                    3 if frames.reserve(3) => {
                        reserved += 3;
                        None
                    }
                    4 if reserved > 0 => {
                        reserved -= 1;
                        Some((frames.take_reserved_chunk().expect("it was promised"), 512))
                    }
                    5 if reserved > 1 => {
                        frames.unreserve(2);
                        reserved -= 2;
                        None
                    }
                    6 | 7 if !taken.is_empty() => {
                        let (start, count) = taken.swap_remove(random(taken.len()));
                        (start..start + count * PAGE_SIZE).step_by(4096).for_each(|frame| {
                            assert!(used.remove(&frame));
                        });
                        if count == 512 {
                            frames.free_chunk(start);
                        } else {
                            (0..count).for_each(|frame| frames.free_frame(start + frame * PAGE_SIZE));
                        }
                        None
                    }
                    _ => None,
                };
                if let Some((start, count)) = got {
                    for frame in (start..start + count * PAGE_SIZE).step_by(4096) {
                        assert!(used.insert(frame), "seed {seed}: {frame:#x} given out twice");
                    }
                    taken.push((start, count));
                }
                let expected = total - used.len() as u64 * PAGE_SIZE - reserved * LARGE_PAGE_SIZE;
                assert_eq!(frames.available_bytes(), expected, "seed {seed}");
            }
        }
    }
}
