//! dom0 ends and starts again over the same hypervisor.

use alloc::string::ToString;
use alloc::vec;

use hv_abi::event::{self, Event};
use mgmt_proto::code::Code;
use mgmt_proto::machine::{Action, Disk};
use mgmt_proto::verb::{Reply, Request, State};

use super::targets::AoeTarget;
use super::world::*;
use machine::layout::{RESET_PORT, SLEEP_CONTROL_PORT};

fn named(name: &str) -> alloc::string::String {
    name.to_string()
}

#[test]
fn guests_and_blobs_are_taken_over() {
    let mut world = World::new(41);
    let (session, machine) = world.ready();
    world.aoe.push(AoeTarget::new(7, 3, 64));
    let mut machine = sibling(&machine, "web", 1);
    machine.disks = vec![Disk { volume: named("aoe:e7.3"), read_only: false }];
    let domain = world.create(session, &machine);
    let created_ns = world.facts(session, "web").unwrap().created_ns;
    // Half an upload is under way.
    world.done(session, &Request::BlobPut { digest: [5; 32], length: 300_000, resume: false });
    world.send_data(session, &[1; 100_000]);
    world.run(100 * MS);
    world.restart_dom0();
    assert_eq!(world.hypervisor.domains(), 2, "the half upload is given back");
    let session = world.connect(Who::Admin);
    let facts = world.facts(session, "web").unwrap();
    assert_eq!((facts.id, facts.state, facts.created_ns), (domain, State::Detached, created_ns));
    assert_eq!((facts.machine, facts.disks[0].state.as_str()), (machine.clone(), "detached"));
    let asked = Request::BlobMissing(vec![machine.kernel]);
    assert_eq!(world.done(session, &asked), Reply::Missing(vec![]));
    // Name, card and volume are still taken.
    let again = Request::create(machine.clone());
    assert_eq!(world.refused(session, &again).code, Code::Conflict);
    let mut other = sibling(&machine, "other", 2);
    assert_eq!(world.refused(session, &Request::create(other.clone())).code, Code::Conflict);
    // Its accesses are answered, as by a machine without devices.
    world.access(domain, event::ACCESS_MEMORY_READ, 0xe000_8000, 4, 0);
    assert_eq!(world.hypervisor.domain(domain).answers.last(), Some(&(0, 0xffff_ffff)));
    let before = world.turns;
    world.run(20 * SECOND);
    assert!(world.turns - before < 40, "{} turns", world.turns - before);
    world.done(session, &Request::Reboot { name: named("web") });
    world.run(SECOND);
    let facts = world.facts(session, "web").unwrap();
    assert_eq!((facts.state, facts.disks[0].state.as_str()), (State::Running, "ready"));
    let mut disk = world.bring_up(facts.id, 0);
    assert_eq!(world.disk_write(&mut disk, 1, &[6; 512]), 0);
    world.done(session, &Request::Destroy { name: named("web") });
    other.disks.clear();
    world.create(session, &other);
    assert_eq!(world.hypervisor.guests().len(), 1);
}

#[test]
fn a_detached_guest_may_end_by_itself() {
    let mut world = World::new(42);
    let (session, machine) = world.ready();
    let off = world.create(session, &sibling(&machine, "off", 1));
    let reset = world.create(session, &sibling(&machine, "reset", 2));
    let mut crashing = sibling(&machine, "crash", 3);
    crashing.on_crash = Action::Restart;
    let crash = world.create(session, &crashing);
    world.create(session, &sibling(&machine, "gone", 4));
    world.restart_dom0();
    let session = world.connect(Who::Admin);
    world.port_write(off, SLEEP_CONTROL_PORT, 0x20 | 5 << 2);
    world.port_write(reset, RESET_PORT, 6);
    world.hypervisor.crash(crash);
    world.events.push(Event { kind: event::DOMAIN, domain: crash, ..Event::default() });
    world.run(MS);
    world.done(session, &Request::Destroy { name: named("gone") });
    assert_eq!(world.facts(session, "off"), Err(Code::NotFound));
    assert_eq!(world.facts(session, "gone"), Err(Code::NotFound));
    for name in ["reset", "crash"] {
        assert_eq!(world.facts(session, name).unwrap().state, State::Running, "{name}");
    }
    assert_eq!(world.hypervisor.guests().len(), 2);
}

#[test]
fn a_paused_guest_stays_paused_and_a_crash_is_not_missed() {
    let mut world = World::new(43);
    let (session, machine) = world.ready();
    world.create(session, &sibling(&machine, "paused", 1));
    world.done(session, &Request::Pause { name: named("paused") });
    world.done(session, &super::create_paused(sibling(&machine, "new", 2)));
    let crashed = world.create(session, &sibling(&machine, "crashed", 3));
    world.hypervisor.crash(crashed);
    world.restart_dom0();
    let session = world.connect(Who::Admin);
    assert_eq!(world.facts(session, "crashed").unwrap().state, State::Crashed);
    for name in ["paused", "new"] {
        assert_eq!(world.facts(session, name).unwrap().state, State::Paused, "{name}");
        world.done(session, &Request::Unpause { name: named(name) });
        assert_eq!(world.facts(session, name).unwrap().state, State::Detached, "{name}");
    }
}

#[test]
fn dom0_may_die_at_any_moment_of_a_start() {
    let mut world = World::new(44);
    let (mut session, machine) = world.ready();
    for round in 0..30u64 {
        let name = alloc::format!("guest{round}");
        world.send(session, &Request::create(sibling(&machine, &name, 9)));
        for _ in 0..round {
            let until_ns = world.now_ns + MS;
            world.step(until_ns);
        }
        world.restart_dom0();
        session = world.connect(Who::Admin);
        let Reply::Guests(guests) = world.done(session, &Request::List) else { panic!() };
        assert!(guests.len() <= 1 && world.hypervisor.domains() == 1 + guests.len(), "round {round}");
        let _ = world.ask(session, &Request::Destroy { name });
    }
}
