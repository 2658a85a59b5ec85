//! What a node keeps on its state volume, and what it does without.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use mgmt_proto::audit::{self, Log};
use mgmt_proto::bundle::Bundle;
use mgmt_proto::code::Code;
use mgmt_proto::config::Config;
use mgmt_proto::disk::{DiskSetting, GuestSettings, Limit};
use mgmt_proto::limits::NODE_KEYS;
use mgmt_proto::machine::{Action, Disk, Machine};
use mgmt_proto::node_key::{KeyLink, leads};
use mgmt_proto::secret::Secret;
use mgmt_proto::state::{Initialise, StateCondition, StateFacts, StateVolume};
use mgmt_proto::trust::Role;
use mgmt_proto::verb::{Reply, Request, State};

use super::fake_disk::{FakeDisk, disk_mib};
use super::targets::AoeTarget;
use super::world::*;
use crate::settings::Settings;

/// Settings with a state volume.
pub(super) fn state_settings(volume: &str, wait_s: u32) -> Settings {
    let mut settings = settings();
    settings.manifest.state = Some(StateVolume {
        volume: volume.to_string(),
        settings: Vec::new(),
        initialise: Initialise::Empty,
        wait_s,
        key: Secret::new(vec![0x5e; 32]),
    });
    settings
}

/// A world with a disk of its own.
pub(super) fn local(seed: u64, disk: &FakeDisk) -> World {
    World::with_disk(seed, state_settings("virtio:0", 30), disk)
}

pub(super) fn state(world: &mut World, session: usize) -> StateFacts {
    match world.done(session, &Request::StateShow) {
        Reply::State(facts) => facts,
        other => panic!("{other:?}"),
    }
}

pub(super) fn create_kept(machine: &Machine, order: u32) -> Request {
    let settings = GuestSettings::default();
    Request::Create { machine: machine.clone(), settings, paused: false, autostart: Some(order) }
}

pub(super) fn names(world: &mut World, session: usize) -> Vec<String> {
    let Reply::Guests(guests) = world.done(session, &Request::List) else { panic!("no guests") };
    guests.into_iter().map(|guest| guest.machine.name).collect()
}

fn key_of(world: &mut World) -> [u8; 32] {
    let session = world.connect(Who::Admin);
    *world.node_key(session)
}

/// An AoE target that holds the state of a node.
fn target() -> AoeTarget {
    AoeTarget::new(9, 0, 17 << 11)
}

#[test]
fn without_a_volume_nothing_is_kept_and_the_node_says_so() {
    let mut world = World::new(201);
    let (session, machine) = world.ready();
    let facts = state(&mut world, session);
    assert_eq!((facts.condition, facts.fresh_identity), (StateCondition::Diskless, true));
    assert_eq!(world.refused(session, &create_kept(&machine, 1)).code, Code::Policy);
    world.create(session, &machine);
    let autostart = Request::Autostart { name: "web".to_string(), order: Some(1) };
    assert_eq!(world.refused(session, &autostart).code, Code::Policy);
    let before = *world.node_key(session);
    world.power_cycle();
    assert_ne!(key_of(&mut world), before);
}

#[test]
fn the_identity_survives_power_cuts_on_an_aoe_volume() {
    let mut world = World::with(202, state_settings("aoe:e9.0", 30));
    world.aoe.push(target());
    let session = world.connect(Who::Admin);
    let facts = state(&mut world, session);
    assert_eq!((facts.condition, facts.fresh_identity), (StateCondition::Kept, false));
    assert_eq!(facts.volume, "aoe:e9.0");
    assert_ne!(facts.serial, [0; 16]);
    let Reply::Node(node) = world.done(session, &Request::NodeInfo) else { panic!("no facts") };
    assert!(!node.fresh_identity);
    let before = *world.node_key(session);
    world.power_cycle();
    let session = world.connect(Who::Admin);
    assert_eq!(*world.node_key(session), before);
    assert_eq!(state(&mut world, session).serial, facts.serial);
    // A dom0 that starts again opens its door before the volume answers.
    world.aoe[0].up = false;
    world.restart_dom0();
    let session = world.connect(Who::Admin);
    assert_eq!(*world.node_key(session), before);
    assert_eq!(state(&mut world, session).condition, StateCondition::Connecting);
    world.aoe[0].up = true;
    world.run(10 * SECOND);
    assert_eq!(state(&mut world, session).condition, StateCondition::Kept);
}

fn links(world: &mut World, session: usize) -> Vec<KeyLink> {
    let Reply::NodeKeys(links) = world.done(session, &Request::NodeKeys) else { panic!("no keys") };
    links
}

