//! Logs, and who was trusted.

use super::Trusted;
use ed25519_dalek::SigningKey;
use mgmt_proto::audit::{Entry, Result as Recorded};
use mgmt_proto::bundle::{self, Bundle, Grant, Refused, Scope};
use mgmt_proto::code::Code;
use mgmt_proto::envelope::{self, Binding, Proof};
use mgmt_proto::trust::{Operator, Role};
use mgmt_proto::verb::Request;

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn public(number: u8) -> [u8; 32] {
    key(number).verifying_key().to_bytes()
}

/// What a bundle says of these keys: 14 is for other nodes, 13 had its time, 15 looks, 16
/// runs guests whose names begin with web, 17 begins at 1000, 18 ends at 2000.
fn bundle(serial: u64, granted: &[u8], revoked: &[u8]) -> Bundle {
    let named = |pattern: &str| Scope::Named(vec![pattern.into()]);
    let grant = |number: &u8| Grant {
        key: public(*number),
        role: match number {
            15 => Role::Viewer,
            16 => Role::Operator,
            _ => Role::Admin,
        },
        nodes: if *number == 14 { named("other") } else { Scope::All },
        guests: if *number == 16 { named("web*") } else { Scope::All },
        not_before_s: if *number == 17 { 1000 } else { 0 },
        not_after_s: match number {
            13 => 5,
            18 => 2000,
            _ => 0,
        },
        name: "n".into(),
    };
    Bundle {
        version: bundle::VERSION,
        serial,
        issued_s: 10,
        roots: vec![public(1)],
        threshold: 1,
        grants: granted.iter().map(grant).collect(),
        revoked: revoked.iter().map(|number| public(*number)).collect(),
        card_grants: Vec::new(),
    }
}

/// Signed by `root`, granting these and revoking those.
fn signed(root: u8, serial: u64, granted: &[u8], revoked: &[u8]) -> Vec<u8> {
    bundle(serial, granted, revoked).sign(&[&key(root)]).unwrap()
}

/// What was sealed: root 1, and key 10 as an admin.
fn sealed() -> Trusted {
    let operator = Operator { key: public(10), role: Role::Admin };
    Trusted::sealed(public(1), &[operator], Some("node".into()))
}

fn entry(sequence: u64, operator: u8, verb: &str, request: [u8; 32], result: Recorded) -> Entry {
    let binding = Binding { node: [1; 32], boot_nonce: [2; 32], session: [3; 32] };
    let proof = Proof { signature: [0; 64], binding, counter: 1, request };
    Entry { sequence, ..Entry::new(&proof, &public(operator), verb, "", result) }
}

fn did(sequence: u64, operator: u8) -> Entry {
    entry(sequence, operator, "pause", [9; 32], Recorded::Done)
}

fn brought(sequence: u64, operator: u8, signed: &[u8], result: Recorded) -> Entry {
    let request = Request::TrustUpdate { signed: signed.to_vec() };
    let digest = envelope::request_digest(&request).unwrap();
    entry(sequence, operator, "trust update", digest, result)
}

#[test]
fn each_entry_is_judged_by_what_held_then() {
    let (first, second) = (signed(1, 3, &[10, 11], &[]), signed(1, 4, &[11, 13, 14], &[10]));
    let mut trusted = sealed();
    trusted.follow(&first).unwrap();
    trusted.follow(&second).unwrap();
    assert_eq!(trusted.serials(), [0, 3, 4]);
    let good = [
        did(0, 10),
        brought(1, 10, &first, Recorded::Accepted),
        did(2, 11),
        brought(3, 10, &second, Recorded::Failed(Code::Refused)),
        did(4, 10),
        brought(5, 11, &second, Recorded::Done),
        did(6, 11),
    ];
    assert_eq!(trusted.faults(&good), [""; 0]);
    let with = |at: usize, entry: Entry| {
        let mut entries = good.to_vec();
        entries[at] = entry;
        trusted.faults(&entries).first().cloned().unwrap_or_default()
    };
    for (at, operator, why) in [
        (0, 11, "what was sealed does not name the key"),
        (2, 12, "trust bundle 3 does not name the key"),
        (6, 10, "trust bundle 4 revokes the key"),
        (6, 14, "trust bundle 4 names the key for other nodes"),
        (6, 13, "trust bundle 4 was issued after the key's time"),
    ] {
        let said = with(at, did(at as u64, operator));
        assert!(said.starts_with(&format!("entry {at} was signed by ")) && said.ends_with(why), "{said}");
    }
    let unknown = brought(1, 10, b"another", Recorded::Done);
    assert_eq!(with(1, unknown), "entry 1 brought a trust bundle that is not among those given");
}

#[test]
fn what_is_not_known_is_not_held_against_anybody() {
    let (first, second) = (signed(1, 3, &[11], &[]), signed(1, 4, &[12], &[]));
    let mut trusted = sealed();
    trusted.follow(&first).unwrap();
    trusted.follow(&second).unwrap();
    // Older entries are not there: what came before the first bundle may have held.
    assert_eq!(trusted.faults(&[did(70, 10), did(71, 11), did(72, 12)]), [""; 0]);
    let late = [did(70, 11), brought(71, 11, &second, Recorded::Done), did(72, 12)];
    assert_eq!(trusted.faults(&late), [""; 0]);
    assert_eq!(trusted.faults(&[did(70, 12), late[1].clone()]).len(), 1);
    // A bundle that was not kept may be gone after a power cut.
    let lost = brought(0, 10, &first, Recorded::Failed(Code::Storage));
    assert_eq!(trusted.faults(&[lost, did(1, 11), did(2, 10)]), [""; 0]);
    let import = entry(0, 10, "config import", [5; 32], Recorded::Accepted);
    assert_eq!(trusted.faults(&[import, did(1, 12)]), [""; 0]);
}

