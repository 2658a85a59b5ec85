//! A network card of two queues, shared with the world on its other side.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{RefCell, RefMut};

use netstack::offload::{Accepts, Offload};

use super::fake_hypervisor::uncounted;
use crate::network::nic::Nic;

/// Frames the card takes before the world fetches them.
const TRANSMIT_FRAMES: usize = 128;

pub(super) struct FakeCard {
    pub(super) received: VecDeque<Vec<u8>>,
    pub(super) sent: VecDeque<Vec<u8>>,
    /// It had no room when there was something to send: it interrupts when it has.
    pub(super) is_awaited: bool,
    /// Nothing leaves, as with the cable out.
    pub(super) stuck: bool,
    /// It says that its link is down.
    pub(super) link_down: bool,
    /// It was told to stop.
    pub(super) stopped: bool,
    /// Frames that it was given to cut.
    pub(super) large: u64,
    /// Frames and octets that it put on its wire.
    pub(super) moved: [u64; 2],
}

#[derive(Clone)]
pub(super) struct FakeNic {
    mac: [u8; 6],
    accepts: Accepts,
    card: Rc<RefCell<FakeCard>>,
}

impl FakeNic {
    pub(super) fn new(mac: [u8; 6]) -> Self {
        let card = FakeCard {
            received: VecDeque::new(),
            sent: VecDeque::new(),
            is_awaited: false,
            stuck: false,
            link_down: false,
            stopped: false,
            large: 0,
            moved: [0; 2],
        };
        Self { mac, accepts: Accepts::default(), card: Rc::new(RefCell::new(card)) }
    }

    /// A card that cuts large segments.
    pub(super) fn cutting(mac: [u8; 6]) -> Self {
        Self { accepts: Accepts { checksum: true, tso4: true, tso6: true }, ..Self::new(mac) }
    }

    pub(super) fn card(&self) -> RefMut<'_, FakeCard> {
        self.card.borrow_mut()
    }

    pub(super) const fn address(&self) -> [u8; 6] {
        self.mac
    }
}

impl FakeNic {
    /// Whether it interrupts because it has room again.
    pub(super) fn has_room_again(&self) -> bool {
        let mut card = self.card();
        let room = !card.stuck && card.sent.len() < TRANSMIT_FRAMES;
        room && core::mem::take(&mut card.is_awaited)
    }
}

impl Nic for FakeNic {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn mtu(&self) -> u16 {
        1500
    }

    fn accepts(&self) -> Accepts {
        self.accepts
    }

    fn receive(&mut self, target: &mut [u8]) -> Option<(usize, Offload)> {
        let frame = self.card().received.pop_front()?;
        target[..frame.len()].copy_from_slice(&frame);
        let length = frame.len();
        uncounted(|| drop(frame));
        Some((length, Offload::None))
    }

    fn can_transmit(&mut self) -> bool {
        let mut card = self.card();
        let room = !card.stuck && card.sent.len() < TRANSMIT_FRAMES;
        card.is_awaited |= !room;
        room
    }

    fn transmit(&mut self, frame: &[u8], offload: &Offload) -> bool {
        assert!(offload.accepted_by(self.accepts), "this card does not take that over");
        let room = self.can_transmit();
        if room {
            let mut card = self.card();
            card.large += u64::from(matches!(offload, Offload::Segments(..)));
            uncounted(|| {
                offload.lower(frame, Accepts::default(), &mut alloc::vec![0; frame.len()], |piece, _| {
                    let [frames, octets] = &mut card.moved;
                    (*frames, *octets) = (*frames + 1, *octets + piece.len() as u64);
                    card.sent.push_back(piece.to_vec());
                });
            });
        }
        room
    }

    fn is_link_up(&self) -> bool {
        !self.card().link_down
    }

    fn is_broken(&self) -> bool {
        self.card().stopped
    }

    fn stop(&mut self) {
        self.card().stopped = true;
    }

    fn flush(&mut self) {}

    fn arm(&mut self) -> bool {
        !self.card().received.is_empty()
    }
}
