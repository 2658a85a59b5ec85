//! Whether those who signed a log were trusted then, with what they did.
//!
//! The log itself says when a trust bundle came: an entry holds the digest of the
//! request that brought it. So, from what was sealed into the image and the bundles
//! that followed, it is known for each entry what held, and each is judged by it as the
//! node does: key, node, role, guest. What was refused for lack of a role or a guest was
//! no more than asked. The log has no time of day. A grant's time is over that had ended
//! when the bundle was issued, or at a time that the node's clock had surely passed: an
//! entry by a key whose time began at a certain moment is later than that, and so is what
//! follows in the same boot.

use crate::exit;
use keys::PublicKey;
use mgmt_proto::audit::{Entry, Result as Recorded};
use mgmt_proto::bundle::{self, Bundle, Denied, Lacks, Refused, Scope};
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::envelope;
use mgmt_proto::trust::{Operator, Role, Trust};
use mgmt_proto::verb::{self, Request};
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
    operators: Vec<SealedOperator>,
}

#[derive(Deserialize)]
struct SealedOperator {
    key: Option<String>,
    key_file: Option<PathBuf>,
    role: Role,
}

impl SealedOperator {
    /// The operator; key files are beside `path`.
    fn read(&self, path: &Path) -> Result<Operator, Failure> {
        let origin = path.display().to_string();
        let key = match (&self.key, &self.key_file) {
            (Some(text), None) => PublicKey::parse(text, &origin),
            (None, Some(file)) => PublicKey::load(&path.parent().unwrap_or(Path::new("")).join(file)),
            _ => {
                let message = "has an operator without one key";
                return Err(exit::usage(&origin, message, "give key or key_file"));
            }
        };
        Ok(Operator { key: key.map_err(|error| exit::key(&error))?.bytes, role: self.role })
    }
}

/// What is known after some entries.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Which links may hold, first and last.
    first: usize,
    last: usize,
    /// A time that the node's clock had reached.
    reached: Option<Reached>,
    /// The node obeys nothing but what rescues it.
    locked: bool,
}

