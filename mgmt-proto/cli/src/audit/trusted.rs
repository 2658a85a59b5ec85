//! Whether those who signed a log were trusted then.
//!
//! The log itself says when a trust bundle came: an entry holds the digest of the
//! request that brought it. So, from what was sealed into the image and the bundles
//! that followed, it is known for each entry who was trusted; a clock is not needed,
//! and the log has none. Of a grant's time only this is judged, that it had not
//! ended when the bundle was issued.

use crate::exit;
use keys::PublicKey;
use mgmt_proto::audit::{Entry, Result as Recorded};
use mgmt_proto::bundle::{self, Bundle, Grant, Refused, Scope};
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::envelope;
use mgmt_proto::trust::Role;
use mgmt_proto::verb::Request;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A bundle, and the digest of the request that brings it.
#[derive(Clone, Debug)]
struct Link {
    request: [u8; 32],
    bundle: Bundle,
}

/// What was sealed, and the bundles that followed.
#[derive(Clone, Debug)]
pub struct Trusted {
    links: Vec<Link>,
    /// The node's name, where it is known: grants may be for other nodes.
    node: Option<String>,
}

/// Of `node.toml`, what was sealed about operators.
#[derive(Deserialize)]
struct Sealed {
    name: Option<String>,
    operators: Vec<Operator>,
}

#[derive(Deserialize)]
struct Operator {
    key: Option<String>,
    key_file: Option<PathBuf>,
}

/// Which links may hold, first and last.
#[derive(Clone, Copy, Debug)]
struct Holds {
    first: usize,
    last: usize,
}

