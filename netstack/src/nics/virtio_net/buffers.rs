//! A ring with one fixed buffer per descriptor; what is longer than a buffer goes out as a
//! chain of them.

use alloc::vec;
use alloc::vec::Vec;
use core::iter::successors;

use hv_abi::device::DmaMemory;
use hv_bus::virtio::ring::{Part, Ring, RingFault};

/// The ring and its buffers.
pub(super) struct Buffers {
    pub(super) ring: Ring,
    first: usize,
    bytes: usize,
    device_writes: bool,
    /// What follows each descriptor in its chain; the device never sees this copy.
    next: Vec<Option<u16>>,
    free: Vec<u16>,
}

/// The descriptors of a chain.
fn chain(next: &[Option<u16>], head: u16) -> impl Iterator<Item = u16> {
    successors(Some(head), |id| next.get(usize::from(*id)).copied().flatten())
}

impl Buffers {
    /// Octets of DMA memory for so many buffers of so many octets, and their ring.
    pub(super) fn memory_bytes(size: u16, bytes: usize) -> usize {
        Self::rings_bytes(size).saturating_add(usize::from(size).saturating_mul(bytes))
    }

    const fn rings_bytes(size: u16) -> usize {
        Ring::memory_bytes(size).div_ceil(64) * 64
    }

    /// Those whose memory starts at `base`, a multiple of 64.
    pub(super) fn new(size: u16, base: usize, bytes: usize, device_writes: bool, event_index: bool) -> Self {
        Self {
            ring: Ring::new(size, base, event_index),
            first: base.saturating_add(Self::rings_bytes(size)),
            bytes,
            device_writes,
            next: vec![None; usize::from(size)],
            free: (0..size).rev().collect(),
        }
    }

    /// Where a descriptor's buffer is.
    pub(super) fn buffer(&self, id: u16) -> usize {
        self.first + usize::from(id) * self.bytes
    }

    pub(super) fn size(&self) -> usize {
        usize::from(self.ring.size())
    }

    pub(super) fn free_count(&self) -> usize {
        self.free.len()
    }

    /// Takes a chain of free descriptors whose buffers hold `length` octets together.
    pub(super) fn take_chain(&mut self, length: usize) -> Option<u16> {
        let count = length.div_ceil(self.bytes).max(1);
        let from = self.free.len().checked_sub(count)?;
        let mut head = None;
        for id in self.free.drain(from..) {
            if let Some(next) = self.next.get_mut(usize::from(id)) {
                *next = head;
            }
            head = Some(id);
        }
        head
    }

    /// Gives a taken chain back unused.
    pub(super) fn put_free(&mut self, head: u16) {
        let mut following = Some(head);
        while let Some(id) = following {
            following = self.next.get_mut(usize::from(id)).and_then(Option::take);
            self.free.push(id);
        }
    }

    /// Copies octets into the buffers of a chain, from `offset` of them on.
    pub(super) fn fill(&self, dma: &impl DmaMemory, head: u16, offset: usize, source: &[u8]) -> bool {
        let (mut skip, mut rest) = (offset, source);
        for id in chain(&self.next, head) {
            if rest.is_empty() {
                break;
            }
            let skipped = skip.min(self.bytes);
            skip -= skipped;
            let (now, later) = rest.split_at(rest.len().min(self.bytes - skipped));
            if !dma.write(self.buffer(id) + skipped, now) {
                return false;
            }
            rest = later;
        }
        rest.is_empty()
    }

    /// Lends a chain with `length` octets of its buffers to the device.
    pub(super) fn lend(&mut self, dma: &impl DmaMemory, head: u16, length: usize) -> bool {
        let Self { ring, first, bytes, device_writes, next, .. } = self;
        let mut rest = length;
        let parts = chain(next, head).map(|id| {
            let here = rest.min(*bytes);
            rest -= here;
            let at = *first + usize::from(id) * *bytes;
            Part { id, at, length: here, device_writes: *device_writes }
        });
        ring.lend(dma, parts)
    }

    /// Takes the next chain the device is done with, and the length it claims.
    pub(super) fn take_used(&mut self, dma: &impl DmaMemory) -> Result<Option<(u16, usize)>, RingFault> {
        let taken = self.ring.take_used(dma)?;
        let is_too_long = |(_, length)| self.device_writes && length > self.bytes;
        if taken.is_some_and(is_too_long) { Err(RingFault) } else { Ok(taken) }
    }
}
