//! Frames between wire, guests and the node's own stack.

use alloc::vec;
use alloc::vec::Vec;

use machine::devices::virtio::net::Taken;
use machine::guest_memory::GuestMemory;
use machine::limits::LARGE_FRAME_BYTES_MAX;
use netstack::frame::{MacAddress, without_priority_tag};
use netstack::host::{Host, HostConfig};
use netstack::offload::{Accepts, Offload};
use netstack::switch::{Destinations, HOST, Policy, PortId, Rate, Switch, UPLINK};

use crate::guests::Guests;
use crate::guests::guest::Guest;
use crate::guests::number::GuestNumber;
use crate::limits::{
    DISK_WORK_PER_CALL, FRAMES_PER_TURN, OCTETS_OF_WORK, PORT_BURST_BYTES, PORT_BURST_BYTES_MIN,
    PORT_BURST_MS, PORT_BYTES_PER_S, WIRE_WORK_PER_TURN, WORK_OF_FRAME, WORK_OF_OWN_FRAME, WORK_OF_REQUEST,
};
use crate::network::capture::Captures;
use crate::network::nic::Nic;
use crate::network::stacks::Stacks;
use crate::volumes::Volumes;

pub(crate) mod addressing;
pub(crate) mod capture;
pub(crate) mod cards;
pub(crate) mod neighbourhood;
pub mod nic;
pub(crate) mod protection;
pub(crate) mod stacks;
pub(crate) mod storage_card;

pub use crate::network::storage_card::{Moved, StorageCard};
use crate::network::storage_card::{Outlet, Room, SENT};

/// EtherType of AoE (AoE r11, section 2).
const ETHERTYPE_AOE: [u8; 2] = [0x88, 0xa2];

/// A guest's card on the switch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Port {
    id: PortId,
    guest: GuestNumber,
    device: usize,
}

/// Work on a frame of so many octets, which is so many frames on a wire.
const fn work_of(octets: usize, pieces: usize) -> u64 {
    WORK_OF_FRAME.saturating_mul(pieces as u64).saturating_add((octets / OCTETS_OF_WORK) as u64)
}

/// What a card may send that is held to so many octets per second, or to nothing.
fn rate_of(bytes_per_s: Option<u64>) -> Rate {
    let Some(bytes_per_second) = bytes_per_s else {
        return Rate { bytes_per_second: PORT_BYTES_PER_S, burst_bytes: PORT_BURST_BYTES };
    };
    let saved = bytes_per_second.saturating_mul(PORT_BURST_MS) / 1_000;
    Rate { bytes_per_second, burst_bytes: saved.clamp(PORT_BURST_BYTES_MIN, PORT_BURST_BYTES) }
}

/// Room for a frame, and for what is made of it for one receiver.
#[derive(Default)]
pub(crate) struct Buffers {
    frame: Vec<u8>,
    scratch: Vec<u8>,
}

impl Buffers {
    fn new() -> Self {
        Self { frame: vec![0; LARGE_FRAME_BYTES_MAX], scratch: vec![0; LARGE_FRAME_BYTES_MAX] }
    }
}

/// A frame that arrived, without a tag that is for priority alone. One that others are to
/// complete has headers where its sender said.
fn received<'a>(buffer: &'a mut [u8], length: usize, offload: &Offload) -> &'a [u8] {
    let frame = buffer.get_mut(..length).unwrap_or_default();
    match offload {
        Offload::None | Offload::Verified => without_priority_tag(frame),
        Offload::Checksum(_) | Offload::Segments(..) => frame,
    }
}

/// Cards, switch and stacks.
pub struct Network<N> {
    /// The first card: management, guests, and disks.
    pub nic: N,
    /// Cards for disks only; they are numbered from 1.
    pub storage: Vec<StorageCard<N>>,
    /// The node's own stacks.
    pub stacks: Stacks,
    /// Captures of guests' frames.
    pub captures: Captures,
    pub(crate) switch: Switch,
    ports: Vec<Port>,
    /// Taken out while frames are moved.
    buffers: Buffers,
    outlet: Outlet,
    /// AoE frames that left by the first card, beside the switch.
    aoe: Moved,
    /// When it is next asked whose addresses no guest may claim.
    pub(crate) protect_at_ns: u64,
    /// The trust bundle by which guests' cards were last told what they may.
    pub(crate) policed_serial: Option<u64>,
    address_watch: addressing::AddressWatch,
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
    /// A network over its first card, whose address `config` has; None when that is no
    /// good.
    #[must_use]
    pub fn new(nic: N, config: &HostConfig, now_ns: u64) -> Option<Self> {
        let host = Host::new(config, now_ns).ok()?;
        let switch = Switch::new(config.mac, config.mtu, &config.secret).ok()?;
        Some(Self {
            nic,
            storage: Vec::new(),
            stacks: Stacks::new(host),
            outlet: Outlet::default(),
            aoe: Moved::default(),
            captures: Captures::default(),
            switch,
            ports: Vec::new(),
            buffers: Buffers::new(),
            protect_at_ns: 0,
            policed_serial: None,
            address_watch: addressing::AddressWatch::default(),
        })
    }

