//! What operators did is kept, and can be checked.

use alloc::string::ToString;
use alloc::vec::Vec;

use mgmt_proto::audit::{self, Entry, Page, Result};
use mgmt_proto::code::Code;
use mgmt_proto::verb::{Reply, Request};

use super::world::*;

fn page(world: &mut World, session: usize, from: u64) -> Page {
    let Reply::Audit(page) = world.done(session, &Request::AuditRead { from }) else { panic!("no audit") };
    page
}

/// The whole log, believed.
fn whole(world: &mut World, session: usize) -> Vec<Entry> {
    let node = *world.node_key(session);
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        let page = page(world, session, entries.len() as u64);
        assert_eq!(page.oldest, 0);
        if page.entries.is_empty() {
            let last = audit::verify(&entries).unwrap();
            page.head.verify(&node, entries.len() as u64, &last).unwrap();
            return entries;
        }
        entries.extend(page.entries);
    }
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
    let entries = whole(&mut world, viewer);
    let told: Vec<_> = entries
        .iter()
        .map(|entry| (entry.verb.as_str(), entry.object.as_str(), entry.result))
        .filter(|told| told.0 != "blob put")
        .collect();
    assert_eq!(
        told,
        [
            ("create", "web", Result::Accepted),
            ("pause", "web", Result::Done),
            ("pause", "nobody", Result::Failed(Code::NotFound)),
            ("pause", "web", Result::Failed(Code::Refused)),
        ]
    );
    let key = |who: Who| who.key().verifying_key().to_bytes();
    let by: Vec<_> = entries.iter().rev().take(2).map(|entry| entry.operator).collect();
    assert_eq!(by, [key(Who::Viewer), key(Who::Admin)]);
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
    let entries = whole(&mut world, viewer);
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].object.len(), entries[0].result), (62, Result::Failed(Code::Refused)));
}

#[test]
fn an_old_log_loses_its_beginning_and_says_so() {
    let mut world = World::new(63);
    let (session, _) = world.ready();
    for _ in 0..4200 {
        world.refused(session, &pause("nobody"));
    }
    let page = page(&mut world, session, 0);
    assert!(page.oldest > 0 && page.entries[0].sequence == page.oldest, "{}", page.oldest);
    assert!(audit::verify(&page.entries).is_ok());
    assert!(page.head.length > 4096);
}
