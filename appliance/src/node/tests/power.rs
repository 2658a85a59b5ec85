//! Power cuts: whole nodes whose disk loses, tears and garbles what was not flushed.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use mgmt_proto::audit::Log;
use mgmt_proto::bundle::{Bundle, Grant};
use mgmt_proto::code::Code;
use mgmt_proto::disk::Limit;
use mgmt_proto::node_key::leads;
use mgmt_proto::state::StateCondition;
use mgmt_proto::trust::Role;
use mgmt_proto::verb::{Outcome, Reply, Request};

use super::fake_disk::{FakeDisk, disk_mib};
use super::state::{audit_log, create_kept, state, state_settings};
use super::trust::{self, bundle, grant, root};
use super::world::*;
use machine::test_random::TestRandom;

pub(super) fn update(serial: u64) -> Request {
    let admin = Grant { name: format!("serial-{serial}"), ..grant(Who::Admin, Role::Admin) };
    let revoked = vec![Who::Operator.key().verifying_key().to_bytes()];
    trust::update(&Bundle { revoked, ..bundle(serial, vec![admin]) }, &[1])
}

fn settings_with_root() -> crate::settings::Settings {
    let mut settings = state_settings("virtio:0", 30);
    settings.manifest.owner = root(1).verifying_key().to_bytes();
    settings
}

/// What one guest is limited to at last.
const LIMIT: Limit = Limit::OperationsPerSecond(300);

/// What was confirmed to an operator, and what was asked for and may be there.
#[derive(Clone, Default)]
struct Told {
    key: Option<[u8; 32]>,
    serial: u64,
    asked_serial: u64,
    /// Guests that were confirmed: their orders. None was confirmed to be gone.
    guests: BTreeMap<String, Option<u32>>,
    /// Whether guest two was told to have limits, and whether it may have.
    limited: [bool; 2],
    /// Whether the node was told to get another key, and whether it may have one.
    rotated: [bool; 2],
    /// What was asked of a guest and not confirmed.
    asked: Option<(String, Option<u32>)>,
    audit: u64,
}

/// A request whose outcome may never come: the power goes.
fn try_ask(world: &mut World, disk: &FakeDisk, session: usize, request: &Request) -> Option<Outcome> {
    world.send(session, request);
    for _ in 0..20_000 {
        if let Some(outcome) = world.sessions[session].outcomes.pop_front() {
            return Some(outcome);
        }
        if disk.disk().off {
            return None;
        }
        let until_ns = world.now_ns + SECOND;
        world.step(until_ns);
    }
    panic!("neither an answer nor a cut");
}

/// A request, what it asks of a guest, the serial it brings.
type Step<'a> = (Request, Option<(&'a str, Option<u32>)>, u64);

/// Commands of a few operators until the power goes; false when it did not.
fn work(world: &mut World, disk: &FakeDisk, told: &mut Told, kernel: [u8; 32], session: usize) -> bool {
    told.key = Some(*world.node_key(session));
    let guest = |name: &str, last| sibling(&machine("", kernel), name, last);
    let steps: Vec<Step<'_>> = vec![
        (create_kept(&guest("one", 1), 1), Some(("one", Some(1))), 0),
        (update(told.serial + 1), None, told.serial + 1),
        (create_kept(&guest("two", 2), 5), Some(("two", Some(5))), 0),
        (Request::Autostart { name: "one".to_string(), order: Some(9) }, Some(("one", Some(9))), 0),
        (update(told.serial + 2), None, told.serial + 2),
        (Request::Autostart { name: "two".to_string(), order: None }, Some(("two", None)), 0),
        (Request::Autostart { name: "two".to_string(), order: Some(2) }, Some(("two", Some(2))), 0),
        (Request::Limit { name: "two".to_string(), slot: None, limits: vec![LIMIT] }, None, 0),
        (Request::NodeKeyRotate, None, 0),
        (Request::Destroy { name: "one".to_string() }, None, 0),
        (Request::Start { name: "one".to_string() }, None, 0),
    ];
    for (request, asked, serial) in steps {
        told.asked = asked.map(|(name, order)| (name.to_string(), order));
        told.asked_serial = told.asked_serial.max(serial);
        let limits = matches!(request, Request::Limit { .. });
        told.limited[1] |= limits;
        told.rotated[1] |= request == Request::NodeKeyRotate;
        match try_ask(world, disk, session, &request) {
            None => return true,
            Some(outcome) => {
                outcome.unwrap_or_else(|failure| panic!("{failure}"));
            }
        }
        if let Some((name, order)) = told.asked.take() {
            told.guests.insert(name, order);
        }
        told.serial = told.serial.max(serial);
        told.limited[0] |= limits;
        told.rotated[0] |= request == Request::NodeKeyRotate;
        if let Some(Ok(Reply::Audit(page))) =
            try_ask(world, disk, session, &Request::AuditRead { log: Log::Effects, from: u64::MAX })
        {
            told.audit = page.head.length;
        }
    }
    disk.disk().off
}

