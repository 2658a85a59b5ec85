//! A guest's drivers on a node: rings in its memory, doorbells and interrupts
//! through the fake hypervisor.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use hv_abi::event::{self, Event};

use super::world::{MS, World, to_usize};
use machine::devices::virtio::registers;
use machine::devices::virtio::test_driver::{TestDriver, bring_up_sized, ecam};
use machine::guest_memory::FakeMemory;

const READ: u32 = 0;
const WRITE: u32 = 1;
const FLUSH: u32 = 4;
/// Where requests lie, above the rings.
const BUFFERS: u64 = 0x80_0000;
/// Octets of the header before each frame.
const NET_HEADER: usize = 12;

/// A device of a guest, brought up.
pub(super) struct Device {
    pub(super) domain: u32,
    pub(super) driver: TestDriver,
    number: u64,
}

impl Device {
    /// Its number among its guest's devices.
    pub(super) fn index(&self) -> usize {
        to_usize(self.number)
    }
}

impl World {
    fn memory(&self, domain: u32) -> Rc<FakeMemory> {
        self.hypervisor.domain(domain).memory.clone()
    }

    /// Brings a device up as its guest's driver does.
    pub(super) fn bring_up(&mut self, domain: u32, device: usize) -> Device {
        self.bring_up_sized(domain, device, 64)
    }

    /// The same with queues of so many descriptors.
    pub(super) fn bring_up_sized(&mut self, domain: u32, device: usize, size: u16) -> Device {
        let guests = &mut self.node.guests.list;
        let found = guests.iter_mut().find(|it| it.domain_id().is_some_and(|id| id.0 == domain)).unwrap();
        let driver = bring_up_sized(&mut found.platform, device, 0, size);
        // Any access makes the node register the doorbells.
        self.access(domain, event::ACCESS_MEMORY_READ, ecam(device), 2, 0);
        Device { domain, driver, number: device as u64 }
    }

    /// Rings for a queue by its doorbell.
    pub(super) fn ring(&mut self, device: &Device, queue: u16) {
        let offset = registers::NOTIFY + u32::from(queue) * registers::NOTIFY_MULTIPLIER;
        let gpa = device.driver.bar + u64::from(offset);
        let bells = self.hypervisor.domain(device.domain).doorbells.clone();
        let bell = bells.iter().find(|(_, (at, _))| *at == gpa);
        let (index, _) = bell.unwrap_or_else(|| panic!("no doorbell at {gpa:#x}: {bells:x?}"));
        let event = Event { kind: event::DOORBELL, domain: device.domain, index: *index, ..Event::default() };
        self.events.push(event);
    }

    /// Makes a disk request available and rings; `(data, status)` addresses.
    pub(super) fn submit(&mut self, disk: &mut Device, kind: u32, sector: u64, data: &[u8]) -> (u64, u64) {
        let memory = self.memory(disk.domain);
        let slot = u64::from(disk.driver.rings[0].available % 16);
        let base = BUFFERS + disk.number * 0x20_0000 + slot * 0x2_0000;
        let (body, status) = (base + 0x1000, base + 0x800);
        memory.put(base, &kind.to_le_bytes());
        memory.put(base + 4, &[0; 4]);
        memory.put(base + 8, &sector.to_le_bytes());
        memory.put(status, &[0xff]);
        memory.put(body, data);
        let length = u32::try_from(data.len()).unwrap();
        let mut buffers = vec![(base, 16, false)];
        if length > 0 {
            buffers.push((body, length, kind == READ));
        }
        buffers.push((status, 1, true));
        disk.driver.rings[0].push(&memory, &buffers);
        self.ring(disk, 0);
        (body, status)
    }

    /// The status of a disk request, if it has ended.
    pub(super) fn status(&mut self, disk: &mut Device, status: u64) -> Option<u8> {
        let memory = self.memory(disk.domain);
        let said = *memory.bytes(status, 1).first()?;
        if said == 0xff {
            return None;
        }
        memory.put(status, &[0xff]);
        assert!(disk.driver.rings[0].take_used(&memory).is_some());
        Some(said)
    }

