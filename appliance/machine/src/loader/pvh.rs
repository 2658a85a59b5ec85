//! The PVH loader: an ELF kernel that starts in 32-bit protected mode.
//!
//! Spec: Xen `docs/misc/pvh.pandoc` (state at the entry) and
//! `xen/include/public/arch-x86/hvm/start_info.h`.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use hv_x86::low32;

use super::elf::{self, Elf};
use super::fields::{put, u32_at, u64_at};
use super::identify::{LooksLike, identify};
use super::memory_map::memory_map;
use super::{Content, LoadError, LoadPlan, LoadRequest, Placement, command_line, place_initrd, start_state};
use crate::guest_memory::Gpa;
use crate::layout::{BOOT_COMMAND_LINE, BOOT_START_INFO, EXTENDED_START, LOW_MEMORY_END};
use crate::limits::COMMAND_LINE_BYTES_MAX;

const NOTE_OWNER: &[u8] = b"Xen\0";
/// Linux's build salt, which distributions set to the version.
const SALT_OWNER: &[u8] = b"Linux\0";
const NOTE_SALT: u32 = 0x100;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const NOTE_ENTRY: u32 = 18;
const START_MAGIC: u32 = 0x336e_c578;
const START_INFO_BYTES: usize = 56;
const MODULE_BYTES: usize = 32;
const MAP_ENTRY_BYTES: usize = 24;
const MODULES: u64 = BOOT_START_INFO + 0x40;
const MEMORY_MAP: u64 = BOOT_START_INFO + 0x80;

/// A kernel with a PVH entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PvhImage {
    /// Physical address of the entry.
    pub entry: u64,
    /// What is to be loaded.
    pub elf: Elf,
}

impl PvhImage {
    /// First byte of memory the kernel is loaded to.
    #[must_use]
    pub fn memory_start(&self) -> u64 {
        self.elf.segments.iter().map(|segment| segment.address).min().unwrap_or(0)
    }

    /// One past the memory the kernel is loaded to.
    #[must_use]
    pub fn memory_end(&self) -> u64 {
        let ends =
            self.elf.segments.iter().map(|segment| segment.address.saturating_add(segment.memory_bytes));
        ends.max().unwrap_or(0)
    }
}

/// Reads an ELF kernel.
///
/// # Errors
/// Why it cannot be started.
pub fn parse(file: &[u8]) -> Result<PvhImage, LoadError> {
    let looks_like = identify(file);
    if looks_like != LooksLike::Elf64 {
        return Err(LoadError::NotAKernel(looks_like));
    }
    let elf = elf::parse(file)?;
    let note = elf::find_note(file, &elf, NOTE_OWNER, NOTE_ENTRY).ok_or(LoadError::NoPvhEntry)?;
    let entry = match note.len() {
        4 => u32_at(note, 0).map(u64::from),
        8 => u64_at(note, 0),
        _ => None,
    };
    let entry = entry.ok_or(LoadError::NoPvhEntry)?;
    let mut ranges: Vec<_> = elf
        .segments
        .iter()
        .map(|segment| (segment.address, segment.address.saturating_add(segment.memory_bytes)))
        .collect();
    ranges.sort_unstable();
    let apart = ranges.windows(2).all(|pair| matches!(pair, [first, second] if first.1 <= second.0));
    let inside = ranges.iter().all(|range| range.0 >= EXTENDED_START && range.1 <= LOW_MEMORY_END);
    let entered = ranges.iter().any(|range| (range.0..range.1).contains(&entry));
    if apart && inside && entered { Ok(PvhImage { entry, elf }) } else { Err(LoadError::Malformed) }
}

/// The version a kernel was given by its distribution.
#[must_use]
pub fn version(file: &[u8], image: &PvhImage) -> Option<String> {
    let note = elf::find_note(file, &image.elf, SALT_OWNER, NOTE_SALT)?;
    let text: Vec<u8> =
        note.iter().copied().take(128).take_while(|byte| matches!(byte, 0x20..=0x7e)).collect();
    String::from_utf8(text).ok().filter(|text| !text.is_empty())
}

/// Plans how a PVH kernel is loaded and started.
///
/// # Errors
/// Why it cannot be.
pub fn plan(request: &LoadRequest<'_>) -> Result<LoadPlan, LoadError> {
    let image = parse(request.kernel)?;
    let line = command_line(request.command_line, COMMAND_LINE_BYTES_MAX)?;
    let kernel = image.memory_start()..image.memory_end();
    let initrd = place_initrd(request.initrd_bytes, kernel, request.memory, LOW_MEMORY_END)?;
    let mut placements = vec![line];
    for segment in &image.elf.segments {
        let file_bytes = segment.file.len() as u64;
        if file_bytes != 0 {
            let content = Content::Kernel(segment.file.clone());
            placements.push(Placement { gpa: Gpa(segment.address), content });
        }
        if segment.memory_bytes > file_bytes {
            let content = Content::Zeroes(segment.memory_bytes - file_bytes);
            placements.push(Placement { gpa: Gpa(segment.address + file_bytes), content });
        }
    }
    placements.push(start_info(request, initrd.as_ref().map(|placement| placement.gpa)));
    let (vcpu, gdt) = start_state::protected_mode(image.entry, BOOT_START_INFO);
    placements.push(gdt);
    placements.extend(initrd);
    Ok(LoadPlan { placements, vcpu })
}

/// `hvm_start_info` version 1, the list of modules and the memory map.
fn start_info(request: &LoadRequest<'_>, initrd: Option<Gpa>) -> Placement {
    let map = memory_map(request.memory);
    let mut bytes = vec![0; 0x80 + map.len() * MAP_ENTRY_BYTES];
    put(&mut bytes, 0, &START_MAGIC.to_le_bytes());
    put(&mut bytes, 4, &1u32.to_le_bytes());
    put(&mut bytes, 24, &BOOT_COMMAND_LINE.to_le_bytes());
    put(&mut bytes, 32, &request.acpi_root.0.to_le_bytes());
    put(&mut bytes, 40, &MEMORY_MAP.to_le_bytes());
    put(&mut bytes, 48, &low32(map.len() as u64).to_le_bytes());
    if let Some(gpa) = initrd {
        put(&mut bytes, 12, &1u32.to_le_bytes());
        put(&mut bytes, 16, &MODULES.to_le_bytes());
        put(&mut bytes, 0x40, &gpa.0.to_le_bytes());
        put(&mut bytes, 0x48, &request.initrd_bytes.to_le_bytes());
    }
    for (index, entry) in map.iter().enumerate() {
        let offset = 0x80 + index * MAP_ENTRY_BYTES;
        put(&mut bytes, offset, &entry.start.to_le_bytes());
        put(&mut bytes, offset + 8, &(entry.end - entry.start).to_le_bytes());
        put(&mut bytes, offset + 16, &entry.kind.to_le_bytes());
    }
    Placement::bytes(Gpa(BOOT_START_INFO), bytes)
}

const _: () = assert!(START_INFO_BYTES <= 0x40 && MODULE_BYTES <= 0x40, "the parts do not overlap");
