//! Copies of a node's audit log: fetched, kept in a file, checked anywhere.
//!
//! A copy is JSON: [`FORMAT`], a version, and everything the signatures cover. It
//! holds no secrets.

pub mod trusted;

use crate::connection::Connection;
use crate::exit;
use crate::table::Table;
use mgmt_proto::audit::{self, Entry, Head, Log};
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::node_key::{KeyLink, leads};
use mgmt_proto::units;
use mgmt_proto::verb::{Reply, Request};
use serde::{Deserialize, Serialize};
use std::path::Path;
use trusted::Trusted;

/// First field of a file that holds a copy.
pub const FORMAT: &str = "redoubt-audit";
/// Version of that file.
pub const VERSION: u32 = 1;
/// Most entries of a copy.
const ENTRIES: usize = 4_000_000;

/// A copy of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copy {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// Where the node was.
    pub node: String,
    /// Its public key, as it said.
    #[serde(with = "hex::serde")]
    pub node_key: [u8; 32],
    /// The oldest entry the node still had.
    pub oldest: u64,
    /// Where the log ended.
    pub head: HeadCopy,
    /// Entries in order.
    pub entries: Vec<EntryCopy>,
    /// From keys that the node had before to the one it has; not there without any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key_links: Vec<LinkCopy>,
    /// Whether it is the log of what was refused or failed.
    pub refused: bool,
}

/// That a node's key was followed by another one, which it signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkCopy {
    /// The key before.
    #[serde(with = "hex::serde")]
    pub from: [u8; 32],
    /// The one that followed.
    #[serde(with = "hex::serde")]
    pub to: [u8; 32],
    /// Signature by the key before.
    #[serde(with = "hex::serde")]
    pub signature: [u8; 64],
}

impl LinkCopy {
    fn new(link: &KeyLink) -> Self {
        let signature = joined(&link.signature_r, &link.signature_s);
        Self { from: link.from, to: link.to, signature }
    }

    fn link(&self) -> KeyLink {
        let (signature_r, signature_s) = halves(&self.signature);
        KeyLink { from: self.from, to: self.to, signature_r, signature_s }
    }
}

/// Where a log ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadCopy {
    /// Entries ever made.
    pub length: u64,
    /// Digest of the last.
    #[serde(with = "hex::serde")]
    pub digest: [u8; 32],
    /// The node's signature.
    #[serde(with = "hex::serde")]
    pub signature: [u8; 64],
}

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryCopy {
    /// Place in the log, from 0 at power-on.
    pub sequence: u64,
    /// Uptime.
    pub at_ns: u64,
    /// Public key of who asked.
    #[serde(with = "hex::serde")]
    pub operator: [u8; 32],
    /// The verb.
    pub verb: String,
    /// The guest or volume; may be empty.
    pub object: String,
    /// done, accepted or failed.
    pub result: String,
    /// Number of the failure's kind, 0 for none.
    pub code: u8,
    /// Public key of the node it was for.
    #[serde(with = "hex::serde")]
    pub node: [u8; 32],
    /// Nonce of the node's boot.
    #[serde(with = "hex::serde")]
    pub boot_nonce: [u8; 32],
    /// Session.
    #[serde(with = "hex::serde")]
    pub session: [u8; 32],
    /// Place in the session.
    pub counter: u64,
    /// SHA-256 of the encoded request.
    #[serde(with = "hex::serde")]
    pub request: [u8; 32],
    /// The operator's signature.
    #[serde(with = "hex::serde")]
    pub signature: [u8; 64],
    /// Digest of the entry before; zero for the first.
    #[serde(with = "hex::serde")]
    pub previous: [u8; 32],
    /// How many commands it stands for.
    pub count: u32,
}

/// What a check of a copy found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Where the node was.
    pub node: String,
    /// The key that was checked against.
    pub node_key: String,
    /// intact or broken.
    pub verdict: &'static str,
    /// The first thing that is wrong, or null.
    pub fault: Option<String>,
    /// Entries that were checked.
    pub entries: u64,
    /// Sequence number of the first of them.
    pub first: u64,
    /// Entries ever made.
    pub length: u64,
    /// Fingerprints of who signed.
    pub operators: Vec<String>,
    /// Serials of the trust bundles by which they were judged, or null: not judged.
    pub bundles: Option<Vec<u64>>,
    /// Everything that is wrong: a broken log ends it, entries that nobody might sign do not.
    pub faults: Vec<String>,
}

fn halves(signature: &[u8; 64]) -> ([u8; 32], [u8; 32]) {
    let (mut r, mut s) = ([0; 32], [0; 32]);
    let (first, second) = signature.split_at(32);
    r.copy_from_slice(first);
    s.copy_from_slice(second);
    (r, s)
}

