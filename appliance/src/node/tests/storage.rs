//! What operators set for volumes and do with them.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use mgmt_proto::audit::Log;
use mgmt_proto::code::Code;
use mgmt_proto::disk::{DiskSetting, GuestSettings, Limit, Policy};
use mgmt_proto::machine::{Disk, Machine};
use mgmt_proto::secret::Secret;
use mgmt_proto::verb::{Reply, Request, Run};
use mgmt_proto::volume::{Condition, PathCondition, Plugged, Stage, VolumeFacts};

use super::driver::Device;
use super::targets::{AoeTarget, IscsiTarget};
use super::world::*;
use crate::hypervisor::Hypervisor;
use machine::layout::{HOT_PLUG_EJECT_PORT, HOT_PLUG_LEAVING_PORT, HOT_PLUG_RESCAN_PORT};

const AOE: &str = "aoe:e7.3";
const ISCSI: &str = "iscsi://10.0.0.3/iqn.2026-01.org.example:disk/0";
const ALICE: &str = "iscsi://alice@10.0.0.3/iqn.2026-01.org.example:disk/0";

fn disk(volume: &str) -> Disk {
    Disk { volume: volume.to_string(), read_only: false }
}

fn create(world: &mut World, session: usize, machine: &Machine, disks: &[(&str, Vec<DiskSetting>)]) -> u32 {
    let request = create_request(machine, disks);
    match world.done(session, &request) {
        Reply::Created(id) => id,
        other => panic!("{other:?}"),
    }
}

fn create_request(machine: &Machine, disks: &[(&str, Vec<DiskSetting>)]) -> Request {
    let mut machine = machine.clone();
    machine.disks = disks.iter().map(|(volume, _)| disk(volume)).collect();
    let disks = disks.iter().map(|(_, settings)| settings.clone()).collect();
    let settings = GuestSettings { limits: Vec::new(), disks };
    Request::Create { machine, settings, paused: false, autostart: None }
}

fn show(world: &mut World, session: usize, volume: Option<&str>) -> Vec<VolumeFacts> {
    let request = Request::StorageShow { volume: volume.map(ToString::to_string), from: 0 };
    let Reply::Volumes(page) = world.done(session, &request) else { panic!() };
    assert_eq!(page.next, None);
    page.volumes
}

fn value<'a>(list: &'a [(String, String)], key: &str) -> &'a str {
    list.iter().find(|(known, _)| known == key).map_or("(none)", |(_, value)| value)
}

fn world(seed: u64) -> (World, usize, Machine) {
    let mut world = World::new(seed);
    let (session, machine) = world.ready();
    world.aoe.push(AoeTarget::new(7, 3, 64));
    world.aoe.push(AoeTarget::new(7, 4, 128));
    world.iscsi = Some(IscsiTarget::new(64));
    (world, session, machine)
}

fn target(world: &mut World) -> &mut IscsiTarget {
    world.iscsi.as_mut().unwrap()
}

const SECRET: &[u8] = b"open sesame, thou door";

fn secret() -> DiskSetting {
    DiskSetting::Secret(Secret::new(SECRET.to_vec()))
}

#[test]
fn a_guest_logs_in_with_a_secret_that_nobody_sees() {
    let (mut world, session, machine) = world(61);
    target(&mut world).secret = Some(("alice", SECRET));
    let failure = world.refused(session, &create_request(&machine, &[(ALICE, vec![])]));
    assert_eq!(failure.code, Code::Storage);
    assert!(target(&mut world).refused > 0);
    let failure = world.refused(session, &create_request(&machine, &[(ISCSI, vec![secret()])]));
    assert!(failure.message.contains("no user"), "{failure}");
    let wrong = DiskSetting::Secret(Secret::new(b"something else".to_vec()));
    let failure = world.refused(session, &create_request(&machine, &[(ALICE, vec![wrong])]));
    assert!(failure.message.contains("the login was refused"), "{failure}");
    let domain = create(&mut world, session, &machine, &[(ALICE, vec![secret()])]);
    let mut disk = world.bring_up(domain, 0);
    assert_eq!(world.disk_write(&mut disk, 3, &[5; 512]), 0);
    let facts = show(&mut world, session, None);
    assert_eq!(value(&facts[0].settings, "Login"), "CHAP as alice");
    assert!(value(&facts[0].negotiated, "AuthMethod").contains("SHA-256"), "{:?}", facts[0].negotiated);
    // Nowhere in what is told, logged or recorded.
    let mut told = alloc::format!("{facts:?}");
    for request in [
        Request::List,
        Request::NodeLog { run: Run::Current, from: 0 },
        Request::AuditRead { log: Log::Effects, from: 0 },
    ] {
        let reply = world.done(session, &request);
        if let Reply::Stream(stream) = &reply {
            told += &String::from_utf8_lossy(&stream.bytes);
        }
        told += &alloc::format!("{reply:?}");
    }
    told += &alloc::format!("{:?}", world.node.guests.list[0]);
    let numbers = alloc::format!("{SECRET:?}");
    assert!(!told.contains("sesame") && !told.contains(numbers.trim_matches(['[', ']'])), "{told}");
    // But a new dom0 can use it.
    world.restart_dom0();
    let session = world.connect(Who::Admin);
    let logins = target(&mut world).logins;
    world.done(session, &Request::Reboot { name: "web".to_string() });
    world.run(5 * SECOND);
    assert!(target(&mut world).logins > logins);
    let domain = world.facts(session, "web").unwrap().id;
    let mut disk = world.bring_up(domain, 0);
    assert!(world.disk_read(&mut disk, 3, 1) == [5; 512]);
}

