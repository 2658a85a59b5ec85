//! One guest's platform: every port and address that is not RAM.
//!
//! Spec: ACPI 6.4, sections 4.8.3.7 (sleep registers) and 4.8.3.6 (reset).
//! Whatever nothing answers reads as all ones and swallows writes, as on a PC.

use alloc::vec::Vec;

use hv_x86::{low8, low32};
use serde::{Deserialize, Serialize};

use super::ioapic::IoApic;
use super::msix::MsiMessage;
use super::pci_bus::{Doorbell, PciBus, base_address};
use super::uart16550::Uart16550;
use super::virtio::VirtioDevice;
use super::virtio::block::{BlockConfig, VirtioBlock};
use super::virtio::console::VirtioConsole;
use super::virtio::net::VirtioNet;
use super::virtio::rng::VirtioRng;
use super::virtio::transport::TransportEvent;
use crate::layout::{
    CHIPSET_RESET_PORT, ECAM_BYTES, ECAM_START, EVENT_PIN, HOT_PLUG_EJECT_PORT, HOT_PLUG_LEAVING_PORT,
    HOT_PLUG_PIN, HOT_PLUG_RESCAN_PORT, HOT_PLUG_SLOTS, IOAPIC_BYTES, IOAPIC_START, KEYBOARD_COMMAND_PORT,
    PANIC_CRASH_LOADED, PANIC_PANICKED, PANIC_PORT, PCI_ADDRESS_PORT, PCI_DATA_PORT, PCI_WINDOW_END,
    PCI_WINDOW_START, RESET_PORT, RESET_VALUE, SLEEP_CONTROL_PORT, SLEEP_STATUS_PORT, SLEEP_TYPE_OFF,
    UART_PIN, UART_PORT,
};
use crate::limits::PCI_DEVICES_MAX;

/// Version of [`PlatformState`].
pub const STATE_VERSION: u32 = 3;
/// Keyboard controller commands that pulse its output lines, of which line 0 resets; a
/// line is pulsed where its bit is 0.
const KEYBOARD_PULSES: core::ops::RangeInclusive<u8> = 0xf0..=0xff;

/// A device to build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceConfig {
    /// A disk.
    Block(BlockConfig),
    /// A network card.
    Net {
        /// Its address.
        mac: [u8; 6],
        /// Longest payload of a frame on its wire.
        mtu: u16,
    },
    /// A console.
    Console,
    /// A source of entropy.
    Rng,
}

/// What a guest's access means for its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlatformEvent {
    /// The guest turned itself off.
    PowerOff,
    /// The guest asks for a reset.
    Reset,
    /// The guest's kernel has panicked.
    Panicked {
        /// A kernel of its own for that case goes on.
        goes_on: bool,
    },
    /// There is work in a queue.
    Queue {
        /// Device number.
        device: usize,
        /// Queue number.
        queue: u16,
    },
    /// The guest reset a device; all its operations are void.
    DeviceReset {
        /// Device number.
        device: usize,
    },
    /// The guest gives a device back.
    Ejected {
        /// Device number.
        device: usize,
    },
}

/// How far a guest has come with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverState {
    /// It has not looked at it.
    No,
    /// It has given it an address.
    Seen,
    /// Its driver runs.
    Running,
}

/// Accesses that nothing answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnclaimedCounters {
    /// Port reads and writes.
    pub ports: u64,
    /// Memory-mapped reads and writes.
    pub memory: u64,
}

/// All devices of one guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// PCI bus and the virtio devices on it.
    pub pci: PciBus,
    /// The serial port.
    pub uart: Uart16550,
    ioapic: IoApic,
    uart_line: bool,
    /// The guest is to look at all slots.
    rescan: bool,
    /// Slots that the guest is asked for, one bit each.
    leaving: u32,
    /// The guest wrote to a register that resets, whether that was a reset or not.
    reset_tried: bool,
    /// The guest's kernel said that another one goes on.
    dumps: bool,
    unclaimed: UnclaimedCounters,
}

/// Everything about a platform, to be resumed elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformState {
    /// [`STATE_VERSION`] when it was taken.
    pub version: u32,
    platform: Platform,
}

/// A state that this version cannot resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownStateVersion(pub u32);

impl Platform {
    /// A platform at power-on. Device `n` of the list is function 00:`n + 1`.0;
    /// devices beyond [`PCI_DEVICES_MAX`] do not fit on the bus.
    #[must_use]
    pub fn new(devices: &[DeviceConfig]) -> Self {
        let devices = devices.iter().take(PCI_DEVICES_MAX).enumerate();
        let devices: Vec<VirtioDevice> = devices.map(|(index, config)| build(index, config)).collect();
        Self {
            pci: PciBus::new(devices),
            uart: Uart16550::new(),
            ioapic: IoApic::new(),
            uart_line: false,
            rescan: false,
            leaving: 0,
            reset_tried: false,
            dumps: false,
            unclaimed: UnclaimedCounters::default(),
        }
    }

