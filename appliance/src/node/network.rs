//! Frames between wire, guests and the node's own stack.

use alloc::vec;
use alloc::vec::Vec;

use netstack::frame::MacAddress;
use netstack::host::{Addressing, Host, HostConfig};
use netstack::offload::{Accepts, Offload};
use netstack::switch::{Destinations, HOST, PortId, Switch, UPLINK};

use crate::devices::virtio::net::Taken;
use crate::guest_memory::GuestMemory;
use crate::limits::{FRAMES_PER_TURN, LARGE_FRAME_BYTES_MAX};
use crate::node::capture::Captures;
use crate::node::guest::Guest;
use crate::node::nic::Nic;
use crate::node::volumes::Volumes;

/// EtherType of AoE (AoE r11, section 2).
const ETHERTYPE_AOE: [u8; 2] = [0x88, 0xa2];

/// A guest's card on the switch.
#[derive(Clone, Copy, Debug)]
struct Port {
    id: PortId,
    guest: u64,
    device: usize,
}

/// Room for a frame, and for what is made of it for one receiver.
#[derive(Default)]
struct Buffers {
    frame: Vec<u8>,
    scratch: Vec<u8>,
}

impl Buffers {
    fn new() -> Self {
        Self { frame: vec![0; LARGE_FRAME_BYTES_MAX], scratch: vec![0; LARGE_FRAME_BYTES_MAX] }
    }
}

/// Card, switch and stack.
pub struct Network<N> {
    /// The card.
    pub nic: N,
    /// The node's own stack.
    pub host: Host,
    /// Captures of guests' frames.
    pub captures: Captures,
    switch: Switch,
    ports: Vec<Port>,
    /// Taken out while frames are moved.
    buffers: Buffers,
}

/// Why a guest's card was not attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// Its address is in use on this node.
    Duplicate,
    /// The switch is full.
    Full,
}

impl<N: Nic> Network<N> {
    /// A network over a card; None when the card's address is no good.
    #[must_use]
    pub fn new(nic: N, addressing: Addressing, seed: u64, secret: [u8; 16], now_ns: u64) -> Option<Self> {
        let mac = MacAddress(nic.mac());
        let mtu = usize::from(nic.mtu());
        let host = Host::new(&HostConfig { mac, mtu, addressing, seed, secret }, now_ns).ok()?;
        let switch = Switch::new(mac, mtu).ok()?;
        Some(Self {
            nic,
            host,
            captures: Captures::default(),
            switch,
            ports: Vec::new(),
            buffers: Buffers::new(),
        })
    }

    /// Attaches a guest's card.
    ///
    /// # Errors
    /// Why not.
    pub fn attach(&mut self, guest: u64, device: usize, mac: [u8; 6]) -> Result<(), AttachError> {
        let id = self.switch.attach_guest(MacAddress(mac)).map_err(|error| match error {
            netstack::switch::AttachError::Full => AttachError::Full,
            _ => AttachError::Duplicate,
        })?;
        self.ports.push(Port { id, guest, device });
        Ok(())
    }

    /// Whether an address is in use on this node.
    #[must_use]
    pub fn has_mac(&self, mac: [u8; 6]) -> bool {
        self.nic.mac() == mac
            || self.ports.iter().any(|port| self.switch.mac(port.id) == Some(MacAddress(mac)))
    }

    /// Detaches all cards of a guest.
    pub fn detach(&mut self, guest: u64) {
        for port in self.ports.iter().filter(|port| port.guest == guest) {
            self.switch.detach_guest(port.id);
        }
        self.ports.retain(|port| port.guest != guest);
        self.captures.forget(guest);
    }

    /// Frames that a guest sent and received, from the switch's counters.
    #[must_use]
    pub fn frames(&self, guest: u64) -> [u64; 2] {
        let own = self.ports.iter().filter(|port| port.guest == guest);
        own.filter_map(|port| self.switch.counters(port.id)).fold([0, 0], |[received, sent], counters| {
            [received + counters.egress_frames, sent + counters.ingress_frames]
        })
    }

    /// Bytes of whole frames that a guest received and sent.
    #[must_use]
    pub fn bytes(&self, guest: u64) -> [u64; 2] {
        let own = self.ports.iter().filter(|port| port.guest == guest);
        own.filter_map(|port| self.switch.counters(port.id)).fold([0, 0], |[received, sent], counters| {
            [received + counters.egress_bytes, sent + counters.ingress_bytes]
        })
    }

    /// Takes what arrived on the wire; true when there may be more.
    pub fn receive<M: GuestMemory>(
        &mut self,
        guests: &mut [Guest<M>],
        volumes: &mut Volumes,
        now_ns: u64,
    ) -> bool {
        let mut buffers = core::mem::take(&mut self.buffers);
        let more = self.receive_into(&mut buffers, guests, volumes, now_ns);
        self.buffers = buffers;
        more
    }