#[test]
fn a_node_gets_another_key_that_the_old_one_signed() {
    let mut world = World::with(230, state_settings("aoe:e9.0", 30));
    world.aoe.push(target());
    let session = world.connect(Who::Admin);
    let first = *world.node_key(session);
    assert!(links(&mut world, session).is_empty());
    world.done(session, &Request::NodeKeyRotate);
    // The session goes on; a new one is with the new key, to which the old one leads.
    recorded(&mut world, session, 1);
    let session = world.connect(Who::Admin);
    let second = *world.node_key(session);
    assert_ne!(second, first);
    assert!(leads(&links(&mut world, session), &first, &second));
    // Neither a new dom0 nor a power cut brings the old one back.
    world.restart_dom0();
    let session = world.connect(Who::Admin);
    assert_eq!(*world.node_key(session), second);
    assert!(leads(&links(&mut world, session), &first, &second), "before the volume answers");
    world.run(10 * SECOND);
    world.power_cycle();
    let session = world.connect(Who::Admin);
    assert_eq!(*world.node_key(session), second);
    for _ in 0..NODE_KEYS {
        world.done(session, &Request::NodeKeyRotate);
    }
    let session = world.connect(Who::Admin);
    let (kept, now) = (links(&mut world, session), *world.node_key(session));
    assert_eq!(kept.len(), NODE_KEYS);
    assert!(leads(&kept, &second, &now) && !leads(&kept, &first, &now), "the oldest is forgotten");
    // The log names the key that each command was for; the last one signs its end.
    let log = audit_log(&mut world, session);
    assert_eq!((log[0].node, log[1].node), (first, first));
    assert!(log.iter().skip(2).all(|entry| leads(&kept, &entry.node, &now)));
}

#[test]
fn a_key_that_cannot_be_kept_is_none() {
    let mut world = World::new(231);
    let session = world.connect(Who::Admin);
    assert_eq!(world.refused(session, &Request::NodeKeyRotate).code, Code::Policy);
    let disk = disk_mib(18);
    let mut world = local(232, &disk);
    let session = world.connect(Who::Admin);
    let before = *world.node_key(session);
    world.run(SECOND);
    disk.disk().broken = true;
    let failure = world.refused(session, &Request::NodeKeyRotate);
    assert_eq!(failure.code, Code::Storage);
    assert!(failure.message.contains("does not hold yet, and is not kept"), "{failure}");
    assert_eq!(key_of(&mut world), before);
}

#[test]
fn an_iscsi_volume_keeps_state_too_and_a_lost_target_is_waited_for() {
    let mut world = World::with(220, state_settings("iscsi://10.0.0.3/iqn.2026-01.org.example:disk/0", 30));
    world.iscsi = Some(super::targets::IscsiTarget::of_blocks(18 << 11, 4_096));
    let (session, machine) = world.ready();
    world.done(session, &create_kept(&machine, 1));
    let before = *world.node_key(session);
    world.power_cycle();
    let session = world.connect(Who::Admin);
    assert_eq!(*world.node_key(session), before);
    world.until("the guest", |world| world.hypervisor.guests().len() == 1);
    // What is asked for while the target is silent is kept when it answers.
    world.iscsi.as_mut().unwrap().silent = true;
    let off = Request::Autostart { name: "web".to_string(), order: None };
    world.send(session, &off);
    world.run(20 * SECOND);
    assert!(world.sessions[session].outcomes.is_empty());
    world.iscsi.as_mut().unwrap().silent = false;
    let outcome = world.outcome(session);
    assert!(outcome.map_or_else(|failure| failure.code == Code::Deadline, |reply| reply == Reply::Done));
    world.run(60 * SECOND);
    let session = world.connect(Who::Admin);
    assert!(state(&mut world, session).guests.is_empty());
}

#[test]
fn what_is_not_ours_is_refused_and_left_as_it_is() {
    for sector in [0, 1, 128, 30_000] {
        let disk = disk_mib(17);
        disk.alter(sector, 3, 0x55);
        let before = disk.image();
        let mut world = local(203, &disk);
        let session = world.connect(Who::Admin);
        let facts = state(&mut world, session);
        assert_eq!((facts.condition, facts.fresh_identity), (StateCondition::Failed, true));
        assert!(facts.problem.unwrap().contains("not a node's state"));
        assert!(world.logged("nothing is kept"));
        assert!(disk.image() == before, "sector {sector}");
    }
    // Too small, and another node's.
    let mut world = local(204, &FakeDisk::new(1000));
    let session = world.connect(Who::Admin);
    assert!(state(&mut world, session).problem.unwrap().contains("smaller than 16 MiB"));
    let disk = disk_mib(17);
    let mut world = local(205, &disk);
    world.connect(Who::Admin);
    let before = disk.image();
    let mut settings = state_settings("virtio:0", 30);
    settings.manifest.state.as_mut().unwrap().key = Secret::new(vec![1; 32]);
    let mut world = World::with_disk(206, settings, &disk);
    let session = world.connect(Who::Admin);
    assert!(state(&mut world, session).problem.unwrap().contains("another node"));
    assert!(disk.image() == before);
}

