//! The driver's end of a split virtqueue with one fixed buffer per descriptor; what
//! is longer than a buffer goes out as a chain of them.
//!
//! Spec: Virtual I/O Device (VIRTIO) 1.2, section 2.7.
//!
//! The device shares this memory and may be hostile: every index it writes is
//! checked against what was given to it, and what is read is read once.

use alloc::vec;
use alloc::vec::Vec;
use core::iter::successors;

use hv_abi::device::DmaMemory;

const DESCRIPTOR_BYTES: usize = 16;
const DESCRIPTOR_NEXT: u16 = 1;
const DESCRIPTOR_WRITE: u16 = 2;
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// The device broke the rules of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingFault;

/// A ring in DMA memory: descriptors, available ring, used ring, buffers.
pub(crate) struct Virtqueue {
    size: u16,
    base: usize,
    buffers: usize,
    buffer_bytes: usize,
    device_writes: bool,
    event_index: bool,
    /// First descriptors of the chains in the device's hands.
    lent: Vec<bool>,
    /// What follows each descriptor in its chain; the device never sees this copy.
    next: Vec<Option<u16>>,
    free: Vec<u16>,
    available_index: u16,
    used_index: u16,
    notified_index: u16,
}

const fn align(value: usize, to: usize) -> usize {
    value.div_ceil(to) * to
}

impl Virtqueue {
    /// Octets of DMA memory a ring needs.
    pub(crate) fn memory_bytes(size: u16, buffer_bytes: usize) -> usize {
        let size = usize::from(size);
        align(Self::rings_bytes(size), 64).saturating_add(size.saturating_mul(buffer_bytes))
    }

    const fn rings_bytes(size: usize) -> usize {
        align(size * DESCRIPTOR_BYTES + 6 + 2 * size, 4) + 6 + 8 * size
    }

    /// A ring whose memory starts at `base`, a multiple of 64.
    pub(crate) fn new(
        size: u16,
        base: usize,
        buffer_bytes: usize,
        device_writes: bool,
        event_index: bool,
    ) -> Self {
        Self {
            size,
            base,
            buffers: base.saturating_add(align(Self::rings_bytes(usize::from(size)), 64)),
            buffer_bytes,
            device_writes,
            event_index,
            lent: vec![false; usize::from(size)],
            next: vec![None; usize::from(size)],
            free: (0..size).rev().collect(),
            available_index: 0,
            used_index: 0,
            notified_index: 0,
        }
    }

    pub(crate) fn descriptors(&self) -> usize {
        self.base
    }

    pub(crate) fn available(&self) -> usize {
        self.base + usize::from(self.size) * DESCRIPTOR_BYTES
    }

    pub(crate) fn used(&self) -> usize {
        align(self.available() + 6 + 2 * usize::from(self.size), 4)
    }

    pub(crate) fn buffer(&self, id: u16) -> usize {
        self.buffers + usize::from(id) * self.buffer_bytes
    }

    pub(crate) fn size(&self) -> usize {
        usize::from(self.size)
    }

    pub(crate) fn free_count(&self) -> usize {
        self.free.len()
    }

