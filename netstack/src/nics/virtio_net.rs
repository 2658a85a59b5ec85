//! Driver of a virtio network card behind modern virtio PCI registers.
//!
//! Spec: Virtual I/O Device (VIRTIO) 1.2, sections 3.1 (initialization), 4.1.4.3
//! (common configuration), 5.1 (network device).
//!
//! The device is not trusted: its indices, lengths and configuration are checked,
//! and a card that breaks its rings is stopped and reported, never trusted.

use alloc::vec::Vec;

use hv_abi::device::{DmaMemory, Mmio};
use hv_bus::virtio::Locations;
use hv_bus::virtio::function::{
    Doorbell, FEATURE_ACCESS_PLATFORM, FEATURE_VERSION_1, Function, FunctionError, Queue,
};

use self::buffers::Buffers;
use crate::frame::{HEADER_BYTES, MacAddress};
use crate::limits::{FRAME_BYTES_MAX, NIC_RING_ENTRIES_MAX};
use crate::offload::{
    Accepts, FEATURE_CHECKSUM, FEATURE_GUEST_CHECKSUM, FEATURE_GUEST_TSO4, FEATURE_GUEST_TSO6,
    FEATURE_HOST_TSO4, FEATURE_HOST_TSO6, FEATURE_MERGE_RECEIVE, NET_HEADER_BYTES,
};

const FEATURE_MTU: u64 = 1 << 3;
const FEATURE_MAC: u64 = 1 << 5;
const FEATURE_STATUS: u64 = 1 << 16;
const FEATURE_EVENT_INDEX: u64 = 1 << 29;
const FEATURES_WANTED: u64 = FEATURE_CHECKSUM
    | FEATURE_GUEST_CHECKSUM
    | FEATURE_GUEST_TSO4
    | FEATURE_GUEST_TSO6
    | FEATURE_HOST_TSO4
    | FEATURE_HOST_TSO6
    | FEATURE_MERGE_RECEIVE
    | FEATURE_MTU
    | FEATURE_MAC
    | FEATURE_STATUS
    | FEATURE_EVENT_INDEX
    | FEATURE_VERSION_1
    | FEATURE_ACCESS_PLATFORM;

/// One VLAN tag beyond the MTU.
const TAG_BYTES: usize = 4;
const RECEIVE_QUEUE: u16 = 0;
const TRANSMIT_QUEUE: u16 = 1;

mod buffers;
mod traffic;

/// What the caller chooses.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Descriptors per ring, a power of two up to 256.
    pub ring_entries: u16,
    /// Largest payload of the wire. A device may report a smaller one; one that
    /// cannot spread a received frame over buffers is kept to 1,500.
    pub mtu: u16,
    /// MSI-X table index of configuration changes, if any.
    pub config_vector: Option<u16>,
    /// MSI-X table index of received frames, if any.
    pub receive_vector: Option<u16>,
    /// MSI-X table index of sent frames, if any.
    pub transmit_vector: Option<u16>,
    /// Address to use if the device has none of its own.
    pub fallback_mac: MacAddress,
}

/// Why a card cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NicError {
    /// A register window is missing or too short.
    BadWindow,
    /// The device did not finish its reset.
    ResetTimeout,
    /// The device is older than version 1 or refused our features.
    FeaturesRefused,
    /// A ring is missing or smaller than asked.
    RingTooSmall,
    /// The DMA region is smaller than [`VirtioNet::dma_bytes`].
    DmaTooSmall,
    /// The device refused an interrupt vector.
    VectorRefused,
    /// The device's own address is no station address.
    BadMac,
    /// `Config` is out of range.
    BadConfig,
}

/// What the driver has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicCounters {
    /// Frames handed to the caller.
    pub received_frames: u64,
    /// Their octets.
    pub received_bytes: u64,
    /// Frames given to the device.
    pub transmitted_frames: u64,
    /// Their octets.
    pub transmitted_bytes: u64,
    /// Frames refused because the transmit ring was full.
    pub transmit_full: u64,
    /// Received frames with an impossible length or header.
    pub malformed: u64,
    /// Doorbell writes.
    pub notifications: u64,
}