fn joined(r: &[u8; 32], s: &[u8; 32]) -> [u8; 64] {
    let mut signature = [0; 64];
    let (first, second) = signature.split_at_mut(32);
    first.copy_from_slice(r);
    second.copy_from_slice(s);
    signature
}

impl EntryCopy {
    fn new(entry: &Entry) -> Self {
        let (result, code) = match entry.result {
            audit::Result::Done => ("done", 0),
            audit::Result::Accepted => ("accepted", 0),
            audit::Result::Failed(code) => ("failed", code as u8),
        };
        Self {
            sequence: entry.sequence,
            at_ns: entry.at_ns,
            operator: entry.operator,
            verb: entry.verb.clone(),
            object: entry.object.clone(),
            result: result.into(),
            code,
            node: entry.node,
            boot_nonce: entry.boot_nonce,
            session: entry.session,
            counter: entry.counter,
            request: entry.request,
            signature: joined(&entry.signature_r, &entry.signature_s),
            previous: entry.previous,
            count: entry.count,
        }
    }

    /// None when the result is none that a node writes.
    fn entry(&self) -> Option<Entry> {
        let result = match (self.result.as_str(), self.code) {
            ("done", 0) => audit::Result::Done,
            ("accepted", 0) => audit::Result::Accepted,
            ("failed", number) => audit::Result::Failed(exit::from_number(number)?),
            _ => return None,
        };
        let (signature_r, signature_s) = halves(&self.signature);
        Some(Entry {
            sequence: self.sequence,
            at_ns: self.at_ns,
            operator: self.operator,
            node: self.node,
            boot_nonce: self.boot_nonce,
            session: self.session,
            counter: self.counter,
            request: self.request,
            signature_r,
            signature_s,
            verb: self.verb.clone(),
            object: self.object.clone(),
            result,
            previous: self.previous,
            count: self.count,
        })
    }
}

impl Copy {
    /// Fetches a log from an entry on, to its end.
    ///
    /// # Errors
    /// Of the node, or the way to it.
    pub fn fetch(connection: &mut Connection, log: Log, from: u64) -> Result<Self, Failure> {
        let mut entries: Vec<EntryCopy> = Vec::new();
        let (mut next, mut oldest) = (from, None);
        loop {
            let Reply::Audit(page) = connection.request(Request::AuditRead { log, from: next })? else {
                return Err(connection.unexpected());
            };
            let oldest = *oldest.get_or_insert(page.oldest);
            let last = page.entries.last().map(|entry| entry.sequence);
            entries.extend(page.entries.iter().map(EntryCopy::new));
            match last {
                // A node that does not advance has an end, too.
                Some(last)
                    if last >= next
                        && last.saturating_add(1) < page.head.length
                        && entries.len() < ENTRIES =>
                {
                    next = last.saturating_add(1);
                }
                _ => {
                    let Head { length, digest, signature_r, signature_s } = page.head;
                    // Only a node that has had another key says which.
                    let node = *connection.node();
                    let links = match entries.iter().any(|entry| entry.node != node) {
                        true => connection.key_links()?,
                        false => Vec::new(),
                    };
                    return Ok(Self {
                        format: FORMAT.into(),
                        version: VERSION,
                        node: connection.address().into(),
                        node_key: *connection.node(),
                        oldest,
                        head: HeadCopy { length, digest, signature: joined(&signature_r, &signature_s) },
                        entries,
                        key_links: links.iter().map(LinkCopy::new).collect(),
                        refused: log == Log::Refusals,
                    });
                }
            }
        }
    }

