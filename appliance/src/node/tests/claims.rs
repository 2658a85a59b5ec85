//! Guests that claim what is not theirs: addresses, leases, the management port.

use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;

use mgmt_proto::code::Code;
use mgmt_proto::facts::DropReason;
use mgmt_proto::machine::Disk;
use mgmt_proto::manifest::Addressing;
use mgmt_proto::verb::Request;

use super::driver::Device;
use super::targets::{AoeTarget, IscsiTarget};
use super::world::*;

const ALL: [u8; 6] = [0xff; 6];
const PORTAL: [u8; 4] = [10, 0, 0, 3];
const OPERATOR: [u8; 4] = [10, 0, 0, 2];
const NODE: [u8; 4] = NODE_ADDRESS.octets();

/// An ARP packet (RFC 826) of guest 1.
fn arp(to: [u8; 6], operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mac = guest_mac(1);
    [&to[..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation], &mac, &sender, &NODE_MAC, &target].concat()
}

/// An attacker's card, and a neighbour's disk on iSCSI.
fn attacked(seed: u64) -> (World, usize, Device, Device) {
    let mut world = World::new(seed);
    let (session, machine) = world.ready();
    world.iscsi = Some(IscsiTarget::new(64));
    let mut victim = sibling(&machine, "victim", 2);
    victim.disks = vec![Disk { volume: String::from("iscsi://10.0.0.3/iqn.t:x/1"), read_only: false }];
    let victim = world.create(session, &victim);
    let attacker = world.create(session, &sibling(&machine, "attacker", 1));
    let (disk, card) = (world.bring_up(victim, 0), world.bring_up(attacker, 0));
    (world, session, disk, card)
}

/// How often the attacker's frames were dropped for a reason.
fn dropped(world: &mut World, session: usize, reason: DropReason) -> u64 {
    let facts = world.facts(session, "attacker").unwrap();
    facts.drops.iter().find(|(it, _)| *it == reason).map_or(0, |(_, count)| *count)
}

#[test]
fn a_guest_takes_no_neighbours_disk_traffic() {
    let (mut world, session, mut disk, mut card) = attacked(61);
    let portal_mac = world.iscsi.as_ref().unwrap().host.mac().0;
    world.offer_buffers(&mut card, 64);
    world.run(SECOND);
    for round in 0..20u8 {
        // The request that the issue of it was with, its unicast reply, and both to all.
        for to in [NODE_MAC, ALL] {
            for operation in [1, 2] {
                world.send_frame(&mut card, &arp(to, operation, PORTAL, NODE));
            }
        }
        world.wire.clear();
        assert_eq!(world.disk_write(&mut disk, u64::from(round), &[round; 512]), 0);
        assert!(world.disk_read(&mut disk, u64::from(round), 1) == [round; 512]);
        let to_portal = |frame: &&Vec<u8>| frame[12..14] == [8, 0] && frame[30..34] == PORTAL;
        assert!(world.wire.iter().filter(to_portal).all(|frame| frame[..6] == portal_mac));
        // Neighbour entries of the old stack lasted a minute.
        world.run(10 * SECOND);
    }
    assert!(world.take_frame(&mut card).is_none_or(|frame| frame[12..14] != [8, 0]));
    // The first session has been idle for too long.
    let session = if world.is_dead(session) { world.connect(Who::Admin) } else { session };
    // Those to the node alone say nothing of what is in them.
    assert_eq!(dropped(&mut world, session, DropReason::Node), 40);
    assert_eq!(dropped(&mut world, session, DropReason::ArpClaim), 40);
    assert!(world.logged(
        "guest attacker sent a frame that was dropped: arp-claim from 02:11:00:00:00:01, address 10.0.0.3"
    ));
    let lines = |world: &World| {
        world.hypervisor.machine().log.iter().filter(|line| line.contains("arp-claim")).count()
    };
    assert_eq!(lines(&world), 1, "once for each reason");
}

