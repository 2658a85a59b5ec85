//! The driver against a device of plain memory, honest and not.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use hv_abi::device::{DmaMemory, Mmio};
use hv_bus::virtio::function::register;
use hv_bus::virtio::{Location, Locations};
use hv_x86::BusAddress;

use super::*;
use crate::tests::mutate::Random;

const BUS: u64 = 0x10_0000;
/// Where the ring has its parts.
const AVAILABLE: usize = 128;
const USED: usize = 152;
const DEVICE: usize = 0x100;
const NOTIFY: usize = 0x200;

/// What the device and the driver share.
struct Shared {
    memory: Vec<u8>,
    registers: Vec<u8>,
    features: u64,
    disk: Vec<u8>,
    flushes: usize,
    status: u8,
    /// Answers only when told.
    slow: bool,
    seen: u16,
}

#[derive(Clone)]
struct Handle(Rc<RefCell<Shared>>);

impl Shared {
    fn number(&self, at: usize, length: usize) -> u64 {
        self.memory[at..at + length].iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte))
    }

    /// One request, by the book.
    fn serve(&mut self) {
        while self.number(AVAILABLE + 2, 2) != u64::from(self.seen) {
            let slot = usize::from(self.seen % ENTRIES);
            let head = self.number(AVAILABLE + 4 + 2 * slot, 2);
            let mut parts = Vec::new();
            let mut index = usize::try_from(head).unwrap();
            loop {
                let at = usize::try_from(self.number(index * 16, 8) - BUS).unwrap();
                let length = usize::try_from(self.number(index * 16 + 8, 4)).unwrap();
                let flags = self.number(index * 16 + 12, 2);
                parts.push((at, length, flags & 2 != 0));
                if flags & 1 == 0 {
                    break;
                }
                index = usize::try_from(self.number(index * 16 + 14, 2)).unwrap();
            }
            let kind = self.number(parts[0].0, 4);
            let from = usize::try_from(self.number(parts[0].0 + 8, 8)).unwrap() * SECTOR;
            assert_eq!((parts[0].1, parts[0].2), (16, false));
            match kind {
                0 => {
                    let (at, length, writes) = parts[1];
                    assert!(writes);
                    self.memory[at..at + length].copy_from_slice(&self.disk[from..from + length]);
                }
                1 => {
                    let (at, length, writes) = parts[1];
                    assert!(!writes);
                    self.disk[from..from + length].copy_from_slice(&self.memory[at..at + length]);
                }
                4 => self.flushes += 1,
                other => panic!("request {other}"),
            }
            let (at, length, writes) = *parts.last().unwrap();
            assert_eq!((length, writes), (1, true));
            self.memory[at] = self.status;
            self.seen = self.seen.wrapping_add(1);
            let used = self.number(USED + 2, 2);
            let slot = USED + 4 + 8 * usize::try_from(used % u64::from(ENTRIES)).unwrap();
            self.memory[slot..slot + 8].copy_from_slice(&head.to_le_bytes());
            self.memory[USED + 2..USED + 4].copy_from_slice(&used.wrapping_add(1).to_le_bytes()[..2]);
        }
    }
}