impl Trusted {
    /// From files: the owner's public key, the `node.toml` that was sealed, and bundles in
    /// any order.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn load(root: &Path, sealed: Option<&Path>, bundles: &[PathBuf]) -> Result<Self, Failure> {
        let root = PublicKey::load(root).map_err(|error| exit::key(&error))?;
        let (mut node, mut operators) = (None, Vec::new());
        if let Some(path) = sealed {
            let text = std::fs::read_to_string(path).map_err(|error| exit::file(path, &error))?;
            let origin = path.display().to_string();
            let sealed: Sealed =
                toml::from_str(&text).map_err(|error| exit::usage(&origin, error.to_string(), ""))?;
            let directory = path.parent().unwrap_or(Path::new(""));
            for operator in sealed.operators {
                let key = match (operator.key, operator.key_file) {
                    (Some(text), None) => PublicKey::parse(&text, &origin),
                    (None, Some(file)) => PublicKey::load(&directory.join(file)),
                    _ => {
                        let message = "has an operator without one key";
                        return Err(exit::usage(&origin, message, "give key or key_file"));
                    }
                };
                operators.push(key.map_err(|error| exit::key(&error))?.bytes);
            }
            node = sealed.name;
        }
        let mut trusted = Self::sealed(root.bytes, &operators, node);
        let mut files = Vec::new();
        for path in bundles {
            let signed = std::fs::read(path).map_err(|error| exit::file(path, &error))?;
            let bundle = bundle::split(&signed).and_then(|(bytes, _)| Bundle::decode(bytes));
            let serial = bundle.map_err(|refused| refusal(path, refused))?.serial;
            files.push((serial, path, signed));
        }
        files.sort_by_key(|(serial, ..)| *serial);
        for (_, path, signed) in files {
            trusted.follow(&signed).map_err(|refused| refusal(path, refused))?;
        }
        Ok(trusted)
    }

    /// What was sealed into the image: the owner's root key, operators, the node's name.
    #[must_use]
    pub fn sealed(root: [u8; 32], operators: &[[u8; 32]], node: Option<String>) -> Self {
        let grant = |key: &[u8; 32]| Grant {
            key: *key,
            role: Role::Viewer,
            nodes: Scope::All,
            guests: Scope::All,
            not_before_s: 0,
            not_after_s: 0,
            name: "sealed".into(),
        };
        let bundle = Bundle {
            version: bundle::VERSION,
            serial: 0,
            issued_s: 0,
            roots: vec![root],
            threshold: 1,
            grants: operators.iter().map(grant).collect(),
            revoked: Vec::new(),
        };
        Self { links: vec![Link { request: [0; 32], bundle }], node }
    }

    /// Adds the bundle that came next.
    ///
    /// # Errors
    /// It does not follow: the roots that held have not signed it.
    pub fn follow(&mut self, signed: &[u8]) -> Result<(), Refused> {
        let last = self.links.last().ok_or(Refused::Unsound)?;
        let bundle = last.bundle.signed_successor(signed)?;
        let request = Request::TrustUpdate { signed: signed.to_vec() };
        let request = envelope::request_digest(&request).ok_or(Refused::Length)?;
        self.links.push(Link { request, bundle });
        Ok(())
    }

    /// Serials of the bundles, from the sealed one on.
    #[must_use]
    pub fn serials(&self) -> Vec<u64> {
        self.links.iter().map(|link| link.bundle.serial).collect()
    }

    fn position(&self, entry: &Entry) -> Option<usize> {
        let brings = |link: &Link| link.bundle.serial > 0 && link.request == entry.request;
        self.links.iter().position(brings)
    }

    /// What may hold before the first entry: what was sealed, or, where older entries are
    /// not there, whatever came before the first bundle that the log tells of.
    fn at_first(&self, entries: &[Entry]) -> Holds {
        let newest = self.links.len().saturating_sub(1);
        let brought = entries.iter().find_map(|entry| self.position(entry));
        match entries.first() {
            Some(first) if first.sequence > 0 => {
                Holds { first: 0, last: brought.map_or(newest, |at| at.saturating_sub(1)) }
            }
            _ => Holds { first: 0, last: 0 },
        }
    }

    /// What may hold after an entry; a failure names a bundle that was not given.
    fn after(&self, entry: &Entry, holds: Holds) -> Result<Holds, String> {
        let brought = match entry.result {
            Recorded::Done | Recorded::Accepted => true,
            // It holds, but is not kept: a power cut brings back what held before.
            Recorded::Failed(Code::Storage | Code::Deadline) => true,
            Recorded::Failed(_) => false,
        };
        match entry.verb.as_str() {
            "trust update" if brought => match self.position(entry) {
                Some(at) if matches!(entry.result, Recorded::Failed(_)) => {
                    Ok(Holds { last: at.max(holds.last), ..holds })
                }
                Some(at) => Ok(Holds { first: at, last: at }),
                None => Err(format!(
                    "entry {} brought a trust bundle that is not among those given",
                    entry.sequence
                )),
            },
            // A configuration may have brought later bundles.
            "config import" if brought => Ok(Holds { last: self.links.len().saturating_sub(1), ..holds }),
            _ => Ok(holds),
        }
    }

    /// The first entry that somebody signed who was not trusted then, in words.
    #[must_use]
    pub fn fault(&self, entries: &[Entry]) -> Option<String> {
        let mut holds = self.at_first(entries);
        for entry in entries {
            let held = self.links.get(holds.first..=holds.last).unwrap_or_default();
            if !held.iter().any(|link| self.denied(&link.bundle, &entry.operator).is_none()) {
                let bundle = held.last().map(|link| &link.bundle)?;
                let why = self.denied(bundle, &entry.operator).unwrap_or_default();
                let who = keys::public::fingerprint(&entry.operator);
                let under = match bundle.serial {
                    0 => "what was sealed".into(),
                    serial => format!("trust bundle {serial}"),
                };
                let sequence = entry.sequence;
                return Some(format!(
                    "entry {sequence} was signed by {who}, who was not trusted then: {under} {why}"
                ));
            }
            match self.after(entry, holds) {
                Ok(after) => holds = after,
                Err(fault) => return Some(fault),
            }
        }
        None
    }

    /// Why a key may not command anything under a bundle, if it may not.
    fn denied(&self, bundle: &Bundle, key: &[u8; 32]) -> Option<&'static str> {
        let elsewhere = |grant: &Grant| self.node.as_ref().is_some_and(|node| !grant.nodes.covers(node));
        let grant = bundle.grants.iter().find(|grant| grant.key == *key);
        match grant {
            _ if bundle.revoked.contains(key) => Some("revokes the key"),
            None => Some("does not name the key"),
            Some(grant) if grant.not_after_s != 0 && bundle.issued_s >= grant.not_after_s => {
                Some("was issued after the key's time")
            }
            Some(grant) if elsewhere(grant) => Some("names the key for other nodes"),
            Some(_) => None,
        }
    }
}

