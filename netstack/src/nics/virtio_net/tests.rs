//! The driver against a card made of plain memory, honest and hostile.

extern crate std;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::offload::Offload;
use hv_bus::virtio::Location;
use hv_bus::virtio::function::register;
use hv_x86::BusAddress;

const BUS: u64 = 0x1_0000_0000;
const RING: u16 = 8;

struct Card {
    registers: RefCell<Vec<u8>>,
    offered: Cell<u64>,
    queue_size: Cell<u16>,
    queues: RefCell<[[u8; 24]; 2]>,
    doorbells: Cell<[u32; 2]>,
    memory: RefCell<Vec<u8>>,
}

#[derive(Clone)]
struct Handle(Rc<Card>);

impl Mmio for Handle {
    fn length(&self) -> usize {
        0x4000
    }
    fn read_u8(&self, offset: usize) -> u8 {
        self.0.registers.borrow()[offset]
    }
    fn read_u16(&self, offset: usize) -> u16 {
        if offset == register::QUEUE_SIZE {
            return self.0.queue_size.get();
        }
        if offset == register::QUEUE_NOTIFY_OFF {
            return self.selected() as u16;
        }
        u16::from_le_bytes([self.read_u8(offset), self.read_u8(offset + 1)])
    }
    fn read_u32(&self, offset: usize) -> u32 {
        if offset == register::DEVICE_FEATURE {
            let high = self.0.registers.borrow()[register::DEVICE_FEATURE_SELECT] == 1;
            return (self.0.offered.get() >> if high { 32 } else { 0 }) as u32;
        }
        u32::from(self.read_u16(offset)) | u32::from(self.read_u16(offset + 2)) << 16
    }
    fn write_u8(&self, offset: usize, value: u8) {
        self.0.registers.borrow_mut()[offset] = value;
    }
    fn write_u16(&self, offset: usize, value: u16) {
        if offset >= 0x3000 {
            let mut bells = self.0.doorbells.get();
            bells[(offset - 0x3000) / 4] += 1;
            self.0.doorbells.set(bells);
        }
        let bytes = value.to_le_bytes();
        self.write_u8(offset, bytes[0]);
        self.write_u8(offset + 1, bytes[1]);
    }
    fn write_u32(&self, offset: usize, value: u32) {
        if (32..56).contains(&offset) {
            let queue = self.selected();
            self.0.queues.borrow_mut()[queue][offset - 32..offset - 28].copy_from_slice(&value.to_le_bytes());
        }
        self.write_u16(offset, value as u16);
        self.write_u16(offset + 2, (value >> 16) as u16);
    }
}

impl Handle {
    fn selected(&self) -> usize {
        usize::from(self.0.registers.borrow()[register::QUEUE_SELECT])
    }
}

impl DmaMemory for Handle {
    fn length(&self) -> usize {
        self.0.memory.borrow().len()
    }
    fn bus_address(&self) -> BusAddress {
        BusAddress(BUS)
    }
    fn read(&self, offset: usize, target: &mut [u8]) -> bool {
        let memory = self.0.memory.borrow();
        let Some(source) = memory.get(offset..offset + target.len()) else { return false };
        target.copy_from_slice(source);
        true
    }
    fn write(&self, offset: usize, source: &[u8]) -> bool {
        let mut memory = self.0.memory.borrow_mut();
        let Some(target) = memory.get_mut(offset..offset + source.len()) else { return false };
        target.copy_from_slice(source);
        true
    }
    fn load_u16(&self, offset: usize) -> u16 {
        let mut bytes = [0; 2];
        if DmaMemory::read(self, offset, &mut bytes) { u16::from_le_bytes(bytes) } else { 0 }
    }
    fn store_u16(&self, offset: usize, value: u16) {
        let _ = DmaMemory::write(self, offset, &value.to_le_bytes());
    }
    fn fence(&self) {}
}

