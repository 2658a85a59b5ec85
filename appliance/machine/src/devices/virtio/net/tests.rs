use alloc::vec;

use super::*;
use crate::devices::platform::{DeviceConfig, Platform};
use crate::devices::virtio::test_driver::{TestDriver, bring_up};
use crate::guest_memory::FakeMemory;
use crate::limits::{WORK_OF_CHAIN, WORK_OF_DESCRIPTOR};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const DATA: u64 = 0x9_0000;

struct World {
    memory: FakeMemory,
    platform: Platform,
    driver: TestDriver,
}

fn world(without: u64) -> World {
    let mut platform = Platform::new(&[DeviceConfig::Net { mac: MAC, mtu: 1400 }]);
    let driver = bring_up(&mut platform, 0, without);
    World { memory: FakeMemory::new(4 << 20, 0), platform, driver }
}

impl World {
    fn offer(&mut self, gpa: u64, length: u32) {
        self.driver.rings[0].push(&self.memory, &[(gpa, length, true)]);
    }

    fn send(&mut self, buffers: &[(u64, u32, bool)]) {
        self.driver.rings[1].push(&self.memory, buffers);
    }

    fn receive(&mut self, frame: &[u8]) -> bool {
        self.platform.net_mut(0).unwrap().push_receive(&self.memory, frame, [0; NET_HEADER_BYTES])
    }

    fn transmitted(&mut self, target: &mut [u8]) -> Option<usize> {
        let (length, header) = self.platform.net_mut(0).unwrap().pop_transmit(&self.memory, target)?;
        assert_eq!(header, [0; NET_HEADER_BYTES]);
        Some(length)
    }

    fn counters(&mut self) -> NetCounters {
        self.platform.net_mut(0).unwrap().counters
    }
}

#[test]
fn configuration_has_the_address_the_link_and_the_mtu() {
    let mut world = world(0);
    let config = world.driver.bar + 0x200;
    for (offset, byte) in (0..).zip(MAC) {
        assert_eq!(world.platform.mmio_read(config + offset, 1), u64::from(byte));
    }
    assert_eq!(world.platform.mmio_read(config + 6, 2), 1);
    // VIRTIO_NET_F_MTU (5.1.3), and where it is told (5.1.4).
    let _ = world.platform.mmio_write(world.driver.bar, 4, 0);
    assert_ne!(world.platform.mmio_read(world.driver.bar + 4, 4) & 1 << 3, 0);
    assert_eq!(world.platform.mmio_read(config + 10, 2), 1400);
    world.platform.net_mut(0).unwrap().set_link(false);
    assert_eq!(world.platform.mmio_read(config + 6, 2), 0);
    assert_eq!(world.platform.next_interrupt().unwrap().data, 0x30);
}

#[test]
fn frames_go_out_however_they_are_cut() {
    let frame: Vec<u8> = (0..60).collect();
    for cut in 0..70 {
        let mut world = world(0);
        let mut bytes = vec![0; NET_HEADER_BYTES];
        bytes.extend(&frame);
        world.memory.put(DATA, &bytes);
        let first = u32::try_from(cut).unwrap() + 1;
        world.send(&[(DATA, first, false), (DATA + u64::from(first), 72 - first, false)]);
        let mut target = [0xff; FRAME_BYTES_MAX];
        assert_eq!(world.transmitted(&mut target), Some(60));
        assert_eq!(target[..60], frame);
        assert_eq!(world.transmitted(&mut target), None);
        assert_eq!(world.driver.rings[1].take_used(&world.memory), Some((0, 0)));
        assert_eq!(world.platform.next_interrupt().unwrap().data, 0x32);
    }
}

#[test]
fn impossible_frames_are_dropped_and_the_next_goes_out() {
    let mut world = world(0);
    for length in [1, 12, 25, 12 + 9019, 65_536] {
        world.send(&[(DATA, length, false)]);
    }
    world.send(&[(DATA, 12 + 9018, false)]);
    let mut target = [0; FRAME_BYTES_MAX];
    assert_eq!(world.transmitted(&mut target), Some(9018));
    assert_eq!((world.counters().transmitted, world.counters().transmit_dropped), (1, 5));
    world.send(&[(DATA, 12 + 100, false)]);
    assert_eq!(world.transmitted(&mut target[..99]), None, "no room for it");
}

#[test]
fn frames_come_in_with_their_header() {
    for without in [0, FEATURE_MERGE_RECEIVE] {
        let mut world = world(without);
        assert!(!world.receive(&[1; 60]), "no buffer");
        world.offer(DATA, 1530);
        world.memory.put(DATA, &[0xff; 100]);
        assert!(world.receive(&[1; 60]));
        assert_eq!(world.memory.bytes(DATA, 13), *b"\0\0\0\0\0\0\0\0\0\0\x01\0\x01");
        assert_eq!(world.memory.bytes(DATA + 71, 2), [1, 0xff]);
        assert_eq!(world.driver.rings[0].take_used(&world.memory), Some((0, 72)));
        assert_eq!(world.platform.next_interrupt().unwrap().data, 0x31);
        assert_eq!((world.counters().received, world.counters().receive_dropped), (1, 1));
    }
}

