//! A node with two cards: a cable is cut and healed, then the other one, again and again.

extern crate std;

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use std::println;

use hv_abi::event::{self, Event};
use mgmt_proto::disk::{DiskSetting, GuestSettings};
use mgmt_proto::machine::Disk;
use mgmt_proto::manifest::{Addressing, AoeCards, StorageCard};
use mgmt_proto::verb::{CardCondition, CardFacts, CardUse, Discover, Reply, Request};
use mgmt_proto::volume::{PathCondition, VolumeFacts};

use super::driver::Device;
use super::fake_nic::FakeNic;
use super::targets::{AoeTarget, IscsiTarget};
use super::world::*;
use crate::limits::CARD_STUCK_NS;
use crate::network::nic::Nic as _;
use crate::settings::Settings;

const STORAGE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x71];
const AOE: &str = "aoe:e7.3";
const ISCSI: &str = "iscsi://10.0.0.3/iqn.2026-01.org.example:disk/0";
const SECTORS: usize = 64;
/// No request takes longer, whatever cable is cut.
const LIMIT_NS: u64 = 3 * SECOND;
/// All paths are back so soon after healing.
const HEALED_NS: u64 = 10 * SECOND;
/// Pause between two requests of a disk.
const PACE_NS: u64 = 20 * MS;

fn sealed(address: [u8; 4]) -> Settings {
    let mut settings = settings();
    let addressing = Addressing::Static { address, prefix: 24, gateway: None };
    settings.manifest.storage_cards =
        vec![StorageCard { mac: None, addressing: Some(addressing), mtu: 1500 }];
    settings
}

/// A node with a storage card that has `address`, and targets on both wires.
fn world(seed: u64, settings: Settings, target: [u8; 4]) -> World {
    world_with(seed, settings, target, FakeNic::new(STORAGE_MAC))
}

fn world_with(seed: u64, settings: Settings, target: [u8; 4], card: FakeNic) -> World {
    let mut world = World::with_cards(seed, settings, vec![card]);
    world.aoe.push(AoeTarget::new(7, 3, SECTORS));
    world.iscsi = Some(IscsiTarget::new(SECTORS).on_two_wires(target.into()));
    world
}

fn guest(world: &mut World, portals: &[[u8; 4]]) -> (usize, [Device; 2]) {
    let (session, mut machine) = world.ready();
    machine.disks =
        [AOE, ISCSI].iter().map(|volume| Disk { volume: volume.to_string(), read_only: false }).collect();
    let portals = portals.iter().map(|address| DiskSetting::Portal(*address, 3260)).collect();
    let settings = GuestSettings { limits: Vec::new(), disks: vec![Vec::new(), portals] };
    let Reply::Created(domain) =
        world.done(session, &Request::Create { machine, settings, paused: false, autostart: None })
    else {
        panic!("no guest")
    };
    (session, [0, 1].map(|device| world.bring_up(domain, device)))
}

fn volumes(world: &mut World, session: usize) -> Vec<VolumeFacts> {
    let Reply::Volumes(page) = world.done(session, &Request::StorageShow { volume: None, from: 0 }) else {
        panic!("no volumes")
    };
    page.volumes
}

fn cards(world: &mut World, session: usize) -> Vec<CardFacts> {
    let Reply::NodeCards(cards) = world.done(session, &Request::NodeCards) else { panic!("no cards") };
    cards
}

fn card_of(path: &mgmt_proto::volume::PathFacts) -> &str {
    path.negotiated.iter().find(|(key, _)| key == "Card").map_or("", |(_, value)| value)
}

fn all_paths_serve(world: &World) -> bool {
    let numbers = world.node.guests.list.iter().map(|guest| guest.number);
    numbers.flat_map(|guest| [0, 1].map(|device| (guest, device))).all(|(guest, device)| {
        world.node.volumes.volume_facts(guest, device).is_some_and(|facts| {
            let serves = |it: &PathCondition| matches!(it, PathCondition::Active | PathCondition::Standby);
            facts.paths.len() == 2 && facts.paths.iter().all(|path| serves(&path.condition))
        })
    })
}

