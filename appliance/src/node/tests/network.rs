//! Frames between guests, wire and node.

use alloc::vec;
use alloc::vec::Vec;

use mgmt_proto::verb::{Reply, Request};

use super::world::*;

fn frame(to: [u8; 6], from: [u8; 6], kind: u16, length: usize) -> Vec<u8> {
    let mut frame = [&to[..], &from, &kind.to_be_bytes()].concat();
    frame.resize(length, 0x5a);
    frame
}

const ALL: [u8; 6] = [0xff; 6];
const WIRE_MAC: [u8; 6] = [2, 0x77, 0, 0, 0, 1];
const TEST: u16 = 0x88b5;

#[test]
fn guests_and_wire_exchange_frames() {
    let mut world = World::new(21);
    let (session, machine) = world.ready();
    let one = world.create(session, &sibling(&machine, "one", 1));
    let two = world.create(session, &sibling(&machine, "two", 2));
    let (mut one, mut two) = (world.bring_up(one, 0), world.bring_up(two, 0));
    world.offer_buffers(&mut one, 16);
    world.offer_buffers(&mut two, 16);
    world.run(MS);
    world.wire.clear();
    // Guest to guest: nothing of it is seen on the wire.
    let sent = frame(guest_mac(2), guest_mac(1), TEST, 1514);
    world.send_frame(&mut one, &sent);
    assert!(world.take_frame(&mut two) == Some(sent));
    assert!(!world.wire.iter().any(|frame| frame[12..14] == TEST.to_be_bytes()));
    // Guest to everybody.
    let sent = frame(ALL, guest_mac(2), TEST, 100);
    world.send_frame(&mut two, &sent);
    assert!(world.take_frame(&mut one) == Some(sent.clone()) && world.take_frame(&mut two).is_none());
    assert!(world.wire.contains(&sent));
    // Guest to wire, wire to guest, wire to nobody.
    let sent = frame(WIRE_MAC, guest_mac(1), TEST, 60);
    world.send_frame(&mut one, &sent);
    assert!(world.wire.contains(&sent));
    let came = frame(guest_mac(2), WIRE_MAC, TEST, 1514);
    world.deliver(came.clone());
    world.deliver(frame(guest_mac(9), WIRE_MAC, TEST, 60));
    world.run(MS);
    assert!(world.take_frame(&mut two) == Some(came));
    assert!(world.take_frame(&mut one).is_none() && world.take_frame(&mut two).is_none());
    let facts = world.facts(session, "two").unwrap();
    assert!(facts.frames[0] >= 2 && facts.frames[1] == 1, "{:?}", facts.frames);
    // The same in bytes: what two sent, and at least what it took.
    let Reply::Traffic(traffic) = world.done(session, &Request::Traffic) else { panic!("no traffic") };
    let own = traffic.iter().find(|it| it.id == facts.id).unwrap();
    assert!(own.bytes[0] >= 1514 + 60 && own.bytes[1] == 100, "{:?}", own.bytes);
}

/// A large TCP segment with the header that leaves its cutting to others.
fn large(to: [u8; 6], from: [u8; 6], payload: u16) -> ([u8; 12], Vec<u8>) {
    let mut frame = [&to[..], &from, &[8, 0, 0x45, 0], &(40 + payload).to_be_bytes()].concat();
    frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 21, 10, 0, 0, 2]);
    frame.extend([0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0]);
    frame.extend((0..payload).map(|at| (at / 3).to_le_bytes()[0]));
    ([1, 1, 54, 0, 0xe8, 3, 34, 0, 16, 0, 0, 0], frame)
}

#[test]
fn a_large_segment_is_whole_between_guests_and_cut_for_the_wire() {
    let mut world = World::new(25);
    let (session, machine) = world.ready();
    let one = world.create(session, &sibling(&machine, "one", 1));
    let two = world.create(session, &sibling(&machine, "two", 2));
    let (mut one, mut two) = (world.bring_up(one, 0), world.bring_up(two, 0));
    world.offer_buffers(&mut two, 32);
    world.run(MS);
    world.wire.clear();
    let (mut header, frame) = large(guest_mac(2), guest_mac(1), 30_500);
    world.send_with(&mut one, header, &frame);
    header[10] = 15;
    assert!(world.take_with(&mut two) == Some((header, frame)));
    assert!(!world.wire.iter().any(|frame| frame[12..14] == [8, 0]));

    header[10] = 0;
    let (_, frame) = large(WIRE_MAC, guest_mac(1), 30_500);
    world.send_with(&mut one, header, &frame);
    let pieces: Vec<_> = world.wire.iter().filter(|frame| frame[6..12] == guest_mac(1)).collect();
    let lengths: Vec<_> = pieces.iter().map(|piece| piece.len()).collect();
    assert_eq!(lengths, [[1054; 30].as_slice(), &[554]].concat());
    let payload: Vec<u8> = pieces.iter().flat_map(|piece| piece[54..].to_vec()).collect();
    assert!(payload == frame[54..]);
    // A switch counts what a wire carries, however it came.
    assert_eq!(world.facts(session, "one").unwrap().frames[1], 62);
    // What no wire takes, or cannot be done, is dropped.
    for (change, passes) in
        [((4, 0xb4), true), ((4, 0xb5), false), ((5, 6), false), ((0, 0), false), ((1, 3), false)]
    {
        world.wire.clear();
        let (mut header, frame) = large(WIRE_MAC, guest_mac(1), 3_000);
        (header[4], header[5]) = (0xb4, 5);
        header[change.0] = change.1;
        world.send_with(&mut one, header, &frame);
        let sent = world.wire.iter().any(|frame| frame[6..12] == guest_mac(1));
        assert_eq!(sent, passes, "{header:?}");
    }
    // Nobody sends as somebody else by leaving it to others.
    world.wire.clear();
    let (_, frame) = large(WIRE_MAC, guest_mac(2), 30_500);
    world.send_with(&mut one, header, &frame);
    assert!(!world.wire.iter().any(|frame| frame[6..12] == guest_mac(2)));
}

