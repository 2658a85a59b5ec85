//! Guests with disks on AoE and iSCSI targets.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use mgmt_proto::code::Code;
use mgmt_proto::disk::DiskSetting;
use mgmt_proto::machine::{Disk, Machine};
use mgmt_proto::secret::Secret;
use mgmt_proto::verb::{Discover, Reply, Request, State};

use super::targets::{AoeTarget, IscsiTarget};
use super::world::*;
use crate::volumes::VolumeSettings;
use machine::layout::RESET_PORT;
use storage::rate::Limits;

const ISCSI: &str = "iscsi://10.0.0.3/iqn.2026-01.org.example:disk/0";

fn with_disks(machine: &Machine, volumes: &[&str]) -> Machine {
    let mut machine = machine.clone();
    machine.disks =
        volumes.iter().map(|volume| Disk { volume: (*volume).to_string(), read_only: false }).collect();
    machine
}

fn name() -> alloc::string::String {
    "web".to_string()
}

#[test]
fn a_guest_reads_and_writes_both_kinds() {
    for loss in [0, 2] {
        let mut world = World::new(31 + loss);
        let (session, machine) = world.ready();
        world.aoe.push(AoeTarget::new(7, 3, 64));
        world.iscsi = Some(IscsiTarget::new(64));
        world.loss_percent = loss;
        let domain = world.create(session, &with_disks(&machine, &["aoe:e7.3", ISCSI]));
        for device in 0..2 {
            let mut disk = world.bring_up(domain, device);
            for round in 0..20u8 {
                let sector = u64::from(round) * 2 % 48;
                let data: Vec<u8> = (0..4 * 512).map(|_| world.random.byte()).collect();
                assert_eq!(world.disk_write(&mut disk, sector, &data), 0);
                assert_eq!(world.disk_flush(&mut disk), 0);
                let held = if device == 0 { &world.aoe[0].disk } else { &world.iscsi.as_ref().unwrap().disk };
                let at = to_usize(sector) * 512;
                assert!(held[at..at + data.len()] == data, "durable when acknowledged");
                assert!(world.disk_read(&mut disk, sector, 4) == data);
            }
            assert_ne!(world.disk_write(&mut disk, 62, &[0; 4 * 512]), 0, "beyond its end");
            let facts = world.facts(session, "web").unwrap();
            assert_eq!((facts.disks[device].sectors, facts.disks[device].state.as_str()), (64, "ready"));
            assert_eq!(facts.disks[device].operations, [20, 20, 20]);
        }
        assert!(!world.hypervisor.domain(domain).interrupts.is_empty());
        let before = world.turns;
        world.loss_percent = 0;
        world.run(30 * SECOND);
        assert!(world.turns - before < 150, "{} turns with idle disks", world.turns - before);
    }
}

#[test]
fn a_missing_target_is_named_with_its_stage() {
    let mut world = World::new(33);
    let (session, machine) = world.ready();
    world.aoe.push(AoeTarget::new(7, 3, 64));
    world.aoe.push(AoeTarget::new(7, 4, 64));
    world.aoe[1].queries_only = true;
    for (volume, words) in [
        ("aoe:e9.9", "disk aoe:e9.9: no target answers"),
        ("aoe:e7.4", "disk aoe:e7.4: the target answers but does not identify itself"),
        (ISCSI, "the portal does not accept a connection"),
    ] {
        let machine = with_disks(&machine, &["aoe:e7.3", volume]);
        let started_ns = world.now_ns;
        let failure = world.refused(session, &Request::create(machine));
        let waited = (world.now_ns - started_ns) / SECOND;
        assert!((15..17).contains(&waited), "{waited} s");
        assert_eq!((failure.code, failure.object.as_str()), (Code::Storage, "web"));
        assert!(failure.message.contains(words) && failure.message.contains(volume), "{failure}");
        assert_eq!(world.facts(session, "web"), Err(Code::NotFound));
    }
    world.iscsi = Some(IscsiTarget::new(64));
    world.iscsi.as_mut().unwrap().silent = true;
    let machine = with_disks(&machine, &[ISCSI]);
    let failure = world.refused(session, &Request::create(machine));
    assert!(failure.message.contains("inquiry did not finish"), "{failure}");
    assert_eq!(world.hypervisor.domains(), 1);
}

#[test]
fn a_guest_that_starts_again_waits_for_its_storage_for_ever() {
    let mut world = World::new(34);
    let (session, machine) = world.ready();
    world.aoe.push(AoeTarget::new(7, 3, 64));
    let domain = world.create(session, &with_disks(&machine, &["aoe:e7.3"]));
    let mut disk = world.bring_up(domain, 0);
    world.aoe[0].up = false;
    // A write under way: the session is replaced, and the target is gone.
    world.submit(&mut disk, 1, 0, &[1; 512]);
    world.run(SECOND);
    world.port_write(domain, RESET_PORT, 6);
    world.run(100 * SECOND);
    let facts = world.facts(session, "web").unwrap();
    assert_eq!((facts.state, facts.id), (State::Connecting, 0));
    // Rebooting it again changes nothing.
    world.done(session, &Request::Reboot { name: name() });
    assert_eq!(world.refused(session, &Request::Pause { name: name() }).code, Code::Conflict);
    world.aoe[0].up = true;
    world.run(10 * SECOND);
    let facts = world.facts(session, "web").unwrap();
    assert_eq!(facts.state, State::Running);
    let mut disk = world.bring_up(facts.id, 0);
    assert_eq!(world.disk_write(&mut disk, 5, &[3; 512]), 0);
    assert_eq!(world.aoe[0].disk[5 * 512..6 * 512], [3; 512]);
}

