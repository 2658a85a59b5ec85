//! The parts of the one file.
//!
//! The file is `setup` (real-mode code and the Linux boot header, 16 sectors)
//! followed by `payload`, which every loader puts at 1 MiB. The payload is the
//! start-up stub (one page), the [`Directory`] (one page), then the parts, each
//! page aligned. It is never written to, so the whole file can be hashed and dom0
//! started again from it at any time; the part `SETUP` is a copy of the first
//! sectors as signed, since loaders write into the original.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of `setup` at the start of the file.
pub const SETUP_BYTES: usize = 8192;
/// Where the payload is in memory.
pub const PAYLOAD_ADDRESS: u64 = 0x10_0000;
/// Offset of the directory in the payload.
pub const DIRECTORY_OFFSET: usize = 4096;
/// First bytes of the directory.
pub const MAGIC: [u8; 8] = *b"REDOUBT1";
/// Alignment of parts in the payload.
pub const PART_ALIGN: usize = 4096;
/// Most bytes of the whole file that the node accepts.
pub const MAX_FILE_BYTES: usize = 8 << 20;

/// Part: the hypervisor as a flat memory image.
pub const PART_HYPERVISOR: u32 = 1;
/// Part: dom0 as an ELF file.
pub const PART_DOM0: u32 = 2;
/// Part: the first sectors of the file as signed.
pub const PART_SETUP: u32 = 3;
/// Part: the signed manifest (owner key, node settings).
pub const PART_MANIFEST: u32 = 4;
/// Part: the owner's key and signature; always the last.
pub const PART_SIGNATURE: u32 = 5;
/// Entries in a directory.
pub const MAX_PARTS: usize = 8;

/// One part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Part {
    /// One of the `PART_*`, or 0 for an unused entry.
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// Offset in the payload.
    pub offset: u64,
    /// Bytes in the file.
    pub length: u64,
    /// Bytes in memory (the hypervisor's zero-filled data included).
    pub memory_length: u64,
    /// SHA-256 of the bytes in the file; zero for the signature.
    pub sha256: [u8; 32],
}

/// The table of parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Directory {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// Bytes of the payload.
    pub payload_length: u64,
    /// Unused entries have kind 0.
    pub parts: [Part; MAX_PARTS],
}

/// Why a directory was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// Too short, or not a Redoubt image.
    NotAnImage,
    /// The directory does not describe this payload.
    Directory,
    /// A part is missing.
    Missing(u32),
}

/// An image's directory with its payload, checked against each other.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    payload: &'a [u8],
    directory: Directory,
}

impl<'a> Image<'a> {
    /// Checks that every part lies inside `payload`, page aligned, in order and
    /// without overlap.
    ///
    /// # Errors
    /// [`ImageError`] names what does not hold.
    pub fn parse(payload: &'a [u8]) -> Result<Self, ImageError> {
        let bytes = payload.get(DIRECTORY_OFFSET..).ok_or(ImageError::NotAnImage)?;
        let (directory, _) = Directory::read_from_prefix(bytes).map_err(|_| ImageError::NotAnImage)?;
        if directory.magic != MAGIC {
            return Err(ImageError::NotAnImage);
        }
        let length = usize::try_from(directory.payload_length).map_err(|_| ImageError::Directory)?;
        let payload = payload.get(..length).ok_or(ImageError::Directory)?;
        let mut next = DIRECTORY_OFFSET + PART_ALIGN;
        for part in directory.parts.iter().filter(|part| part.kind != 0) {
            let offset = usize::try_from(part.offset).map_err(|_| ImageError::Directory)?;
            let part_length = usize::try_from(part.length).map_err(|_| ImageError::Directory)?;
            let end = offset.checked_add(part_length).ok_or(ImageError::Directory)?;
            if offset < next
                || !offset.is_multiple_of(PART_ALIGN)
                || end > length
                || part.memory_length < part.length
            {
                return Err(ImageError::Directory);
            }
            next = end;
        }
        Ok(Self { payload, directory })
    }

    /// The directory entry and the bytes of a part.
    ///
    /// # Errors
    /// [`ImageError::Missing`].
    pub fn part(&self, kind: u32) -> Result<(&Part, &'a [u8]), ImageError> {
        let part = self
            .directory
            .parts
            .iter()
            .find(|part| part.kind == kind && kind != 0)
            .ok_or(ImageError::Missing(kind))?;
        let start = usize::try_from(part.offset).map_err(|_| ImageError::Directory)?;
        let length = usize::try_from(part.length).map_err(|_| ImageError::Directory)?;
        let bytes =
            self.payload.get(start..).and_then(|rest| rest.get(..length)).ok_or(ImageError::Directory)?;
        Ok((part, bytes))
    }

    /// The payload up to the signature: with the `SETUP` part before it, exactly
    /// the bytes the owner signed.
    ///
    /// # Errors
    /// [`ImageError::Missing`] without a signature part.
    pub fn signed_payload(&self) -> Result<&'a [u8], ImageError> {
        let (part, _) = self.part(PART_SIGNATURE)?;
        let end = usize::try_from(part.offset).map_err(|_| ImageError::Directory)?;
        self.payload.get(..end).ok_or(ImageError::Directory)
    }

    /// The whole payload.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Entries in use.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.directory.parts.iter().filter(|part| part.kind != 0)
    }
}
