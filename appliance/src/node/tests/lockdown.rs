//! A node that is locked down.

use alloc::string::ToString;

use alloc::vec::Vec;

use mgmt_proto::audit::Log;
use mgmt_proto::code::Code;
use mgmt_proto::verb::{Discover, Request};

use super::trust::{bundle, everybody, rooted, update};
use super::world::*;

#[test]
fn a_locked_node_shows_and_does_nothing_until_the_roots_say_otherwise() {
    let mut world = rooted(96);
    let (admin, machine) = world.ready();
    world.create(admin, &sibling(&machine, "web1", 1));
    let operator = world.connect(Who::Operator);
    assert_eq!(world.refused(operator, &Request::Lockdown).code, Code::Refused);
    world.done(admin, &Request::Lockdown);
    let name = || "web1".to_string();
    let barred = [
        Request::Pause { name: name() },
        Request::Destroy { name: name() },
        Request::ConsoleRead { name: name(), from: 0 },
        Request::create(sibling(&machine, "web2", 2)),
        Request::BlobPut { digest: [1; 32], length: 5, resume: false },
        Request::NodeStop { power_off: false },
        Request::StorageDiscover(Discover::Iscsi { portal: "10.0.0.9".to_string(), settings: Vec::new() }),
    ];
    for request in &barred {
        let failure = world.refused(admin, request);
        assert_eq!((failure.code, failure.object.as_str()), (Code::Policy, "node"), "{request:?}");
    }
    for request in [
        Request::NodeInfo,
        Request::List,
        Request::AuditRead { log: Log::Effects, from: 0 },
        Request::TrustShow,
    ] {
        world.done(admin, &request);
    }
    assert!(world.facts(admin, "web1").is_ok(), "its guests run on");

    // dom0 does not forget it.
    world.restart_dom0();
    let admin = world.connect(Who::Admin);
    assert_eq!(world.refused(admin, &Request::Pause { name: name() }).code, Code::Policy);
    assert!(world.hypervisor.machine().resets.is_empty());

    // No key but the roots' ends it.
    assert_eq!(world.refused(admin, &update(&bundle(1, everybody()), &[2])).code, Code::Refused);
    assert_eq!(world.refused(admin, &Request::Pause { name: name() }).code, Code::Policy);
    world.done(admin, &update(&bundle(1, everybody()), &[1]));
    assert_ne!(world.ask(admin, &Request::Pause { name: name() }).map_err(|it| it.code), Err(Code::Policy));
    // And it can be locked again, and again.
    world.done(admin, &Request::Lockdown);
    world.done(admin, &Request::Lockdown);
    assert_eq!(world.refused(admin, &Request::Unpause { name: name() }).code, Code::Policy);
}
