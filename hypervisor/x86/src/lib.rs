//! Layouts of the x86-64 architecture, as the manuals give them.
//!
//! Constants and plain structures only: nothing here touches a processor. `APM`
//! is AMD's Architecture Programmer's Manual (volume 2, publication 24593),
//! `SDM` is Intel's Software Developer's Manual (volume 3).
#![no_std]
#![forbid(unsafe_code)]

pub mod address;
pub mod apic;
pub mod cpuid;
pub mod msr;
pub mod page;
pub mod reg;
pub mod svm;

pub use address::{BusAddress, Gpa, Hpa};

/// Size of a base page and frame in bytes.
pub const PAGE_SIZE: u64 = 4096;
/// Size of a large page (one page-directory entry) in bytes.
pub const LARGE_PAGE_SIZE: u64 = 2 << 20;
/// Size of a huge page (one page-directory-pointer entry) in bytes.
pub const HUGE_PAGE_SIZE: u64 = 1 << 30;

const _: () = assert!(usize::BITS == 64, "this code is for 64-bit machines");

/// A 64-bit quantity as an index; lossless on the only machines built for.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits, asserted above")]
pub const fn to_usize(value: u64) -> usize {
    value as usize
}

/// The low 32 bits of a register.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
pub const fn low32(value: u64) -> u32 {
    value as u32
}

/// The low 16 bits of a register.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the low part is what is asked for")]
pub const fn low16(value: u64) -> u16 {
    value as u16
}

/// The low 8 bits of a register.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "the low part is what is asked for")]
pub const fn low8(value: u64) -> u8 {
    value as u8
}

/// An error that the processor can raise in a guest or in dom0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Vector 0-31 (SDM table 6-1).
    pub vector: u8,
    /// Error code, for the vectors that push one.
    pub error_code: Option<u32>,
}

impl Exception {
    /// Invalid opcode, vector 6.
    pub const INVALID_OPCODE: Self = Self { vector: 6, error_code: None };
    /// General protection with error code 0, vector 13.
    pub const GENERAL_PROTECTION: Self = Self { vector: 13, error_code: Some(0) };

    /// A page fault, vector 14; the address is in CR2.
    #[must_use]
    pub const fn page_fault(error_code: u32) -> Self {
        Self { vector: 14, error_code: Some(error_code) }
    }
}