    /// What a request left in the guest's memory.
    pub(super) fn bytes(&self, disk: &Device, at: u64, length: usize) -> Vec<u8> {
        self.memory(disk.domain).bytes(at, length)
    }

    /// Waits for one disk request: its status.
    pub(super) fn completed(&mut self, disk: &mut Device, status: u64) -> u8 {
        let domain = disk.domain;
        self.until("a disk request's end", |world| world.memory(domain).bytes(status, 1) != [0xff]);
        let memory = self.memory(domain);
        assert!(disk.driver.rings[0].take_used(&memory).is_some());
        memory.bytes(status, 1)[0]
    }

    pub(super) fn disk_write(&mut self, disk: &mut Device, sector: u64, data: &[u8]) -> u8 {
        let (_, status) = self.submit(disk, WRITE, sector, data);
        self.completed(disk, status)
    }

    pub(super) fn disk_flush(&mut self, disk: &mut Device) -> u8 {
        let (_, status) = self.submit(disk, FLUSH, 0, &[]);
        self.completed(disk, status)
    }

    pub(super) fn disk_read(&mut self, disk: &mut Device, sector: u64, sectors: usize) -> Vec<u8> {
        let (body, status) = self.submit(disk, READ, sector, &vec![0; sectors * 512]);
        assert_eq!(self.completed(disk, status), 0);
        self.memory(disk.domain).bytes(body, sectors * 512)
    }

    /// A card's address.
    pub(super) fn card_mac(&self, card: &Device) -> [u8; 6] {
        let guest =
            self.node.guests.list.iter().find(|it| it.domain_id().is_some_and(|id| id.0 == card.domain));
        let guest = guest.unwrap();
        guest.machine.network_cards[card.index() - guest.first_card()].mac
    }

    /// Gives a card buffers for frames.
    pub(super) fn offer_buffers(&mut self, card: &mut Device, count: u64) {
        let memory = self.memory(card.domain);
        for index in 0..count {
            let at = BUFFERS + card.number * 0x20_0000 + index * 0x1000;
            card.driver.rings[0].push(&memory, &[(at, 2048, true)]);
        }
        self.ring(card, 0);
    }

    /// Sends a frame from a card.
    pub(super) fn send_frame(&mut self, card: &mut Device, frame: &[u8]) {
        self.send_with(card, [0; NET_HEADER], frame);
    }

    /// Sends a frame from a card behind a header that leaves work to others.
    pub(super) fn send_with(&mut self, card: &mut Device, header: [u8; NET_HEADER], frame: &[u8]) {
        let memory = self.memory(card.domain);
        let at = BUFFERS + card.number * 0x20_0000 + 0x10_0000;
        memory.put(at, &header);
        memory.put(at + NET_HEADER as u64, frame);
        let length = u32::try_from(NET_HEADER + frame.len()).unwrap();
        card.driver.rings[1].push(&memory, &[(at, length, false)]);
        drop(memory);
        self.ring(card, 1);
        self.run(MS);
        let memory = self.memory(card.domain);
        assert!(card.driver.rings[1].take_used(&memory).is_some(), "the card took the frame");
    }

    /// The next frame that a card received.
    pub(super) fn take_frame(&mut self, card: &mut Device) -> Option<Vec<u8>> {
        self.take_with(card).map(|(_, frame)| frame)
    }

    /// The next frame that a card received, out of all its buffers, and its header.
    pub(super) fn take_with(&mut self, card: &mut Device) -> Option<([u8; NET_HEADER], Vec<u8>)> {
        let memory = self.memory(card.domain);
        let mut bytes = Vec::new();
        loop {
            let (head, length) = card.driver.rings[0].take_used(&memory)?;
            let at = BUFFERS + card.number * 0x20_0000 + u64::from(head) * 0x1000;
            bytes.push(memory.bytes(at, to_usize(u64::from(length))));
            // The last octets of the header count the buffers.
            if bytes.len() >= usize::from(u16::from_le_bytes([bytes[0][10], bytes[0][11]])) {
                break;
            }
        }
        let mut header = bytes.concat();
        let frame = header.split_off(NET_HEADER);
        Some((header.try_into().unwrap(), frame))
    }
}