struct Pending {
    number: u64,
    status: u64,
    body: u64,
    sector: usize,
    since_ns: u64,
    /// What is written, or nothing for a read.
    writes: Option<u8>,
}

/// A guest's disk under load: a write or a read of one sector at a time, several at once.
struct Load {
    disk: Device,
    holds: [u8; SECTORS],
    pending: Vec<Pending>,
    next_ns: u64,
    done: u64,
    longest_ns: u64,
    submitted: u64,
}

impl Load {
    fn new(disk: Device) -> Self {
        Self {
            disk,
            holds: [0; SECTORS],
            pending: Vec::new(),
            next_ns: 0,
            done: 0,
            longest_ns: 0,
            submitted: 0,
        }
    }

    fn submit(&mut self, world: &mut World) {
        // The driver has room for 16 requests, one after the other.
        let oldest = self.pending.first().map_or(self.submitted, |it| it.number);
        if self.submitted - oldest >= 15 || world.now_ns < self.next_ns {
            return;
        }
        self.next_ns = world.now_ns + PACE_NS;
        let sector = to_usize(world.random.below(SECTORS as u64));
        if self.pending.iter().any(|it| it.sector == sector) {
            return;
        }
        let writes = (world.random.below(2) == 0).then(|| world.random.byte());
        let data = [writes.unwrap_or(0); 512];
        let (kind, since_ns) = (u32::from(writes.is_some()), world.now_ns);
        let (body, status) = world.submit(&mut self.disk, kind, sector as u64, &data);
        self.pending.push(Pending { number: self.submitted, status, body, sector, since_ns, writes });
        self.submitted += 1;
    }

    fn collect(&mut self, world: &mut World) {
        let mut index = 0;
        while let Some(it) = self.pending.get(index) {
            let waited_ns = world.now_ns - it.since_ns;
            self.longest_ns = self.longest_ns.max(waited_ns);
            assert!(
                waited_ns <= LIMIT_NS,
                "sector {} has waited for {waited_ns} ns: {:#?}",
                it.sector,
                world.node.volumes.volume_facts(world.node.guests.list[0].number, self.disk.index()),
            );
            let Some(status) = world.status(&mut self.disk, it.status) else {
                index += 1;
                continue;
            };
            let it = self.pending.remove(index);
            assert_eq!(status, 0, "sector {}", it.sector);
            match it.writes {
                Some(byte) => self.holds[it.sector] = byte,
                None => assert!(
                    world.bytes(&self.disk, it.body, 512) == [self.holds[it.sector]; 512],
                    "sector {} does not hold {}",
                    it.sector,
                    self.holds[it.sector]
                ),
            }
            self.done += 1;
        }
    }
}

fn work(world: &mut World, loads: &mut [Load; 2], for_ns: u64) {
    let until_ns = world.now_ns + for_ns;
    while world.now_ns < until_ns {
        for load in loads.iter_mut() {
            load.submit(world);
        }
        let next_ns = loads.iter().map(|load| load.next_ns).min().unwrap_or(until_ns);
        world.step(next_ns.clamp(world.now_ns + MS, until_ns.max(world.now_ns + MS)));
        for load in loads.iter_mut() {
            load.collect(world);
        }
    }
}

/// Cuts and heals one cable after the other; the longest that a request took.
fn cut_and_heal(seed: u64, world: &mut World, disks: [Device; 2]) -> u64 {
    let mut loads = disks.map(Load::new);
    for round in 0..6 {
        let healed_ns = world.now_ns;
        while !all_paths_serve(world) {
            assert!(world.now_ns - healed_ns < HEALED_NS, "seed {seed}, round {round}: a path is not back");
            work(world, &mut loads, 100 * MS);
        }
        let pause_ns = world.random.below(2 * SECOND);
        work(world, &mut loads, pause_ns);
        world.cut = vec![(round + to_usize(seed)) % 2];
        // From a moment to far beyond every time-out.
        let cut_ns = (20 * MS) << world.random.below(11);
        work(world, &mut loads, cut_ns);
        world.cut.clear();
    }
    work(world, &mut loads, LIMIT_NS);
    assert!(loads.iter().all(|load| load.done > 300), "too little was done");
    loads.iter().map(|load| load.longest_ns).max().unwrap_or(0)
}