impl Mmio for Handle {
    fn length(&self) -> usize {
        0x300
    }
    fn read_u8(&self, offset: usize) -> u8 {
        self.0.borrow().registers[offset]
    }
    fn read_u16(&self, offset: usize) -> u16 {
        let shared = self.0.borrow();
        u16::from_le_bytes(shared.registers[offset..offset + 2].try_into().unwrap())
    }
    fn read_u32(&self, offset: usize) -> u32 {
        let shared = self.0.borrow();
        if offset == register::DEVICE_FEATURE {
            let select = shared.registers[register::DEVICE_FEATURE_SELECT];
            return hv_x86::low32(shared.features >> (32 * u32::from(select)));
        }
        u32::from_le_bytes(shared.registers[offset..offset + 4].try_into().unwrap())
    }
    fn write_u8(&self, offset: usize, value: u8) {
        self.0.borrow_mut().registers[offset] = value;
    }
    fn write_u16(&self, offset: usize, value: u16) {
        let mut shared = self.0.borrow_mut();
        shared.registers[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
        if offset == NOTIFY && !shared.slow {
            shared.serve();
        }
    }
    fn write_u32(&self, offset: usize, value: u32) {
        self.0.borrow_mut().registers[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
}

impl DmaMemory for Handle {
    fn length(&self) -> usize {
        self.0.borrow().memory.len()
    }
    fn bus_address(&self) -> BusAddress {
        BusAddress(BUS)
    }
    fn read(&self, offset: usize, target: &mut [u8]) -> bool {
        target.copy_from_slice(&self.0.borrow().memory[offset..offset + target.len()]);
        true
    }
    fn write(&self, offset: usize, source: &[u8]) -> bool {
        self.0.borrow_mut().memory[offset..offset + source.len()].copy_from_slice(source);
        true
    }
    fn load_u16(&self, offset: usize) -> u16 {
        hv_x86::low16(self.0.borrow().number(offset, 2))
    }
    fn store_u16(&self, offset: usize, value: u16) {
        assert!(self.write(offset, &value.to_le_bytes()));
    }
    fn fence(&self) {}
}

type Disk = VirtioBlock<Handle, Handle>;

fn started(features: u64, sectors: u64) -> (Handle, Result<Disk, DiskError>) {
    let mut registers = vec![0; 0x300];
    registers[register::QUEUE_SIZE..register::QUEUE_SIZE + 2].copy_from_slice(&256u16.to_le_bytes());
    registers[DEVICE..DEVICE + 8].copy_from_slice(&sectors.to_le_bytes());
    let handle = Handle(Rc::new(RefCell::new(Shared {
        memory: vec![0; Disk::DMA_BYTES],
        registers,
        features,
        disk: vec![0; usize::try_from(sectors).unwrap() * SECTOR],
        flushes: 0,
        status: 0,
        slow: false,
        seen: 0,
    })));
    let window = |offset, length| Location { bar: 0, offset, length };
    let locations = Locations {
        common: window(0, 0x100),
        notify: window(NOTIFY, 0x100),
        notify_multiplier: 4,
        interrupt_status: None,
        device: Some(window(DEVICE, 0x100)),
        msix_capability: None,
    };
    let bars = [Some(handle.clone()), None, None, None, None, None];
    let disk = VirtioBlock::new(bars, &locations, handle.clone(), Some(0));
    (handle, disk)
}

const GOOD: u64 = FEATURE_VERSION_1 | FEATURE_FLUSH | 0xff << 50;

#[test]
fn written_data_is_read_back_and_flushed() {
    let (device, disk) = started(GOOD, 2048);
    let mut disk = disk.unwrap();
    assert_eq!(disk.sectors(), 2048);
    assert_eq!(device.0.borrow().registers[register::DEVICE_STATUS], 15);
    for (tag, length) in [(0, 512), (1, DATA_BYTES), (0, 4096)] {
        let bytes: Vec<u8> = (0..=255).cycle().skip(length / 512).take(length).collect();
        assert!(disk.begin(tag, &DiskWork::Write { sector: 9, bytes: bytes.clone() }));
        assert!(!disk.begin(tag, &DiskWork::Flush), "one at a time");
        assert!(disk.arm());
        assert_eq!(disk.take(), Some((tag, Some(Vec::new()))));
        assert!(disk.begin(tag, &DiskWork::Flush));
        assert_eq!(disk.take(), Some((tag, Some(Vec::new()))));
        let sectors = u32::try_from(length / SECTOR).unwrap();
        assert!(disk.begin(tag, &DiskWork::Read { sector: 9, sectors }));
        assert_eq!(disk.take(), Some((tag, Some(bytes))));
        assert_eq!(disk.take(), None);
    }
    assert_eq!(device.0.borrow().flushes, 3);
    // Two at a time, and a device that fails.
    device.0.borrow_mut().slow = true;
    assert!(disk.begin(0, &DiskWork::Read { sector: 0, sectors: 1 }));
    assert!(disk.begin(1, &DiskWork::Flush));
    assert_eq!(disk.take(), None);
    device.0.borrow_mut().status = 1;
    device.0.borrow_mut().serve();
    assert_eq!((disk.take(), disk.take()), (Some((0, None)), Some((1, None))));
}

#[test]
fn what_cannot_be_is_not_begun() {
    let (_, disk) = started(GOOD, 100);
    let mut disk = disk.unwrap();
    for work in [
        DiskWork::Read { sector: 100, sectors: 1 },
        DiskWork::Read { sector: u64::MAX, sectors: 1 },
        DiskWork::Read { sector: 0, sectors: 0 },
        DiskWork::Read { sector: 0, sectors: u32::MAX },
        DiskWork::Write { sector: 0, bytes: vec![0; 511] },
        DiskWork::Write { sector: 99, bytes: vec![0; 1024] },
    ] {
        assert!(!disk.begin(0, &work), "{work:?}");
    }
    assert!(!disk.begin(2, &DiskWork::Flush));
    // Without a cache there is nothing to flush.
    let (device, disk) = started(FEATURE_VERSION_1, 100);
    let mut disk = disk.unwrap();
    assert!(disk.begin(0, &DiskWork::Flush) && disk.arm());
    assert_eq!((disk.take(), device.0.borrow().flushes), (Some((0, Some(Vec::new()))), 0));
    assert_eq!(started(GOOD | FEATURE_READ_ONLY, 100).1.err(), Some(DiskError::ReadOnly));
    assert_eq!(started(FEATURE_FLUSH, 100).1.err(), Some(DiskError::FeaturesRefused));
}

#[test]
fn a_device_that_breaks_its_ring_is_stopped() {
    let mut random = Random::new(99);
    for round in 0..2_000 {
        let (device, disk) = started(GOOD, 100);
        let mut disk = disk.unwrap();
        device.0.borrow_mut().slow = true;
        assert!(disk.begin(0, &DiskWork::Read { sector: 0, sectors: 4 }));
        for _ in 0..8 {
            let at = USED + usize::try_from(random.below(68)).unwrap();
            device.0.borrow_mut().memory[at] = random.byte();
        }
        device.0.borrow_mut().memory[USED + 2] |= 1;
        let mut ended = 0;
        while let Some((tag, _)) = disk.take() {
            assert_eq!(tag, 0, "round {round}");
            ended += 1;
        }
        assert!(ended <= 1, "round {round}");
    }
}