#[test]
fn a_guest_claims_no_address_that_the_node_needs() {
    let (mut world, session, _disk, mut card) = attacked(62);
    world.run(SECOND);
    world.wire.clear();
    for address in [NODE, OPERATOR, PORTAL] {
        for to in [ALL, OPERATOR_MAC] {
            for operation in [1, 2] {
                world.send_frame(&mut card, &arp(to, operation, address, OPERATOR));
            }
        }
        let mut packet =
            [&OPERATOR_MAC[..], &guest_mac(1), &[8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]].concat();
        packet.extend_from_slice(&[&address[..], &OPERATOR, &[0, 9, 0, 9, 0, 8, 0, 0]].concat());
        world.send_frame(&mut card, &packet);
    }
    assert!(!world.wire.iter().any(|frame| frame[6..12] == guest_mac(1)));
    assert_eq!(dropped(&mut world, session, DropReason::ArpClaim), 12);
    assert_eq!(dropped(&mut world, session, DropReason::Ipv4Claim), 3);
    // An address of its own is.
    world.send_frame(&mut card, &arp(ALL, 1, [10, 0, 0, 77], OPERATOR));
    assert!(world.wire.iter().any(|frame| frame[6..12] == guest_mac(1)));
    // The operator, whom the attacker would have cut off, is still there.
    world.done(session, &Request::NodeInfo);
}

#[test]
fn a_guest_does_not_reach_the_node() {
    let (mut world, session, _disk, mut card) = attacked(63);
    world.offer_buffers(&mut card, 64);
    world.run(SECOND);
    // Who has the node's address; then a SYN (RFC 9293, 3.1) and a ping to it.
    world.send_frame(&mut card, &arp(ALL, 1, [10, 0, 0, 77], NODE));
    for (protocol, payload) in [
        (6, &[0x30, 0, 0x1c, 0xf3, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 4, 0, 0, 0, 0, 0][..]),
        (1, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]),
    ] {
        let length = u8::try_from(20 + payload.len()).unwrap();
        let mut packet =
            [&NODE_MAC[..], &guest_mac(1), &[8, 0, 0x45, 0, 0, length, 0, 0, 0, 0, 64, protocol, 0, 0]]
                .concat();
        packet.extend_from_slice(&[&[10, 0, 0, 77][..], &NODE, payload].concat());
        world.send_frame(&mut card, &packet);
    }
    world.run(3 * SECOND);
    while let Some(frame) = world.take_frame(&mut card) {
        assert_ne!(frame[6..12], NODE_MAC, "the node's frames are not for guests");
    }
    assert_eq!(dropped(&mut world, session, DropReason::Node), 2);
}

#[test]
fn a_guest_gives_nobody_a_lease() {
    let mut settings = settings();
    settings.manifest.addressing = Addressing::Dhcp;
    let mut world = World::with(64, settings);
    world.dhcp = true;
    let (session, machine) = world.ready();
    let attacker = world.create(session, &sibling(&machine, "attacker", 1));
    let neighbour = world.create(session, &sibling(&machine, "neighbour", 2));
    let (mut card, mut other) = (world.bring_up(attacker, 0), world.bring_up(neighbour, 0));
    world.offer_buffers(&mut other, 64);
    // The real server falls silent; the lease of an hour ends.
    world.dhcp = false;
    world.sessions.clear();
    let lease = |world: &World| world.node.network.stacks.first.lease();
    assert!(lease(&world).is_some());
    world.wire.clear();
    let mut answered = 0;
    for _ in 0..8_000 {
        world.run(SECOND);
        for request in core::mem::take(&mut world.wire) {
            // The attacker answers what it need not even see.
            let Some(mut answer) = super::dhcp::answer(&request, 9) else { continue };
            answer[6..12].copy_from_slice(&guest_mac(1));
            world.send_frame(&mut card, &answer);
            answered += 1;
        }
        if answered >= 20 {
            break;
        }
    }
    assert!(answered >= 20 && lease(&world).is_none(), "{answered} answers, {:?}", lease(&world));
    while let Some(frame) = world.take_frame(&mut other) {
        assert_ne!(frame[6..12], guest_mac(1), "a neighbour is offered one");
    }
    assert!(world.logged("dropped: dhcp-server from 02:11:00:00:00:01"));
}