#[test]
fn no_request_waits_for_a_cable_that_is_cut_when_there_are_two_portals() {
    let mut longest_ns = 0;
    for seed in 1..=20 {
        let mut world = world(seed, sealed([10, 0, 1, 1]), [10, 0, 1, 3]);
        let (_, disks) = guest(&mut world, &[[10, 0, 1, 3]]);
        longest_ns = longest_ns.max(cut_and_heal(seed, &mut world, disks));
    }
    println!("the longest request took {} ms", longest_ns / MS);
}

#[test]
fn no_request_waits_for_a_cable_that_is_cut_when_two_cards_reach_one_portal() {
    let mut longest_ns = 0;
    for seed in 101..=120 {
        let mut world = world(seed, sealed([10, 0, 0, 7]), [10, 0, 0, 3]);
        let (_, disks) = guest(&mut world, &[]);
        longest_ns = longest_ns.max(cut_and_heal(seed, &mut world, disks));
    }
    println!("the longest request took {} ms", longest_ns / MS);
}

#[test]
fn the_card_of_each_path_is_told() {
    let mut world = world(21, sealed([10, 0, 1, 1]), [10, 0, 1, 3]);
    let (session, _) = guest(&mut world, &[[10, 0, 1, 3]]);
    world.run(2 * SECOND);
    let volumes = volumes(&mut world, session);
    let (first, second) = ("02:00:00:00:00:01", "02:00:00:00:00:71");
    for volume in &volumes {
        let told: Vec<&str> = volume.paths.iter().map(card_of).collect();
        assert_eq!(told, [first, second], "{}", volume.volume);
    }
    let told = cards(&mut world, session);
    assert_eq!(told.len(), 2);
    assert_eq!((told[0].mac, told[0].usage), (Some(NODE_MAC), CardUse::First));
    assert_eq!((told[1].mac, told[1].usage), (Some(STORAGE_MAC), CardUse::Storage));
    assert_eq!(told[1].address, Some(([10, 0, 1, 1], 24)));
    assert!(told.iter().all(|card| card.condition == CardCondition::Up && card.mtu == 1500 && card.aoe));
    assert!(told.iter().all(|card| card.frames.iter().all(|frames| *frames > 5)), "{told:?}");
    world.storage_nics[0].card().link_down = true;
    assert_eq!(cards(&mut world, session)[1].condition, CardCondition::Down);
    // Discovery names the wire on which a target is.
    let Reply::Found(found) = world.done(session, &Request::StorageDiscover(Discover::Aoe)) else {
        panic!("nothing discovered")
    };
    let seen: Vec<_> = found.iter().map(|found| found.details.rsplit(' ').next().unwrap()).collect();
    assert_eq!(seen, [first, second], "{found:?}");
    assert_ne!(found[0].server, found[1].server);
}