#[test]
fn a_volume_with_two_portals_goes_on_without_one() {
    let (mut world, session, machine) = world(62);
    let settings = vec![DiskSetting::Portal([10, 0, 0, 3], 3261), DiskSetting::Policy(Policy::Failover)];
    let domain = create(&mut world, session, &machine, &[(ISCSI, settings)]);
    let mut disk = world.bring_up(domain, 0);
    world.run(SECOND);
    let facts = &show(&mut world, session, Some(ISCSI))[0];
    assert_eq!((facts.guest.as_str(), facts.slot, facts.condition), ("web", 1, Condition::Ready));
    let conditions: Vec<_> = facts.paths.iter().map(|path| path.condition).collect();
    assert_eq!(conditions, [PathCondition::Active, PathCondition::Standby]);
    assert_eq!(facts.paths[1].name, "10.0.0.3:3261");
    assert_eq!(world.disk_write(&mut disk, 0, &[1; 512]), 0);
    let path = |path, enabled| Request::StoragePath { volume: ISCSI.to_string(), path, enabled };
    assert_eq!(world.refused(session, &path(2, false)).code, Code::NotFound);
    world.done(session, &path(0, false));
    assert_eq!(world.refused(session, &path(1, false)).code, Code::Conflict);
    world.run(3 * SECOND);
    let before = [0, 1].map(|lane| world.iscsi.as_ref().unwrap().commands(lane));
    for sector in 1..10 {
        assert_eq!(world.disk_write(&mut disk, sector, &[2; 512]), 0);
    }
    let after = [0, 1].map(|lane| world.iscsi.as_ref().unwrap().commands(lane));
    assert_eq!(after[0], before[0], "nothing goes through a path out of use");
    assert!(after[1] >= before[1] + 9);
    let facts = &show(&mut world, session, None)[0];
    assert_eq!(facts.paths[0].condition, PathCondition::Disabled);
    assert_eq!(facts.paths[1].condition, PathCondition::Active);
    world.done(session, &path(0, true));
    world.run(3 * SECOND);
    assert_eq!(show(&mut world, session, None)[0].paths[0].condition, PathCondition::Standby);
    assert_eq!(world.disk_write(&mut disk, 1, &[3; 512]), 0);
    let other = Request::StoragePath { volume: AOE.to_string(), path: 0, enabled: true };
    assert_eq!(world.refused(session, &other).code, Code::NotFound);
}

