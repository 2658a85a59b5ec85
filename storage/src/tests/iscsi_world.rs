//! An iSCSI initiator with one or two paths, a target, torn and cut connections.

use std::vec;
use std::vec::Vec;

use super::guest::Guest;
use super::iscsi_connection::Connection;
use super::iscsi_target::IscsiTarget;
use super::world::{Node, World};
use super::{MS, Random, SECOND};
use crate::Octets;

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

pub(super) struct IscsiWorld {
    node: Node,
    target: IscsiTarget,
    stranger: Option<IscsiTarget>,
    pipes: Vec<Pipe>,
    cuts: u64,
    digests: bool,
    initial_r2t: bool,
    window: u32,
    /// Data goes between the wire and its place without a detour, as a workstation's does.
    direct: bool,
    healed: bool,
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

pub(super) fn build(seed: u64) -> IscsiWorld {
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
    target.shuffles = seed % 4 == 2;
    let mut session = Session::new(config);
    let mut guest = Guest::new();
    guest.discards = target.thin;
    guest.plan(&mut random);
    session.set_deadline(guest.deadline_ns);
    target.bad = guest.bad.clone();
    let stranger = (paths > 1 && random.chance(20)).then(|| IscsiTarget::new(2));
    let (cuts, digests, initial_r2t) = (random.below(4), random.chance(70), random.chance(50));
    let window = [1, 2, 7, 32][random.below(4) as usize];
    IscsiWorld {
        node: Node { random, volume: Volume::Iscsi(session), guest, now: 0 },
        stranger,
        target,
        pipes: (0..paths).map(|_| Pipe::default()).collect(),
        cuts,
        digests,
        initial_r2t,
        window,
        direct: seed.is_multiple_of(2),
        healed: false,
        target_up_at: 0,
    }
}

impl IscsiWorld {
    fn session(&mut self) -> &mut Session {
        let Volume::Iscsi(session) = &mut self.node.volume else { unreachable!() };
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
        let path = self.node.random.below(self.pipes.len() as u64) as usize;
        if self.node.random.per_mille(3) {
            let cut = self.node.random.cut_ns();
            self.pipes[path].cut_until = self.node.now + cut;
        }
        if self.node.random.per_mille(2) {
            self.pipes[path].blackhole = true;
        }
        if self.node.random.per_mille(2) {
            // The target starts anew.
            self.target_up_at = self.node.now + self.node.random.cut_ns() / 8;
            self.target.connections.iter_mut().for_each(|it| {
                it.open = false;
                it.input.clear();
                it.writes.clear();
            });
        }
        if self.node.random.per_mille(3) {
            self.node.guest.reset(&mut self.node.volume);
        }
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
        let now = self.node.now;
        self.session().on_disconnected(path, now);
    }

    fn open(&mut self, path: usize) {
        let now = self.node.now;
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
        let early = path == 1 && self.stranger.is_some() && self.node.volume.status().capacity.is_none();
        if self.target_up_at > now || early {
            return self.disconnect(path);
        }
        let (digests, initial_r2t, window) = (self.digests, self.initial_r2t, self.window);
        let number = self.node.random.next() as u32;
        let target = self.target_of(path);
        let mut connection = Connection::new(path, digests, initial_r2t, window, number);
        if target.shuffles {
            connection.data_in_max = 8_192;
        }
        target.connections.push(connection);
        let index = target.connections.len() - 1;
        self.pipes[path].connection = Some(index);
        self.session().on_connected(path, now);
    }

    /// Damages a piece where both ends use digests.
    fn damage(&mut self, bytes: &mut [u8], protected: bool) {
        if !self.healed && protected && !bytes.is_empty() && self.node.random.chance(self.cuts) {
            let at = self.node.random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << self.node.random.below(8);
        }
    }

    /// Fills a buffer of so many octets with what there is to send, and then some.
    fn transmit(&mut self, path: usize, buffer: &mut Vec<u8>) {
        let (now, memory) = (self.node.now, &mut self.node.guest.memory);
        let Volume::Iscsi(session) = &mut self.node.volume else { unreachable!() };
        if !self.direct {
            let length = session.transmit(path, buffer, now, memory);
            return buffer.truncate(length);
        }
        let mut pieces = Vec::new();
        let length = session.transmit_pieces(path, buffer, &mut pieces, now, memory);
        buffer.truncate(length);
        for piece in pieces.iter().rev() {
            let data = memory.find(piece.id, piece.offset, piece.length).unwrap();
            buffer.splice(piece.after..piece.after, data.iter().copied());
        }
    }

