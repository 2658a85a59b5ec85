//! ARP: which MAC address has an IP address on the link: asked when needed, kept until it is
//! shown to be gone, whatever others claim meanwhile.
//!
//! A claim of another station, or frames that stay unanswered, only make the node ask the
//! known station whether it is still there. When it has not answered three times, a
//! question to all decides.
//!
//! Spec: RFC 826, RFC 1122 sections 2.3.2.1 and 2.3.2.2; after RFC 4861 section 7.3.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use super::own_frame::OwnFrame;
use crate::frame::MacAddress;
use crate::limits::{NEIGHBOUR_FRAMES_MAX, NEIGHBOUR_MOVES_MAX, NEIGHBOURS_MAX, NEIGHBOURS_PARKED_BYTES_MAX};
use heapless::Deque;

/// Between two questions to the station that is known; three of them are one second.
const PROBE_NS: u64 = 333_000_000;
/// Between two questions to all (RFC 1122, 2.3.2.1).
const ASK_NS: u64 = 1_000_000_000;
/// Questions of a kind before the next step.
const QUESTIONS: u8 = 3;
/// Frames without an answer, and since when, that make the node ask.
const UNANSWERED_FRAMES: u8 = 3;
const UNANSWERED_NS: u64 = 1_000_000_000;
/// A station that has just answered is not asked again for so long, whatever is claimed.
const CONFIRMED_NS: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The station is there, as far as is known.
    Known,
    /// It is asked whether it is.
    Probing { asked: u8, next_ns: u64 },
    /// All are asked.
    Asking { asked: u8, next_ns: u64 },
    /// No answer; asked again when a frame is to be sent.
    Silent { since_ns: u64 },
}

#[derive(Debug)]
struct Neighbour {
    address: Ipv4Addr,
    /// Where it was when it last answered.
    mac: Option<MacAddress>,
    phase: Phase,
    /// A connection goes there: it is not evicted.
    in_use: bool,
    used_ns: u64,
    confirmed_ns: u64,
    unanswered: u8,
    unanswered_since_ns: u64,
    parked: Vec<OwnFrame>,
}

/// An address that moved to another station.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The address.
    pub address: Ipv4Addr,
    /// Where it was.
    pub from: MacAddress,
    /// Where it is.
    pub to: MacAddress,
}

/// A question that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) target: Ipv4Addr,
    /// The station that may still have it, or all.
    pub(super) to: MacAddress,
}

/// What becomes of a frame.
#[derive(Debug)]
pub(super) enum Sent {
    /// It is for this station.
    To(MacAddress, OwnFrame),
    /// It waits for an answer.
    Parked,
    /// There is no room; here it is again.
    Dropped(OwnFrame),
}

/// All neighbours that the node talks to.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    table: Vec<Neighbour>,
    parked_bytes: usize,
    moves: Deque<Moved, NEIGHBOUR_MOVES_MAX>,
}

impl Neighbours {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// The network is another one.
    pub(super) fn clear(&mut self) {
        self.table.clear();
        self.parked_bytes = 0;
    }

    fn find(&mut self, address: Ipv4Addr) -> Option<&mut Neighbour> {
        self.table.iter_mut().find(|it| it.address == address)
    }

    /// Where an address is, as far as is known.
    pub(super) fn station(&self, address: Ipv4Addr) -> Option<MacAddress> {
        let found = self.table.iter().find(|it| it.address == address)?;
        found.mac.filter(|_| matches!(found.phase, Phase::Known | Phase::Probing { .. }))
    }

    /// Those that have answered, and where they are.
    pub(super) fn stations(&self) -> impl Iterator<Item = (Ipv4Addr, MacAddress)> {
        self.table.iter().filter_map(|it| Some((it.address, it.mac?)))
    }

    /// Asks for an address before there is anything to send to it.
    pub(super) fn expect(&mut self, address: Ipv4Addr, now_ns: u64) {
        if self.find(address).is_none() {
            self.add(address, now_ns);
        }
    }

    /// Sends a frame to an address, or begins to ask for it.
    pub(super) fn send(&mut self, address: Ipv4Addr, frame: OwnFrame, now_ns: u64) -> Sent {
        let parked_bytes = self.parked_bytes;
        if self.find(address).is_none() && !self.add(address, now_ns) {
            return Sent::Dropped(frame);
        }
        let Some(found) = self.find(address) else { return Sent::Dropped(frame) };
        found.used_ns = now_ns;
        if let Phase::Silent { since_ns } = found.phase {
            let next_ns = since_ns.saturating_add(ASK_NS).max(now_ns);
            found.phase = Phase::Asking { asked: 0, next_ns };
        }
        // Where it was is as good as any while all are asked: a link may have been down.
        if let Some(mac) = found.mac {
            if found.unanswered == 0 {
                found.unanswered_since_ns = now_ns;
            }
            found.unanswered = found.unanswered.saturating_add(1);
            return Sent::To(mac, frame);
        }
        let bytes = frame.held_bytes();
        if found.parked.len() >= NEIGHBOUR_FRAMES_MAX || parked_bytes + bytes > NEIGHBOURS_PARKED_BYTES_MAX {
            return Sent::Dropped(frame);
        }
        found.parked.push(frame);
        self.parked_bytes += bytes;
        Sent::Parked
    }

