//! An AoE initiator with one or two paths, a target, a bad Ethernet, a forger.

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use super::aoe_target::{AOE, AoeTarget};
use super::guest::Guest;
use super::world::{Node, World};
use super::{MS, Random, SECOND};
use crate::aoe::wire::{Body, Config, Frame};
use crate::aoe::{MacAddress, Source, Target, TargetConfig};
use crate::volume::Volume;

const FORGER: MacAddress = [2, 6, 6, 6, 6, 6];
/// As late as a frame may ever be.
const LATE_NS: u64 = 1_400 * MS;

const fn source(network: u8) -> MacAddress {
    [2, 0, 0, 0, network, 1]
}

const fn target_mac(network: u8) -> MacAddress {
    [2, 0, 0, 0, network, 2]
}

/// Who a frame is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Towards {
    Target,
    Node,
}

/// Ethernets that lose, delay, swap, copy, tear and damage.
struct Network {
    wire: BTreeMap<(u64, u64), (u8, Towards, Vec<u8>)>,
    order: u64,
    loss: u64,
    /// Longest frame that passes.
    longest: usize,
    /// Until when each network carries nothing.
    cut_until: [u64; 2],
    healed: bool,
    /// No frame is late: none is sent twice without need.
    calm: bool,
}

impl Network {
    fn next(&self) -> Option<u64> {
        self.wire.first_key_value().map(|((at, _), _)| *at)
    }

    fn carry(&mut self, network: u8, towards: Towards, bytes: &[u8], now: u64, random: &mut Random) {
        let bad = !self.healed;
        let copies = if bad { 1 + u64::from(random.chance(10)) } else { 1 };
        let mut delay = 0;
        for copy in 0..copies {
            let cut = self.cut_until[usize::from(network)] > now;
            let lost = cut || bytes.len() > self.longest || (bad && random.chance(self.loss));
            // Usually quick, sometimes as late as a frame may ever be. A request that
            // the network itself doubles arrives twice at once: no AoE initiator could
            // know of a lone copy that outlives the answer.
            if copy == 0 || towards == Towards::Node {
                delay = match random.below(50) {
                    0 if bad => random.below(LATE_NS),
                    1..=10 if !self.calm => random.below(20) * MS,
                    _ => random.below(2) * MS,
                };
            }
            if lost {
                continue;
            }
            self.order += 1;
            let mut bytes = bytes.to_vec();
            // Damage that Ethernet's own check lets through hits the header here.
            if bad && towards == Towards::Node && random.chance(2) {
                let at = 14 + random.below(10) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
            if bad && random.chance(2) {
                bytes.truncate(random.below(bytes.len() as u64) as usize);
            }
            self.wire.insert((now + delay, self.order), (network, towards, bytes));
        }
    }
}

/// Answers in the target's place, with limits and a disk of its own: it saw the tag.
fn forge(bytes: &[u8]) -> Option<Vec<u8>> {
    let frame = Frame::parse(bytes).filter(|frame| !frame.response)?;
    if !matches!(frame.body, Body::Config(_)) {
        let mut claimed = bytes.to_vec();
        claimed[..6].copy_from_slice(&FORGER);
        return AoeTarget::new(&[FORGER], b'f').answer(&claimed);
    }
    let body = Body::Config(Config { buffers: 64, firmware: 6, sectors_max: 1, command: 0, string: b"" });
    let reply = Frame { destination: frame.source, source: FORGER, response: true, body, ..frame };
    let mut bytes = vec![0; 100];
    let length = reply.emit(&mut bytes)?;
    bytes.truncate(length);
    Some(bytes)
}

pub(super) struct AoeWorld {
    node: Node,
    target: AoeTarget,
    /// Behind the second network there may be another disk.
    stranger: Option<AoeTarget>,
    network: Network,
    networks: u8,
    forges: bool,
    target_up_at: u64,
}

pub(super) fn build(seed: u64) -> AoeWorld {
    let mut random = Random::new(seed);
    let mtu = [1_500, 9_000][random.below(2) as usize];
    // Some paths do not carry what the target advertises.
    let longest = [9_014, 9_014, 1_514, 3_000 + random.below(5_000) as usize][random.below(4) as usize];
    let networks = 1 + random.below(2) as u8;
    let macs: Vec<MacAddress> = (0..networks).map(target_mac).collect();
    let known = networks > 1 || random.chance(70);
    let stranger = (networks > 1 && random.chance(20)).then(|| AoeTarget::new(&[target_mac(1)], b'x'));
    // Without, the first one that answers on each network is accepted.
    let configured = known && (networks == 1 || stranger.is_some() || !seed.is_multiple_of(3));
    let stranger = stranger.map(|it| AoeTarget { up: false, ..it });
    let mut target = AoeTarget::new(if stranger.is_some() { &macs[..1] } else { &macs }, b's');
    target.sectors_max = ((mtu - 22) / 512) as u8;
    target.plain_flush_only = random.chance(10);
    let mut session = Target::new(TargetConfig {
        target: AOE,
        sources: (0..networks).map(|it| Source { mac: source(it), mtu }).collect(),
        macs: if configured { macs } else { Vec::new() },
        read_only: false,
        reserve: seed.is_multiple_of(5),
        hold_writes_until_ns: 0,
        seed,
    });
    let mut guest = Guest::new();
    guest.plan(&mut random);
    session.set_deadline(guest.deadline_ns);
    target.bad = guest.bad.clone();
    let loss = random.below(31);
    let forges = known && random.chance(50) && configured;
    AoeWorld {
        node: Node { random, volume: Volume::Aoe(session), guest, now: 0 },
        target,
        stranger,
        network: Network {
            wire: BTreeMap::new(),
            order: 0,
            loss,
            longest,
            cut_until: [0; 2],
            healed: false,
            calm: false,
        },
        networks,
        forges,
        target_up_at: 0,
    }
}

impl AoeWorld {
    fn mischief(&mut self) {
        if self.network.healed {
            return;
        }
        if self.node.random.per_mille(4) {
            let network = self.node.random.below(u64::from(self.networks)) as usize;
            let cut = self.node.random.cut_ns();
            self.network.cut_until[network] = self.node.now + cut;
        }
        if self.node.random.per_mille(4) {
            self.target_up_at = self.node.now + self.node.random.cut_ns() / 8;
        }
        if self.node.random.per_mille(4) {
            self.node.guest.reset(&mut self.node.volume);
        }
        self.target.up = self.node.now >= self.target_up_at;
        if let Some(stranger) = &mut self.stranger {
            // Which disk is meant is known from the one that answers first.
            stranger.up = self.node.volume.status().capacity.is_some();
        }
    }