impl From<FunctionError> for NicError {
    fn from(error: FunctionError) -> Self {
        match error {
            FunctionError::BadWindow => Self::BadWindow,
            FunctionError::ResetTimeout => Self::ResetTimeout,
            FunctionError::FeaturesRefused => Self::FeaturesRefused,
            FunctionError::RingTooSmall => Self::RingTooSmall,
            FunctionError::VectorRefused => Self::VectorRefused,
        }
    }
}

/// A running card.
pub struct VirtioNet<M, D> {
    function: Function<M>,
    dma: D,
    receive: Buffers,
    transmit: Buffers,
    receive_doorbell: Doorbell,
    transmit_doorbell: Doorbell,
    features: u64,
    mac: MacAddress,
    mtu: u16,
    unannounced: u16,
    broken: bool,
    counters: NicCounters,
}

/// Payload that fits a buffer of the rings; what is longer takes several.
const BUFFER_MTU: u16 = 1500;
/// Octets of such a buffer.
const BUFFER_BYTES: usize =
    (NET_HEADER_BYTES + HEADER_BYTES + TAG_BYTES + BUFFER_MTU as usize).div_ceil(64) * 64;

impl<M: Mmio, D: DmaMemory> VirtioNet<M, D> {
    /// Octets of DMA memory [`VirtioNet::new`] needs.
    #[must_use]
    pub fn dma_bytes(ring_entries: u16) -> usize {
        let one = Buffers::memory_bytes(ring_entries, BUFFER_BYTES).div_ceil(4096) * 4096;
        one.saturating_mul(2)
    }

    /// Resets the card, negotiates and starts it (3.1.1). `bars` are the windows of
    /// the function's base address registers, as far as `locations` names them.
    ///
    /// # Errors
    /// The card or the memory is unfit; the card is then marked failed.
    pub fn new(
        bars: [Option<M>; 6],
        locations: &Locations,
        dma: D,
        config: &Config,
    ) -> Result<Self, NicError> {
        let entries = config.ring_entries;
        if !entries.is_power_of_two()
            || !(2..=NIC_RING_ENTRIES_MAX).contains(&entries)
            || usize::from(config.mtu) + HEADER_BYTES + TAG_BYTES > FRAME_BYTES_MAX
        {
            return Err(NicError::BadConfig);
        }
        if dma.length() < Self::dma_bytes(entries) {
            return Err(NicError::DmaTooSmall);
        }
        let second = Self::dma_bytes(entries) / 2;
        let mut nic = Self {
            function: Function::new(bars, *locations),
            dma,
            receive: Buffers::new(entries, 0, BUFFER_BYTES, true, false),
            transmit: Buffers::new(entries, second, BUFFER_BYTES, false, false),
            receive_doorbell: Doorbell::default(),
            transmit_doorbell: Doorbell::default(),
            features: 0,
            mac: config.fallback_mac,
            mtu: config.mtu,
            unannounced: 0,
            broken: false,
            counters: NicCounters::default(),
        };
        if let Err(error) = nic.start(config) {
            nic.function.fail();
            return Err(error);
        }
        Ok(nic)
    }

    fn start(&mut self, config: &Config) -> Result<(), NicError> {
        self.features = self.function.negotiate(|offered| usable(offered & FEATURES_WANTED))?;
        self.read_device_config()?;
        let event_index = self.features & FEATURE_EVENT_INDEX != 0;
        let entries = config.ring_entries;
        let second = Self::dma_bytes(entries) / 2;
        self.receive = Buffers::new(entries, 0, BUFFER_BYTES, true, event_index);
        self.transmit = Buffers::new(entries, second, BUFFER_BYTES, false, event_index);
        self.function.set_config_vector(config.config_vector);
        self.receive_doorbell = self.enable(RECEIVE_QUEUE, entries, config.receive_vector)?;
        self.transmit_doorbell = self.enable(TRANSMIT_QUEUE, entries, config.transmit_vector)?;
        while let Some(id) = self.receive.take_chain(BUFFER_BYTES) {
            if !self.receive.lend(&self.dma, id, BUFFER_BYTES) {
                return Err(NicError::DmaTooSmall);
            }
        }
        self.transmit.ring.set_interrupt(&self.dma, false);
        self.function.run();
        self.notify_receive();
        Ok(())
    }

