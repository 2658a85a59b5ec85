//! The wires of cards for disks: the targets are on each, nobody else.

use alloc::vec;
use alloc::vec::Vec;

use netstack::offload::Offload;

use super::world::{World, collect_whole};

impl World {
    /// Delivers what the node sent by its cards for disks.
    pub(super) fn carry_storage(&mut self) -> bool {
        let mut moved = false;
        for (card, nic) in (1..).zip(self.storage_nics.clone()) {
            loop {
                let frame = {
                    let mut queue = nic.card();
                    if queue.stuck { None } else { queue.sent.pop_front() }
                };
                let Some(frame) = frame else { break };
                moved = true;
                if !self.cut.contains(&card) {
                    self.carry_on(card, &frame);
                }
            }
        }
        moved
    }

    fn carry_on(&mut self, card: usize, frame: &[u8]) {
        assert_eq!(frame[6..12], self.storage_nics[card - 1].address(), "sent as somebody else");
        let to: [u8; 6] = frame[..6].try_into().unwrap();
        let all = to[0] & 1 == 1;
        if let Some(second) = self.iscsi.as_mut().and_then(|target| target.second.as_mut())
            && (all || to == second.mac().0)
            && card == 1
        {
            second.receive(frame, &Offload::None, self.now_ns);
        }
        let mut answers = Vec::new();
        if self.dhcp {
            answers.extend(super::dhcp::answer(frame, u8::try_from(card).unwrap()));
        }
        let aoe = frame[12..14] == [0x88, 0xa2];
        for target in self.aoe.iter_mut().filter(|_| aoe) {
            // Its station there is another one.
            let mac = target.mac;
            target.mac[3] = u8::try_from(card).unwrap();
            if all || to == target.mac {
                answers.extend(target.answer(frame));
            }
            target.mac = mac;
        }
        for answer in answers {
            self.deliver_to(card, answer);
        }
    }

    /// Puts a frame on the wire of a card for disks.
    pub(super) fn deliver_to(&mut self, card: usize, frame: Vec<u8>) {
        if self.to_storage.len() < 4096 {
            self.to_storage.push(frame.clone());
        }
        if !self.cut.contains(&card) {
            self.storage_nics[card - 1].card().received.push_back(frame);
        }
    }

    /// What targets have to say there.
    pub(super) fn collect_storage(&mut self) -> bool {
        let mut frames = vec![];
        if let Some(second) = self.iscsi.as_mut().and_then(|target| target.second.as_mut()) {
            collect_whole(second, &mut frames);
        }
        let moved = !frames.is_empty();
        for frame in frames {
            self.deliver_to(1, frame);
        }
        moved
    }
}
