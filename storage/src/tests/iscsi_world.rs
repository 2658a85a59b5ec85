//! An iSCSI initiator with one or two paths, a target, torn and cut connections.

use std::vec;
use std::vec::Vec;

use super::guest::Guest;
use super::iscsi_connection::Connection;
use super::iscsi_target::IscsiTarget;
use super::{HEALED_NS_MAX, MS, Random, SECOND};
use crate::iscsi::{PathPolicy, Portal, Session, SessionConfig, SessionKind};
use crate::volume::Volume;

/// The node's end of a path.
#[derive(Default)]
struct Pipe {
    /// A connection is being opened: when TCP tries next, and its pause after that.
    opening: Option<(u64, u64)>,
    /// Which of the target's connections it is.
    connection: Option<usize>,
    /// Octets that TCP has taken and not delivered.
    out: Vec<u8>,
    /// Nothing passes until then.
    cut_until: u64,
    /// This connection never delivers anything again; a new one would.
    blackhole: bool,
}

pub(super) struct World {
    random: Random,
    volume: Volume,
    target: IscsiTarget,
    stranger: Option<IscsiTarget>,
    guest: Guest,
    pipes: Vec<Pipe>,
    cuts: u64,
    digests: bool,
    initial_r2t: bool,
    window: u32,
    healed: bool,
    now: u64,
    target_up_at: u64,
}

fn portal(index: usize) -> Portal {
    Portal { address: [10, 0, index as u8, 3].into(), port: 3_260 }
}

pub(super) fn config(paths: usize, seed: u64) -> SessionConfig {
    let kind = SessionKind::Normal { target: "iqn.2026-01.org.example:disk".into(), lun: 0 };
    let name = "iqn.2026-01.org.example:node".into();
    let mut config = SessionConfig::new(portal(0), name, kind, [0x80, 0, 0, 0, 0, 1], seed);
    config.portals = (0..paths).map(portal).collect();
    config
}

fn build(seed: u64) -> World {
    let mut random = Random::new(seed);
    let paths = 1 + random.below(2) as usize;
    let mut config = config(paths, seed);
    if random.chance(40) {
        config.policy = PathPolicy::RoundRobin;
    }
    let mut target = IscsiTarget::new(1);
    target.groups = random.chance(50);
    target.thin = random.chance(50);
    target.long_flush = random.chance(20);
    target.transfer = [0, 3, 5][random.below(3) as usize];
    target.resets = random.chance(80);
    let mut session = Session::new(config);
    let mut guest = Guest::new();
    guest.discards = target.thin;
    if random.chance(15) {
        guest.deadline_ns = Some((1 + random.below(20)) * SECOND);
        session.set_deadline(guest.deadline_ns);
    }
    if random.chance(15) {
        let first = random.below(60);
        guest.bad = first..first + 1 + random.below(3);
        target.bad = guest.bad.clone();
    }
    World {
        volume: Volume::Iscsi(session),
        stranger: (paths > 1 && random.chance(20)).then(|| IscsiTarget::new(2)),
        target,
        guest,
        pipes: (0..paths).map(|_| Pipe::default()).collect(),
        cuts: random.below(4),
        digests: random.chance(70),
        initial_r2t: random.chance(50),
        window: [1, 2, 7, 32][random.below(4) as usize],
        healed: false,
        now: 0,
        target_up_at: 0,
        random,
    }
}

impl World {
    fn session(&mut self) -> &mut Session {
        let Volume::Iscsi(session) = &mut self.volume else { unreachable!() };
        session
    }

    fn target_of(&mut self, path: usize) -> &mut IscsiTarget {
        match &mut self.stranger {
            Some(stranger) if path == 1 => stranger,
            _ => &mut self.target,
        }
    }

