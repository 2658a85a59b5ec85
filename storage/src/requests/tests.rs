use super::*;
use crate::block::{Lba, Octets};
use crate::limits::WRITE_FENCES_MAX;
use alloc::collections::BTreeMap;
use alloc::vec;

const SHAPE: Shape = Shape { capacity: 1_000, block: 1, data: 16, discard: 64, zeroes: 8 };

struct Memory(BTreeMap<u64, Vec<u8>>);

impl Octets for Memory {
    fn find(&mut self, id: RequestId, offset: usize, length: usize) -> Option<&mut [u8]> {
        Some(&mut self.0.get_mut(&id.0).unwrap()[offset..offset + length])
    }
}

fn submit(requests: &mut Requests, id: u64, operation: Operation, lba: u64, sectors: u32) {
    requests.submit(Request { id: RequestId(id), operation, lba: Lba(lba), sectors }, 0).unwrap();
}

/// What goes out in one piece.
fn whole(requests: &mut Requests, octets_max: usize) -> Option<Fragment> {
    let fast = requests.takes_fast_path();
    requests.next_whole(&SHAPE, octets_max).filter(|_| fast).map(Entry::whole)
}

fn ended(requests: &mut Requests) -> Vec<(u64, Result<(), BlockError>)> {
    core::iter::from_fn(|| requests.take_completion()).map(|it| (it.id.0, it.result)).collect()
}

#[test]
fn requests_are_cut_and_acknowledged_whole() {
    let mut requests = Requests::new();
    submit(&mut requests, 1, Operation::Read, 100, 40);
    let parts: Vec<_> = core::iter::from_fn(|| requests.next_fragment(&SHAPE)).collect();
    let ranges: Vec<_> = parts.iter().map(|it| (it.lba, it.first, it.sectors)).collect();
    assert_eq!(ranges, [(100, 0, 16), (116, 16, 16), (132, 32, 8)]);
    requests.done(&parts[2], Ok(()));
    requests.done(&parts[0], Ok(()));
    requests.requeue(&parts[1]);
    assert_eq!(ended(&mut requests), []);
    let again = requests.next_fragment(&SHAPE).unwrap();
    assert_eq!(again, parts[1]);
    requests.done(&again, Ok(()));
    assert_eq!(ended(&mut requests), [(1, Ok(()))]);
    requests.done(&again, Ok(()));
    assert_eq!(ended(&mut requests), [], "a second answer means nothing");
}

#[test]
fn neighbours_are_joined_and_share_a_fragment() {
    let mut requests = Requests::new();
    let mut memory = Memory((1..=3).map(|id| (id, vec![u8::try_from(id).unwrap(); 8 * 512])).collect());
    submit(&mut requests, 1, Operation::Write, 8, 4);
    submit(&mut requests, 2, Operation::Write, 12, 8);
    submit(&mut requests, 3, Operation::Write, 20, 8);
    let first = requests.next_fragment(&SHAPE).unwrap();
    assert_eq!((first.lba, first.sectors), (8, 12), "and no more than a fragment holds");
    let mut data = vec![9; 12 * 512];
    requests.load(&first, 0, &mut data, &mut memory);
    assert!(data[..4 * 512].iter().all(|it| *it == 1) && data[4 * 512..].iter().all(|it| *it == 2));
    let mut edge = [0; 4];
    requests.load(&first, 4 * 512 - 2, &mut edge, &mut memory);
    assert_eq!(edge, [1, 1, 2, 2]);
    requests.store(&first, 4 * 512 - 1, &[7, 8], &mut memory);
    assert_eq!((memory.0[&1][4 * 512 - 1], memory.0[&2][0]), (7, 8));
    // An error of the joint write fails no request until each was tried alone.
    requests.done(&first, Err(BlockError::Medium));
    assert_eq!(ended(&mut requests), []);
    let alone: Vec<_> = core::iter::from_fn(|| requests.next_fragment(&SHAPE)).collect();
    assert_eq!(alone.iter().map(|it| it.sectors).collect::<Vec<_>>(), [4, 8, 8]);
    requests.done(&alone[0], Ok(()));
    requests.done(&alone[1], Err(BlockError::Medium));
    assert_eq!(ended(&mut requests), [(1, Ok(())), (2, Err(BlockError::Medium))]);
    requests.load(&first, 0, &mut edge, &mut memory);
    assert_eq!(edge, [0; 4], "what has ended is not touched");
}

