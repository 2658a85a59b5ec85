//! Public keys: `redoubt-ed25519 <64 hexadecimal digits> comment`.

use crate::KeyError;
use crate::file::{self, Existing};
use ed25519_dalek::VerifyingKey;
use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::File;
use std::path::Path;

/// First word of a public key.
pub const TAG: &str = "redoubt-ed25519";
/// What the first words of private keys have in common, of all versions.
pub(crate) const SECRET_TAG_PREFIX: &str = "redoubt-ed25519-secret-";
/// Most bytes of a public key file.
const FILE_BYTES: usize = 4096;

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// The key.
    pub bytes: [u8; 32],
    /// Whose it is, for people.
    pub comment: String,
}

impl PublicKey {
    /// The public half of a private key.
    #[must_use]
    pub fn of(key: &ed25519_dalek::SigningKey, comment: impl Into<String>) -> Self {
        Self { bytes: key.verifying_key().to_bytes(), comment: comment.into() }
    }

    /// Reads the one-line form, or only the hexadecimal digits. `origin` is for
    /// the message.
    ///
    /// # Errors
    /// [`KeyError::Format`] names what is wrong.
    pub fn parse(text: &str, origin: &str) -> Result<Self, KeyError> {
        let wrong = |reason| KeyError::Format { origin: origin.into(), reason };
        let text = text.trim();
        if text.lines().count() > 1 {
            return Err(wrong("has more than one line"));
        }
        let (mut word, mut rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        if word == TAG {
            (word, rest) = rest.trim_start().split_once(char::is_whitespace).unwrap_or((rest.trim(), ""));
        } else if word.starts_with(SECRET_TAG_PREFIX) {
            return Err(wrong("is a private key; name the .pub file"));
        } else if word.len() != 64 {
            return Err(wrong("is not a public key: it does not begin with redoubt-ed25519"));
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(word, &mut bytes).map_err(|_| wrong("has other than 64 hexadecimal digits"))?;
        // A weak key accepts signatures made without the private key.
        match VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(Self { bytes, comment: rest.trim().into() }),
            _ => Err(wrong("is not an Ed25519 public key")),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`KeyError::File`] or [`KeyError::Format`].
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let mut file = File::open(path).map_err(file::failed(path))?;
        let mut buffer = [0; FILE_BYTES];
        let length = file::read_small(&mut file, path, &mut buffer)?;
        let origin = path.display().to_string();
        match buffer.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok()) {
            Some(text) if length < FILE_BYTES => Self::parse(text, &origin),
            _ => Err(KeyError::Format { origin, reason: "is not a public key" }),
        }
    }

    /// Writes a file that all users may read.
    ///
    /// # Errors
    /// [`KeyError::Exists`] or [`KeyError::File`].
    pub fn save(&self, path: &Path, existing: Existing) -> Result<(), KeyError> {
        file::write(path, format!("{self}\n").as_bytes(), 0o644, existing)
    }

    /// See [`fingerprint`].
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.bytes)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{TAG} {}", hex::encode(self.bytes))?;
        if !self.comment.is_empty() {
            write!(formatter, " {}", self.comment)?;
        }
        Ok(())
    }
}

/// A short name of a key for people to compare: `SHA256:` and 128 bits of the
/// digest.
#[must_use]
pub fn fingerprint(key: &[u8; 32]) -> String {
    let digest = Sha256::digest(key);
    let short: Vec<u8> = digest.iter().copied().take(16).collect();
    format!("SHA256:{}", hex::encode(short))
}
