//! The heaviest turns: a node with as many guests, cards and disks as it takes, under hostile
//! loads, one at a time and all at once.
//!
//! `cargo measure --only turn` counts the instructions of each turn here; that a turn ends
//! and everything is answered is seen everywhere.

extern crate std;

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use hv_abi::event::{self, Event};
use mgmt_proto::audit::Log;
use mgmt_proto::code::Code;
use mgmt_proto::disk::GuestSettings;
use mgmt_proto::handshake::HELLO_BYTES;
use mgmt_proto::limits::{BLOB_CHUNK_BYTES, DISKS, INPUT_BYTES, NETWORK_CARDS};
use mgmt_proto::machine::{Disk, Machine, NetworkCard};
use mgmt_proto::manifest::{Addressing, StorageCard};
use mgmt_proto::verb::{Reply, Request, Run};
use sha2::{Digest as _, Sha256};

use super::driver::Device;
use super::fake_disk::disk_mib;
use super::fake_nic::FakeNic;
use super::heap::fill;
use super::hostile::syn;
use super::lockout::{ATTACKER_MAC, Attack, KINDS, Kind};
use super::state::state_settings;
use super::targets::{AoeTarget, IscsiTarget};
use super::world::*;
use crate::ledger::HEAP_BYTES;
use machine::devices::virtio::test_driver::{INDIRECT, NEXT, WRITE, ecam, put_descriptor};
use machine::guest_memory::FakeMemory;
use machine::test_random::TestRandom;

/// What is done to the node, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    /// Guests' cards send.
    Sends(Sends),
    /// What comes is spread over as many pieces of a guest's memory as it can.
    Scatters,
    /// The wire is full of frames for all, for guests and for the node itself.
    Wire,
    /// Connections at the one door, 200 a second, most of them by those who may.
    Hellos,
    /// Operators ask for all that there is, as fast as they can.
    Commands,
    /// Files come, and are taken anew.
    Uploads,
    /// Disks: few long requests and many short ones, of which all complete at once.
    Disks,
    /// Targets ask for answers without end.
    Pings,
    /// Targets end each login, or fall silent.
    Logins,
    /// Accesses, doorbells and what is printed.
    Exits,
}

/// What a card sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sends {
    /// As many frames as it can.
    Short,
    /// Frames in as many pieces of memory as a chain has.
    Scattered,
    /// Chains that are no frames.
    Malformed,
    /// Frames to all.
    Flood,
    /// Large segments in the shortest pieces, to the wire.
    Large,
    /// The same to all.
    LargeFlood,
}

const SENDS: [Sends; 6] =
    [Sends::Short, Sends::Scattered, Sends::Malformed, Sends::Flood, Sends::Large, Sends::LargeFlood];
/// Descriptors of the longest chain.
const PIECES: u16 = 250;
/// Where each card has what it sends and receives.
const CARD_BASE: u64 = 0x200_0000;
const CARD_BYTES: u64 = 0x40_0000;
const GUEST_BYTES: u64 = 64 * MIB;
/// Events that the hypervisor gives at a time.
const EVENTS: usize = 64;
const STORAGE_MACS: [[u8; 6]; 3] = [[2, 0, 0, 0, 0, 0x71], [2, 0, 0, 0, 0, 0x72], [2, 0, 0, 0, 0, 0x73]];

