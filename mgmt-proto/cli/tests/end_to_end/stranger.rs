//! A client in another language, written from PROTOCOL.md alone: `mgmt-proto/tests/client.py`.

use crate::fake::{FakeNode, identity, operator, with_guest};
use ed25519_dalek::SigningKey;
use mgmt_proto::trust::Trust;
use std::path::PathBuf;
use std::process::Command;

fn client(arguments: &[&str]) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/client.py");
    let output = Command::new("python3").arg(path).args(arguments).output();
    let output = output.expect("python3, which this test needs: install it");
    let (out, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{out}{error}");
    out
}

fn hex_of(key: &SigningKey) -> String {
    hex::encode(key.to_bytes())
}

#[test]
fn the_document_and_its_vectors_are_enough_for_another_language() {
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/../src/vectors");
    let out = client(&["vectors", vectors]);
    assert!(out.ends_with("handshake.txt 3\n"), "{out}");
}

#[test]
fn a_client_in_another_language_does_every_viewer_verb_and_a_change() {
    let (node, workstation) = with_guest("");
    workstation.expect(0, &["shutdown", "web"]);
    prepare(&node);
    let (address, port) = node.address.split_once(':').unwrap();
    let public = hex::encode(identity().verifying_key().to_bytes());
    let out = client(&["talk", address, port, &public, &hex_of(&operator()), "web"]);
    for line in [
        "NodeInfo Node",
        "NodeLog Stream",
        "BlobMissing Missing",
        "List Guests",
        "TrustShow Trust",
        "StateShow State",
        "JobList Jobs",
        "GuestShow Guest",
        "Revision Revision",
        "Unpause Done",
        "Unpause NotFound no guest has that name",
        "state Running",
        "audit unpause web Done",
        "audit unpause nobody Failed",
    ] {
        assert!(out.lines().any(|said| said == line), "no {line}: {out}");
    }
    assert!(!out.contains("failed"), "{out}");
}

/// Whom it listens to, so that it can be asked.
fn prepare(node: &FakeNode) {
    let mut state = node.state.lock().unwrap();
    state.trust = Some(Trust::sealed([1; 32], &[], "fake"));
}