    /// Adds a device while the guest runs; `first` is the lowest number it may get.
    /// None when the bus is full.
    pub fn plug(&mut self, first: usize, config: &DeviceConfig) -> Option<usize> {
        let slots = hv_x86::to_usize(u64::from(HOT_PLUG_SLOTS));
        let device = self.pci.free(first).filter(|device| *device < slots)?;
        if !self.pci.insert(device, build(device, config)) {
            return None;
        }
        self.look_again();
        Some(device)
    }

    /// Asks the guest for a device.
    pub const fn ask_back(&mut self, device: usize) {
        if self.pci.is_present(device) {
            self.leaving |= 2 << device;
            self.ioapic.raise(HOT_PLUG_PIN);
        }
    }

    /// Takes a device away, whether the guest gave it back or not.
    pub fn unplug(&mut self, device: usize) {
        self.pci.remove(device);
        self.look_again();
    }

    const fn look_again(&mut self) {
        self.rescan = true;
        self.ioapic.raise(HOT_PLUG_PIN);
    }

    /// How far the guest has come with a device.
    #[must_use]
    pub fn driver_state(&self, device: usize) -> DriverState {
        let there = self.device(device).filter(|_| self.pci.is_present(device));
        match there.map(VirtioDevice::transport) {
            Some(transport) if transport.is_running() => DriverState::Running,
            Some(transport) if transport.function.is_master() => DriverState::Seen,
            _ => DriverState::No,
        }
    }

    /// Back to power-on for a reboot; console output stays readable.
    pub fn power_on(&mut self) {
        self.pci.power_on();
        self.uart.power_on();
        self.ioapic = IoApic::new();
        self.uart_line = false;
        (self.rescan, self.leaving) = (false, 0);
        (self.reset_tried, self.dumps) = (false, false);
    }

    /// The state at this instant.
    #[must_use]
    pub fn export(&self) -> PlatformState {
        PlatformState { version: STATE_VERSION, platform: self.clone() }
    }

    /// The state at this instant without what the console printed and without
    /// what [`VirtioBlock::reissue_in_flight`] finds in guest memory: small enough
    /// to be kept by the hypervisor while dom0 is started anew.
    #[must_use]
    pub fn export_compact(&self) -> PlatformState {
        let mut platform = self.clone();
        platform.uart.output.clear();
        for device in &mut platform.pci.devices {
            match device {
                VirtioDevice::Block(block) => block.compact(),
                VirtioDevice::Console(_) | VirtioDevice::Net(_) | VirtioDevice::Rng(_) => {}
            }
        }
        PlatformState { version: STATE_VERSION, platform }
    }

    /// Resumes an exported state. Doorbells are to be registered anew.
    ///
    /// # Errors
    /// The version is not known.
    pub fn from_state(state: PlatformState) -> Result<Self, UnknownStateVersion> {
        if state.version != STATE_VERSION {
            return Err(UnknownStateVersion(state.version));
        }
        let PlatformState { mut platform, .. } = state;
        platform.pci.devices.truncate(PCI_DEVICES_MAX);
        platform.pci.mark_doorbells_changed();
        Ok(platform)
    }

    /// Accesses that nothing answered.
    #[must_use]
    pub const fn unclaimed(&self) -> UnclaimedCounters {
        self.unclaimed
    }

    /// Whether the guest tried to reset itself since power-on: a triple fault after that
    /// is the last of the ways in which kernels do.
    #[must_use]
    pub const fn reset_tried(&self) -> bool {
        self.reset_tried
    }

    /// A device by number.
    #[must_use]
    pub fn device(&self, device: usize) -> Option<&VirtioDevice> {
        self.pci.devices.get(device)
    }

    /// A disk by device number.
    pub fn block_mut(&mut self, device: usize) -> Option<&mut VirtioBlock> {
        if !self.pci.is_present(device) {
            return None;
        }
        match self.pci.devices.get_mut(device)? {
            VirtioDevice::Block(block) => Some(block),
            _ => None,
        }
    }

    /// A network card by device number.
    pub fn net_mut(&mut self, device: usize) -> Option<&mut VirtioNet> {
        match self.pci.devices.get_mut(device)? {
            VirtioDevice::Net(net) => Some(net),
            _ => None,
        }
    }