#[test]
fn a_guest_cannot_be_somebody_else() {
    let mut world = World::new(22);
    let (session, machine) = world.ready();
    let one = world.create(session, &sibling(&machine, "one", 1));
    let two = world.create(session, &sibling(&machine, "two", 2));
    let (mut one, mut two) = (world.bring_up(one, 0), world.bring_up(two, 0));
    world.offer_buffers(&mut two, 16);
    world.run(MS);
    world.wire.clear();
    for from in [guest_mac(2), NODE_MAC, WIRE_MAC, ALL] {
        for to in [guest_mac(2), ALL, WIRE_MAC, NODE_MAC] {
            world.send_frame(&mut one, &frame(to, from, TEST, 100));
        }
    }
    // AoE, plain and behind VLAN tags.
    let mut tagged = frame(ALL, guest_mac(1), 0x8100, 100);
    tagged[16..18].copy_from_slice(&[0x88, 0xa2]);
    for hostile in [
        frame(ALL, guest_mac(1), 0x88a2, 100),
        frame(WIRE_MAC, guest_mac(1), 0x88a2, 1514),
        frame(guest_mac(2), guest_mac(1), 0x88a2, 60),
        tagged,
        frame(ALL, guest_mac(1), TEST, 13),
        vec![0xff; 4],
    ] {
        world.send_frame(&mut one, &hostile);
    }
    world.run(100 * MS);
    assert!(world.take_frame(&mut two).is_none());
    let foreign = |frame: &&Vec<u8>| frame[6..12] != NODE_MAC;
    assert_eq!(world.wire.iter().find(foreign), None);
    assert!(!world.wire.iter().any(|frame| frame[12..14] == [0x88, 0xa2]));
}

#[test]
fn a_card_that_is_stuck_does_not_make_the_node_spin() {
    let mut world = World::new(23);
    let (session, machine) = world.ready();
    world.aoe.push(super::targets::AoeTarget::new(7, 3, 64));
    let mut machine = sibling(&machine, "one", 1);
    let volume = alloc::string::String::from("aoe:e7.3");
    machine.disks = vec![mgmt_proto::machine::Disk { volume, read_only: false }];
    let domain = world.create(session, &machine);
    let (mut disk, mut card) = (world.bring_up(domain, 0), world.bring_up(domain, 1));
    world.nic.card().stuck = true;
    world.run(SECOND);
    let before = world.turns;
    // A full card with a guest's frame, a disk request and a command waiting.
    let memory = world.hypervisor.domain(domain).memory.clone();
    card.driver.rings[1].push(&memory, &[(0x40_0000, 200, false)]);
    drop(memory);
    world.ring(&card, 1);
    let (_, status) = world.submit(&mut disk, 1, 0, &[9; 512]);
    world.send(session, &Request::NodeInfo);
    world.run(10 * SECOND);
    let turns = world.turns - before;
    assert!(turns < 200, "{turns} turns in 10 s with the cable out");
    world.nic.card().stuck = false;
    assert_eq!(world.completed(&mut disk, status), 0);
    world.outcome(session).unwrap();
}

#[test]
fn frames_for_a_guest_that_is_gone_are_dropped() {
    let mut world = World::new(24);
    let (session, machine) = world.ready();
    let one = world.create(session, &sibling(&machine, "one", 1));
    let mut card = world.bring_up(one, 0);
    world.offer_buffers(&mut card, 4);
    let name = alloc::string::String::from("one");
    world.done(session, &Request::Destroy { name });
    world.deliver(frame(guest_mac(1), WIRE_MAC, TEST, 100));
    world.run(MS);
    // Its address is free again.
    world.create(session, &sibling(&machine, "two", 1));
}
