//! Trust roots: the key files of owners and operators.
//!
//! * [`secret`]: private keys, one line in a file only its owner can read;
//! * [`encrypted`], [`passphrase`]: the same under a passphrase;
//! * [`public`]: public keys, one line that can be pasted into a settings file;
//! * [`random`]: the operating system's randomness;
//! * [`file`]: writing a file whole or not at all.
//!
//! Keys are Ed25519 (RFC 8032). Every format begins with a word that names its
//! kind and version, so that others (encrypted, on a token) can be distinguished.
#![forbid(unsafe_code)]

pub mod encrypted;
pub mod file;
pub mod passphrase;
pub mod public;
pub mod random;
pub mod secret;

use std::path::PathBuf;

pub use file::Existing;
pub use public::PublicKey;

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is there already.
    #[error("{}: is there already and was not overwritten", .0.display())]
    Exists(PathBuf),
    /// Others may read a private key.
    #[error("{}: others may read this private key (mode {mode:04o}); run `chmod 600` on it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Not a key of the expected kind.
    #[error("{origin}: {reason}")]
    Format {
        /// The file, or what the text is.
        origin: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// An encrypted private key cannot be opened.
    #[error("{}: {reason}", path.display())]
    Passphrase {
        /// The key.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// The operating system gives no randomness.
    #[error("the operating system gives no randomness: {0}")]
    Random(getrandom::Error),
}

#[cfg(test)]
mod tests;
