//! The chipset's watchdog: ICH9's TCO timer, or an i6300ESB's.
//!
//! Spec: Intel ICH9 datasheet, 13.9 (TCO) and 10.1.75 (GCS); 6300ESB datasheet, 19.

use crate::raw::Ports;
use crate::{memory, pci};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hv_abi::domain::{WATCHDOG_I6300ESB, WATCHDOG_TCO};
use hv_x86::Hpa;

/// Ticks of 0.6 s that the TCO timer waits; it resets at the second time.
const TCO_TICKS: u32 = 10;
/// Ticks of about a millisecond that an i6300ESB's timer waits, twice.
const I6300ESB_TICKS: u32 = 6000;

static KIND: AtomicU32 = AtomicU32::new(0);
/// Port of the TCO registers, or physical address of the i6300ESB's.
static PLACE: AtomicU64 = AtomicU64::new(0);

/// Which one was found.
pub(super) fn kind() -> u32 {
    KIND.load(Ordering::Relaxed)
}

fn read(function: u64, offset: u64) -> u32 {
    pci::read(function, offset, 4).map_or(u32::MAX, hv_x86::low32)
}

/// Finds one on the first bus and starts it.
pub(super) fn init() {
    for function in 0..256 {
        let found = match read(function, 0) {
            0x25ab_8086 => start_i6300esb(function).map(|place| (WATCHDOG_I6300ESB, place)),
            // The LPC bridge of an ICH9.
            0x2918_8086 if kind() == 0 => start_tco(function).map(|place| (WATCHDOG_TCO, place)),
            _ => None,
        };
        if let Some((kind, place)) = found {
            PLACE.store(place, Ordering::Relaxed);
            KIND.store(kind, Ordering::Relaxed);
        }
    }
    feed();
}

/// The registers of the TCO timer.
fn tco(first: u16) -> Ports {
    // SAFETY: the LPC bridge says that they are there; they count and reset the machine.
    unsafe { Ports::new(first, 0x20) }
}

fn start_tco(function: u64) -> Option<u64> {
    let registers = hv_x86::low16(u64::from(read(function, 0x40) & 0xff80)) + 0x60;
    let root = u64::from(read(function, 0xf0));
    if registers == 0x60 || root & 1 == 0 {
        return None;
    }
    // General control and status: bit 5 is NO_REBOOT.
    let control = (root & 0xffff_c000) + 0x3410;
    let control = Registers::at(control, 4)?;
    control.write(0, control.read() & !(1 << 5));
    if control.read() & 1 << 5 != 0 {
        return None;
    }
    let ports = tco(registers);
    ports.write(0x12, 2, TCO_TICKS);
    // Old time-outs are cleared by ones; bit 11 of the control halts the timer.
    ports.write(4, 2, 1 << 3);
    ports.write(6, 2, 1 << 1);
    let control = ports.read(8, 2);
    ports.write(8, 2, control & !(1 << 11));
    Some(u64::from(registers))
}

fn start_i6300esb(function: u64) -> Option<u64> {
    let base = u64::from(read(function, 0x10) & !0xf);
    let registers = Registers::at(base, 16)?;
    // Memory decoding on; interrupts off, a clock of about 1 kHz, reset at the second stage.
    let command = read(function, 4);
    pci::write(function, 4, 2, u64::from(command | 2)).ok()?;
    pci::write(function, 0x60, 2, 3).ok()?;
    for register in [0, 4] {
        unlock(registers);
        registers.write(register, I6300ESB_TICKS);
    }
    // Enabled, not locked.
    pci::write(function, 0x68, 1, 2).ok()?;
    Some(base)
}

fn unlock(registers: Registers) {
    registers.write(12, 0x80);
    registers.write(12, 0x86);
}

/// Starts the time anew.
pub(super) fn feed() {
    let place = PLACE.load(Ordering::Relaxed);
    match kind() {
        WATCHDOG_TCO => tco(hv_x86::low16(place)).write(0, 2, 1),
        WATCHDOG_I6300ESB => {
            if let Some(registers) = Registers::at(place, 16) {
                unlock(registers);
                registers.write(12, 0x100);
            }
        }
        _ => {}
    }
}

/// A device's registers in memory.
#[derive(Clone, Copy)]
struct Registers(Hpa);

impl Registers {
    /// None when they would lie in RAM, or beyond what is mapped.
    fn at(base: u64, bytes: u64) -> Option<Self> {
        let (start, end) = (Hpa(base), Hpa(base).checked_after(bytes)?);
        let fits = base != 0 && base.is_multiple_of(4) && end.0 <= 1 << 32;
        (fits && !memory::touches_ram(start, end)).then_some(Self(start))
    }

    fn read(self) -> u32 {
        // SAFETY: the register is below 4 GiB, in the direct map, and not RAM.
        unsafe { (memory::direct(self.0) as *const u32).read_volatile() }
    }

    fn write(self, offset: u64, value: u32) {
        // SAFETY: the register is below 4 GiB, in the direct map, and not RAM.
        unsafe { (memory::direct(self.0.after(offset & 0xc)) as *mut u32).write_volatile(value) };
    }
}