/// After a cut: everything that was confirmed is there, nothing is half there.
fn check(world: &mut World, told: &Told, context: &str) {
    let session = world.connect(Who::Admin);
    let facts = state(world, session);
    if told.key.is_none() && facts.condition == StateCondition::Failed {
        // The power went while it was formatted: nothing was confirmed.
        return;
    }
    assert_eq!(facts.condition, StateCondition::Kept, "{context}: {:?}", facts.problem);
    if let Some(key) = told.key {
        // The old one leads to the one it has, which is another only if that was asked for.
        let Reply::NodeKeys(links) = world.done(session, &Request::NodeKeys) else { panic!("no keys") };
        let now = *world.node_key(session);
        assert!(leads(&links, &key, &now), "{context}");
        assert!((told.rotated[0]..=told.rotated[1]).contains(&(now != key)), "{context}");
    }
    assert!(
        (told.serial..=told.asked_serial).contains(&facts.trust_serial),
        "{context}: {}",
        facts.trust_serial
    );
    let found: BTreeMap<String, u32> =
        facts.guests.iter().map(|guest| (guest.name.clone(), guest.order)).collect();
    for name in ["one", "two"] {
        let confirmed = told.guests.get(name).copied().flatten();
        let there = found.get(name).copied();
        let asked = told.asked.as_ref().filter(|(asked, _)| asked == name).map(|(_, order)| *order);
        assert!(there == confirmed || Some(there) == asked, "{context}: {name} {there:?}");
    }
    assert!(facts.guests.iter().all(|guest| guest.problem.is_none()), "{context}: {:?}", facts.guests);
    // They start, with their kernels whole.
    let count = found.len();
    world.until("the guests", |world| world.hypervisor.guests().len() == count);
    if let Some(two) = world.node.guests.list.iter().find(|guest| guest.machine.name == "two") {
        let limited = two.settings.limits == [LIMIT];
        assert!((told.limited[0]..=told.limited[1]).contains(&limited), "{context}: {limited}");
    }
    world.run(SECOND);
    let log = audit_log(world, session);
    let length = log.last().map_or(0, |entry| entry.sequence + 1);
    assert!(length >= told.audit, "{context}: {length} audit entries, {} were shown", told.audit);
}

