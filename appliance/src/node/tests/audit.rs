//! What operators did is kept, and can be checked.

use alloc::string::ToString;
use alloc::vec::Vec;

use mgmt_proto::audit::{self, Entry, Log, OTHERS, Page, Result};
use mgmt_proto::code::Code;
use mgmt_proto::verb::{Discover, Reply, Request};

use super::world::*;
use crate::limits::{REFUSAL_BURST, REFUSAL_KINDS, REFUSAL_WINDOW_NS};

fn page(world: &mut World, session: usize, log: Log, from: u64) -> Page {
    let request = match log {
        Log::Effects => Request::AuditRead { log: Log::Effects, from },
        Log::Refusals => Request::AuditRead { log: Log::Refusals, from },
    };
    let Reply::Audit(page) = world.done(session, &request) else { panic!("no audit") };
    page
}

/// One of the logs, whole and believed.
fn read(world: &mut World, session: usize, log: Log) -> Vec<Entry> {
    let node = *world.node_key(session);
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let page = page(world, session, log, entries.len() as u64);
        assert_eq!(page.oldest, 0);
        if page.entries.is_empty() {
            let last = audit::verify(&entries).unwrap();
            page.head.verify(&node, log, entries.len() as u64, &last).unwrap();
            return entries;
        }
        entries.extend(page.entries);
    }
}

fn whole(world: &mut World, session: usize) -> Vec<Entry> {
    read(world, session, Log::Effects)
}

fn told(entries: &[Entry]) -> Vec<(&str, &str, Result, u32)> {
    let told = |entry: &'_ Entry| entry.verb != "blob put";
    let entries = entries.iter().filter(|entry| told(entry));
    entries.map(|entry| (entry.verb.as_str(), entry.object.as_str(), entry.result, entry.count)).collect()
}

fn pause(name: &str) -> Request {
    Request::Pause { name: name.to_string() }
}

#[test]
fn what_was_done_is_recorded_and_what_was_looked_at_is_not() {
    let mut world = World::new(61);
    let (session, machine) = world.ready();
    world.create(session, &sibling(&machine, "web", 1));
    world.done(session, &pause("web"));
    world.refused(session, &pause("nobody"));
    world.done(session, &Request::List);
    world.done(session, &Request::NodeInfo);
    let viewer = world.connect(Who::Viewer);
    assert_eq!(world.refused(viewer, &pause("web")).code, Code::Refused);
    let effects = whole(&mut world, viewer);
    assert_eq!(told(&effects), [("create", "web", Result::Accepted, 1), ("pause", "web", Result::Done, 1)]);
    let refused = read(&mut world, viewer, Log::Refusals);
    assert_eq!(
        told(&refused),
        [
            ("pause", "nobody", Result::Failed(Code::NotFound), 1),
            ("pause", "web", Result::Failed(Code::Refused), 1)
        ]
    );
    let key = |who: Who| who.key().verifying_key().to_bytes();
    let by: Vec<_> = refused.iter().map(|entry| entry.operator).collect();
    assert_eq!(by, [key(Who::Admin), key(Who::Viewer)]);
}

#[test]
fn the_log_outlives_dom0_and_a_console_fills_it_once() {
    let mut world = World::new(62);
    let (session, machine) = world.ready();
    world.create(session, &sibling(&machine, "web", 1));
    for _ in 0..5 {
        let typed = Request::ConsoleWrite { name: "web".to_string(), bytes: b"secret".to_vec() };
        let _ = world.ask(session, &typed);
    }
    let before = whole(&mut world, session);
    assert_eq!(before.iter().filter(|entry| entry.verb == "console write").count(), 1);
    let node = *world.node_key(session);
    world.restart_dom0();
    let session = world.connect(Who::Admin);
    assert_eq!(*world.node_key(session), node, "it is still the same node");
    assert_eq!(whole(&mut world, session), before);
    world.done(session, &Request::Destroy { name: "web".to_string() });
    let after = whole(&mut world, session);
    assert_eq!(after[..before.len()], before);
    assert_eq!(after.last().unwrap().verb, "destroy");
}

#[test]
fn a_name_too_long_to_be_one_hides_nothing() {
    let mut world = World::new(64);
    let viewer = world.connect(Who::Viewer);
    assert_eq!(world.refused(viewer, &pause(&"\u{e9}".repeat(5000))).code, Code::Refused);
    let entries = read(&mut world, viewer, Log::Refusals);
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].object.len(), entries[0].result), (62, Result::Failed(Code::Refused)));
}

