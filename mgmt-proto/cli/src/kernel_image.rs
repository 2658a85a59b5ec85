//! Kernels that cannot unpack themselves in a guest's memory.
//!
//! A bzImage unpacks itself in place, for which it wants its preferred address plus
//! `init_size` bytes: 70 MiB and more for distributions' kernels. The kernel inside
//! needs less. So for a smaller guest it is unpacked here, and the node starts it as
//! an ELF file by PVH. Spec: Linux, Documentation/arch/x86/boot.rst.

use crate::exit;
use mgmt_proto::code::{Code, Failure};
use sha2::{Digest as _, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Most bytes of an unpacked kernel.
const UNPACKED_BYTES: usize = 256 << 20;
/// Most bytes of a block of LZ4's legacy frames.
const LZ4_BLOCK_BYTES: usize = 8 << 20;
const LZ4_LEGACY: [u8; 4] = 0x184c_2102_u32.to_le_bytes();
const ZSTD: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
const ELF: [u8; 4] = *b"\x7fELF";

/// What matters of a bzImage.
#[derive(Debug, PartialEq, Eq)]
pub struct BzImage<'a> {
    /// End of the memory it wants in order to unpack itself, in bytes.
    pub end: u64,
    payload: &'a [u8],
}

fn number(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn size(bytes: &[u8], offset: usize) -> Option<usize> {
    usize::try_from(number(bytes, offset)?).ok()
}

impl<'a> BzImage<'a> {
    /// Reads the header; None for anything but a bzImage of protocol 2.10 or later.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let version = u16::from_le_bytes(*bytes.get(0x206..)?.first_chunk()?);
        if bytes.get(0x202..0x206)? != b"HdrS" || version < 0x20a {
            return None;
        }
        let sectors = match *bytes.get(0x1f1)? {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let start = ((sectors + 1) * 512).checked_add(size(bytes, 0x248)?)?;
        let payload = bytes.get(start..start.checked_add(size(bytes, 0x24c)?)?)?;
        let preferred = u64::from_le_bytes(*bytes.get(0x258..)?.first_chunk()?);
        Some(Self { end: preferred.checked_add(u64::from(number(bytes, 0x260)?))?, payload })
    }

    /// The kernel inside, an ELF file.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn unpack(&self) -> Result<Vec<u8>, String> {
        // The build appends the size of what was packed.
        let (packed, trailer) = self.payload.split_last_chunk::<4>().ok_or("it has no payload")?;
        let expected = usize::try_from(u32::from_le_bytes(*trailer)).unwrap_or(usize::MAX);
        if expected > UNPACKED_BYTES {
            return Err("its payload is not one".into());
        }
        let unpacked = if let Some(blocks) = packed.strip_prefix(&LZ4_LEGACY) {
            unpack_lz4(blocks, expected)?
        } else if packed.starts_with(&ZSTD) {
            let decoder =
                ruzstd::decoding::StreamingDecoder::new(packed).map_err(|error| error.to_string())?;
            let mut unpacked = Vec::with_capacity(expected);
            let limit = expected as u64 + 1;
            decoder.take(limit).read_to_end(&mut unpacked).map_err(|error| error.to_string())?;
            unpacked
        } else {
            return Err("it is packed by other means than LZ4 and Zstandard".into());
        };
        if unpacked.len() != expected || !unpacked.starts_with(&ELF) {
            return Err("what was unpacked is not a kernel".into());
        }
        Ok(unpacked)
    }
}

/// Blocks of LZ4's legacy frame, each with its packed size before it.
fn unpack_lz4(mut blocks: &[u8], expected: usize) -> Result<Vec<u8>, String> {
    let mut unpacked = Vec::with_capacity(expected);
    while let Some((length, rest)) = blocks.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let block = rest.get(..length).ok_or("its payload is cut off")?;
        let piece = lz4_flex::block::decompress(block, LZ4_BLOCK_BYTES).map_err(|error| error.to_string())?;
        unpacked.extend(piece);
        if unpacked.len() > expected {
            return Err("its payload is longer than it says".into());
        }
        blocks = rest.get(length..).unwrap_or_default();
    }
    Ok(unpacked)
}

