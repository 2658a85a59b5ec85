use super::{Bundle, Denied, Grant, Refused, Scope, VERSION, assemble, message, split};
use crate::trust::Role;
use crate::vif::{CardGrant, Privileges};
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;
use ed25519_dalek::{Signer as _, SigningKey};

const NODE: &str = "rack1-node7";
const NOW_S: u64 = 1_800_000_000;

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn public(number: u8) -> [u8; 32] {
    key(number).verifying_key().to_bytes()
}

fn grant(number: u8, role: Role) -> Grant {
    Grant {
        key: public(number),
        role,
        nodes: Scope::All,
        guests: Scope::All,
        not_before_s: 0,
        not_after_s: 0,
        name: "somebody".to_string(),
    }
}

/// Roots 1 to 3, two of which sign; operator 10 administers.
fn bundle(serial: u64) -> Bundle {
    Bundle {
        version: VERSION,
        serial,
        issued_s: NOW_S - 1000,
        roots: vec![public(1), public(2), public(3)],
        threshold: 2,
        grants: vec![grant(10, Role::Admin)],
        revoked: Vec::new(),
        card_grants: Vec::new(),
    }
}

fn signed(bundle: &Bundle, roots: &[u8]) -> Vec<u8> {
    signed_bytes(&postcard::to_allocvec(bundle).unwrap(), roots)
}

fn signed_bytes(bytes: &[u8], roots: &[u8]) -> Vec<u8> {
    let signatures: Vec<_> =
        roots.iter().map(|root| (public(*root), key(*root).sign(&message(bytes)).to_bytes())).collect();
    assemble(bytes, &signatures).unwrap()
}

fn named(names: &[&str]) -> Scope {
    Scope::Named(names.iter().map(|name| (*name).to_string()).collect())
}

#[test]
fn enough_roots_make_a_successor() {
    let next = bundle(2);
    for roots in [&[1, 2][..], &[3, 1], &[2, 3, 1]] {
        assert_eq!(bundle(1).successor(&signed(&next, roots), NODE, NOW_S), Ok(next.clone()));
    }
}

#[test]
fn too_few_roots_or_others_do_not() {
    let next = bundle(2);
    for (roots, have) in [(&[][..], 0), (&[1], 1), (&[1, 1], 1), (&[1, 9], 1), (&[8, 9], 0)] {
        let refused = Err(Refused::Unsigned { have, need: 2 });
        assert_eq!(bundle(1).successor(&signed(&next, roots), NODE, NOW_S), refused, "{roots:?}");
    }
    // A signature of another bundle, or under another key's name.
    let bytes = next.encode().unwrap();
    let other = key(2).sign(&message(&bundle(3).encode().unwrap())).to_bytes();
    let own = key(1).sign(&message(&bytes)).to_bytes();
    for second in [(public(2), other), (public(2), own)] {
        let forged = assemble(&bytes, &[(public(1), own), second]).unwrap();
        assert_eq!(bundle(1).successor(&forged, NODE, NOW_S), Err(Refused::Unsigned { have: 1, need: 2 }));
    }
}

#[test]
fn bundles_only_move_forward() {
    let holds = bundle(5);
    for serial in [0, 4, 5] {
        let refused = holds.successor(&signed(&bundle(serial), &[1, 2]), NODE, NOW_S);
        assert_eq!(refused, Err(Refused::Stale { serial: 5 }));
    }
    let earlier = Bundle { issued_s: holds.issued_s - 1, ..bundle(6) };
    assert_eq!(holds.successor(&signed(&earlier, &[1, 2]), NODE, NOW_S), Err(Refused::Stale { serial: 5 }));
}

#[test]
fn new_roots_must_have_signed_too() {
    let rotated = Bundle { roots: vec![public(3), public(4), public(5)], ..bundle(2) };
    let holds = bundle(1);
    let refused = Err(Refused::NewRoots { have: 1, need: 2 });
    assert_eq!(holds.successor(&signed(&rotated, &[2, 3]), NODE, NOW_S), refused);
    let refused = Err(Refused::Unsigned { have: 1, need: 2 });
    assert_eq!(holds.successor(&signed(&rotated, &[3, 4, 5]), NODE, NOW_S), refused);
    let holds = holds.successor(&signed(&rotated, &[2, 3, 4]), NODE, NOW_S).unwrap();
    // From now on only the new ones count.
    let next = Bundle { roots: rotated.roots, ..bundle(3) };
    assert!(holds.successor(&signed(&next, &[1, 2]), NODE, NOW_S).is_err());
    assert!(holds.successor(&signed(&next, &[4, 5]), NODE, NOW_S).is_ok());
}