    /// A console by device number.
    pub fn console_mut(&mut self, device: usize) -> Option<&mut VirtioConsole> {
        match self.pci.devices.get_mut(device)? {
            VirtioDevice::Console(console) => Some(console),
            _ => None,
        }
    }

    /// A source of entropy by device number.
    pub fn rng_mut(&mut self, device: usize) -> Option<&mut VirtioRng> {
        match self.pci.devices.get_mut(device)? {
            VirtioDevice::Rng(rng) => Some(rng),
            _ => None,
        }
    }

    /// Presses the power button: a guest that listens shuts down.
    pub const fn press_power_button(&mut self) {
        self.ioapic.raise(EVENT_PIN);
    }

    /// Types on the serial port; returns how many bytes there was room for.
    pub fn push_uart_input(&mut self, bytes: &[u8]) -> usize {
        let count = self.uart.push_input(bytes);
        self.update_uart_line();
        count
    }

    fn update_uart_line(&mut self) {
        let line = self.uart.interrupt();
        if line && !self.uart_line {
            self.ioapic.raise(UART_PIN);
        }
        self.uart_line = line;
    }

    /// Answers a port read of 1, 2 or 4 bytes.
    pub fn port_read(&mut self, port: u16, size: u8) -> u32 {
        match port {
            PCI_ADDRESS_PORT if size == 4 => self.pci.address(),
            PCI_DATA_PORT..=0xcff => self.pci.read_data(low8(u64::from(port & 3)), size),
            UART_PORT..=0x3ff if size == 1 => {
                let value = self.uart.read(low8(u64::from(port & 7)));
                self.update_uart_line();
                u32::from(value)
            }
            SLEEP_CONTROL_PORT | SLEEP_STATUS_PORT | RESET_PORT if size == 1 => 0,
            // What can be told there.
            PANIC_PORT if size == 1 => u32::from(PANIC_PANICKED | PANIC_CRASH_LOADED),
            HOT_PLUG_RESCAN_PORT if size == 4 => u32::from(core::mem::take(&mut self.rescan)),
            HOT_PLUG_LEAVING_PORT if size == 4 => core::mem::take(&mut self.leaving),
            HOT_PLUG_EJECT_PORT if size == 4 => 0,
            // There is no keyboard controller, but who asks for a reset through it
            // waits until it is not busy.
            KEYBOARD_COMMAND_PORT if size == 1 => 0,
            _ => {
                self.unclaimed.ports += 1;
                match size {
                    1 => 0xff,
                    2 => 0xffff,
                    _ => 0xffff_ffff,
                }
            }
        }
    }

    /// Takes a port write of 1, 2 or 4 bytes.
    pub fn port_write(&mut self, port: u16, size: u8, value: u32) -> Option<PlatformEvent> {
        let byte = low8(u64::from(value));
        let resets = matches!(port, RESET_PORT | CHIPSET_RESET_PORT);
        self.reset_tried |= resets || port == KEYBOARD_COMMAND_PORT && KEYBOARD_PULSES.contains(&byte);
        match port {
            PCI_ADDRESS_PORT if size == 4 => self.pci.set_address(value),
            PCI_DATA_PORT..=0xcff => {
                return self.pci.write_data(low8(u64::from(port & 3)), size, value).map(event);
            }
            UART_PORT..=0x3ff if size == 1 => {
                self.uart.write(low8(u64::from(port & 7)), byte);
                self.update_uart_line();
            }
            SLEEP_CONTROL_PORT if size == 1 => {
                // Bit 5 SLP_EN, bits 4:2 SLP_TYP.
                let sleep_type = (byte >> 2) & 7;
                return (byte & 0x20 != 0 && sleep_type == SLEEP_TYPE_OFF).then_some(PlatformEvent::PowerOff);
            }
            SLEEP_STATUS_PORT if size == 1 => {}
            RESET_PORT if size == 1 => {
                return (byte == RESET_VALUE).then_some(PlatformEvent::Reset);
            }
            // Bit 2 resets the CPU.
            CHIPSET_RESET_PORT if size == 1 => return (byte & 4 != 0).then_some(PlatformEvent::Reset),
            HOT_PLUG_RESCAN_PORT | HOT_PLUG_LEAVING_PORT if size == 4 => {}
            HOT_PLUG_EJECT_PORT if size == 4 => {
                // Bit 0 would be the host bridge.
                let device = (value & !1).checked_ilog2()?.checked_sub(1)?;
                return Some(PlatformEvent::Ejected { device: hv_x86::to_usize(u64::from(device)) });
            }
            KEYBOARD_COMMAND_PORT if size == 1 && KEYBOARD_PULSES.contains(&byte) => {
                return (byte & 1 == 0).then_some(PlatformEvent::Reset);
            }
            PANIC_PORT if size == 1 && byte & PANIC_PANICKED != 0 => {
                return Some(PlatformEvent::Panicked { goes_on: false });
            }
            // Told once, however often it is written.
            PANIC_PORT if size == 1 => {
                let first = !self.dumps && byte & PANIC_CRASH_LOADED != 0;
                self.dumps |= first;
                return first.then_some(PlatformEvent::Panicked { goes_on: true });
            }
            _ => self.unclaimed.ports += 1,
        }
        None
    }

