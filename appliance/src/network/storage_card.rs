//! A network card besides the first one. It carries disks only: AoE, and what the node
//! itself connects to. No guest's frame passes it, and nothing is listened for there.

use machine::guest_memory::GuestMemory;
use netstack::frame::MacAddress;
use netstack::host::Lease;
use netstack::offload::Offload;

use crate::guests::guest::Guest;
use crate::limits::{CARD_STUCK_NS, FRAMES_PER_TURN, WORK_OF_OWN_FRAME};
use crate::network::nic::Nic;
use crate::network::stacks::Stacks;
use crate::network::{Buffers, ETHERTYPE_AOE, received, work_of};
use crate::volumes::Volumes;

/// Whether a card takes frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// One more.
    Yes,
    /// When it has sent some.
    Full,
    /// It has been full for so long that it is no longer waited for.
    Stuck,
}

/// A card's way out, watched.
#[derive(Debug, Default)]
pub(crate) struct Outlet {
    full_since_ns: Option<u64>,
}

impl Outlet {
    pub(crate) fn room(&mut self, nic: &mut impl Nic, now_ns: u64) -> Room {
        if nic.can_transmit() {
            self.full_since_ns = None;
            return Room::Yes;
        }
        let since_ns = *self.full_since_ns.get_or_insert(now_ns);
        if now_ns.saturating_sub(since_ns) < CARD_STUCK_NS { Room::Full } else { Room::Stuck }
    }

    /// When a card that is full counts as stuck.
    pub(crate) fn deadline(&self, now_ns: u64) -> Option<u64> {
        let stuck_ns = self.full_since_ns?.saturating_add(CARD_STUCK_NS);
        (stuck_ns > now_ns).then_some(stuck_ns)
    }
}

/// What a card has moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Frames received and sent.
    pub frames: [u64; 2],
    /// Their bytes.
    pub bytes: [u64; 2],
}

impl Moved {
    /// Counts what a frame of `length` octets is on the wire.
    pub(crate) fn count(&mut self, direction: usize, length: usize, offload: &Offload) {
        if let (Some(frames), Some(bytes)) = (self.frames.get_mut(direction), self.bytes.get_mut(direction)) {
            *frames = frames.wrapping_add(offload.on_wire(length).0 as u64);
            *bytes = bytes.wrapping_add(offload.octets_on_wire(length) as u64);
        }
    }
}

/// Of [`Moved`].
pub(crate) const RECEIVED: usize = 0;
/// Of [`Moved`].
pub(crate) const SENT: usize = 1;

/// The card.
pub struct StorageCard<N> {
    /// The card itself.
    pub nic: N,
    /// Which entry of what was sealed it is.
    pub entry: usize,
    /// Largest payload of a frame.
    pub mtu: u16,
    /// What it has moved.
    pub moved: Moved,
    /// The address of which the log has heard.
    pub told: Option<Lease>,
    pub(crate) outlet: Outlet,
}

impl<N: Nic> StorageCard<N> {
    pub(crate) fn new(nic: N, entry: usize, mtu: u16) -> Self {
        Self { nic, entry, mtu, moved: Moved::default(), told: None, outlet: Outlet::default() }
    }

    /// Whether a frame is for this card: the addresses of others, and of groups that
    /// are not all stations, are nothing to it.
    fn is_for_us(&self, frame: &[u8], longest: usize) -> bool {
        let mac = self.nic.mac();
        let (Some((to, rest)), true) =
            (frame.split_first_chunk::<6>(), longest <= usize::from(self.mtu).saturating_add(18))
        else {
            return false;
        };
        let from = rest.first_chunk::<6>();
        let sane = from.is_some_and(|from| MacAddress(*from).is_station() && *from != mac);
        sane && (*to == mac || *to == [0xff; 6])
    }

    /// Takes what arrived, up to so much work; whether there may be more, and the work.
    pub(crate) fn receive<M: GuestMemory>(
        &mut self,
        (number, most): (usize, u64),
        buffers: &mut Buffers,
        stacks: &mut Stacks,
        guests: &mut [Guest<M>],
        volumes: &mut Volumes,
        now_ns: u64,
    ) -> (bool, u64) {
        let (mut taken, mut work) = (0, 0_u64);
        while taken < FRAMES_PER_TURN && work < most {
            let Some((length, offload)) = self.nic.receive(&mut buffers.frame) else { return (false, work) };
            let (frames, longest) = offload.on_wire(length);
            taken += frames;
            work = work.saturating_add(work_of(length, 1));
            self.moved.count(RECEIVED, length, &offload);
            let frame = received(&mut buffers.frame, length, &offload);
            if !self.is_for_us(frame, longest) {
                continue;
            }
            if frame.get(12..14) == Some(&ETHERTYPE_AOE) {
                volumes.receive_frame(number, frame, guests, now_ns);
            } else if let Some(host) = stacks.get_mut(number) {
                host.receive(frame, &offload, now_ns);
                work = work.saturating_add(WORK_OF_OWN_FRAME);
            }
        }
        (true, work)
    }

    /// Sends what the card's stack has to say.
    pub(crate) fn transmit_host(&mut self, number: usize, stacks: &mut Stacks, scratch: &mut [u8]) {
        let Some(host) = stacks.get_mut(number) else { return };
        while self.nic.can_transmit() {
            let Some(own) = host.next_frame() else { break };
            self.moved.count(SENT, own.octets().len(), &own.offload);
            own.offload.lower(own.octets(), self.nic.accepts(), scratch, |frame, offload| {
                self.nic.transmit(frame, &offload);
            });
            host.reuse(own);
        }
    }

    pub(crate) fn transmit(&mut self, frame: &[u8]) {
        if self.nic.transmit(frame, &Offload::None) {
            self.moved.count(SENT, frame.len(), &Offload::None);
        }
    }
}
