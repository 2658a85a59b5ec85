//! What dom0 finds when it starts.
//!
//! RDI holds the address of a [`BootInfo`]. The address space is laid out by the
//! constants below; the heap is backed page by page as it is touched.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Where the boot information page is.
pub const BOOT_INFO: u64 = 0x0000_0010_0000_0000;
/// Where the image is mapped, read-only.
pub const IMAGE: u64 = 0x0000_0018_0000_0000;
/// Where the heap begins.
pub const HEAP: u64 = 0x0000_0020_0000_0000;
/// Most heap in bytes: more than all that the node and its guests may take of it.
pub const HEAP_BYTES: u64 = 80 << 20;
/// Where device registers are mapped from.
pub const MMIO: u64 = 0x0000_0030_0000_0000;
/// Where DMA memory is mapped from.
pub const DMA: u64 = 0x0000_0038_0000_0000;
/// End of the stack, which grows down and is backed as it is touched.
pub const STACK_TOP: u64 = 0x0000_0040_0000_0000;
/// Most stack in bytes.
pub const STACK_BYTES: u64 = 512 << 10;
/// Window of the guest memory of domain slot 0: guest address `a` of slot `s`
/// appears at `WINDOW + s * WINDOW_BYTES + a`.
pub const WINDOW: u64 = 0x0000_1000_0000_0000;
/// Distance between two windows.
pub const WINDOW_BYTES: u64 = 512 << 30;

/// Version of this structure.
pub const VERSION: u32 = 1;

/// Facts about the machine and the boot.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BootInfo {
    /// [`VERSION`].
    pub version: u32,
    /// CPUs in use.
    pub cpus: u32,
    /// Bytes mapped at [`IMAGE`].
    pub image_bytes: u64,
    /// TSC at which the monotonic clock was zero.
    pub tsc_base: u64,
    /// Nanoseconds per TSC tick, as a 32.32 fixed-point number.
    pub tsc_to_ns: u64,
    /// Wall clock in nanoseconds since 1970 when the monotonic clock was zero.
    pub wall_clock_base_ns: u64,
    /// Which start of dom0 this is since power-on, from 1.
    pub dom0_starts: u32,
    /// Bytes of [`BootInfo::command_line`] in use.
    pub command_line_bytes: u32,
    /// The kernel command line from the boot loader: untrusted.
    pub command_line: [u8; 1024],
    /// 32 bytes of the hypervisor's generator, other ones for each start.
    pub seed: [u8; 32],
}

/// Monotonic nanoseconds for a TSC value.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "nanoseconds wrap after 584 years")]
pub const fn tsc_to_ns(tsc: u64, tsc_base: u64, scale: u64) -> u64 {
    let ticks = tsc.saturating_sub(tsc_base);
    let product = (ticks as u128) * (scale as u128);
    (product >> 32) as u64
}

#[cfg(test)]
mod tests {
    use super::tsc_to_ns;

    #[test]
    fn a_gigahertz_is_a_nanosecond() {
        assert_eq!(tsc_to_ns(1_000_100, 100, 1 << 32), 1_000_000);
        assert_eq!(tsc_to_ns(50, 100, 1 << 32), 0);
        // 4 GHz for a hundred years does not overflow.
        let ticks = 4_000_000_000 * 86_400 * 36_525;
        assert_eq!(tsc_to_ns(ticks, 0, 1 << 30), ticks / 4);
    }
}
