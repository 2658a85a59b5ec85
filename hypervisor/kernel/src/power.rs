//! Reset and soft-off.

use crate::cpu::{self, VECTOR_STOP};
use crate::{apic, raw};
use hv_abi::previous::Ended;
use hv_core::acpi::SoftOff;
use spin::Once;

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
        raw::port_write(soft_off.port, 2, u32::from(soft_off.value));
    }
    if !power {
        crate::kept::write(Ended::Ordered, format_args!("an operator asked for a restart"));
    }
    reset()
}

/// Resets the machine at once.
pub(crate) fn reset() -> ! {
    // The reset register of chipsets since the PIIX3, then the keyboard
    // controller's reset line.
    raw::port_write(0xcf9, 1, 2);
    raw::port_write(0xcf9, 1, 6);
    raw::port_write(0x64, 1, 0xfe);
    raw::halt()
}
