//! What both worlds are made of: a guest, its volume, a clock, and what must come of
//! whatever goes wrong between the volume and its target.

use std::string::String;
use std::vec::Vec;

use super::guest::Guest;
use super::{HEALED_NS_MAX, Random, SECOND};
use crate::volume::Volume;

/// Requests of a run, and at a time.
const REQUESTS: u32 = 60;
const DEPTH: usize = 8;

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
    /// All that is still under way arrives; what the disk holds then.
    fn land(&mut self) -> Vec<u8>;
    /// Nothing goes wrong, not even what a network does on its best days; false if there
    /// are not two ways to the same disk.
    fn prepare_to_fail_over(&mut self) -> bool;
    /// One of the two ways carries nothing any more, for good.
    fn cut(&mut self, way: usize);
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

/// One of two ways is cut for good: no request waits for more than three seconds.
pub(super) fn fail_over<W: World>(mut world: W, seed: u64) {
    if world.node().guest.deadline_ns.is_some() || !world.prepare_to_fail_over() {
        return;
    }
    let mut cut = false;
    while world.node().guest.submitted < REQUESTS || !world.node().guest.in_flight.is_empty() {
        if world.node().guest.submitted == REQUESTS / 2 && !cut {
            cut = true;
            let way = world.node().random.below(2) as usize;
            world.cut(way);
        }
        world.node().submit();
        world.step();
        let node = world.node();
        let waited = node.guest.longest_wait_ns(node.now);
        assert!(waited <= 3 * SECOND, "seed {seed}: {waited} ns {}", node.describe());
    }
    let disk = world.land();
    world.node().guest.check(&disk);
}
