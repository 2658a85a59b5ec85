//! What a file looks like, so that a refusal can say it.

use super::fields::{bytes_at, u16_at, u32_at};

/// What the bytes resemble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LooksLike {
    /// A Linux bzImage: loadable.
    BzImage,
    /// An ELF file for x86-64: loadable if it has a PVH entry.
    Elf64,
    /// No bytes at all.
    Empty,
    /// An ELF file for something else.
    ForeignElf,
    /// A gzip stream, often a compressed kernel or initrd.
    Gzip,
    /// An xz stream.
    Xz,
    /// A zstd stream.
    Zstd,
    /// A cpio archive: an uncompressed initrd.
    Cpio,
    /// A Linux kernel for another architecture.
    ForeignKernel,
    /// A Windows or EFI program.
    PortableExecutable,
    /// A disk image with a boot sector.
    BootSector,
    /// Text.
    Text,
    /// None of these.
    Unknown,
}

impl core::fmt::Display for LooksLike {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(match self {
            Self::BzImage => "a Linux bzImage",
            Self::Elf64 => "an x86-64 ELF file",
            Self::Empty => "an empty file",
            Self::ForeignElf => "an ELF file that is not for x86-64",
            Self::Gzip => "gzip-compressed data",
            Self::Xz => "xz-compressed data",
            Self::Zstd => "zstd-compressed data",
            Self::Cpio => "a cpio archive (an initrd?)",
            Self::ForeignKernel => "a kernel for another architecture",
            Self::PortableExecutable => "a PE (EFI or Windows) program",
            Self::BootSector => "a disk image",
            Self::Text => "text",
            Self::Unknown => "unknown data",
        })
    }
}

/// Looks at the first bytes of a file.
#[must_use]
pub fn identify(file: &[u8]) -> LooksLike {
    let starts = |magic: &[u8]| file.starts_with(magic);
    if file.is_empty() {
        return LooksLike::Empty;
    }
    // Linux x86 boot protocol: "HdrS" at 0x202, and the boot flag.
    if bytes_at(file, 0x202, 4) == Some(b"HdrS") && u16_at(file, 0x1fe) == Some(0xaa55) {
        return LooksLike::BzImage;
    }
    if starts(b"\x7fELF") {
        let x86_64 = bytes_at(file, 4, 2) == Some(&[2, 1]) && u16_at(file, 18) == Some(62);
        return if x86_64 { LooksLike::Elf64 } else { LooksLike::ForeignElf };
    }
    // arm64 and RISC-V images carry a magic at 0x38.
    if matches!(u32_at(file, 0x38), Some(0x644d_5241 | 0x0543_5352)) {
        return LooksLike::ForeignKernel;
    }
    match file {
        [0x1f, 0x8b, ..] => LooksLike::Gzip,
        [0xfd, b'7', b'z', b'X', b'Z', ..] => LooksLike::Xz,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => LooksLike::Zstd,
        [b'0', b'7', b'0', b'7', b'0', ..] => LooksLike::Cpio,
        [b'M', b'Z', ..] => LooksLike::PortableExecutable,
        _ if u16_at(file, 0x1fe) == Some(0xaa55) => LooksLike::BootSector,
        _ if is_text(file) => LooksLike::Text,
        _ => LooksLike::Unknown,
    }
}

fn is_text(file: &[u8]) -> bool {
    file.iter().take(512).all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..=0xff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_can_say_what_it_is() {
        assert_eq!(identify(&[]), LooksLike::Empty);
        assert_eq!(identify(b"\x1f\x8b\x08"), LooksLike::Gzip);
        assert_eq!(identify(b"MZ\x90\0"), LooksLike::PortableExecutable);
        assert_eq!(identify(b"#!/bin/sh\n"), LooksLike::Text);
        assert_eq!(identify(b"070701"), LooksLike::Cpio);
        assert_eq!(identify(b"\x7fELF\x01\x01"), LooksLike::ForeignElf);
        assert_eq!(identify(&[0; 600]), LooksLike::Unknown);
        let mut arm = [0; 64];
        arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
        assert_eq!(identify(&arm), LooksLike::ForeignKernel);
    }
}
