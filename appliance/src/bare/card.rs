//! Finds the network cards and starts them.
//!
//! Spec: PCI Local Bus 3.0, 6.1 (configuration header), 6.2.5 (base addresses),
//! 6.8.2 (MSI-X).

use alloc::vec::Vec;

use appliance::limits::CARDS_MAX;
use appliance::network::nic::Nic;
use hv_abi::device::Mmio;
use mgmt_proto::manifest::Manifest;
use netstack::frame::MacAddress;
use netstack::offload::{Accepts, Offload};
use netstack::virtio_net::{Config, VirtioNet};
use netstack::virtio_pci::{self, DEVICE_NET, DEVICE_NET_TRANSITIONAL, Locations, VENDOR};

use crate::handles::{Dma, Registers};
use crate::system;

/// Descriptors of each ring.
const RING_ENTRIES: u16 = 256;
/// Interrupt that the first card is bound to.
const FIRST_INTERRUPT: u32 = 0;
/// That of the second one; those behind it follow. The disk's is in between.
const OTHER_INTERRUPTS: u32 = 2;

/// Command register: memory space and bus mastering, no INTx.
const COMMAND: u32 = 1 << 1 | 1 << 2 | 1 << 10;
/// MSI-X message control: enable.
const MSIX_ENABLE: u32 = 1 << 31;

/// The card.
pub(crate) struct Card(VirtioNet<Registers, Dma>);

/// The cards that start, in the order of the bus: up to the first one that is connected,
/// unless disks have cards of their own.
pub(crate) fn find(manifest: &Manifest) -> Vec<Card> {
    let several = !manifest.storage_cards.is_empty();
    // Which of them a card is for is known when it has told its address.
    let mtus = manifest.storage_cards.iter().map(|card| card.mtu);
    let mtu = mtus.fold(manifest.mtu, u16::max);
    let mut cards = Vec::new();
    functions(|function| {
        let interrupt = match u32::try_from(cards.len()).ok()?.checked_sub(1) {
            None => FIRST_INTERRUPT,
            Some(place) => OTHER_INTERRUPTS + place,
        };
        let card = start(function, interrupt, mtu);
        let is_enough = card.as_ref().is_some_and(Nic::is_link_up) && !several;
        cards.extend(card);
        (is_enough || cards.len() >= CARDS_MAX).then_some(())
    });
    cards
}

/// Looks at every function on every bus, until one is what is looked for.
pub(crate) fn functions<T>(mut look: impl FnMut(u16) -> Option<T>) -> Option<T> {
    for bus in 0..=255_u16 {
        for device in 0..32_u16 {
            let first = bus << 8 | device << 3;
            if system::pci_read(first, 0) == u32::MAX {
                continue;
            }
            // Bit 23 of the word at 12: more functions than one.
            let functions = if system::pci_read(first, 12) & 1 << 23 != 0 { 8 } else { 1 };
            for function in first..first + functions {
                if let Some(found) = look(function) {
                    return Some(found);
                }
            }
        }
        // Buses behind bridges are numbered by firmware; most machines have few.
        if bus == 0 && !has_bridge() {
            return None;
        }
    }
    None
}

fn has_bridge() -> bool {
    (0..32_u16).any(|device| system::pci_read(device << 3, 12) >> 16 & 0x7f == 1)
}

fn start(function: u16, interrupt: u32, mtu: u16) -> Option<Card> {
    let identity = system::pci_read(function, 0);
    let (vendor, device) = (hv_x86::low16(u64::from(identity)), hv_x86::low16(u64::from(identity >> 16)));
    if vendor != VENDOR || (device != DEVICE_NET && device != DEVICE_NET_TRANSITIONAL) {
        return None;
    }
    let locations = virtio_pci::walk(|offset| system::pci_read(function, offset)).ok()?;
    let (bars, vector) = prepare(function, &locations, interrupt);
    let dma = Dma::allocate(VirtioNet::<Registers, Dma>::dma_bytes(RING_ENTRIES)).ok()?;
    let config = Config {
        ring_entries: RING_ENTRIES,
        mtu,
        config_vector: vector,
        receive_vector: vector,
        transmit_vector: vector,
        fallback_mac: MacAddress([0x02, 0, 0, 0, 0, 1]),
    };
    match VirtioNet::new(bars, &locations, dma, &config) {
        Ok(card) => Some(Card(card)),
        Err(error) => {
            log::error!("card at {function:#06x}: {error:?}");
            None
        }
    }
}