#[test]
fn a_volume_that_comes_late_counts_from_then_on() {
    let mut world = World::with(207, state_settings("aoe:e9.0", 30));
    world.aoe.push(target());
    let kept = key_of(&mut world);
    world.power_cycle();
    world.aoe[0].up = false;
    // Nobody is heard for the time that was sealed, then under another key.
    let early = world.dial(Who::Admin);
    world.run(20 * SECOND);
    assert!(!matches!(world.sessions[early].stage, Stage::Open(_)));
    world.run(11 * SECOND);
    assert!(world.logged("has not come"));
    let session = world.connect(Who::Admin);
    assert_ne!(*world.node_key(session), kept);
    let facts = state(&mut world, session);
    assert_eq!((facts.condition, facts.fresh_identity), (StateCondition::Connecting, true));
    assert_eq!(facts.problem.as_deref(), Some("does not answer yet"));
    assert!(facts.only_looks());
    world.aoe[0].up = true;
    world.run(20 * SECOND);
    assert!(world.is_dead(session), "the key is another now");
    assert_eq!(key_of(&mut world), kept);
    // Where the owner wants it, nobody is heard without it.
    let mut world = World::with(208, state_settings("aoe:e9.0", 0));
    let session = world.dial(Who::Admin);
    world.run(3_600 * SECOND);
    assert!(!matches!(world.sessions[session].stage, Stage::Open(_)));
    world.aoe.push(target());
    world.run(10 * SECOND);
    world.connect(Who::Admin);
}

/// A key that was revoked is trusted again by a node that does not find its bundles: it
/// may look, as everybody may, and nothing else.
#[test]
fn until_the_volume_comes_the_node_only_shows() {
    let mut sealed = state_settings("aoe:e9.0", 30);
    sealed.manifest.owner = super::trust::root(1).verifying_key().to_bytes();
    let mut world = World::with(222, sealed);
    world.aoe.push(target());
    let (session, machine) = world.ready();
    world.done(session, &create_kept(&machine, 1));
    let granted = vec![super::trust::grant(Who::Viewer, Role::Admin)];
    let revoked = vec![Who::Admin.key().verifying_key().to_bytes()];
    let bundle = Bundle { revoked, ..super::trust::bundle(1, granted) };
    world.done(session, &super::trust::update(&bundle, &[1]));
    world.power_cycle();
    world.aoe[0].up = false;
    world.run(31 * SECOND);
    let stale = world.connect(Who::Admin);
    let read = Request::AuditRead { log: Log::Effects, from: 0 };
    for request in [Request::NodeInfo, Request::List, Request::StateShow, read] {
        world.done(stale, &request);
    }
    let wishes = [
        Request::NodeStop { power_off: true },
        Request::BlobPut { digest: [1; 32], length: 5, resume: false },
        Request::create(machine.clone()),
        Request::TrustUpdate { signed: vec![1] },
        Request::Lockdown,
        Request::JobCancel { id: 1 },
    ];
    for request in &wishes {
        let failure = world.refused(stale, request);
        assert_eq!((failure.code, failure.object.as_str()), (Code::Policy, "aoe:e9.0"), "{request:?}");
        assert!(failure.message.starts_with("the state volume does not answer yet: until"), "{failure}");
    }
    // A new dom0 knows no more.
    world.restart_dom0();
    let stale = world.connect(Who::Admin);
    assert_eq!(world.refused(stale, &wishes[2]).code, Code::Policy);
    world.aoe[0].up = true;
    world.run(20 * SECOND);
    // Now the bundle holds: the key is a stranger, and who was granted commands.
    let stale = world.dial(Who::Admin);
    world.run(SECOND);
    assert!(world.is_dead(stale));
    let admin = world.connect(Who::Viewer);
    assert!(!state(&mut world, admin).only_looks());
    assert_eq!(names(&mut world, admin), ["web"]);
    world.done(admin, &Request::Destroy { name: "web".to_string() });
    // Once it was there, a new dom0 does not wait for it.
    world.aoe[0].up = false;
    world.restart_dom0();
    let admin = world.connect(Who::Viewer);
    world.done(admin, &Request::BlobPut { digest: [1; 32], length: 5, resume: false });
    assert!(world.hypervisor.machine().resets.is_empty());
}