#[test]
fn nothing_but_disks_is_on_a_storage_card() {
    let mut world = world(22, sealed([10, 0, 1, 1]), [10, 0, 1, 3]);
    let (session, _) = guest(&mut world, &[]);
    world.run(SECOND);
    assert!(world.logged("storage card 02:00:00:00:00:71 has 10.0.1.1/24"));
    let nic = world.storage_nics[0].clone();
    let answers = |world: &mut World, frame: &[u8]| {
        nic.card().sent.clear();
        nic.card().received.push_back(frame.to_vec());
        world.turn();
        let mut card = nic.card();
        let answers = card.sent.iter().filter(|sent| sent[..6] == frame[6..12]).count();
        card.sent.clear();
        answers
    };
    // Who has 10.0.1.1? (RFC 826.) It answers for its own address, not for the first card's.
    let arp = |last: [u8; 4]| {
        let mut frame = [0xff; 6].to_vec();
        frame.extend([2, 0, 0, 0, 9, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 9, 9, 10, 0, 1, 99]);
        frame.extend([0; 6]);
        frame.extend(last);
        frame
    };
    assert_eq!(answers(&mut world, &arp([10, 0, 1, 1])), 1);
    assert_eq!(answers(&mut world, &arp([10, 0, 0, 1])), 0);
    // The first card's address is nothing here, and the one door is shut.
    let syn = |to: [u8; 6], address: [u8; 4]| {
        let mut frame =
            [&to[..], &[2, 0, 0, 0, 9, 9, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]].concat();
        frame.extend([10, 0, 1, 99]);
        frame.extend(address);
        let sum: u32 = frame[14..34].chunks(2).map(|it| u32::from(u16::from_be_bytes([it[0], it[1]]))).sum();
        let folded = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        frame[24..26].copy_from_slice(&folded.to_be_bytes());
        let mut segment =
            [&40_000_u16.to_be_bytes()[..], &PORT.to_be_bytes(), &[0, 0, 0, 1, 0, 0, 0, 0]].concat();
        segment.extend([0x50, 2, 0x20, 0, 0, 0, 0, 0]);
        let pseudo = [&frame[26..34], &[0, 6, 0, 20], &segment].concat();
        let sum: u32 = pseudo.chunks(2).map(|it| u32::from(u16::from_be_bytes([it[0], it[1]]))).sum();
        let folded = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        segment[16..18].copy_from_slice(&folded.to_be_bytes());
        frame.extend(segment);
        frame
    };
    assert_eq!(answers(&mut world, &syn(STORAGE_MAC, [10, 0, 1, 1])), 0);
    assert_eq!(answers(&mut world, &syn(NODE_MAC, [10, 0, 0, 1])), 0);
    assert_eq!(answers(&mut world, &syn(STORAGE_MAC, [10, 0, 0, 1])), 0);
    // No guest hears what comes there, and none may have its address.
    let before = world.facts(session, "web").unwrap().frames;
    for to in [[0xff; 6], guest_mac(1)] {
        nic.card().received.push_back([&to[..], &[2, 0, 0, 0, 9, 9, 8, 0], &[0; 60]].concat());
    }
    world.run(MS);
    assert_eq!(world.facts(session, "web").unwrap().frames, before);
    assert!(world.node.network.has_mac(STORAGE_MAC));
    assert!(!nic.card().stopped);
}

#[test]
fn answers_are_believed_only_where_they_belong() {
    let mut settings = sealed([10, 0, 1, 1]);
    settings.manifest.aoe = AoeCards::Storage;
    let mut world = world(23, settings, [10, 0, 1, 3]);
    let (session, [mut disk, _]) = guest(&mut world, &[]);
    assert_eq!(world.disk_write(&mut disk, 1, &[1; 512]), 0);
    let facts = &volumes(&mut world, session)[0];
    assert_eq!(facts.paths.len(), 1, "the first card speaks no AoE");
    assert!(world.wire.iter().all(|frame| frame[12..14] != [0x88, 0xa2]));
    assert!(!cards(&mut world, session)[0].aoe);
    // The right answer at the wrong card.
    world.cut = vec![1];
    let (_, status) = world.submit(&mut disk, 0, 1, &[0; 512]);
    let nic = world.storage_nics[0].clone();
    world.turn();
    let asked = nic.card().sent.back().cloned().unwrap();
    let target = &mut world.aoe[0];
    let mac = core::mem::replace(&mut target.mac, asked[..6].try_into().unwrap());
    let answer = target.answer(&asked).unwrap();
    target.mac = mac;
    world.nic.card().received.push_back(answer.clone());
    world.run(2 * MS);
    assert_eq!(world.status(&mut disk, status), None);
    nic.card().received.push_back(answer);
    world.run(2 * MS);
    assert_eq!(world.status(&mut disk, status), Some(0));
}

#[test]
fn a_card_that_takes_nothing_does_not_hold_the_other_back() {
    for stuck in [0, 1] {
        let mut world = world(24 + stuck, sealed([10, 0, 1, 1]), [10, 0, 1, 3]);
        let (_, disks) = guest(&mut world, &[[10, 0, 1, 3]]);
        world.run(2 * SECOND);
        let nic = if stuck == 0 { world.nic.clone() } else { world.storage_nics[0].clone() };
        nic.card().stuck = true;
        let (turns, mut loads) = (world.turns, disks.map(Load::new));
        work(&mut world, &mut loads, 5 * SECOND);
        assert!(loads.iter().all(|load| load.done > 20), "{:?}", loads.map(|load| load.done));
        // 250 requests a disk, and a few turns for each of them.
        assert!(world.turns - turns < 20_000, "{} turns", world.turns - turns);
        nic.card().stuck = false;
        world.run(CARD_STUCK_NS);
    }
}