    /// Adds a card for disks, with a stack if it is to have one.
    pub fn add_storage(&mut self, nic: N, entry: usize, mtu: u16, host: Option<Host>) {
        self.storage.push(StorageCard::new(nic, entry, mtu));
        self.stacks.add(host);
    }

    /// Asks all cards for interrupts before sleeping; true when there is work already.
    pub fn arm(&mut self) -> bool {
        let others = self.storage.iter_mut().fold(false, |work, card| card.nic.arm() | work);
        self.nic.arm() | others
    }

    /// Tells all cards of what was queued.
    pub fn flush(&mut self) {
        self.nic.flush();
        self.storage.iter_mut().for_each(|card| card.nic.flush());
    }

    /// When a card that takes nothing is waited for no longer.
    #[must_use]
    pub fn next_deadline(&self, now_ns: u64) -> Option<u64> {
        if self.storage.is_empty() {
            return None;
        }
        let others = self.storage.iter().filter_map(|card| card.outlet.deadline(now_ns));
        others.chain(self.outlet.deadline(now_ns)).min()
    }

    /// What the first card has moved.
    #[must_use]
    pub fn moved(&self) -> Moved {
        let mut moved = self.aoe;
        if let Some(uplink) = self.switch.counters(UPLINK) {
            let add = |count: &mut u64, more: u64| *count = count.wrapping_add(more);
            let Moved { frames: [received, sent], bytes: [bytes_received, bytes_sent] } = &mut moved;
            add(received, uplink.ingress_frames);
            add(sent, uplink.egress_frames);
            add(bytes_received, uplink.ingress_bytes);
            add(bytes_sent, uplink.egress_bytes);
        }
        moved
    }

    /// Attaches a guest's card, which sends so many octets per second at most.
    ///
    /// # Errors
    /// Why not.
    pub fn attach(
        &mut self,
        guest: GuestNumber,
        device: usize,
        mac: [u8; 6],
        bytes_per_s: Option<u64>,
        now_ns: u64,
    ) -> Result<(), AttachError> {
        let id = self.switch.attach_guest(MacAddress(mac)).map_err(|error| match error {
            netstack::switch::AttachError::Full => AttachError::Full,
            _ => AttachError::Duplicate,
        })?;
        self.switch.set_rate(id, Some(rate_of(bytes_per_s)), now_ns);
        self.ports.push(Port { id, guest, device });
        Ok(())
    }

    /// Sets what a guest's card may send.
    pub(crate) fn set_policy(&mut self, guest: GuestNumber, device: usize, policy: Policy) {
        if let Some(port) = self.ports.iter().find(|port| port.guest == guest && port.device == device) {
            self.switch.set_policy(port.id, policy);
        }
    }

    /// Whether an address is in use on this node.
    #[must_use]
    pub fn has_mac(&self, mac: [u8; 6]) -> bool {
        self.nic.mac() == mac
            || self.storage.iter().any(|card| card.nic.mac() == mac)
            || self.ports.iter().any(|port| self.switch.mac(port.id) == Some(MacAddress(mac)))
    }

    /// Detaches all cards of a guest.
    pub fn detach(&mut self, guest: GuestNumber) {
        for port in self.ports.iter().filter(|port| port.guest == guest) {
            self.switch.detach_guest(port.id);
        }
        self.ports.retain(|port| port.guest != guest);
        self.captures.forget(guest);
    }

    /// Frames that a guest sent and received, from the switch's counters.
    #[must_use]
    pub fn frames(&self, guest: GuestNumber) -> [u64; 2] {
        let own = self.ports.iter().filter(|port| port.guest == guest);
        own.filter_map(|port| self.switch.counters(port.id)).fold([0, 0], |[received, sent], counters| {
            [received + counters.egress_frames, sent + counters.ingress_frames]
        })
    }

