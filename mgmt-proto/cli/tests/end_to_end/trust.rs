//! Trust files and bundles, from the first to a rotated root.

use crate::fake::{FakeNode, Workstation, as_text, operator};
use ed25519_dalek::SigningKey;
use keys::{Existing, PublicKey};
use mgmt_proto::bundle::Scope;
use mgmt_proto::trust::{Operator, Role, Trust};
use std::os::unix::fs::PermissionsExt as _;

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[0x60 + number; 32])
}

/// Files of a key: `NAME.key` and `NAME.key.pub`.
fn write_key(workstation: &Workstation, name: &str, number: u8) -> (String, String) {
    let path = workstation.directory.path().join(format!("{name}.key"));
    let public = workstation.directory.path().join(format!("{name}.key.pub"));
    keys::secret::save(&path, &key(number), Existing::Keep).unwrap();
    PublicKey::of(&key(number), name).save(&public, Existing::Keep).unwrap();
    (as_text(&path).into(), as_text(&public).into())
}

/// A node whose one root is `owner`, key 1; the operator of the tests administers it.
fn sealed() -> (FakeNode, Workstation, String) {
    let node = FakeNode::start(&operator());
    let admin = Operator { key: operator().verifying_key().to_bytes(), role: Role::Admin };
    let owner = key(1).verifying_key().to_bytes();
    node.state.lock().unwrap().trust = Some(Trust::sealed(owner, &[admin], "fake"));
    let workstation = Workstation::new(&node);
    let (owner, _) = write_key(&workstation, "owner", 1);
    (node, workstation, owner)
}

