//! Stations on the node's own wire that claim what is not theirs, and a portal that moves.

use alloc::string::String;
use alloc::vec::Vec;

use mgmt_proto::machine::Disk;
use mgmt_proto::verb::{Reply, Request};

use super::driver::Device;
use super::targets::IscsiTarget;
use super::world::*;

const ALL: [u8; 6] = [0xff; 6];
const LIAR: [u8; 6] = [2, 0x66, 0, 0, 0, 6];
const PORTAL: [u8; 4] = [10, 0, 0, 3];
const OPERATOR: [u8; 4] = [10, 0, 0, 2];
const NODE: [u8; 4] = NODE_ADDRESS.octets();

/// An ARP packet (RFC 826) of a station.
fn arp(from: [u8; 6], to: [u8; 6], operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    [&to[..], &from, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation], &from, &sender, &NODE_MAC, &target].concat()
}

/// A guest's disk on iSCSI.
fn served(seed: u64) -> (World, usize, Device) {
    let mut world = World::new(seed);
    let (session, mut machine) = world.ready();
    world.iscsi = Some(IscsiTarget::new(64));
    machine.disks =
        alloc::vec![Disk { volume: String::from("iscsi://10.0.0.3/iqn.t:x/1"), read_only: false }];
    let domain = world.create(session, &machine);
    let disk = world.bring_up(domain, 0);
    (world, session, disk)
}

#[test]
fn a_liar_on_the_wire_takes_no_traffic() {
    let (mut world, session, mut disk) = served(71);
    for round in 0..60u8 {
        for (address, target) in [(PORTAL, NODE), (OPERATOR, NODE), (PORTAL, PORTAL)] {
            for to in [NODE_MAC, ALL] {
                for operation in [1, 2] {
                    world.deliver(arp(LIAR, to, operation, address, target));
                }
            }
        }
        world.wire.clear();
        assert_eq!(world.disk_write(&mut disk, 1, &[round; 512]), 0);
        assert!(world.disk_read(&mut disk, 1, 1) == [round; 512]);
        world.done(session, &Request::NodeInfo);
        world.run(SECOND);
        let packets = world.wire.iter().filter(|frame| frame[12..14] == [8, 0]);
        assert!(packets.clone().count() > 2 && packets.clone().all(|frame| frame[..6] != LIAR));
    }
    assert!(!world.logged("moved"));
}

#[test]
fn a_claim_of_the_nodes_address_is_told_and_defended() {
    let (mut world, session, _disk) = served(72);
    world.wire.clear();
    for _ in 0..30 {
        world.deliver(arp(LIAR, ALL, 1, NODE, NODE));
        world.run(SECOND);
    }
    let defence =
        |frame: &&Vec<u8>| frame[12..14] == [8, 6] && frame[28..32] == NODE && frame[38..42] == NODE;
    assert_eq!(world.wire.iter().filter(defence).count(), 3, "one in ten seconds");
    assert!(world.logged("02:66:00:00:00:06 claims an address of this node, which is defended"));
    let Reply::Node(facts) = world.done(session, &Request::NodeInfo) else { panic!("no facts") };
    assert_eq!((facts.claims.count, facts.claims.by), (30, Some(LIAR)));
}

#[test]
fn a_portal_that_moves_is_followed() {
    for announced in [true, false] {
        let (mut world, session, mut disk) = served(73);
        assert_eq!(world.disk_write(&mut disk, 3, &[7; 512]), 0);
        // Another machine with the same address and the same disk; the old one is gone.
        let moved = [2, 0, 0, 0, 0, 0x33];
        let mut target = IscsiTarget::at(64, moved);
        target.disk.clone_from(&world.iscsi.as_ref().unwrap().disk);
        world.iscsi = Some(target);
        if announced {
            world.deliver(arp(moved, ALL, 1, PORTAL, PORTAL));
        }
        let began = world.now_ns;
        assert!(world.disk_read(&mut disk, 3, 1) == [7; 512]);
        let waited_ms = (world.now_ns - began) / MS;
        // A minute before.
        assert!(waited_ms < 20_000, "{waited_ms} ms");
        assert!(world.logged("portal 10.0.0.3 moved from 02:00:00:00:00:03 to 02:00:00:00:00:33"));
        let Reply::Node(facts) = world.done(session, &Request::NodeInfo) else { panic!("no facts") };
        assert_eq!(facts.portals_moved, 1);
    }
}

#[test]
fn a_path_that_takes_short_packets_only_is_told_of_once() {
    let (mut world, session, mut disk) = served(75);
    world.narrow_bytes = 1_400;
    for round in 0..3u8 {
        assert_eq!(world.disk_write(&mut disk, 0, &[round; 8 * 512]), 0);
        assert!(world.disk_read(&mut disk, 0, 8) == [round; 8 * 512]);
    }
    let said = "packets to 10.0.0.3 are of 1280 octets at most: longer ones are lost";
    let lines = world.hypervisor.machine().log.iter().filter(|line| line.contains(said)).count();
    assert_eq!(lines, 1);
    let Reply::Node(facts) = world.done(session, &Request::NodeInfo) else { panic!("no facts") };
    assert_eq!(facts.paths_shortened, 1);
}

#[test]
fn a_tag_for_priority_alone_is_none() {
    let (mut world, ..) = served(74);
    world.wire.clear();
    let question = arp(LIAR, ALL, 1, [10, 0, 0, 66], NODE);
    for (tag, answers) in [([0x81, 0, 0xe0, 0], 1), ([0x81, 0, 0, 7], 1)] {
        world.deliver([&question[..12], &tag, &question[12..]].concat());
        world.run(SECOND);
        assert_eq!(world.wire.iter().filter(|frame| frame[..6] == LIAR).count(), answers, "{tag:x?}");
    }
}
