//! The Linux bzImage loader, 64-bit boot protocol.
//!
//! Spec: Linux `Documentation/arch/x86/boot.rst`, "The Real-Mode Kernel Header",
//! "64-bit Boot Protocol"; `zero-page.rst` for the boot parameters.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use hv_x86::{low8, low32, to_usize};

use super::fields::{bytes_at, put, u8_at, u16_at, u32_at, u64_at};
use super::identify::{LooksLike, identify};
use super::memory_map::memory_map;
use super::{Content, LoadError, LoadPlan, LoadRequest, Placement, command_line, place_initrd, start_state};
use crate::guest_memory::Gpa;
use crate::layout::{BOOT_COMMAND_LINE, BOOT_PARAMETERS, EXTENDED_START, LOW_MEMORY_END};

/// 2.12 has the flags that say whether there is a 64-bit entry.
const PROTOCOL_NEEDED: u16 = 0x020c;
const SECTOR_BYTES: usize = 512;
/// The 64-bit entry's distance from the start of the kernel.
const ENTRY_64: u64 = 0x200;
/// Extended load flag: 64-bit entry at 0x200.
const FLAG_64: u16 = 1;
/// Extended load flag: everything may lie above 4 GiB, so the limit on the
/// initrd's address does not hold.
const FLAG_HIGH: u16 = 2;
/// Load flag: the kernel goes to 1 MiB or above.
const LOADED_HIGH: u8 = 1;
/// Start of the setup header in file and boot parameters.
const SETUP_HEADER: usize = 0x1f1;
const ZERO_PAGE_BYTES: usize = 4096;
const MEMORY_MAP: usize = 0x2d0;
const MEMORY_MAP_ENTRIES: usize = 128;

/// What the header of a bzImage says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BzImage {
    /// Boot protocol, major in the high byte.
    pub protocol: u16,
    /// Where the protected-mode part starts in the file.
    pub payload_offset: usize,
    /// Its length in bytes.
    pub payload_bytes: usize,
    /// Where it wants to be.
    pub preferred_address: u64,
    /// Memory from there on that it uses before it looks at the memory map.
    pub init_bytes: u64,
    /// Most bytes of a command line.
    pub command_line_max: usize,
    /// Highest address of an initrd's last byte.
    pub initrd_address_max: u64,
}

impl BzImage {
    /// One past the memory the kernel uses to start.
    #[must_use]
    pub fn memory_end(&self) -> u64 {
        self.preferred_address.saturating_add(self.init_bytes.max(self.payload_bytes as u64))
    }
}

/// Reads the header of a bzImage.
///
/// # Errors
/// Why this is none that can be started.
pub fn parse(file: &[u8]) -> Result<BzImage, LoadError> {
    let looks_like = identify(file);
    if looks_like != LooksLike::BzImage {
        return Err(LoadError::NotAKernel(looks_like));
    }
    read_header(file).ok_or(LoadError::Truncated)?
}

fn read_header(file: &[u8]) -> Option<Result<BzImage, LoadError>> {
    let protocol = u16_at(file, 0x206)?;
    if protocol < PROTOCOL_NEEDED {
        return Some(Err(LoadError::Protocol { found: protocol, needed: PROTOCOL_NEEDED }));
    }
    let flags = u16_at(file, 0x236)?;
    if flags & FLAG_64 == 0 || u8_at(file, 0x211)? & LOADED_HIGH == 0 {
        return Some(Err(LoadError::Not64Bit));
    }
    // A count of zero means four, for kernels from before the field.
    let setup_sectors = match u8_at(file, SETUP_HEADER)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let payload_offset = (setup_sectors + 1) * SECTOR_BYTES;
    // The size is in units of 16 bytes; the file may be a little shorter than
    // the rounded size, but not by more.
    let announced = to_usize(u64::from(u32_at(file, 0x1f4)?) * 16);
    let present = file.len().checked_sub(payload_offset)?;
    if announced == 0 || present + 15 < announced {
        return None;
    }
    let preferred_address = u64_at(file, 0x258)?;
    let init_bytes = u64::from(u32_at(file, 0x260)?);
    let initrd_address_max =
        if flags & FLAG_HIGH != 0 { LOW_MEMORY_END - 1 } else { u64::from(u32_at(file, 0x22c)?) };
    let image = BzImage {
        protocol,
        payload_offset,
        payload_bytes: present.min(announced),
        preferred_address,
        init_bytes,
        command_line_max: to_usize(u64::from(u32_at(file, 0x238)?)),
        initrd_address_max,
    };
    let sane = preferred_address >= EXTENDED_START
        && image.memory_end() <= LOW_MEMORY_END
        && image.payload_bytes as u64 > ENTRY_64;
    Some(if sane { Ok(image) } else { Err(LoadError::Malformed) })
}

