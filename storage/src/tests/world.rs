//! What both worlds are made of: a guest, its volume, a clock, and what must come of
//! whatever goes wrong between the volume and its target.

use std::string::String;
use std::vec::Vec;

use super::guest::Guest;
use super::{HEALED_NS_MAX, MS, Random, SECOND};
use crate::volume::Volume;
use crate::{PathState, PathStatus};

/// Requests of a run, and at a time.
const REQUESTS: u32 = 60;
const DEPTH: usize = 8;
/// Cuts of a run that fails over, far apart or close together.
const CUTS: usize = 3;
const CLOSE_CUTS: usize = 8;
/// A path that is healed is used again after this: TCP's own pauses between tries to connect
/// are longer than ours.
const BACK_NS_MAX: u64 = 15 * SECOND;

/// This side of the wire.
pub(super) struct Node {
    pub(super) random: Random,
    pub(super) volume: Volume,
    pub(super) guest: Guest,
    pub(super) now: u64,
}

impl Node {
    /// One more request, as long as there are not enough, nor too many at a time.
    fn submit(&mut self) {
        if self.guest.submitted < REQUESTS && self.guest.in_flight.len() < DEPTH {
            self.guest.submit(&mut self.volume, &mut self.random, self.now);
        }
    }

    /// Everything, for a test that failed.
    fn describe(&self) -> String {
        match &self.volume {
            Volume::Aoe(target) => target.describe(),
            Volume::Iscsi(session) => session.describe(),
        }
    }
}

/// A node, a network and a target.
pub(super) trait World {
    /// All requests have been begun by then, whatever goes wrong.
    const LIMIT_NS: u64;

    /// This side of it.
    fn node(&mut self) -> &mut Node;
    /// On to what happens next.
    fn step(&mut self);
    /// Nothing goes wrong any more.
    fn heal(&mut self);
    /// All that is still in flight arrives; what the disk holds then.
    fn land(&mut self) -> Vec<u8>;
    /// Nothing goes wrong, not even what a network does on its best days; false if there
    /// are not two paths to the same disk.
    fn prepare_to_fail_over(&mut self) -> bool;
    /// One of the two paths carries nothing any more, or it does again.
    fn cut(&mut self, path: usize, cut: bool);
}

/// Nothing is lost: all requests are begun while things go wrong, and end when they do no
/// more.
pub(super) fn run<W: World>(mut world: W, seed: u64) {
    while world.node().guest.submitted < REQUESTS {
        world.node().submit();
        world.step();
        let node = world.node();
        assert!(node.now < W::LIMIT_NS, "seed {seed} does not move: {:?}", node.volume.status());
    }
    world.heal();
    let healed_at = world.node().now;
    while !world.node().guest.in_flight.is_empty() {
        world.step();
        let node = world.node();
        assert!(node.now - healed_at <= HEALED_NS_MAX, "seed {seed} is stuck: {}", node.describe());
    }
    let disk = world.land();
    world.node().guest.check(&disk);
}

/// One of two paths is cut and healed, then one again: no request takes longer than three
/// seconds, from its submission to its end. Tells how long the slowest took.
pub(super) fn fail_over<W: World>(mut world: W, seed: u64) -> u64 {
    if !can_fail_over(&mut world) {
        return 0;
    }
    for _ in 0..CUTS {
        wait_for_both_paths(&mut world, seed);
        // Until no copy of a write can arrive that was sent twice: another failure before
        // that, under a chain of writes to one place, is one on top of the other.
        work(&mut world, seed, 2 * SECOND);
        cut_one_path(&mut world, seed);
    }
    finish(world, seed)
}

/// The next path is cut as soon as the one before is healed, or soon after. No request takes
/// longer than three seconds from its submission or, if it was in flight then, from the last
/// cut.
pub(super) fn fail_over_again<W: World>(mut world: W, seed: u64) -> u64 {
    if !can_fail_over(&mut world) {
        return 0;
    }
    wait_for_both_paths(&mut world, seed);
    let node = world.node();
    node.guest.journals = node.random.chance(50);
    for _ in 0..CLOSE_CUTS {
        let node = world.node();
        node.guest.counted_from_ns = node.now;
        cut_one_path(&mut world, seed);
        let pause_ns = [1, 2 * SECOND, 4 * SECOND][world.node().random.below(3) as usize];
        let pause_ns = world.node().random.below(pause_ns);
        work(&mut world, seed, pause_ns);
    }
    finish(world, seed)
}

fn can_fail_over<W: World>(world: &mut W) -> bool {
    world.node().guest.deadline_ns.is_none() && world.prepare_to_fail_over()
}

fn wait_for_both_paths<W: World>(world: &mut W, seed: u64) {
    let healed_at = world.node().now;
    while !serves_on_both_paths(&world.node().volume) {
        let node = world.node();
        assert!(node.now - healed_at <= BACK_NS_MAX, "seed {seed}: not back: {}", node.describe());
        work(world, seed, 100 * MS);
    }
}

/// One of two paths is cut, from less than any time-out to more than all.
fn cut_one_path<W: World>(world: &mut W, seed: u64) {
    let path = world.node().random.below(2) as usize;
    world.cut(path, true);
    let cut_ns = (10 * MS) << world.node().random.below(11);
    work(world, seed, cut_ns);
    world.cut(path, false);
}

/// Ends what is in flight; tells how long the slowest request took.
fn finish<W: World>(mut world: W, seed: u64) -> u64 {
    while !world.node().guest.in_flight.is_empty() {
        step_in_time(&mut world, seed);
    }
    let disk = world.land();
    world.node().guest.check(&disk);
    world.node().guest.slowest_ns
}

fn serves_on_both_paths(volume: &Volume) -> bool {
    let serves = |path: &PathStatus| matches!(path.state, PathState::Active | PathState::Standby);
    volume.status().paths.iter().all(serves)
}

/// Requests, now one and now several at a time, for so long.
fn work<W: World>(world: &mut W, seed: u64, for_ns: u64) {
    let until = world.node().now + for_ns;
    let mut next = 0;
    while world.node().now < until {
        let node = world.node();
        if node.now >= next && node.guest.in_flight.len() < DEPTH {
            node.guest.submit(&mut node.volume, &mut node.random, node.now);
            let pause = node.random.below(60) * MS;
            next = node.now + if node.random.chance(50) { pause } else { 0 };
        }
        step_in_time(world, seed);
    }
}

fn step_in_time<W: World>(world: &mut W, seed: u64) {
    world.step();
    let node = world.node();
    let slowest = node.guest.slowest_ns(node.now);
    assert!(slowest <= 3 * SECOND, "seed {seed}: {slowest} ns {}", node.describe());
}
