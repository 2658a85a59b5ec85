//! The driver's end of a split virtqueue: descriptors that lead to buffers, the ring of what
//! the device may use, and the ring of what it has used.
//!
//! Spec: Virtual I/O Device (VIRTIO) 1.2, section 2.7.
//!
//! The device shares this memory and may be hostile: every index it writes is
//! checked against what was given to it, and what is read is read once.

use alloc::vec;
use alloc::vec::Vec;

use hv_abi::device::DmaMemory;
use hv_x86::BusAddress;

const DESCRIPTOR_BYTES: usize = 16;
const DESCRIPTOR_NEXT: u16 = 1;
const DESCRIPTOR_WRITE: u16 = 2;
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// The device broke the rules of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingFault;

/// A buffer of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its descriptor.
    pub id: u16,
    /// Where it is in the DMA memory.
    pub at: usize,
    /// Octets of it.
    pub length: usize,
    /// The device writes it, or reads it.
    pub device_writes: bool,
}

/// A ring in DMA memory: descriptors, available ring, used ring.
pub struct Ring {
    size: u16,
    base: usize,
    event_index: bool,
    /// First descriptors of the chains in the device's hands.
    lent: Vec<bool>,
    available_index: u16,
    used_index: u16,
    notified_index: u16,
}

const fn align(value: usize, to: usize) -> usize {
    value.div_ceil(to) * to
}

impl Ring {
    /// Octets of DMA memory that a ring of so many descriptors takes.
    #[must_use]
    pub const fn memory_bytes(size: u16) -> usize {
        let size = size as usize;
        align(size * DESCRIPTOR_BYTES + 6 + 2 * size, 4) + 6 + 8 * size
    }

    /// A ring whose memory starts at `base`, a multiple of 16.
    #[must_use]
    pub fn new(size: u16, base: usize, event_index: bool) -> Self {
        Self {
            size,
            base,
            event_index,
            lent: vec![false; usize::from(size)],
            available_index: 0,
            used_index: 0,
            notified_index: 0,
        }
    }

    /// Its descriptors.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Where the three parts are, as the device reaches them.
    #[must_use]
    pub fn addresses(&self, dma: &impl DmaMemory) -> [BusAddress; 3] {
        [self.base, self.available(), self.used()].map(|at| dma.bus_address().after(at as u64))
    }

    fn available(&self) -> usize {
        self.base + usize::from(self.size) * DESCRIPTOR_BYTES
    }

    fn used(&self) -> usize {
        align(self.available() + 6 + 2 * usize::from(self.size), 4)
    }

    /// Lends a chain of buffers to the device (2.7.13); false when it cannot be described.
    #[must_use]
    pub fn lend(&mut self, dma: &impl DmaMemory, parts: impl Iterator<Item = Part>) -> bool {
        let mut parts = parts.peekable();
        let Some(head) = parts.peek().map(|part| part.id) else { return false };
        let Some(lent) = self.lent.get_mut(usize::from(head)) else { return false };
        *lent = true;
        let mut described = true;
        while let Some(part) = parts.next() {
            let next = parts.peek().map(|part| part.id);
            let at = self.base + usize::from(part.id) * DESCRIPTOR_BYTES;
            described &= dma.write(at, &descriptor(dma, &part, next));
        }
        let slot = usize::from(self.available_index % self.size.max(1));
        let written = described && dma.write(self.available() + 4 + 2 * slot, &head.to_le_bytes());
        self.available_index = self.available_index.wrapping_add(1);
        dma.store_u16(self.available() + 2, self.available_index);
        written
    }

    /// Whether the device has returned a chain that was not taken yet.
    #[must_use]
    pub fn pending(&self, dma: &impl DmaMemory) -> bool {
        dma.load_u16(self.used() + 2) != self.used_index
    }

    /// Takes the next chain that the device is done with: its first descriptor, and how many
    /// octets the device claims to have written.
    ///
    /// # Errors
    /// [`RingFault`]: it returns what it was not lent, or more than there is.
    pub fn take_used(&mut self, dma: &impl DmaMemory) -> Result<Option<(u16, usize)>, RingFault> {
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
        if !core::mem::replace(lent, false) {
            return Err(RingFault);
        }
        self.used_index = self.used_index.wrapping_add(1);
        Ok(Some((id, length)))
    }

