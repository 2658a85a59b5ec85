//! Guests that do all they can: their neighbours and operators have their share of each turn.

use alloc::vec::Vec;

use hv_abi::event::{self, Event};
use mgmt_proto::machine::{Disk, Machine, NetworkCard};
use mgmt_proto::verb::{Reply, Request};

use super::driver::Device;
use super::heap::fill;
use super::targets::{AoeTarget, IscsiTarget};
use super::world::*;
use crate::limits::DISK_FRAMES_MAX;
use machine::devices::virtio::test_driver::{INDIRECT, NEXT, ecam, put_descriptor};

/// What a hostile guest sends, over and over.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// As many frames as it can.
    Short,
    /// Frames in as many pieces of memory as a chain has.
    Scattered,
    /// Chains that are no frames.
    Malformed,
    /// Frames to all.
    Flood,
}

const LOADS: [Load; 4] = [Load::Short, Load::Scattered, Load::Malformed, Load::Flood];
/// Where frames and tables are, above the rings.
const FRAME: u64 = 0x80_0000;
const TABLE: u64 = 0x81_0000;

fn frame(source: [u8; 6], to: [u8; 6]) -> Vec<u8> {
    let mut frame = [&to[..], &source, &[0x88, 0xb5]].concat();
    frame.resize(200, source[5]);
    frame
}

/// Prepares a card's ring: all chains say the same.
fn prepare(world: &World, card: &mut Device, load: Load) {
    let memory = world.hypervisor.domain(card.domain).memory.clone();
    let to = if matches!(load, Load::Flood) { [0xff; 6] } else { OPERATOR_MAC };
    memory.put(FRAME, &[0; 12]);
    memory.put(FRAME + 12, &frame(guest_mac(1), to));
    let pieces: u16 = if matches!(load, Load::Scattered | Load::Malformed) { 212 } else { 1 };
    let total = if matches!(load, Load::Malformed) { 1 } else { 212 / u32::from(pieces) };
    for piece in 0..pieces {
        let flags = if piece + 1 == pieces { 0 } else { NEXT };
        // A malformed one is all longer than any frame.
        let (at, length) = match load {
            Load::Malformed => (0x10_0000, 64 * 1024),
            _ => (FRAME + u64::from(piece) * u64::from(total), total),
        };
        put_descriptor(&memory, TABLE + u64::from(piece) * 16, (at, length, flags, piece + 1));
    }
    let ring = &card.driver.rings[1];
    for head in 0..ring.size {
        ring.describe(&memory, head, (TABLE, u32::from(pieces) * 16, INDIRECT, 0));
    }
    for head in 0..ring.size {
        card.driver.rings[1].publish(&memory, head);
    }
}

/// Takes back what was sent, and sends it again.
fn refill(world: &World, card: &mut Device) {
    let memory = world.hypervisor.domain(card.domain).memory.clone();
    while let Some((head, _)) = card.driver.rings[1].take_used(&memory) {
        card.driver.rings[1].publish(&memory, u16::try_from(head).unwrap());
    }
}

/// A hostile guest with four cards and its neighbour.
fn neighbours(world: &mut World, load: Load) -> (usize, Vec<Device>, Device) {
    let (session, machine) = world.ready();
    let mut hostile = sibling(&machine, "hostile", 1);
    hostile.network_cards = (1..5).map(|last| NetworkCard::plain(guest_mac(last))).collect();
    let domain = world.create(session, &hostile);
    let other = world.create(session, &sibling(&machine, "other", 9));
    let mut cards: Vec<Device> = (0..4).map(|card| world.bring_up_sized(domain, card, 256)).collect();
    let neighbour = world.bring_up(other, 0);
    for card in &mut cards {
        prepare(world, card, load);
        world.ring(card, 1);
    }
    (session, cards, neighbour)
}

#[test]
fn a_neighbours_frame_leaves_within_two_turns() {
    for load in LOADS {
        let mut world = World::new(81);
        let (_, mut cards, mut neighbour) = neighbours(&mut world, load);
        let own = frame(guest_mac(9), OPERATOR_MAC);
        let (mut slowest, mut sent) = (0, 0);
        for _ in 0..50 {
            let memory = world.hypervisor.domain(neighbour.domain).memory.clone();
            memory.put(FRAME, &[0; 12]);
            memory.put(FRAME + 12, &own);
            let length = u32::try_from(12 + own.len()).unwrap();
            neighbour.driver.rings[1].push(&memory, &[(FRAME, length, false)]);
            drop(memory);
            world.ring(&neighbour, 1);
            let mut turns = 0;
            loop {
                world.turn();
                turns += 1;
                let frames: Vec<_> = world.nic.card().sent.drain(..).collect();
                sent += frames.len();
                cards.iter_mut().for_each(|card| refill(&world, card));
                if frames.contains(&own) {
                    break;
                }
                assert!(turns < 20, "{load:?}: the frame does not leave");
            }
            slowest = slowest.max(turns);
        }
        assert!(slowest <= 2, "{load:?}: it took {slowest} turns");
        // The hostile guest is not stopped, only held to its share.
        let progress = cards.iter().map(|card| u64::from(card.driver.rings[1].used)).sum::<u64>();
        assert!(progress > 100 && sent >= 50, "{load:?}: {progress} chains, {sent} frames");
    }
}