#[test]
fn bundles_follow_from_the_root() {
    let mut trusted = Trusted::sealed(public(1), &[], None);
    let other = signed(2, 1, &[10], &[]);
    assert_eq!(trusted.follow(&other), Err(Refused::Unsigned { have: 0, need: 1 }));
    trusted.follow(&signed(1, 2, &[10], &[])).unwrap();
    assert_eq!(trusted.follow(&signed(1, 2, &[10], &[])), Err(Refused::Stale { serial: 2 }));
    assert_eq!(trusted.serials(), [0, 2]);
}

/// After bundle 3, which lets these sign.
fn under(granted: &[u8], entries: &[Entry]) -> Vec<String> {
    let first = signed(1, 3, granted, &[]);
    let mut trusted = sealed();
    trusted.follow(&first).unwrap();
    let all = [&[brought(0, 10, &first, Recorded::Done)], entries].concat();
    trusted.faults(&all)
}

fn about(sequence: u64, operator: u8, verb: &str, object: &str, result: Recorded) -> Entry {
    Entry { object: object.into(), ..entry(sequence, operator, verb, [9; 32], result) }
}

#[test]
fn roles_and_guests_are_judged_as_the_node_does() {
    let done = Recorded::Done;
    let faults = under(
        &[10, 15, 16],
        &[
            about(1, 16, "create", "web1", Recorded::Accepted),
            about(2, 16, "create", "db", Recorded::Accepted),
            about(3, 15, "pause", "web1", done),
            about(4, 16, "node poweroff", "", Recorded::Accepted),
            about(5, 16, "storage reserve", "aoe:e1.1", done),
            about(6, 16, "storage reserve --force", "aoe:e1.1", done),
            about(7, 10, "storage reserve --force", "aoe:e1.1", done),
            // Whoever asks for more than he may is refused, which is recorded.
            about(8, 15, "pause", "web1", Recorded::Failed(Code::Refused)),
            about(9, 16, "destroy", "db", Recorded::Failed(Code::Refused)),
            about(10, 16, "destroy", "db", Recorded::Failed(Code::NotFound)),
            // A verb of a later version is for whoever is trusted.
            about(11, 15, "fly", "db", done),
        ],
    );
    let who = |number: u8| keys::public::fingerprint(&public(number));
    let expected = [
        format!(
            "entry 2 was signed by {}, who might not create db then: trust bundle 3 names the key for other guests",
            who(16)
        ),
        format!(
            "entry 3 was signed by {}, who was not operator then, as pause takes: trust bundle 3 names the key as viewer",
            who(15)
        ),
        format!(
            "entry 4 was signed by {}, who was not admin then, as node poweroff takes: trust bundle 3 names the key as operator",
            who(16)
        ),
        format!(
            "entry 6 was signed by {}, who was not admin then, as storage reserve --force takes: trust bundle 3 names the key as operator",
            who(16)
        ),
        format!(
            "entry 10 was signed by {}, who might not destroy db then: trust bundle 3 names the key for other guests",
            who(16)
        ),
    ];
    assert_eq!(faults, expected);
}

#[test]
fn nothing_is_carried_out_under_lockdown() {
    let second = signed(1, 4, &[10], &[]);
    let mut trusted = sealed();
    trusted.follow(&second).unwrap();
    let policy = Recorded::Failed(Code::Policy);
    let entries = [
        about(0, 10, "node lockdown", "", Recorded::Accepted),
        about(1, 10, "pause", "web1", policy),
        about(2, 10, "pause", "web1", Recorded::Done),
        about(3, 10, "node lockdown", "", Recorded::Done),
        brought(4, 10, &second, Recorded::Done),
        about(5, 10, "pause", "web1", Recorded::Done),
    ];
    assert_eq!(trusted.faults(&entries), ["entry 2 was carried out under lockdown"]);
}

#[test]
fn the_time_of_a_key_is_judged_by_what_the_log_shows() {
    let at = |sequence: u64, operator: u8, at_s: u64| Entry {
        at_ns: at_s * 1_000_000_000,
        ..did(sequence, operator)
    };
    // Key 17 begins at 1000, so it is that late; 1000 s later key 18 is over.
    let faults = under(
        &[10, 17, 18],
        &[at(1, 18, 5), at(2, 17, 10), at(3, 18, 1009), at(4, 18, 1010), at(5, 10, 1011)],
    );
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(
        faults[0].starts_with("entry 4 was signed by ")
            && faults[0].ends_with("trust bundle 3 ended the key's time"),
        "{faults:?}"
    );
    // In another boot the clock may stand anywhere.
    let other = Entry { boot_nonce: [7; 32], ..at(3, 18, 3000) };
    assert_eq!(under(&[10, 17, 18], &[at(1, 17, 10), at(2, 17, 20), other]), [""; 0]);
}
