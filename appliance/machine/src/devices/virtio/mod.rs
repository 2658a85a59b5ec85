//! virtio 1.2 devices over PCI.

pub mod block;
pub mod chain;
pub mod console;
pub mod net;
pub mod queue;
pub mod registers;
pub mod rng;
#[cfg(any(test, feature = "fake"))]
#[expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "for tests: it stops at the first surprise"
)]
pub mod test_driver;
pub mod transport;

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use block::VirtioBlock;
use console::VirtioConsole;
use net::VirtioNet;
use rng::VirtioRng;
use transport::{Transport, TransportEvent};

/// One device of any kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VirtioDevice {
    /// A disk.
    Block(VirtioBlock),
    /// A network card.
    Net(VirtioNet),
    /// A console.
    Console(VirtioConsole),
    /// A source of entropy.
    Rng(VirtioRng),
}

impl VirtioDevice {
    /// What all devices share.
    #[must_use]
    pub const fn transport(&self) -> &Transport {
        match self {
            Self::Block(device) => &device.transport,
            Self::Net(device) => &device.transport,
            Self::Console(device) => &device.transport,
            Self::Rng(device) => &device.transport,
        }
    }

    /// What all devices share.
    pub const fn transport_mut(&mut self) -> &mut Transport {
        match self {
            Self::Block(device) => &mut device.transport,
            Self::Net(device) => &mut device.transport,
            Self::Console(device) => &mut device.transport,
            Self::Rng(device) => &mut device.transport,
        }
    }

    fn config_bytes(&self) -> Vec<u8> {
        match self {
            Self::Block(device) => device.config_bytes(),
            Self::Net(device) => device.config_bytes().to_vec(),
            Self::Console(_) => VirtioConsole::config_bytes().to_vec(),
            Self::Rng(_) => Vec::new(),
        }
    }

    /// Reads the memory window.
    pub fn read_window(&mut self, offset: u32, size: u8) -> u64 {
        if !(registers::DEVICE..registers::NOTIFY).contains(&offset) {
            return self.transport_mut().read(offset, size);
        }
        let start = hv_x86::to_usize(u64::from(offset - registers::DEVICE));
        let mut value = [0; 8];
        for (slot, byte) in
            value.iter_mut().zip(self.config_bytes().iter().skip(start)).take(usize::from(size))
        {
            *slot = *byte;
        }
        u64::from_le_bytes(value)
    }

    /// Writes the memory window. The devices have nothing to configure.
    pub fn write_window(&mut self, offset: u32, size: u8, value: u64) -> Option<TransportEvent> {
        let event = self.transport_mut().write(offset, size, value);
        if event == Some(TransportEvent::Reset) {
            self.forget();
        }
        event
    }

    /// Reads 32 bits of configuration space, where the configuration access
    /// capability reaches into the window (virtio 1.2, 4.1.4.9).
    pub fn read_config(&mut self, offset: u16) -> u32 {
        if offset == registers::WINDOW_DATA
            && let Some((offset, size)) = self.indirect_access()
        {
            return hv_x86::low32(self.read_window(offset, size));
        }
        self.transport().function.read(offset)
    }

    /// Writes 32 bits of configuration space under a mask. The flag tells
    /// whether the decoded window may have changed.
    pub fn write_config(&mut self, offset: u16, value: u32, mask: u32) -> (bool, Option<TransportEvent>) {
        if offset == registers::WINDOW_DATA
            && let Some((offset, size)) = self.indirect_access()
        {
            return (false, self.write_window(offset, size, u64::from(value & mask)));
        }
        (self.transport_mut().function.write(offset, value, mask), None)
    }

    fn indirect_access(&self) -> Option<(u32, u8)> {
        let window = self.transport().function.config_window();
        let size = match window.length {
            1 => 1,
            2 => 2,
            4 => 4,
            _ => return None,
        };
        let fits = window.offset < registers::BAR_BYTES && window.offset.is_multiple_of(window.length);
        (window.bar == 0 && fits).then_some((window.offset, size))
    }

    /// Back to power-on.
    pub fn power_on(&mut self, base_address: u32) {
        self.transport_mut().power_on(base_address);
        self.forget();
    }

    fn forget(&mut self) {
        match self {
            Self::Block(device) => device.forget(),
            Self::Console(device) => device.forget(),
            Self::Net(_) | Self::Rng(_) => {}
        }
    }
}
