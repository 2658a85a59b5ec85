//! The operator's nodes, `~/.config/redoubt/fleet.toml`:
//!
//! ```toml
//! [nodes.a1]
//! address = "10.0.0.2"
//! node_key = "64 hexadecimal digits"
//! # What its owner sealed: compared while its key is not known.
//! name = "rack-a-1"
//! manifest = "64 hexadecimal digits, from `image-builder verify`"
//!
//! [nodes.a2]
//! address = "10.0.0.3:7411"
//! identity = "~/keys/a2.key"
//! fresh_identity = true
//!
//! [groups]
//! rack-a = ["a1", "a2"]
//! site = ["@rack-a", "10.0.9.9"]
//! ```
//!
//! The group `@all` holds all nodes.

use crate::connection::with_port;
use crate::exit;
use crate::nearest::nearest;
use crate::settings::Context;
use mgmt_proto::code::{Code, Failure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Most groups within groups.
const DEPTH: usize = 8;

/// The file as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// Nodes by name.
    #[serde(default)]
    pub nodes: BTreeMap<String, Node>,
    /// Groups by name: names of nodes, `@` and names of groups, addresses.
    #[serde(default)]
    pub groups: BTreeMap<String, Vec<String>>,
}

/// A node and who to be there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its address.
    pub address: String,
    /// File of the private key.
    pub identity: Option<PathBuf>,
    /// The node makes a new key at each boot.
    #[serde(default)]
    pub fresh_identity: bool,
    /// The node's key, 64 hexadecimal digits.
    pub node_key: Option<String>,
    /// The name that its owner sealed.
    pub name: Option<String>,
    /// SHA-256 of the settings that its owner sealed, 64 hexadecimal digits.
    pub manifest: Option<String>,
}

/// A node that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As it was named.
    pub name: String,
    /// Address with port.
    pub address: String,
    /// File of the private key.
    pub identity: PathBuf,
    /// The node makes a new key at each boot.
    pub fresh_identity: bool,
    /// The node's key, if it is pinned.
    pub node_key: Option<[u8; 32]>,
    /// The name it must prove, if one is said.
    pub called: Option<String>,
    /// The sealed settings it must have, if they are said.
    pub manifest: Option<[u8; 32]>,
    /// What may have been meant, if no node of the fleet has this name.
    pub near: Option<String>,
}

/// Nodes that are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// Each once, in the order they were named.
    pub nodes: Vec<Target>,
    /// Whether several were named, be it a group with one node.
    pub several: bool,
}

/// A node's key in hexadecimal digits.
///
/// # Errors
/// [`Code::Usage`].
pub fn parse_node_key(text: &str) -> Result<[u8; 32], Failure> {
    let mut key = [0; 32];
    hex::decode_to_slice(text.trim(), &mut key).map_err(|_| {
        exit::usage("node key", "has other than 64 hexadecimal digits", "see `redoubt node info -o json`")
    })?;
    Ok(key)
}

impl Fleet {
    /// Reads the file, if it is there, and checks that groups hold what exists.
    ///
    /// # Errors
    /// Names the line and what is wrong there.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let origin = path.display().to_string();
        let fleet: Self = match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|error| exit::usage(&origin, error.to_string(), ""))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(exit::file(path, &error)),
        };
        let place = |mut failure: Failure| {
            failure.object = format!("{origin}: {}", failure.object);
            failure
        };
        for group in fleet.groups.keys() {
            fleet.expand(&format!("@{group}"), 0).map_err(place)?;
        }
        for node in fleet.nodes.values() {
            for digits in [&node.node_key, &node.manifest] {
                digits.as_deref().map(parse_node_key).transpose().map_err(place)?;
            }
        }
        Ok(fleet)
    }

    fn expand(&self, word: &str, depth: usize) -> Result<Vec<String>, Failure> {
        let Some(group) = word.strip_prefix('@') else { return Ok(vec![word.into()]) };
        if depth > DEPTH {
            return Err(exit::usage(word, "the group holds itself", "see fleet.toml"));
        }
        let Some(members) = self.groups.get(group) else {
            if group == "all" && !self.nodes.is_empty() {
                return Ok(self.nodes.keys().cloned().collect());
            }
            let known = self.groups.keys().map(String::as_str).chain(["all"]);
            let remedy = match nearest(group, known) {
                Some(known) if group != "all" => format!("did you mean @{known}?"),
                _ => "groups are in fleet.toml".into(),
            };
            return Err(Failure::new(Code::NotFound, word, "the fleet has no such group", remedy));
        };
        let mut nodes = Vec::new();
        for member in members {
            nodes.extend(self.expand(member, depth + 1)?);
        }
        Ok(nodes)
    }

    /// The nodes that these words name: nodes of the fleet, `@group`, addresses.
    /// What the fleet does not say, `context` does; `directory` is where the
    /// operator's key is unless told otherwise.
    ///
    /// # Errors
    /// [`Code::NotFound`] for a group that is not there, [`Code::Usage`].
    pub fn targets(&self, words: &[String], context: &Context, directory: &Path) -> Result<Targets, Failure> {
        let mut nodes: Vec<Target> = Vec::new();
        for word in words {
            for name in self.expand(word.trim(), 0)? {
                if name.is_empty() {
                    return Err(exit::usage("-n", "names an empty node", "write -n a,b without spaces"));
                }
                let target = self.target(&name, context, directory)?;
                if !nodes.iter().any(|node| node.address == target.address) {
                    nodes.push(target);
                }
            }
        }
        if nodes.is_empty() {
            return Err(exit::usage(words.join(","), "names no node", "see fleet.toml"));
        }
        let several = words.len() > 1 || words.iter().any(|word| word.trim().starts_with('@'));
        Ok(Targets { nodes, several })
    }

    fn target(&self, name: &str, context: &Context, directory: &Path) -> Result<Target, Failure> {
        let node = self.nodes.get(name);
        let own = |node: &Node| node.identity.clone();
        let identity = node.and_then(own).or_else(|| context.identity.clone());
        // A key that is pinned in a context is of the context's own node.
        let of_context = context.node.as_deref() == Some(name);
        let pinned = node.and_then(|node| node.node_key.as_deref());
        let pinned = pinned.or(context.node_key.as_deref().filter(|_| of_context));
        let near = nearest(name, self.nodes.keys().map(String::as_str)).filter(|_| node.is_none());
        Ok(Target {
            name: name.into(),
            address: with_port(node.map_or(name, |node| &node.address)),
            identity: identity.unwrap_or_else(|| directory.join("operator.key")),
            fresh_identity: node.is_some_and(|node| node.fresh_identity) || context.fresh_identity,
            node_key: pinned.map(parse_node_key).transpose()?,
            called: node.and_then(|node| node.name.clone()),
            manifest: node.and_then(|node| node.manifest.as_deref()).map(parse_node_key).transpose()?,
            near: near.map(Into::into),
        })
    }
}