impl Card {
    fn address(&self, queue: usize, part: usize) -> usize {
        let raw = self.queues.borrow()[queue];
        let bytes: [u8; 8] = raw[part * 8..part * 8 + 8].try_into().unwrap();
        (u64::from_le_bytes(bytes) - BUS) as usize
    }
    fn word(&self, at: usize) -> u16 {
        let memory = self.memory.borrow();
        u16::from_le_bytes([memory[at], memory[at + 1]])
    }
    /// The n-th available descriptor: id, buffer offset, length, flags.
    fn available(&self, queue: usize, n: u16) -> Option<(u16, usize, usize, u16)> {
        let ring = self.address(queue, 1);
        if self.word(ring + 2) == n {
            return None;
        }
        let id = self.word(ring + 4 + 2 * usize::from(n % RING));
        let (buffer, length, flags) = self.descriptor(queue, id);
        Some((id, buffer, length, flags))
    }
    fn descriptor(&self, queue: usize, id: u16) -> (usize, usize, u16) {
        let at = self.address(queue, 0) + 16 * usize::from(id);
        let memory = self.memory.borrow();
        let buffer = u64::from_le_bytes(memory[at..at + 8].try_into().unwrap()) - BUS;
        let length = u32::from_le_bytes(memory[at + 8..at + 12].try_into().unwrap());
        (buffer as usize, length as usize, u16::from_le_bytes([memory[at + 12], memory[at + 13]]))
    }
    /// Spreads a frame over the next buffers and returns them all at once.
    fn deliver_merged(&self, n: u16, header: &[u8; 12], frame: &[u8], buffers: u16) {
        let bytes = [&header[..], frame].concat();
        let mut rest = &bytes[..];
        for number in n..n + buffers {
            let (id, buffer, length, _) = self.available(0, number).unwrap();
            let (now, later) = rest.split_at(length.min(rest.len()));
            self.memory.borrow_mut()[buffer..buffer + now.len()].copy_from_slice(now);
            self.complete(0, number, u32::from(id), now.len() as u32);
            rest = later;
        }
        assert!(rest.is_empty());
    }
    fn complete(&self, queue: usize, n: u16, id: u32, length: u32) {
        let ring = self.address(queue, 2);
        let at = ring + 4 + 8 * usize::from(n % RING);
        let mut memory = self.memory.borrow_mut();
        memory[at..at + 4].copy_from_slice(&id.to_le_bytes());
        memory[at + 4..at + 8].copy_from_slice(&length.to_le_bytes());
        memory[ring + 2..ring + 4].copy_from_slice(&(n.wrapping_add(1)).to_le_bytes());
    }
    fn deliver(&self, n: u16, frame: &[u8]) {
        let (id, buffer, length, flags) = self.available(0, n).unwrap();
        assert_eq!(flags, 2, "receive buffers are device-writable");
        assert!(frame.len() + 12 <= length);
        self.memory.borrow_mut()[buffer + 12..buffer + 12 + frame.len()].copy_from_slice(frame);
        self.complete(0, n, u32::from(id), frame.len() as u32 + 12);
    }
}

fn locations() -> Locations {
    let at = |offset| Location { bar: 4, offset, length: 0x1000 };
    Locations {
        common: at(0),
        notify: at(0x3000),
        notify_multiplier: 4,
        interrupt_status: Some(at(0x1000)),
        device: Some(at(0x2000)),
        msix_capability: None,
    }
}

fn config() -> Config {
    Config {
        ring_entries: RING,
        mtu: 1500,
        config_vector: None,
        receive_vector: Some(1),
        transmit_vector: Some(2),
        fallback_mac: MacAddress([2, 0, 0, 0, 0, 9]),
    }
}

fn card(offered: u64) -> Rc<Card> {
    let card = Card {
        registers: RefCell::new(vec![0; 0x4000]),
        offered: Cell::new(offered),
        queue_size: Cell::new(256),
        queues: RefCell::new([[0; 24]; 2]),
        doorbells: Cell::new([0; 2]),
        memory: RefCell::new(vec![0; VirtioNet::<Handle, Handle>::dma_bytes(RING)]),
    };
    card.registers.borrow_mut()[0x2000..0x200c]
        .copy_from_slice(&[0x52, 0x54, 0, 1, 2, 3, 1, 0, 0, 0, 0xdc, 5]);
    Rc::new(card)
}

