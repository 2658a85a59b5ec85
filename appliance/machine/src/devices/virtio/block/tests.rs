use alloc::vec;

use super::*;
use crate::devices::platform::{DeviceConfig, Platform};
use crate::devices::virtio::test_driver::{TestDriver, bring_up};
use crate::guest_memory::FakeMemory;
use crate::test_random::TestRandom;

const HEADER: u64 = 0x8_0000;
const STATUS: u64 = 0x8_0100;
const DATA: u64 = 0x9_0000;

struct World {
    memory: FakeMemory,
    platform: Platform,
    driver: TestDriver,
}

fn world(read_only: bool, discard: bool) -> World {
    world_with(read_only, discard, BlockGeometry::default())
}

fn world_with(read_only: bool, discard: bool, geometry: BlockGeometry) -> World {
    let config = BlockConfig { sectors: 100, read_only, discard, geometry, serial: b"root".to_vec() };
    let mut platform = Platform::new(&[DeviceConfig::Block(config)]);
    let driver = bring_up(&mut platform, 0, 0);
    World { memory: FakeMemory::new(4 << 20, 0), platform, driver }
}

impl World {
    fn request(&mut self, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> u16 {
        let mut header = vec![0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.memory.put(HEADER, &header);
        self.memory.put(STATUS, &[0xee]);
        let mut buffers = vec![(HEADER, 16, false)];
        buffers.extend_from_slice(data);
        buffers.push((STATUS, 1, true));
        self.driver.rings[0].push(&self.memory, &buffers)
    }

    fn disk(&mut self) -> &mut VirtioBlock {
        self.platform.block_mut(0).unwrap()
    }

    fn next(&mut self) -> Option<BlockOperation> {
        self.platform.block_mut(0).unwrap().next_operation(&self.memory)
    }

    fn finish(&mut self, token: BlockToken, status: BlockStatus) -> bool {
        self.platform.block_mut(0).unwrap().complete(token, status, &self.memory)
    }

    fn used(&mut self) -> Option<(u32, u32)> {
        self.driver.rings[0].take_used(&self.memory)
    }

    fn status(&self) -> u8 {
        self.memory.bytes(STATUS, 1)[0]
    }
}

#[test]
fn a_disk_of_longer_blocks_says_so_and_takes_whole_ones() {
    let geometry =
        BlockGeometry { block_bytes: 4_096, physical_exponent: 2, aligned_block: 1, least_blocks: 16 };
    let mut world = world_with(false, true, geometry);
    assert_ne!(world.driver.features & FEATURE_TOPOLOGY, 0);
    // Virtio 1.2, 5.2.4: blk_size, topology, and the discard's alignment in sectors.
    let config = world.disk().config_bytes();
    assert_eq!(config[20..32], [0, 16, 0, 0, 2, 1, 16, 0, 0, 0, 0, 0]);
    assert_eq!(config[44..48], [8, 0, 0, 0]);
    assert_eq!(world_with(false, true, BlockGeometry::default()).disk().config_bytes()[44..48], [1, 0, 0, 0]);
    for (kind, sector, length, taken) in [
        (REQUEST_IN, 8, 4_096, true),
        (REQUEST_OUT, 16, 8_192, true),
        (REQUEST_IN, 7, 4_096, false),
        (REQUEST_IN, 8, 512, false),
        (REQUEST_OUT, 8, 4_608, false),
        (REQUEST_OUT, 1, 4_096, false),
    ] {
        world.request(kind, sector, &[(DATA, length, kind == REQUEST_IN)]);
        assert_eq!(world.next().is_some(), taken, "{kind} {sector} {length}");
        assert_eq!(world.status(), if taken { 0xee } else { 1 }, "an I/O error: {kind} {sector} {length}");
    }
    for (first, count, taken) in [(8u64, 16u32, true), (8, 1, false), (4, 8, false)] {
        let range = [&first.to_le_bytes()[..], &count.to_le_bytes(), &[0; 4]].concat();
        world.memory.put(DATA, &range);
        world.request(REQUEST_DISCARD, 0, &[(DATA, 16, false)]);
        assert_eq!(world.next().is_some(), taken, "{first} {count}");
    }
}

#[test]
fn read_copies_in_and_interrupts() {
    let mut world = world(false, false);
    let head = world.request(REQUEST_IN, 7, &[(DATA, 512, true), (DATA + 0x1000, 512, true)]);
    let operation = world.next().unwrap();
    assert_eq!(
        (operation.kind, operation.sector, operation.length, operation.segments),
        (BlockKind::Read, 7, 1024, 3)
    );
    assert_eq!(world.next(), None);
    let block = world.platform.block_mut(0).unwrap();
    block.store(operation.token, 500, &[9; 24], &world.memory).unwrap();
    assert_eq!(block.store(operation.token, 1000, &[9; 25], &world.memory), Err(BlockRefusal::Range));
    assert_eq!(block.load(operation.token, 0, &mut [0; 1], &world.memory), Err(BlockRefusal::Range));
    assert_eq!(world.memory.bytes(DATA + 500, 12), [9; 12]);
    assert_eq!(world.memory.bytes(DATA + 0x1000, 13)[11..], [9, 0]);
    assert_eq!(world.used(), None);
    assert!(world.finish(operation.token, BlockStatus::Ok));
    assert_eq!(world.used(), Some((u32::from(head), 1025)));
    assert_eq!(world.status(), 0);
    let message = world.platform.next_interrupt().unwrap();
    assert_eq!((message.address, message.data), (0xfee0_0000, 0x31));
    assert_eq!(world.platform.next_interrupt(), None);
    assert!(!world.finish(operation.token, BlockStatus::Ok), "only once");
}

#[test]
fn write_and_flush_copy_out_and_report_errors() {
    let mut world = world(false, false);
    world.memory.put(DATA, &[5; 512]);
    world.request(REQUEST_OUT, 99, &[(DATA, 512, false)]);
    let operation = world.next().unwrap();
    assert_eq!((operation.kind, operation.length), (BlockKind::Write, 512));
    let mut data = [0; 512];
    world.platform.block_mut(0).unwrap().load(operation.token, 0, &mut data, &world.memory).unwrap();
    assert_eq!(data, [5; 512]);
    world.finish(operation.token, BlockStatus::IoError);
    assert_eq!((world.status(), world.used().unwrap().1), (1, 1));
    world.request(REQUEST_FLUSH, 0, &[]);
    let operation = world.next().unwrap();
    assert_eq!((operation.kind, operation.length), (BlockKind::Flush, 0));
    world.finish(operation.token, BlockStatus::Ok);
    assert_eq!(world.status(), 0);
}

#[test]
fn impossible_requests_are_answered_without_storage() {
    for (read_only, kind, sector, length, writable, status) in [
        (false, REQUEST_IN, 100, 512, true, 1),
        (false, REQUEST_IN, 99, 1024, true, 1),
        (false, REQUEST_IN, u64::MAX, 512, true, 1),
        (false, REQUEST_IN, 0, 511, true, 1),
        (true, REQUEST_OUT, 0, 512, false, 1),
        (false, REQUEST_DISCARD, 0, 16, false, 2),
        (false, 77, 0, 512, false, 2),
    ] {
        let mut world = world(read_only, false);
        world.request(kind, sector, &[(DATA, length, writable)]);
        assert_eq!(world.next(), None);
        assert_eq!(world.status(), status, "{kind} {sector}");
        assert!(world.used().is_some());
    }
    let mut world = world(false, false);
    world.request(REQUEST_OUT, 0, &[]);
    assert_eq!((world.next(), world.status()), (None, 1));
}

#[test]
fn identity_is_the_serial_number() {
    let mut world = world(false, false);
    world.request(REQUEST_GET_ID, 0, &[(DATA, 20, true)]);
    assert_eq!(world.next(), None);
    assert_eq!(world.memory.bytes(DATA, 6), b"root\0\0");
    assert_eq!((world.used(), world.status()), (Some((0, 21)), 0));
}

#[test]
fn discard_names_its_range() {
    let mut world = world(false, true);
    world.memory.put(DATA, &[3, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0]);
    world.request(REQUEST_DISCARD, 0, &[(DATA, 16, false)]);
    let operation = world.next().unwrap();
    assert_eq!((operation.kind, operation.sector, operation.length), (BlockKind::Discard, 3, 2048));
    world.memory.put(DATA, &[99, 0, 0, 0, 0, 0, 0, 0, 4]);
    world.request(REQUEST_WRITE_ZEROES, 0, &[(DATA, 16, false)]);
    assert_eq!((world.next(), world.status()), (None, 1));
}

#[test]
fn configuration_is_what_the_driver_reads() {
    let mut world = world(true, false);
    let config = world.driver.bar + 0x200;
    assert_eq!(world.platform.mmio_read(config, 8), 100);
    assert_eq!(world.platform.mmio_read(config, 4), 100);
    assert_eq!(world.platform.mmio_read(config + 12, 4), 126);
    assert_eq!(world.platform.mmio_read(config + 20, 4), 512);
    assert_eq!(world.platform.mmio_read(config + 0xf0, 4), 0);
    assert_ne!(world.driver.features & FEATURE_READ_ONLY, 0);
    let generation = world.platform.mmio_read(world.driver.bar + 0x15, 1);
    world.disk().set_sectors(200);
    assert_eq!(world.platform.mmio_read(config, 8), 200);
    assert_ne!(world.platform.mmio_read(world.driver.bar + 0x15, 1), generation);
    assert_eq!(world.platform.next_interrupt().unwrap().data, 0x30);
}

#[test]
fn reset_forgets_operations_and_their_tokens() {
    let mut world = world(false, false);
    world.request(REQUEST_IN, 0, &[(DATA, 512, true)]);
    let operation = world.next().unwrap();
    world.platform.mmio_write(world.driver.bar + 0x14, 1, 0);
    assert_eq!(world.disk().in_flight(), 0);
    let block = world.platform.block_mut(0).unwrap();
    assert_eq!(block.store(operation.token, 0, &[1], &world.memory), Err(BlockRefusal::Stale));
    assert!(!world.finish(operation.token, BlockStatus::Ok));
    assert_eq!(world.status(), 0xee);
}

#[test]
fn the_same_head_twice_stops_the_device() {
    let mut world = world(false, false);
    let head = world.request(REQUEST_IN, 0, &[(DATA, 512, true)]);
    assert!(world.next().is_some());
    world.driver.rings[0].publish(&world.memory, head);
    assert_eq!(world.next(), None);
    assert_eq!(world.disk().transport.fault(), Some(GuestFault::HeadInFlight));
    assert_eq!(world.driver.status(&mut world.platform), 0x4f);
    assert_eq!(world.platform.next_interrupt().unwrap().data, 0x30, "configuration interrupt");
    // After a reset it works again.
    world.driver = bring_up(&mut world.platform, 0, 0);
    world.memory.put(world.driver.rings[0].available_ring(), &[0; 4]);
    world.request(REQUEST_IN, 0, &[(DATA, 512, true)]);
    assert!(world.next().is_some());
}

#[test]
fn requests_without_header_or_status_stop_the_device() {
    for buffers in
        [&[(HEADER, 15, false), (STATUS, 1, true)][..], &[(HEADER, 16, false)], &[(STATUS, 1, true)]]
    {
        let mut world = world(false, false);
        world.driver.rings[0].push(&world.memory, buffers);
        assert_eq!(world.next(), None);
        assert_eq!(world.disk().transport.fault(), Some(GuestFault::ShortRequest));
    }
}

#[test]
fn operations_survive_export_and_are_issued_again() {
    let mut world = world(false, false);
    world.request(REQUEST_IN, 3, &[(DATA, 512, true)]);
    let operation = world.next().unwrap();
    let mut resumed = Platform::from_state(world.platform.export()).unwrap();
    assert_eq!(resumed, {
        let mut same = world.platform.clone();
        same.pci.mark_doorbells_changed();
        same
    });
    for state in [world.platform.export(), world.platform.export_compact()] {
        resumed = Platform::from_state(state).unwrap();
        let block = resumed.block_mut(0).unwrap();
        assert_eq!(block.next_operation(&world.memory), None);
        block.reissue_in_flight(&world.memory);
        assert_eq!(block.next_operation(&world.memory), Some(operation));
        assert_eq!(block.next_operation(&world.memory), None);
        block.store(operation.token, 0, &[4; 512], &world.memory).unwrap();
        assert!(block.complete(operation.token, BlockStatus::Ok, &world.memory));
    }
    assert!(world.used().is_some());
}

#[test]
fn random_requests_never_panic_and_stay_bounded() {
    for seed in 1..300u64 {
        let mut random = TestRandom(seed * 0x9e37_79b9);
        let mut world = world(seed % 2 == 0, seed % 3 == 0);
        let mut open = vec![];
        for _ in 0..60 {
            let kind = [0, 1, 4, 8, 11, 13, 5][random.index(7)];
            let buffers: Vec<_> = (0..random.below(4))
                .map(|_| (DATA + random.below(4096), 1 + low32(random.below(1024)), random.below(2) == 0))
                .collect();
            world.request(kind, random.below(120), &buffers);
            while let Some(operation) = world.next() {
                assert!(operation.sector * 512 + operation.length <= 100 * 512, "seed {seed}");
                open.push(operation);
            }
            if let Some(operation) = open.pop().filter(|_| random.below(3) == 0) {
                let block = world.platform.block_mut(0).unwrap();
                let _ = block.load(operation.token, random.below(600), &mut [0; 64], &world.memory);
                let _ = block.store(operation.token, random.below(600), &[0; 64], &world.memory);
                world.finish(operation.token, BlockStatus::Ok);
            }
            assert!(world.disk().in_flight() <= 64, "seed {seed}");
        }
    }
}
