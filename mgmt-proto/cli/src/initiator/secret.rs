//! Secrets of volumes: from a file or from a person, never shown.

use crate::exit;
use mgmt_proto::code::{Code, Failure};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use storage::iscsi::Secret;
use zeroize::Zeroizing;

/// Most octets of a secret.
const BYTES_MAX: usize = 255;

fn take(object: &str, mut line: Zeroizing<Vec<u8>>) -> Result<Secret, Failure> {
    while line.last().is_some_and(|end| matches!(end, b'\n' | b'\r')) {
        line.pop();
    }
    if line.is_empty() || line.len() > BYTES_MAX {
        return Err(exit::usage(object, format!("a secret has from 1 to {BYTES_MAX} bytes"), ""));
    }
    Ok(Secret::new(std::mem::take(&mut *line)))
}

/// The first line of a file that nobody else may read.
///
/// # Errors
/// When it cannot be read, or others may read it.
pub fn load(path: &Path) -> Result<Secret, Failure> {
    let failed = |error: std::io::Error| exit::file(path, &error);
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let message = format!("others may read this secret (mode {mode:04o})");
        return Err(Failure::new(Code::Refused, path.display().to_string(), message, "chmod 600"));
    }
    let mut line = Zeroizing::new(Vec::with_capacity(BYTES_MAX + 2));
    BufReader::new(file).read_until(b'\n', &mut line).map_err(failed)?;
    take(&path.display().to_string(), line)
}

/// Asks at the terminal, which does not show what is typed.
///
/// # Errors
/// Without a terminal.
pub fn ask(question: &str) -> Result<Secret, Failure> {
    let failed = |error: std::io::Error| {
        Failure::new(
            Code::Usage,
            "the secret",
            format!("cannot be asked for: {error}"),
            "name a file that holds it",
        )
    };
    let typed = keys::passphrase::prompt(question).map_err(failed)?;
    take("the secret", Zeroizing::new(typed.as_bytes().to_vec()))
}
