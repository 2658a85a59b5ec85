//! Guests get other names, and keep them.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use mgmt_proto::bundle::{Grant, Scope};
use mgmt_proto::code::Code;
use mgmt_proto::machine::Disk;
use mgmt_proto::trust::Role;
use mgmt_proto::verb::{Reply, Request};

use super::state::{names, state_settings};
use super::targets::AoeTarget;
use super::trust::{bundle, grant, rooted, update};
use super::world::*;

fn rename(name: &str, to: &str) -> Request {
    Request::Rename { name: name.to_string(), to: to.to_string() }
}

fn kept(world: &mut World, session: usize) -> Vec<(alloc::string::String, u32)> {
    let Reply::State(facts) = world.done(session, &Request::StateShow) else { panic!() };
    facts.guests.into_iter().map(|guest| (guest.name, guest.order)).collect()
}

#[test]
fn a_name_outlives_dom0_and_the_power() {
    let mut world = World::with(1301, state_settings("aoe:e9.0", 30));
    world.aoe.push(AoeTarget::new(9, 0, 18 << 11));
    world.until("its state", |world| world.node.state.is_persistent());
    let (session, machine) = world.ready();
    world.create(session, &machine);
    world.create(session, &sibling(&machine, "other", 5));
    let on = Request::Autostart { name: "web".to_string(), order: Some(3) };
    world.done(session, &on);
    for (name, to, code) in [
        ("nobody", "db", Code::NotFound),
        ("web", "other", Code::Conflict),
        ("web", "web", Code::Conflict),
        ("web", "", Code::Usage),
        ("web", "a b", Code::Usage),
    ] {
        assert_eq!(world.refused(session, &rename(name, to)).code, code, "{name} to {to:?}");
    }
    let viewer = world.connect(Who::Viewer);
    assert_eq!(world.refused(viewer, &rename("web", "db")).code, Code::Refused);
    world.done(session, &rename("web", "db"));
    world.done(session, &rename("other", "web"));
    assert_eq!(names(&mut world, session), ["db", "web"]);
    assert_eq!(kept(&mut world, session), [("db".to_string(), 3)]);
    assert!(world.facts(session, "other").is_err());
    world.restart_dom0();
    let session = world.connect(Who::Admin);
    assert_eq!(names(&mut world, session), ["db", "web"]);
    // Only the one that is kept comes back, under its name.
    world.power_cycle();
    world.run(20 * SECOND);
    let session = world.connect(Who::Admin);
    assert_eq!(names(&mut world, session), ["db"]);
    // One that is only kept has another name as well.
    world.done(session, &Request::Destroy { name: "db".to_string() });
    world.done(session, &rename("db", "cache"));
    assert_eq!(kept(&mut world, session), [("cache".to_string(), 3)]);
    world.power_cycle();
    world.run(20 * SECOND);
    let session = world.connect(Who::Admin);
    assert_eq!(names(&mut world, session), ["cache"]);
}

#[test]
fn nobody_names_a_guest_out_of_his_reach_or_into_it() {
    let mut world = rooted(1302);
    let (admin, machine) = world.ready();
    world.create(admin, &machine);
    world.create(admin, &sibling(&machine, "db", 5));
    let guests = Scope::Named(vec!["web*".to_string()]);
    let granted = Grant { guests, ..grant(Who::Operator, Role::Operator) };
    world.done(admin, &update(&bundle(1, vec![grant(Who::Admin, Role::Admin), granted]), &[1]));
    let session = world.connect(Who::Operator);
    assert_eq!(world.refused(session, &rename("web", "other")).code, Code::Refused);
    assert_eq!(world.refused(session, &rename("db", "web2")).code, Code::Refused);
    world.done(session, &rename("web", "web2"));
    assert_eq!(names(&mut world, admin), ["web2", "db"]);
}

#[test]
fn a_guest_that_starts_keeps_its_name_until_it_has() {
    let mut world = World::new(1303);
    let (session, mut machine) = world.ready();
    machine.disks = vec![Disk { volume: "aoe:e7.1".to_string(), read_only: false }];
    world.send(session, &Request::create(machine));
    world.run(SECOND);
    let other = world.connect(Who::Admin);
    assert_eq!(world.refused(other, &rename("web", "db")).code, Code::Conflict);
    world.aoe.push(AoeTarget::new(7, 1, 64));
    assert!(world.outcome(session).is_ok());
    world.done(other, &rename("web", "db"));
    let Reply::Volumes(page) = world.done(other, &Request::StorageShow { volume: None, from: 0 }) else {
        panic!()
    };
    assert_eq!(page.volumes[0].guest, "db");
}