#[test]
fn an_aoe_volume_with_two_stations_goes_on_without_one() {
    let (mut world, session, machine) = world(74);
    // A third one, which is not believed.
    let station = |last: u8| AoeTarget { mac: [2, 0xa0, 0, 0, 0, last], ..AoeTarget::new(7, 3, 64) };
    world.aoe = (1..=3).map(station).collect();
    let settings = [1, 2].map(|last| DiskSetting::Station([2, 0xa0, 0, 0, 0, last]));
    let domain = create(&mut world, session, &machine, &[(AOE, settings.to_vec())]);
    let mut disk = world.bring_up(domain, 0);
    world.run(2 * SECOND);
    let path = |path, enabled| Request::StoragePath { volume: AOE.to_string(), path, enabled };
    let read = |world: &mut World, disk: &mut Device| {
        let before: Vec<usize> = world.aoe.iter().map(|target| target.commands).collect();
        for sector in 0..20 {
            world.disk_read(disk, sector, 2);
        }
        world.aoe.iter().zip(before).map(|(target, before)| target.commands > before).collect::<Vec<_>>()
    };
    assert_eq!(read(&mut world, &mut disk), [true, true, false]);
    world.done(session, &path(0, false));
    assert_eq!(world.refused(session, &path(1, false)).code, Code::Conflict);
    world.run(2 * SECOND);
    assert_eq!(read(&mut world, &mut disk), [false, true, false]);
    let facts = &show(&mut world, session, None)[0];
    assert_eq!((facts.condition, facts.paths[0].condition), (Condition::Ready, PathCondition::Disabled));
    world.done(session, &path(0, true));
    world.done(session, &path(1, false));
    world.run(2 * SECOND);
    assert_eq!(read(&mut world, &mut disk), [true, false, false]);
    world.done(session, &path(1, true));
    world.run(2 * SECOND);
    assert_eq!(read(&mut world, &mut disk), [true, true, false]);
}

#[test]
fn a_guest_that_ends_amid_its_writes_gives_its_volumes_up() {
    let (mut world, session, machine) = world(75);
    target(&mut world).reservations = true;
    let disks = [(ISCSI, vec![DiskSetting::Reserve]), (AOE, vec![DiskSetting::Reserve])];
    let domain = create(&mut world, session, &machine, &disks);
    let mut devices = [0, 1].map(|device| world.bring_up(domain, device));
    target(&mut world).silent = true;
    world.aoe[0].up = false;
    for disk in &mut devices {
        world.submit(disk, 1, 0, &[9; 512]);
    }
    world.run(50 * MS);
    world.done(session, &Request::Destroy { name: "web".to_string() });
    target(&mut world).silent = false;
    world.aoe[0].up = true;
    world.run(10 * SECOND);
    assert_eq!(target(&mut world).holder, None);
    assert!(world.aoe[0].holders.is_empty());
    // A target that says nothing is left after a while, and nothing spins.
    create(&mut world, session, &machine, &disks);
    target(&mut world).silent = true;
    world.aoe[0].up = false;
    world.done(session, &Request::Destroy { name: "web".to_string() });
    world.run(6 * SECOND);
    let before = world.turns;
    world.run(30 * SECOND);
    assert!(world.turns - before < 50, "{} turns with nothing to do", world.turns - before);
}

#[test]
fn what_is_told_of_a_stall() {
    let (mut world, session, machine) = world(63);
    let settings =
        vec![DiskSetting::DeadlineMs(600_000), DiskSetting::Limit(Limit::OperationsPerSecond(500))];
    let domain = create(&mut world, session, &machine, &[(AOE, settings), (ISCSI, vec![])]);
    let mut disk = world.bring_up(domain, 0);
    assert_eq!(world.disk_write(&mut disk, 1, &[1; 512]), 0);
    let all = show(&mut world, session, None);
    assert_eq!(all.len(), 2);
    assert_eq!((all[1].slot, all[1].sectors), (2, Some(64)));
    assert_eq!(
        (value(&all[0].settings, "Deadline"), value(&all[0].settings, "OperationsPerSecond")),
        ("600000 ms", "500")
    );
    assert!(all[0].latency.iter().sum::<u64>() >= 1);
    assert_eq!(all[0].stage, Stage::Ready);
    let stopped_ns = world.now_ns;
    world.aoe[0].up = false;
    world.submit(&mut disk, 1, 0, &[9; 512]);
    world.run(20 * SECOND);
    let facts = &show(&mut world, session, Some(AOE))[0];
    assert_eq!(facts.condition, Condition::Stalled);
    let since_ns = facts.stalled_since_ns.unwrap();
    assert!((stopped_ns..stopped_ns + SECOND).contains(&since_ns), "{since_ns}");
    assert!(facts.retry > 3 && facts.pending == 1, "{facts:?}");
    assert_eq!(facts.paths[0].last_error.as_deref(), Some("no answer"));
    let listed = world.facts(session, "web").unwrap();
    assert!(listed.disks[0].stalled_since_ns.is_some() && listed.disks[1].stalled_since_ns.is_none());
    world.aoe[0].up = true;
    world.run(6 * SECOND);
    assert_eq!(show(&mut world, session, Some(AOE))[0].condition, Condition::Ready);
    let unknown = Request::StorageShow { volume: Some("aoe:e9.9".to_string()), from: 0 };
    assert_eq!(world.refused(session, &unknown).code, Code::NotFound);
}