    /// Bytes of whole frames that a guest received and sent.
    #[must_use]
    pub fn bytes(&self, guest: GuestNumber) -> [u64; 2] {
        let own = self.ports.iter().filter(|port| port.guest == guest);
        own.filter_map(|port| self.switch.counters(port.id)).fold([0, 0], |[received, sent], counters| {
            [received + counters.egress_bytes, sent + counters.ingress_bytes]
        })
    }

    /// Takes what arrived on the wire; true when there may be more.
    pub fn receive<M: GuestMemory>(
        &mut self,
        to: &mut Guests<M>,
        volumes: &mut Volumes,
        now_ns: u64,
    ) -> bool {
        let mut buffers = core::mem::take(&mut self.buffers);
        // Each card has its share of a turn, and what those before it have left.
        let cards = (self.storage.len() as u64).saturating_add(1);
        let share = WIRE_WORK_PER_TURN.checked_div(cards).unwrap_or(WIRE_WORK_PER_TURN);
        let (mut more, mut work) = self.receive_into(&mut buffers, to, volumes, share, now_ns);
        for (number, card) in (1..).zip(&mut self.storage) {
            let most = share.saturating_mul(number as u64 + 1).saturating_sub(work).min(WIRE_WORK_PER_TURN);
            let moved =
                card.receive((number, most), &mut buffers, &mut self.stacks, &mut to.list, volumes, now_ns);
            more |= moved.0;
            work = work.saturating_add(moved.1);
        }
        self.buffers = buffers;
        more
    }

    fn receive_into<M: GuestMemory>(
        &mut self,
        buffers: &mut Buffers,
        to: &mut Guests<M>,
        volumes: &mut Volumes,
        most: u64,
        now_ns: u64,
    ) -> (bool, u64) {
        let (mut moved, mut work) = (0, 0);
        while moved < FRAMES_PER_TURN && work < most {
            let Some((length, offload)) = self.nic.receive(&mut buffers.frame) else { return (false, work) };
            moved += offload.on_wire(length).0;
            work += work_of(length, 1);
            let frame = received(&mut buffers.frame, length, &offload);
            let Ok(destinations) = self.switch.admit(UPLINK, frame, &offload, now_ns) else { continue };
            if frame.get(12..14) == Some(&ETHERTYPE_AOE) {
                volumes.receive_frame(0, frame, &mut to.list, now_ns);
                continue;
            }
            work += self.deliver(destinations, frame, &offload, &mut buffers.scratch, to, now_ns);
        }
        (true, work)
    }

    /// Takes what a guest's card sends; true when there may be more.
    pub fn transmit_guest<M: GuestMemory>(
        &mut self,
        to: &mut Guests<M>,
        guest: usize,
        device: usize,
        now_ns: u64,
    ) -> bool {
        let mut buffers = core::mem::take(&mut self.buffers);
        let more = self.transmit_from(&mut buffers, to, guest, device, now_ns);
        self.buffers = buffers;
        more
    }

    fn transmit_from<M: GuestMemory>(
        &mut self,
        buffers: &mut Buffers,
        to: &mut Guests<M>,
        guest: usize,
        device: usize,
        now_ns: u64,
    ) -> bool {
        let mut moved = 0;
        while moved < FRAMES_PER_TURN {
            let Some(sender) = to.list.get_mut(guest) else { return false };
            let number = sender.number;
            // What does not fit waits in the guest's own ring.
            if !self.nic.can_transmit() || !to.quotas.may(number) {
                return true;
            }
            let Some((_, memory)) = &sender.domain else { return false };
            let Some(net) = sender.platform.net_mut(device) else { return false };
            let popped = net.pop_transmit(memory, &mut buffers.frame);
            to.quotas.charge(number, net.transport.take_work());
            let Some((length, header)) = popped else { return net.has_more() };
            let frame = buffers.frame.get_mut(..length).unwrap_or_default();
            let Some(offload) = Offload::of_sender(&header, frame) else {
                net.counters.transmit_dropped += 1;
                moved += 1;
                continue;
            };
            let pieces = offload.on_wire(length).0;
            moved += pieces;
            to.quotas.charge(number, work_of(length, pieces));
            self.captures.note(number, frame, now_ns);
            let port = self.ports.iter().find(|port| port.guest == number && port.device == device);
            let Some(port) = port.map(|port| port.id) else { continue };
            if let Ok(destinations) = self.switch.admit(port, frame, &offload, now_ns) {
                if destinations.contains(HOST) {
                    self.stacks.first.receive_attached(frame, &offload, now_ns);
                }
                let destinations = destinations.without(HOST);
                let work = self.deliver(destinations, frame, &offload, &mut buffers.scratch, to, now_ns);
                to.quotas.charge(number, work);
            }
        }
        true
    }