#[test]
fn an_old_log_loses_its_beginning_and_says_so() {
    let mut world = World::new(63);
    let (session, machine) = world.ready();
    world.create(session, &sibling(&machine, "web", 1));
    let name = || "web".to_string();
    for _ in 0..2100 {
        world.done(session, &Request::Pause { name: name() });
        world.done(session, &Request::Unpause { name: name() });
    }
    let page = page(&mut world, session, Log::Effects, 0);
    assert!(page.oldest > 0 && page.entries[0].sequence == page.oldest, "{}", page.oldest);
    assert!(audit::verify(&page.entries).is_ok());
    assert!(page.head.length > 4096);
}

#[test]
fn failing_commands_push_out_no_effect() {
    let mut world = World::new(65);
    let (session, machine) = world.ready();
    world.create(session, &sibling(&machine, "web", 1));
    world.done(session, &pause("web"));
    let before = whole(&mut world, session);
    // One who fails at one thing, and viewers' keys that try everything.
    let operator = world.connect(Who::Operator);
    let unpause = |name: &str| Request::Unpause { name: name.to_string() };
    for _ in 0..8000 {
        world.refused(operator, &unpause("nobody"));
    }
    let viewer = world.connect(Who::Viewer);
    for number in 0..500 {
        world.refused(viewer, &unpause(&alloc::format!("guest{number}")));
    }
    let session = world.connect(Who::Admin);
    assert_eq!(whole(&mut world, session), before, "all of the effects are there");
    let refused = read(&mut world, session, Log::Refusals);
    assert!(refused.len() as u64 <= 2 * REFUSAL_BURST, "{}", refused.len());
    world.run(3 * REFUSAL_WINDOW_NS);
    let session = world.connect(Who::Admin);
    // Nothing is lost but which one it was.
    let refused = read(&mut world, session, Log::Refusals);
    let count = |who: Who| {
        let key = who.key().verifying_key().to_bytes();
        let own = refused.iter().filter(|entry| entry.operator == key);
        own.fold((0, 0), |(entries, count), entry| (entries + 1, count + entry.count))
    };
    let (entries, commands) = count(Who::Operator);
    assert!(commands == 8000 && entries <= 10, "{entries} {commands}");
    let (entries, commands) = count(Who::Viewer);
    assert!(commands == 500 && entries <= 30, "{entries} {commands}");
    let others = refused.iter().filter(|entry| entry.verb == OTHERS).count();
    assert!((1..=20).contains(&others), "{others}");
    let first: Vec<_> = refused.iter().filter(|entry| entry.object.starts_with("guest")).collect();
    assert_eq!(first.len(), REFUSAL_KINDS);
    assert_eq!(whole(&mut world, session), before);
    // They outlive dom0 as the others do.
    world.restart_dom0();
    let session = world.connect(Who::Admin);
    assert_eq!(read(&mut world, session, Log::Refusals), refused);
    assert_eq!(whole(&mut world, session), before);
}

#[test]
fn what_has_no_room_in_the_log_is_not_done() {
    let mut world = World::new(66);
    world.hypervisor.machine().refuse_creations = 1;
    world.restart_dom0();
    let session = world.connect(Who::Admin);
    // Memory that comes later is taken later.
    world.refused(session, &pause("nobody"));
    assert_eq!(read(&mut world, session, Log::Refusals).len(), 1);
}

#[test]
fn looking_for_disks_and_taking_the_configuration_are_recorded() {
    let mut world = World::new(67);
    let admin = world.connect(Who::Admin);
    let portal = Discover::Iscsi { portal: "10.0.0.99".to_string(), settings: Vec::new() };
    let viewer = world.connect(Who::Viewer);
    assert_eq!(world.refused(viewer, &Request::StorageDiscover(portal.clone())).code, Code::Refused);
    let _ = world.ask(admin, &Request::StorageDiscover(portal));
    for _ in 0..3 {
        world.done(admin, &Request::ConfigExport { from: 0 });
    }
    let effects = whole(&mut world, admin);
    assert_eq!(
        told(&effects),
        [("storage discover", "10.0.0.99", Result::Accepted, 1), ("config export", "", Result::Done, 1)]
    );
}