#[test]
fn many_volumes_are_told_in_pages() {
    let (mut world, session, machine) = world(64);
    let mut wanted = Vec::new();
    for guest in 0..12u8 {
        let mut machine = machine.clone();
        machine.name = alloc::format!("g{guest}");
        machine.disks = vec![Disk { volume: AOE.to_string(), read_only: true }; 8];
        world.done(session, &super::create_paused(machine));
        wanted.extend((0..8).map(|slot| (alloc::format!("g{guest}"), slot + 1)));
    }
    let (mut told, mut from, mut pages) = (Vec::new(), Some(0), 0);
    while let Some(place) = from {
        let Reply::Volumes(page) = world.done(session, &Request::StorageShow { volume: None, from: place })
        else {
            panic!()
        };
        told.extend(page.volumes.into_iter().map(|facts| (facts.guest, facts.slot)));
        from = page.next;
        pages += 1;
    }
    assert_eq!(told, wanted);
    assert!(pages > 1, "{pages} pages");
}

#[test]
fn a_volume_is_tried_without_a_guest() {
    let (mut world, session, _) = world(65);
    world.aoe[0].holders = vec![[2, 9, 9, 9, 9, 9]];
    target(&mut world).reservations = true;
    target(&mut world).holder = Some(0xabcd);
    target(&mut world).secret = Some(("alice", SECRET));
    let probe = |volume: &str, settings| Request::StorageProbe { volume: volume.to_string(), settings };
    let other = world.connect(Who::Operator);
    world.send(other, &probe("aoe:e9.9", vec![]));
    world.run(10 * MS);
    assert_eq!(world.refused(session, &probe(ISCSI, vec![])).code, Code::Conflict, "one at a time");
    assert!(world.outcome(other).is_ok());
    world.send(other, &probe(AOE, vec![]));
    let Reply::Volumes(page) = world.outcome(other).unwrap() else { panic!() };
    assert_eq!((page.volumes[0].condition, page.volumes[0].sectors), (Condition::Ready, Some(64)));
    assert_eq!(value(&page.volumes[0].negotiated, "Reservation"), "02:09:09:09:09:09");
    let Reply::Volumes(page) = world.done(session, &probe(ALICE, vec![secret()])) else { panic!() };
    let facts = &page.volumes[0];
    assert_eq!((facts.condition, facts.guest.as_str(), facts.read_only), (Condition::Ready, "", true));
    assert_eq!(value(&facts.negotiated, "Reservation"), "0x000000000000abcd");
    world.run(SECOND);
    assert_eq!(target(&mut world).goodbyes, 1, "it leaves politely");
    // A refusal may be about an algorithm only.
    target(&mut world).reservations = true;
    target(&mut world).holder = None;
    for task in 0..3 {
        target(&mut world).confused = 2;
        let (volume, settings, force) = (ALICE.to_string(), vec![secret()], false);
        world.done(
            session,
            &match task {
                0 => Request::StorageProbe { volume, settings },
                1 => Request::StorageReserve { volume, settings, force },
                _ => Request::StorageRelease { volume, settings, force },
            },
        );
        assert_eq!(target(&mut world).holder.is_some(), task == 1);
        world.run(SECOND);
    }
    // What a target refuses, and one that is not there, are answers too.
    let Reply::Volumes(page) = world.done(session, &probe(ALICE, vec![])) else { panic!() };
    assert_eq!(page.volumes[0].condition, Condition::Refused);
    let Reply::Volumes(page) = world.done(session, &probe("aoe:e9.9", vec![])) else { panic!() };
    assert_eq!((page.volumes[0].condition, page.volumes[0].stage), (Condition::Connecting, Stage::Silent));
    assert_eq!(world.refused(session, &probe("nonsense", vec![])).code, Code::Usage);
    assert_eq!(world.refused(session, &probe(AOE, vec![secret()])).code, Code::Usage);
    let viewer = world.connect(Who::Viewer);
    assert_eq!(world.refused(viewer, &probe(AOE, vec![])).code, Code::Refused);
    let before = world.turns;
    world.run(10 * SECOND);
    assert!(world.turns - before < 50, "{} turns with nothing to do", world.turns - before);
}

