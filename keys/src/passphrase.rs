//! What a private key is encrypted with: from a file or from a person.

use crate::KeyError;
use crate::file;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Names a file whose first line is the passphrase, for programs without a terminal.
pub const VARIABLE: &str = "REDOUBT_PASSPHRASE_FILE";
/// Most bytes of such a file.
const FILE_BYTES: usize = 1024;

/// Asks at the terminal, which does not show what is typed.
///
/// # Errors
/// Without a terminal.
pub fn prompt(question: &str) -> std::io::Result<Zeroizing<String>> {
    rpassword::prompt_password(question).map(Zeroizing::new)
}

/// Asks for the passphrase of a key: the file that [`VARIABLE`] names, or the terminal,
/// which does not show what is typed.
///
/// # Errors
/// [`KeyError::Exposed`], [`KeyError::File`] or [`KeyError::Passphrase`].
pub fn ask(key: &Path) -> Result<Zeroizing<String>, KeyError> {
    if let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        return load(&PathBuf::from(path), key);
    }
    let question = format!("Passphrase of {}: ", key.display());
    prompt(&question).map_err(|_| KeyError::Passphrase {
        path: key.to_path_buf(),
        reason: "is encrypted, and there is no terminal to ask at; set REDOUBT_PASSPHRASE_FILE",
    })
}

/// Asks twice for a new passphrase.
///
/// # Errors
/// As [`ask`], and [`KeyError::Passphrase`] for an empty one or two that differ.
pub fn choose(key: &Path) -> Result<Zeroizing<String>, KeyError> {
    let wrong = |reason| KeyError::Passphrase { path: key.to_path_buf(), reason };
    let first = ask(key)?;
    if first.is_empty() {
        return Err(wrong("needs a passphrase that is not empty"));
    }
    if std::env::var_os(VARIABLE).is_none() {
        let again = prompt("The same again: ");
        if again.ok().as_ref() != Some(&first) {
            return Err(wrong("was not encrypted: the two passphrases differ"));
        }
    }
    Ok(first)
}

fn load(path: &Path, key: &Path) -> Result<Zeroizing<String>, KeyError> {
    let mut file = File::open(path).map_err(file::failed(path))?;
    let mode = file.metadata().map_err(file::failed(path))?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_path_buf(), mode });
    }
    let mut buffer = Zeroizing::new([0; FILE_BYTES]);
    let length = file::read_small(&mut file, path, buffer.as_mut_slice())?;
    let text = buffer.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let line = text.and_then(|text| text.lines().next()).filter(|_| length < FILE_BYTES);
    line.map(|line| Zeroizing::new(line.to_string())).ok_or(KeyError::Passphrase {
        path: key.to_path_buf(),
        reason: "is encrypted, and the passphrase file has no line of text",
    })
}