#[test]
fn guests_that_are_kept_start_with_the_node_in_their_order() {
    let disk = disk_mib(18);
    let mut world = local(209, &disk);
    let (session, machine) = world.ready();
    for (name, last, order) in [("late", 1, 20), ("early", 2, 10), ("never", 3, 1)] {
        world.done(session, &create_kept(&sibling(&machine, name, last), order));
    }
    world.create(session, &sibling(&machine, "plain", 4));
    world.done(session, &Request::Autostart { name: "plain".to_string(), order: Some(15) });
    world.done(session, &Request::Autostart { name: "never".to_string(), order: None });
    let off = Request::Autostart { name: "never".to_string(), order: None };
    assert_eq!(world.refused(session, &off).code, Code::NotFound);
    let nobody = Request::Autostart { name: "nobody".to_string(), order: Some(1) };
    assert_eq!(world.refused(session, &nobody).code, Code::NotFound);
    // One that is destroyed comes back: it is still to start with the node.
    world.done(session, &Request::Destroy { name: "late".to_string() });
    let kept: Vec<_> =
        state(&mut world, session).guests.into_iter().map(|guest| (guest.name, guest.order)).collect();
    let expected = [("early", 10), ("plain", 15), ("late", 20)];
    assert_eq!(kept, expected.map(|(name, order)| (name.to_string(), order)));
    for _ in 0..3 {
        world.power_cycle();
        let session = world.connect(Who::Admin);
        world.until("three guests", |world| world.hypervisor.guests().len() == 3);
        assert_eq!(names(&mut world, session), ["early", "plain", "late"]);
        let facts = world.facts(session, "early").unwrap();
        assert_eq!(facts.machine, sibling(&machine, "early", 2));
        // The next dom0 lists them and starts none twice, nor one that was destroyed.
        world.done(session, &Request::Destroy { name: "plain".to_string() });
        world.restart_dom0();
        let session = world.connect(Who::Admin);
        world.run(2 * SECOND);
        assert_eq!(names(&mut world, session), ["early", "late"]);
        assert_eq!(state(&mut world, session).guests.len(), 3);
        // And sleeps when all is done.
        let turns = world.turns;
        world.run(300 * SECOND);
        assert!(world.turns - turns < 2_000, "{} turns", world.turns - turns);
    }
}

fn start(name: &str) -> Request {
    Request::Start { name: name.to_string() }
}

#[test]
fn a_guest_that_is_kept_is_started_again() {
    let disk = disk_mib(18);
    let mut world = local(223, &disk);
    let (session, machine) = world.ready();
    world.done(session, &create_kept(&machine, 1));
    assert_eq!(world.refused(session, &start("web")).code, Code::Conflict);
    assert_eq!(world.refused(session, &start("other")).code, Code::NotFound);
    world.done(session, &Request::Destroy { name: "web".to_string() });
    assert!(names(&mut world, session).is_empty());
    let Reply::Created(domain) = world.done(session, &start("web")) else { panic!("it was started") };
    assert!(world.hypervisor.guests().contains(&domain));
    // Also after a power cut, when its kernel has to come from the volume.
    world.power_cycle();
    let session = world.connect(Who::Admin);
    world.until("the guest", |world| world.hypervisor.guests().len() == 1);
    world.done(session, &Request::Destroy { name: "web".to_string() });
    world.upload(session, &[7; 100]);
    world.done(session, &start("web"));
    assert_eq!(names(&mut world, session), ["web"]);
    // One that ended and is there: as a reboot, and `off` again if that is cancelled.
    let mut other = sibling(&machine, "other", 7);
    other.on_poweroff = Action::Preserve;
    let domain = world.create(session, &other);
    world.port_write(domain, machine::layout::SLEEP_CONTROL_PORT, 5 << 2 | 1 << 5);
    assert_eq!(world.facts(session, "other").unwrap().state, State::Off);
    world.done(session, &start("other"));
    assert_ne!(world.facts(session, "other").unwrap().state, State::Off);
    // Without a volume there is nothing to start.
    let mut world = World::new(224);
    let session = world.connect(Who::Admin);
    assert_eq!(world.refused(session, &start("web")).code, Code::NotFound);
}

#[test]
fn a_start_that_cannot_be_says_why_and_leaves_nothing() {
    let mut world = World::with(225, state_settings("aoe:e9.0", 30));
    world.aoe.push(target());
    world.aoe.push(AoeTarget::new(7, 1, 64));
    let (session, mut machine) = world.ready();
    machine.disks = vec![Disk { volume: "aoe:e7.1".to_string(), read_only: false }];
    world.done(session, &create_kept(&machine, 1));
    world.done(session, &Request::Destroy { name: "web".to_string() });
    world.run(SECOND);
    world.aoe[1].up = false;
    let failure = world.refused(session, &start("web"));
    assert_eq!(failure.code, Code::Storage, "{failure}");
    assert!(names(&mut world, session).is_empty());
    let problem = state(&mut world, session).guests.remove(0).problem.map(|why| why.message());
    assert_eq!(problem, Some(failure.message));
    // Cancelled, it is kept as before.
    world.send(session, &start("web"));
    world.run(SECOND);
    let other = world.connect(Who::Admin);
    let Reply::Jobs(page) = world.done(other, &Request::JobList) else { panic!("no jobs") };
    world.done(other, &Request::JobCancel { id: page.jobs.last().unwrap().id });
    assert_eq!(world.outcome(session).unwrap_err().message, "was cancelled");
    assert!(names(&mut world, other).is_empty());
    world.aoe[1].up = true;
    world.done(other, &start("web"));
    assert!(state(&mut world, other).guests[0].problem.is_none());
}

