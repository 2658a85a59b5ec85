//! Exit codes: the numbers of [`Code`], the same on the wire and in documents.

use keys::KeyError;
use mgmt_proto::code::{Code, Failure};
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

/// What `--help` says about exit codes.
pub const HELP: &str = "\
Exit codes:
   0  done
   1  internal error
   2  usage: the request makes no sense
   3  not found
   4  wrong state, or a name or address already in use
   5  refused: signature, key, role or replay
   6  the node cannot be reached
   7  the deadline passed; the work goes on
   8  some failed
   9  storage: a volume or its target
  10  policy or lockdown
  11  not enough memory or slots
  12  the two sides speak different versions
  13  bytes are not what their digest says
 130  interrupted";

/// The exit code of a failure.
#[must_use]
pub const fn code(failure: &Failure) -> u8 {
    failure.code as u8
}

/// A usage failure.
pub fn usage(object: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Failure {
    Failure::new(Code::Usage, object, message, remedy)
}

/// The failure of a local file.
#[must_use]
pub fn file(path: &Path, error: &std::io::Error) -> Failure {
    let code = if error.kind() == ErrorKind::NotFound { Code::NotFound } else { Code::Usage };
    Failure::new(code, path.display().to_string(), error.to_string(), "")
}

/// Holds a file of the operator's against other sessions until it is dropped.
///
/// # Errors
/// Failures of the file beside it.
pub fn lock(path: &Path) -> Result<File, Failure> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(|error| file(directory, &error))?;
    }
    let path = path.with_extension("lock");
    let failed = |error: std::io::Error| file(&path, &error);
    let lock = File::options().create(true).append(true).open(&path).map_err(failed)?;
    lock.lock().map_err(failed)?;
    Ok(lock)
}

/// The failure of a key.
#[must_use]
pub fn key(error: &KeyError) -> Failure {
    match error {
        KeyError::File { path, source } => {
            let mut failure = file(path, source);
            if failure.code == Code::NotFound {
                failure.remedy = "make keys with `redoubt key init`, or name yours with -i".into();
            }
            failure
        }
        KeyError::Passphrase { path, reason } => {
            Failure::new(Code::Refused, path.display().to_string(), *reason, "")
        }
        KeyError::Exists(path) => Failure::new(
            Code::Conflict,
            path.display().to_string(),
            "is there already",
            "keys are never overwritten; name another directory",
        ),
        KeyError::Exposed { path, mode } => Failure::new(
            Code::Refused,
            path.display().to_string(),
            format!("others may read this private key (mode {mode:04o})"),
            "chmod 600",
        ),
        KeyError::Format { origin, reason } => usage(origin, *reason, ""),
        KeyError::Random(_) => Failure::new(Code::Internal, "", error.to_string(), ""),
    }
}

/// Every kind of failure, in the order of the numbers.
pub const CODES: [Code; 13] = [
    Code::Internal,
    Code::Usage,
    Code::NotFound,
    Code::Conflict,
    Code::Refused,
    Code::Unreachable,
    Code::Deadline,
    Code::Partial,
    Code::Storage,
    Code::Policy,
    Code::Capacity,
    Code::Version,
    Code::Integrity,
];

/// The kind with this number.
#[must_use]
pub fn from_number(number: u8) -> Option<Code> {
    CODES.into_iter().find(|code| *code as u8 == number)
}

/// Every exit code with what it means.
pub fn meanings() -> impl Iterator<Item = (u8, &'static str)> {
    let lines = HELP.lines().skip(1).filter_map(|line| line.trim_start().split_once("  "));
    lines.filter_map(|(code, meaning)| Some((code.parse().ok()?, meaning)))
}