#[test]
fn no_tagged_frame_of_a_guest_leaves() {
    let (mut world, session, _disk, mut card) = attacked(65);
    world.run(SECOND);
    world.wire.clear();
    let body = &arp(ALL, 1, [10, 0, 0, 77], OPERATOR)[12..];
    for tag in [[0x81, 0, 0, 5], [0x88, 0xa8, 0, 5], [0x91, 0, 0, 5], [0x81, 0, 0, 0]] {
        world.send_frame(&mut card, &[&ALL[..], &guest_mac(1), &tag, body].concat());
    }
    assert!(!world.wire.iter().any(|frame| frame[6..12] == guest_mac(1)));
    assert_eq!(dropped(&mut world, session, DropReason::Tagged), 4);
    assert!(world.logged("dropped: vlan-tag"));
    assert_eq!(dropped(&mut world, session, DropReason::Malformed), 0);
}

#[test]
fn no_guest_has_the_hardware_address_of_a_station_that_the_node_needs() {
    let mut settings = settings();
    let address = NODE_ADDRESS.octets();
    settings.manifest.addressing = Addressing::Static { address, prefix: 24, gateway: Some(OPERATOR) };
    let mut world = World::with(66, settings);
    world.run(SECOND);
    let known: Vec<_> = world.node.network.stacks.first.stations().map(|(_, mac)| mac.0).collect();
    assert_eq!(known, [OPERATOR_MAC], "the gateway is asked for before it is needed");
    let (session, machine) = world.ready();
    world.iscsi = Some(IscsiTarget::new(64));
    world.aoe.push(AoeTarget::new(7, 3, 64));
    let mut victim = sibling(&machine, "victim", 2);
    victim.disks = vec![
        Disk { volume: String::from("iscsi://10.0.0.3/iqn.t:x/1"), read_only: false },
        Disk { volume: String::from("aoe:e7.3"), read_only: false },
    ];
    let victim = world.create(session, &victim);
    let mut disk = world.bring_up(victim, 0);
    assert_eq!(world.disk_write(&mut disk, 0, &[1; 512]), 0);
    let portal_mac = world.iscsi.as_ref().unwrap().host.mac().0;
    let target_mac = world.aoe[0].mac;
    for (mac, words) in [
        (OPERATOR_MAC, "the node's gateway 10.0.0.2 has the same MAC"),
        (portal_mac, "the portal 10.0.0.3 has the same MAC"),
        (target_mac, "an AoE target in use has the same MAC"),
    ] {
        let mut attacker = sibling(&machine, "attacker", 1);
        attacker.network_cards[0].mac = mac;
        let failure = world.refused(session, &Request::create(attacker.clone()));
        assert!(failure.code == Code::Conflict && failure.to_string().contains(words), "{failure}");
        assert_eq!(world.refused(session, &Request::check(attacker)), failure);
    }
    assert_eq!(world.disk_read(&mut disk, 0, 1), [1; 512]);
}

#[test]
fn a_machine_on_the_wire_with_a_guests_hardware_address_is_told_of_once() {
    let (mut world, _session, _disk, _card) = attacked(67);
    for _ in 0..3 {
        world.deliver([&NODE_MAC[..], &guest_mac(1), &[8, 6], &[0; 46]].concat());
        world.run(SECOND);
    }
    let said = "guest attacker shares its MAC 02:11:00:00:00:01 with a machine on the wire";
    let lines = world.hypervisor.machine().log.iter().filter(|line| line.contains(said)).count();
    assert_eq!(lines, 1);
}
