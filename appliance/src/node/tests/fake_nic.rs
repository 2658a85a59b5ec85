//! A network card of two queues, shared with the world on its other side.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{RefCell, RefMut};

use netstack::offload::{Accepts, Offload};

use crate::node::nic::Nic;

/// Frames the card takes before the world fetches them.
const TRANSMIT_FRAMES: usize = 128;

pub(super) struct FakeCard {
    pub(super) received: VecDeque<Vec<u8>>,
    pub(super) sent: VecDeque<Vec<u8>>,
    /// Nothing leaves, as with the cable out.
    pub(super) stuck: bool,
    /// It says that its link is down.
    pub(super) link_down: bool,
    /// It was told to stop.
    pub(super) stopped: bool,
}

#[derive(Clone)]
pub(super) struct FakeNic {
    mac: [u8; 6],
    card: Rc<RefCell<FakeCard>>,
}

impl FakeNic {
    pub(super) fn new(mac: [u8; 6]) -> Self {
        let card = FakeCard {
            received: VecDeque::new(),
            sent: VecDeque::new(),
            stuck: false,
            link_down: false,
            stopped: false,
        };
        Self { mac, card: Rc::new(RefCell::new(card)) }
    }

    pub(super) fn card(&self) -> RefMut<'_, FakeCard> {
        self.card.borrow_mut()
    }

    pub(super) const fn address(&self) -> [u8; 6] {
        self.mac
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
        Accepts::default()
    }

    fn receive(&mut self, target: &mut [u8]) -> Option<(usize, Offload)> {
        let frame = self.card().received.pop_front()?;
        target[..frame.len()].copy_from_slice(&frame);
        Some((frame.len(), Offload::None))
    }

    fn can_transmit(&mut self) -> bool {
        let card = self.card();
        !card.stuck && card.sent.len() < TRANSMIT_FRAMES
    }

    fn transmit(&mut self, frame: &[u8], offload: &Offload) -> bool {
        assert_eq!(*offload, Offload::None, "this card takes nothing over");
        let room = self.can_transmit();
        if room {
            self.card().sent.push_back(frame.to_vec());
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
