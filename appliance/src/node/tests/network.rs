//! Frames between guests, wire and node.

use alloc::vec;
use alloc::vec::Vec;

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
    world.send(session, &mgmt_proto::verb::Request::NodeInfo);
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
    world.done(session, &mgmt_proto::verb::Request::Destroy { name });
    world.deliver(frame(guest_mac(1), WIRE_MAC, TEST, 100));
    world.run(MS);
    // Its address is free again.
    world.create(session, &sibling(&machine, "two", 1));
}