    /// Makes an entry; false when all others are in use.
    fn add(&mut self, address: Ipv4Addr, now_ns: u64) -> bool {
        if self.table.len() >= NEIGHBOURS_MAX {
            let idle = self.table.iter().enumerate().filter(|(_, it)| !it.in_use);
            // First those that never answered, then those that were used longest ago.
            let Some((index, _)) = idle.min_by_key(|(_, it)| (it.mac.is_some(), it.used_ns)) else {
                return false;
            };
            let evicted = self.table.swap_remove(index);
            self.unpark(&evicted.parked);
        }
        self.table.push(Neighbour {
            address,
            mac: None,
            phase: Phase::Asking { asked: 0, next_ns: now_ns },
            in_use: false,
            used_ns: now_ns,
            confirmed_ns: 0,
            unanswered: 0,
            unanswered_since_ns: 0,
            parked: Vec::new(),
        });
        true
    }

    fn unpark(&mut self, frames: &[OwnFrame]) {
        let bytes: usize = frames.iter().map(OwnFrame::held_bytes).sum();
        self.parked_bytes = self.parked_bytes.saturating_sub(bytes);
    }

    /// Marks the addresses that connections lead to.
    pub(super) fn mark_in_use(&mut self, in_use: impl Fn(Ipv4Addr) -> bool) {
        self.table.iter_mut().for_each(|it| it.in_use = in_use(it.address));
    }

    /// A packet arrived from an address, by a station.
    pub(super) fn heard(&mut self, address: Ipv4Addr, mac: MacAddress) {
        if let Some(found) = self.find(address)
            && found.mac == Some(mac)
        {
            found.unanswered = 0;
            found.phase = Phase::Known;
        }
    }

    /// A station claims an address without being asked. The known one is asked whether
    /// it is still there.
    pub(super) fn claimed(&mut self, address: Ipv4Addr, mac: MacAddress, now_ns: u64) {
        if let Some(found) = self.find(address)
            && found.phase == Phase::Known
            && found.mac != Some(mac)
            && now_ns.saturating_sub(found.confirmed_ns) >= CONFIRMED_NS
        {
            found.phase = Phase::Probing { asked: 0, next_ns: now_ns };
        }
    }

    /// A station answers a question; frames that waited for it.
    pub(super) fn answered(&mut self, address: Ipv4Addr, mac: MacAddress, now_ns: u64) -> Vec<OwnFrame> {
        let Some(found) = self.find(address) else { return Vec::new() };
        let asked = match found.phase {
            Phase::Probing { asked, .. } => asked > 0 && found.mac == Some(mac),
            Phase::Asking { asked, .. } => asked > 0,
            Phase::Known | Phase::Silent { .. } => false,
        };
        if !asked {
            // No station was asked, or another one.
            self.claimed(address, mac, now_ns);
            return Vec::new();
        }
        found.phase = Phase::Known;
        (found.unanswered, found.confirmed_ns) = (0, now_ns);
        let before = found.mac.replace(mac);
        let frames = core::mem::take(&mut found.parked);
        self.unpark(&frames);
        if let Some(from) = before.filter(|before| *before != mac) {
            // Who does not ask hears of the first ones.
            let _ = self.moves.push_back(Moved { address, from, to: mac });
        }
        frames
    }

    /// The next address that moved.
    pub(super) fn next_moved(&mut self) -> Option<Moved> {
        self.moves.pop_front()
    }

    /// The next question that is due.
    pub(super) fn next_question(&mut self, now_ns: u64) -> Option<Question> {
        let mut given_up = Vec::new();
        let question = self.table.iter_mut().find_map(|it| it.question(now_ns, &mut given_up));
        self.unpark(&given_up);
        question
    }

    /// When the next question may be due.
    pub(super) fn next_deadline(&self) -> Option<u64> {
        self.table.iter().filter_map(Neighbour::deadline).min()
    }
}

impl Neighbour {
    const fn is_unanswered(&self) -> bool {
        self.unanswered >= UNANSWERED_FRAMES
    }

    fn deadline(&self) -> Option<u64> {
        match self.phase {
            Phase::Known => {
                self.is_unanswered().then_some(self.unanswered_since_ns.saturating_add(UNANSWERED_NS))
            }
            Phase::Probing { next_ns, .. } | Phase::Asking { next_ns, .. } => Some(next_ns),
            Phase::Silent { .. } => None,
        }
    }

    fn question(&mut self, now_ns: u64, given_up: &mut Vec<OwnFrame>) -> Option<Question> {
        if now_ns < self.deadline()? {
            return None;
        }
        if self.phase == Phase::Known {
            self.phase = Phase::Probing { asked: 0, next_ns: now_ns };
        }
        if let (Phase::Probing { asked, .. }, Some(to)) = (self.phase, self.mac)
            && asked < QUESTIONS
        {
            self.phase = Phase::Probing { asked: asked + 1, next_ns: now_ns.saturating_add(PROBE_NS) };
            return Some(Question { target: self.address, to });
        }
        let asked = if let Phase::Asking { asked, .. } = self.phase { asked } else { 0 };
        if asked >= QUESTIONS {
            self.phase = Phase::Silent { since_ns: now_ns };
            given_up.append(&mut self.parked);
            return None;
        }
        self.phase = Phase::Asking { asked: asked + 1, next_ns: now_ns.saturating_add(ASK_NS) };
        Some(Question { target: self.address, to: MacAddress::BROADCAST })
    }
}

#[cfg(test)]
mod tests;
