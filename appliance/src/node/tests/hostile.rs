//! What anybody on the wire may do: nothing.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use hv_abi::event::{self, Event};
use mgmt_proto::verb::{Reply, Request, State};
use netstack::host::{ConnectionState, TcpOptions};

use super::targets::AoeTarget;
use super::world::*;
use crate::limits::SESSIONS_MAX;
use machine::test_random::TestRandom;

#[test]
fn a_stranger_hears_nothing() {
    let mut world = World::new(51);
    let session = world.dial(Who::Stranger);
    world.until("its end", |world| matches!(world.sessions[session].stage, Stage::Dead));
    assert!(world.sessions[session].incoming.is_empty());
    world.run(SECOND);
    assert_eq!(world.node.operators.sessions.count(), 0);
}

#[test]
fn a_recorded_session_does_nothing_again() {
    let mut world = World::new(52);
    let (session, machine) = world.ready();
    world.create(session, &machine);
    world.done(session, &Request::Destroy { name: "web".to_string() });
    world.done(session, &Request::NodeStop { power_off: false });
    let recorded = world.sessions[session].sent.clone();
    let before = world.hypervisor.domains();
    let hello = mgmt_proto::handshake::HELLO_BYTES;
    // As it was, reordered, cut, with one bit changed, and into another session.
    let mut reordered = recorded[..hello].to_vec();
    reordered.extend(recorded[hello..].rchunks(300).flatten());
    let mut altered = recorded.clone();
    altered[70] ^= 1;
    for (text, bytes) in [
        ("replayed", recorded.clone()),
        ("reordered", reordered),
        ("truncated", recorded[..recorded.len() / 2].to_vec()),
        ("altered", altered),
        ("without greeting", recorded[hello..].to_vec()),
    ] {
        // At once, and after the greeting in a segment of its own.
        for is_patient in [false, true] {
            let connection = world.operator.connect(NODE_ADDRESS, PORT, TcpOptions::MANAGEMENT).unwrap();
            let (mut written, mut heard, until_ns) = (0, 0, world.now_ns + 10 * SECOND);
            while !matches!(
                world.operator.state(connection),
                ConnectionState::Closed | ConnectionState::PeerClosed
            ) {
                assert!(world.now_ns < until_ns, "{text}: not dropped");
                heard += world.operator.read(connection, &mut [0; 256]);
                let end = if is_patient && written < hello { hello.min(bytes.len()) } else { bytes.len() };
                if !is_patient || heard > 0 {
                    written += world.operator.write(connection, &bytes[written..end]);
                }
                world.step(until_ns);
            }
            assert!(heard <= mgmt_proto::handshake::GREETING_BYTES, "{text}");
            world.operator.abort(connection, world.now_ns);
        }
    }
    let other = world.connect(Who::Admin);
    world.sessions[other].outgoing.extend_from_slice(&recorded[hello..]);
    world.until("its end", |world| matches!(world.sessions[other].stage, Stage::Dead));
    world.run(SECOND);
    assert_eq!(world.hypervisor.machine().resets, [false], "once, as it was asked");
    assert_eq!((world.hypervisor.domains(), world.hypervisor.guests().len()), (before, 0));
    assert!(world.sessions[other].outcomes.is_empty());
}

