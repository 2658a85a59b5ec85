//! Which key a node had last time, like ssh's `known_hosts`.
//!
//! One line for each node: `address:port <64 hexadecimal digits>`. A node without
//! a state volume makes a new key at each boot; pinning it says nothing then, and
//! the operator says so with `--fresh-identity`.

use crate::exit;
use keys::Existing;
use mgmt_proto::code::{Code, Failure};
use std::fmt::Write;
use std::path::Path;

/// What to do about a node's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The first key counts; another one is refused.
    Pin,
    /// Whatever key it has now counts from now on.
    AcceptNew,
    /// It has a new one at each boot; nothing is remembered.
    Fresh,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same key as last time.
    Known,
    /// Never seen before; remembered now.
    First,
    /// Replaced, as asked for.
    Replaced,
    /// Not looked at.
    Fresh,
}

/// Compares a node's key with the remembered one, and remembers it.
///
/// # Errors
/// [`Code::Refused`] when the key changed; failures of the file.
pub fn check(path: &Path, address: &str, node: &[u8; 32], policy: Policy) -> Result<Verdict, Failure> {
    if policy == Policy::Fresh {
        return Ok(Verdict::Fresh);
    }
    // Several sessions may begin at once; the lock ends with this function.
    let _lock = exit::lock(path)?;
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(exit::file(path, &error)),
    };
    let key = hex::encode(node);
    let known = text.lines().filter_map(|line| line.split_once(' ')).find(|(name, _)| *name == address);
    match known.map(|(_, known)| known.trim()) {
        Some(known) if known == key => return Ok(Verdict::Known),
        Some(known) if policy == Policy::Pin => {
            return Err(Failure::new(
                Code::Refused,
                address,
                format!("the node's key changed from {known} to {key}"),
                format!(
                    "somebody may be in between; if it makes a new key at each boot, say --fresh-identity; \
                     if you know why it changed, say --accept-new-key (pinned in {})",
                    path.display()
                ),
            ));
        }
        _ => {}
    }
    let mut lines = String::new();
    for line in text.lines().filter(|line| line.split(' ').next() != Some(address)) {
        lines.push_str(line);
        lines.push('\n');
    }
    let _ = writeln!(lines, "{address} {key}");
    keys::file::write(path, lines.as_bytes(), 0o600, Existing::Replace).map_err(|error| exit::key(&error))?;
    Ok(if known.is_some() { Verdict::Replaced } else { Verdict::First })
}

/// The key that is remembered for an address with its port.
///
/// # Errors
/// Failures of the file.
pub fn remembered(path: &Path, address: &str) -> Result<Option<[u8; 32]>, Failure> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(exit::file(path, &error)),
    };
    let mut known = text.lines().filter_map(|line| line.split_once(' '));
    known.find(|(name, _)| *name == address).map(|(_, key)| crate::fleet::parse_node_key(key)).transpose()
}
