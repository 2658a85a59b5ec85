//! As much of ELF as a kernel needs: what to load, and its notes.
//!
//! Spec: System V ABI, chapters 4 and 5; AMD64 supplement.

use alloc::vec::Vec;
use core::ops::Range;

use hv_x86::to_usize;

use super::LoadError;
use super::fields::{bytes_at, u16_at, u32_at, u64_at};
use crate::limits::ELF_SEGMENTS_MAX;

const TYPE_LOAD: u32 = 1;
const TYPE_NOTE: u32 = 4;
const PROGRAM_HEADER_BYTES: u16 = 56;

/// A part of the file that goes to memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Which bytes of the file.
    pub file: Range<usize>,
    /// Physical address.
    pub address: u64,
    /// Length in memory; what the file has not is zero.
    pub memory_bytes: u64,
}

/// A parsed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// What is to be loaded.
    pub segments: Vec<Segment>,
    /// Where the notes are in the file.
    pub notes: Vec<Range<usize>>,
}

/// Reads the headers of a 64-bit little-endian file.
///
/// # Errors
/// The file is cut off or contradicts itself.
pub fn parse(file: &[u8]) -> Result<Elf, LoadError> {
    let table = to_usize(u64_at(file, 32).ok_or(LoadError::Truncated)?);
    let size = u16_at(file, 54).ok_or(LoadError::Truncated)?;
    let count = usize::from(u16_at(file, 56).ok_or(LoadError::Truncated)?);
    if size != PROGRAM_HEADER_BYTES || count > ELF_SEGMENTS_MAX {
        return Err(LoadError::Malformed);
    }
    let mut elf = Elf { segments: Vec::new(), notes: Vec::new() };
    for index in 0..count {
        let offset = table.checked_add(index * usize::from(size)).ok_or(LoadError::Malformed)?;
        let header = bytes_at(file, offset, usize::from(size)).ok_or(LoadError::Truncated)?;
        read_program_header(file, header, &mut elf)?;
    }
    Ok(elf)
}

fn read_program_header(file: &[u8], header: &[u8], elf: &mut Elf) -> Result<(), LoadError> {
    let field = |offset| u64_at(header, offset).ok_or(LoadError::Truncated);
    let kind = u32_at(header, 0).ok_or(LoadError::Truncated)?;
    if kind != TYPE_LOAD && kind != TYPE_NOTE {
        return Ok(());
    }
    let (start, address, file_bytes, memory_bytes) = (field(8)?, field(24)?, field(32)?, field(40)?);
    let end = start.checked_add(file_bytes).ok_or(LoadError::Malformed)?;
    let range = to_usize(start)..to_usize(end);
    if file.get(range.clone()).is_none() {
        return Err(LoadError::Truncated);
    }
    if kind == TYPE_NOTE {
        elf.notes.push(range);
    } else if memory_bytes < file_bytes || address.checked_add(memory_bytes).is_none() {
        return Err(LoadError::Malformed);
    } else if memory_bytes != 0 {
        elf.segments.push(Segment { file: range, address, memory_bytes });
    }
    Ok(())
}

/// The content of the first note with this owner and type.
#[must_use]
pub fn find_note<'a>(file: &'a [u8], elf: &Elf, owner: &[u8], kind: u32) -> Option<&'a [u8]> {
    elf.notes.iter().find_map(|range| {
        let mut rest = file.get(range.clone())?;
        // Each note: three words, then name and content padded to four bytes.
        while let (Some(name_bytes), Some(content_bytes), Some(note_kind)) =
            (u32_at(rest, 0), u32_at(rest, 4), u32_at(rest, 8))
        {
            let name_bytes = to_usize(u64::from(name_bytes));
            let content_bytes = to_usize(u64::from(content_bytes));
            let content_at = 12usize.checked_add(name_bytes.checked_next_multiple_of(4)?)?;
            let name = bytes_at(rest, 12, name_bytes)?;
            let content = bytes_at(rest, content_at, content_bytes)?;
            if name == owner && note_kind == kind {
                return Some(content);
            }
            let next = content_at.checked_add(content_bytes.checked_next_multiple_of(4)?)?;
            rest = rest.get(next..)?;
        }
        None
    })
}