/// A segment that opens a connection, from anywhere, with checksums that fit.
pub(super) fn syn(random: &mut TestRandom) -> Vec<u8> {
    let mut frame = NODE_MAC.to_vec();
    frame.extend_from_slice(&[2, 0x66, 0, 0, random.byte(), random.byte(), 8, 0]);
    frame.extend_from_slice(&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, random.byte() | 16]);
    frame.extend_from_slice(&NODE_ADDRESS.octets());
    frame.extend_from_slice(&[random.byte(), random.byte()]);
    frame.extend_from_slice(&PORT.to_be_bytes());
    frame.extend((0..4).map(|_| random.byte()));
    frame.extend_from_slice(&[0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    let sum = |bytes: &[u8], start: u32| {
        let total =
            bytes.chunks(2).map(|it| u32::from(u16::from_be_bytes([it[0], it[1]]))).sum::<u32>() + start;
        let folded = (total & 0xffff) + (total >> 16);
        !hv_x86::low16(u64::from((folded & 0xffff) + (folded >> 16)))
    };
    let header = sum(&frame[14..34], 0);
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    let segment = sum(&frame[26..54], 6 + 20);
    frame[50..52].copy_from_slice(&segment.to_be_bytes());
    frame
}

#[test]
fn a_million_hostile_frames_change_nothing() {
    let mut world = World::new(53);
    let (session, machine) = world.ready();
    world.aoe.push(AoeTarget::new(7, 3, 64));
    let mut machine = sibling(&machine, "web", 1);
    machine.disks = vec![mgmt_proto::machine::Disk { volume: "aoe:e7.3".to_string(), read_only: false }];
    let domain = world.create(session, &machine);
    let mut disk = world.bring_up(domain, 0);
    let mut card = world.bring_up(domain, 1);
    world.offer_buffers(&mut card, 32);
    assert_eq!(world.disk_write(&mut disk, 1, &[1; 1024]), 0);
    // What is true on this wire, to be bent: requests turned into answers too.
    let mut models = core::mem::take(&mut world.to_node);
    for frame in &world.wire {
        let mut back = frame.clone();
        back.rotate_left(6);
        back[..12].rotate_left(6);
        back[..6].copy_from_slice(&frame[6..12]);
        models.push(back);
    }
    models.push(super::dhcp::answer(&dhcp_discover(), 0).unwrap());
    assert!(models.len() > 20 && models.iter().any(|frame| frame[12..14] == [0x88, 0xa2]));
    let seed = 0x5eed_0001;
    let mut random = TestRandom(seed);
    let deadline = world.now_ns + 3_600 * SECOND;
    for batch in 0..1_000_000 / 125u64 {
        for _ in 0..125 {
            let mut frame = match random.below(16) {
                0 => syn(&mut random),
                1 => (0..random.below(100)).map(|_| random.byte()).collect(),
                _ => models[random.index(models.len())].clone(),
            };
            for _ in 0..random.below(4) {
                if !frame.is_empty() {
                    let at = random.index(frame.len().min(80));
                    frame[at] = random.byte();
                }
            }
            if random.below(20) == 0 {
                frame.truncate(random.index(frame.len() + 1));
            }
            world.nic.card().received.push_back(frame);
        }
        world.now_ns += MS;
        assert!(world.now_ns < deadline);
        while !world.nic.card().received.is_empty() {
            world.turn();
            world.nic.card().sent.clear();
        }
        assert!(world.node.operators.sessions.count() <= SESSIONS_MAX, "seed {seed:#x}, batch {batch}");
        if batch % 64 == 0 {
            world.offer_buffers(&mut card, 32);
            while world.take_frame(&mut card).is_some() {}
        }
    }
    world.run(10 * SECOND);
    let session = world.connect(Who::Admin);
    assert_eq!(world.facts(session, "web").unwrap().state, State::Running);
    assert!(matches!(world.done(session, &Request::NodeInfo), Reply::Node(_)));
    assert_eq!(world.hypervisor.domains(), 2);
    assert_eq!(world.disk_write(&mut disk, 3, &[7; 1024]), 0);
    assert!(world.disk_read(&mut disk, 3, 2) == [7; 1024]);
}

#[test]
fn a_hostile_guest_does_not_stop_its_neighbour() {
    let mut world = World::new(55);
    let (session, machine) = world.ready();
    world.aoe.push(AoeTarget::new(7, 3, 64));
    world.aoe.push(AoeTarget::new(7, 4, 64));
    let mut domains = [0; 2];
    for (index, volume) in ["aoe:e7.3", "aoe:e7.4"].into_iter().enumerate() {
        let last = index.to_le_bytes()[0] + 1;
        let mut machine = sibling(&machine, volume.trim_start_matches("aoe:"), last);
        machine.disks = vec![mgmt_proto::machine::Disk { volume: volume.to_string(), read_only: false }];
        machine.on_poweroff = mgmt_proto::machine::Action::Restart;
        domains[index] = world.create(session, &machine);
    }
    let mut disk = world.bring_up(domains[1], 0);
    let mut random = TestRandom(0x5eed_0003);
    for round in 0..200u8 {
        let hostile = world.hypervisor.guests().into_iter().find(|id| *id != domains[1]);
        let Some(domain) = hostile else {
            world.run(100 * MS);
            continue;
        };
        if round % 8 == 0 {
            let devices = 0..4;
            for device in devices {
                world.bring_up(domain, device);
            }
        }
        let memory = world.hypervisor.domain(domain).memory.clone();
        for _ in 0..200 {
            // Rings of all devices, and whatever lies between.
            let at = 0x10_0000 + random.below(0x10_0000);
            memory.put(at, &[random.byte(), random.byte() & 1]);
        }
        drop(memory);
        for _ in 0..50 {
            let kind = if random.below(2) == 0 { event::EXIT } else { event::DOORBELL };
            let ports = [0x3f8 + random.below(8), 0xcf8 + random.below(8), 0x600 + random.below(5)];
            let access = u16::from(random.byte() & 3) + 1;
            let memory = 0xc000_0000 + random.below(0x4_0000) + (random.below(2) << 29);
            let address = if access <= 2 { ports[random.index(3)] } else { memory };
            let width = 1 << random.below(if access <= 2 { 3 } else { 4 });
            let index = if kind == event::EXIT { 0 } else { u32::from(random.byte() & 15) };
            world.events.push(Event { kind, domain, index, access, width, address, value: random.next() });
        }
        world.run(MS);
        assert_eq!(world.disk_write(&mut disk, u64::from(round % 60), &[round; 512]), 0, "round {round}");
        assert!(world.disk_read(&mut disk, u64::from(round % 60), 1) == [round; 512]);
    }
    assert_eq!(world.facts(session, "e7.4").unwrap().state, State::Running);
    world.done(session, &Request::Destroy { name: "e7.3".to_string() });
}

fn dhcp_discover() -> Vec<u8> {
    let mut frame = vec![0; 42 + 240];
    (frame[12], frame[23], frame[37]) = (8, 17, 67);
    frame.extend_from_slice(&[53, 1, 1, 255]);
    frame
}

#[test]
fn ten_thousand_connections_change_nothing() {
    let mut world = World::new(54);
    let seed = 0x5eed_0002;
    let mut random = TestRandom(seed);
    let hello = {
        let session = world.connect(Who::Admin);
        world.done(session, &Request::NodeInfo);
        world.sessions[session].sent.clone()
    };
    let mut open = Vec::new();
    for number in 0..10_000u64 {
        if let Ok(connection) = world.operator.connect(NODE_ADDRESS, PORT, TcpOptions::MANAGEMENT) {
            open.push((connection, random.below(4)));
        }
        for _ in 0..6 {
            let until_ns = world.now_ns + MS;
            world.step(until_ns);
        }
        for (connection, kind) in &mut open {
            let bytes: Vec<u8> = match *kind {
                0 => (0..random.below(300)).map(|_| random.byte()).collect(),
                1 => hello[..random.index(hello.len())].to_vec(),
                _ => Vec::new(),
            };
            if world.operator.write(*connection, &bytes) > 0 {
                *kind = 3;
            }
        }
        if open.len() > 24 {
            let (connection, _) = open.swap_remove(random.index(open.len()));
            let now_ns = world.now_ns;
            if random.below(2) == 0 {
                world.operator.abort(connection, now_ns);
            } else {
                world.operator.close(connection, now_ns);
            }
        }
        assert!(world.node.operators.sessions.count() <= SESSIONS_MAX, "seed {seed:#x}, connection {number}");
    }
    for (connection, _) in open {
        let now_ns = world.now_ns;
        world.operator.abort(connection, now_ns);
    }
    world.run(12 * SECOND);
    let session = world.connect(Who::Admin);
    world.done(session, &Request::NodeInfo);
    world.run(130 * SECOND);
    assert_eq!((world.node.operators.sessions.count(), world.hypervisor.domains()), (0, 0));
}
