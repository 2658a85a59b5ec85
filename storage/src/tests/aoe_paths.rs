//! What an AoE session does about frames and paths that are lost.

use std::collections::VecDeque;
use std::vec::Vec;

use super::aoe_bench::{Bench, NODE, OTHER};
use super::{MS, SECOND};
use crate::aoe::MacAddress;
use crate::{Operation, PathState, RequestId};

/// Whether a frame is one between this MAC address of ours and the target.
fn is_of(frame: &[u8], mac: MacAddress) -> bool {
    frame[..6] == mac || frame[6..12] == mac
}

/// Runs until nothing is unfinished, for so long at most; only frames of that MAC address pass.
fn finish(bench: &mut Bench, within_ns: u64, mac: MacAddress) {
    let end = bench.now + within_ns;
    while !bench.session.unfinished().is_empty() {
        assert!(bench.now < end, "{}", bench.session.describe());
        bench.exchange(|frame| is_of(frame, mac));
        bench.now += MS;
    }
}

fn states(bench: &Bench) -> Vec<PathState> {
    bench.session.status().paths.iter().map(|path| path.state).collect()
}

#[test]
fn a_repeatedly_lost_frame_is_retried_soon() {
    let mut bench = Bench::new(&[NODE], 1_500);
    bench.run(100 * MS, 9_100);
    bench.submit(1, Operation::Write, 40, 1);
    let (began, mut copies, mut next) = (bench.now, 0, 2);
    loop {
        // The neighbours' requests come and go.
        if bench.session.unfinished().len() < 2 {
            bench.submit(next, Operation::Read, next % 32, 1);
            next += 1;
        }
        bench.exchange(|frame| {
            // AoE r11, 3.1: the command, and the lowest octet of the address.
            let writes = frame[27] == 0x34 && frame[28] == 40;
            copies += u32::from(writes);
            !writes || copies > 12
        });
        bench.now += MS;
        if core::iter::from_fn(|| bench.session.take_completion()).any(|it| it.id == RequestId(1)) {
            break;
        }
        assert!(bench.now - began < 4 * SECOND, "{copies} copies of it were lost, and it waits");
    }
    assert_eq!(copies, 13);
}

#[test]
fn a_slow_target_is_not_flooded_with_retries() {
    let mut bench = Bench::new(&[NODE], 1_500);
    bench.run(100 * MS, 9_100);
    let (mut late, mut next): (VecDeque<(u64, Vec<u8>)>, u64) = (Default::default(), 1);
    let before = bench.session.status().counters;
    while bench.session.status().counters.completed < before.completed + 50 {
        if bench.session.unfinished().is_empty() {
            bench.submit(next, Operation::Read, 0, 1);
            next += 1;
        }
        let mut buffer = [0; 2_000];
        while let Some(length) = bench.session.transmit(&mut buffer, bench.now, &mut bench.memory) {
            // Six times as long as any wait that its first answers suggested.
            late.push_back((bench.now + 60 * MS, bench.target.answer(&buffer[..length]).unwrap()));
        }
        while let Some((_, reply)) = late.pop_front_if(|(at, _)| *at <= bench.now) {
            bench.session.receive(&reply, bench.now, &mut bench.memory);
        }
        while bench.session.take_completion().is_some() {}
        bench.now += MS;
    }
    let retries = bench.session.status().counters.retries - before.retries;
    assert!(retries <= 5, "{retries} frames were sent again");
}

/// The path dies that the first of several writes takes, each over the one before. Its long
/// frame is given up before the path counts as lost, and goes elsewhere: nothing is under
/// way on the dead path any more while its copies are waited for. No later write may be the
/// one that finds the path dead, and leave copies in its turn.
#[test]
fn a_path_dying_under_long_frames_is_left() {
    let mut bench = Bench::new(&[NODE, OTHER], 9_000);
    // Long frames are known to pass on both.
    bench.run(SECOND, 9_100);
    assert_eq!(bench.negotiated("SectorsPerFrame"), ["17", "17"]);
    (1..=6).for_each(|id| bench.submit(id, Operation::Write, 0, 17));
    let mut first = None;
    bench.exchange(|frame| {
        first.get_or_insert([NODE, OTHER].into_iter().find(|mac| is_of(frame, *mac)));
        false
    });
    finish(&mut bench, 3 * SECOND, if first == Some(Some(NODE)) { OTHER } else { NODE });
}

/// The same, and the path dies while copies are waited for that another failure left.
#[test]
fn a_dying_path_with_fenced_copies_is_left() {
    for dead in [NODE, OTHER] {
        let mut bench = Bench::new(&[NODE, OTHER], 1_500);
        bench.run(SECOND, 9_100);
        // The first is sent twice: the next waits for a second and a half.
        (1..=6).for_each(|id| bench.submit(id, Operation::Write, 0, 1));
        bench.exchange(|_| false);
        bench.run(300 * MS, 9_100);
        assert_eq!(bench.session.unfinished().len(), 5);
        finish(&mut bench, 2 * SECOND, if dead == NODE { OTHER } else { NODE });
    }
}

#[test]
fn a_returning_path_replaces_a_silent_one() {
    let mut bench = Bench::new(&[NODE, OTHER], 1_500);
    bench.run(SECOND, 9_100);
    (1..=2).for_each(|id| bench.submit(id, Operation::Write, 8 * id, 1));
    finish(&mut bench, SECOND, NODE);
    // It is asked whether it is back, every five seconds at last.
    bench.run_with(60 * SECOND, |frame| is_of(frame, NODE));
    assert_eq!(states(&bench), [PathState::Active, PathState::Lost]);
    bench.submit(3, Operation::Write, 0, 1);
    finish(&mut bench, 400 * MS, OTHER);
}

#[test]
fn a_returning_path_takes_a_lost_paths_work() {
    let mut bench = Bench::new(&[NODE, OTHER], 1_500);
    bench.run(SECOND, 9_100);
    (1..=2).for_each(|id| bench.submit(id, Operation::Write, 8 * id, 1));
    finish(&mut bench, SECOND, NODE);
    bench.submit(3, Operation::Write, 0, 1);
    bench.run_with(60 * SECOND, |_| false);
    assert_eq!(states(&bench), [PathState::Lost, PathState::Lost]);
    let end = bench.now + 6 * SECOND;
    while states(&bench) != [PathState::Lost, PathState::Active] {
        assert!(bench.now < end, "{}", bench.session.describe());
        bench.run_with(MS, |frame| is_of(frame, OTHER));
    }
    finish(&mut bench, 10 * MS, OTHER);
}