    fn mischief(&mut self) {
        if self.healed {
            return;
        }
        let path = self.random.below(self.pipes.len() as u64) as usize;
        if self.random.per_mille(3) {
            let cut = self.random.cut_ns();
            self.pipes[path].cut_until = self.now + cut;
        }
        if self.random.per_mille(2) {
            self.pipes[path].blackhole = true;
        }
        if self.random.per_mille(2) {
            // The target starts anew.
            self.target_up_at = self.now + self.random.cut_ns() / 8;
            self.target.connections.iter_mut().for_each(|it| {
                it.open = false;
                it.input.clear();
                it.writes.clear();
            });
        }
        if self.random.per_mille(3) {
            self.guest.reset(&mut self.volume);
        }
    }

    fn heal(&mut self) {
        self.healed = true;
        self.target_up_at = 0;
        self.target.healed = true;
        self.pipes.iter_mut().for_each(|pipe| pipe.cut_until = 0);
    }

    fn disconnect(&mut self, path: usize) {
        let pipe = &mut self.pipes[path];
        (pipe.opening, pipe.blackhole) = (None, false);
        pipe.out.clear();
        if let Some(connection) = pipe.connection.take() {
            // What has reached the target may still be taken off its queue.
            let connection = &mut self.target_of(path).connections[connection];
            connection.open = false;
            connection.output.clear();
        }
        let now = self.now;
        self.session().on_disconnected(path, now);
    }

    fn open(&mut self, path: usize) {
        let now = self.now;
        if self.session().connect(path, now).is_some() {
            self.pipes[path].opening = Some((now, SECOND));
        }
        let Some((next, pause)) = self.pipes[path].opening else { return };
        if next > now {
            return;
        }
        if self.pipes[path].cut_until > now {
            // TCP tries again after 1, 3, 7 and 15 s.
            self.pipes[path].opening = Some((next + pause, 2 * pause));
            return;
        }
        (self.pipes[path].opening, self.pipes[path].blackhole) = (None, false);
        // Which disk is meant is known from the one that answers first.
        let early = path == 1 && self.stranger.is_some() && self.volume.status().capacity.is_none();
        if self.target_up_at > now || early {
            return self.disconnect(path);
        }
        let (digests, initial_r2t, window) = (self.digests, self.initial_r2t, self.window);
        let number = self.random.next() as u32;
        let connections = &mut self.target_of(path).connections;
        connections.push(Connection::new(path, digests, initial_r2t, window, number));
        self.pipes[path].connection = Some(connections.len() - 1);
        self.session().on_connected(path, now);
    }

    /// Damages a piece where both ends use digests.
    fn damage(&mut self, bytes: &mut [u8], protected: bool) {
        if !self.healed && protected && !bytes.is_empty() && self.random.chance(self.cuts) {
            let at = self.random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.random.below(8);
        }
    }

    fn pump(&mut self, path: usize) {
        let now = self.now;
        self.open(path);
        if self.session().disconnect_wanted(path) {
            return self.disconnect(path);
        }
        let Some(index) = self.pipes[path].connection else { return };
        // A torn stream: any number of octets, cut anywhere, sometimes damaged.
        let mut buffer = vec![0; 1 + self.random.below(6_000) as usize];
        let Volume::Iscsi(session) = &mut self.volume else { unreachable!() };
        let length = session.transmit(path, &mut buffer, now, &mut self.guest.memory);
        let full = self.target_of(path).connections[index].full;
        let protected = full && self.digests && session_uses_digests(&self.volume, path);
        self.damage(&mut buffer[..length], protected);
        self.pipes[path].out.extend_from_slice(&buffer[..length]);
        if self.pipes[path].cut_until > now || self.pipes[path].blackhole {
            return;
        }
        let bytes = core::mem::take(&mut self.pipes[path].out);
        let connection = &mut self.target_of(path).connections[index];
        if !connection.open {
            return self.disconnect(path);
        }
        connection.input.extend_from_slice(&bytes);
        let take = connection.output.len();
        let take = (self.random.below(9_000) as usize).min(take);
        let connection = &mut self.target_of(path).connections[index];
        let mut piece: Vec<u8> = connection.output.drain(..take).collect();
        self.damage(&mut piece, protected);
        let Volume::Iscsi(session) = &mut self.volume else { unreachable!() };
        session.receive(path, &piece, now, &mut self.guest.memory);
        let cut = !self.healed && self.random.per_mille(self.cuts);
        if session.disconnect_wanted(path) || cut {
            self.disconnect(path);
        }
    }