#[test]
fn ranges_and_flushes() {
    let mut requests = Requests::new();
    submit(&mut requests, 1, Operation::Discard, 0, 100);
    submit(&mut requests, 2, Operation::WriteZeroes, 200, 10);
    submit(&mut requests, 3, Operation::Flush, 0, 0);
    submit(&mut requests, 4, Operation::Discard, 999, 2);
    let sizes =
        |requests: &mut Requests| core::iter::from_fn(|| requests.next_fragment(&SHAPE)).collect::<Vec<_>>();
    let parts = sizes(&mut requests);
    assert_eq!(parts.iter().map(|it| it.sectors).collect::<Vec<_>>(), [64, 36, 8, 2]);
    assert_eq!(ended(&mut requests), [(4, Err(BlockError::OutOfRange))]);
    parts.iter().for_each(|part| requests.done(part, Ok(())));
    let flush = sizes(&mut requests);
    assert_eq!((flush.len(), flush[0].operation, flush[0].sectors), (1, Operation::Flush, 0));
    requests.requeue(&flush[0]);
    let flush = sizes(&mut requests);
    assert_eq!(flush.len(), 1);
    requests.done(&flush[0], Ok(()));
    assert_eq!(ended(&mut requests).len(), 3);
    submit(&mut requests, 5, Operation::Discard, 0, 8);
    let none = Shape { discard: 0, ..SHAPE };
    assert_eq!(requests.next_fragment(&none), None);
    submit(&mut requests, 6, Operation::Write, 1, 8);
    let blocks = Shape { block: 8, ..SHAPE };
    assert_eq!(requests.next_fragment(&blocks), None);
    let error = Err(BlockError::Unsupported);
    assert_eq!(ended(&mut requests), [(5, error), (6, error)]);
}

#[test]
fn fences_hold_back_writes_only() {
    let mut requests = Requests::new();
    requests.fences.add(10, 2, Release::At(1_000));
    requests.fences.add(20, 2, Release::Path(1));
    submit(&mut requests, 1, Operation::Write, 11, 1);
    submit(&mut requests, 2, Operation::Read, 10, 1);
    submit(&mut requests, 3, Operation::Discard, 21, 1);
    assert_eq!(requests.next_fragment(&SHAPE).unwrap().operation, Operation::Read);
    assert_eq!(requests.next_fragment(&SHAPE), None);
    assert_eq!(requests.next_deadline(), Some(1_000));
    requests.poll(1_000);
    assert_eq!(requests.next_fragment(&SHAPE).unwrap().lba, 11);
    requests.fences.release(0);
    assert!(requests.fences.awaits_path());
    requests.fences.release(1);
    assert!(!requests.fences.awaits_path());
    assert_eq!(requests.next_fragment(&SHAPE).unwrap().lba, 21);
    for index in 0..2 * WRITE_FENCES_MAX as u64 {
        requests.fences.add(index, 1, Release::At(2_000 + index));
    }
    submit(&mut requests, 4, Operation::Write, 900, 1);
    assert_eq!(requests.next_fragment(&SHAPE), None, "out of room: all are held");
    requests.poll(2_000 + 2 * WRITE_FENCES_MAX as u64);
    assert_eq!(requests.next_fragment(&SHAPE).unwrap().lba, 900);
    for index in 0..=WRITE_FENCES_MAX as u64 {
        requests.fences.add(index, 1, Release::Path(usize::from(index % 2 == 1)));
    }
    submit(&mut requests, 5, Operation::Write, 950, 1);
    requests.fences.release(0);
    assert_eq!(requests.next_fragment(&SHAPE), None, "the other path still has some");
    requests.fences.release(1);
    assert_eq!(requests.next_fragment(&SHAPE).unwrap().lba, 950);
}

