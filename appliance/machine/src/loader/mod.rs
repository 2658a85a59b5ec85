//! How a kernel gets into a guest's memory.
//!
//! A loader reads a kernel file and says what goes where and how the first vCPU
//! starts; it touches no guest memory itself. [`LoadPlan::apply`] does, or the
//! caller in its own pace.

pub mod bzimage;
pub mod elf;
mod fields;
pub mod identify;
pub mod memory_map;
pub mod pvh;
mod start_state;

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use hv_abi::domain::VcpuState;
use hv_x86::to_usize;

use crate::fault::GuestFault;
use crate::guest_memory::{Gpa, GuestMemory};
use crate::layout::{BOOT_COMMAND_LINE, EXTENDED_START, MemoryLayout};
use crate::limits::COMMAND_LINE_BYTES_MAX;
use identify::{LooksLike, identify};

/// Why a kernel cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The file is no kernel.
    NotAKernel(LooksLike),
    /// The file ends before what its header announces.
    Truncated,
    /// The kernel speaks an older boot protocol (major in the high byte).
    Protocol {
        /// What it speaks.
        found: u16,
        /// What is needed.
        needed: u16,
    },
    /// The kernel has no 64-bit entry.
    Not64Bit,
    /// The ELF file has no PVH entry note.
    NoPvhEntry,
    /// The header contradicts itself or asks for an address that cannot be.
    Malformed,
    /// The command line is too long for this kernel, or has a zero byte.
    CommandLine {
        /// Its length in bytes.
        length: usize,
        /// The most that works.
        limit: usize,
    },
    /// The guest has too little memory for kernel and initrd.
    Memory {
        /// Bytes it would need at least.
        needed: u64,
        /// Bytes it has below 4 GiB.
        available: u64,
    },
}

impl core::fmt::Display for LoadError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NotAKernel(looks_like) => write!(formatter, "not a kernel: looks like {looks_like}"),
            Self::Truncated => formatter.write_str("the kernel file is cut off"),
            Self::Protocol { found, needed } => write!(
                formatter,
                "the kernel's boot protocol {}.{:02} is too old, {}.{:02} is needed",
                found >> 8,
                found & 0xff,
                needed >> 8,
                needed & 0xff
            ),
            Self::Not64Bit => formatter.write_str("the kernel is not a 64-bit one"),
            Self::NoPvhEntry => formatter.write_str("the ELF file has no PVH entry"),
            Self::Malformed => formatter.write_str("the kernel's header is malformed"),
            Self::CommandLine { length, limit } => {
                write!(formatter, "the command line has {length} bytes, {limit} are possible")
            }
            Self::Memory { needed, available } => write!(
                formatter,
                "kernel and initrd need {} MiB of memory, the guest has {} MiB",
                needed.div_ceil(1 << 20),
                available >> 20
            ),
        }
    }
}

/// What is to be loaded.
#[derive(Clone, Copy, Debug)]
pub struct LoadRequest<'a> {
    /// The kernel file.
    pub kernel: &'a [u8],
    /// Length of the initrd in bytes; zero for none.
    pub initrd_bytes: u64,
    /// The kernel's command line, without a terminating zero.
    pub command_line: &'a [u8],
    /// The guest's memory.
    pub memory: MemoryLayout,
    /// Where the ACPI root pointer is ([`crate::acpi::AcpiTables::root`]).
    pub acpi_root: Gpa,
}

/// Where placed bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A range of the kernel file.
    Kernel(Range<usize>),
    /// The whole initrd.
    Initrd,
    /// So many zero bytes.
    Zeroes(u64),
}

/// Something at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Where.
    pub gpa: Gpa,
    /// What.
    pub content: Content,
}

impl Placement {
    fn bytes(gpa: Gpa, bytes: Vec<u8>) -> Self {
        Self { gpa, content: Content::Bytes(bytes) }
    }
}

/// Everything to do before the first vCPU starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadPlan {
    /// What goes where; nothing overlaps.
    pub placements: Vec<Placement>,
    /// How vCPU 0 starts.
    pub vcpu: VcpuState,
}