    fn step(&mut self) {
        self.mischief();
        for path in 0..self.pipes.len() {
            self.pump(path);
        }
        if self.target_up_at <= self.now {
            for target in [Some(&mut self.target), self.stranger.as_mut()].into_iter().flatten() {
                for index in 0..target.connections.len() {
                    if !target.work(index, self.now, &mut self.random) {
                        target.connections[index].open = false;
                        target.connections[index].input.clear();
                    }
                }
                if self.random.chance(5) {
                    target.open_windows();
                }
            }
        }
        let now = self.now;
        self.volume.poll(now);
        self.guest.collect(&mut self.volume, &self.target.durable, now);
        let quiet =
            self.pipes.iter().all(|pipe| pipe.connection.is_none() || pipe.cut_until > now || pipe.blackhole);
        let pause = if quiet { 20 * MS } else { MS / 2 };
        self.now += pause;
        if quiet && self.target.connections.iter().all(|it| it.input.is_empty()) {
            // Nothing happens before the next timer.
            let next = self.volume.next_deadline().unwrap_or(0);
            let cuts = self.pipes.iter().map(|pipe| pipe.cut_until).chain([self.target_up_at]);
            let tries = self.pipes.iter().filter_map(|pipe| Some(pipe.opening?.0));
            let next = cuts.chain(tries).filter(|at| *at > self.now).chain([next]).min().unwrap_or(0);
            self.now = self.now.max(next.min(self.now + SECOND));
        }
    }
}

/// Login itself has no digest: damage begins when both ends use them.
fn session_uses_digests(volume: &Volume, path: usize) -> bool {
    let Volume::Iscsi(session) = volume else { return false };
    session.uses_digests(path)
}

pub(super) fn run(seed: u64) {
    let mut world = build(seed);
    while world.guest.submitted < 60 {
        if world.guest.in_flight.len() < 8 {
            world.guest.submit(&mut world.volume, &mut world.random, world.now);
        }
        world.step();
        assert!(world.now < 8_000 * SECOND, "seed {seed} does not move: {:?}", world.volume.status());
    }
    world.heal();
    let healed_at = world.now;
    while !world.guest.in_flight.is_empty() {
        world.step();
        let waited = world.now - healed_at;
        assert!(waited <= HEALED_NS_MAX, "seed {seed} is stuck: {}", world.session().describe());
    }
    // Let everything that reached the target be taken off its queues.
    for index in 0..world.target.connections.len() {
        world.target.work(index, u64::MAX, &mut world.random);
    }
    world.guest.check(&world.target.disk);
}

/// One of two paths goes silent for good: no request waits for more than three
/// seconds.
pub(super) fn fail_over(seed: u64) {
    let mut world = build(seed);
    if world.pipes.len() < 2 || world.stranger.is_some() || world.guest.deadline_ns.is_some() {
        return;
    }
    world.heal();
    world.target.resets = true;
    let mut cut = false;
    while world.guest.submitted < 60 || !world.guest.in_flight.is_empty() {
        if world.guest.submitted == 30 && !cut {
            cut = true;
            let path = world.random.below(2) as usize;
            world.pipes[path].cut_until = u64::MAX;
        }
        if world.guest.submitted < 60 && world.guest.in_flight.len() < 8 {
            world.guest.submit(&mut world.volume, &mut world.random, world.now);
        }
        world.step();
        let waited = world.guest.longest_wait_ns(world.now);
        assert!(waited <= 3 * SECOND, "seed {seed}: {waited} ns {}", world.session().describe());
    }
    world.guest.check(&world.target.disk);
}