/// Turns a function on: the windows of its registers, and the vector it is bound to.
pub(crate) fn prepare(
    function: u16,
    locations: &Locations,
    interrupt: u32,
) -> ([Option<Registers>; 6], Option<u16>) {
    system::pci_write(function, 4, system::pci_read(function, 4) & 0xffff | COMMAND);
    let vector = bind(function, locations, interrupt);
    let used = [Some(locations.common.bar), Some(locations.notify.bar), locations.device.map(|it| it.bar)];
    let bars = core::array::from_fn(|bar| {
        let wanted = used.iter().flatten().any(|used| usize::from(*used) == bar);
        wanted.then(|| map_bar(function, bar)).flatten()
    });
    (bars, vector)
}

/// Address and length of a memory base address register.
fn bar_range(function: u16, bar: usize) -> Option<(u64, u64)> {
    let offset = 0x10 + u16::try_from(bar).ok()? * 4;
    let low = system::pci_read(function, offset);
    if low & 1 != 0 {
        return None;
    }
    let wide = low >> 1 & 3 == 2;
    let high = if wide { system::pci_read(function, offset + 4) } else { 0 };
    system::pci_write(function, offset, u32::MAX);
    let mask = system::pci_read(function, offset) & !15;
    system::pci_write(function, offset, low);
    let address = u64::from(low & !15) | u64::from(high) << 32;
    let length = u64::from(mask.wrapping_neg());
    (mask != 0 && address != 0).then_some((address, length))
}

fn map_bar(function: u16, bar: usize) -> Option<Registers> {
    let (address, length) = bar_range(function, bar)?;
    Registers::map(address, length).ok()
}

/// Routes MSI-X vector 0 of the function to this program.
fn bind(function: u16, locations: &Locations, interrupt: u32) -> Option<u16> {
    let capability = u16::from(locations.msix_capability?);
    let table = system::pci_read(function, capability + 4);
    let bar = map_bar(function, usize::try_from(table & 7).ok()?)?;
    let entry = usize::try_from(table & !7).ok()?;
    let (address, data) = system::bind_interrupt(interrupt).ok()?;
    bar.write_u32(entry, hv_x86::low32(address));
    bar.write_u32(entry + 4, hv_x86::low32(address >> 32));
    bar.write_u32(entry + 8, hv_x86::low32(data));
    bar.write_u32(entry + 12, 0);
    let control = system::pci_read(function, capability);
    system::pci_write(function, capability, control & !(1 << 30) | MSIX_ENABLE);
    Some(0)
}

impl Nic for Card {
    fn mac(&self) -> [u8; 6] {
        self.0.mac().0
    }

    fn mtu(&self) -> u16 {
        self.0.mtu()
    }

    fn accepts(&self) -> Accepts {
        self.0.accepts()
    }

    fn receive(&mut self, target: &mut [u8]) -> Option<(usize, Offload)> {
        self.0.receive(target)
    }

    fn can_transmit(&mut self) -> bool {
        self.0.can_transmit()
    }

    fn transmit(&mut self, frame: &[u8], offload: &Offload) -> bool {
        self.0.transmit(frame, offload)
    }

    fn is_link_up(&self) -> bool {
        self.0.link_up()
    }

    fn is_broken(&self) -> bool {
        self.0.is_broken()
    }

    fn stop(&mut self) {
        self.0.fail();
    }

    fn flush(&mut self) {
        self.0.flush();
    }

    fn arm(&mut self) -> bool {
        self.0.arm()
    }
}
