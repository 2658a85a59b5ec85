//! A small I/O APIC: pins become messages for the local APICs.
//!
//! Spec: Intel 82093AA data sheet, section 3. For what has no MSI: the power
//! button and the UART. Every pin is taken as edge-triggered, which is what the
//! ACPI tables declare; an edge while a pin is masked is kept until it is not.

use hv_x86::{low32, to_usize};
use serde::{Deserialize, Serialize};

use super::msix::MsiMessage;
use crate::layout::LOCAL_APIC_START;

/// Number of pins.
pub const PINS: u8 = 24;
const REGISTER_SELECT: u64 = 0x00;
const REGISTER_WINDOW: u64 = 0x10;
const ENTRY_MASKED: u64 = 1 << 16;
/// Delivery status and remote IRR are the hardware's.
const ENTRY_WRITABLE: u64 = 0xff00_0000_0001_afff;

/// The registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApic {
    select: u8,
    id: u8,
    entries: [u64; PINS as usize],
    pending: u32,
}

impl IoApic {
    /// The state after reset: all pins masked.
    #[must_use]
    pub const fn new() -> Self {
        Self { select: 0, id: 0, entries: [ENTRY_MASKED; PINS as usize], pending: 0 }
    }

    /// An edge on a pin.
    pub const fn raise(&mut self, pin: u8) {
        if pin < PINS {
            self.pending |= 1 << pin;
        }
    }

    /// The next message of a pin that is not masked.
    pub fn next_message(&mut self) -> Option<MsiMessage> {
        if self.pending == 0 {
            return None;
        }
        for (pin, entry) in self.entries.iter().enumerate() {
            if self.pending & (1 << pin) == 0 || entry & ENTRY_MASKED != 0 {
                continue;
            }
            self.pending &= !(1 << pin);
            // SDM 11.11: destination in bits 19:12, its mode in bit 2; vector and
            // delivery mode in the data.
            let destination = (entry >> 56) << 12;
            let logical = ((entry >> 11) & 1) << 2;
            return Some(MsiMessage {
                address: LOCAL_APIC_START | destination | logical,
                data: low32(entry & 0x7ff),
            });
        }
        None
    }

    /// Reads a 32-bit register of the memory window.
    #[must_use]
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            REGISTER_SELECT => u32::from(self.select),
            REGISTER_WINDOW => match self.select {
                0 | 2 => u32::from(self.id) << 24,
                // Version 0x11, number of the last pin.
                1 => 0x11 | ((u32::from(PINS) - 1) << 16),
                0x10.. => {
                    let index = (self.select - 0x10) / 2;
                    let entry = self.entries.get(usize::from(index)).copied().unwrap_or(0);
                    low32(if self.select & 1 == 0 { entry } else { entry >> 32 })
                }
                _ => 0,
            },
            _ => 0,
        }
    }

    /// Writes a 32-bit register of the memory window.
    pub fn write(&mut self, offset: u64, value: u32) {
        match offset {
            REGISTER_SELECT => self.select = hv_x86::low8(u64::from(value)),
            REGISTER_WINDOW => match self.select {
                0 => self.id = hv_x86::low8(u64::from(value >> 24)) & 0x0f,
                0x10.. => {
                    let index = to_usize(u64::from((self.select - 0x10) / 2));
                    let Some(entry) = self.entries.get_mut(index) else { return };
                    let value = u64::from(value);
                    let merged = if self.select & 1 == 0 {
                        (*entry & !0xffff_ffff) | value
                    } else {
                        (*entry & 0xffff_ffff) | (value << 32)
                    };
                    *entry = merged & ENTRY_WRITABLE;
                }
                _ => {}
            },
            _ => {}
        }
    }
}

impl Default for IoApic {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ioapic: &mut IoApic, pin: u32, low: u32, high: u32) {
        ioapic.write(0, 0x11 + pin * 2);
        ioapic.write(0x10, high);
        ioapic.write(0, 0x10 + pin * 2);
        ioapic.write(0x10, low);
    }

    #[test]
    fn pins_become_messages_when_not_masked() {
        let mut ioapic = IoApic::new();
        ioapic.write(0, 1);
        assert_eq!(ioapic.read(0x10), 0x0017_0011);
        ioapic.raise(9);
        ioapic.raise(99);
        assert_eq!(ioapic.next_message(), None);
        set(&mut ioapic, 9, 0x0931, 0x0300_0000);
        assert_eq!(ioapic.next_message(), Some(MsiMessage { address: 0xfee0_3004, data: 0x131 }));
        assert_eq!(ioapic.next_message(), None);
        ioapic.raise(9);
        set(&mut ioapic, 9, 0x1_0031, 0);
        assert_eq!(ioapic.next_message(), None);
        ioapic.write(0, 0x10 + 18);
        assert_eq!(ioapic.read(0x10), 0x1_0031);
    }

    #[test]
    fn every_register_number_is_harmless() {
        let mut ioapic = IoApic::new();
        for select in 0..=0x1ff {
            ioapic.write(0, select);
            ioapic.write(0x10, u32::MAX);
            let _ = ioapic.read(0x10);
            let _ = ioapic.read(u64::from(select));
        }
        ioapic.raise(0);
        assert_eq!(ioapic.next_message(), None, "all ones is masked");
    }
}