fn run(seed: u64, cut_at: Option<usize>, garbage: bool, blank: &FakeDisk) -> (usize, bool) {
    let mut random = TestRandom(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let disk = blank.copy();
    disk.disk().cut_at = cut_at;
    let context = format!("seed {seed} cut at {cut_at:?} garbage {garbage}");
    let mut world = World::with_disk(seed, settings_with_root(), &disk);
    let mut told = Told::default();
    let session = world.dial(Who::Admin);
    let mut cut = false;
    for _ in 0..20_000 {
        cut = disk.disk().off;
        if cut || matches!(world.sessions[session].stage, Stage::Open(_)) {
            break;
        }
        let until_ns = world.now_ns + SECOND;
        world.step(until_ns);
    }
    if !cut {
        let file = kernel();
        let digest = world.upload(session, &file);
        cut = work(&mut world, &disk, &mut told, digest, session);
    }
    let writes = disk.disk().writes;
    disk.cut(&mut random, garbage);
    world.power_cycle();
    check(&mut world, &told, &context);
    // And a second cut soon after the first.
    let more = 1 + to_usize(random.below(6));
    let before = disk.disk().writes;
    disk.disk().cut_at = Some(before + more);
    let session = world.connect(Who::Admin);
    if told.key.is_some() && told.guests.contains_key("one") {
        told.serial = state(&mut world, session).trust_serial;
        told.asked_serial = told.serial + 1;
        if try_ask(&mut world, &disk, session, &update(told.serial + 1)).is_some() {
            told.serial += 1;
        }
        told.asked = Some(("one".to_string(), Some(4)));
        let again = Request::Autostart { name: "one".to_string(), order: Some(4) };
        if !disk.disk().off && try_ask(&mut world, &disk, session, &again).is_some_and(|it| it.is_ok()) {
            told.asked = None;
            told.guests.insert("one".to_string(), Some(4));
        }
    }
    disk.cut(&mut random, garbage);
    world.power_cycle();
    let session = world.connect(Who::Admin);
    let facts = state(&mut world, session);
    assert!(facts.trust_serial >= told.serial, "{context}");
    if told.asked.is_none() && told.guests.get("one") == Some(&Some(4)) {
        assert!(facts.guests.iter().any(|guest| guest.name == "one" && guest.order == 4), "{context}");
    }
    (writes, cut)
}

#[test]
fn at_every_write_of_a_nodes_first_hours_a_cut_loses_nothing() {
    let blank = disk_mib(17);
    let (writes, cut) = run(300, None, false, &blank);
    assert!(!cut && writes > 12, "{writes}");
    for at in 1..=writes {
        run(301 + at as u64, Some(at), at % 2 == 0, &blank);
    }
}

#[test]
fn the_trust_bundle_is_kept_before_it_is_acknowledged_and_never_goes_back() {
    let disk = disk_mib(17);
    let mut world = World::with_disk(400, settings_with_root(), &disk);
    let session = world.connect(Who::Admin);
    world.done(session, &update(3));
    world.power_cycle();
    let session = world.connect(Who::Admin);
    let Reply::Trust(holds) = world.done(session, &Request::TrustShow) else { panic!("no bundle") };
    assert_eq!(holds.serial, 3);
    let operator = world.dial(Who::Operator);
    world.run(6 * SECOND);
    assert!(world.is_dead(operator), "whom it revoked is a stranger still");
    assert_eq!(world.refused(session, &update(3)).code, Code::Conflict);
    // One that comes to a new dom0 while the volume does not answer holds, is not
    // acknowledged, and is kept when it does.
    let disk = disk_mib(17);
    let mut settings = settings_with_root();
    settings.manifest.state.as_mut().unwrap().volume = "aoe:e9.0".to_string();
    settings.manifest.state.as_mut().unwrap().wait_s = 5;
    let mut world = World::with(401, settings);
    world.aoe.push(super::targets::AoeTarget::new(9, 0, 17 << 11));
    world.connect(Who::Admin);
    world.aoe[0].up = false;
    world.restart_dom0();
    let session = world.connect(Who::Admin);
    let failure = world.refused(session, &update(7));
    assert_eq!(failure.code, Code::Storage);
    assert!(failure.message.contains("bundle 7 holds, and is not kept"), "{failure}");
    world.aoe[0].up = true;
    world.run(20 * SECOND);
    let session = world.connect(Who::Admin);
    assert_eq!(state(&mut world, session).kept_trust_serial, 7);
    world.power_cycle();
    let session = world.connect(Who::Admin);
    assert_eq!(state(&mut world, session).trust_serial, 7);
    // A volume whose bundle is older than what a dom0 remembers gets the newer one.
    drop(disk);
    let old = world.aoe[0].disk.clone();
    world.done(session, &update(8));
    world.aoe[0].disk = old;
    world.restart_dom0();
    world.run(5 * SECOND);
    let session = world.connect(Who::Admin);
    let facts = state(&mut world, session);
    assert_eq!((facts.trust_serial, facts.kept_trust_serial), (8, 8));
}

#[test]
fn a_lockdown_outlives_a_power_cut() {
    let mut settings = settings_with_root();
    settings.manifest.state.as_mut().unwrap().volume = "aoe:e9.0".to_string();
    settings.manifest.state.as_mut().unwrap().wait_s = 5;
    let mut world = World::with(402, settings);
    world.aoe.push(super::targets::AoeTarget::new(9, 0, 17 << 11));
    let session = world.connect(Who::Admin);
    world.done(session, &update(3));
    world.done(session, &Request::Lockdown);
    let pause = Request::Pause { name: "nobody".to_string() };
    for _ in 0..2 {
        world.power_cycle();
        let session = world.connect(Who::Admin);
        assert_eq!(world.refused(session, &pause).code, Code::Policy);
    }
    // One that is asked for while the volume is away holds under the bundle on it, if the
    // node has been told since power-on whom to trust.
    let session = world.connect(Who::Admin);
    world.done(session, &update(4));
    assert_eq!(world.refused(session, &pause).code, Code::NotFound);
    world.power_cycle();
    world.aoe[0].up = false;
    world.run(6 * SECOND);
    let session = world.connect(Who::Admin);
    assert_eq!(world.refused(session, &Request::Lockdown).code, Code::Policy);
    world.aoe[0].up = true;
    world.run(20 * SECOND);
    let session = world.connect(Who::Admin);
    assert_eq!(world.refused(session, &pause).code, Code::NotFound);
    world.aoe[0].up = false;
    world.restart_dom0();
    let session = world.connect(Who::Admin);
    assert_eq!(world.refused(session, &Request::Lockdown).code, Code::Storage);
    world.aoe[0].up = true;
    world.run(20 * SECOND);
    for _ in 0..2 {
        let session = world.connect(Who::Admin);
        assert_eq!(state(&mut world, session).trust_serial, 4);
        assert_eq!(world.refused(session, &pause).code, Code::Policy);
        world.run(SECOND);
        world.power_cycle();
    }
}

#[test]
fn altered_volumes_never_stop_a_node_and_are_never_believed() {
    let disk = disk_mib(17);
    let mut world = World::with_disk(500, settings_with_root(), &disk);
    let session = world.connect(Who::Admin);
    let digest = world.upload(session, &kernel());
    world.done(session, &create_kept(&machine("web", digest), 1));
    world.done(session, &update(2));
    world.run(SECOND);
    let key = *world.node_key(session);
    let used = disk.used();
    let mut random = TestRandom(0x1234_5677);
    for round in 0..60_u64 {
        let altered = disk.copy();
        for _ in 0..=random.below(3) {
            let sector = used[to_usize(random.below(used.len() as u64))];
            altered.alter(sector, to_usize(random.below(512)), random.byte() | 1);
        }
        let mut world = World::with_disk(501 + round, settings_with_root(), &altered);
        let session = world.connect(Who::Admin);
        world.run(SECOND);
        let facts = state(&mut world, session);
        if facts.condition == StateCondition::Kept {
            assert_eq!(*world.node_key(session), key, "round {round}");
        }
        for guest in world.hypervisor.guests() {
            assert_eq!(world.hypervisor.domain(guest).spec.memory_bytes, 32 * MIB, "round {round}");
        }
    }
}