/// The node's clock was not behind `clock_s` at this uptime of this boot.
#[derive(Clone, Copy, Debug)]
struct Reached {
    boot_nonce: [u8; 32],
    at_ns: u64,
    clock_s: u64,
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
            for operator in sealed.operators {
                operators.push(operator.read(path)?);
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
    pub fn sealed(root: [u8; 32], operators: &[Operator], node: Option<String>) -> Self {
        let bundle = Trust::sealed(root, operators, "").bundle().clone();
        Self { links: vec![Link { request: [0; 32], bundle }], node }
    }

    /// Adds the bundle that came next.
    ///
    /// # Errors
    /// It does not follow: the roots that held have not signed it.
    pub fn follow(&mut self, signed: &[u8]) -> Result<(), Refused> {
        let last = self.links.last().ok_or(Refused::Unsound)?;
        let mut bundle = last.bundle.signed_successor(signed)?;
        if self.node.is_none() {
            // Which node it is about is not known.
            bundle.grants.iter_mut().for_each(|grant| grant.nodes = Scope::All);
        }
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
    fn at_first(&self, entries: &[Entry]) -> Known {
        let newest = self.links.len().saturating_sub(1);
        let brought = entries.iter().find_map(|entry| self.position(entry));
        let last = match entries.first() {
            Some(first) if first.sequence > 0 => brought.map_or(newest, |at| at.saturating_sub(1)),
            _ => 0,
        };
        Known { first: 0, last, reached: None, locked: false }
    }

    /// What is known after an entry; a failure names a bundle that was not given.
    fn after(&self, entry: &Entry, known: Known) -> Result<Known, String> {
        let (held, kept) = match entry.result {
            Recorded::Done | Recorded::Accepted => (true, true),
            // It holds, but is not kept: a power cut brings back what held before.
            Recorded::Failed(Code::Storage | Code::Deadline) => (true, false),
            Recorded::Failed(_) => (false, false),
        };
        match entry.verb.as_str() {
            "trust update" if held => match self.position(entry) {
                Some(at) if !kept => Ok(Known { last: at.max(known.last), locked: false, ..known }),
                Some(at) => Ok(Known { first: at, last: at, locked: false, ..known }),
                None => Err(format!(
                    "entry {} brought a trust bundle that is not among those given",
                    entry.sequence
                )),
            },
            // A configuration may have brought later bundles.
            "config import" if held => Ok(Known { last: self.links.len().saturating_sub(1), ..known }),
            "node lockdown" if kept => Ok(Known { locked: true, ..known }),
            _ => Ok(known),
        }
    }

    /// Every entry that no grant covered which held then, in words; the last may name a
    /// bundle that is missing, without which nothing after it can be judged.
    #[must_use]
    pub fn faults(&self, entries: &[Entry]) -> Vec<String> {
        let mut known = self.at_first(entries);
        let mut faults = Vec::new();
        for entry in entries {
            match self.judge(entry, &known) {
                Ok(reached) => known.reached = reached.or(known.reached),
                Err(fault) => faults.push(fault),
            }
            match self.after(entry, known) {
                Ok(after) => known = after,
                Err(fault) => {
                    faults.push(fault);
                    break;
                }
            }
        }
        faults
    }

    /// Judges an entry by what may have held; the time that it shows the clock had reached.
    fn judge(&self, entry: &Entry, known: &Known) -> Result<Option<Reached>, String> {
        let held = self.links.get(known.first..=known.last).unwrap_or_default();
        let verdicts: Vec<Result<u64, String>> =
            held.iter().map(|link| self.denied(&link.bundle, entry, known)).collect();
        let Some(clock_s) = verdicts.iter().flatten().min() else {
            let Some((link, Err(why))) = held.last().zip(verdicts.last()) else { return Ok(None) };
            let who = keys::public::fingerprint(&entry.operator);
            let under = match link.bundle.serial {
                0 => "what was sealed".into(),
                serial => format!("trust bundle {serial}"),
            };
            let Entry { sequence, .. } = entry;
            return Err(format!("entry {sequence} was signed by {who}, who {}", why.replace("{}", &under)));
        };
        let refused = matches!(entry.result, Recorded::Failed(Code::Refused | Code::Policy));
        let verb = verb::named(&entry.verb);
        if known.locked && !refused && verb.is_some_and(|verb| !verb.is_rescue()) {
            return Err(format!("entry {} was carried out under lockdown", entry.sequence));
        }
        let reached = Reached { boot_nonce: entry.boot_nonce, at_ns: entry.at_ns, clock_s: *clock_s };
        Ok(Some(reached).filter(|reached| reached.clock_s > 0))
    }

    /// Under a bundle: the time that the clock must have reached for this entry, 0 for any;
    /// or why it was not for whoever signed it, with `{}` in the place of the bundle.
    fn denied(&self, bundle: &Bundle, entry: &Entry, known: &Known) -> Result<u64, String> {
        let same_boot = known.reached.filter(|reached| reached.boot_nonce == entry.boot_nonce);
        let reached_s = same_boot.map_or(0, |reached| {
            reached.clock_s.saturating_add(entry.at_ns.saturating_sub(reached.at_ns) / 1_000_000_000)
        });
        // What has not begun may have begun by then: nobody knows how late it was.
        let named = bundle.grants.iter().find(|grant| grant.key == entry.operator);
        let clock_s = reached_s.max(named.map_or(0, |grant| grant.not_before_s));
        let grant = bundle.grant(&entry.operator, self.node.as_deref().unwrap_or_default(), clock_s);
        let grant = grant.map_err(|denied| {
            let why = match denied {
                _ if bundle.revoked.contains(&entry.operator) => "revokes the key",
                Denied::Unknown | Denied::Revoked => "does not name the key",
                Denied::NotYet | Denied::Expired if clock_s > bundle.issued_s => "ended the key's time",
                Denied::NotYet | Denied::Expired => "was issued after the key's time",
                Denied::OtherNode => "names the key for other nodes",
            };
            format!("was not trusted then: {{}} {why}")
        })?;
        let mut lacks = verb::named(&entry.verb)
            .and_then(|verb| grant.permits(verb.role, verb.guest(&entry.object)).err());
        match entry.result {
            // So it was answered.
            Recorded::Failed(Code::Refused) => lacks = None,
            // Lockdown comes before guests.
            Recorded::Failed(Code::Policy) => lacks = lacks.filter(|lacks| *lacks != Lacks::Guest),
            _ => {}
        }
        let (verb, object) = (&entry.verb, &entry.object);
        match lacks {
            Some(Lacks::Role(needed)) => {
                let (needed, role) = (role_name(needed), role_name(grant.role));
                Err(format!("was not {needed} then, as {verb} takes: {{}} names the key as {role}"))
            }
            Some(Lacks::Guest) => {
                Err(format!("might not {verb} {object} then: {{}} names the key for other guests"))
            }
            // Issued later, it counted from then on, whatever the clock said.
            None if clock_s > bundle.issued_s => Ok(clock_s),
            None => Ok(0),
        }
    }
}

fn role_name(role: Role) -> String {
    format!("{role:?}").to_lowercase()
}

fn refusal(path: &Path, refused: Refused) -> Failure {
    let remedy = "give each bundle once, and those before it that changed the roots";
    let message = format!("the trust bundle {refused}");
    Failure::new(Code::Integrity, path.display().to_string(), message, remedy)
}

#[cfg(test)]
mod tests;
