//! A split virtqueue as the device sees it.
//!
//! Spec: virtio 1.2, section 2.7. Every field is read from guest memory exactly
//! once; every address is checked before it becomes part of a [`Chain`].

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::chain::{Chain, Segment, Segments};
use crate::fault::GuestFault;
use crate::guest_memory::{Gpa, GuestMemory};
use crate::limits::{CHAIN_DESCRIPTORS_MAX, QUEUE_SIZE_MAX};

/// No interrupt vector (virtio 1.2, 4.1.5.1.2.1).
pub const NO_VECTOR: u16 = 0xffff;

/// Descriptor flag: `next` is valid.
const NEXT: u16 = 1;
/// Descriptor flag: the device writes, else reads.
const WRITE: u16 = 2;
/// Descriptor flag: the buffer is a table of descriptors.
const INDIRECT: u16 = 4;
/// Available ring flag: no interrupt wanted.
const NO_INTERRUPT: u16 = 1;

/// Which optional parts of the ring format were negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingFeatures {
    /// `VIRTIO_F_EVENT_IDX`.
    pub event_index: bool,
    /// `VIRTIO_F_INDIRECT_DESC`.
    pub indirect: bool,
}

/// One queue: what the driver configured, and how far the device is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Size in descriptors.
    pub size: u16,
    /// Whether the driver enabled it.
    pub enabled: bool,
    /// Interrupt vector, or [`NO_VECTOR`].
    pub vector: u16,
    /// Address of the descriptor table.
    pub descriptors: u64,
    /// Address of the available ring.
    pub available: u64,
    /// Address of the used ring.
    pub used: u64,
    next_available: u16,
    next_used: u16,
}

/// As much of a chain as is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Bytes that the device may write.
    pub bytes: u64,
    /// Descriptors, at most.
    pub descriptors: usize,
}

impl Part {
    /// All of it.
    pub const WHOLE: Self = Self { bytes: u64::MAX, descriptors: usize::MAX };
}

struct Descriptor {
    gpa: Gpa,
    length: u32,
    flags: u16,
    next: u16,
}

impl Descriptor {
    fn read(memory: &dyn GuestMemory, table: u64, index: u16) -> Result<Self, GuestFault> {
        let mut bytes = [0; 16];
        memory.read(Gpa(table).plus(u64::from(index) * 16), &mut bytes)?;
        let [a, b, c, d, e, f, g, h, l0, l1, l2, l3, f0, f1, n0, n1] = bytes;
        Ok(Self {
            gpa: Gpa(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
            length: u32::from_le_bytes([l0, l1, l2, l3]),
            flags: u16::from_le_bytes([f0, f1]),
            next: u16::from_le_bytes([n0, n1]),
        })
    }
}

/// The walk over one chain.
struct Walk {
    readable: Vec<Segment>,
    writable: Vec<Segment>,
    /// What is still wanted.
    part: Part,
}

impl Walk {
    const fn is_done(&self) -> bool {
        self.part.bytes == 0 || self.part.descriptors == 0
    }

