//! Two operators at once: none undoes unseen what the other did.

use alloc::string::{String, ToString};
use alloc::vec;

use mgmt_proto::audit::Log;
use mgmt_proto::audit::Result as Recorded;
use mgmt_proto::code::Code;
use mgmt_proto::verb::{Reply, Request};

use super::world::*;

fn web() -> String {
    "web".to_string()
}

fn revision(world: &mut World, session: usize, of: Option<&str>) -> u64 {
    let request = Request::Revision { of: of.map(ToString::to_string), expected: None };
    let Reply::Revision(revision) = world.done(session, &request) else { panic!() };
    revision
}

fn suppose(of: Option<&str>, revision: u64) -> Request {
    Request::Revision { of: of.map(ToString::to_string), expected: Some(revision) }
}

#[test]
fn a_change_that_supposes_what_is_so_no_longer_is_not_made() {
    let mut world = World::new(1501);
    let (alice, machine) = world.ready();
    world.create(alice, &machine);
    world.create(alice, &sibling(&machine, "other", 5));
    let bob = world.connect(Who::Operator);
    let pause = Request::Pause { name: web() };
    let unpause = Request::Unpause { name: web() };
    // Both look; alice changes; bob, who did not see it, does not.
    let seen = revision(&mut world, bob, Some("web"));
    assert_eq!(revision(&mut world, alice, Some("web")), seen);
    world.done(bob, &suppose(Some("web"), seen));
    world.done(alice, &pause);
    let failure = world.refused(bob, &unpause);
    assert_eq!((failure.code, failure.object.as_str()), (Code::Conflict, "web"));
    // It is recorded as what it was, and what was supposed is forgotten with it.
    let Reply::Audit(page) = world.done(alice, &Request::AuditRead { log: Log::Refusals, from: 0 }) else {
        panic!()
    };
    let last = page.entries.last().unwrap();
    assert_eq!((last.verb.as_str(), last.result), ("unpause", Recorded::Failed(Code::Conflict)));
    world.done(bob, &unpause);
    // An old number is refused at once; the right one holds for one change of its own.
    assert_eq!(world.refused(bob, &suppose(Some("web"), seen)).code, Code::Conflict);
    let now = revision(&mut world, bob, Some("web"));
    assert!(now > seen);
    world.done(bob, &suppose(Some("web"), now));
    world.done(bob, &Request::List);
    world.done(bob, &Request::ConsoleWrite { name: web(), bytes: vec![13] });
    world.done(bob, &pause);
    world.done(bob, &unpause);
}

#[test]
fn other_guests_are_no_matter_and_the_node_is_all_of_it() {
    let mut world = World::new(1502);
    let (alice, machine) = world.ready();
    world.create(alice, &machine);
    world.create(alice, &sibling(&machine, "other", 5));
    let bob = world.connect(Who::Operator);
    let (guest, node) = (revision(&mut world, bob, Some("web")), revision(&mut world, bob, None));
    world.done(alice, &Request::Pause { name: "other".to_string() });
    assert_eq!(revision(&mut world, bob, Some("web")), guest);
    assert!(revision(&mut world, bob, None) > node);
    world.done(bob, &suppose(Some("web"), guest));
    world.done(bob, &Request::Pause { name: web() });
    assert_eq!(world.refused(bob, &suppose(None, node)).code, Code::Conflict);
    // Whoever looked before dom0 was restarted looks again.
    let guest = revision(&mut world, bob, Some("web"));
    world.done(bob, &Request::Unpause { name: "other".to_string() });
    world.restart_dom0();
    let bob = world.connect(Who::Operator);
    assert!(revision(&mut world, bob, Some("web")) > guest);
}