#[test]
fn nobody_is_locked_out() {
    let holds = bundle(1);
    let admin = grant(10, Role::Admin);
    let cases: [(&str, Bundle); 7] = [
        ("nobody", Bundle { grants: Vec::new(), ..bundle(2) }),
        ("an operator", Bundle { grants: vec![grant(10, Role::Operator)], ..bundle(2) }),
        ("revoked", Bundle { revoked: vec![public(10)], ..bundle(2) }),
        ("expired", Bundle { grants: vec![Grant { not_after_s: NOW_S, ..admin.clone() }], ..bundle(2) }),
        ("not yet", Bundle { grants: vec![Grant { not_before_s: NOW_S + 1, ..admin.clone() }], ..bundle(2) }),
        (
            "another node",
            Bundle { grants: vec![Grant { nodes: named(&["rack2*"]), ..admin.clone() }], ..bundle(2) },
        ),
        ("some guests", Bundle { grants: vec![Grant { guests: named(&["web*"]), ..admin }], ..bundle(2) }),
    ];
    for (what, next) in cases {
        assert_eq!(holds.successor(&signed(&next, &[1, 2]), NODE, NOW_S), Err(Refused::LocksOut), "{what}");
    }
}

#[test]
fn a_bundle_that_contradicts_itself_is_refused() {
    let holds = bundle(1);
    let weak = [0; 32];
    let cases: [(&str, Bundle); 9] = [
        ("no root", Bundle { roots: Vec::new(), threshold: 0, ..bundle(2) }),
        ("a threshold of none", Bundle { threshold: 0, ..bundle(2) }),
        ("a threshold above", Bundle { threshold: 4, ..bundle(2) }),
        ("a root twice", Bundle { roots: vec![public(1), public(2), public(1)], ..bundle(2) }),
        ("a weak root", Bundle { roots: vec![public(1), public(2), weak], ..bundle(2) }),
        (
            "a grant twice",
            Bundle { grants: vec![grant(10, Role::Admin), grant(10, Role::Viewer)], ..bundle(2) },
        ),
        ("a weak key", Bundle { grants: vec![Grant { key: weak, ..grant(10, Role::Admin) }], ..bundle(2) }),
        (
            "a name with a line",
            Bundle {
                grants: vec![Grant { name: "a\nb".to_string(), ..grant(10, Role::Admin) }],
                ..bundle(2)
            },
        ),
        (
            "a scope too long",
            Bundle {
                grants: vec![Grant {
                    nodes: Scope::Named(vec![String::from("n"); 33]),
                    ..grant(10, Role::Admin)
                }],
                ..bundle(2)
            },
        ),
    ];
    for (what, next) in cases {
        assert_eq!(next.encode(), None, "{what}");
        let refused = holds.successor(&signed(&next, &[1, 2, 3]), NODE, NOW_S);
        assert_eq!(refused, Err(Refused::Unsound), "{what}");
    }
    let newer = Bundle { version: 3, ..bundle(2) };
    assert_eq!(holds.successor(&signed(&newer, &[1, 2]), NODE, NOW_S), Err(Refused::Version));
    let mut longer = bundle(2).encode().unwrap();
    longer.push(0);
    assert_eq!(holds.successor(&signed_bytes(&longer, &[1, 2]), NODE, NOW_S), Err(Refused::Encoding));
}