#[test]
fn operators_are_answered_whatever_a_guest_does() {
    for load in LOADS {
        let mut world = World::new(82);
        let (session, mut cards, _) = neighbours(&mut world, load);
        let first = world.turns;
        for _ in 0..10 {
            world.send(session, &Request::NodeInfo);
            while world.sessions[session].outcomes.is_empty() {
                let until_ns = world.now_ns + MS;
                world.step(until_ns);
                cards.iter_mut().for_each(|card| refill(&world, card));
                assert!(world.turns - first < 1_000, "{load:?}: no answer");
            }
            assert!(matches!(world.outcome(session), Ok(Reply::Node(_))));
        }
        let turns = (world.turns - first) / 10;
        assert!(turns <= 20, "{load:?}: an answer took {turns} turns");
    }
}

#[test]
fn a_register_that_is_rewritten_costs_the_hypervisor_little() {
    let mut world = World::new(83);
    let (session, machine) = world.ready();
    let mut machine = sibling(&machine, "hostile", 1);
    machine.network_cards = (1..5).map(|last| NetworkCard::plain(guest_mac(last))).collect();
    let domain = world.create(session, &machine);
    let at = world.bring_up(domain, 0).driver.bar;
    let calls = |world: &World| world.hypervisor.domain(domain).doorbell_calls;
    let bar = ecam(0) + 0x10;
    let write = |world: &mut World, value: u64| {
        world.access(domain, event::ACCESS_MEMORY_WRITE, bar, 4, value);
    };
    let bells = |world: &World| world.hypervisor.domain(domain).doorbells.clone();
    let (before, bells_before) = (calls(&world), bells(&world));
    // The same again: nothing to tell.
    (0..100).for_each(|_| write(&mut world, at));
    assert_eq!(calls(&world), before);
    // Elsewhere and back: its own two queues, none of the others.
    for _ in 0..50 {
        write(&mut world, at + 0x100_0000);
        write(&mut world, at);
    }
    let per_write = (calls(&world) - before) / 100;
    assert!((1..=2).contains(&per_write), "{per_write} calls a write");
    assert_eq!(bells(&world), bells_before);
}

#[test]
fn a_guest_that_owes_too_much_waits_with_its_accesses() {
    let mut world = World::new(84);
    let (session, machine) = world.ready();
    let domain = world.create(session, &sibling(&machine, "hostile", 1));
    let other = world.create(session, &sibling(&machine, "other", 2));
    world.bring_up(domain, 0);
    let exit = |domain: u32| Event {
        kind: event::EXIT,
        domain,
        access: event::ACCESS_MEMORY_READ,
        width: 4,
        address: ecam(0),
        ..Event::default()
    };
    let answers = |world: &World, domain: u32| world.hypervisor.domain(domain).answers.len();
    world.run(SECOND);
    let (before, others) = (answers(&world, domain), answers(&world, other));
    // Far more than vCPUs can have at a time, all at once.
    world.events.extend((0..5_000).map(|_| exit(domain)));
    world.events.push(exit(other));
    world.turn();
    let at_once = answers(&world, domain) - before;
    assert!((100..1_000).contains(&at_once), "{at_once} in one turn");
    assert_eq!(answers(&world, other) - others, 1, "its neighbour is answered");
    assert!(world.deadline_ns <= world.now_ns, "the node goes on");
    let mut turns = 0;
    while answers(&world, domain) - before < 5_000 {
        world.turn();
        turns += 1;
        assert!(turns < 100, "all are answered in the end");
    }
}

