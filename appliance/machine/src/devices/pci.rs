//! The configuration space of one PCI function.
//!
//! Spec: PCI Local Bus 3.0, chapter 6; virtio 1.2, section 4.1.4 for the vendor
//! capabilities. Type 0 header, one 32-bit memory base address register, no
//! interrupt pin: interrupts are MSI-X only.

use serde::{Deserialize, Serialize};

use super::config_window::ConfigWindow;
use super::msix::Msix;
use super::virtio::registers;

/// Register: command and status.
const COMMAND: u16 = 0x04;
/// Register: base address 0.
const BASE_ADDRESS: u16 = 0x10;
/// Register: interrupt line.
const INTERRUPT_LINE: u16 = 0x3c;
/// MSI-X capability.
const MSIX_CAPABILITY: u16 = 0x40;
/// Command: memory space enable.
const COMMAND_MEMORY: u16 = 1 << 1;
/// Command: bus master enable.
const COMMAND_MASTER: u16 = 1 << 2;
/// Command bits that can be set: memory, master, parity, SERR#, INTx disable.
const COMMAND_WRITABLE: u16 = 0x0546;
/// Status: capability list present.
const STATUS_CAPABILITIES: u32 = 1 << 4;

/// What a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciIdentity {
    /// Vendor number.
    pub vendor: u16,
    /// Device number.
    pub device: u16,
    /// Class, subclass and programming interface: 24 bits.
    pub class: u32,
    /// Revision.
    pub revision: u8,
    /// Subsystem number; its vendor is the function's.
    pub subsystem: u16,
}

/// One function's registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciFunction {
    identity: PciIdentity,
    command: u16,
    base_address: u32,
    base_size: u32,
    interrupt_line: u8,
    window: ConfigWindow,
    /// Present on virtio functions; the host bridge has none.
    pub msix: Option<Msix>,
}

impl PciFunction {
    /// A host bridge without registers, under a number for which no system has a
    /// workaround (Red Hat's generic PCIe host bridge).
    #[must_use]
    pub const fn host_bridge() -> Self {
        let identity =
            PciIdentity { vendor: 0x1b36, device: 0x0008, class: 0x06_0000, revision: 0, subsystem: 0 };
        Self {
            identity,
            command: 0,
            base_address: 0,
            base_size: 0,
            interrupt_line: 0,
            window: ConfigWindow { bar: 0, offset: 0, length: 0 },
            msix: None,
        }
    }

    /// A virtio function with its registers at `base_address` and `vectors`
    /// interrupt vectors.
    #[must_use]
    pub fn virtio(identity: PciIdentity, base_address: u32, vectors: u16) -> Self {
        Self {
            identity,
            base_address,
            base_size: registers::BAR_BYTES,
            msix: Some(Msix::new(vectors)),
            ..Self::host_bridge()
        }
    }

    /// Base and size of the memory window, while it is decoded.
    #[must_use]
    pub fn window(&self) -> Option<(u64, u32)> {
        (self.command & COMMAND_MEMORY != 0 && self.base_size != 0)
            .then_some((u64::from(self.base_address), self.base_size))
    }

    /// Whether the function may access memory and send interrupts.
    #[must_use]
    pub const fn is_master(&self) -> bool {
        self.command & COMMAND_MASTER != 0
    }

    /// What the configuration access capability points to.
    #[must_use]
    pub const fn config_window(&self) -> ConfigWindow {
        self.window
    }

    /// Reads the 32-bit register at `offset` (a multiple of 4).
    #[must_use]
    pub fn read(&self, offset: u16) -> u32 {
        let identity = &self.identity;
        match offset {
            0x00 => pair(identity.vendor, identity.device),
            COMMAND => {
                let status = if self.msix.is_some() { STATUS_CAPABILITIES } else { 0 };
                u32::from(self.command) | (status << 16)
            }
            0x08 => (identity.class << 8) | u32::from(identity.revision),
            BASE_ADDRESS => self.base_address,
            0x2c if identity.subsystem != 0 => pair(identity.vendor, identity.subsystem),
            0x34 if self.msix.is_some() => u32::from(MSIX_CAPABILITY),
            // Interrupt pin 0: none.
            INTERRUPT_LINE => u32::from(self.interrupt_line),
            0x40..=0xff => self.msix.as_ref().map_or(0, |msix| self.read_capability(offset, msix)),
            _ => 0,
        }
    }