const HONEST: u64 = FEATURE_VERSION_1 | FEATURE_MAC | FEATURE_STATUS | FEATURE_MTU;

fn driver(card: &Rc<Card>) -> Result<VirtioNet<Handle, Handle>, NicError> {
    driver_with(card, &config())
}

fn driver_with(card: &Rc<Card>, config: &Config) -> Result<VirtioNet<Handle, Handle>, NicError> {
    let bars = [None, None, None, None, Some(Handle(card.clone())), None];
    VirtioNet::new(bars, &locations(), Handle(card.clone()), config)
}

#[test]
fn frames_pass_both_ways_over_many_wraps() {
    for extra in [0, FEATURE_EVENT_INDEX] {
        let card = card(HONEST | extra | (1 << 17) | (1 << 18));
        let mut nic = driver(&card).unwrap();
        assert_eq!(nic.mac(), MacAddress([0x52, 0x54, 0, 1, 2, 3]));
        assert_eq!((nic.mtu(), nic.link_up()), (1500, true));
        assert!(!nic.feature_bits().contains(&17), "no control queue");
        let mut buffer = [0; 2048];
        for n in 0..1000u16 {
            let mut frame = vec![n as u8; 60 + usize::from(n % 1400)];
            frame[0] = (n >> 8) as u8;
            card.deliver(n, &frame);
            assert_eq!(nic.receive(&mut buffer), Some((frame.len(), Offload::None)));
            assert_eq!(&buffer[..frame.len()], &frame[..]);
            assert_eq!(nic.receive(&mut buffer), None);

            assert!(nic.transmit(&frame, &Offload::None));
            nic.flush();
            let (id, at, length, flags) = card.available(1, n).unwrap();
            assert_eq!((length, flags), (frame.len() + 12, 0));
            assert_eq!(&card.memory.borrow()[at..at + 12], &[0; 12]);
            assert_eq!(&card.memory.borrow()[at + 12..at + length], &frame[..]);
            card.complete(1, n, u32::from(id), 0);
        }
        assert_eq!(nic.counters().received_frames, 1000);
        assert!(!nic.is_broken());
    }
}

#[test]
fn a_full_ring_refuses_then_recovers() {
    let card = card(HONEST);
    let mut nic = driver(&card).unwrap();
    for _ in 0..RING {
        assert!(nic.transmit(&[0; 60], &Offload::None));
    }
    assert!(!nic.transmit(&[0; 60], &Offload::None));
    assert!(!nic.arm());
    nic.flush();
    nic.flush();
    assert_eq!(card.doorbells.get()[1], 1, "one doorbell for the batch");
    let (id, ..) = card.available(1, 0).unwrap();
    card.complete(1, 0, u32::from(id), 0);
    assert!(nic.arm(), "room is work");
    assert!(nic.transmit(&[0; 60], &Offload::None));
    assert!(!nic.transmit(&[0; 13], &Offload::None) && !nic.transmit(&[0; 4000], &Offload::None));
}

const OFFLOADS: u64 = FEATURE_CHECKSUM
    | FEATURE_GUEST_CHECKSUM
    | FEATURE_GUEST_TSO4
    | FEATURE_GUEST_TSO6
    | FEATURE_HOST_TSO4
    | FEATURE_HOST_TSO6
    | FEATURE_MERGE_RECEIVE;