/// How long it goes on: `TURN_STEPS` is for who counts.
fn steps() -> u32 {
    std::env::var("TURN_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

struct Storm {
    world: World,
    admin: usize,
    machine: Machine,
    random: TestRandom,
    guests: Vec<(u32, String)>,
    cards: Vec<Device>,
    disks: Vec<Device>,
    /// What rings for cards and disks, as long as they stay where they are.
    bells: Vec<Event>,
    attack: Attack,
    operators: Vec<usize>,
    uploaders: Vec<usize>,
    /// Events that the node will be told of.
    later: VecDeque<Event>,
    asked: usize,
    answers: usize,
}

fn mac_of(guest: usize, card: usize) -> [u8; 6] {
    let [low, _] = u16::try_from(guest).unwrap().to_le_bytes();
    [2, 0x22, 0, low, 0, u8::try_from(card).unwrap()]
}

/// The largest node: its cards, its state, and as many guests as its ledger and its switch
/// take, those with iSCSI disks first, then those with AoE disks, then plain ones.
fn full(seed: u64) -> Storm {
    let mut settings = state_settings("virtio:0", 30);
    let card = |(number, mac): (u8, &[u8; 6])| {
        let addressing = Addressing::Static { address: [10, 0, number, 1], prefix: 24, gateway: None };
        StorageCard { mac: Some(*mac), addressing: Some(addressing), mtu: 1500 }
    };
    settings.manifest.storage_cards = (5..).zip(&STORAGE_MACS).map(card).collect();
    let mut world = World::with_cards(seed, settings, STORAGE_MACS.map(FakeNic::new).to_vec());
    let disk = disk_mib(64);
    world.disk = Some(disk.clone());
    world.node.use_local_disk(Some(alloc::boxed::Box::new(disk)), world.now_ns);
    world.run(SECOND);
    world.hypervisor.machine().memory_free_bytes = 64 << 30;
    let (admin, machine) = world.ready();
    let attack = attack(&mut world, admin);
    let mut storm = Storm {
        world,
        admin,
        machine,
        random: TestRandom(seed | 1),
        guests: Vec::new(),
        cards: Vec::new(),
        disks: Vec::new(),
        bells: Vec::new(),
        attack,
        operators: Vec::new(),
        uploaders: Vec::new(),
        later: VecDeque::new(),
        asked: 0,
        answers: 0,
    };
    storm.add_guests();
    storm
}

fn attack(world: &mut World, admin: usize) -> Attack {
    let recorded = world.sessions[admin].sent[..HELLO_BYTES].to_vec();
    let viewer = world.connect(Who::Viewer);
    let connection = world.sessions[viewer].connection;
    let known = world.known(Who::Viewer);
    world.operator.abort(connection, world.now_ns);
    Attack::new(recorded, known)
}

impl Storm {
    fn add_guests(&mut self) {
        let (mut iscsi, mut disks, mut cards) = (0, DISKS, NETWORK_CARDS);
        for number in 0.. {
            let name = format!("guest{number}");
            let mut machine = Machine { memory_bytes: GUEST_BYTES, ..sibling(&self.machine, &name, 0) };
            let is_iscsi = iscsi < 24;
            machine.disks = (0..disks).map(|disk| self.disk(number, disk, is_iscsi)).collect();
            let card = |card| NetworkCard::plain(mac_of(number, card));
            machine.network_cards = (0..cards).map(card).collect();
            let kept = Request::Create {
                machine,
                settings: GuestSettings::default(),
                paused: false,
                autostart: Some(1),
            };
            match self.world.ask(self.admin, &kept) {
                Ok(Reply::Created(domain)) => self.bring_up(domain, name, (disks, cards)),
                Ok(other) => panic!("{other:?}"),
                Err(failure) => {
                    assert_eq!(failure.code, Code::Capacity, "{failure}");
                    (disks, cards) = match (disks, cards) {
                        (0, 0) => return,
                        (0, _) => (0, cards - 1),
                        _ => (disks - 1, cards),
                    };
                }
            }
            iscsi += if is_iscsi { DISKS } else { 0 };
        }
    }

    /// A disk that nothing else uses, at a target of its own.
    fn disk(&mut self, guest: usize, disk: usize, is_iscsi: bool) -> Disk {
        let slot = u8::try_from(disk).unwrap();
        let volume = if is_iscsi {
            let last = u8::try_from(guest * DISKS + disk + 20).unwrap();
            self.world.more_iscsi.push(IscsiTarget::numbered(4096, last));
            format!("iscsi://10.0.0.{last}/iqn.2026-01.org.example:disk{last}/0")
        } else {
            let shelf = u16::try_from(guest).unwrap();
            let target = AoeTarget { buffers: 128, ..AoeTarget::new(shelf, slot, 4096) };
            if !self.world.aoe.iter().any(|it| it.address == target.address) {
                self.world.aoe.push(target);
            }
            format!("aoe:e{guest}.{disk}")
        };
        Disk { volume, read_only: false }
    }

    fn bring_up(&mut self, domain: u32, name: String, (disks, cards): (usize, usize)) {
        for device in 0..disks {
            self.disks.push(self.world.bring_up_sized(domain, device, 256));
        }
        for device in disks..disks + cards {
            self.cards.push(self.world.bring_up_sized(domain, device, 256));
        }
        self.guests.push((domain, name));
    }

    /// Makes everything ready for a load.
    fn prepare(&mut self, loads: &[Load]) {
        let sends: Vec<Sends> = loads
            .iter()
            .filter_map(|it| if let Load::Sends(sends) = it { Some(*sends) } else { None })
            .collect();
        let scatters = loads.contains(&Load::Scatters);
        for (index, card) in self.cards.iter_mut().enumerate() {
            if let Some(sends) = sends.get(index % sends.len().max(1)) {
                prepare_sender(&self.world, card, index % NETWORK_CARDS, *sends);
                self.world.ring(card, 1);
            }
            prepare_receiver(&self.world, card, index % NETWORK_CARDS, scatters);
            self.world.ring(card, 0);
        }
        if loads.contains(&Load::Disks) {
            for (index, disk) in self.disks.iter_mut().enumerate() {
                let memory = self.world.hypervisor.domain(disk.domain).memory.clone();
                fill(&memory, disk, if index % 2 == 0 { 126 } else { 1 }, index % 4 < 2);
                drop(memory);
                self.world.ring(disk, 0);
            }
        }
        self.bells = self.world.events.clone();
        let pings = if loads.contains(&Load::Pings) { 2_000 } else { 0 };
        let refuses = loads.contains(&Load::Logins);
        for (index, target) in self.world.more_iscsi.iter_mut().enumerate() {
            target.pings = pings;
            if refuses && index % 2 == 0 {
                target.secret = Some(("alice", b"another secret"));
                target.drop_all(self.world.now_ns);
            }
        }
        if loads.contains(&Load::Commands) {
            for who in [Who::Admin, Who::Operator, Who::Viewer].into_iter().cycle().take(9) {
                let operator = self.world.connect(who);
                self.operators.push(operator);
            }
        }
        if loads.contains(&Load::Uploads) {
            self.uploaders = (0..2).map(|_| self.world.connect(Who::Operator)).collect();
        }
    }

    fn run(&mut self, loads: &[Load]) {
        self.prepare(loads);
        self.later = self.world.events.drain(..).collect();
        let first = self.world.turns;
        for step in 0..steps() {
            for load in loads {
                self.go_on(*load, step);
            }
            self.later.extend(self.world.events.drain(..));
            let count = self.later.len().min(EVENTS);
            self.world.events.extend(self.later.drain(..count));
            self.later.truncate(10_000);
            let until_ns = self.world.now_ns + MS / 5;
            self.world.step(until_ns);
            self.hear();
            self.refill(loads, step);
        }
        let turns = self.world.turns - first;
        assert!(turns >= u64::from(steps() / 2), "{turns} turns");
        assert!(self.world.heap.peak < i64::try_from(HEAP_BYTES).unwrap());
    }

    /// What the node says to those who attack it, and to operators.
    fn hear(&mut self) {
        for frame in self.world.wire.drain(..).filter(|frame| frame[..6] == ATTACKER_MAC) {
            if let Some(said) = self.attack.hear(&frame) {
                self.world.nic.card().received.push_back(said);
            }
        }
        self.world.to_node.clear();
        self.answers += self.world.sessions.iter_mut().map(|it| it.outcomes.drain(..).count()).sum::<usize>();
        for session in &mut self.world.sessions {
            session.sent.clear();
        }
    }

    /// Gives back what the node is done with.
    fn refill(&mut self, loads: &[Load], step: u32) {
        for device in self.cards.iter_mut().chain(&mut self.disks) {
            let memory = self.world.hypervisor.domain(device.domain).memory.clone();
            for ring in &mut device.driver.rings {
                while let Some((head, _)) = ring.take_used(&memory) {
                    ring.publish(&memory, u16::try_from(head).unwrap());
                }
            }
        }
        if loads.contains(&Load::Disks) {
            // Silent for a while, and then all at once.
            let up = step % 40 >= 20;
            self.world.aoe.iter_mut().for_each(|target| target.up = up);
            self.world.more_iscsi.iter_mut().for_each(|target| target.silent = !up);
        }
    }

    fn go_on(&mut self, load: Load, step: u32) {
        match load {
            Load::Sends(_) | Load::Scatters | Load::Disks | Load::Pings => {
                self.world.events.extend_from_slice(&self.bells);
            }
            Load::Wire => self.flood(),
            Load::Hellos => {
                let kinds = [Kind::Known, Kind::Pinned, Kind::Known, Kind::Stranger];
                let kinds = if step.is_multiple_of(8) { &KINDS[..] } else { &kinds };
                let frame = self.attack.begin(kinds);
                self.world.nic.card().received.push_back(frame);
            }
            Load::Commands => self.command(),
            Load::Uploads => self.upload(),
            Load::Logins if step % 20 == 19 => {
                let now_ns = self.world.now_ns;
                self.world.more_iscsi.iter_mut().for_each(|target| target.drop_all(now_ns));
            }
            Load::Logins => self.world.now_ns += 20 * MS,
            Load::Exits => self.exits(),
        }
    }

    fn flood(&mut self) {
        let guests = self.guests.len();
        let other = [2, 9, 9, 9, 9, 9];
        for number in 0..160 {
            let to = match number % 4 {
                0 => mac_of(self.random.index(guests), self.random.index(NETWORK_CARDS)),
                1 => NODE_MAC,
                _ => [0xff; 6],
            };
            let mut frame = match number % 8 {
                1 => syn(&mut self.random),
                3 => [
                    &to[..],
                    &other,
                    &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
                    &other,
                    &[10, 0, 0, 77, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1],
                ]
                .concat(),
                5 => ping(),
                6 => [&to[..], &other, &[0x88, 0xa2, 0x18, 0, 0, 0, 0, 1]].concat(),
                _ => [&to[..], &other, &[0x88, 0xb5]].concat(),
            };
            if frame.len() < 42 {
                frame.resize(if number % 3 == 0 { 60 } else { 1514 }, 7);
            }
            for nic in core::iter::once(&self.world.nic).chain(&self.world.storage_nics) {
                nic.card().received.push_back(frame.clone());
            }
        }
    }

    fn command(&mut self) {
        let count = self.operators.len();
        for turn in 0..count {
            let index = self.operators[turn];
            match self.world.sessions[index].stage {
                Stage::Open(_) => {}
                Stage::Dead => {
                    let (connection, now_ns) = (self.world.sessions[index].connection, self.world.now_ns);
                    self.world.operator.abort(connection, now_ns);
                    self.operators[turn] = self.world.dial(Who::Admin);
                    continue;
                }
                _ => continue,
            }
            if self.world.sessions[index].outgoing.len() > 100_000 {
                continue;
            }
            self.asked += 1;
            let name = self.guests[self.asked % self.guests.len()].1.clone();
            let machine = Machine { name: "new".to_string(), ..self.machine.clone() };
            let request = match self.asked / count % 20 {
                0 | 10 => Request::List,
                1 => Request::StorageShow { volume: None, from: 0 },
                2 => Request::ConfigExport { from: 0 },
                3 => Request::AuditRead { log: Log::Effects, from: 0 },
                4 => Request::NodeLog { run: Run::Current, from: 0 },
                5 => Request::Traffic,
                6 => Request::BlobMissing(vec![[7; 32]; 64]),
                7 => Request::ConsoleWrite { name, bytes: vec![b'x'; INPUT_BYTES] },
                8 => Request::GuestShow { name },
                9 => Request::AuditRead { log: Log::Refusals, from: 0 },
                11 => Request::check(machine),
                12 => Request::Pause { name },
                13 => Request::Unpause { name },
                14 => Request::TrustShow,
                15 => Request::Capture { name, from: 0, snap_bytes: 9_000 },
                16 => Request::StorageShow { volume: None, from: 40 },
                17 => Request::NodeInfo,
                18 => Request::JobList,
                _ => Request::ConsoleRead { name, from: 0 },
            };
            self.world.send(index, &request);
        }
    }

    fn upload(&mut self) {
        for turn in 0..self.uploaders.len() {
            let index = self.uploaders[turn];
            let session = &self.world.sessions[index];
            if !matches!(session.stage, Stage::Open(_)) || session.outgoing.len() > 200_000 {
                continue;
            }
            // A file of its own each time.
            let chunk = vec![self.random.byte(); BLOB_CHUNK_BYTES];
            let blob = vec![chunk; 4].concat();
            let digest: [u8; 32] = Sha256::digest(&blob).into();
            self.world.send(index, &Request::BlobPut { digest, length: blob.len() as u64, resume: false });
            self.world.send_data(index, &blob);
        }
    }

    fn exits(&mut self) {
        let exit = |domain: u32, access: u16, address: u64, width: u16, value: u64| Event {
            kind: event::EXIT,
            domain,
            access,
            width,
            address,
            value,
            ..Event::default()
        };
        for (number, (domain, _)) in self.guests.iter().enumerate() {
            for count in 0..32 {
                let bar = ecam(count % 12) + 0x10;
                self.world.events.push(match number % 4 {
                    0 => exit(
                        *domain,
                        event::ACCESS_MEMORY_WRITE,
                        bar,
                        4,
                        0xd000_0000 + (count as u64) * 0x10_0000,
                    ),
                    1 => exit(*domain, event::ACCESS_PORT_WRITE, 0x3f8, 1, u64::from(b'x')),
                    2 => exit(*domain, event::ACCESS_MEMORY_READ, bar, 4, 0),
                    _ => exit(
                        *domain,
                        event::ACCESS_PORT_WRITE,
                        0xcf8,
                        4,
                        0x8000_0000 + (count as u64) * 0x800,
                    ),
                });
            }
            for index in 0..40 {
                self.world.events.push(Event {
                    kind: event::DOORBELL,
                    domain: *domain,
                    index,
                    ..Event::default()
                });
            }
        }
    }
}

fn ping() -> Vec<u8> {
    let mut frame =
        [&NODE_MAC[..], &[2, 9, 9, 9, 9, 9], &[8, 0, 0x45, 0, 0x5, 0xdc, 0, 0, 0, 0, 64, 1, 0, 0]].concat();
    frame.extend([10, 0, 0, 77, 10, 0, 0, 1, 8, 0, 0, 0]);
    frame.resize(1514, 0);
    frame
}

fn prepare_sender(world: &World, card: &mut Device, number: usize, sends: Sends) {
    let memory = world.hypervisor.domain(card.domain).memory.clone();
    let base = CARD_BASE + number as u64 * CARD_BYTES + 0x20_0000;
    let (frame_at, table) = (base, base + 0x2_0000);
    let mac = world.card_mac(card);
    let to = if matches!(sends, Sends::Flood | Sends::LargeFlood) { [0xff; 6] } else { OPERATOR_MAC };
    let (header, frame) = match sends {
        Sends::Large | Sends::LargeFlood => large(mac, to),
        _ => {
            let mut frame = [&to[..], &mac, &[0x88, 0xb5]].concat();
            frame.resize(if sends == Sends::Flood { 1514 } else { 238 }, 7);
            ([0; 12], frame)
        }
    };
    let bytes = [&header[..], &frame].concat();
    memory.put(frame_at, &bytes);
    let pieces = if matches!(sends, Sends::Scattered | Sends::Malformed) { PIECES } else { 1 };
    for piece in 0..pieces {
        let flags = if piece + 1 == pieces { 0 } else { NEXT };
        let length = u32::try_from(bytes.len()).unwrap();
        let (at, length) = match sends {
            // All longer than any frame.
            Sends::Malformed => (0x10_0000, 64 * 1024),
            Sends::Scattered => (frame_at + u64::from(piece), length / u32::from(PIECES)),
            _ => (frame_at, length),
        };
        put_descriptor(&memory, table + u64::from(piece) * 16, (at, length, flags, piece + 1));
    }
    offer(&memory, card, 1, |_| (table, pieces));
}

/// A large TCP segment in as many pieces as a guest may ask for.
fn large(from: [u8; 6], to: [u8; 6]) -> ([u8; 12], Vec<u8>) {
    let payload = 144 * 453;
    let mut frame = [&to[..], &from, &[8, 0, 0x45, 0]].concat();
    frame.extend(u16::try_from(40 + payload).unwrap().to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 200, 10, 0, 0, 2]);
    frame.extend([4, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    frame.resize(54 + payload, 7);
    let [low, high] = 453u16.to_le_bytes();
    ([1, 1, 54, 0, low, high, 34, 0, 16, 0, 0, 0], frame)
}

fn prepare_receiver(world: &World, card: &mut Device, number: usize, scatters: bool) {
    let memory = world.hypervisor.domain(card.domain).memory.clone();
    let base = CARD_BASE + number as u64 * CARD_BYTES;
    let tables = base + 0x30_0000;
    let pieces = if scatters { PIECES } else { 1 };
    for piece in 0..pieces {
        let flags = if piece + 1 == pieces { WRITE } else { WRITE | NEXT };
        let length = if scatters { 1 } else { 2048 };
        put_descriptor(
            &memory,
            tables + u64::from(piece) * 16,
            (base + u64::from(piece), length, flags, piece + 1),
        );
    }
    offer(&memory, card, 0, |_| (tables, pieces));
}

/// Makes all of a ring's chains available: tables and how many descriptors they have.
fn offer(memory: &FakeMemory, card: &mut Device, ring: usize, table: impl Fn(u16) -> (u64, u16)) {
    let ring = &mut card.driver.rings[ring];
    for head in 0..ring.size {
        let (at, pieces) = table(head);
        ring.describe(memory, head, (at, u32::from(pieces) * 16, INDIRECT, 0));
        ring.publish(memory, head);
    }
}

#[test]
fn guests_send_short_frames() {
    full(901).run(&[Load::Sends(Sends::Short)]);
}

#[test]
fn guests_send_what_is_scattered() {
    full(902).run(&[Load::Sends(Sends::Scattered), Load::Sends(Sends::Malformed)]);
}

#[test]
fn guests_flood_one_another() {
    full(903).run(&[Load::Sends(Sends::Flood), Load::Scatters]);
}

#[test]
fn guests_send_large_segments() {
    full(904).run(&[Load::Sends(Sends::Large), Load::Sends(Sends::LargeFlood)]);
}

#[test]
fn the_wire_floods_guests_and_node() {
    full(905).run(&[Load::Wire, Load::Scatters]);
}

#[test]
fn operators_come_without_end() {
    full(906).run(&[Load::Hellos]);
}

#[test]
fn operators_ask_for_everything() {
    full(907).run(&[Load::Commands]);
}

#[test]
fn operators_send_files() {
    full(908).run(&[Load::Uploads]);
}

#[test]
fn all_disks_complete_at_once() {
    full(909).run(&[Load::Disks]);
}

#[test]
fn targets_want_answers() {
    full(910).run(&[Load::Pings, Load::Disks]);
}

#[test]
fn targets_refuse_logins() {
    full(911).run(&[Load::Logins]);
}

#[test]
fn guests_touch_registers() {
    full(912).run(&[Load::Exits]);
}

#[test]
fn everything_at_once() {
    let mut loads: Vec<Load> = SENDS.into_iter().map(Load::Sends).collect();
    loads.extend([Load::Scatters, Load::Wire, Load::Hellos, Load::Commands, Load::Uploads]);
    loads.extend([Load::Disks, Load::Pings, Load::Exits]);
    full(913).run(&loads);
}