fn reserve(volume: &str, force: bool) -> Request {
    Request::StorageReserve { volume: volume.to_string(), settings: vec![], force }
}

fn release(volume: &str, force: bool) -> Request {
    Request::StorageRelease { volume: volume.to_string(), settings: vec![], force }
}

#[test]
fn a_volume_is_reserved_and_released_without_a_guest() {
    let (mut world, session, _) = world(66);
    let failure = world.refused(session, &reserve(ISCSI, false));
    assert!(failure.message.contains("no reservations"), "{failure}");
    target(&mut world).reservations = true;
    let key = world.node.volumes.reservation_key();
    world.done(session, &reserve(ISCSI, false));
    assert_eq!(target(&mut world).holder, Some(key), "and it stays");
    world.run(5 * SECOND);
    assert_eq!(target(&mut world).holder, Some(key));
    world.done(session, &release(ISCSI, false));
    assert_eq!(target(&mut world).holder, None);
    // Another node's.
    target(&mut world).holder = Some(0xabcd);
    let failure = world.refused(session, &reserve(ISCSI, false));
    assert_eq!(failure.code, Code::Conflict);
    assert!(failure.message.contains("key 0x000000000000abcd"), "{failure}");
    assert_eq!(world.refused(session, &release(ISCSI, false)).code, Code::Conflict);
    assert_eq!(target(&mut world).holder, Some(0xabcd), "nothing was changed");
    let operator = world.connect(Who::Operator);
    assert_eq!(world.refused(operator, &reserve(ISCSI, true)).code, Code::Refused, "an admin's word");
    world.done(session, &reserve(ISCSI, true));
    assert_eq!(target(&mut world).holder, Some(key));
    target(&mut world).holder = Some(0xabcd);
    world.done(session, &release(ISCSI, true));
    assert_eq!(target(&mut world).holder, None);
    // The same over AoE.
    world.done(session, &reserve(AOE, false));
    assert_eq!(world.aoe[0].holders, [NODE_MAC]);
    world.done(session, &release(AOE, false));
    assert!(world.aoe[0].holders.is_empty());
    world.aoe[0].holders = vec![[2, 9, 9, 9, 9, 9]];
    let failure = world.refused(session, &reserve(AOE, false));
    assert!(failure.message.contains("02:09:09:09:09:09"), "{failure}");
    world.done(session, &reserve(AOE, true));
    assert_eq!(world.aoe[0].holders, [NODE_MAC]);
    assert_eq!(world.refused(session, &reserve("aoe:e9.9", false)).code, Code::Storage);
    // One that serves and does not answer this question.
    world.aoe[1].keeps_no_list = true;
    let before = world.turns;
    assert_eq!(world.refused(session, &reserve("aoe:e7.4", false)).code, Code::Storage);
    assert!(world.turns - before < 200, "{} turns while nothing happens", world.turns - before);
}

#[test]
fn a_guest_holds_its_volume_while_it_runs_and_no_longer() {
    let (mut world, session, machine) = world(67);
    target(&mut world).reservations = true;
    let key = world.node.volumes.reservation_key();
    let disks = [(ISCSI, vec![DiskSetting::Reserve]), (AOE, vec![DiskSetting::Reserve])];
    for _ in 0..3 {
        create(&mut world, session, &machine, &disks);
        assert_eq!(target(&mut world).holder, Some(key));
        assert_eq!(world.aoe[0].holders, [NODE_MAC]);
        world.done(session, &Request::Destroy { name: "web".to_string() });
        world.run(2 * SECOND);
        assert_eq!(target(&mut world).holder, None);
        assert!(world.aoe[0].holders.is_empty());
    }
    // At once again: what says goodbye must not take away what was just taken.
    create(&mut world, session, &machine, &disks);
    world.send(session, &Request::Destroy { name: "web".to_string() });
    world.send(session, &create_request(&machine, &disks));
    assert_eq!(world.outcome(session), Ok(Reply::Done));
    assert!(matches!(world.outcome(session), Ok(Reply::Created(_))));
    world.run(5 * SECOND);
    assert_eq!(target(&mut world).holder, Some(key));
    let facts = &show(&mut world, session, Some(ISCSI))[0];
    assert_eq!(facts.condition, Condition::Ready);
    // In use, it is the session of the guest that is told.
    world.done(session, &release(ISCSI, false));
    assert_eq!(target(&mut world).holder, None);
    assert_eq!(value(&show(&mut world, session, Some(ISCSI))[0].settings, "Reserve"), "no");
    world.done(session, &reserve(ISCSI, false));
    assert_eq!(target(&mut world).holder, Some(key));
    world.done(session, &release(AOE, false));
    assert!(world.aoe[0].holders.is_empty());
    world.done(session, &reserve(AOE, false));
    assert_eq!(world.aoe[0].holders, [NODE_MAC]);
    // Another node has it: the loser is told who.
    world.done(session, &Request::Destroy { name: "web".to_string() });
    world.run(2 * SECOND);
    target(&mut world).holder = Some(0xabcd);
    let failure = world.refused(session, &create_request(&machine, &disks));
    assert!(failure.message.contains("another node holds the reservation"), "{failure}");
    assert!(
        failure.message.ends_with("key 0x000000000000abcd") && failure.code == Code::Conflict,
        "{failure}"
    );
    assert!(failure.remedy.ends_with("preempt=0x000000000000abcd"), "{failure}");
    let preempt = vec![DiskSetting::Reserve, DiskSetting::Preempt(0xabcd)];
    create(&mut world, session, &machine, &[(ISCSI, preempt)]);
    assert_eq!(target(&mut world).holder, Some(key));
}