    /// Whether the device wants to be told of what was lent since the last time
    /// (2.7.10: flag or event index).
    #[must_use]
    pub fn wants_notification(&mut self, dma: &impl DmaMemory) -> bool {
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

    /// Asks for an interrupt at the next returned chain, or for none.
    /// Returns whether something was returned meanwhile.
    pub fn set_interrupt(&mut self, dma: &impl DmaMemory, wanted: bool) -> bool {
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

/// A descriptor as the device reads it (2.7.5).
fn descriptor(dma: &impl DmaMemory, part: &Part, next: Option<u16>) -> [u8; DESCRIPTOR_BYTES] {
    let address = dma.bus_address().after(part.at as u64).0;
    let flags = if part.device_writes { DESCRIPTOR_WRITE } else { 0 }
        | if next.is_some() { DESCRIPTOR_NEXT } else { 0 };
    let [a0, a1, a2, a3, a4, a5, a6, a7] = address.to_le_bytes();
    let [l0, l1, l2, l3] = u32::try_from(part.length).unwrap_or(0).to_le_bytes();
    let ([f0, f1], [n0, n1]) = (flags.to_le_bytes(), next.unwrap_or(0).to_le_bytes());
    [a0, a1, a2, a3, a4, a5, a6, a7, l0, l1, l2, l3, f0, f1, n0, n1]
}

#[cfg(test)]
mod tests {
    use super::{Part, Ring, RingFault};
    use alloc::vec;
    use alloc::vec::Vec;
    use core::cell::RefCell;
    use hv_abi::device::DmaMemory;
    use hv_x86::BusAddress;

    const BUS: u64 = 0x10_0000;

    struct Memory(RefCell<Vec<u8>>);

    impl DmaMemory for Memory {
        fn length(&self) -> usize {
            self.0.borrow().len()
        }
        fn bus_address(&self) -> BusAddress {
            BusAddress(BUS)
        }
        fn read(&self, offset: usize, target: &mut [u8]) -> bool {
            target.copy_from_slice(&self.0.borrow()[offset..offset + target.len()]);
            true
        }
        fn write(&self, offset: usize, source: &[u8]) -> bool {
            self.0.borrow_mut()[offset..offset + source.len()].copy_from_slice(source);
            true
        }
        fn load_u16(&self, offset: usize) -> u16 {
            let memory = self.0.borrow();
            u16::from_le_bytes([memory[offset], memory[offset + 1]])
        }
        fn store_u16(&self, offset: usize, value: u16) {
            assert!(self.write(offset, &value.to_le_bytes()));
        }
        fn fence(&self) {}
    }

    fn part(id: u16, length: usize, device_writes: bool) -> Part {
        Part { id, at: 0x100 + usize::from(id), length, device_writes }
    }

    /// The device returns an identifier.
    fn complete(dma: &Memory, ring: &Ring, id: u32, index: u16) {
        let slot = ring.used() + 4 + 8 * usize::from((index - 1) % ring.size());
        assert!(dma.write(slot, &id.to_le_bytes()));
        dma.store_u16(ring.used() + 2, index);
    }

    #[test]
    fn a_chain_is_described_as_the_specification_says() {
        let dma = Memory(RefCell::new(vec![0; Ring::memory_bytes(4)]));
        let mut ring = Ring::new(4, 0, false);
        assert_eq!(ring.addresses(&dma), [BUS, BUS + 64, BUS + 80].map(BusAddress));
        assert!(ring.lend(&dma, [part(2, 16, false), part(0, 512, true), part(3, 1, true)].into_iter()));
        let memory = dma.0.borrow().clone();
        assert_eq!(memory[32..48], [2, 1, 0x10, 0, 0, 0, 0, 0, 16, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(memory[..16], [0, 1, 0x10, 0, 0, 0, 0, 0, 0, 2, 0, 0, 3, 0, 3, 0]);
        assert_eq!(memory[48..64], [3, 1, 0x10, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(memory[64..72], [0, 0, 1, 0, 2, 0, 0, 0]);
        assert!(!ring.lend(&dma, core::iter::empty()));
        assert!(!ring.lend(&dma, [part(4, 1, false)].into_iter()));
    }

    #[test]
    fn only_what_was_lent_is_taken_back() {
        let dma = Memory(RefCell::new(vec![0; Ring::memory_bytes(4)]));
        let mut ring = Ring::new(4, 0, false);
        assert!(ring.lend(&dma, [part(1, 16, false), part(2, 16, true)].into_iter()));
        assert_eq!(ring.take_used(&dma), Ok(None));
        complete(&dma, &ring, 1, 1);
        assert!(ring.pending(&dma));
        assert_eq!(ring.take_used(&dma), Ok(Some((1, 0))));
        for wrong in [1, 2, 4, 0x1_0001] {
            complete(&dma, &ring, wrong, 2);
            assert_eq!(ring.take_used(&dma), Err(RingFault), "{wrong}");
        }
        dma.store_u16(ring.used() + 2, 6);
        assert_eq!(ring.take_used(&dma), Err(RingFault), "more than there are");
    }

    #[test]
    fn the_device_decides_when_it_is_notified() {
        for event_index in [false, true] {
            let dma = Memory(RefCell::new(vec![0; Ring::memory_bytes(4)]));
            let mut ring = Ring::new(4, 0, event_index);
            assert!(!ring.wants_notification(&dma), "nothing is new");
            assert!(ring.lend(&dma, [part(0, 1, false)].into_iter()));
            assert!(ring.wants_notification(&dma) && !ring.wants_notification(&dma));
            let (at, no) = if event_index { (ring.used() + 36, 7) } else { (ring.used(), 1) };
            dma.store_u16(at, no);
            assert!(ring.lend(&dma, [part(1, 1, false)].into_iter()));
            assert!(!ring.wants_notification(&dma));
        }
    }
}
