//! Trust bundles on a node: who commands it from now on.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use ed25519_dalek::SigningKey;
use mgmt_proto::bundle::{self, Bundle, Grant, Scope};
use mgmt_proto::code::Code;
use mgmt_proto::trust::Role;
use mgmt_proto::verb::{Reply, Request};

use super::world::*;

pub(super) fn root(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[0x40 + number; 32])
}

fn public(key: &SigningKey) -> [u8; 32] {
    key.verifying_key().to_bytes()
}

/// A world whose owner is root 1.
pub(super) fn rooted(seed: u64) -> World {
    let mut settings = settings();
    settings.manifest.owner = public(&root(1));
    World::with(seed, settings)
}

pub(super) fn grant(who: Who, role: Role) -> Grant {
    Grant {
        key: public(&who.key()),
        role,
        nodes: Scope::All,
        guests: Scope::All,
        not_before_s: 0,
        not_after_s: 0,
        name: "somebody".to_string(),
    }
}

pub(super) fn bundle(serial: u64, grants: Vec<Grant>) -> Bundle {
    Bundle {
        version: bundle::VERSION,
        serial,
        issued_s: 1,
        roots: vec![public(&root(1))],
        threshold: 1,
        grants,
        revoked: Vec::new(),
        card_grants: Vec::new(),
    }
}

pub(super) fn update(bundle: &Bundle, roots: &[u8]) -> Request {
    let keys: Vec<SigningKey> = roots.iter().map(|number| root(*number)).collect();
    Request::TrustUpdate { signed: bundle.sign(&keys.iter().collect::<Vec<_>>()).unwrap() }
}

/// Those who are sealed, again.
pub(super) fn everybody() -> Vec<Grant> {
    vec![
        grant(Who::Admin, Role::Admin),
        grant(Who::Operator, Role::Operator),
        grant(Who::Viewer, Role::Viewer),
    ]
}

fn holds(world: &mut World, session: usize) -> Bundle {
    let Reply::Trust(bundle) = world.done(session, &Request::TrustShow) else { panic!("no bundle") };
    bundle
}

#[test]
fn a_bundle_holds_from_the_next_command_on() {
    let mut world = rooted(91);
    let admin = world.connect(Who::Admin);
    let viewer = world.connect(Who::Viewer);
    let sealed = holds(&mut world, viewer);
    assert_eq!((sealed.serial, sealed.grants.len()), (0, 3));
    // Nobody but an admin brings one, and nobody without the roots' signatures.
    let next = bundle(1, vec![grant(Who::Admin, Role::Admin), grant(Who::Viewer, Role::Operator)]);
    assert_eq!(world.refused(viewer, &update(&next, &[1])).code, Code::Refused);
    let unsigned = world.refused(admin, &update(&next, &[2]));
    assert_eq!((unsigned.code, unsigned.object.as_str()), (Code::Refused, "node"));
    world.done(admin, &update(&next, &[1]));
    assert_eq!(holds(&mut world, admin), next);
    // The viewer is an operator now, in the session it has.
    assert_eq!(world.refused(viewer, &Request::Pause { name: "web".to_string() }).code, Code::NotFound);
    assert_eq!(world.refused(admin, &update(&next, &[1])).code, Code::Conflict);
}

#[test]
fn a_revoked_key_is_a_stranger_from_its_next_command_on() {
    let mut world = rooted(92);
    let (admin, operator) = (world.connect(Who::Admin), world.connect(Who::Operator));
    world.done(operator, &Request::List);
    let mut next = bundle(1, vec![grant(Who::Admin, Role::Admin), grant(Who::Operator, Role::Operator)]);
    next.revoked = vec![public(&Who::Operator.key())];
    world.done(admin, &update(&next, &[1]));
    world.run(3_000_000_000);
    assert!(world.is_dead(operator), "the session ends without a word");
    world.done(admin, &Request::List);
    let again = world.dial(Who::Operator);
    world.run(3_000_000_000);
    assert!(world.is_dead(again));
}

#[test]
fn a_revoked_key_keeps_no_session_that_says_nothing() {
    let mut world = rooted(94);
    let (admin, operator) = (world.connect(Who::Admin), world.connect(Who::Operator));
    world.done(operator, &Request::List);
    let mut next = bundle(1, vec![grant(Who::Admin, Role::Admin)]);
    next.revoked = vec![public(&Who::Operator.key())];
    world.done(admin, &update(&next, &[1]));
    world.run(100_000_000);
    assert!(world.is_dead(operator), "at once, and nothing came from it");
    world.done(admin, &Request::List);
    // Who takes the grant from itself still hears that it is done.
    let viewer_only = bundle(2, vec![grant(Who::Viewer, Role::Admin)]);
    world.done(admin, &update(&viewer_only, &[1]));
    world.run(100_000_000);
    assert!(world.is_dead(admin));
}

#[test]
fn a_session_ends_when_its_grant_has_run_out() {
    let mut world = rooted(96);
    let (admin, viewer) = (world.connect(Who::Admin), world.connect(Who::Viewer));
    let end_s = world.now_ns / 1_000_000_000 + 10;
    let short = Grant { not_after_s: end_s, ..grant(Who::Viewer, Role::Viewer) };
    world.done(admin, &update(&bundle(1, vec![grant(Who::Admin, Role::Admin), short]), &[1]));
    world.run(5_000_000_000);
    world.done(viewer, &Request::List);
    world.run(8_000_000_000);
    assert!(world.is_dead(viewer));
    world.done(admin, &Request::List);
}

