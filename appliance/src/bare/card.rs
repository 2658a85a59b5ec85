//! Finds the network cards and starts them.

use alloc::vec::Vec;

use appliance::limits::CARDS_MAX;
use appliance::network::nic::Nic;
use hv_bus::msix;
use hv_bus::pci::{self, Configuration};
use hv_bus::virtio::{self, DEVICE_NET, DEVICE_NET_TRANSITIONAL, Locations, VENDOR};
use mgmt_proto::manifest::Manifest;
use netstack::frame::MacAddress;
use netstack::nics::virtio_net::{Config, VirtioNet};
use netstack::offload::{Accepts, Offload};

use crate::handles::{Dma, Registers};
use crate::system::{self, Pci};

/// Descriptors of each ring.
const RING_ENTRIES: u16 = 256;
/// Interrupt that the first card is bound to.
const FIRST_INTERRUPT: u32 = 0;
/// That of the second one; those behind it follow. The disk's is in between.
const OTHER_INTERRUPTS: u32 = 2;

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
    pci::find(&Pci, |function| {
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

fn start(function: u16, interrupt: u32, mtu: u16) -> Option<Card> {
    let (vendor, device) = pci::identity(&Pci, function);
    if vendor != VENDOR || (device != DEVICE_NET && device != DEVICE_NET_TRANSITIONAL) {
        return None;
    }
    let locations = virtio::walk(|offset| Pci.read(function, offset)).ok()?;
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
    pci::enable(&Pci, function);
    let vector = bind(function, locations, interrupt);
    let used = [Some(locations.common.bar), Some(locations.notify.bar), locations.device.map(|it| it.bar)];
    let bars = [0, 1, 2, 3, 4, 5].map(|bar| {
        let wanted = used.contains(&Some(bar));
        wanted.then(|| map_bar(function, bar)).flatten()
    });
    (bars, vector)
}

fn map_bar(function: u16, bar: u8) -> Option<Registers> {
    let (address, length) = pci::bar_range(&Pci, function, bar)?;
    Registers::map(address, length).ok()
}

/// Routes MSI-X vector 0 of the function to this program.
fn bind(function: u16, locations: &Locations, interrupt: u32) -> Option<u16> {
    let capability = locations.msix_capability?;
    let table = msix::table(&Pci, function, capability)?;
    let bar = map_bar(function, table.bar)?;
    let (address, data) = system::bind_interrupt(interrupt).ok()?;
    msix::route(&bar, table, 0, address, data);
    msix::enable(&Pci, function, capability);
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