#[test]
fn the_policy_deadline_ends_requests_and_not_before() {
    let mut requests = Requests::new();
    requests.set_deadline(Some(500));
    submit(&mut requests, 1, Operation::Write, 0, 4);
    submit(&mut requests, 2, Operation::Write, 4, 4);
    submit(&mut requests, 3, Operation::Write, 0, 4);
    let joint = requests.next_fragment(&SHAPE).unwrap();
    assert_eq!((joint.sectors, requests.next_deadline()), (8, Some(500)));
    assert!(requests.poll(499).is_empty() && ended(&mut requests).is_empty());
    assert_eq!(requests.poll(500), [joint.group]);
    assert_eq!(ended(&mut requests).len(), 3);
    requests.done(&joint, Ok(()));
    assert!(ended(&mut requests).is_empty() && requests.len() == 0);
    requests.set_deadline(None);
    submit(&mut requests, 4, Operation::Read, 0, 4);
    assert!(requests.poll(u64::MAX).is_empty() && requests.next_deadline().is_none());
}

#[test]
fn limits_hold_requests_back_until_the_next_refill() {
    let mut requests = Requests::new();
    let limits = Limits { operations_per_s: Some(100), ..Limits::default() };
    requests.set_limits(limits, 0);
    for id in 0..3 {
        submit(&mut requests, id, Operation::Read, id * 100, 1);
    }
    assert!(requests.next_fragment(&SHAPE).is_some());
    assert!(requests.next_fragment(&SHAPE).is_none());
    assert_eq!(requests.next_deadline(), Some(10_000_000));
    requests.poll(10_000_000);
    assert!(requests.next_fragment(&SHAPE).is_some() && requests.next_fragment(&SHAPE).is_none());
}

#[test]
fn only_plain_requests_take_the_fast_path() {
    let whole = |requests: &mut Requests| whole(requests, 8 * 512);
    let mut requests = Requests::new();
    assert_eq!(whole(&mut requests), None);
    submit(&mut requests, 1, Operation::Read, 100, 16);
    let read = whole(&mut requests).unwrap();
    assert_eq!((read.operation, read.lba, read.first, read.sectors), (Operation::Read, 100, 0, 16));
    submit(&mut requests, 2, Operation::Write, 108, 4);
    assert_eq!(whole(&mut requests), None, "it waits for the read");
    requests.complete_fragment(&read);
    requests.complete_fragment(&read);
    assert_eq!(ended(&mut requests), [(1, Ok(()))], "a second answer means nothing");
    let write = whole(&mut requests).unwrap();
    requests.requeue(&write);
    assert_eq!(whole(&mut requests), None, "it has been tried before");
    let again = requests.next_fragment(&SHAPE).unwrap();
    assert_eq!((again.group, again.lba, again.sectors), (write.group, 108, 4));
    requests.complete_fragment(&again);
    assert_eq!(ended(&mut requests), [(2, Ok(()))]);
    for (operation, lba, sectors) in [
        (Operation::Read, 0, 17),
        (Operation::Read, 990, 16),
        (Operation::Write, 0, 9),
        (Operation::Flush, 0, 0),
        (Operation::WriteZeroes, 0, 1),
    ] {
        let mut requests = Requests::new();
        submit(&mut requests, 1, operation, lba, sectors);
        assert_eq!(whole(&mut requests), None, "{operation:?} {lba} {sectors}");
        assert!(requests.has_work());
    }
    let mut requests = Requests::new();
    requests.fences.add(4, 4, Release::Path(0));
    submit(&mut requests, 1, Operation::Write, 0, 8);
    assert_eq!(whole(&mut requests), None, "something may still land there");
    requests.fences.release(0);
    requests.set_limits(Limits { operations_per_s: Some(1), ..Limits::default() }, 0);
    assert_eq!(whole(&mut requests), None, "limits are looked after elsewhere");
}

#[test]
fn neighbours_do_not_go_out_alone() {
    let mut requests = Requests::new();
    // Few requests are looked at one by one, many are counted.
    for count in [2, 40] {
        for id in 0..count {
            submit(&mut requests, id, Operation::Read, id * 4, 4);
        }
        assert_eq!(whole(&mut requests, usize::MAX), None);
        let joined = requests.next_fragment(&SHAPE).unwrap();
        assert_eq!((joined.lba, joined.sectors), (0, if count == 2 { 8 } else { 16 }));
        requests.abandon();
    }
    for id in 0..40 {
        submit(&mut requests, id, Operation::Read, id * 20, 4);
    }
    for id in 0..40 {
        assert_eq!(whole(&mut requests, usize::MAX).map(|it| it.lba), Some(id * 20));
    }
}
