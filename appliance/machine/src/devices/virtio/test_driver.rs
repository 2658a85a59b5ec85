//! A guest's side for tests: rings in fake memory, and a driver that brings a
//! device up through nothing but the platform's accesses, as Linux does.

use alloc::vec::Vec;

use crate::devices::platform::{Platform, PlatformEvent};
use crate::devices::virtio::registers;
use crate::guest_memory::FakeMemory;
use crate::layout::ECAM_START;

/// Descriptor flag: the chain continues.
pub const NEXT: u16 = 1;
/// Descriptor flag: the device writes.
pub const WRITE: u16 = 2;
/// Descriptor flag: a table of descriptors.
pub const INDIRECT: u16 = 4;

/// The driver's half of one queue.
#[derive(Clone, Copy, Debug)]
pub struct TestRing {
    /// Guest-physical address of its descriptor table.
    pub base: u64,
    /// Descriptors.
    pub size: u16,
    /// Available index.
    pub available: u16,
    /// Used index up to which it was read.
    pub used: u16,
    next_free: u16,
}

impl TestRing {
    /// An empty ring.
    #[must_use]
    pub const fn new(base: u64, size: u16) -> Self {
        Self { base, size, available: 0, used: 0, next_free: 0 }
    }

    /// Address of the descriptor table.
    #[must_use]
    pub const fn descriptors(&self) -> u64 {
        self.base
    }

    /// Address of the available ring.
    #[must_use]
    pub const fn available_ring(&self) -> u64 {
        self.base + 0x4000
    }

    /// Address of the used ring.
    #[must_use]
    pub const fn used_ring(&self) -> u64 {
        self.base + 0x8000
    }

    /// Writes one descriptor.
    pub fn describe(&self, memory: &FakeMemory, index: u16, fields: (u64, u32, u16, u16)) {
        put_descriptor(memory, self.base + u64::from(index) * 16, fields);
    }

