//! What dom0 keeps across its own restarts: a blob for each domain slot, and one
//! more of its own, in frames taken when first needed.

use crate::frame::{FrameBox, Page};
use crate::watch::Mutex;
use hv_abi::call::Error;
use hv_abi::{MAX_DOMAINS, STORE_BYTES};

const PAGES: usize = STORE_BYTES / 4096;

struct Blob {
    pages: [Option<FrameBox<Page>>; PAGES],
    length: usize,
}

static BLOBS: [Mutex<Blob>; MAX_DOMAINS + 1] =
    [const { Mutex::new(Blob { pages: [const { None }; PAGES], length: 0 }) }; MAX_DOMAINS + 1];

/// Replaces a blob; `fill` copies the bytes at an offset into its target.
pub(crate) fn put(
    key: usize,
    length: usize,
    mut fill: impl FnMut(usize, &mut [u8]) -> bool,
) -> Result<(), Error> {
    let mut blob = BLOBS.get(key).filter(|_| length <= STORE_BYTES).ok_or(Error::Argument)?.lock();
    blob.length = 0;
    for (index, slot) in blob.pages.iter_mut().enumerate() {
        let start = index * 4096;
        if start >= length {
            *slot = None;
            continue;
        }
        if slot.is_none() {
            *slot = FrameBox::new();
        }
        let page = slot.as_mut().ok_or(Error::NoMemory)?;
        let target = page.get_mut(..(length - start).min(4096)).ok_or(Error::Argument)?;
        if !fill(start, target) {
            return Err(Error::Pointer);
        }
    }
    blob.length = length;
    Ok(())
}

/// Hands out a blob piece by piece; returns its length.
pub(crate) fn get(
    key: usize,
    capacity: usize,
    mut take: impl FnMut(usize, &[u8]) -> bool,
) -> Result<usize, Error> {
    let blob = BLOBS.get(key).ok_or(Error::Argument)?.lock();
    if blob.length > capacity {
        return Err(Error::Argument);
    }
    for (index, page) in blob.pages.iter().flatten().enumerate() {
        let start = index * 4096;
        let Some(source) = page.get(..blob.length.saturating_sub(start).min(4096)) else { break };
        if !take(start, source) {
            return Err(Error::Pointer);
        }
    }
    Ok(blob.length)
}

/// Forgets a blob.
pub(crate) fn clear(key: usize) {
    if let Some(blob) = BLOBS.get(key) {
        let mut blob = blob.lock();
        blob.length = 0;
        blob.pages = [const { None }; PAGES];
    }
}
