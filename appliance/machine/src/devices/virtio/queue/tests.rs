use alloc::vec;

use super::*;
use crate::devices::virtio::test_driver::{
    INDIRECT as INDIRECT_FLAG, NEXT as NEXT_FLAG, TestRing, WRITE as WRITE_FLAG, put_descriptor,
};
use crate::guest_memory::FakeMemory;
use crate::test_random::TestRandom;

/// A descriptor: address, length, flags, next.
type Fields = (u64, u32, u16, u16);

const BASE: u64 = 0x1_0000;
const DATA: u64 = 0x8000;
const TABLE: u64 = 0x9000;
const ALL: RingFeatures = RingFeatures { event_index: true, indirect: true };
const PLAIN: RingFeatures = RingFeatures { event_index: false, indirect: false };

fn setup(size: u16) -> (FakeMemory, TestRing, Queue) {
    let ring = TestRing::new(BASE, size);
    let queue = Queue {
        size,
        enabled: true,
        descriptors: ring.descriptors(),
        available: ring.available_ring(),
        used: ring.used_ring(),
        ..Queue::new()
    };
    (FakeMemory::new(0x2_0000, 0x1000), ring, queue)
}

fn pop_one(descriptors: &[Fields]) -> Result<Option<Chain>, GuestFault> {
    let (memory, mut ring, mut queue) = setup(8);
    for (index, fields) in (0..).zip(descriptors) {
        ring.describe(&memory, index, *fields);
    }
    ring.publish(&memory, 0);
    queue.pop(&memory, ALL)
}

#[test]
fn chains_come_out_as_described() {
    let chain = pop_one(&[
        (DATA, 16, NEXT_FLAG, 3),
        (0, 0, 0, 0),
        (DATA + 0x100, 1, WRITE_FLAG, 0),
        (0x1_0000_0ff0, 16, NEXT_FLAG | WRITE_FLAG, 2),
    ]);
    let chain = chain.unwrap().unwrap();
    assert_eq!(chain.readable.0, [Segment { gpa: Gpa(DATA), length: 16 }]);
    assert_eq!(
        chain.writable.0,
        [Segment { gpa: Gpa(0x1_0000_0ff0), length: 16 }, Segment { gpa: Gpa(DATA + 0x100), length: 1 }]
    );
}

#[test]
fn hostile_chains_are_refused() {
    let outside = |gpa, length| GuestFault::OutsideMemory { gpa: Gpa(gpa), length };
    let cases: [(&[Fields], GuestFault); 9] = [
        (&[(DATA, 1, NEXT_FLAG, 0)], GuestFault::ChainLength),
        (&[(DATA, 1, NEXT_FLAG, 1), (DATA, 1, NEXT_FLAG, 0)], GuestFault::ChainLength),
        (&[(DATA, 1, NEXT_FLAG, 8)], GuestFault::DescriptorIndex),
        (&[(DATA, 0, 0, 0)], GuestFault::EmptyDescriptor),
        (&[(0x1_fff0, 17, 0, 0)], outside(0x1_fff0, 17)),
        (&[(u64::MAX, 1, 0, 0)], outside(u64::MAX, 1)),
        (&[(DATA, u32::MAX, WRITE_FLAG, 0)], outside(DATA, 0xffff_ffff)),
        (&[(DATA, 1, WRITE_FLAG | NEXT_FLAG, 1), (DATA, 1, 0, 0)], GuestFault::DescriptorOrder),
        (&[(TABLE, 16, INDIRECT_FLAG | NEXT_FLAG, 1)], GuestFault::IndirectTable),
    ];
    for (descriptors, fault) in cases {
        assert_eq!(pop_one(descriptors), Err(fault), "{descriptors:x?}");
    }
}

#[test]
fn indirect_tables_are_walked_once_and_never_nested() {
    let (memory, mut ring, mut queue) = setup(4);
    put_descriptor(&memory, TABLE, (DATA, 8, NEXT_FLAG, 2));
    put_descriptor(&memory, TABLE + 32, (DATA + 8, 8, WRITE_FLAG, 0));
    ring.describe(&memory, 1, (TABLE, 48, INDIRECT_FLAG, 0));
    ring.describe(&memory, 0, (DATA + 64, 4, NEXT_FLAG, 1));
    ring.publish(&memory, 0);
    let chain = queue.clone().pop(&memory, ALL).unwrap().unwrap();
    assert_eq!((chain.readable.length(), chain.writable.length()), (12, 8));
    assert_eq!(queue.clone().pop(&memory, PLAIN), Err(GuestFault::IndirectTable));
    for (fields, fault) in [
        ((TABLE, 16, INDIRECT_FLAG, 0), GuestFault::IndirectTable),
        ((DATA, 8, NEXT_FLAG, 3), GuestFault::DescriptorIndex),
        ((DATA, 8, NEXT_FLAG, 0), GuestFault::ChainLength),
    ] {
        put_descriptor(&memory, TABLE, fields);
        assert_eq!(queue.clone().pop(&memory, ALL), Err(fault));
    }
    for length in [0, 15, 17, 16 * 257] {
        ring.describe(&memory, 1, (TABLE, length, INDIRECT_FLAG, 0));
        assert_eq!(queue.clone().pop(&memory, ALL), Err(GuestFault::IndirectTable));
    }
    ring.describe(&memory, 1, (0xc000_0000, 16, INDIRECT_FLAG, 0));
    assert!(matches!(queue.pop(&memory, ALL), Err(GuestFault::OutsideMemory { .. })));
}