    /// MAC, link status and MTU (5.1.4).
    fn read_device_config(&mut self) -> Result<(), NicError> {
        if self.features & FEATURE_MAC != 0 {
            let mut octets = [0; 6];
            for (index, octet) in octets.iter_mut().enumerate() {
                *octet = self.function.device_u8(index).ok_or(NicError::BadWindow)?;
            }
            self.mac = MacAddress(octets);
        }
        if !self.mac.is_station() {
            return Err(NicError::BadMac);
        }
        if self.features & FEATURE_MERGE_RECEIVE == 0 {
            self.mtu = self.mtu.min(BUFFER_MTU);
        }
        if self.features & FEATURE_MTU != 0 {
            self.mtu = self.mtu.min(self.function.device_u16(10).ok_or(NicError::BadWindow)?.max(68));
        }
        Ok(())
    }

    fn enable(&self, number: u16, entries: u16, vector: Option<u16>) -> Result<Doorbell, NicError> {
        let ring = if number == RECEIVE_QUEUE { &self.receive } else { &self.transmit };
        let [descriptors, available, used] = ring.ring.addresses(&self.dma);
        Ok(self.function.enable(&Queue { number, entries, vector, descriptors, available, used })?)
    }

    /// The card's address.
    #[must_use]
    pub fn mac(&self) -> MacAddress {
        self.mac
    }

    /// The largest payload: the smaller of the caller's and the device's.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// What the card takes over of what is given to [`Self::transmit`].
    #[must_use]
    pub fn accepts(&self) -> Accepts {
        let has = |feature| self.features & feature != 0;
        Accepts {
            checksum: has(FEATURE_CHECKSUM),
            tso4: has(FEATURE_HOST_TSO4),
            tso6: has(FEATURE_HOST_TSO6),
        }
    }

    /// Whether the link is up (5.1.4.2: up when the device does not report it).
    #[must_use]
    pub fn link_up(&self) -> bool {
        self.features & FEATURE_STATUS == 0
            || self.function.device_u16(6).is_some_and(|status| status & 1 != 0)
    }

    /// Whether the device broke its rings or asked for a reset: make a new driver.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken || self.function.needs_reset()
    }

    /// What the driver has seen.
    #[must_use]
    pub fn counters(&self) -> NicCounters {
        self.counters
    }

    /// Stops the card and returns its windows and memory.
    pub fn stop(self) -> ([Option<M>; 6], D) {
        self.function.reset();
        (self.function.into_bars(), self.dma)
    }
}

/// Leaves out features that need others which are not offered (5.1.3.1), and large
/// received frames where each would need a buffer of its own for 64 KiB.
const fn usable(offered: u64) -> u64 {
    let mut features = offered;
    if features & FEATURE_CHECKSUM == 0 {
        features &= !(FEATURE_HOST_TSO4 | FEATURE_HOST_TSO6);
    }
    if features & FEATURE_GUEST_CHECKSUM == 0 || features & FEATURE_MERGE_RECEIVE == 0 {
        features &= !(FEATURE_GUEST_TSO4 | FEATURE_GUEST_TSO6);
    }
    features
}

/// Names of the negotiated features, for `node info`.
impl<M, D> VirtioNet<M, D> {
    /// The negotiated feature bits, lowest first.
    #[must_use]
    pub fn feature_bits(&self) -> Vec<u8> {
        (0..64u8).filter(|bit| self.features & (1 << bit) != 0).collect()
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "tests cut random numbers to size")]
mod tests;