    fn add(&mut self, memory: &dyn GuestMemory, descriptor: &Descriptor) -> Result<(), GuestFault> {
        let Descriptor { gpa, length, .. } = *descriptor;
        if length == 0 {
            return Err(GuestFault::EmptyDescriptor);
        }
        if !memory.contains(gpa, u64::from(length)) {
            return Err(GuestFault::OutsideMemory { gpa, length: u64::from(length) });
        }
        if self.readable.len() + self.writable.len() >= CHAIN_DESCRIPTORS_MAX {
            return Err(GuestFault::ChainLength);
        }
        self.part.descriptors = self.part.descriptors.saturating_sub(1);
        if descriptor.flags & WRITE != 0 {
            self.part.bytes = self.part.bytes.saturating_sub(u64::from(length));
            self.writable.push(Segment { gpa, length });
        } else if self.writable.is_empty() {
            self.readable.push(Segment { gpa, length });
        } else {
            // 2.7.4.2: writable buffers come after all readable ones.
            return Err(GuestFault::DescriptorOrder);
        }
        Ok(())
    }
}

impl Queue {
    /// A queue as after reset.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            size: QUEUE_SIZE_MAX,
            enabled: false,
            vector: NO_VECTOR,
            descriptors: 0,
            available: 0,
            used: 0,
            next_available: 0,
            next_used: 0,
        }
    }

    /// Checks what the driver configured (2.7: alignments and size).
    ///
    /// # Errors
    /// A ring that cannot be.
    pub const fn check(&self) -> Result<(), GuestFault> {
        let aligned = self.descriptors.is_multiple_of(16)
            && self.available.is_multiple_of(2)
            && self.used.is_multiple_of(4);
        if aligned && self.size.is_power_of_two() && self.size <= QUEUE_SIZE_MAX {
            Ok(())
        } else {
            Err(GuestFault::RingLayout)
        }
    }

    /// Takes the next chain. When there is none, asks for a notification and
    /// looks once more, so that none is missed.
    ///
    /// # Errors
    /// The ring or the chain is malformed; the queue must not be used again.
    pub fn pop(
        &mut self,
        memory: &dyn GuestMemory,
        features: RingFeatures,
    ) -> Result<Option<Chain>, GuestFault> {
        self.pop_part(memory, features, Part::WHOLE)
    }

    /// The same, where the chain is followed no further than for so much of it.
    ///
    /// # Errors
    /// As for [`Self::pop`].
    pub fn pop_part(
        &mut self,
        memory: &dyn GuestMemory,
        features: RingFeatures,
        part: Part,
    ) -> Result<Option<Chain>, GuestFault> {
        if !self.enabled {
            return Ok(None);
        }
        if self.waiting(memory)? == 0 {
            if !features.event_index {
                return Ok(None);
            }
            memory.store_u16(self.available_event(), self.next_available)?;
            memory.fence();
            if self.waiting(memory)? == 0 {
                return Ok(None);
            }
        }
        let slot = u64::from(self.next_available % self.size.max(1));
        let head = memory.load_u16(Gpa(self.available).plus(4 + slot * 2))?;
        let chain = self.walk(memory, head, features, part)?;
        self.next_available = self.next_available.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Walks a chain that was taken before: its descriptors are the device's until
    /// it is returned.
    ///
    /// # Errors
    /// As for [`Self::pop`]; the driver changed what was not its own.
    pub fn walk_again(
        &self,
        memory: &dyn GuestMemory,
        head: u16,
        features: RingFeatures,
    ) -> Result<Chain, GuestFault> {
        self.walk(memory, head, features, Part::WHOLE)
    }

    /// Puts the last `chains` taken back, in a ring that is otherwise unchanged.
    pub const fn unpop(&mut self, chains: u16) {
        self.next_available = self.next_available.wrapping_sub(chains);
    }

    /// Chains that are available.
    fn waiting(&self, memory: &dyn GuestMemory) -> Result<u16, GuestFault> {
        let index = memory.load_u16(Gpa(self.available).plus(2))?;
        let waiting = index.wrapping_sub(self.next_available);
        if waiting > self.size { Err(GuestFault::AvailableIndex) } else { Ok(waiting) }
    }

    fn walk(
        &self,
        memory: &dyn GuestMemory,
        head: u16,
        features: RingFeatures,
        part: Part,
    ) -> Result<Chain, GuestFault> {
        let mut walk = Walk { readable: Vec::new(), writable: Vec::new(), part };
        let mut index = head;
        // A chain visits no descriptor twice, so a longer one is a loop.
        for _ in 0..self.size {
            if index >= self.size {
                return Err(GuestFault::DescriptorIndex);
            }
            let descriptor = Descriptor::read(memory, self.descriptors, index)?;
            if descriptor.flags & INDIRECT != 0 {
                // 2.7.5.3.1: never together with NEXT.
                if !features.indirect || descriptor.flags & NEXT != 0 {
                    return Err(GuestFault::IndirectTable);
                }
                walk_indirect(memory, &descriptor, &mut walk)?;
                return Ok(walk.finish(head));
            }
            walk.add(memory, &descriptor)?;
            if descriptor.flags & NEXT == 0 || walk.is_done() {
                return Ok(walk.finish(head));
            }
            index = descriptor.next;
        }
        Err(GuestFault::ChainLength)
    }

    /// Returns chains to the driver, `(head, bytes written)` each, all at once.
    /// True when the driver wants an interrupt for them.
    ///
    /// # Errors
    /// The used ring is not in RAM.
    pub fn push_used(
        &mut self,
        memory: &dyn GuestMemory,
        chains: &[(u16, u32)],
        features: RingFeatures,
    ) -> Result<bool, GuestFault> {
        let old = self.next_used;
        for (head, written) in chains {
            let slot = u64::from(self.next_used % self.size.max(1));
            let mut element = [0; 8];
            let (id, length) = element.split_at_mut(4);
            id.copy_from_slice(&u32::from(*head).to_le_bytes());
            length.copy_from_slice(&written.to_le_bytes());
            memory.write(Gpa(self.used).plus(4 + slot * 8), &element)?;
            self.next_used = self.next_used.wrapping_add(1);
        }
        memory.store_u16(Gpa(self.used).plus(2), self.next_used)?;
        memory.fence();
        if features.event_index {
            let event = memory.load_u16(Gpa(self.available).plus(4 + u64::from(self.size) * 2))?;
            // 2.7.7.2: whether `event` was passed, in modular arithmetic.
            let passed = self.next_used.wrapping_sub(event).wrapping_sub(1);
            return Ok(passed < self.next_used.wrapping_sub(old));
        }
        Ok(memory.load_u16(Gpa(self.available))? & NO_INTERRUPT == 0)
    }

    fn available_event(&self) -> Gpa {
        Gpa(self.used).plus(4 + u64::from(self.size) * 8)
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self::new()
    }
}

impl Walk {
    fn finish(self, head: u16) -> Chain {
        Chain { head, readable: Segments(self.readable), writable: Segments(self.writable) }
    }
}

/// Walks the table that ends a chain (2.7.5.3).
fn walk_indirect(memory: &dyn GuestMemory, table: &Descriptor, walk: &mut Walk) -> Result<(), GuestFault> {
    let entries = u16::try_from(table.length / 16).unwrap_or(u16::MAX);
    if entries == 0 || !table.length.is_multiple_of(16) || usize::from(entries) > CHAIN_DESCRIPTORS_MAX {
        return Err(GuestFault::IndirectTable);
    }
    let mut index = 0;
    for _ in 0..entries {
        if index >= entries {
            return Err(GuestFault::DescriptorIndex);
        }
        let descriptor = Descriptor::read(memory, table.gpa.0, index)?;
        if descriptor.flags & INDIRECT != 0 {
            return Err(GuestFault::IndirectTable);
        }
        walk.add(memory, &descriptor)?;
        if descriptor.flags & NEXT == 0 || walk.is_done() {
            return Ok(());
        }
        index = descriptor.next;
    }
    Err(GuestFault::ChainLength)
}

#[cfg(test)]
#[path = "queue/tests.rs"]
mod tests;