    /// Answers a memory-mapped read of 1, 2, 4 or 8 bytes.
    pub fn mmio_read(&mut self, gpa: u64, size: u8) -> u64 {
        let answer = match gpa {
            PCI_WINDOW_START..PCI_WINDOW_END => self.pci.read_memory(gpa, size),
            _ if in_range(gpa, size, ECAM_START, ECAM_BYTES) => {
                Some(self.pci.read_ecam(gpa - ECAM_START, size))
            }
            _ if in_range(gpa, size, IOAPIC_START, IOAPIC_BYTES) => {
                Some(u64::from(self.ioapic.read(gpa - IOAPIC_START)))
            }
            _ => None,
        };
        answer.unwrap_or_else(|| {
            self.unclaimed.memory += 1;
            ones(size)
        })
    }

    /// Takes a memory-mapped write of 1, 2, 4 or 8 bytes.
    pub fn mmio_write(&mut self, gpa: u64, size: u8, value: u64) -> Option<PlatformEvent> {
        let value = value & ones(size);
        match gpa {
            PCI_WINDOW_START..PCI_WINDOW_END => {
                if let Some(result) = self.pci.write_memory(gpa, size, value) {
                    return result.map(event);
                }
            }
            _ if in_range(gpa, size, ECAM_START, ECAM_BYTES) => {
                return self.pci.write_ecam(gpa - ECAM_START, size, value).map(event);
            }
            _ if in_range(gpa, size, IOAPIC_START, IOAPIC_BYTES) => {
                self.ioapic.write(gpa - IOAPIC_START, low32(value));
                return None;
            }
            _ => {}
        }
        self.unclaimed.memory += 1;
        None
    }

    /// A doorbell rang.
    #[must_use]
    pub fn doorbell(&self, index: u32) -> Option<PlatformEvent> {
        let (device, queue) = self.pci.doorbell_target(index)?;
        Some(PlatformEvent::Queue { device, queue })
    }

    /// The doorbells to register with the hypervisor.
    pub fn doorbells(&self) -> impl Iterator<Item = Doorbell> {
        self.pci.doorbells()
    }

    /// Number of doorbells when every window is decoded. Those that
    /// [`Self::doorbells`] leaves out are to be removed from the hypervisor.
    #[must_use]
    pub fn doorbell_count(&self) -> u32 {
        self.pci.devices.iter().map(|device| u32::from(device.transport().queue_count())).sum()
    }

    /// Whether [`Self::doorbells`] may have changed since this was asked last.
    pub const fn take_doorbells_changed(&mut self) -> bool {
        self.pci.take_doorbells_changed()
    }

    /// The next interrupt to inject; call until there is none.
    pub fn next_interrupt(&mut self) -> Option<MsiMessage> {
        self.pci.next_interrupt().or_else(|| self.ioapic.next_message())
    }
}

fn build(number: usize, config: &DeviceConfig) -> VirtioDevice {
    let base = base_address(number);
    match config {
        DeviceConfig::Block(config) => VirtioDevice::Block(VirtioBlock::new(config.clone(), base)),
        DeviceConfig::Net { mac, mtu } => VirtioDevice::Net(VirtioNet::new(*mac, *mtu, base)),
        DeviceConfig::Console => VirtioDevice::Console(VirtioConsole::new(base)),
        DeviceConfig::Rng => VirtioDevice::Rng(VirtioRng::new(base)),
    }
}

const fn event((device, event): (usize, TransportEvent)) -> PlatformEvent {
    match event {
        TransportEvent::Notify(queue) => PlatformEvent::Queue { device, queue },
        TransportEvent::Reset => PlatformEvent::DeviceReset { device },
    }
}

const fn in_range(gpa: u64, size: u8, start: u64, length: u64) -> bool {
    gpa >= start && gpa.saturating_add(size as u64) <= start + length
}

const fn ones(size: u8) -> u64 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        4 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

#[cfg(test)]
#[path = "platform/tests.rs"]
mod tests;