    /// Takes a chain of free descriptors whose buffers hold `length` octets together.
    pub(crate) fn take_chain(&mut self, length: usize) -> Option<u16> {
        let count = length.div_ceil(self.buffer_bytes).max(1);
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

    /// The descriptors of a chain.
    pub(crate) fn chain(&self, head: u16) -> impl Iterator<Item = u16> {
        successors(Some(head), |id| self.next.get(usize::from(*id)).copied().flatten())
    }

    /// Gives a taken chain back unused.
    pub(crate) fn put_free(&mut self, head: u16) {
        let mut following = Some(head);
        while let Some(id) = following {
            following = self.next.get_mut(usize::from(id)).and_then(Option::take);
            self.free.push(id);
        }
    }

    /// Copies octets into the buffers of a chain, from `offset` of them on.
    pub(crate) fn fill(&self, dma: &impl DmaMemory, head: u16, offset: usize, source: &[u8]) -> bool {
        let (mut skip, mut rest) = (offset, source);
        for id in self.chain(head) {
            if rest.is_empty() {
                break;
            }
            let skipped = skip.min(self.buffer_bytes);
            skip -= skipped;
            let (now, later) = rest.split_at(rest.len().min(self.buffer_bytes - skipped));
            if !dma.write(self.buffer(id) + skipped, now) {
                return false;
            }
            rest = later;
        }
        rest.is_empty()
    }

    /// Lends a chain with `length` octets of its buffers to the device (2.7.13).
    pub(crate) fn lend(&mut self, dma: &impl DmaMemory, head: u16, length: usize) -> bool {
        let Some(lent) = self.lent.get_mut(usize::from(head)) else {
            return false;
        };
        *lent = true;
        let mut rest = length;
        let described = self.chain(head).all(|id| {
            let here = rest.min(self.buffer_bytes);
            rest -= here;
            dma.write(
                self.descriptors() + usize::from(id) * DESCRIPTOR_BYTES,
                &self.descriptor(dma, id, here),
            )
        });
        let slot = usize::from(self.available_index % self.size.max(1));
        let written = described && dma.write(self.available() + 4 + 2 * slot, &head.to_le_bytes());
        self.available_index = self.available_index.wrapping_add(1);
        dma.store_u16(self.available() + 2, self.available_index);
        written
    }

    /// A descriptor as the device reads it (2.7.5).
    fn descriptor(&self, dma: &impl DmaMemory, id: u16, length: usize) -> [u8; DESCRIPTOR_BYTES] {
        let address = dma.bus_address().wrapping_add(self.buffer(id) as u64);
        let next = self.next.get(usize::from(id)).copied().flatten();
        let flags = if self.device_writes { DESCRIPTOR_WRITE } else { 0 }
            | if next.is_some() { DESCRIPTOR_NEXT } else { 0 };
        let [a0, a1, a2, a3, a4, a5, a6, a7] = address.to_le_bytes();
        let [l0, l1, l2, l3] = u32::try_from(length).unwrap_or(0).to_le_bytes();
        let ([f0, f1], [n0, n1]) = (flags.to_le_bytes(), next.unwrap_or(0).to_le_bytes());
        [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1]
    }

    /// Whether the device has returned a descriptor not yet taken.
    pub(crate) fn pending(&self, dma: &impl DmaMemory) -> bool {
        dma.load_u16(self.used() + 2) != self.used_index
    }

    /// Takes the next chain the device is done with, and the length it claims.
    pub(crate) fn take_used(&mut self, dma: &impl DmaMemory) -> Result<Option<(u16, usize)>, RingFault> {
        let index = dma.load_u16(self.used() + 2);
        let waiting = index.wrapping_sub(self.used_index);
        if waiting == 0 {
            return Ok(None);
        }
        if waiting > self.size {
            return Err(RingFault);
        }
        let slot = usize::from(self.used_index % self.size.max(1));
        let mut element = [0u8; 8];
        if !dma.read(self.used() + 4 + 8 * slot, &mut element) {
            return Err(RingFault);
        }
        let [i0, i1, i2, i3, l0, l1, l2, l3] = element;
        let id = u16::try_from(u32::from_le_bytes([i0, i1, i2, i3])).map_err(|_| RingFault)?;
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).map_err(|_| RingFault)?;
        let lent = self.lent.get_mut(usize::from(id)).ok_or(RingFault)?;
        if !*lent || (self.device_writes && length > self.buffer_bytes) {
            return Err(RingFault);
        }
        *lent = false;
        self.used_index = self.used_index.wrapping_add(1);
        Ok(Some((id, length)))
    }

    /// Whether the device wants to be told of what was lent since the last time
    /// (2.7.10: flag or event index).
    pub(crate) fn wants_notification(&mut self, dma: &impl DmaMemory) -> bool {
        let (old, new) = (self.notified_index, self.available_index);
        if old == new {
            return false;
        }
        self.notified_index = new;
        dma.fence();
        if self.event_index {
            let event = dma.load_u16(self.used() + 4 + 8 * usize::from(self.size));
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            dma.load_u16(self.used()) & NO_NOTIFY == 0
        }
    }

    /// Asks for an interrupt at the next returned descriptor, or for none.
    /// Returns whether something was returned meanwhile.
    pub(crate) fn set_interrupt(&mut self, dma: &impl DmaMemory, wanted: bool) -> bool {
        if self.event_index {
            let event = if wanted { self.used_index } else { self.used_index.wrapping_sub(1) };
            dma.store_u16(self.available() + 4 + 2 * usize::from(self.size), event);
        } else {
            dma.store_u16(self.available(), if wanted { 0 } else { NO_INTERRUPT });
        }
        dma.fence();
        self.pending(dma)
    }
}