/// The kernel file to send to a guest with so much memory: the one given, or the
/// kernel inside it, unpacked into `cache`.
///
/// # Errors
/// When a file cannot be read or written, or the kernel cannot be unpacked.
pub fn fitting(path: &Path, memory_bytes: u64, cache: &Path) -> Result<PathBuf, Failure> {
    let bytes = std::fs::read(path).map_err(|error| exit::file(path, &error))?;
    let Some(image) = BzImage::parse(&bytes).filter(|image| image.end > memory_bytes) else {
        return Ok(path.to_path_buf());
    };
    let unpacked = cache.join(format!("{}.elf", hex::encode(Sha256::digest(&bytes))));
    if unpacked.exists() {
        return Ok(unpacked);
    }
    let kernel = image.unpack().map_err(|problem| {
        let what = format!(
            "it wants {} MiB to unpack itself, and cannot be unpacked here: {problem}",
            image.end.div_ceil(1 << 20)
        );
        Failure::new(Code::Usage, path.display().to_string(), what, "give the guest more memory")
    })?;
    std::fs::create_dir_all(cache).map_err(|error| exit::file(cache, &error))?;
    // A reader that finds the file finds all of it.
    let part = cache.join(format!("part-{}", std::process::id()));
    std::fs::write(&part, kernel)
        .and_then(|()| std::fs::rename(&part, &unpacked))
        .map_err(|error| exit::file(&unpacked, &error))?;
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::{BzImage, LZ4_LEGACY, ZSTD, fitting};

    fn length(bytes: &[u8]) -> u32 {
        bytes.len().try_into().unwrap()
    }

    fn image(packed: &[u8], size: u32) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        bytes[0x1f1] = 1;
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        bytes[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        bytes[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        bytes[0x24c..0x250].copy_from_slice(&(length(packed) + 4).to_le_bytes());
        bytes[0x258..0x260].copy_from_slice(&(16_u64 << 20).to_le_bytes());
        bytes[0x260..0x264].copy_from_slice(&(54_u32 << 20).to_le_bytes());
        bytes.extend([0; 16]);
        bytes.extend(packed);
        bytes.extend(size.to_le_bytes());
        bytes
    }

    fn lz4(kernel: &[u8]) -> Vec<u8> {
        let mut packed = LZ4_LEGACY.to_vec();
        for block in kernel.chunks(60_000) {
            let block = lz4_flex::block::compress(block);
            packed.extend(length(&block).to_le_bytes());
            packed.extend(block);
        }
        packed
    }

    fn kernel() -> Vec<u8> {
        [&b"\x7fELF"[..], &(0..200_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()].concat()
    }

    #[test]
    fn a_kernel_is_unpacked_only_for_a_guest_too_small_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vmlinuz");
        let kernel = kernel();
        std::fs::write(&path, image(&lz4(&kernel), length(&kernel))).unwrap();
        assert_eq!(fitting(&path, 70 << 20, directory.path()).unwrap(), path);
        let unpacked = fitting(&path, 64 << 20, directory.path()).unwrap();
        assert_eq!(std::fs::read(&unpacked).unwrap(), kernel);
        assert_eq!(fitting(&path, 64 << 20, directory.path()).unwrap(), unpacked, "from the cache");
    }

    #[test]
    fn other_files_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kernel");
        for bytes in [&b""[..], b"\x7fELF", &[0; 2000]] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(fitting(&path, 0, directory.path()).unwrap(), path);
        }
    }

    #[test]
    fn lies_are_found_out() {
        let kernel = kernel();
        let size = length(&kernel);
        let wrong = |bytes: &[u8]| BzImage::parse(bytes).is_none_or(|image| image.unpack().is_err());
        assert!(wrong(&image(&lz4(&kernel), size - 1)));
        assert!(wrong(&image(&lz4(&kernel), u32::MAX)));
        assert!(wrong(&image(&lz4(&kernel[4..]), size - 4)), "no ELF file");
        assert!(wrong(&image(&[&ZSTD[..], &[0; 40]].concat(), size)));
        assert!(wrong(&image(b"\xfd7zXZ\0", size)));
        let whole = image(&lz4(&kernel), size);
        for end in (0..whole.len()).step_by(97) {
            assert!(wrong(&whole[..end]), "cut at {end}");
        }
        let mut state = 1_u32;
        for _ in 0..300 {
            let mut altered = whole.clone();
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = state as usize % altered.len();
            altered[at] ^= 1 << (state >> 29);
            // Not a panic, and never more than was promised.
            if let Some(image) = BzImage::parse(&altered) {
                let _ = image.unpack();
            }
        }
    }
}
