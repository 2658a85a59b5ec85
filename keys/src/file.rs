//! Writing a file whole or not at all, and where one is that a settings file names.

use crate::KeyError;
use std::fs::{File, Permissions};
use std::io::{Error, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What to do about a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Keep it and fail.
    Keep,
    /// Replace it.
    Replace,
}

/// Makes the error of an operation on `path`.
pub(crate) fn failed(path: &Path) -> impl FnOnce(Error) -> KeyError + '_ {
    move |source| KeyError::File { path: path.to_path_buf(), source }
}

/// Writes a file with these permissions: a reader finds the old one, none, or
/// all of the new one.
///
/// # Errors
/// [`KeyError::Exists`] or [`KeyError::File`].
pub fn write(path: &Path, bytes: &[u8], mode: u32, existing: Existing) -> Result<(), KeyError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(directory).map_err(failed(directory))?;
    file.write_all(bytes).map_err(failed(path))?;
    file.as_file().set_permissions(Permissions::from_mode(mode)).map_err(failed(path))?;
    file.as_file().sync_all().map_err(failed(path))?;
    let result = match existing {
        Existing::Keep => file.persist_noclobber(path),
        Existing::Replace => file.persist(path),
    };
    match result {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {
            Err(KeyError::Exists(path.to_path_buf()))
        }
        Err(error) => Err(failed(path)(error.error)),
    }
}

/// Reads at most `limit` bytes of an opened file into a buffer that is never
/// reallocated, so that nothing of a secret is left behind.
pub(crate) fn read_small(file: &mut File, path: &Path, buffer: &mut [u8]) -> Result<usize, KeyError> {
    let mut length = 0;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read(rest).map_err(failed(path))? {
            0 => break,
            count => length += count,
        }
    }
    Ok(length)
}

/// Where a file is that the user named: `~/` is the home directory, also where no shell
/// has seen it.
#[must_use]
pub fn expand_home(name: impl AsRef<Path>) -> PathBuf {
    under_home(name.as_ref(), std::env::var_os("HOME").map(PathBuf::from))
}

fn under_home(name: &Path, home: Option<PathBuf>) -> PathBuf {
    match (name.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => name.to_path_buf(),
    }
}

#[cfg(test)]
mod tests {
    use super::under_home;
    use std::path::{Path, PathBuf};

    #[test]
    fn a_name_may_begin_at_home() {
        let home = || Some(PathBuf::from("/home/alice"));
        let expand = |name: &str| under_home(Path::new(name), home());
        assert_eq!(expand("~/keys/a.key"), Path::new("/home/alice/keys/a.key"));
        for name in ["keys/a.key", "/keys/~/a.key", "~bob/a.key", "./~/a.key", "a~"] {
            assert_eq!(expand(name), Path::new(name));
        }
        assert_eq!(under_home(Path::new("~/a.key"), None), Path::new("~/a.key"));
    }
}