    /// Makes a chain available by its head.
    pub fn publish(&mut self, memory: &FakeMemory, head: u16) {
        let slot = u64::from(self.available % self.size);
        memory.put(self.available_ring() + 4 + slot * 2, &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        memory.put(self.available_ring() + 2, &self.available.to_le_bytes());
    }

    /// Makes a chain of `(address, length, writable)` buffers available.
    pub fn push(&mut self, memory: &FakeMemory, buffers: &[(u64, u32, bool)]) -> u16 {
        let head = self.next_free;
        for (index, (gpa, length, writable)) in buffers.iter().enumerate() {
            let this = self.next_free;
            self.next_free = (self.next_free + 1) % self.size;
            let last = index + 1 == buffers.len();
            let flags = if *writable { WRITE } else { 0 } | if last { 0 } else { NEXT };
            self.describe(memory, this, (*gpa, *length, flags, self.next_free));
        }
        self.publish(memory, head);
        head
    }

    /// Takes what the device returned: head and written bytes.
    pub fn take_used(&mut self, memory: &FakeMemory) -> Option<(u32, u32)> {
        let index = memory.bytes(self.used_ring() + 2, 2);
        if u16::from_le_bytes([index[0], index[1]]) == self.used {
            return None;
        }
        let slot = u64::from(self.used % self.size);
        let element = memory.bytes(self.used_ring() + 4 + slot * 8, 8);
        self.used = self.used.wrapping_add(1);
        // Interrupt wanted for the next one.
        let event = self.available_ring() + 4 + u64::from(self.size) * 2;
        memory.put(event, &self.used.to_le_bytes());
        let word = |at: usize| u32::from_le_bytes(element[at..at + 4].try_into().unwrap());
        Some((word(0), word(4)))
    }
}

/// Writes one descriptor: address, length, flags, next.
pub fn put_descriptor(memory: &FakeMemory, at: u64, fields: (u64, u32, u16, u16)) {
    let (gpa, length, flags, next) = fields;
    memory.put(at, &gpa.to_le_bytes());
    memory.put(at + 8, &length.to_le_bytes());
    memory.put(at + 12, &flags.to_le_bytes());
    memory.put(at + 14, &next.to_le_bytes());
}

/// A device that was brought up.
#[derive(Clone, Debug)]
pub struct TestDriver {
    /// Address of its register window.
    pub bar: u64,
    /// Accepted features.
    pub features: u64,
    /// One for each queue.
    pub rings: Vec<TestRing>,
}

/// Configuration address of a device.
#[must_use]
pub const fn ecam(device: usize) -> u64 {
    ECAM_START + ((device as u64 + 1) << 15)
}

/// Brings a device up, with all features it offers but those of `without`.
pub fn bring_up(platform: &mut Platform, device: usize, without: u64) -> TestDriver {
    bring_up_sized(platform, device, without, 64)
}

/// The same with queues of so many descriptors.
pub fn bring_up_sized(platform: &mut Platform, device: usize, without: u64, size: u16) -> TestDriver {
    let config = ecam(device);
    assert_eq!(platform.mmio_read(config, 2), 0x1af4);
    platform.mmio_write(config + 4, 2, 6);
    let bar = platform.mmio_read(config + 0x10, 4);
    let mut read = |offset: u64, size: u8| platform.mmio_read(bar + offset, size);
    let queues = read(0x12, 2);
    platform.mmio_write(bar + 0x14, 1, 0);
    for status in [1, 3] {
        platform.mmio_write(bar + 0x14, 1, status);
    }
    let mut features = 0;
    for half in 0..2 {
        platform.mmio_write(bar, 4, half);
        let offered = platform.mmio_read(bar + 4, 4);
        features |= offered << (half * 32);
    }
    features &= !without;
    for half in 0..2 {
        platform.mmio_write(bar + 8, 4, half);
        platform.mmio_write(bar + 12, 4, (features >> (half * 32)) & 0xffff_ffff);
    }
    platform.mmio_write(bar + 0x14, 1, 0xb);
    assert_eq!(platform.mmio_read(bar + 0x14, 1), 0xb, "features accepted");
    // MSI-X: vector 0 for configuration, queue n has n + 1.
    for vector in 0..=queues {
        let entry = bar + u64::from(registers::MSIX_TABLE) + vector * 16;
        platform.mmio_write(entry, 4, 0xfee0_0000);
        platform.mmio_write(entry + 4, 4, 0);
        platform.mmio_write(entry + 8, 4, 0x30 + device as u64 * 8 + vector);
        platform.mmio_write(entry + 12, 4, 0);
    }
    platform.mmio_write(config + 0x42, 2, 0x8000);
    platform.mmio_write(bar + 0x10, 2, 0);
    let mut rings = Vec::new();
    for queue in 0..queues {
        let ring = TestRing::new(0x10_0000 + (device as u64 * 4 + queue) * 0x1_0000, size);
        platform.mmio_write(bar + 0x16, 2, queue);
        assert_eq!(platform.mmio_read(bar + 0x18, 2), 256);
        platform.mmio_write(bar + 0x18, 2, u64::from(ring.size));
        platform.mmio_write(bar + 0x1a, 2, queue + 1);
        assert_eq!(platform.mmio_read(bar + 0x1a, 2), queue + 1);
        for (offset, address) in
            [(0x20, ring.descriptors()), (0x28, ring.available_ring()), (0x30, ring.used_ring())]
        {
            platform.mmio_write(bar + offset, 4, address & 0xffff_ffff);
            platform.mmio_write(bar + offset + 4, 4, address >> 32);
        }
        platform.mmio_write(bar + 0x1c, 2, 1);
        assert_eq!(platform.mmio_read(bar + 0x1c, 2), 1);
        rings.push(ring);
    }
    platform.mmio_write(bar + 0x14, 1, 0xf);
    assert_eq!(platform.mmio_read(bar + 0x14, 1), 0xf, "running");
    TestDriver { bar, features, rings }
}

impl TestDriver {
    /// Kicks a queue by the slow way and returns what the platform makes of it.
    pub fn notify(&self, platform: &mut Platform, queue: u16) -> Option<PlatformEvent> {
        let offset = registers::NOTIFY + u32::from(queue) * registers::NOTIFY_MULTIPLIER;
        platform.mmio_write(self.bar + u64::from(offset), 2, u64::from(queue))
    }

    /// Device status.
    pub fn status(&self, platform: &mut Platform) -> u64 {
        platform.mmio_read(self.bar + 0x14, 1)
    }
}
