//! A bundle for a bug report: what the nodes say about themselves, without secrets.

use crate::exit;
use mgmt_proto::code::{Code, Failure};
use serde_json::Value;
use std::fs::File;
use std::path::Path;

/// Stands for what was left out.
const WITHHELD: &str = "(withheld)";

/// A file of the bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its path in the bundle.
    pub path: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// Words after which a secret may stand.
const WORDS: [&str; 9] =
    ["pass", "secret", "token", "chap", "credential", "auth", "private", "apikey", "api_key"];

/// A text in which the values of `password=x` and the like are withheld.
#[must_use]
pub fn redacted(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        for word in line.split_inclusive([' ', ',', '\n', '\t']) {
            let end = word.trim_end_matches([' ', ',', '\n', '\t']);
            let rest = word.get(end.len()..).unwrap_or_default();
            match end.split_once(['=', ':']) {
                Some((name, value)) if is_secret(name) && !value.is_empty() => {
                    let separator = end.get(name.len()..=name.len()).unwrap_or("=");
                    clean.extend([name, separator, WITHHELD, rest]);
                }
                // User and password of a URL.
                _ => match end
                    .split_once("://")
                    .and_then(|(scheme, url)| Some((scheme, url.rsplit_once('@')?)))
                {
                    Some((scheme, (_, host))) => clean.extend([scheme, "://", WITHHELD, "@", host, rest]),
                    None => clean.push_str(word),
                },
            }
        }
    }
    clean
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|word| name.contains(word))
}

/// A value in which command lines are withheld and other texts are as
/// [`redacted`].
#[must_use]
pub fn redacted_value(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(redacted(&text)),
        Value::Array(values) => Value::Array(values.into_iter().map(redacted_value).collect()),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| match (name.as_str(), value) {
                // It may hold anything.
                ("cmdline", Value::String(text)) => {
                    let length = text.len();
                    (name, Value::String(format!("{WITHHELD}, {length} bytes")))
                }
                (_, value) => (name, redacted_value(value)),
            })
            .collect(),
        other => other,
    }
}

/// Writes the bundle: a tar archive, or a directory if the path does not end in
/// `.tar`. Nothing is overwritten.
///
/// # Errors
/// Of the file.
pub fn write(path: &Path, parts: &[Part]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            let remedy = "nothing is overwritten; name another with --out";
            Failure::new(Code::Conflict, path.display().to_string(), "is there already", remedy)
        }
        _ => exit::file(path, &error),
    };
    if path.extension().is_some_and(|ending| ending == "tar") {
        let mut archive = tar::Builder::new(File::create_new(path).map_err(failed)?);
        for part in parts {
            let mut header = tar::Header::new_ustar();
            header.set_size(part.bytes.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(0);
            archive.append_data(&mut header, &part.path, part.bytes.as_slice()).map_err(failed)?;
        }
        return archive.into_inner().and_then(|file| file.sync_all()).map_err(failed);
    }
    std::fs::create_dir(path).map_err(failed)?;
    for part in parts {
        let file = path.join(&part.path);
        if let Some(directory) = file.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        std::fs::write(&file, &part.bytes).map_err(failed)?;
    }
    Ok(())
}