    fn receive(&mut self, path: usize, piece: &[u8]) {
        let (now, memory) = (self.node.now, &mut self.node.guest.memory);
        let Volume::Iscsi(session) = &mut self.node.volume else { unreachable!() };
        // Also that nothing came, as a caller that polls a socket may report.
        session.receive(path, piece, now, memory);
    }

    fn pump(&mut self, path: usize) {
        let now = self.node.now;
        self.open(path);
        if self.session().disconnect_wanted(path) {
            return self.disconnect(path);
        }
        let Some(index) = self.pipes[path].connection else { return };
        // A torn stream: any number of octets, cut anywhere, sometimes damaged.
        let mut buffer = vec![0; 1 + self.node.random.below(6_000) as usize];
        self.transmit(path, &mut buffer);
        let full = self.target_of(path).connections[index].full;
        let protected = full && self.digests && session_uses_digests(&self.node.volume, path);
        self.damage(&mut buffer, protected);
        self.pipes[path].out.extend_from_slice(&buffer);
        if self.pipes[path].cut_until > now || self.pipes[path].blackhole {
            return self.receive(path, &[]);
        }
        let bytes = core::mem::take(&mut self.pipes[path].out);
        let connection = &mut self.target_of(path).connections[index];
        if !connection.open {
            return self.disconnect(path);
        }
        connection.input.extend_from_slice(&bytes);
        let take = connection.output.len();
        let take = (self.node.random.below(9_000) as usize).min(take);
        let connection = &mut self.target_of(path).connections[index];
        let mut piece: Vec<u8> = connection.output.drain(..take).collect();
        self.damage(&mut piece, protected);
        self.receive(path, &piece);
        let Volume::Iscsi(session) = &mut self.node.volume else { unreachable!() };
        let cut = !self.healed && self.node.random.per_mille(self.cuts);
        if session.disconnect_wanted(path) || cut {
            self.disconnect(path);
        }
    }
}

impl World for IscsiWorld {
    const LIMIT_NS: u64 = 8_000 * SECOND;

    fn node(&mut self) -> &mut Node {
        &mut self.node
    }

    fn step(&mut self) {
        self.mischief();
        for path in 0..self.pipes.len() {
            self.pump(path);
        }
        if self.target_up_at <= self.node.now {
            for target in [Some(&mut self.target), self.stranger.as_mut()].into_iter().flatten() {
                for index in 0..target.connections.len() {
                    if !target.work(index, self.node.now, &mut self.node.random) {
                        target.connections[index].open = false;
                        target.connections[index].input.clear();
                    }
                }
                if self.node.random.chance(5) {
                    target.open_windows();
                }
            }
        }
        let now = self.node.now;
        self.node.volume.poll(now);
        self.node.guest.collect(&mut self.node.volume, &self.target.durable, now);
        let quiet =
            self.pipes.iter().all(|pipe| pipe.connection.is_none() || pipe.cut_until > now || pipe.blackhole);
        let pause = if quiet { 20 * MS } else { MS / 2 };
        self.node.now += pause;
        if quiet && self.target.connections.iter().all(|it| it.input.is_empty()) {
            // Nothing happens before the next timer.
            let next = self.node.volume.next_deadline().unwrap_or(0);
            let cuts = self.pipes.iter().map(|pipe| pipe.cut_until).chain([self.target_up_at]);
            let tries = self.pipes.iter().filter_map(|pipe| Some(pipe.opening?.0));
            let next = cuts.chain(tries).filter(|at| *at > self.node.now).chain([next]).min().unwrap_or(0);
            self.node.now = self.node.now.max(next.min(self.node.now + SECOND));
        }
    }

    fn heal(&mut self) {
        self.healed = true;
        self.target_up_at = 0;
        self.target.healed = true;
        self.pipes.iter_mut().for_each(|pipe| pipe.cut_until = 0);
    }

    /// Everything that reached the target is taken off its queues.
    fn land(&mut self) -> Vec<u8> {
        for index in 0..self.target.connections.len() {
            self.target.work(index, u64::MAX, &mut self.node.random);
        }
        self.target.disk.clone()
    }

    fn prepare_to_fail_over(&mut self) -> bool {
        self.heal();
        self.target.resets = true;
        self.pipes.len() > 1 && self.stranger.is_none()
    }

    fn cut(&mut self, path: usize, cut: bool) {
        self.pipes[path].cut_until = if cut { u64::MAX } else { 0 };
    }
}

/// Login itself has no digest: damage begins when both ends use them.
fn session_uses_digests(volume: &Volume, path: usize) -> bool {
    let Volume::Iscsi(session) = volume else { return false };
    session.uses_digests(path)
}
