//! Reset and soft-off.

use crate::cpu::{self, VECTOR_STOP};
use crate::raw::{self, Ports};
use crate::{apic, persisted};
use hv_abi::previous::Ended;
use hv_core::acpi::SoftOff;
use spin::Once;

/// The reset register of chipsets since the PIIX3.
// SAFETY: it only resets the machine.
const CHIPSET: Ports = unsafe { Ports::new(0xcf9, 1) };
/// The keyboard controller, which has a reset line.
// SAFETY: a legacy port with that meaning on every PC.
const KEYBOARD: Ports = unsafe { Ports::new(0x64, 1) };

static SOFT_OFF: Once<Option<SoftOff>> = Once::new();

/// Remembers how to turn the machine off.
pub(crate) fn init(soft_off: Option<SoftOff>) {
    SOFT_OFF.call_once(|| soft_off);
}

/// Stops every other CPU, then the machine.
pub(crate) fn off(power: bool) -> ! {
    log::info!("{}", if power { "power off" } else { "reset" });
    for number in 0..cpu::count() {
        if number != cpu::current().number {
            apic::interrupt(number, VECTOR_STOP);
        }
    }
    if power && let Some(Some(soft_off)) = SOFT_OFF.get() {
        // SAFETY: the firmware names this port for turning the machine off.
        unsafe { Ports::new(soft_off.port, 2) }.write(0, 2, u32::from(soft_off.value));
    }
    if !power {
        // SAFETY: dom0 asks for it, on the first CPU.
        unsafe { persisted::write(Ended::Ordered, format_args!("an operator asked for a restart")) };
    }
    reset()
}

/// Resets the machine at once.
pub(crate) fn reset() -> ! {
    CHIPSET.write(0, 1, 2);
    CHIPSET.write(0, 1, 6);
    KEYBOARD.write(0, 1, 0xfe);
    raw::halt()
}