#[test]
fn dom0_forgets_nothing_and_believes_only_what_was_signed() {
    let mut world = rooted(93);
    let admin = world.connect(Who::Admin);
    let mut next = bundle(1, vec![grant(Who::Admin, Role::Admin)]);
    next.roots = vec![public(&root(2))];
    world.done(admin, &update(&next, &[1, 2]));
    next.serial = 2;
    world.done(admin, &update(&next, &[2]));
    world.restart_dom0();
    let admin = world.connect(Who::Admin);
    assert_eq!(holds(&mut world, admin), next);
    // The roots of old sign nothing any more.
    next.serial = 3;
    assert_eq!(world.refused(admin, &update(&next, &[1])).code, Code::Refused);
    world.done(admin, &update(&next, &[2]));
    assert_eq!(holds(&mut world, admin).serial, 3);
}

/// Roots, operators and the node's own key, on a node that goes on: at no point is there
/// nobody who commands it, and at the end nothing of the beginning does.
#[test]
fn everything_is_rotated_without_losing_access() {
    let mut settings = super::state::state_settings("aoe:e9.0", 30);
    settings.manifest.owner = public(&root(1));
    let mut world = World::with(240, settings);
    world.aoe.push(super::targets::AoeTarget::new(9, 0, 17 << 11));
    let admin = world.connect(Who::Admin);
    // Two of three other roots, signed by the old one and two of the new.
    let roots = || (2..=4).map(|number| public(&root(number))).collect();
    let next = |serial, grants| Bundle { roots: roots(), threshold: 2, ..bundle(serial, grants) };
    let both = || vec![grant(Who::Admin, Role::Admin), grant(Who::Operator, Role::Admin)];
    assert_eq!(world.refused(admin, &update(&next(2, both()), &[2, 3])).code, Code::Refused);
    assert_eq!(world.refused(admin, &update(&next(2, both()), &[1, 2])).code, Code::Refused);
    world.done(admin, &update(&next(2, both()), &[1, 2, 4]));
    // From now on any two of them, and neither one alone nor the old one.
    for signers in [&[1][..], &[3], &[1, 3]] {
        assert_eq!(
            world.refused(admin, &update(&next(3, both()), signers)).code,
            Code::Refused,
            "{signers:?}"
        );
    }
    world.done(admin, &update(&next(3, both()), &[3, 4]));
    // The operator's key: both hold for a while, then only the new one.
    let other = world.connect(Who::Operator);
    world.done(other, &Request::NodeKeyRotate);
    let revoked = vec![public(&Who::Admin.key())];
    let last = Bundle { revoked, ..next(4, vec![grant(Who::Operator, Role::Admin)]) };
    world.done(other, &update(&last, &[2, 3]));
    world.run(SECOND);
    assert!(world.is_dead(admin));
    for restart in [World::restart_dom0, World::power_cycle] {
        restart(&mut world);
        let other = world.connect(Who::Operator);
        assert_eq!(holds(&mut world, other).serial, 4);
        let Reply::NodeKeys(links) = world.done(other, &Request::NodeKeys) else { panic!("no keys") };
        assert_eq!(links.len(), 1);
        assert_eq!(links[0].to, *world.node_key(other));
    }
}

#[test]
fn a_bundle_that_locks_everybody_out_is_refused() {
    let mut world = rooted(94);
    let admin = world.connect(Who::Admin);
    let next = bundle(1, vec![grant(Who::Admin, Role::Operator)]);
    assert_eq!(world.refused(admin, &update(&next, &[1])).code, Code::Policy);
    let elsewhere =
        Grant { nodes: Scope::Named(vec!["other".to_string()]), ..grant(Who::Admin, Role::Admin) };
    assert_eq!(world.refused(admin, &update(&bundle(1, vec![elsewhere]), &[1])).code, Code::Policy);
    assert_eq!(holds(&mut world, admin).serial, 0);
}

#[test]
fn a_key_for_some_guests_touches_no_other() {
    let mut world = rooted(95);
    let (admin, machine) = world.ready();
    world.create(admin, &sibling(&machine, "web1", 1));
    world.create(admin, &sibling(&machine, "db", 2));
    let mut some = grant(Who::Operator, Role::Operator);
    some.guests = Scope::Named(vec!["web*".to_string()]);
    world.done(admin, &update(&bundle(1, vec![grant(Who::Admin, Role::Admin), some]), &[1]));
    let operator = world.connect(Who::Operator);
    let name = |name: &str| name.to_string();
    world.done(operator, &Request::Pause { name: name("web1") });
    for request in [
        Request::Pause { name: name("db") },
        Request::Info { name: name("db") },
        Request::ConsoleRead { name: name("db"), from: 0 },
        Request::Destroy { name: name("db") },
        Request::create(sibling(&machine, "db2", 3)),
    ] {
        let failure = world.refused(operator, &request);
        assert_eq!(failure.code, Code::Refused, "{request:?}");
        assert!(failure.object.starts_with("db"));
    }
    assert!(world.facts(admin, "db").is_ok());
}
