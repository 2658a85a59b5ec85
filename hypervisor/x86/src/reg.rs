//! Control, flag and descriptor bits.
//!
//! Spec: APM 3.1, 4.8; SDM 2.5.

/// CR0: protected mode.
pub const CR0_PE: u64 = 1 << 0;
/// CR0: extension type, always one.
pub const CR0_ET: u64 = 1 << 4;
/// CR0: numeric error.
pub const CR0_NE: u64 = 1 << 5;
/// CR0: supervisor writes obey read-only pages.
pub const CR0_WP: u64 = 1 << 16;
/// CR0: not write-through.
pub const CR0_NW: u64 = 1 << 29;
/// CR0: cache disable.
pub const CR0_CD: u64 = 1 << 30;
/// CR0: paging.
pub const CR0_PG: u64 = 1 << 31;

/// CR4: page-size extension.
pub const CR4_PSE: u64 = 1 << 4;
/// CR4: physical-address extension.
pub const CR4_PAE: u64 = 1 << 5;
/// CR4: machine-check enable.
pub const CR4_MCE: u64 = 1 << 6;
/// CR4: ring 3 may not read descriptor-table registers.
pub const CR4_UMIP: u64 = 1 << 11;
/// CR4: 57-bit linear addresses.
pub const CR4_LA57: u64 = 1 << 12;
/// CR4: XSAVE and XCR0.
pub const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4: ring 0 may not execute user pages.
pub const CR4_SMEP: u64 = 1 << 20;
/// CR4: ring 0 may not read or write user pages unless it says so.
pub const CR4_SMAP: u64 = 1 << 21;

/// RFLAGS: always one.
pub const RFLAGS_RESERVED: u64 = 1 << 1;
/// RFLAGS: trap flag.
pub const RFLAGS_TF: u64 = 1 << 8;
/// RFLAGS: interrupts enabled.
pub const RFLAGS_IF: u64 = 1 << 9;
/// RFLAGS: direction.
pub const RFLAGS_DF: u64 = 1 << 10;
/// RFLAGS: alignment check; ring 0 may touch user pages.
pub const RFLAGS_AC: u64 = 1 << 18;

/// EFER: SYSCALL enable.
pub const EFER_SCE: u64 = 1 << 0;
/// EFER: long mode enable.
pub const EFER_LME: u64 = 1 << 8;
/// EFER: long mode active.
pub const EFER_LMA: u64 = 1 << 10;
/// EFER: no-execute enable.
pub const EFER_NXE: u64 = 1 << 11;
/// EFER: SVM enable.
pub const EFER_SVME: u64 = 1 << 12;

/// EFER: automatic IBRS.
pub const EFER_AIBRSE: u64 = 1 << 21;

/// XCR0: x87 state.
pub const XCR0_X87: u64 = 1 << 0;
/// XCR0: SSE state.
pub const XCR0_SSE: u64 = 1 << 1;
/// XCR0: AVX state.
pub const XCR0_AVX: u64 = 1 << 2;