#[test]
fn what_is_kept_of_a_guest_follows_its_disks() {
    let mut world = World::with(226, state_settings("aoe:e9.0", 30));
    world.aoe.push(target());
    world.aoe.push(AoeTarget::new(7, 1, 64));
    world.aoe.push(AoeTarget::new(7, 2, 64));
    let (session, machine) = world.ready();
    let named = |volume: &str| Disk { volume: volume.to_string(), read_only: false };
    let name = || "web".to_string();
    world.done(session, &create_kept(&Machine { disks: vec![named("aoe:e7.1")], ..machine }, 1));
    let attach = Request::BlockAttach {
        name: name(),
        disk: named("aoe:e7.2"),
        settings: vec![DiskSetting::DeadlineMs(5_000)],
    };
    let limits = vec![Limit::BytesPerSecond(1 << 20)];
    let Reply::Attached(slot) = world.done(session, &attach) else { panic!("no slot") };
    world.done(session, &Request::Limit { name: name(), slot: Some(slot), limits: limits.clone() });
    world.done(session, &Request::Limit { name: name(), slot: None, limits: limits.clone() });
    let of = |world: &mut World| {
        world.power_cycle();
        let session = world.connect(Who::Admin);
        world.until("the guest", |world| world.hypervisor.guests().len() == 1);
        let guest = &world.node.guests.list[0];
        let volumes: Vec<_> = guest.machine.disks.iter().map(|disk| disk.volume.clone()).collect();
        (session, volumes, guest.settings.clone())
    };
    let (session, volumes, settings) = of(&mut world);
    assert_eq!(volumes, ["aoe:e7.1", "aoe:e7.2"]);
    assert_eq!(settings.limits, limits);
    assert_eq!(settings.disks[1], [DiskSetting::DeadlineMs(5_000), DiskSetting::Limit(limits[0])]);
    // By force, at once; and what was asked of a guest that is destroyed.
    let Reply::Disks(disks) = world.done(session, &Request::BlockList { name: name() }) else { panic!() };
    let detach = |slot: u32, force| Request::BlockDetach { name: name(), slot, force };
    world.done(session, &detach(disks[0].slot, true));
    let (session, volumes, _) = of(&mut world);
    assert_eq!(volumes, ["aoe:e7.2"]);
    let Reply::Disks(disks) = world.done(session, &Request::BlockList { name: name() }) else { panic!() };
    world.send(session, &detach(disks[0].slot, false));
    world.run(SECOND);
    assert!(world.sessions[session].outcomes.is_empty());
    let other = world.connect(Who::Admin);
    world.done(other, &Request::Destroy { name: name() });
    assert_eq!(world.outcome(session), Ok(Reply::Done));
    let (_, volumes, _) = of(&mut world);
    assert!(volumes.is_empty());
}

#[test]
fn a_step_that_is_not_kept_holds_and_says_so() {
    let disk = disk_mib(18);
    let mut world = local(227, &disk);
    world.aoe.push(AoeTarget::new(7, 2, 64));
    let (session, machine) = world.ready();
    world.done(session, &create_kept(&machine, 1));
    disk.disk().broken = true;
    let limits = vec![Limit::BytesPerSecond(1 << 20)];
    let limit = Request::Limit { name: "web".to_string(), slot: None, limits: limits.clone() };
    let failure = world.refused(session, &limit);
    assert_eq!(failure.code, Code::Storage);
    assert!(failure.message.contains("holds now, and is not kept"), "{failure}");
    assert_eq!(world.node.guests.list[0].settings.limits, limits);
    let attach = Request::BlockAttach {
        name: "web".to_string(),
        disk: Disk { volume: "aoe:e7.2".to_string(), read_only: false },
        settings: Vec::new(),
    };
    let failure = world.refused(session, &attach);
    assert!(failure.message.contains("holds now, and is not kept"), "{failure}");
    assert_eq!(world.node.guests.list[0].machine.disks.len(), 1);
}