#[test]
fn a_node_starts_without_its_storage_card_and_says_so() {
    let mut settings = sealed([10, 0, 1, 1]);
    let named = StorageCard { mac: Some([2, 0, 0, 0, 9, 9]), addressing: None, mtu: 9000 };
    settings.manifest.storage_cards.insert(0, named);
    let mut world = World::with(25, settings.clone());
    let session = world.connect(Who::Viewer);
    let told = cards(&mut world, session);
    let missing: Vec<_> = told[1..].iter().map(|card| (card.mac, card.condition, card.mtu)).collect();
    assert_eq!(
        missing,
        [(Some([2, 0, 0, 0, 9, 9]), CardCondition::Missing, 9000), (None, CardCondition::Missing, 1500)]
    );
    assert!(world.logged("storage card 02:00:00:00:09:09, AoE only, mtu 9000 is not there"));
    // One more than were sealed is not used.
    let nics: Vec<_> = [0x71, 0x72, 0x73].map(|last| FakeNic::new([2, 0, 0, 0, 0, last])).to_vec();
    let mut world = World::with_cards(26, settings, nics.clone());
    let session = world.connect(Who::Viewer);
    let told = cards(&mut world, session);
    let macs: Vec<_> = told.iter().map(|card| (card.mac, card.condition == CardCondition::Missing)).collect();
    let missing = [2, 0, 0, 0, 9, 9];
    assert_eq!(macs, [(Some(NODE_MAC), false), (Some([2, 0, 0, 0, 0, 0x71]), false), (Some(missing), true)]);
    assert!(!nics[0].card().stopped && nics[1].card().stopped && nics[2].card().stopped);
    assert!(world.logged("card 02:00:00:00:00:72 is not among storage_cards"));
}

/// A card's link goes down or comes back, and its interrupt says so.
fn set_link(world: &mut World, card: usize, up: bool) {
    let nic = if card == 0 { world.nic.clone() } else { world.storage_nics[card - 1].clone() };
    nic.card().link_down = !up;
    world.cut = if up { Vec::new() } else { vec![card] };
    world.events.push(Event { kind: event::INTERRUPT, ..Event::default() });
}

#[test]
fn a_link_that_goes_down_is_left_at_once_and_used_at_once_when_it_is_back() {
    for (seed, portals) in [(31, &[[10, 0, 1, 3]][..]), (32, &[])] {
        let own = if portals.is_empty() { [10, 0, 0, 7] } else { [10, 0, 1, 1] };
        let target = if portals.is_empty() { [10, 0, 0, 3] } else { [10, 0, 1, 3] };
        let mut world = world(seed, sealed(own), target);
        let (_, disks) = guest(&mut world, portals);
        world.run(2 * SECOND);
        let mut loads = disks.map(Load::new);
        for card in [0, 1, 0] {
            work(&mut world, &mut loads, 2 * SECOND);
            loads.iter_mut().for_each(|load| load.longest_ns = 0);
            set_link(&mut world, card, false);
            work(&mut world, &mut loads, 8 * SECOND);
            let longest_ns = loads.iter().map(|load| load.longest_ns).max().unwrap();
            // Not by its silence, of which 250 ms and 1.2 s are a loss; but writes that were
            // on their way there keep others off their place.
            assert!(longest_ns < 1_900 * MS, "{} ms", longest_ns / MS);
            assert!(!all_paths_serve(&world));
            set_link(&mut world, card, true);
            work(&mut world, &mut loads, 700 * MS);
            assert!(all_paths_serve(&world), "seed {seed}: card {card} is not used again");
        }
        assert!(world.logged("card 02:00:00:00:00:01: its link is down"));
        assert!(world.logged("card 02:00:00:00:00:71: its link is up"));
    }
}