/// A large TCP segment over IPv4 whose pieces are to be 1,000 octets.
fn large(payload: u16) -> (Vec<u8>, [u8; 12]) {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
    frame.extend((40 + payload).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    frame.extend((0..payload).map(|at| (at / 7) as u8));
    (frame, [1, 1, 54, 0, 0xe8, 3, 34, 0, 16, 0, 0, 0])
}

#[test]
fn features_that_need_others_are_not_taken_alone() {
    let taken = |offered| driver(&card(HONEST | offered)).unwrap().features & OFFLOADS;
    assert_eq!(taken(OFFLOADS), OFFLOADS);
    assert_eq!(taken(OFFLOADS & !FEATURE_CHECKSUM) & (FEATURE_HOST_TSO4 | FEATURE_HOST_TSO6), 0);
    for missing in [FEATURE_GUEST_CHECKSUM, FEATURE_MERGE_RECEIVE] {
        assert_eq!(taken(OFFLOADS & !missing) & (FEATURE_GUEST_TSO4 | FEATURE_GUEST_TSO6), 0);
    }
    let accepts = driver(&card(HONEST | FEATURE_CHECKSUM | FEATURE_HOST_TSO6)).unwrap().accepts();
    assert_eq!(accepts, Accepts { checksum: true, tso4: false, tso6: true });
}

#[test]
fn a_large_frame_goes_out_as_a_chain() {
    let card = card(HONEST | OFFLOADS);
    let mut nic = driver(&card).unwrap();
    let (mut frame, header) = large(5000);
    let offload = Offload::parse(&header, &mut frame).unwrap();
    for n in 0..40 {
        assert!(nic.transmit(&frame, &offload));
        let (head, mut at, mut length, mut flags) = card.available(1, 2 * n).unwrap();
        let (mut id, mut bytes, mut descriptors) = (head, Vec::new(), 1);
        loop {
            bytes.extend_from_slice(&card.memory.borrow()[at..at + length]);
            if flags & 1 == 0 {
                break;
            }
            id = card.word(card.address(1, 0) + 16 * usize::from(id) + 14);
            (at, length, flags) = card.descriptor(1, id);
            descriptors += 1;
        }
        assert!(bytes[..12] == header && bytes[12..] == frame);
        assert_eq!(descriptors, 4);
        // The whole chain comes back with its first descriptor.
        assert_eq!(nic.transmit.free_count(), usize::from(RING) - 4);
        assert!(nic.can_transmit());
        assert!(nic.transmit(&[0; 60], &Offload::None));
        assert!(!nic.can_transmit() && !nic.transmit(&frame, &offload));
        card.complete(1, 2 * n, u32::from(head), 0);
        let (small, ..) = card.available(1, 2 * n + 1).unwrap();
        card.complete(1, 2 * n + 1, u32::from(small), 0);
        assert!(nic.can_transmit());
        assert_eq!(nic.transmit.free_count(), usize::from(RING));
    }
    assert!(!nic.transmit(&frame, &Offload::None), "too long for the wire as it is");
    assert!(!nic.is_broken());
}

#[test]
fn a_received_frame_is_gathered_from_its_buffers() {
    let card = card(HONEST | OFFLOADS);
    let mut nic = driver(&card).unwrap();
    let (frame, mut header) = large(5000);
    header[10] = 4;
    let mut target = vec![0; 65_553];
    for n in (0..1000u16).step_by(5) {
        card.deliver_merged(n, &header, &frame, 4);
        let (length, offload) = nic.receive(&mut target).unwrap();
        assert!(target[..length] == frame);
        assert!(matches!(offload, Offload::Segments(..)));
        card.deliver_merged(n + 4, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[7; 60], 1);
        assert_eq!(nic.receive(&mut target), Some((60, Offload::None)));
    }
    // What does not fit, or claims what it is not, is dropped; the next one is not.
    let mut next = 1000;
    for (change, room) in [(header, 100), ([1, 4, 54, 0, 0xe8, 3, 34, 0, 16, 0, 4, 0], 65_553)] {
        card.deliver_merged(next, &change, &frame, 4);
        card.deliver_merged(next + 4, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[7; 60], 1);
        assert_eq!(nic.receive(&mut target[..room]), Some((60, Offload::None)));
        next += 5;
    }
    assert_eq!(nic.counters().malformed, 2);
    // A frame that claims buffers that are not there stops the card, as does none.
    for claimed in [5, 0] {
        let card = self::card(HONEST | OFFLOADS);
        let mut nic = driver(&card).unwrap();
        header[10] = claimed;
        card.deliver_merged(0, &header, &frame, 4);
        assert_eq!(nic.receive(&mut target), None);
        assert!(nic.is_broken());
    }
}

#[test]
fn a_wire_with_large_frames() {
    let jumbo = Config { mtu: 9000, ..config() };
    let with = |features, said: u16| {
        let card = card(features);
        card.registers.borrow_mut()[0x200a..0x200c].copy_from_slice(&said.to_le_bytes());
        driver_with(&card, &jumbo).unwrap().mtu()
    };
    assert_eq!(with(HONEST | OFFLOADS, 9000), 9000);
    assert_eq!(with(HONEST | OFFLOADS, 4000), 4000, "the device knows of less");
    assert_eq!(with((HONEST | OFFLOADS) & !FEATURE_MTU, 0), 9000, "it does not say");
    assert_eq!(with(HONEST, 9000), 1500, "no frame over several buffers");

    let card = card((HONEST | OFFLOADS) & !FEATURE_MTU);
    let mut nic = driver_with(&card, &jumbo).unwrap();
    let frame: Vec<u8> = (0..9014u16).map(|at| (at / 3) as u8).collect();
    assert!(nic.transmit(&frame, &Offload::None));
    assert!(!nic.transmit(&[0; 9019], &Offload::None));
    card.deliver_merged(0, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0], &frame, 6);
    let mut target = vec![0; 65_553];
    assert_eq!(nic.receive(&mut target), Some((9014, Offload::None)));
    assert!(target[..9014] == frame);
}