#[test]
fn a_guest_waits_for_its_disks_and_holds_others_back_for_a_while_only() {
    let disk = disk_mib(18);
    let mut world = local(210, &disk);
    world.aoe.push(AoeTarget::new(11, 1, 64));
    let (session, machine) = world.ready();
    let mut first = sibling(&machine, "first", 1);
    first.disks = vec![Disk { volume: "aoe:e11.1".to_string(), read_only: false }];
    world.done(session, &create_kept(&first, 1));
    world.done(session, &create_kept(&sibling(&machine, "second", 2), 2));
    world.power_cycle();
    world.aoe[0].up = false;
    world.run(20 * SECOND);
    assert_eq!(world.hypervisor.guests().len(), 0, "the second waits for the first");
    world.run(15 * SECOND);
    let session = world.connect(Who::Admin);
    assert_eq!(world.facts(session, "second").unwrap().state, State::Running);
    assert_eq!(world.facts(session, "first").unwrap().state, State::Connecting);
    world.run(3_600 * SECOND);
    world.aoe[0].up = true;
    world.run(10 * SECOND);
    let session = world.connect(Who::Admin);
    assert_eq!(world.facts(session, "first").unwrap().state, State::Running);
}

#[test]
fn kernels_find_room_or_the_guest_is_refused_by_name() {
    let disk = disk_mib(17);
    let mut world = local(211, &disk);
    let (session, machine) = world.ready();
    let large = vec![0x5a; 900 * 1024];
    let digest = world.upload(session, &large);
    let mut first = sibling(&machine, "first", 1);
    first.ramdisk = Some(digest);
    world.done(session, &create_kept(&first, 1));
    let more = world.upload(session, &vec![0xa5; 900 * 1024]);
    let mut second = sibling(&machine, "second", 2);
    second.ramdisk = Some(more);
    let failure = world.refused(session, &create_kept(&second, 1));
    assert_eq!((failure.code, failure.object.as_str()), (Code::Capacity, "second"));
    assert!(failure.message.contains("which the state volume does not have"), "{failure}");
    assert_eq!(names(&mut world, session), ["first"], "nothing was created");
    // The room of what is forgotten is used again.
    world.done(session, &Request::Autostart { name: "first".to_string(), order: None });
    world.done(session, &create_kept(&second, 1));
    world.power_cycle();
    let session = world.connect(Who::Admin);
    world.until("the second", |world| world.hypervisor.guests().len() == 1);
    assert_eq!(names(&mut world, session), ["second"]);
    // Damage is found by the digest: the guest does not start, and the node says why.
    let [used, room] = state(&mut world, session).kernel_bytes;
    assert!(used > 900 * 1024 && room == MIB);
    for sector in disk.used().into_iter().filter(|sector| *sector >= 4096 * 8) {
        disk.alter(sector, 100, 1);
    }
    world.power_cycle();
    let session = world.connect(Who::Admin);
    world.run(SECOND);
    assert_eq!(world.facts(session, "second").unwrap().state, State::Crashed);
    let facts = state(&mut world, session);
    assert!(facts.guests[0].problem.is_some());
    assert!(world.logged("FilesDamaged"));
}

#[test]
fn secrets_are_kept_and_nobody_reads_them_from_the_volume() {
    let disk = disk_mib(17);
    let mut world = local(212, &disk);
    let (session, mut machine) = world.ready();
    machine.disks = vec![Disk {
        volume: "iscsi://u@10.0.0.3/iqn.2026-01.org.example:disk/0".to_string(),
        read_only: false,
    }];
    let secret = DiskSetting::Secret(Secret::new(b"open sesame 1".to_vec()));
    let settings = GuestSettings { limits: Vec::new(), disks: vec![vec![secret.clone()]] };
    world.iscsi = Some(super::targets::IscsiTarget::new(64));
    world.done(session, &Request::Create { machine, settings, paused: false, autostart: Some(1) });
    let identity = world.node.keys.identity.key.to_bytes();
    for wanted in [&b"open sesame"[..], &identity, b"console=hvc0", b"10.0.0.3"] {
        assert!(!disk.holds(wanted), "in the clear: {:?}", String::from_utf8_lossy(wanted));
    }
    world.power_cycle();
    let session = world.connect(Who::Admin);
    world.until("the guest", |world| world.hypervisor.guests().len() == 1);
    assert_eq!(world.node.guests.list[0].settings.disks, [[secret]]);
    assert!(!world.hypervisor.machine().log.iter().any(|line| line.contains("sesame")));
    // Nor from an export.
    let file = export(&mut world, session);
    assert!(!file.windows(6).any(|part| part == b"sesame"));
}

/// The exported configuration.
fn export(world: &mut World, session: usize) -> Vec<u8> {
    let mut file = Vec::new();
    loop {
        let request = Request::ConfigExport { from: file.len() as u64 };
        let Reply::Stream(stream) = world.done(session, &request) else { panic!("no file") };
        if stream.bytes.is_empty() {
            return file;
        }
        file.extend(stream.bytes);
    }
}