/// A target's PDUs are looked at a few hundred a turn, and others' before it comes again.
#[test]
fn a_target_that_asks_without_end_keeps_no_other_disk_waiting() {
    let mut world = World::new(86);
    let (session, machine) = world.ready();
    let mut machine = sibling(&machine, "web", 1);
    for last in [31, 32] {
        world.more_iscsi.push(IscsiTarget::numbered(64, last));
        let volume = alloc::format!("iscsi://10.0.0.{last}/iqn.2026-01.org.example:disk{last}/0");
        machine.disks.push(Disk { volume, read_only: false });
    }
    let domain = world.create(session, &machine);
    let mut disk = world.bring_up(domain, 1);
    world.more_iscsi[0].pings = 3_000;
    let begun_ns = world.now_ns;
    for sector in 0..20 {
        assert_eq!(world.disk_write(&mut disk, sector, &[7; 512]), 0);
    }
    assert!(world.now_ns - begun_ns < SECOND, "it took {} ns", world.now_ns - begun_ns);
    assert!(world.node.volumes.has_more() || world.deadline_ns > world.now_ns);
}

/// Requests of many disks wait for AoE frames: each disk sends some before the first one
/// sends again.
#[test]
fn disks_take_turns_with_their_frames() {
    let mut world = World::new(87);
    let (session, machine) = world.ready();
    let mut machine = Machine { memory_bytes: 64 * MIB, ..sibling(&machine, "web", 1) };
    for slot in 0..4 {
        world.aoe.push(AoeTarget { buffers: 128, ..AoeTarget::new(5, slot, 4096) });
        machine.disks.push(Disk { volume: alloc::format!("aoe:e5.{slot}"), read_only: false });
    }
    let domain = world.create(session, &machine);
    let mut disks: Vec<Device> = (0..4).map(|disk| world.bring_up_sized(domain, disk, 256)).collect();
    for disk in &mut disks {
        let memory = world.hypervisor.domain(domain).memory.clone();
        fill(&memory, disk, 1, false);
        drop(memory);
        world.ring(disk, 0);
    }
    world.wire.clear();
    world.run(5 * MS);
    let slots: Vec<u8> =
        world.wire.iter().filter(|it| it[12..14] == [0x88, 0xa2]).map(|it| it[18]).take(200).collect();
    let runs = slots.chunk_by(|one, other| one == other).map(<[u8]>::len).max();
    assert!(slots.len() == 200 && runs <= Some(2 * DISK_FRAMES_MAX), "{slots:?}");
    let count = |slot: u8| slots.iter().filter(|it| **it == slot).count();
    assert!((0..4).all(|slot| count(slot) >= 25), "{slots:?}");
}

/// All that can be asked of a node at once; `cargo measure` counts the instructions of its
/// turns here.
#[test]
fn the_heaviest_turns_are_within_bounds() {
    let mut world = World::new(85);
    let (session, machine) = world.ready();
    world.hypervisor.machine().memory_free_bytes = 4 << 30;
    let mut cards = Vec::new();
    for (number, load) in (1..).zip(LOADS) {
        let mut hostile = sibling(&machine, &alloc::format!("hostile{number}"), 1);
        let mac = |card: u8| if number == 1 { guest_mac(card) } else { [2, 0x12, 0, 0, number, card] };
        hostile.network_cards = (1..5).map(|card| NetworkCard::plain(mac(card))).collect();
        let domain = world.create(session, &hostile);
        for index in 0..4 {
            let mut card = world.bring_up_sized(domain, index, 256);
            prepare(&world, &mut card, load);
            world.offer_buffers(&mut card, 200);
            world.ring(&card, 1);
            cards.push(card);
        }
    }
    let blob = alloc::vec![7; 4 << 20];
    let uploader = world.connect(Who::Operator);
    let digest: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(&blob).into();
    let put = Request::BlobPut { digest, length: blob.len() as u64, resume: false };
    assert_eq!(world.done(uploader, &put), Reply::BlobHeld(0));
    world.send_data(uploader, &blob);
    let mut flood = frame([2, 9, 9, 9, 9, 9], [0xff; 6]);
    flood.resize(1514, 0);
    let first = world.turns;
    let mut answers = 0;
    for step in 0..400 {
        for _ in 0..64 {
            world.deliver(flood.clone());
        }
        // Operators come, and all who are there ask.
        if step % 20 == 0 {
            world.dial([Who::Viewer, Who::Operator][step / 20 % 2]);
        }
        for index in 0..world.sessions.len() {
            let open = matches!(world.sessions[index].stage, Stage::Open(_));
            answers += world.sessions[index].outcomes.drain(..).count();
            if open && index != uploader && step % 2 == 0 {
                world.send(index, &Request::NodeInfo);
            }
        }
        let until_ns = world.now_ns + MS / 10;
        world.step(until_ns);
        cards.iter_mut().for_each(|card| refill(&world, card));
    }
    let turns = world.turns - first;
    assert!(answers > 50, "{answers} answers in {turns} turns");
    assert!(world.heap.peak < i64::try_from(crate::ledger::HEAP_BYTES).unwrap());
}