/// The version a kernel names itself.
#[must_use]
pub fn version(file: &[u8]) -> Option<String> {
    let offset = usize::from(u16_at(file, 0x20e)?).checked_add(0x200)?;
    let text = file.get(offset..)?.iter().take(128).take_while(|byte| matches!(byte, 0x20..=0x7e));
    let text: Vec<u8> = text.copied().collect();
    String::from_utf8(text).ok().filter(|text| !text.is_empty())
}

/// Plans how a bzImage is loaded and started.
///
/// # Errors
/// Why it cannot be.
pub fn plan(request: &LoadRequest<'_>) -> Result<LoadPlan, LoadError> {
    let image = parse(request.kernel)?;
    let line = command_line(request.command_line, image.command_line_max)?;
    let load = image.preferred_address;
    let limit = image.initrd_address_max.saturating_add(1);
    let initrd = place_initrd(request.initrd_bytes, load..image.memory_end(), request.memory, limit)?;
    let payload = image.payload_offset..image.payload_offset + image.payload_bytes;
    let parameters = boot_parameters(request, initrd.as_ref().map_or(Gpa(0), |placement| placement.gpa))?;
    let (vcpu, tables) = start_state::long_mode(load + ENTRY_64, BOOT_PARAMETERS);
    let mut placements = vec![
        Placement { gpa: Gpa(load), content: Content::Kernel(payload) },
        line,
        Placement::bytes(Gpa(BOOT_PARAMETERS), parameters),
    ];
    placements.extend(tables);
    placements.extend(initrd);
    Ok(LoadPlan { placements, vcpu })
}

/// The page that tells the kernel everything.
fn boot_parameters(request: &LoadRequest<'_>, initrd: Gpa) -> Result<Vec<u8>, LoadError> {
    let file = request.kernel;
    let mut page = vec![0; ZERO_PAGE_BYTES];
    // The header ends where its jump instruction lands.
    let end = 0x202 + usize::from(u8_at(file, 0x201).ok_or(LoadError::Truncated)?);
    let length = end.min(MEMORY_MAP).checked_sub(SETUP_HEADER).ok_or(LoadError::Malformed)?;
    put(&mut page, SETUP_HEADER, bytes_at(file, SETUP_HEADER, length).ok_or(LoadError::Truncated)?);
    put(&mut page, 0x1fa, &0xffffu16.to_le_bytes()); // video mode: as it is
    put(&mut page, 0x210, &[0xff]); // loader without a number
    put(&mut page, 0x218, &low32(initrd.0).to_le_bytes());
    put(&mut page, 0x21c, &low32(request.initrd_bytes).to_le_bytes());
    put(&mut page, 0x228, &low32(BOOT_COMMAND_LINE).to_le_bytes());
    put(&mut page, 0x250, &[0; 8]); // no further setup data
    put(&mut page, 0x070, &request.acpi_root.0.to_le_bytes());
    let map = memory_map(request.memory);
    put(&mut page, 0x1e8, &[low8(map.len().min(MEMORY_MAP_ENTRIES) as u64)]);
    for (index, entry) in map.iter().take(MEMORY_MAP_ENTRIES).enumerate() {
        let offset = MEMORY_MAP + index * 20;
        put(&mut page, offset, &entry.start.to_le_bytes());
        put(&mut page, offset + 8, &(entry.end - entry.start).to_le_bytes());
        put(&mut page, offset + 16, &entry.kind.to_le_bytes());
    }
    Ok(page)
}