#[test]
fn a_configuration_goes_out_and_comes_back() {
    let mut world = local(213, &disk_mib(18));
    let (session, machine) = world.ready();
    let mut with_disk = sibling(&machine, "db", 1);
    with_disk.disks = vec![Disk {
        volume: "iscsi://u@10.0.0.3/iqn.2026-01.org.example:disk/0".to_string(),
        read_only: false,
    }];
    let secret = DiskSetting::Secret(Secret::new(b"open sesame 1".to_vec()));
    let settings = GuestSettings { limits: Vec::new(), disks: vec![vec![secret.clone()]] };
    world.iscsi = Some(super::targets::IscsiTarget::new(64));
    world.done(session, &Request::Create { machine: with_disk, settings, paused: false, autostart: Some(7) });
    for number in 0..40_u8 {
        let guest = sibling(&machine, &alloc::format!("g{number:02}"), 10 + number);
        world.done(session, &create_kept(&guest, 9));
        world.done(session, &Request::Destroy { name: alloc::format!("g{number:02}") });
    }
    let file = export(&mut world, session);
    let (config, key) = Config::open(&file).unwrap();
    assert_eq!((key, config.guests.len()), (*world.node_key(session), 41));
    assert_eq!(config.guests[0].secrets_left_out, [0]);
    // The same node again: the secret that it has stays.
    let digest = world.upload(session, &file);
    let Reply::Imported(imported) = world.done(session, &Request::ConfigImport { digest }) else {
        panic!("nothing was imported")
    };
    assert!(imported.guests.len() == 41 && imported.guests.iter().all(|(_, lacks)| lacks.is_none()));
    assert_eq!(world.node.state_facts().guests.len(), 41);
    assert!(Config::open(&export(&mut world, session)).unwrap().0 == config);
    world.power_cycle();
    let session = world.connect(Who::Admin);
    world.until("the guest", |world| !world.node.guests.list.is_empty());
    assert!(Config::open(&export(&mut world, session)).unwrap().0 == config);
    // Another one: it says what is lacking.
    let mut other = local(214, &disk_mib(18));
    let session = other.connect(Who::Admin);
    let digest = other.upload(session, &file);
    let operator = other.connect(Who::Operator);
    assert_eq!(other.refused(operator, &Request::ConfigImport { digest }).code, Code::Refused);
    let Reply::Imported(imported) = other.done(session, &Request::ConfigImport { digest }) else {
        panic!("nothing was imported")
    };
    let lacks: BTreeMap<_, _> = imported.guests.into_iter().collect();
    assert_eq!(lacks["db"], Some(mgmt_proto::reason::Reason::FilesMissing));
    other.upload(session, &kernel());
    let facts = state(&mut other, session);
    assert_eq!(facts.guests[0].problem, Some(mgmt_proto::reason::Reason::SecretMissing { disk: 0 }));
    assert!(Config::open(&export(&mut other, session)).unwrap().0 == config);
    // An altered file is not taken.
    let mut altered = file.clone();
    *altered.last_mut().unwrap() ^= 1;
    let digest = other.upload(session, &altered);
    assert_eq!(other.refused(session, &Request::ConfigImport { digest }).code, Code::Integrity);
}

/// The whole audit log, verified from the oldest that is there.
pub(super) fn audit_log(world: &mut World, session: usize) -> Vec<audit::Entry> {
    let node = *world.node_key(session);
    let mut entries: Vec<audit::Entry> = Vec::new();
    loop {
        let from = entries.last().map_or(0, |entry| entry.sequence + 1);
        let read = Request::AuditRead { log: Log::Effects, from };
        let Reply::Audit(page) = world.done(session, &read) else { panic!("no log") };
        if page.entries.is_empty() {
            let last = audit::verify(&entries).unwrap();
            let length = entries.last().map_or(0, |entry| entry.sequence + 1);
            page.head.verify(&node, Log::Effects, length, &last).unwrap();
            return entries;
        }
        entries.extend(page.entries);
    }
}

/// Does something that is recorded, so many times.
fn recorded(world: &mut World, session: usize, count: usize) {
    for _ in 0..count {
        world.done(session, &Request::BlobPut { digest: [1; 32], length: 1, resume: false });
    }
}