#[test]
fn available_index_may_not_run_ahead() {
    let (memory, mut ring, mut queue) = setup(4);
    ring.available = 4;
    ring.publish(&memory, 0);
    assert_eq!(queue.pop(&memory, ALL), Err(GuestFault::AvailableIndex));
    memory.put(ring.available_ring() + 2, &0xffffu16.to_le_bytes());
    assert_eq!(queue.pop(&memory, ALL), Err(GuestFault::AvailableIndex));
}

#[test]
fn heads_beyond_the_table_are_refused() {
    let (memory, mut ring, mut queue) = setup(4);
    ring.publish(&memory, 4);
    assert_eq!(queue.pop(&memory, ALL), Err(GuestFault::DescriptorIndex));
}

#[test]
fn indices_wrap() {
    let (memory, mut ring, mut queue) = setup(4);
    let mut interrupts = 0u32;
    for round in 0..70_000u32 {
        let head = ring.push(&memory, &[(DATA, 4, true)]);
        let chain = queue.pop(&memory, ALL).unwrap().unwrap();
        assert_eq!(chain.head, head);
        assert_eq!(queue.pop(&memory, ALL), Ok(None));
        interrupts += u32::from(queue.push_used(&memory, &[(head, round)], ALL).unwrap());
        assert_eq!(ring.take_used(&memory), Some((u32::from(head), round)));
        assert_eq!(ring.take_used(&memory), None);
    }
    assert_eq!(interrupts, 70_000);
    // The driver is told to notify for the next chain.
    assert_eq!(memory.bytes(ring.used_ring() + 4 + 4 * 8, 2), ring.available.to_le_bytes());
}

#[test]
fn interrupts_follow_what_the_driver_asks() {
    for (event, old, expected) in
        [(0, 0, true), (1, 0, false), (0xffff, 0, false), (5, 5, true), (6, 5, false)]
    {
        let (memory, ring, mut queue) = setup(8);
        queue.next_used = old;
        memory.put(ring.available_ring() + 4 + 16, &u16::to_le_bytes(event));
        assert_eq!(queue.push_used(&memory, &[(0, 0)], ALL), Ok(expected), "{event} {old}");
    }
    let (memory, ring, mut queue) = setup(8);
    memory.put(ring.available_ring() + 4 + 16, &2u16.to_le_bytes());
    assert_eq!(queue.push_used(&memory, &[(0, 0), (1, 0), (2, 0)], ALL), Ok(true), "passed by a batch");
    memory.put(ring.available_ring(), &1u16.to_le_bytes());
    assert_eq!(queue.push_used(&memory, &[(0, 0)], PLAIN), Ok(false));
    memory.put(ring.available_ring(), &0u16.to_le_bytes());
    assert_eq!(queue.push_used(&memory, &[(0, 0)], PLAIN), Ok(true));
}

/// All chains of up to three descriptors over small sets of fields: either a
/// fault or segments that are RAM.
#[test]
fn every_small_ring_is_survived() {
    let addresses = [DATA, 0x1_fffc];
    let lengths = [0, 4, 5];
    let flags = [0, 1, 2, 3, 4];
    let nexts = [0, 1, 2];
    let mut descriptors = vec![];
    for gpa in addresses {
        for length in lengths {
            for flag in flags {
                for next in nexts {
                    descriptors.push((gpa, length, flag, next));
                }
            }
        }
    }
    let (memory, mut ring, queue) = setup(2);
    ring.publish(&memory, 0);
    for first in &descriptors {
        ring.describe(&memory, 0, *first);
        for second in &descriptors {
            ring.describe(&memory, 1, *second);
            if let Ok(Some(chain)) = queue.clone().pop(&memory, ALL) {
                for segment in chain.readable.0.iter().chain(&chain.writable.0) {
                    assert!(memory.contains(segment.gpa, u64::from(segment.length)));
                }
            }
        }
    }
}

#[test]
fn random_rings_never_panic() {
    for seed in 1..2000u64 {
        let mut random = TestRandom(seed * 0x1234_5679);
        let (memory, _, mut queue) = setup(8);
        for _ in 0..400 {
            let at = BASE + random.below(0xa000);
            memory.put(at, &[random.byte() & random.byte()]);
        }
        if random.below(8) == 0 {
            queue.used = random.next() & !3;
        }
        for _ in 0..20 {
            match queue.pop(&memory, ALL) {
                Ok(Some(chain)) => {
                    let _ = queue.push_used(&memory, &[(chain.head, 1)], ALL);
                }
                Ok(None) | Err(_) => break,
            }
        }
    }
}

#[test]
fn impossible_layouts_are_refused() {
    let good = setup(8).2;
    assert_eq!(good.check(), Ok(()));
    for bad in [
        Queue { size: 0, ..good.clone() },
        Queue { size: 3, ..good.clone() },
        Queue { size: 512, ..good.clone() },
        Queue { descriptors: 8, ..good.clone() },
        Queue { available: 1, ..good.clone() },
        Queue { used: 2, ..good.clone() },
    ] {
        assert_eq!(bad.check(), Err(GuestFault::RingLayout));
    }
    let memory = FakeMemory::new(0x1000, 0);
    let mut wild = Queue { used: !3, available: !1, ..good };
    assert!(wild.pop(&memory, ALL).is_err());
    assert!(wild.push_used(&memory, &[(0, 0)], ALL).is_err());
}