#[test]
fn a_frame_is_spread_over_buffers_or_waits_for_none() {
    let mut world = world(0);
    let frame: Vec<u8> = (0..100).collect();
    world.offer(DATA, 50);
    assert!(!world.receive(&frame));
    assert_eq!(world.driver.rings[0].take_used(&world.memory), None, "nothing is half done");
    world.offer(DATA + 0x100, 40);
    world.offer(DATA + 0x200, 40);
    assert!(world.receive(&frame));
    assert_eq!(world.memory.bytes(DATA + 10, 2), [3, 0]);
    assert_eq!(world.memory.bytes(DATA + 12, 38), frame[..38]);
    assert_eq!(world.memory.bytes(DATA + 0x100, 40), frame[38..78]);
    assert_eq!(world.memory.bytes(DATA + 0x200, 22), frame[78..]);
    let ring = &mut world.driver.rings[0];
    let used: Vec<_> = core::iter::from_fn(|| ring.take_used(&world.memory)).collect();
    assert_eq!(used, [(0, 50), (1, 40), (2, 22)]);
}

#[test]
fn a_frame_is_spread_over_so_many_pieces_and_no_more() {
    let mut world = world(0);
    // Of one octet each: none of them is a place for a frame of any use.
    let tiny: Vec<(u64, u32, bool)> = (0..16).map(|piece| (DATA + piece, 1, true)).collect();
    for _ in 0..3 {
        world.driver.rings[0].push(&world.memory, &tiny);
    }
    let frame = [7; 60];
    assert!(!world.receive(&frame));
    let net = world.platform.net_mut(0).unwrap();
    let pieces = (FRAME_PIECES + frame.len() / FRAME_PIECE_BYTES) as u64;
    assert!(net.transport.take_work() <= pieces * WORK_OF_CHAIN + (pieces + 1) * WORK_OF_DESCRIPTOR);
    assert_eq!(net.counters.receive_dropped, 1);
}

#[test]
fn a_chain_is_followed_as_far_as_the_frame_goes() {
    let mut world = world(0);
    let chain: Vec<(u64, u32, bool)> = (0..30).map(|it| (DATA + it * 100, 100, true)).collect();
    world.driver.rings[0].push(&world.memory, &chain);
    let frame: Vec<u8> = (0..150).collect();
    assert!(world.receive(&frame));
    assert_eq!(
        world.platform.net_mut(0).unwrap().transport.take_work(),
        WORK_OF_CHAIN + 2 * WORK_OF_DESCRIPTOR
    );
    assert_eq!(world.memory.bytes(DATA + 12, 150), frame);
    assert_eq!(world.driver.rings[0].take_used(&world.memory), Some((0, 162)));
}

#[test]
fn without_merging_a_small_buffer_drops_the_frame() {
    let mut world = world(FEATURE_MERGE_RECEIVE);
    world.offer(DATA, 50);
    world.offer(DATA + 0x100, 1530);
    assert!(!world.receive(&[1; 100]));
    assert!(world.receive(&[1; 38]));
    assert!(!world.receive(&[0; FRAME_BYTES_MAX + 1]));
}

#[test]
fn no_frame_moves_before_the_driver_runs() {
    let mut platform = Platform::new(&[DeviceConfig::Net { mac: MAC, mtu: 1400 }]);
    let memory = FakeMemory::new(0x1000, 0);
    let net = platform.net_mut(0).unwrap();
    assert!(!net.push_receive(&memory, &[0; 60], [0; NET_HEADER_BYTES]));
    assert_eq!(net.pop_transmit(&memory, &mut [0; 2000]), None);
    assert_eq!(net.transport.fault(), None);
}

/// A large TCP segment and the header that leaves its cutting to others.
fn large(payload: u16) -> (Vec<u8>, [u8; NET_HEADER_BYTES]) {
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 7, 8, 0, 0x45, 0];
    frame.extend((40 + payload).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    frame.extend((0..payload).map(|at| at.to_le_bytes()[0]));
    (frame, [1, 1, 54, 0, 0xa6, 5, 34, 0, 16, 0, 0, 0])
}

#[test]
fn a_large_segment_goes_out_and_comes_in_whole() {
    let mut world = world(0);
    let (frame, mut header) = large(65_000);
    world.memory.put(DATA, &header);
    world.memory.put(DATA + 12, &frame);
    world.send(&[(DATA, 12 + 65_054, false)]);
    let mut target = vec![0; LARGE_FRAME_BYTES_MAX];
    let net = world.platform.net_mut(0).unwrap();
    assert_eq!(net.pop_transmit(&world.memory, &mut target), Some((frame.len(), header)));
    assert!(target[..frame.len()] == frame);
    assert_eq!(net.taken(), Taken { checksum: true, tso4: true, tso6: true });

    for number in 0..16 {
        world.offer(DATA + number * 0x1_0000, 4096);
    }
    let net = world.platform.net_mut(0).unwrap();
    assert!(net.push_receive(&world.memory, &frame, header));
    header[10] = 16;
    assert_eq!(world.memory.bytes(DATA, 12), header);
    assert!(world.memory.bytes(DATA + 12, 4084) == frame[..4084]);
    assert!(world.memory.bytes(DATA + 0x1_0000, 4096) == frame[4084..8180]);
    let ring = &mut world.driver.rings[0];
    let used: Vec<_> = core::iter::from_fn(|| ring.take_used(&world.memory)).collect();
    assert_eq!((used.len(), used[0].1, used[15].1), (16, 4096, 65_066 - 15 * 4096));
}

#[test]
fn nothing_is_left_to_a_driver_that_did_not_agree() {
    let mut world = world(FEATURE_GUEST_CHECKSUM | FEATURE_GUEST_TSO4 | FEATURE_GUEST_TSO6);
    let net = world.platform.net_mut(0).unwrap();
    assert_eq!(net.taken(), Taken::default());
}
