//! Private keys: `redoubt-ed25519-secret-v1 <64 hexadecimal digits>` in a file
//! that only its owner can read.

use crate::file::{self, Existing};
use crate::{KeyError, encrypted, passphrase, public, random};
use ed25519_dalek::SigningKey;
use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use zeroize::Zeroizing;

/// First word of a private key that is not encrypted.
pub const TAG: &str = "redoubt-ed25519-secret-v1";
/// Permissions of a private key.
pub const MODE: u32 = 0o600;
/// Most bytes of a private key file.
const FILE_BYTES: usize = 1024;

/// Makes a new private key from the operating system's randomness.
///
/// # Errors
/// [`KeyError::Random`].
pub fn generate() -> Result<SigningKey, KeyError> {
    Ok(SigningKey::from_bytes(&*random::bytes::<32>()?))
}

/// Writes a private key.
///
/// # Errors
/// [`KeyError::Exists`] or [`KeyError::File`].
pub fn save(path: &Path, key: &SigningKey, existing: Existing) -> Result<(), KeyError> {
    let secret = Zeroizing::new(key.to_bytes());
    let digits = Zeroizing::new(hex::encode(*secret));
    let mut text = Zeroizing::new(String::with_capacity(128));
    for part in [TAG, " ", digits.as_str(), "\n"] {
        text.push_str(part);
    }
    file::write(path, text.as_bytes(), MODE, existing)
}

/// Writes a private key under a passphrase.
///
/// # Errors
/// [`KeyError::Exists`] or [`KeyError::File`].
pub fn save_encrypted(
    path: &Path,
    key: &SigningKey,
    passphrase: &str,
    existing: Existing,
) -> Result<(), KeyError> {
    file::write(path, encrypted::seal(key, passphrase)?.as_bytes(), MODE, existing)
}

/// Opens an encrypted key, for whose passphrase the user is asked.
fn open(path: &Path, line: &str) -> Result<SigningKey, KeyError> {
    let passphrase = passphrase::ask(path)?;
    encrypted::open(line, &passphrase).map_err(|closed| match closed {
        encrypted::Closed::Passphrase => {
            KeyError::Passphrase { path: path.to_path_buf(), reason: "does not open with this passphrase" }
        }
        encrypted::Closed::Damaged => {
            KeyError::Format { origin: path.display().to_string(), reason: "is damaged" }
        }
    })
}

/// Reads a private key that only its owner can read, asking for its passphrase if it has
/// one.
///
/// # Errors
/// [`KeyError::Exposed`], [`KeyError::File`], [`KeyError::Format`] or
/// [`KeyError::Passphrase`]; none quotes the file.
pub fn load(path: &Path) -> Result<SigningKey, KeyError> {
    let mut file = File::open(path).map_err(file::failed(path))?;
    let mode = file.metadata().map_err(file::failed(path))?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_path_buf(), mode });
    }
    let mut buffer = Zeroizing::new([0; FILE_BYTES]);
    let length = file::read_small(&mut file, path, buffer.as_mut_slice())?;
    let wrong = |reason| KeyError::Format { origin: path.display().to_string(), reason };
    let text = buffer.get(..length).filter(|_| length < FILE_BYTES);
    let text = text.and_then(|bytes| std::str::from_utf8(bytes).ok());
    let mut words = text.ok_or_else(|| wrong("is not a private key"))?.split_ascii_whitespace();
    match words.next() {
        Some(TAG) => {}
        Some(encrypted::TAG) => return open(path, text.unwrap_or_default()),
        Some(word) if word.starts_with(public::SECRET_TAG_PREFIX) => {
            return Err(wrong("is a private key in a newer format; use a newer version of this program"));
        }
        Some(public::TAG) => return Err(wrong("is a public key; name the private key's file")),
        _ => return Err(wrong("is not a private key")),
    }
    let mut secret = Zeroizing::new([0; 32]);
    let digits = words.next().ok_or_else(|| wrong("is cut off"))?;
    hex::decode_to_slice(digits, secret.as_mut_slice())
        .map_err(|_| wrong("has other than 64 hexadecimal digits"))?;
    if words.next().is_some() {
        return Err(wrong("has more than a key in it"));
    }
    Ok(SigningKey::from_bytes(&secret))
}