#[test]
fn a_disk_that_can_discard_says_so_to_its_guest() {
    let (mut world, session, machine) = world(68);
    target(&mut world).thin = true;
    let domain = create(&mut world, session, &machine, &[(ISCSI, vec![]), (AOE, vec![])]);
    let features = |world: &World, device: usize| {
        let shape = world.node.volumes.shape(world.node.guests.list[0].number, device).unwrap();
        shape.discard
    };
    assert!(features(&world, 0) && !features(&world, 1));
    let mut disk = world.bring_up(domain, 0);
    let mut range = Vec::new();
    range.extend_from_slice(&8u64.to_le_bytes());
    range.extend_from_slice(&16u32.to_le_bytes());
    range.extend_from_slice(&[0; 4]);
    let (_, status) = world.submit(&mut disk, 11, 0, &range);
    assert_eq!(world.completed(&mut disk, status), 0);
    assert_eq!(target(&mut world).discarded, [(8, 16)]);
    let mut other = world.bring_up(domain, 1);
    let (_, status) = world.submit(&mut other, 11, 0, &range);
    assert_eq!(world.completed(&mut other, status), 2, "unsupported");
}

#[test]
fn limits_are_set_while_a_guest_runs() {
    let (mut world, session, machine) = world(69);
    let domain = create(&mut world, session, &machine, &[(AOE, vec![])]);
    let mut disk = world.bring_up(domain, 0);
    let timed = |world: &mut World, disk: &mut Device| {
        let started_ns = world.now_ns;
        for round in 0..50 {
            assert_eq!(world.disk_write(disk, round, &[7; 512]), 0);
        }
        (world.now_ns - started_ns) / MS
    };
    assert!(timed(&mut world, &mut disk) < 200);
    let limit =
        |slot, limits: &[Limit]| Request::Limit { name: "web".to_string(), slot, limits: limits.to_vec() };
    for slot in [None, Some(1)] {
        world.done(session, &limit(slot, &[Limit::OperationsPerSecond(50)]));
        let took = timed(&mut world, &mut disk);
        assert!((900..1_100).contains(&took), "{took} ms");
        world.done(session, &limit(slot, &[]));
        assert!(timed(&mut world, &mut disk) < 200);
    }
    assert_eq!(world.refused(session, &limit(Some(9), &[])).code, Code::NotFound);
    world.done(session, &limit(Some(1), &[Limit::BytesPerSecond(1 << 20), Limit::BurstMs(500)]));
    let facts = &show(&mut world, session, None)[0];
    assert_eq!(
        (value(&facts.settings, "BytesPerSecond"), value(&facts.settings, "BurstMs")),
        ("1048576", "500")
    );
}

fn attach(volume: &str) -> Request {
    Request::BlockAttach { name: "web".to_string(), disk: disk(volume), settings: vec![] }
}

fn detach(slot: u32, force: bool) -> Request {
    Request::BlockDetach { name: "web".to_string(), slot, force }
}

fn list(world: &mut World, session: usize) -> Vec<(u32, String, Plugged, bool)> {
    let Reply::Disks(disks) = world.done(session, &Request::BlockList { name: "web".to_string() }) else {
        panic!()
    };
    disks.into_iter().map(|it| (it.slot, it.volume, it.plugged, it.from_start)).collect()
}