    /// One frame from the wire; its answers go back onto it.
    fn deliver(&mut self, network: u8, towards: Towards, bytes: &[u8]) {
        let Volume::Aoe(session) = &mut self.node.volume else { unreachable!() };
        if towards == Towards::Node {
            session.receive(bytes, self.node.now, &mut self.node.guest.memory);
            return;
        }
        let behind = if network == 1 { self.stranger.as_mut() } else { None };
        let mut replies: Vec<Vec<u8>> =
            behind.unwrap_or(&mut self.target).answer(bytes).into_iter().collect();
        if self.forges && !self.network.healed && self.node.random.chance(20) {
            replies.extend(forge(bytes));
        }
        for reply in replies {
            self.network.carry(network, Towards::Node, &reply, self.node.now, &mut self.node.random);
        }
    }

    fn send(&mut self) {
        let mut buffer = [0; 9_100];
        loop {
            let Volume::Aoe(session) = &mut self.node.volume else { unreachable!() };
            let Some(length) = session.transmit(&mut buffer, self.node.now, &mut self.node.guest.memory)
            else {
                break;
            };
            // The frame's source tells the network.
            let network = buffer[10];
            self.network.carry(
                network,
                Towards::Target,
                &buffer[..length],
                self.node.now,
                &mut self.node.random,
            );
        }
    }
}

impl World for AoeWorld {
    const LIMIT_NS: u64 = 4_000 * SECOND;

    fn node(&mut self) -> &mut Node {
        &mut self.node
    }

    fn step(&mut self) {
        self.mischief();
        self.send();
        while self.network.next().is_some_and(|at| at <= self.node.now) {
            let (_, (network, towards, bytes)) = self.network.wire.pop_first().unwrap();
            self.deliver(network, towards, &bytes);
        }
        self.send();
        self.node.guest.collect(&mut self.node.volume, &self.target.durable, self.node.now);
        let next = self.network.next().into_iter().chain(self.node.volume.next_deadline()).min();
        self.node.now = next.unwrap_or(self.node.now).clamp(self.node.now + MS / 4, self.node.now + SECOND);
    }

    fn heal(&mut self) {
        self.network.healed = true;
        self.network.cut_until = [0; 2];
        self.target.up = true;
    }

    /// Every wandering copy lands.
    fn land(&mut self) -> Vec<u8> {
        for (_, (network, towards, bytes)) in core::mem::take(&mut self.network.wire) {
            if towards == Towards::Target && !(network == 1 && self.stranger.is_some()) {
                self.target.answer(&bytes);
            }
        }
        self.target.disk.clone()
    }

    fn prepare_to_fail_over(&mut self) -> bool {
        self.heal();
        self.network.longest = 9_014;
        self.network.calm = true;
        self.networks > 1 && self.stranger.is_none()
    }

    fn cut(&mut self, path: usize, cut: bool) {
        self.network.cut_until[path] = if cut { u64::MAX } else { 0 };
    }
}