    /// Reads a copy from a file.
    ///
    /// # Errors
    /// Says what it is that is no copy.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read(path).map_err(|error| exit::file(path, &error))?;
        let origin = path.display().to_string();
        let value: serde_json::Value = serde_json::from_slice(&text)
            .map_err(|error| exit::usage(&origin, format!("is no copy of an audit log: {error}"), ""))?;
        if value.get("format").and_then(serde_json::Value::as_str) != Some(FORMAT) {
            let remedy = "make one with `redoubt audit verify --save FILE`";
            return Err(exit::usage(&origin, "is no copy of an audit log", remedy));
        }
        let version = value.get("version").and_then(serde_json::Value::as_u64);
        if version != Some(VERSION.into()) {
            let message = format!("has version {} and not {VERSION}", version.unwrap_or_default());
            return Err(Failure::new(Code::Version, &origin, message, "use the redoubt that made it"));
        }
        serde_json::from_value(value)
            .map_err(|error| Failure::new(Code::Integrity, &origin, error.to_string(), "the copy is damaged"))
    }

    /// Checks the chain, every signature and the end against the node's key, and, where
    /// that is given, that who signed was trusted then.
    #[must_use]
    pub fn verify(&self, node_key: &[u8; 32], trusted: Option<&Trusted>) -> Report {
        let links: Vec<KeyLink> = self.key_links.iter().map(LinkCopy::link).collect();
        // Who knows a key from before follows to the one that signed the end.
        let node_key = if leads(&links, node_key, &self.node_key) { &self.node_key } else { node_key };
        let faults = self.faults(node_key, &links, trusted);
        let mut operators: Vec<String> =
            self.entries.iter().map(|entry| keys::public::fingerprint(&entry.operator)).collect();
        operators.sort();
        operators.dedup();
        Report {
            node: self.node.clone(),
            node_key: hex::encode(node_key),
            verdict: if faults.is_empty() { "intact" } else { "broken" },
            fault: faults.first().cloned(),
            entries: self.entries.len() as u64,
            first: self.entries.first().map_or(self.head.length, |entry| entry.sequence),
            length: self.head.length,
            operators,
            bundles: trusted.map(Trusted::serials),
            faults,
        }
    }

    fn faults(&self, node_key: &[u8; 32], links: &[KeyLink], trusted: Option<&Trusted>) -> Vec<String> {
        let mut entries = Vec::with_capacity(self.entries.len());
        for copy in &self.entries {
            let Some(entry) = copy.entry() else {
                return vec![format!("entry {} has a result that no node writes", copy.sequence)];
            };
            entries.push(entry);
        }
        let last = match audit::verify(&entries) {
            Ok(last) => last,
            Err(fault) => return vec![fault.to_string()],
        };
        let mut own = vec![*node_key];
        let foreign = entries.iter().find(|entry| {
            let is_own = own.contains(&entry.node) || leads(links, &entry.node, node_key);
            if is_own && own.last() != Some(&entry.node) {
                own.push(entry.node);
            }
            !is_own
        });
        if let Some(entry) = foreign {
            return vec![format!("entry {} was signed for another node", entry.sequence)];
        }
        let (signature_r, signature_s) = halves(&self.head.signature);
        let head = Head { length: self.head.length, digest: self.head.digest, signature_r, signature_s };
        let length = entries.last().map_or(0, |entry| entry.sequence.saturating_add(1));
        if length < head.length {
            let missing = head.length - length;
            return vec![format!("{missing} entries at the end are missing, from {length} on")];
        }
        let log = if self.refused { Log::Refusals } else { Log::Effects };
        if let Err(fault) = head.verify(node_key, log, length, &last) {
            return vec![fault.to_string()];
        }
        // When which bundle held is told by the log of effects alone.
        trusted.filter(|_| !self.refused).map(|trusted| trusted.faults(&entries)).unwrap_or_default()
    }

    /// As `audit show` prints it.
    #[must_use]
    pub fn table(&self, wide: bool) -> Table {
        let mut headers = vec![">Seq", ">Uptime(s)", "Operator", "Verb", "Object", "Result"];
        if self.refused {
            headers.push(">Times");
        }
        if wide {
            headers.extend(["Session", ">Counter", "Request"]);
        }
        let mut table = Table::new(&headers);
        for entry in &self.entries {
            let result = match entry.code {
                0 => entry.result.clone(),
                code => format!("{} ({code})", entry.result),
            };
            let object = if entry.object.is_empty() { "-" } else { &entry.object };
            let mut row = vec![
                entry.sequence.to_string(),
                units::seconds(entry.at_ns),
                keys::public::fingerprint(&entry.operator),
                entry.verb.clone(),
                object.into(),
                result,
            ];
            if self.refused {
                row.push(entry.count.to_string());
            }
            if wide {
                row.extend([short(&entry.session), entry.counter.to_string(), short(&entry.request)]);
            }
            table.push(row);
        }
        table
    }
}

fn short(digest: &[u8; 32]) -> String {
    hex::encode(digest).chars().take(16).collect()
}

impl Report {
    /// The same for people.
    #[must_use]
    pub fn lines(&self) -> String {
        let last = self.length.checked_sub(1);
        let range = match last {
            Some(last) if self.entries > 0 => format!("{} ({} to {last})", self.entries, self.first),
            _ => self.entries.to_string(),
        };
        let mut lines = vec![
            ("node", self.node.clone()),
            ("node key", self.node_key.clone()),
            ("entries", range),
            ("verdict", self.verdict.to_string()),
        ];
        lines.extend(self.faults.iter().map(|fault| ("fault", fault.clone())));
        lines.extend(self.bundles.iter().map(|serials| {
            let serials: Vec<String> = serials.iter().map(ToString::to_string).collect();
            ("trust", format!("by what was sealed and bundles {}", serials.join(", ")))
        }));
        lines.extend(self.operators.iter().map(|operator| ("operator", operator.clone())));
        lines.iter().map(|(name, value)| format!("{name:<9} {value}\n")).collect()
    }
}