#[test]
fn the_audit_log_goes_on_after_a_power_cut_and_its_end_is_kept() {
    let disk = disk_mib(17);
    let mut world = local(215, &disk);
    let session = world.connect(Who::Admin);
    recorded(&mut world, session, 70);
    world.run(SECOND);
    let before = audit_log(&mut world, session);
    assert_eq!(before.len(), 70);
    world.power_cycle();
    let session = world.connect(Who::Admin);
    assert_eq!(audit_log(&mut world, session), before);
    recorded(&mut world, session, 1);
    world.run(SECOND);
    let after = audit_log(&mut world, session);
    assert_eq!((after.len(), &after[..70]), (71, &before[..]));
    assert_eq!(state(&mut world, session).audit_entries, 71);
    world.restart_dom0();
    let session = world.connect(Who::Admin);
    assert_eq!(audit_log(&mut world, session), after);
    // A tail of it is enough, and it says where it begins.
    recorded(&mut world, session, 1_000);
    world.run(SECOND);
    world.power_cycle();
    let session = world.connect(Who::Admin);
    let tail = audit_log(&mut world, session);
    assert_eq!((tail.len(), tail[0].sequence, tail[1023].sequence), (1024, 47, 1070));
}

/// What cannot become durable is not overwritten: then nothing more is done.
#[test]
fn changes_wait_for_room_in_the_log() {
    let disk = disk_mib(17);
    let mut world = local(216, &disk);
    let session = world.connect(Who::Admin);
    recorded(&mut world, session, 1);
    world.run(SECOND);
    disk.disk().stalled = true;
    let (put, mut done) = (Request::BlobPut { digest: [1; 32], length: 1, resume: false }, 0);
    let failure = loop {
        match world.ask(session, &put) {
            Ok(_) => done += 1,
            Err(failure) => break failure,
        }
        assert!(done <= 4096, "entries that nobody kept are gone");
    };
    assert!(failure.code == Code::Capacity && failure.message.contains("audit entries wait"), "{failure}");
    assert!((4000..4096).contains(&done), "{done}");
    // What only looks is answered, and none of the entries is gone.
    let page = world.done(session, &Request::AuditRead { log: Log::Effects, from: 0 });
    assert!(matches!(page, Reply::Audit(page) if page.oldest == 0));
}

#[test]
fn what_was_recorded_before_the_volume_came_follows_what_was_kept() {
    let mut world = World::with(216, state_settings("aoe:e9.0", 5));
    world.aoe.push(target());
    let probe =
        |slot: u8| Request::StorageProbe { volume: alloc::format!("aoe:e9.{slot}"), settings: vec![] };
    let session = world.connect(Who::Admin);
    let _ = world.ask(session, &probe(1));
    world.run(SECOND);
    world.power_cycle();
    world.aoe[0].up = false;
    world.run(6 * SECOND);
    // What is done without it would be: but then nothing is that is recorded as an effect.
    let session = world.connect(Who::Admin);
    assert_eq!(world.refused(session, &probe(2)).code, Code::Policy);
    world.aoe[0].up = true;
    world.run(20 * SECOND);
    let session = world.connect(Who::Admin);
    let _ = world.ask(session, &probe(3));
    world.run(SECOND);
    let objects: Vec<_> = audit_log(&mut world, session).into_iter().map(|entry| entry.object).collect();
    assert_eq!(objects, ["aoe:e9.1", "aoe:e9.3"]);
}

#[test]
fn a_volume_that_is_lost_is_said_and_one_that_stalls_is_waited_for() {
    let disk = disk_mib(18);
    let mut world = local(217, &disk);
    let (session, machine) = world.ready();
    disk.disk().stalled = true;
    let failure = world.refused(session, &create_kept(&machine, 1));
    assert_eq!(failure.code, Code::Deadline);
    assert_eq!(names(&mut world, session), ["web"], "it runs all the same");
    let disk = disk_mib(18);
    let mut world = local(218, &disk);
    let (session, machine) = world.ready();
    disk.disk().broken = true;
    let failure = world.refused(session, &create_kept(&machine, 1));
    assert_eq!(failure.code, Code::Storage);
    assert!(world.logged("was lost"));
    assert_eq!(state(&mut world, session).condition, StateCondition::Failed);
    assert_eq!(world.refused(session, &create_kept(&sibling(&machine, "b", 2), 1)).code, Code::Storage);
}

#[test]
fn a_volume_that_fails_while_it_is_opened_is_tried_again() {
    let disk = disk_mib(17);
    disk.disk().broken = true;
    let mut world = local(221, &disk);
    let turns = world.turns;
    world.run(12 * SECOND);
    assert!(world.turns - turns < 100);
    disk.disk().broken = false;
    let session = world.connect(Who::Admin);
    assert_eq!(state(&mut world, session).condition, StateCondition::Kept);
}

#[test]
fn the_state_volume_is_no_guests_disk() {
    let mut world = World::with(219, state_settings("aoe:e9.0", 30));
    world.aoe.push(target());
    let (session, mut machine) = world.ready();
    machine.disks = vec![Disk { volume: "aoe:e9.0".to_string(), read_only: true }];
    let failure = world.refused(session, &Request::create(machine));
    assert!(failure.code == Code::Conflict && failure.message.contains("own state volume"));
}
