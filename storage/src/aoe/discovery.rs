//! Finds targets by broadcasting a configuration query.
//!
//! Spec: AoE r11, section 3.2.

use alloc::vec::Vec;

use super::wire::{BROADCAST, Body, Config, Frame, MacAddress, SHELF_ALL, SLOT_ALL, TargetAddress};
use crate::limits::{AOE_CONFIG_STRING_MAX, AOE_DISCOVERED_MAX};
use crate::random::Random;

/// A target that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovered {
    /// Its name.
    pub target: TargetAddress,
    /// The MAC address it answered from.
    pub mac: MacAddress,
    /// Frames it can queue.
    pub buffers: u16,
    /// Most sectors per frame it takes.
    pub sectors_max: u8,
    /// Its configuration string.
    pub config: Vec<u8>,
}

/// Which targets are to answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    /// All.
    #[default]
    All,
    /// Those whose configuration string is this one.
    Config(Vec<u8>),
    /// Those whose configuration string begins so.
    ConfigPrefix(Vec<u8>),
}

/// One search: query a few times, collect answers.
#[derive(Debug)]
pub struct Discovery {
    source: MacAddress,
    tag: u32,
    queries_left: u32,
    next_ns: u64,
    filter: Filter,
    found: Vec<Discovered>,
    is_cut: bool,
}

const QUERIES: u32 = 3;
const QUERY_INTERVAL_NS: u64 = 300_000_000;

impl Discovery {
    /// A search from MAC address `source`; `seed` is unpredictable.
    #[must_use]
    pub fn new(source: MacAddress, seed: u64, now_ns: u64) -> Self {
        let tag = Random::new(seed).next_u32();
        let filter = Filter::All;
        Self { source, tag, queries_left: QUERIES, next_ns: now_ns, filter, found: Vec::new(), is_cut: false }
    }

    /// Asks only some of the targets.
    #[must_use]
    pub fn filtered(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// The next query, when due.
    pub fn transmit(&mut self, buffer: &mut [u8], now_ns: u64) -> Option<usize> {
        if self.queries_left == 0 || now_ns < self.next_ns {
            return None;
        }
        self.queries_left -= 1;
        self.next_ns = now_ns.saturating_add(QUERY_INTERVAL_NS);
        let config = match &self.filter {
            Filter::All => Config::READ,
            Filter::Config(string) => Config { command: 1, string, ..Config::READ },
            Filter::ConfigPrefix(string) => Config { command: 2, string, ..Config::READ },
        };
        Frame {
            destination: BROADCAST,
            source: self.source,
            response: false,
            error: None,
            target: TargetAddress { shelf: SHELF_ALL, slot: SLOT_ALL },
            tag: self.tag,
            body: Body::Config(config),
        }
        .emit(buffer)
    }

    /// When the next query is due, or the search ends.
    #[must_use]
    pub fn next_deadline(&self) -> u64 {
        self.next_ns
    }

    /// Whether all queries have been sent and waited for.
    #[must_use]
    pub fn is_finished(&self, now_ns: u64) -> bool {
        self.queries_left == 0 && now_ns >= self.next_ns
    }

    /// Takes a received frame; true when it was an answer to this search.
    pub fn receive(&mut self, frame: &[u8]) -> bool {
        let Some(frame) = Frame::parse(frame) else { return false };
        let Body::Config(config) = frame.body else { return false };
        let answers = frame.response
            && frame.error.is_none()
            && frame.tag == self.tag
            && (frame.destination == self.source || frame.destination == BROADCAST)
            && frame.target.shelf != SHELF_ALL
            && frame.target.slot != SLOT_ALL
            && frame.source.first().is_some_and(|octet| octet & 1 == 0);
        if !answers {
            return false;
        }
        let known = self.found.iter().any(|it| it.target == frame.target && it.mac == frame.source);
        if !known && self.found.len() >= AOE_DISCOVERED_MAX {
            self.is_cut = true;
        } else if !known {
            self.found.push(Discovered {
                target: frame.target,
                mac: frame.source,
                buffers: config.buffers,
                sectors_max: config.sectors_max,
                config: config.string.iter().copied().take(AOE_CONFIG_STRING_MAX).collect(),
            });
        }
        true
    }

    /// The MAC address it is sent from.
    #[must_use]
    pub const fn source(&self) -> MacAddress {
        self.source
    }

    /// Whether more answered than are remembered.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Every target and path found so far.
    #[must_use]
    pub fn found(&self) -> &[Discovered] {
        &self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const SOURCE: MacAddress = [2, 0, 0, 0, 0, 1];

    /// An answer to the search with this tag, of a target at a MAC address.
    fn answer(tag: u32, shelf: u16, slot: u8, mac: u8) -> Vec<u8> {
        let config = Config { string: &[b'x'; AOE_CONFIG_STRING_MAX], ..Config::READ };
        let frame = Frame {
            destination: SOURCE,
            source: [2, 0, 0, 0, 9, mac],
            response: true,
            error: None,
            target: TargetAddress { shelf, slot },
            tag,
            body: Body::Config(config),
        };
        let mut buffer = vec![0; 1_500];
        let length = frame.emit(&mut buffer).unwrap();
        buffer.truncate(length);
        buffer
    }

    #[test]
    fn a_flood_of_answers_is_truncated() {
        let mut search = Discovery::new(SOURCE, 7, 0);
        let tag = search.tag;
        for shelf in 0..u16::try_from(AOE_DISCOVERED_MAX).unwrap() {
            assert!(search.receive(&answer(tag, shelf, 1, 0)));
        }
        // The same ones again are none of them left out.
        assert!(search.receive(&answer(tag, 1, 1, 0)));
        assert!(search.found().len() == AOE_DISCOVERED_MAX && !search.is_cut());
        let first = search.found()[0].clone();
        for shelf in 1_000..1_200 {
            for slot in 0..250 {
                search.receive(&answer(tag, shelf, slot, 0));
            }
        }
        assert_eq!((search.found().len(), search.is_cut()), (AOE_DISCOVERED_MAX, true));
        assert_eq!((&search.found()[0], first.config.len()), (&first, AOE_CONFIG_STRING_MAX));
        // Answers to another search are none.
        assert!(!search.receive(&answer(tag.wrapping_add(1), 1, 0, 0)));
    }
}