#[test]
fn an_operator_is_added_given_a_new_key_and_revoked() {
    let (node, workstation, owner) = sealed();
    let path = |name: &str| as_text(&workstation.directory.path().join(name)).to_string();
    let (file, bundle) = (path("trust.toml"), path("first.bundle"));
    let (_, carol) = write_key(&workstation, "carol", 3);
    let (_, carol2) = write_key(&workstation, "carol2", 4);

    let (out, _) = workstation.expect(0, &["key", "bundle", "show"]);
    assert!(out.starts_with("serial 0 (sealed into the image)\n"), "{out}");
    let (out, _) = workstation.expect(0, &["key", "bundle", "fetch", "-N", &file]);
    assert!(out.contains("dry run") && !std::path::Path::new(&file).exists(), "{out}");
    workstation.expect(0, &["key", "bundle", "fetch", &file]);
    workstation.expect(4, &["key", "bundle", "fetch", "-N", &file]);
    workstation.expect(4, &["key", "bundle", "fetch", &file]);
    let until = ["--guests", "web*", "--until", "2030-01-01"];
    workstation.expect(0, &[&["key", "add", &file, "carol", &carol], &until[..]].concat());
    workstation.expect(4, &["key", "add", &file, "carol", &carol2]);
    workstation.expect(2, &["key", "add", &file, "dave", &carol2, "--until", "soon"]);

    workstation.expect(0, &["key", "bundle", "make", &file, &bundle]);
    let (_, error) = workstation.expect(5, &["key", "bundle", "push", &bundle]);
    assert!(error.contains("signed by 0 of the 1 root keys"), "{error}");
    workstation.expect(2, &["key", "bundle", "sign", &bundle]);
    workstation.expect(0, &["key", "bundle", "sign", "-i", &owner, &bundle]);
    let (out, _) = workstation.expect(0, &["key", "bundle", "show", &bundle]);
    assert!(out.contains(" has signed\n") && out.contains("carol") && out.contains("2030-01-01T00:00:00Z"));
    let (out, _) = workstation.expect(0, &["key", "bundle", "push", "--dry-run", &bundle]);
    assert!(out.contains("dry run"), "{out}");
    workstation.expect(0, &["key", "bundle", "push", &bundle]);
    {
        let world = node.state.lock().unwrap();
        let holds = world.trust.as_ref().unwrap().bundle();
        assert_eq!((holds.serial, holds.grants.len()), (2, 2));
        assert_eq!(holds.grants[1].guests, Scope::Named(vec!["web*".into()]));
    }
    let (_, error) = workstation.expect(5, &["key", "bundle", "push", &bundle]);
    assert!(error.contains("not newer than serial 2"), "{error}");

    let second = path("second.bundle");
    workstation.expect(0, &["key", "rotate", &file, "carol", &carol2, "--overlap-days", "2"]);
    workstation.expect(0, &["key", "bundle", "make", &file, &second]);
    workstation.expect(0, &["key", "bundle", "sign", "-i", &owner, &second]);
    workstation.expect(0, &["key", "bundle", "push", &second]);
    let role = |number: u8| {
        let public = key(number).verifying_key().to_bytes();
        node.state.lock().unwrap().trust.as_ref().unwrap().role(&public)
    };
    assert_eq!((role(3), role(4)), (Some(Role::Operator), Some(Role::Operator)));

    let third = path("third.bundle");
    workstation.expect(0, &["key", "revoke", &file, "carol"]);
    workstation.expect(3, &["key", "revoke", &file, "carol"]);
    workstation.expect(0, &["key", "bundle", "make", &file, &third]);
    workstation.expect(0, &["key", "bundle", "sign", "-i", &owner, &third]);
    workstation.expect(0, &["key", "bundle", "push", &third]);
    assert_eq!((role(3), role(4)), (Some(Role::Operator), None));
    let (out, _) = workstation.expect(0, &["key", "bundle", "show", "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(shown["serial"], 4);
    assert_eq!(shown["revoked"][0], hex::encode(key(4).verifying_key().to_bytes()));
}

#[test]
fn an_entry_by_whom_nobody_trusted_then_is_named() {
    let (_node, workstation, owner) = sealed();
    let path = |name: &str| as_text(&workstation.directory.path().join(name)).to_string();
    let (_, carol) = write_key(&workstation, "carol", 3);
    let own = PublicKey::of(&operator(), "ann");
    let toml = workstation.file(
        "node.toml",
        &format!("name = \"fake\"\nport = 7411\noperators = [ {{ key = \"{own}\", role = \"admin\" }} ]\n"),
    );
    let (file, first, second) = (path("trust.toml"), path("first.bundle"), path("second.bundle"));
    let root = format!("{owner}.pub");
    workstation.expect(0, &["key", "bundle", "fetch", &file]);
    workstation.expect(0, &["key", "add", &file, "carol", &carol, "--role", "admin"]);
    let bring = |bundle: &str| {
        workstation.expect(0, &["key", "bundle", "make", &file, bundle]);
        workstation.expect(0, &["key", "bundle", "sign", "-i", &owner, bundle]);
        workstation.expect(0, &["key", "bundle", "push", bundle]);
    };
    let copy = path("copy.json");
    bring(&first);
    workstation.expect(0, &["audit", "verify", "--save", &copy]);
    let verify = |code, more: &[&str]| {
        let base = ["audit", "verify", "--file", &copy, "--root", &root];
        workstation.expect(code, &[&base[..], more].concat())
    };
    let sealed = ["--sealed", as_text(&toml)];
    let (out, _) = verify(0, &[&sealed[..], &["--bundle", &first]].concat());
    assert!(out.contains("trust     by what was sealed and bundles 0, 2\n"), "{out}");
    // What was sealed is not known, or a bundle that came is not.
    let (_, error) = verify(13, &["--bundle", &first]);
    assert!(error.contains("entry 0 was signed by ") && error.contains("what was sealed does not name"));
    let (_, error) = verify(13, &sealed);
    assert!(error.contains("entry 0 brought a trust bundle that is not among those given"), "{error}");
    // A node that goes on to obey a key that was revoked.
    let own_key = own.to_string();
    workstation.expect(0, &["key", "revoke", &file, &own_key]);
    bring(&second);
    workstation.expect(0, &["storage", "reserve", "aoe:e1.1"]);
    let bundles = ["--bundle", &second, "--bundle", &first];
    let trust = [&["--root", root.as_str()], &sealed[..], &bundles[..]].concat();
    let (out, error) = workstation.expect(13, &[&["audit", "verify"], &trust[..]].concat());
    assert!(out.contains("verdict   broken"), "{out}");
    assert!(error.contains("entry 2 was signed by "), "{error}");
    assert!(error.contains("who was not trusted then: trust bundle 3 revokes the key"), "{error}");
    // Without the owner's key nothing is judged; with another's, no bundle follows.
    workstation.expect(0, &["audit", "verify"]);
    workstation.expect(2, &["audit", "verify", "--bundle", &first]);
    let (_, error) = workstation.expect(13, &["audit", "verify", "--root", &carol, "--bundle", &first]);
    assert!(error.contains("first.bundle: the trust bundle is signed by 0 of the 1 root keys"), "{error}");
}

#[test]
fn a_node_s_new_key_is_followed_from_the_one_that_was_known() {
    let (node, workstation, _) = sealed();
    let (_, note) = workstation.expect(0, &["node", "key", "show"]);
    assert!(note.contains("first contact"), "{note}");
    let first = hex::encode(node.identity.verifying_key().to_bytes());
    workstation.expect(0, &["storage", "reserve", "aoe:e1.1"]);
    let (out, note) = workstation.expect(0, &["node", "key", "rotate"]);
    assert!(out.ends_with(": node key rotate done\n"), "{out}");
    assert!(note.contains("which the one before has signed"), "{note}");
    // It is remembered now, in the place of the old one.
    assert_eq!(workstation.expect(0, &["list"]).1, "");
    let (out, _) = workstation.expect(0, &["node", "key", "show", "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(shown["before"], serde_json::json!([first]));
    let second = shown["node_key"].as_str().unwrap().to_string();
    // Who has the old one pinned is told; who has a wrong one is refused.
    let (_, note) = workstation.expect(0, &["--node-key", &first, "list"]);
    assert!(note.contains(&format!("has the key {second} now")), "{note}");
    workstation.expect(5, &["--node-key", &"ab".repeat(32), "list"]);
    // The log goes on under both; a copy can be checked by who knows either.
    workstation.expect(0, &["storage", "reserve", "aoe:e1.2"]);
    let copy = as_text(&workstation.directory.path().join("copy.json")).to_string();
    workstation.expect(0, &["audit", "verify", "--save", &copy]);
    let offline = ["audit", "verify", "--file", &copy, "--node-key"];
    for key in [&first, &second] {
        workstation.expect(0, &[&offline[..], &[key]].concat());
    }
    let text = std::fs::read_to_string(&copy).unwrap();
    std::fs::write(&copy, text.replacen(&first, &"ab".repeat(32), 1)).unwrap();
    workstation.expect(13, &[&offline[..], &[&second]].concat());
    // A key that none before signed is refused, and the known one stays.
    node.state.lock().unwrap().node_keys = vec![SigningKey::from_bytes(&[0x99; 32])];
    let (_, error) = workstation.expect(5, &["list"]);
    assert!(error.contains("either its key is not SHA256:") && error.contains("--accept-new-key"), "{error}");
    assert!(error.contains("it does not trust this key"), "{error}");
}

#[test]
fn two_of_three_roots_take_over_from_one() {
    let (node, workstation, owner) = sealed();
    let path = |name: &str| as_text(&workstation.directory.path().join(name)).to_string();
    let (file, bundle) = (path("trust.toml"), path("roots.bundle"));
    let roots: Vec<_> =
        (5..8).map(|number| write_key(&workstation, &format!("root{number}"), number)).collect();
    workstation.expect(0, &["key", "bundle", "fetch", &file]);
    let lines: Vec<String> = roots
        .iter()
        .map(|(_, public)| format!("{:?}", std::fs::read_to_string(public).unwrap().trim()))
        .collect();
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace("threshold = 1", "threshold = 2");
    let (start, rest) = text.split_once("roots = [").unwrap();
    let (_, end) = rest.split_once(']').unwrap();
    std::fs::write(&file, format!("{start}roots = [{}]{end}", lines.join(", "))).unwrap();
    workstation.expect(0, &["key", "bundle", "make", &file, &bundle]);
    workstation.expect(0, &["key", "bundle", "sign", "-i", &roots[0].0, &bundle]);
    workstation.expect(0, &["key", "bundle", "sign", "-i", &roots[2].0, &bundle]);
    let (_, error) = workstation.expect(5, &["key", "bundle", "push", &bundle]);
    assert!(error.contains("signed by 0 of the 1 root keys"), "{error}");
    let (_, error) = workstation.expect(0, &["key", "bundle", "sign", "-i", &owner, &bundle]);
    assert!(error.contains("is no root of the bundle itself"), "{error}");
    workstation.expect(0, &["key", "bundle", "push", &bundle]);
    assert_eq!(node.state.lock().unwrap().trust.as_ref().unwrap().bundle().threshold, 2);
    // Something else is no bundle.
    let (_, error) = workstation.expect(13, &["key", "bundle", "show", &file]);
    assert!(error.contains("trust.toml"), "{error}");
}

#[test]
fn a_key_under_a_passphrase_signs_when_it_is_told_it() {
    let node = FakeNode::start(&operator());
    let workstation = Workstation::new(&node);
    let key = workstation.directory.path().join("redoubt/operator.key");
    let word = workstation.file("word", "correct horse\n");
    std::fs::set_permissions(&word, std::fs::Permissions::from_mode(0o600)).unwrap();
    let run = |word: &std::path::Path, arguments: &[&str]| {
        let mut command = workstation.command(arguments);
        let output = command.env("REDOUBT_PASSPHRASE_FILE", word).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(run(&word, &["key", "encrypt", as_text(&key)]).0, Some(0));
    let text = std::fs::read_to_string(&key).unwrap();
    assert!(text.starts_with("redoubt-ed25519-secret-v2 argon2id:"), "{text}");
    assert!(!text.contains(&hex::encode(operator().to_bytes())));
    assert_eq!(run(&word, &["list"]).0, Some(0));
    let other = workstation.file("other", "another\n");
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (code, error) = run(&other, &["list"]);
    assert!(code == Some(5) && error.contains("does not open with this passphrase"), "{error}");
    std::fs::set_permissions(&word, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(run(&word, &["list"]).0, Some(5));
}
