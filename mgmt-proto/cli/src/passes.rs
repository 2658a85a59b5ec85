//! By what nodes know an operator again before they open anything: a lane of its own at
//! their doors, which nobody else can fill.
//!
//! One line for each: `<node key> <operator key> <pass>`, all hexadecimal digits. Whoever
//! steals a pass can keep its operator waiting, and nothing else.

use crate::exit;
use keys::Existing;
use mgmt_proto::code::Failure;
use std::fmt::Write as _;
use std::path::Path;

/// Lines kept; the oldest go first.
const PASSES: usize = 4096;

fn prefix(node: &[u8; 32], operator: &[u8; 32]) -> String {
    format!("{} {} ", hex::encode(node), hex::encode(operator))
}

fn text(path: &Path) -> String {
    // Without a pass there is the lane of all who know the node.
    std::fs::read_to_string(path).unwrap_or_default()
}

/// What the node with this key gave the operator last time.
#[must_use]
pub fn remembered(path: &Path, node: &[u8; 32], operator: &[u8; 32]) -> Option<[u8; 32]> {
    let (text, prefix) = (text(path), prefix(node, operator));
    let hexadecimal = text.lines().find_map(|line| line.strip_prefix(&prefix))?;
    let mut pass = [0; 32];
    hex::decode_to_slice(hexadecimal.trim(), &mut pass).ok().map(|()| pass)
}

/// Keeps what a node gave, where it is another one than before.
///
/// # Errors
/// Failures of the file.
pub fn remember(path: &Path, node: &[u8; 32], operator: &[u8; 32], pass: &[u8; 32]) -> Result<(), Failure> {
    if remembered(path, node, operator).as_ref() == Some(pass) {
        return Ok(());
    }
    let _lock = exit::lock(path)?;
    let (text, prefix) = (text(path), prefix(node, operator));
    let others: Vec<&str> = text.lines().filter(|line| !line.starts_with(&prefix)).collect();
    let mut lines = String::new();
    for line in others.iter().skip((others.len() + 1).saturating_sub(PASSES)) {
        lines.push_str(line);
        lines.push('\n');
    }
    let _ = writeln!(lines, "{prefix}{}", hex::encode(pass));
    keys::file::write(path, lines.as_bytes(), 0o600, Existing::Replace).map_err(|error| exit::key(&error))
}

#[cfg(test)]
mod tests {
    use super::{remember, remembered};

    #[test]
    fn a_pass_is_of_one_node_and_one_operator() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("passes");
        assert_eq!(remembered(&path, &[1; 32], &[2; 32]), None);
        remember(&path, &[1; 32], &[2; 32], &[3; 32]).unwrap();
        remember(&path, &[1; 32], &[4; 32], &[5; 32]).unwrap();
        remember(&path, &[1; 32], &[2; 32], &[6; 32]).unwrap();
        assert_eq!(remembered(&path, &[1; 32], &[2; 32]), Some([6; 32]));
        assert_eq!(remembered(&path, &[1; 32], &[4; 32]), Some([5; 32]));
        assert_eq!(remembered(&path, &[2; 32], &[2; 32]), None);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    }
}