#[test]
fn unfit_cards_are_refused() {
    assert_eq!(driver(&card(FEATURE_MAC)).err(), Some(NicError::FeaturesRefused));
    let small = card(HONEST);
    small.queue_size.set(4);
    assert_eq!(driver(&small).err(), Some(NicError::RingTooSmall));
    let group = card(HONEST);
    group.registers.borrow_mut()[0x2000] = 1;
    assert_eq!(driver(&group).err(), Some(NicError::BadMac));
    let short = card(HONEST);
    short.memory.borrow_mut().truncate(100);
    assert_eq!(driver(&short).err(), Some(NicError::DmaTooSmall));
}

#[test]
fn a_lying_device_is_stopped() {
    let lies: [fn(&Card); 4] = [
        |card| card.complete(0, 0, 99, 60),
        |card| card.complete(0, 0, u32::MAX, 60),
        |card| card.complete(0, 0, 0, 100_000),
        |card| card.complete(0, 40, 0, 60),
    ];
    for lie in lies {
        let card = card(HONEST);
        let mut nic = driver(&card).unwrap();
        lie(&card);
        assert_eq!(nic.receive(&mut [0; 2048]), None);
        assert!(nic.is_broken());
        assert_eq!(card.registers.borrow()[register::DEVICE_STATUS], 0, "reset");
        assert!(!nic.transmit(&[0; 60], &Offload::None));
    }
    // The same descriptor returned twice.
    let card = card(HONEST);
    let mut nic = driver(&card).unwrap();
    let (id, ..) = card.available(1, 0).unwrap_or((0, 0, 0, 0));
    assert!(nic.transmit(&[0; 60], &Offload::None));
    card.complete(1, 0, u32::from(id), 0);
    card.complete(1, 1, u32::from(id), 0);
    nic.reclaim();
    assert!(nic.is_broken());
}

#[test]
fn scribbled_memory_never_panics() {
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..2_000 {
        let card = card(HONEST | FEATURE_EVENT_INDEX);
        let mut nic = driver(&card).unwrap();
        for _ in 0..50 {
            let at = (random() % 1024) as usize;
            card.memory.borrow_mut()[at] = random() as u8;
            nic.receive(&mut [0; 256]);
            nic.transmit(&[0; 64], &Offload::None);
            nic.flush();
            nic.arm();
        }
    }
}
