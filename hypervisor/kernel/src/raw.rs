//! Single privileged instructions, each behind a function.

use core::arch::asm;
use hv_core::clock::Tsc;
use hv_x86::cpuid::Leaf;

/// CPUID.
pub(crate) fn cpuid(function: u32, subleaf: u32) -> Leaf {
    let found = core::arch::x86_64::__cpuid_count(function, subleaf);
    Leaf { eax: found.eax, ebx: found.ebx, ecx: found.ecx, edx: found.edx }
}

/// The time-stamp counter, not before earlier loads are done.
pub(crate) fn tsc() -> Tsc {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter; no memory is touched.
    unsafe {
        asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    };
    Tsc(u64::from(high) << 32 | u64::from(low))
}

/// A word of RDRAND, if the processor has one to give now.
pub(crate) fn rdrand() -> Option<u64> {
    // Leaf 1 ECX bit 30: RDRAND.
    if cpuid(1, 0).ecx & 1 << 30 == 0 {
        return None;
    }
    let (value, good): (u64, u8);
    // SAFETY: writes two registers; support was checked above.
    unsafe { asm!("rdrand {0}", "setc {1}", out(reg) value, out(reg_byte) good, options(nomem, nostack)) };
    (good != 0).then_some(value)
}

/// A word of RDSEED, if the processor has one to give now.
pub(crate) fn rdseed() -> Option<u64> {
    // Leaf 7 EBX bit 18: RDSEED.
    if cpuid(0, 0).eax < 7 || cpuid(7, 0).ebx & 1 << 18 == 0 {
        return None;
    }
    let (value, good): (u64, u8);
    // SAFETY: writes two registers; support was checked above.
    unsafe { asm!("rdseed {0}", "setc {1}", out(reg) value, out(reg_byte) good, options(nomem, nostack)) };
    (good != 0).then_some(value)
}

/// Ports in a row that belong to one device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports {
    first: u16,
    count: u16,
}

impl Ports {
    /// So many ports from a first one on.
    ///
    /// # Safety
    /// They are of a device that this program drives: whatever is written there, no memory of
    /// this program or of a guest changes by it, and no processor stops but on purpose.
    pub(crate) const unsafe fn new(first: u16, count: u16) -> Self {
        Self { first, count }
    }

    fn port(self, offset: u16, width: u8) -> u16 {
        assert!(offset + u16::from(width) <= self.count, "a port beyond the device's");
        self.first + offset
    }

    /// Reads 1, 2 or 4 bytes.
    pub(crate) fn read(self, offset: u16, width: u8) -> u32 {
        port_read(self.port(offset, width), width)
    }

    /// Writes 1, 2 or 4 bytes.
    pub(crate) fn write(self, offset: u16, width: u8, value: u32) {
        let port = self.port(offset, width);
        // SAFETY: one of the device's ports.
        unsafe { port_write(port, width, value) };
    }
}

/// Reads a port of 1, 2 or 4 bytes; no memory changes by it.
fn port_read(port: u16, width: u8) -> u32 {
    match width {
        1 => {
            let value: u8;
            // SAFETY: port input touches no memory of this program.
            unsafe {
                asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags))
            };
            u32::from(value)
        }
        2 => {
            let value: u16;
            // SAFETY: port input touches no memory of this program.
            unsafe {
                asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags))
            };
            u32::from(value)
        }
        _ => {
            let value: u32;
            // SAFETY: port input touches no memory of this program.
            unsafe {
                asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags))
            };
            value
        }
    }
}

/// Writes a port of 1, 2 or 4 bytes.
///
/// # Safety
/// As for [`Ports::new`].
unsafe fn port_write(port: u16, width: u8, value: u32) {
    match width {
        1 => {
            let value = hv_x86::low8(u64::from(value));
            // SAFETY: the caller vouches for the port.
            unsafe {
                asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags))
            };
        }
        2 => {
            let value = hv_x86::low16(u64::from(value));
            // SAFETY: the caller vouches for the port.
            unsafe {
                asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags))
            };
        }
        _ => {
            // SAFETY: the caller vouches for the port.
            unsafe {
                asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags))
            };
        }
    }
}

/// RDMSR.
///
/// # Safety
/// The register exists on this processor: reading another one is a fault in ring 0.
pub(crate) unsafe fn read_msr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller vouches for the register; no memory is touched.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// WRMSR.
///
/// # Safety
/// The value must be one under which the running code stays valid.
pub(crate) unsafe fn write_msr(msr: u32, value: u64) {
    let (low, high) = (hv_x86::low32(value), hv_x86::low32(value >> 32));
    // SAFETY: the caller vouches for the value.
    unsafe { asm!("wrmsr", in("ecx") msr, in("eax") low, in("edx") high, options(nostack, preserves_flags)) };
}

/// Debug address registers 0 to 3.
pub(crate) fn read_debug() -> [u64; 4] {
    let (a, b, c, d): (u64, u64, u64, u64);
    // SAFETY: reads registers that ring 0 does not use itself.
    unsafe {
        asm!("mov {0}, dr0", "mov {1}, dr1", "mov {2}, dr2", "mov {3}, dr3", out(reg) a, out(reg) b, out(reg) c, out(reg) d, options(nomem, nostack, preserves_flags))
    };
    [a, b, c, d]
}

/// Sets debug address registers 0 to 3.
pub(crate) fn write_debug([a, b, c, d]: [u64; 4]) {
    // SAFETY: DR7 is zero in ring 0, so the addresses have no effect here.
    unsafe {
        asm!("mov dr0, {0}", "mov dr1, {1}", "mov dr2, {2}", "mov dr3, {3}", in(reg) a, in(reg) b, in(reg) c, in(reg) d, options(nomem, nostack, preserves_flags))
    };
}

/// Clears the buffers of which others could learn (VERW with a memory operand).
pub(crate) fn clear_buffers() {
    let selector = 0x10_u16;
    // SAFETY: reads the selector of ring 0's data segment; only a flag changes.
    unsafe { asm!("verw [{0}]", in(reg) &raw const selector, options(nostack, readonly)) };
}

/// Writes memory that caches hold back to where it belongs.
pub(crate) fn flush(bytes: &[u8]) {
    for line in bytes.chunks(64) {
        // SAFETY: the line is mapped; its contents stay the same.
        unsafe { asm!("clflush [{0}]", in(reg) line.as_ptr(), options(nostack, preserves_flags)) };
    }
}

/// Stops this CPU for good.
pub(crate) fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off the processor just stops.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
