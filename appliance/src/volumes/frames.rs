//! AoE frames on their way between the node's cards and the sessions.

use alloc::vec::Vec;

use machine::guest_memory::GuestMemory;
use storage::aoe::{Source, TargetAddress};
use storage::volume::{Volume, VolumeName};

use crate::guests::guest::Guest;
use crate::limits::DISK_FRAMES_MAX;
use crate::network::stacks::Stacks;
use crate::volumes::discovery::Search;
use crate::volumes::maintenance::MaintenanceOp;
use crate::volumes::state::StateDisk;
use crate::volumes::{NoPayload, Volumes, payload};

/// A network that disks are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wire {
    /// The address of the card there.
    pub mac: [u8; 6],
    /// Largest payload of a frame.
    pub mtu: u16,
    /// AoE is spoken there.
    pub aoe: bool,
}

/// The target that an AoE frame is from, or for (AoE r11, section 2).
fn address_of(frame: &[u8]) -> Option<TargetAddress> {
    let [high, low, slot] = *frame.get(16..)?.first_chunk()?;
    Some(TargetAddress { shelf: u16::from_be_bytes([high, low]), slot })
}

impl Volumes {
    /// The networks that disks are on, by the number of the card.
    #[must_use]
    pub fn wires(&self) -> &[Wire] {
        &self.wires
    }

    /// The stations that AoE is spoken from.
    pub(crate) fn sources(&self) -> Vec<Source> {
        let wires = self.wires.iter().filter(|wire| wire.aoe);
        wires.map(|wire| Source { mac: wire.mac, mtu: usize::from(wire.mtu) }).collect()
    }

    /// Their addresses.
    pub(crate) fn stations(&self) -> Vec<[u8; 6]> {
        self.sources().iter().map(|source| source.mac).collect()
    }

    /// A card's link went down, or came back.
    pub fn link_changed(&mut self, card: usize, up: bool, stacks: &mut Stacks, now_ns: u64) {
        let Some(mac) = self.wires.get(card).map(|wire| wire.mac) else { return };
        let bindings = self.bindings.iter_mut().map(|it| (&mut it.volume, &mut it.connections));
        for (volume, connections) in bindings.chain(self.state.as_mut().and_then(StateDisk::session)) {
            match volume {
                Volume::Aoe(target) => target.link_changed(mac, up, now_ns),
                Volume::Iscsi(session) => connections.link_changed(session, card, up, stacks, now_ns),
            }
        }
    }

    /// Takes an AoE frame that came to a card. What is for another of the node's cards
    /// came from where that one is not.
    pub fn receive_frame<M: GuestMemory>(
        &mut self,
        card: usize,
        frame: &[u8],
        guests: &mut [Guest<M>],
        now_ns: u64,
    ) {
        let to = frame.get(..6);
        let wire = self.wires.get(card).filter(|wire| wire.aoe);
        if !wire.is_some_and(|wire| to == Some(&wire.mac) || to == Some(&[0xff; 6])) {
            return;
        }
        // Most disks are at other targets, which is seen at once.
        let from = address_of(frame);
        for binding in &mut self.bindings {
            if let (Volume::Aoe(target), VolumeName::Aoe(address)) = (&mut binding.volume, &binding.name)
                && Some(*address) == from
            {
                let mut payload = payload(guests, binding.guest, binding.device, &binding.tokens);
                if target.receive(frame, now_ns, &mut payload) {
                    return;
                }
            }
        }
        if self.receive_state(frame, now_ns) {
            return;
        }
        let others = self.maintenance.iter_mut().filter_map(MaintenanceOp::target);
        if others.into_iter().any(|target| target.receive(frame, now_ns, &mut NoPayload))
            || self.retiring_targets(now_ns).any(|target| target.receive(frame, now_ns, &mut NoPayload))
        {
            return;
        }
        if let Some(Search::Aoe(discoveries)) = &mut self.search {
            let _ = discoveries.iter_mut().any(|discovery| discovery.receive(frame));
        }
    }

    /// The next AoE frame for the wire.
    pub fn transmit_frame<M: GuestMemory>(
        &mut self,
        buffer: &mut [u8],
        guests: &mut [Guest<M>],
        now_ns: u64,
    ) -> Option<usize> {
        // Disks take turns, a few frames each.
        for _ in 0..self.bindings.len() {
            let (index, sent) = self.sends;
            if let Some(binding) = self.bindings.get_mut(index)
                && sent < DISK_FRAMES_MAX
                && let Volume::Aoe(target) = &mut binding.volume
            {
                let mut payload = payload(guests, binding.guest, binding.device, &binding.tokens);
                if let Some(length) = target.transmit(buffer, now_ns, &mut payload) {
                    self.sends = (index, sent + 1);
                    return Some(length);
                }
            }
            let next = index.saturating_add(1);
            self.sends = (if next < self.bindings.len() { next } else { 0 }, 0);
        }
        if let Some(length) = self.transmit_state(buffer, now_ns) {
            return Some(length);
        }
        if let Some(target) = self.maintenance.as_mut().and_then(MaintenanceOp::target)
            && let Some(length) = target.transmit(buffer, now_ns, &mut NoPayload)
        {
            return Some(length);
        }
        for target in self.retiring_targets(now_ns) {
            if let Some(length) = target.transmit(buffer, now_ns, &mut NoPayload) {
                return Some(length);
            }
        }
        match &mut self.search {
            Some(Search::Aoe(discoveries)) => {
                discoveries.iter_mut().find_map(|discovery| discovery.transmit(buffer, now_ns))
            }
            _ => None,
        }
    }
}