#[test]
fn grants_hold_for_their_time_and_place() {
    let mut bundle = bundle(1);
    bundle.grants.push(Grant {
        nodes: named(&["rack1-*", "edge"]),
        not_before_s: NOW_S,
        not_after_s: NOW_S + 100,
        ..grant(11, Role::Operator)
    });
    bundle.grants.push(grant(12, Role::Admin));
    bundle.revoked.push(public(12));
    let ask = |number: u8, node: &str, now_s: u64| {
        bundle.grant(&public(number), node, now_s).map(|grant| grant.role)
    };
    assert_eq!(ask(11, NODE, NOW_S), Ok(Role::Operator));
    assert_eq!(ask(11, "edge", NOW_S + 99), Ok(Role::Operator));
    assert_eq!(ask(11, "edge2", NOW_S), Err(Denied::OtherNode));
    assert_eq!(ask(11, "rack2-node1", NOW_S), Err(Denied::OtherNode));
    assert_eq!(ask(11, NODE, NOW_S - 1), Err(Denied::NotYet));
    assert_eq!(ask(11, NODE, NOW_S + 100), Err(Denied::Expired));
    assert_eq!(ask(12, NODE, NOW_S), Err(Denied::Revoked));
    assert_eq!(ask(13, NODE, NOW_S), Err(Denied::Unknown));
    assert_eq!(ask(10, NODE, 0), Ok(Role::Admin));
}

#[test]
fn a_clock_at_1970_does_not_revive_an_expired_key() {
    let mut bundle = bundle(1);
    bundle.grants.push(Grant { not_after_s: bundle.issued_s, ..grant(11, Role::Admin) });
    assert_eq!(bundle.grant(&public(11), NODE, 0), Err(Denied::Expired));
}

#[test]
fn an_old_and_a_new_key_overlap() {
    let mut bundle = bundle(1);
    bundle.grants.push(Grant { not_after_s: NOW_S + 100, ..grant(20, Role::Operator) });
    bundle.grants.push(Grant { not_before_s: NOW_S, ..grant(21, Role::Operator) });
    let valid = |number: u8, now_s: u64| bundle.grant(&public(number), NODE, now_s).is_ok();
    let at = |now_s| (valid(20, now_s), valid(21, now_s));
    assert_eq!(
        [at(NOW_S - 1), at(NOW_S), at(NOW_S + 99), at(NOW_S + 100)],
        [(true, false), (true, true), (true, true), (false, true)]
    );
}

#[test]
fn altered_bytes_are_never_accepted() {
    let holds = bundle(1);
    let good = signed(&bundle(2), &[1, 2]);
    assert!(holds.successor(&good, NODE, NOW_S).is_ok());
    for at in 0..good.len() {
        for bit in [1, 0x80] {
            let mut altered = good.clone();
            altered[at] ^= bit;
            assert!(holds.successor(&altered, NODE, NOW_S).is_err(), "byte {at}");
        }
    }
    for cut in 0..good.len() {
        assert!(holds.successor(&good[..cut], NODE, NOW_S).is_err(), "cut at {cut}");
    }
    assert_eq!(split(&[33; 4000]).unwrap_err(), Refused::Length);
}

/// The bytes of version 2: a bundle with one root, one operator and one card grant.
#[test]
fn the_bytes_of_version_2_are_these() {
    let bundle = Bundle {
        version: 2,
        serial: 7,
        issued_s: 300,
        roots: vec![[0xaa; 32]],
        threshold: 1,
        grants: vec![Grant {
            key: [0xbb; 32],
            role: Role::Operator,
            nodes: Scope::All,
            guests: Scope::Named(vec!["web*".to_string()]),
            not_before_s: 1,
            not_after_s: 0,
            name: "ann".to_string(),
        }],
        revoked: vec![[0xcc; 32]],
        card_grants: vec![CardGrant {
            nodes: Scope::All,
            guests: Scope::Named(vec!["fw1".to_string()]),
            privileges: Privileges { macs: 8, trunk: vec![300], router: true, ..Privileges::default() },
        }],
    };
    let mut expected = vec![2, 7, 0xac, 2, 1];
    expected.extend([0xaa; 32]);
    expected.extend([1, 1]);
    expected.extend([0xbb; 32]);
    expected.extend(*b"\x01\x00\x01\x01\x04web*\x01\x00\x03ann\x01");
    expected.extend([0xcc; 32]);
    expected.extend(*b"\x01\x00\x01\x01\x03fw1\x08\x00\x01\x00\x01\xac\x02\x00");
    assert_eq!(postcard::to_allocvec(&bundle).unwrap(), expected);
}