/// What the guest reads from a register, as its ACPI method does.
fn register(world: &mut World, port: u16) -> u32 {
    world.node.guests.list[0].platform.port_read(port, 4)
}

#[test]
fn a_disk_comes_and_goes_while_its_guest_runs() {
    let (mut world, session, machine) = world(70);
    let domain = create(&mut world, session, &machine, &[(AOE, vec![])]);
    let mut first = world.bring_up(domain, 0);
    assert_eq!(world.refused(session, &attach(AOE)).code, Code::Conflict, "it is its own already");
    assert_eq!(register(&mut world, HOT_PLUG_RESCAN_PORT), 0);
    // Disk, console, entropy: slots 1 to 3.
    assert_eq!(world.done(session, &attach("aoe:e7.4")), Reply::Attached(4));
    assert_eq!(list(&mut world, session)[1], (4, "aoe:e7.4".to_string(), Plugged::Offered, false));
    assert_eq!(
        (register(&mut world, HOT_PLUG_RESCAN_PORT), register(&mut world, HOT_PLUG_RESCAN_PORT)),
        (1, 0)
    );
    let mut second = world.bring_up(domain, 3);
    assert_eq!(world.disk_write(&mut second, 100, &[4; 512]), 0);
    assert_eq!(world.aoe[1].disk[100 * 512..101 * 512], [4; 512]);
    assert_eq!(world.disk_write(&mut first, 1, &[5; 512]), 0);
    assert_eq!(list(&mut world, session)[1].2, Plugged::Running);
    assert_eq!(world.facts(session, "web").unwrap().disks.len(), 2);
    // The guest is asked, gives it back, and who asked is told.
    world.send(session, &detach(4, false));
    world.run(SECOND);
    assert_eq!(register(&mut world, HOT_PLUG_LEAVING_PORT), 1 << 4);
    let other = world.connect(Who::Viewer);
    assert_eq!(list(&mut world, other)[1].2, Plugged::Leaving);
    world.access(domain, hv_abi::event::ACCESS_PORT_WRITE, u64::from(HOT_PLUG_EJECT_PORT), 4, 1 << 4);
    assert_eq!(world.outcome(session), Ok(Reply::Done));
    assert_eq!(list(&mut world, session).len(), 1);
    assert_eq!(
        world.node.guests.list[0].platform.mmio_read(machine::layout::ECAM_START + (4 << 15), 4),
        0xffff_ffff
    );
    // The slot is free again, for a disk of another kind.
    assert_eq!(world.done(session, &attach(ISCSI)), Reply::Attached(4));
    let mut third = world.bring_up(domain, 3);
    assert_eq!(world.disk_write(&mut third, 2, &[6; 512]), 0);
    assert_eq!(target(&mut world).disk[2 * 512..3 * 512], [6; 512]);
    assert_eq!(world.refused(session, &detach(9, false)).code, Code::NotFound);
    // One that nobody answers for is given up.
    let failure = world.refused(session, &attach("aoe:e9.9"));
    assert!(failure.code == Code::Storage && failure.message.contains("no target answers"), "{failure}");
    assert_eq!(list(&mut world, session).len(), 2);
}

#[test]
fn a_guest_that_keeps_a_disk_is_made_to_let_go() {
    let (mut world, session, machine) = world(71);
    let domain = create(&mut world, session, &machine, &[(AOE, vec![]), (ISCSI, vec![])]);
    let mut disk = world.bring_up(domain, 1);
    let started_ns = world.now_ns;
    let failure = world.refused(session, &detach(2, false));
    assert_eq!(failure.code, Code::Deadline);
    assert!(world.now_ns - started_ns >= 10 * SECOND);
    assert_eq!(world.disk_write(&mut disk, 1, &[1; 512]), 0, "it goes on meanwhile");
    world.submit(&mut disk, 1, 2, &[2; 512]);
    world.done(session, &detach(2, true));
    assert_eq!(register(&mut world, HOT_PLUG_RESCAN_PORT), 1);
    assert_eq!(list(&mut world, session).len(), 1);
    world.run(10 * SECOND);
    assert_eq!(world.node.volumes.shape(world.node.guests.list[0].number, 1), None);
    // A guest may give back what nobody asked for, but only disks.
    let gives = |bit: u64| (hv_abi::event::ACCESS_PORT_WRITE, u64::from(HOT_PLUG_EJECT_PORT), 4, bit);
    for bit in [1, 1 << 3, 1 << 4, 1 << 31, 0] {
        let (access, address, width, value) = gives(bit);
        world.access(domain, access, address, width, value);
    }
    assert_eq!(list(&mut world, session).len(), 1);
    let (access, address, width, value) = gives(1 << 1);
    world.access(domain, access, address, width, value);
    assert_eq!(list(&mut world, session), []);
}