    fn receive_into<M: GuestMemory>(
        &mut self,
        buffers: &mut Buffers,
        guests: &mut [Guest<M>],
        volumes: &mut Volumes,
        now_ns: u64,
    ) -> bool {
        let mut moved = 0;
        while moved < FRAMES_PER_TURN {
            let Some((length, offload)) = self.nic.receive(&mut buffers.frame) else { return false };
            moved += offload.on_wire(length).0;
            let frame = buffers.frame.get(..length).unwrap_or_default();
            let Ok(destinations) = self.switch.admit(UPLINK, frame, &offload, now_ns) else { continue };
            if frame.get(12..14) == Some(&ETHERTYPE_AOE) {
                volumes.receive_frame(frame, guests, now_ns);
                continue;
            }
            self.deliver(destinations, frame, &offload, &mut buffers.scratch, guests, now_ns);
        }
        true
    }

    /// Takes what a guest's card sends; true when there may be more.
    pub fn transmit_guest<M: GuestMemory>(
        &mut self,
        guests: &mut [Guest<M>],
        guest: usize,
        device: usize,
        now_ns: u64,
    ) -> bool {
        let mut buffers = core::mem::take(&mut self.buffers);
        let more = self.transmit_from(&mut buffers, guests, guest, device, now_ns);
        self.buffers = buffers;
        more
    }

    fn transmit_from<M: GuestMemory>(
        &mut self,
        buffers: &mut Buffers,
        guests: &mut [Guest<M>],
        guest: usize,
        device: usize,
        now_ns: u64,
    ) -> bool {
        let mut moved = 0;
        while moved < FRAMES_PER_TURN {
            // What does not fit waits in the guest's own ring.
            if !self.nic.can_transmit() {
                return true;
            }
            let Some(sender) = guests.get_mut(guest) else { return false };
            let number = sender.number;
            let Some((_, memory)) = &sender.domain else { return false };
            let Some(net) = sender.platform.net_mut(device) else { return false };
            let Some((length, header)) = net.pop_transmit(memory, &mut buffers.frame) else { return false };
            let frame = buffers.frame.get_mut(..length).unwrap_or_default();
            let Some(offload) = Offload::of_sender(&header, frame) else {
                net.counters.transmit_dropped += 1;
                moved += 1;
                continue;
            };
            moved += offload.on_wire(length).0;
            self.captures.note(number, frame, now_ns);
            let port = self.ports.iter().find(|port| port.guest == number && port.device == device);
            let Some(port) = port.map(|port| port.id) else { continue };
            if let Ok(destinations) = self.switch.admit(port, frame, &offload, now_ns) {
                self.deliver(destinations, frame, &offload, &mut buffers.scratch, guests, now_ns);
            }
        }
        true
    }

    /// Hands a frame to each of its receivers, as that one can take it.
    fn deliver<M: GuestMemory>(
        &mut self,
        destinations: Destinations,
        frame: &[u8],
        offload: &Offload,
        scratch: &mut [u8],
        guests: &mut [Guest<M>],
        now_ns: u64,
    ) {
        for destination in destinations.iter() {
            if destination == UPLINK {
                offload.lower(frame, self.nic.accepts(), scratch, |frame, offload| {
                    self.nic.transmit(frame, &offload);
                });
            } else if destination == HOST {
                self.host.receive(frame, offload, now_ns);
            } else if let Some(port) = self.ports.iter().find(|port| port.id == destination)
                && let Some(guest) = guests.iter_mut().find(|guest| guest.number == port.guest)
                && let Some((_, memory)) = &guest.domain
                && let Some(net) = guest.platform.net_mut(port.device)
            {
                self.captures.note(port.guest, frame, now_ns);
                let Taken { checksum, tso4, tso6 } = net.taken();
                offload.lower(frame, Accepts { checksum, tso4, tso6 }, scratch, |frame, offload| {
                    net.push_receive(memory, frame, offload.header(1));
                });
            }
        }
    }

    /// Sends what the node's own stack has to say.
    pub fn transmit_host<M: GuestMemory>(&mut self, guests: &mut [Guest<M>], now_ns: u64) {
        let mut buffers = core::mem::take(&mut self.buffers);
        while self.nic.can_transmit() {
            let mut length = 0;
            let sent = self.host.transmit(|frame| {
                if let Some(target) = buffers.frame.get_mut(..frame.len()) {
                    target.copy_from_slice(frame);
                    length = frame.len();
                }
                true
            });
            if !sent {
                break;
            }
            let frame = buffers.frame.get(..length).unwrap_or_default();
            if let Ok(destinations) = self.switch.admit(HOST, frame, &Offload::None, now_ns) {
                self.deliver(destinations, frame, &Offload::None, &mut buffers.scratch, guests, now_ns);
            }
        }
        self.buffers = buffers;
    }

    /// Sends AoE frames; they never touch a guest.
    pub fn transmit_volumes<M: GuestMemory>(
        &mut self,
        guests: &mut [Guest<M>],
        volumes: &mut Volumes,
        now_ns: u64,
    ) {
        let mut buffers = core::mem::take(&mut self.buffers);
        while self.nic.can_transmit() {
            let Some(length) = volumes.transmit_frame(&mut buffers.frame, guests, now_ns) else { break };
            self.nic.transmit(buffers.frame.get(..length).unwrap_or_default(), &Offload::None);
        }
        self.buffers = buffers;
    }
}