    fn read_capability(&self, offset: u16, msix: &Msix) -> u32 {
        match offset {
            // PCI 6.8.2: capability 0x11, table and pending bits in BAR 0.
            MSIX_CAPABILITY => pair(0x11 | (registers::CAPABILITY_COMMON << 8), msix.control()),
            0x44 => registers::MSIX_TABLE,
            0x48 => registers::MSIX_PENDING,
            _ => registers::capability(offset, self.window),
        }
    }

    /// Writes the bits of `mask` in the register at `offset` (a multiple of 4).
    /// Returns whether the decoded window or its use may have changed.
    pub fn write(&mut self, offset: u16, value: u32, mask: u32) -> bool {
        let merged = (self.read(offset) & !mask) | (value & mask);
        match offset {
            COMMAND => {
                let command = hv_x86::low16(u64::from(merged)) & COMMAND_WRITABLE;
                let changed = command != self.command;
                self.command = command;
                changed
            }
            BASE_ADDRESS if self.base_size != 0 => {
                // PCI 6.2.5.1: the bits below the size are wired to zero.
                self.base_address = merged & !self.base_size.saturating_sub(1);
                true
            }
            INTERRUPT_LINE => {
                self.interrupt_line = hv_x86::low8(u64::from(merged));
                false
            }
            MSIX_CAPABILITY => {
                if let Some(msix) = &mut self.msix {
                    msix.set_control(hv_x86::low16(u64::from(merged >> 16)));
                }
                false
            }
            registers::WINDOW_BAR => {
                self.window.bar = hv_x86::low8(u64::from(merged));
                false
            }
            registers::WINDOW_OFFSET => {
                self.window.offset = merged;
                false
            }
            registers::WINDOW_LENGTH => {
                self.window.length = merged;
                false
            }
            _ => false,
        }
    }

    /// Back to power-on, keeping the base address that firmware would assign.
    pub fn reset(&mut self, base_address: u32) {
        self.command = 0;
        self.base_address = base_address;
        self.interrupt_line = 0;
        self.window = ConfigWindow::default();
        if let Some(msix) = &mut self.msix {
            *msix = Msix::new(msix.vectors());
        }
    }
}

const fn pair(low: u16, high: u16) -> u32 {
    (low as u32) | ((high as u32) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function() -> PciFunction {
        let identity =
            PciIdentity { vendor: 0x1af4, device: 0x1042, class: 0x01_8000, revision: 1, subsystem: 0x1042 };
        PciFunction::virtio(identity, 0xc000_4000, 2)
    }

    #[test]
    fn header_and_sizing() {
        let mut pci = function();
        assert_eq!(pci.read(0), 0x1042_1af4);
        assert_eq!(pci.read(8), 0x0180_0001);
        assert_eq!(pci.read(0x3c), 0, "no interrupt pin");
        assert_eq!(pci.window(), None);
        assert!(pci.write(0x10, 0xffff_ffff, 0xffff_ffff));
        assert_eq!(pci.read(0x10), !(registers::BAR_BYTES - 1));
        pci.write(0x10, 0xd000_0000, 0xffff_ffff);
        assert!(pci.write(4, 0xffff, 0xffff));
        assert_eq!(pci.read(4) & 0xffff, 0x0546);
        assert_eq!(pci.window(), Some((0xd000_0000, registers::BAR_BYTES)));
        assert!(pci.is_master());
        pci.write(0x14, 0xffff_ffff, 0xffff_ffff);
        assert_eq!(pci.read(0x14), 0);
    }

    #[test]
    fn capability_list_ends_and_names_every_structure() {
        let pci = function();
        let mut next = pci.read(0x34) & 0xff;
        let mut kinds = alloc::vec::Vec::new();
        while next != 0 {
            let header = pci.read(u16::try_from(next).unwrap());
            if header & 0xff == 9 {
                kinds.push(header >> 24);
            } else {
                assert_eq!(header & 0xff, 0x11);
            }
            next = (header >> 8) & 0xff;
            assert!(kinds.len() < 10);
        }
        assert_eq!(kinds, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn host_bridge_has_nothing_to_program() {
        let mut bridge = PciFunction::host_bridge();
        for offset in (0..0x100).step_by(4) {
            bridge.write(offset, 0xffff_ffff, 0xffff_ffff);
        }
        assert_eq!(bridge.window(), None);
        assert_eq!(bridge.read(0x10), 0);
        assert_eq!(bridge.read(0x08) >> 16, 0x0600);
        assert_eq!(bridge.read(0x34), 0);
    }
}