#[test]
fn a_card_that_cuts_is_given_a_write_as_it_is() {
    for card in [FakeNic::new(STORAGE_MAC), FakeNic::cutting(STORAGE_MAC)] {
        let cuts = card.accepts().tso4;
        let mut world = world_with(22, sealed([10, 0, 0, 7]), [10, 0, 0, 3], card.clone());
        let (session, [_, mut disk]) = guest(&mut world, &[]);
        for round in 1..=20 {
            let data: Vec<u8> = (0..=u8::MAX).cycle().map(|octet| octet ^ round).take(8 * 512).collect();
            assert_eq!(world.disk_write(&mut disk, 8, &data), 0);
            assert_eq!(world.disk_read(&mut disk, 8, 8), data);
        }
        assert_eq!(card.card().large >= 20, cuts);
        // Whoever cuts: what is told is what was on the wire.
        let told = cards(&mut world, session).remove(1);
        assert_eq!([told.frames[1], told.bytes[1]], card.card().moved);
    }
}

#[test]
fn damaged_frames_on_a_storage_card_harm_nothing() {
    let mut world = world(33, sealed([10, 0, 1, 1]), [10, 0, 1, 3]);
    let (session, disks) = guest(&mut world, &[[10, 0, 1, 3]]);
    let mut loads = disks.map(Load::new);
    let nic = world.storage_nics[0].clone();
    let mut seen: Vec<Vec<u8>> = Vec::new();
    for _ in 0..60 {
        work(&mut world, &mut loads, 20 * MS);
        seen.append(&mut world.to_storage);
        for _ in 0..100 {
            let index = to_usize(world.random.below(seen.len() as u64));
            let mut frame = seen[index].clone();
            for _ in 0..=world.random.below(4) {
                let at = to_usize(world.random.below(frame.len() as u64));
                frame[at] ^= 1 << world.random.below(8);
            }
            if world.random.below(4) == 0 {
                frame.truncate(to_usize(world.random.below(frame.len() as u64 + 1)));
            }
            nic.card().received.push_back(frame);
        }
    }
    work(&mut world, &mut loads, 4 * SECOND);
    assert!(loads.iter().all(|load| load.done > 50));
    assert_eq!(cards(&mut world, session)[1].condition, CardCondition::Up);
}

#[test]
fn a_portal_is_reached_when_its_card_has_got_an_address() {
    let mut settings = sealed([10, 0, 1, 1]);
    settings.manifest.storage_cards[0].addressing = Some(Addressing::Dhcp);
    let mut world = world(34, settings, [10, 0, 1, 3]);
    let (session, [_, mut disk]) = guest(&mut world, &[[10, 0, 1, 3]]);
    world.run(5 * SECOND);
    let told = |world: &mut World| {
        let paths = volumes(world, session).remove(1).paths;
        paths.iter().map(|path| (path.condition, card_of(path).to_string())).collect::<Vec<_>>()
    };
    let second = "02:00:00:00:00:71".to_string();
    let before = told(&mut world);
    assert!(before[0].0 == PathCondition::Active && before[1].0 != PathCondition::Standby, "{before:?}");
    assert_eq!(cards(&mut world, session)[1].address, None);
    world.dhcp = true;
    let ready = |world: &mut World| told(world)[1] == (PathCondition::Standby, second.clone());
    let asked_ns = world.now_ns;
    while !ready(&mut world) {
        world.run(500 * MS);
        assert!(world.now_ns - asked_ns < 30 * SECOND, "{:?}", told(&mut world));
    }
    assert_eq!(cards(&mut world, session)[1].address, Some(([10, 0, 1, 1], 24)));
    assert!(world.logged("storage card 02:00:00:00:00:71 has 10.0.1.1/24"));
    world.cut = vec![0];
    let (_, status) = world.submit(&mut disk, 1, 5, &[7; 512]);
    let asked_ns = world.now_ns;
    assert_eq!(world.completed(&mut disk, status), 0);
    assert!(world.now_ns - asked_ns <= LIMIT_NS);
}