#[test]
fn disks_that_came_later_are_there_after_a_reboot() {
    let (mut world, session, mut machine) = world(72);
    machine.network_cards = vec![mgmt_proto::machine::NetworkCard::plain(guest_mac(7))];
    create(&mut world, session, &machine, &[(AOE, vec![])]);
    world.done(session, &attach("aoe:e7.4"));
    world.done(session, &attach(ISCSI));
    assert_eq!(list(&mut world, session).iter().map(|it| it.0).collect::<Vec<_>>(), [1, 5, 6]);
    // The middle one is asked for and not given back: the next start is without it.
    world.send(session, &detach(5, false));
    world.run(SECOND);
    let other = world.connect(Who::Admin);
    world.done(other, &Request::Reboot { name: "web".to_string() });
    assert_eq!(world.outcome(session), Ok(Reply::Done));
    world.run(3 * SECOND);
    let after = list(&mut world, session);
    assert_eq!(
        after.iter().map(|it| (it.0, it.1.as_str(), it.3)).collect::<Vec<_>>(),
        [(1, AOE, true), (2, ISCSI, true)]
    );
    let domain = world.facts(session, "web").unwrap().id;
    let mut disk = world.bring_up(domain, 1);
    assert_eq!(world.disk_write(&mut disk, 2, &[6; 512]), 0);
    assert_eq!(target(&mut world).disk[2 * 512..3 * 512], [6; 512]);
    // Cards follow the disks.
    let mut card = world.bring_up(domain, 2);
    world.offer_buffers(&mut card, 4);
    let mut frame = vec![0xff; 60];
    frame[6..12].copy_from_slice(&guest_mac(7));
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    world.send_frame(&mut card, &frame);
    world.run(SECOND);
    assert!(world.wire.iter().any(|sent| sent[6..12] == guest_mac(7)));
    // What a new dom0 finds is the description as it is now.
    world.restart_dom0();
    let session = world.connect(Who::Admin);
    let Reply::Disks(disks) = world.done(session, &Request::BlockList { name: "web".to_string() }) else {
        panic!()
    };
    assert_eq!(disks.iter().map(|disk| disk.condition).collect::<Vec<_>>(), [Condition::Detached; 2]);
    let failure = world.refused(session, &attach("aoe:e7.4"));
    assert_eq!(failure.code, Code::Conflict, "nobody serves its bus");
    let slot = hv_abi::DomainId(domain).slot().index();
    assert!(world.hypervisor.store_get(slot, &mut [0; hv_abi::STORE_BYTES]).is_ok());
}

#[test]
fn a_guest_has_at_most_eight_disks() {
    let (mut world, session, machine) = world(73);
    world.aoe.clear();
    world.aoe.extend((0..9).map(|slot| AoeTarget::new(8, slot, 64)));
    create(&mut world, session, &machine, &[]);
    for slot in 0..8 {
        assert_eq!(world.done(session, &attach(&alloc::format!("aoe:e8.{slot}"))), Reply::Attached(3 + slot));
    }
    let failure = world.refused(session, &attach("aoe:e8.8"));
    assert_eq!(failure.code, Code::Usage);
    for slot in 0..8 {
        world.done(session, &detach(3 + slot, true));
    }
    assert_eq!(world.done(session, &attach("aoe:e8.8")), Reply::Attached(3));
    // Attached to one guest, it is nobody else's.
    let mut other = machine.clone();
    other.name = "db".to_string();
    other.disks = vec![disk("aoe:e8.8")];
    let failure = world.refused(session, &Request::create(other));
    assert_eq!(failure.code, Code::Conflict);
    // Destroyed while a disk comes: who waits is told.
    world.send(session, &attach("aoe:e9.9"));
    world.run(SECOND);
    let admin = world.connect(Who::Admin);
    assert_eq!(world.refused(admin, &attach("aoe:e8.7")).code, Code::Conflict, "one at a time");
    world.done(admin, &Request::Destroy { name: "web".to_string() });
    assert!(world.outcome(session).unwrap_err().message.contains("was destroyed"));
}
