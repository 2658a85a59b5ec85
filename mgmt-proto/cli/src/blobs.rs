//! Kernels and initrds on the workstation.

use crate::exit;
use mgmt_proto::code::Failure;
use mgmt_proto::machine::Digest;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A file with its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Where it is.
    pub path: PathBuf,
    /// SHA-256 of the whole.
    pub digest: Digest,
    /// Bytes of the whole.
    pub length: u64,
}

impl Blob {
    /// Reads a file once for its digest.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| exit::file(path, &error);
        let mut file = File::open(path).map_err(failed)?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 256 * 1024];
        let mut length = 0;
        loop {
            let count = file.read(&mut buffer).map_err(failed)?;
            if count == 0 {
                break;
            }
            hasher.update(buffer.get(..count).unwrap_or_default());
            length += count as u64;
        }
        Ok(Self { path: path.to_path_buf(), digest: hasher.finalize().into(), length })
    }
}