#[test]
fn loss_of_a_target_is_a_stall_and_no_error() {
    let mut world = World::new(35);
    let (session, machine) = world.ready();
    world.aoe.push(AoeTarget::new(7, 3, 64));
    let domain = world.create(session, &with_disks(&machine, &["aoe:e7.3"]));
    let mut disk = world.bring_up(domain, 0);
    world.aoe[0].up = false;
    let (_, status) = world.submit(&mut disk, 1, 0, &[9; 512]);
    world.run(120 * SECOND);
    assert_eq!(world.hypervisor.domain(domain).memory.bytes(status, 1), [0xff]);
    // The session was idle for two minutes; another one asks.
    let session = if matches!(world.sessions[session].stage, Stage::Dead) {
        world.connect(Who::Admin)
    } else {
        session
    };
    assert_eq!(world.facts(session, "web").unwrap().disks[0].state, "stalled");
    world.aoe[0].up = true;
    assert_eq!(world.completed(&mut disk, status), 0);
    assert_eq!(world.aoe[0].disk[..512], [9; 512]);
}

#[test]
fn a_reset_with_iscsi_work_under_way_logs_in_anew() {
    let mut world = World::new(36);
    let (session, machine) = world.ready();
    world.iscsi = Some(IscsiTarget::new(64));
    let domain = world.create(session, &with_disks(&machine, &[ISCSI]));
    let mut disk = world.bring_up(domain, 0);
    world.iscsi.as_mut().unwrap().silent = true;
    world.submit(&mut disk, 1, 0, &[1; 512]);
    world.run(100 * MS);
    let logins = world.iscsi.as_ref().unwrap().logins;
    world.iscsi.as_mut().unwrap().silent = false;
    world.port_write(domain, RESET_PORT, 6);
    world.run(5 * SECOND);
    let facts = world.facts(session, "web").unwrap();
    assert_eq!(facts.state, State::Running, "{:?}", facts.disks);
    assert!(world.iscsi.as_ref().unwrap().logins > logins, "over a connection of its own");
    let mut disk = world.bring_up(facts.id, 0);
    assert_eq!(world.disk_write(&mut disk, 2, &[4; 512]), 0);
}

#[test]
fn destroying_a_guest_that_connects_answers_who_waits() {
    let mut world = World::new(37);
    let (session, machine) = world.ready();
    let other = world.connect(Who::Admin);
    world.send(session, &Request::create(with_disks(&machine, &["aoe:e9.9"])));
    world.run(SECOND);
    assert_eq!(world.facts(other, "web").unwrap().state, State::Connecting);
    world.done(other, &Request::Reboot { name: name() });
    let typed = Request::ConsoleWrite { name: name(), bytes: vec![b'x'] };
    assert_eq!(world.refused(other, &typed).code, Code::Conflict, "nobody would read it");
    world.done(other, &Request::Destroy { name: name() });
    let failure = world.outcome(session).unwrap_err();
    assert!(failure.message.contains("destroyed before it started"), "{failure}");
    world.done(session, &Request::List);
    // Who waits may go away; the guest's fate is its own.
    world.send(session, &Request::create(with_disks(&machine, &["aoe:e9.9"])));
    world.run(SECOND);
    let (connection, now_ns) = (world.sessions[session].connection, world.now_ns);
    world.operator.abort(connection, now_ns);
    world.run(20 * SECOND);
    assert_eq!(world.facts(other, "web"), Err(Code::NotFound));
}

#[test]
fn volumes_are_discovered() {
    let mut world = World::new(38);
    let session = world.connect(Who::Operator);
    world.aoe.push(AoeTarget::new(7, 3, 64));
    world.aoe.push(AoeTarget::new(8, 0, 64));
    let Reply::Found(found) = world.done(session, &Request::StorageDiscover(Discover::Aoe)) else { panic!() };
    let names: Vec<_> = found.iter().map(|found| found.volume.as_str()).collect();
    assert_eq!(names, ["aoe:e7.3", "aoe:e8.0"]);
    let portal = |text: &str| {
        Request::StorageDiscover(Discover::Iscsi { portal: text.to_string(), settings: Vec::new() })
    };
    assert_eq!(world.refused(session, &portal("nonsense")).code, Code::Usage);
    assert_eq!(world.refused(session, &portal("10.0.0.77")).code, Code::Storage);
    let other = world.connect(Who::Operator);
    world.send(other, &portal("10.0.0.77"));
    world.run(10 * MS);
    assert_eq!(world.refused(session, &Request::StorageDiscover(Discover::Aoe)).code, Code::Conflict);
    assert_eq!(world.outcome(other).unwrap_err().code, Code::Storage);
    assert_eq!(world.done(session, &Request::List), Reply::Guests(vec![]));
}