    /// Hands a frame to each of its receivers, as that one can take it. A guest that owes
    /// too much gets none. Returns what work it was for all of them.
    fn deliver<M: GuestMemory>(
        &mut self,
        destinations: Destinations,
        frame: &[u8],
        offload: &Offload,
        scratch: &mut [u8],
        to: &mut Guests<M>,
        now_ns: u64,
    ) -> u64 {
        let mut work = 0_u64;
        for destination in destinations.iter() {
            if destination == UPLINK {
                offload.lower(frame, self.nic.accepts(), scratch, |frame, offload| {
                    self.nic.transmit(frame, &offload);
                });
            } else if destination == HOST {
                self.stacks.first.receive(frame, offload, now_ns);
                work = work.saturating_add(WORK_OF_OWN_FRAME);
            } else if let Some(port) = self.ports.iter().find(|port| port.id == destination)
                && let Some(guest) = to.list.iter_mut().find(|guest| guest.number == port.guest)
                && to.quotas.may_owe(port.guest)
                && let Some((_, memory)) = &guest.domain
                && let Some(net) = guest.platform.net_mut(port.device)
            {
                self.captures.note(port.guest, frame, now_ns);
                let Taken { checksum, tso4, tso6 } = net.taken();
                offload.lower(frame, Accepts { checksum, tso4, tso6 }, scratch, |frame, offload| {
                    net.push_receive(memory, frame, offload.header(1));
                    work = work.saturating_add(work_of(frame.len(), 1));
                });
                // How its buffers are scattered is its own matter.
                let own = net.transport.take_work();
                to.quotas.owe(port.guest, own);
                work = work.saturating_add(own);
            }
        }
        work
    }

    /// Sends what the node's own stacks have to say.
    pub fn transmit_host<M: GuestMemory>(&mut self, to: &mut Guests<M>, now_ns: u64) {
        let mut buffers = core::mem::take(&mut self.buffers);
        while self.nic.can_transmit() {
            let Some(own) = self.stacks.first.next_frame() else { break };
            if let Ok(destinations) = self.switch.admit(HOST, own.octets(), &own.offload, now_ns) {
                self.deliver(destinations, own.octets(), &own.offload, &mut buffers.scratch, to, now_ns);
            }
            self.stacks.first.reuse(own);
        }
        for (number, card) in (1..).zip(&mut self.storage) {
            card.transmit_host(number, &mut self.stacks, &mut buffers.scratch);
        }
        self.buffers = buffers;
    }

    /// Whether the next AoE frame can leave, whichever card it is for. A full card is
    /// waited for, but not for long if others go on.
    fn has_room(&mut self, now_ns: u64) -> bool {
        if self.storage.is_empty() {
            return self.nic.can_transmit();
        }
        let first = self.outlet.room(&mut self.nic, now_ns);
        let others = self.storage.iter_mut().map(|card| card.outlet.room(&mut card.nic, now_ns));
        let (mut any, mut full) = (false, false);
        for room in others.chain([first]) {
            any |= room == Room::Yes;
            full |= room == Room::Full;
        }
        any && !full
    }

    /// Sends AoE frames; they never touch a guest. True when there may be more.
    pub fn transmit_volumes<M: GuestMemory>(
        &mut self,
        guests: &mut [Guest<M>],
        volumes: &mut Volumes,
        now_ns: u64,
    ) -> bool {
        let mut buffers = core::mem::take(&mut self.buffers);
        let mut work = 0_u64;
        while work < DISK_WORK_PER_CALL && self.has_room(now_ns) {
            let Some(length) = volumes.transmit_frame(&mut buffers.frame, guests, now_ns) else { break };
            work = work.saturating_add(work_of(length, 1)).saturating_add(WORK_OF_REQUEST);
            let frame = buffers.frame.get(..length).unwrap_or_default();
            // Its source tells by which card it is to leave.
            let source = frame.get(6..12);
            match self.storage.iter_mut().find(|card| source == Some(&card.nic.mac())) {
                Some(card) => card.transmit(frame),
                None if self.nic.transmit(frame, &Offload::None) => {
                    self.aoe.count(SENT, length, &Offload::None)
                }
                None => {}
            }
        }
        self.buffers = buffers;
        work >= DISK_WORK_PER_CALL
    }
}