fn refusal(path: &Path, refused: Refused) -> Failure {
    let remedy = "give each bundle once, and those before it that changed the roots";
    let message = format!("the trust bundle {refused}");
    Failure::new(Code::Integrity, path.display().to_string(), message, remedy)
}

#[cfg(test)]
mod tests {
    use super::Trusted;
    use ed25519_dalek::{Signer as _, SigningKey};
    use mgmt_proto::audit::{Entry, Result as Recorded};
    use mgmt_proto::bundle::{self, Bundle, Grant, Refused, Scope};
    use mgmt_proto::code::Code;
    use mgmt_proto::envelope::{self, Binding, Proof};
    use mgmt_proto::trust::Role;
    use mgmt_proto::verb::Request;

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn public(number: u8) -> [u8; 32] {
        key(number).verifying_key().to_bytes()
    }

    /// Signed by `root`, granting these and revoking those.
    fn signed(root: u8, serial: u64, granted: &[u8], revoked: &[u8]) -> Vec<u8> {
        let grant = |number: &u8| Grant {
            key: public(*number),
            role: Role::Admin,
            // Key 14 is for other nodes.
            nodes: if *number == 14 { Scope::Named(vec!["other".into()]) } else { Scope::All },
            guests: Scope::All,
            not_before_s: 0,
            // Key 13 had its time.
            not_after_s: if *number == 13 { 5 } else { 0 },
            name: "n".into(),
        };
        let bundle = Bundle {
            version: bundle::VERSION,
            serial,
            issued_s: 10,
            roots: vec![public(1)],
            threshold: 1,
            grants: granted.iter().map(grant).collect(),
            revoked: revoked.iter().map(|number| public(*number)).collect(),
        };
        let bytes = bundle.encode().unwrap();
        let signature = key(root).sign(&bundle::message(&bytes)).to_bytes();
        bundle::assemble(&bytes, &[(public(root), signature)]).unwrap()
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
        let mut trusted = Trusted::sealed(public(1), &[public(10)], Some("node".into()));
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
        assert_eq!(trusted.fault(&good), None);
        let with = |at: usize, entry: Entry| {
            let mut entries = good.to_vec();
            entries[at] = entry;
            trusted.fault(&entries).unwrap_or_default()
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
        let mut trusted = Trusted::sealed(public(1), &[public(10)], Some("node".into()));
        trusted.follow(&first).unwrap();
        trusted.follow(&second).unwrap();
        // Older entries are not there: what came before the first bundle may have held.
        assert_eq!(trusted.fault(&[did(70, 10), did(71, 11), did(72, 12)]), None);
        let late = [did(70, 11), brought(71, 11, &second, Recorded::Done), did(72, 12)];
        assert_eq!(trusted.fault(&late), None);
        assert!(trusted.fault(&[did(70, 12), late[1].clone()]).is_some());
        // A bundle that was not kept may be gone after a power cut.
        let lost = brought(0, 10, &first, Recorded::Failed(Code::Storage));
        assert_eq!(trusted.fault(&[lost, did(1, 11), did(2, 10)]), None);
        let import = entry(0, 10, "config import", [5; 32], Recorded::Accepted);
        assert_eq!(trusted.fault(&[import, did(1, 12)]), None);
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
}
