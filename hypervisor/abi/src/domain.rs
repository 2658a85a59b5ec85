//! Guests as the hypervisor sees them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// What `DomainCreate` takes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DomainSpec {
    /// Guest RAM in bytes, a multiple of 2 MiB: from address 0 up to
    /// [`LOW_MEMORY_END`], the rest from [`HIGH_MEMORY_START`].
    pub memory_bytes: u64,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Scheduling weight, 1-65535; 256 is the default.
    pub weight: u32,
    /// Most CPU time in percent of one CPU; 0 is no cap.
    pub cap_percent: u32,
    /// Zero.
    pub reserved: u32,
}

/// Where low guest RAM ends at the latest.
pub const LOW_MEMORY_END: u64 = 0xc000_0000;
/// Where the rest of guest RAM begins.
pub const HIGH_MEMORY_START: u64 = 1 << 32;

/// vCPU starts in 64-bit mode with paging on.
pub const MODE_LONG: u32 = 1;
/// vCPU starts in 32-bit protected mode without paging, flat segments.
pub const MODE_PROTECTED: u32 = 2;

/// The state a vCPU starts with. The others wait for a start-up IPI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuState {
    /// One of the `MODE_*`.
    pub mode: u32,
    /// Zero.
    pub reserved: u32,
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// RBX (PVH: start info).
    pub rbx: u64,
    /// RSI (Linux: boot parameters).
    pub rsi: u64,
    /// Page-table root for `MODE_LONG`.
    pub cr3: u64,
    /// Guest-physical base of the GDT.
    pub gdt_base: u64,
    /// Limit of the GDT in bytes.
    pub gdt_limit: u32,
    /// Code selector in it.
    pub code_selector: u16,
    /// Data selector in it.
    pub data_selector: u16,
}

/// Domain state: created, not started.
pub const STATE_NEW: u32 = 0;
/// Domain state: its vCPUs may run.
pub const STATE_RUNNING: u32 = 1;
/// Domain state: paused.
pub const STATE_PAUSED: u32 = 2;
/// Domain state: stopped after a guest triple fault.
pub const STATE_CRASHED: u32 = 3;

/// What `DomainInfo` returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DomainInfo {
    /// Its [`crate::DomainId`].
    pub domain: u32,
    /// One of the `STATE_*`.
    pub state: u32,
    /// vCPUs.
    pub vcpus: u32,
    /// vCPUs that are running or could.
    pub vcpus_runnable: u32,
    /// RAM in bytes.
    pub memory_bytes: u64,
    /// RAM that the guest has touched, in bytes.
    pub populated_bytes: u64,
    /// CPU time of all vCPUs in nanoseconds.
    pub cpu_time_ns: u64,
    /// Exits of all vCPUs.
    pub exits: u64,
    /// Scheduling weight.
    pub weight: u32,
    /// Cap in percent, 0 for none.
    pub cap_percent: u32,
    /// Monotonic time at which the first vCPU ran its first instruction.
    pub first_run_ns: u64,
}

/// What `NodeInfo` returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NodeInfo {
    /// Bytes of RAM that the firmware reported usable.
    pub memory_bytes: u64,
    /// Bytes neither used nor reserved.
    pub memory_free_bytes: u64,
    /// Bytes used by the hypervisor: its image, tables, stacks.
    pub hypervisor_bytes: u64,
    /// Bytes used by dom0.
    pub dom0_bytes: u64,
    /// CPUs in use.
    pub cpus: u32,
    /// Times that dom0 was started since power-on.
    pub dom0_starts: u32,
    /// TSC frequency in kHz.
    pub tsc_khz: u64,
    /// Wall clock in nanoseconds since 1970 when the monotonic clock was zero.
    pub wall_clock_base_ns: u64,
    /// How the run before ended: a number of [`crate::previous::Ended`], or 0 where
    /// memory does not say.
    pub previous_end: u32,
    /// What notices when a processor hangs: a set of `WATCHDOG_*`.
    pub watchdogs: u32,
    /// Lines of the log since power-on that are errors.
    pub log_errors: u32,
    /// Lines of the log since power-on that are warnings.
    pub log_warnings: u32,
    /// Threads that rest because another one of their core runs.
    pub threads_resting: u32,
    /// Zero.
    pub reserved: u32,
}

/// Another processor notices.
pub const WATCHDOG_PROCESSOR: u32 = 1 << 0;
/// The chipset notices: ICH9's TCO.
pub const WATCHDOG_TCO: u32 = 1 << 1;
/// The chipset notices: an i6300ESB's timer.
pub const WATCHDOG_I6300ESB: u32 = 1 << 2;
