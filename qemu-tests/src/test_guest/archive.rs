//! An initramfs: a cpio archive in its "new ASCII" format.
//!
//! Spec: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.

/// Bytes to which headers and contents are padded.
const ALIGNMENT: usize = 4;
/// A regular file that may be run.
const MODE_FILE: u32 = 0o100_755;
/// A directory.
const MODE_DIRECTORY: u32 = 0o040_755;

/// An archive that is being written.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    /// Adds a directory; its parent must be there.
    pub(super) fn directory(&mut self, name: &str) {
        self.entry(name, MODE_DIRECTORY, &[]);
    }

    /// Adds a file that may be run.
    pub(super) fn file(&mut self, name: &str, contents: &[u8]) {
        self.entry(name, MODE_FILE, contents);
    }

    /// The archive with its trailer.
    #[must_use]
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) {
        self.inode += 1;
        // ino, mode, uid, gid, nlink, mtime, filesize, major and minor of the
        // device and of a special file, namesize, check.
        let header = format!(
            "070701{:08X}{mode:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}{:08X}",
            self.inode,
            0,
            0,
            1,
            0,
            contents.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_padded_and_named() {
        let mut archive = Archive::default();
        archive.directory("bin");
        archive.file("bin/a", b"hello");
        let bytes = archive.finish();
        assert!(bytes.starts_with(b"07070100000001000041ED"));
        // A header is 110 bytes; "bin" and its NUL end at 114, padded to 116.
        assert_eq!(&bytes[110..122], b"bin\x00\x00\x00070701");
        // The file's size is the seventh field after the magic.
        assert_eq!(&bytes[116 + 54..116 + 62], b"00000005");
        assert_eq!(&bytes[116 + 110..116 + 124], b"bin/a\0hello\0\0\0");
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
        assert_eq!(bytes.len() % 4, 0);
    }
}