#[test]
fn a_portal_that_wants_to_know_who_asks_is_told() {
    const SECRET: &[u8] = b"open sesame, says alice";
    let mut world = World::new(39);
    let session = world.connect(Who::Operator);
    world.iscsi = Some(IscsiTarget::new(64));
    world.iscsi.as_mut().unwrap().secret = Some(("alice", SECRET));
    let ask = |portal: &str, settings: &[DiskSetting]| {
        Request::StorageDiscover(Discover::Iscsi { portal: portal.to_string(), settings: settings.to_vec() })
    };
    let secret = |text: &[u8]| DiskSetting::Secret(Secret::new(text.to_vec()));
    let found = world.done(session, &ask("alice@10.0.0.3", &[secret(SECRET)]));
    let Reply::Found(found) = found else { panic!("{found:?}") };
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].volume, "iscsi://10.0.0.3/iqn.t:x/<lun>");
    for (portal, settings) in [("alice@10.0.0.3", vec![secret(b"something else")]), ("10.0.0.3", vec![])] {
        let failure = world.refused(session, &ask(portal, &settings));
        assert_eq!(failure.code, Code::Storage, "{failure:?}");
    }
    assert!(world.iscsi.as_ref().unwrap().refused >= 2);
    for (portal, settings) in [
        ("10.0.0.3", vec![secret(SECRET)]),
        ("@10.0.0.3", vec![secret(SECRET)]),
        ("alice@10.0.0.3", vec![]),
        ("alice@10.0.0.3", vec![DiskSetting::AllowMd5]),
        ("alice@10.0.0.3", vec![secret(SECRET), DiskSetting::Reserve]),
        ("alice@nonsense", vec![secret(SECRET)]),
    ] {
        let failure = world.refused(session, &ask(portal, &settings));
        assert_eq!(failure.code, Code::Usage, "{portal} {failure:?}");
    }
}

#[test]
fn a_limited_guest_is_held_back_and_no_more() {
    let mut world = World::new(41);
    let (session, machine) = world.ready();
    world.aoe.push(AoeTarget::new(7, 3, 64));
    let domain = world.create(session, &with_disks(&machine, &["aoe:e7.3"]));
    let mut disk = world.bring_up(domain, 0);
    let number = world.node.guests.list[0].number;
    let limits = Limits { operations_per_s: Some(50), ..Limits::default() };
    world.node.volumes.limit_guest(number, limits, world.now_ns);
    let started_ns = world.now_ns;
    for round in 0..100 {
        assert_eq!(world.disk_write(&mut disk, round % 60, &[7; 512]), 0);
    }
    let took = (world.now_ns - started_ns) / 1_000_000;
    assert!((1_900..=2_100).contains(&took), "100 operations at 50 a second took {took} ms");
}

#[test]
fn the_policy_deadline_of_a_volume_reaches_its_guest() {
    let mut world = World::new(43);
    let (session, machine) = world.ready();
    world.aoe.push(AoeTarget::new(7, 3, 64));
    let domain = world.create(session, &with_disks(&machine, &["aoe:e7.3"]));
    let mut disk = world.bring_up(domain, 0);
    let settings = VolumeSettings { deadline_ns: Some(5 * SECOND), ..VolumeSettings::default() };
    let number = world.node.guests.list[0].number;
    world.node.volumes.configure(number, 0, settings, world.now_ns);
    world.aoe[0].up = false;
    let (_, status) = world.submit(&mut disk, 1, 0, &[9; 512]);
    world.run(4 * SECOND);
    assert_eq!(world.hypervisor.domain(domain).memory.bytes(status, 1), [0xff], "a stall");
    world.run(2 * SECOND);
    assert_eq!(world.hypervisor.domain(domain).memory.bytes(status, 1), [1], "an error");
}

#[test]
fn a_disk_that_grows_grows_for_its_guest() {
    let mut world = World::new(44);
    let (session, machine) = world.ready();
    world.iscsi = Some(IscsiTarget::new(64));
    let domain = world.create(session, &with_disks(&machine, &[ISCSI]));
    let mut disk = world.bring_up(domain, 0);
    assert_eq!(world.disk_write(&mut disk, 0, &[1; 512]), 0);
    let target = world.iscsi.as_mut().unwrap();
    target.disk.resize(96 * 512, 0);
    target.resized = true;
    assert_eq!(world.disk_write(&mut disk, 1, &[2; 512]), 0, "the command is issued again");
    world.run(SECOND);
    assert_eq!(world.disk_write(&mut disk, 90, &[3; 512]), 0);
    assert_eq!(world.facts(session, "web").unwrap().disks[0].sectors, 96);
}