impl LoadPlan {
    /// Copies everything into guest memory.
    ///
    /// # Errors
    /// The memory is not what the plan was made for, or files are shorter.
    pub fn apply(&self, memory: &dyn GuestMemory, kernel: &[u8], initrd: &[u8]) -> Result<(), GuestFault> {
        for Placement { gpa, content } in &self.placements {
            match content {
                Content::Bytes(bytes) => memory.write(*gpa, bytes)?,
                Content::Kernel(range) => {
                    let part = kernel.get(range.clone()).ok_or(GuestFault::ShortRequest)?;
                    memory.write(*gpa, part)?;
                }
                Content::Initrd => memory.write(*gpa, initrd)?,
                Content::Zeroes(length) => {
                    let page = [0; 4096];
                    let mut done = 0;
                    while done < *length {
                        let part = to_usize(*length - done).min(page.len());
                        memory.write(gpa.plus(done), page.get(..part).unwrap_or_default())?;
                        done += part as u64;
                    }
                }
            }
        }
        Ok(())
    }
}

/// What a kernel file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelInfo {
    /// Its format: [`LooksLike::BzImage`] or [`LooksLike::Elf64`].
    pub format: LooksLike,
    /// The version it names itself, if any.
    pub version: Option<String>,
    /// Bytes of memory it needs to start, without initrd.
    pub memory_needed: u64,
}

/// Says whether a file is a kernel that can be started, and which.
///
/// # Errors
/// Why it cannot.
pub fn check(kernel: &[u8]) -> Result<KernelInfo, LoadError> {
    match identify(kernel) {
        format @ LooksLike::BzImage => {
            let image = bzimage::parse(kernel)?;
            let version = bzimage::version(kernel);
            Ok(KernelInfo { format, version, memory_needed: image.memory_end() })
        }
        format @ LooksLike::Elf64 => {
            let image = pvh::parse(kernel)?;
            let version = pvh::version(kernel, &image);
            Ok(KernelInfo { format, version, memory_needed: image.memory_end() })
        }
        other => Err(LoadError::NotAKernel(other)),
    }
}

/// Plans how a kernel of either format is loaded.
///
/// # Errors
/// Why it cannot be.
pub fn plan(request: &LoadRequest<'_>) -> Result<LoadPlan, LoadError> {
    match identify(request.kernel) {
        LooksLike::BzImage => bzimage::plan(request),
        LooksLike::Elf64 => pvh::plan(request),
        other => Err(LoadError::NotAKernel(other)),
    }
}

/// The command line with its terminating zero, if it is short enough.
fn command_line(line: &[u8], limit: usize) -> Result<Placement, LoadError> {
    let limit = limit.min(COMMAND_LINE_BYTES_MAX);
    if line.len() > limit || line.contains(&0) {
        return Err(LoadError::CommandLine { length: line.len(), limit });
    }
    let mut bytes = line.to_vec();
    bytes.push(0);
    Ok(Placement::bytes(Gpa(BOOT_COMMAND_LINE), bytes))
}

/// Where an initrd goes: as high as it may, else below the kernel. `kernel` is
/// all memory that the kernel uses before it knows of the initrd, `limit` is one
/// past the last byte that the initrd may have.
fn place_initrd(
    bytes: u64,
    kernel: Range<u64>,
    memory: MemoryLayout,
    limit: u64,
) -> Result<Option<Placement>, LoadError> {
    const PAGE: u64 = 4096;
    let available = memory.low_end();
    if kernel.end > available {
        let needed =
            kernel.end.saturating_add(if bytes <= kernel.start - EXTENDED_START { 0 } else { bytes });
        return Err(LoadError::Memory { needed, available });
    }
    if bytes == 0 {
        return Ok(None);
    }
    let top = limit.min(available);
    let high = top.checked_sub(bytes).map(|start| start & !(PAGE - 1));
    let start = match high {
        Some(start) if start >= kernel.end => start,
        _ => {
            // Small guests: there is room between the first MiB and the kernel.
            let low = kernel.start.checked_sub(bytes).map(|start| start & !(PAGE - 1));
            match low {
                Some(start) if start >= EXTENDED_START => start,
                _ => {
                    let needed = kernel.end.saturating_add(bytes.saturating_add(PAGE));
                    return Err(LoadError::Memory { needed, available });
                }
            }
        }
    };
    Ok(Some(Placement { gpa: Gpa(start), content: Content::Initrd }))
}

#[cfg(test)]
mod tests;
