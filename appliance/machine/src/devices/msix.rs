//! The MSI-X table of a PCI function.
//!
//! Spec: PCI Local Bus 3.0, section 6.8.2.

use alloc::vec;
use alloc::vec::Vec;

use hv_x86::low32;
use serde::{Deserialize, Serialize};

/// A message-signalled interrupt to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// Message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
}

/// As many vectors as there are pending bits.
const VECTORS_MAX: usize = 32;
/// Size of a table entry in bytes.
const ENTRY_BYTES: u32 = 16;
/// Message control: enable.
const CONTROL_ENABLE: u16 = 1 << 15;
/// Message control: function mask.
const CONTROL_FUNCTION_MASK: u16 = 1 << 14;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    address: u64,
    data: u32,
    masked: bool,
}

/// Table, pending bits and control.
///
/// A raised vector is only ever a pending bit. The one that injects interrupts takes
/// those that nothing masks, so the queue of interrupts is bounded by design.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Msix {
    entries: Vec<Entry>,
    pending: u32,
    enabled: bool,
    function_masked: bool,
}

impl Msix {
    /// A table of `vectors` entries (at most 32), all masked as after reset.
    #[must_use]
    pub fn new(vectors: u16) -> Self {
        let entry = Entry { address: 0, data: 0, masked: true };
        let entries = vec![entry; usize::from(vectors).min(VECTORS_MAX)];
        Self { entries, pending: 0, enabled: false, function_masked: false }
    }

    /// Number of vectors.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        u16::try_from(self.entries.len().min(VECTORS_MAX)).unwrap_or(0)
    }

    /// The message control register.
    #[must_use]
    pub fn control(&self) -> u16 {
        let mut control = self.vectors().saturating_sub(1);
        if self.enabled {
            control |= CONTROL_ENABLE;
        }
        if self.function_masked {
            control |= CONTROL_FUNCTION_MASK;
        }
        control
    }

    /// Writes the message control register.
    pub fn set_control(&mut self, control: u16) {
        self.enabled = control & CONTROL_ENABLE != 0;
        self.function_masked = control & CONTROL_FUNCTION_MASK != 0;
        if !self.enabled {
            self.pending = 0;
        }
    }

    /// Raises a vector. Without MSI-X enabled it is lost: there is no INTx.
    pub fn raise(&mut self, vector: u16) {
        if self.enabled && vector < self.vectors() {
            self.pending |= 1 << vector;
        }
    }

    /// Takes the next message that nothing masks.
    pub fn next_message(&mut self) -> Option<MsiMessage> {
        if self.pending == 0 || !self.enabled || self.function_masked {
            return None;
        }
        for (vector, entry) in self.entries.iter().take(VECTORS_MAX).enumerate() {
            if self.pending & (1 << vector) != 0 && !entry.masked {
                self.pending &= !(1 << vector);
                return Some(MsiMessage { address: entry.address, data: entry.data });
            }
        }
        None
    }

    /// Reads a 32-bit register of the table.
    #[must_use]
    pub fn read_table(&self, offset: u32) -> u32 {
        let Some(entry) =
            usize::try_from(offset / ENTRY_BYTES).ok().and_then(|index| self.entries.get(index))
        else {
            return 0;
        };
        match offset % ENTRY_BYTES {
            0 => low32(entry.address),
            4 => low32(entry.address >> 32),
            8 => entry.data,
            12 => u32::from(entry.masked),
            _ => 0,
        }
    }

    /// Writes a 32-bit register of the table.
    pub fn write_table(&mut self, offset: u32, value: u32) {
        let Some(entry) =
            usize::try_from(offset / ENTRY_BYTES).ok().and_then(|index| self.entries.get_mut(index))
        else {
            return;
        };
        match offset % ENTRY_BYTES {
            // Address bits 1:0 are reserved and read as zero.
            0 => entry.address = (entry.address & !0xffff_ffff) | u64::from(value & !3),
            4 => entry.address = (entry.address & 0xffff_ffff) | (u64::from(value) << 32),
            8 => entry.data = value,
            12 => entry.masked = value & 1 != 0,
            _ => {}
        }
    }

    /// Reads a 32-bit word of the pending bits.
    #[must_use]
    pub fn read_pending(&self, offset: u32) -> u32 {
        if offset == 0 { self.pending } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programmed() -> Msix {
        let mut msix = Msix::new(2);
        for vector in 0..2 {
            msix.write_table(vector * 16, 0xfee0_1000);
            msix.write_table(vector * 16 + 4, 0);
            msix.write_table(vector * 16 + 8, 0x40 + vector);
        }
        msix
    }

    #[test]
    fn masks_hold_messages_back_and_keep_them() {
        let mut msix = programmed();
        msix.raise(1);
        assert_eq!(msix.next_message(), None, "disabled: lost");
        msix.set_control(CONTROL_ENABLE | CONTROL_FUNCTION_MASK);
        assert_eq!(msix.control(), 0xc001);
        msix.raise(1);
        assert_eq!(msix.next_message(), None, "function mask");
        assert_eq!(msix.read_pending(0), 2);
        msix.set_control(CONTROL_ENABLE);
        assert_eq!(msix.next_message(), None, "vector mask");
        msix.write_table(16 + 12, 0);
        assert_eq!(msix.next_message(), Some(MsiMessage { address: 0xfee0_1000, data: 0x41 }));
        assert_eq!(msix.next_message(), None);
        assert_eq!(msix.read_pending(0), 0);
        msix.raise(2);
        msix.raise(0xffff);
        assert_eq!(msix.read_pending(0), 0);
    }

    #[test]
    fn table_reads_back() {
        let msix = programmed();
        assert_eq!(msix.read_table(0), 0xfee0_1000);
        assert_eq!(msix.read_table(24), 0x41);
        assert_eq!(msix.read_table(12), 1);
        assert_eq!(msix.read_table(32), 0);
        assert_eq!(msix.read_table(1), 0);
    }
}
