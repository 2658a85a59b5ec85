//! A path to the target: one of our MAC addresses and one of its.
//!
//! Spec: RFC 6298 (retransmission timer), RFC 5681 (window).

use alloc::format;
use alloc::string::String;

use super::{MacAddress, SECTORS_FALLBACK, Source};
use crate::block::Stage;
use crate::histogram::Histogram;
use crate::limits::{AOE_FRAMES_MAX, BACKOFF_NS_MAX};
use crate::random::Random;

const RTO_FIRST_NS: u64 = 100_000_000;
const RTO_NS_MIN: u64 = 10_000_000;
/// Longest first wait that frames which were sent more than once bring about.
const BACKED_OFF_NS_MAX: u64 = 200_000_000;
const WINDOW_FIRST: u32 = 4;
/// First pause until a frame size that failed is tried again; it doubles.
const REPROBE_FIRST_NS: u64 = 1_000_000_000;
const REPROBE_NS_MAX: u64 = 60_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Query,
    Identify,
    /// Reserving the target for us.
    Claim,
    Ready,
    /// It leads to another disk, or to none; asked again after a pause.
    Refused,
}

/// The search for the largest frame that passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// What the target and our Ethernet would take.
    pub(super) limit: u8,
    /// The largest that passed.
    pub(super) good: u8,
    /// The smallest that did not.
    pub(super) bad: u8,
    pub(super) again_ns: u64,
    pause_ns: u64,
}

impl Sizes {
    const fn new() -> Self {
        Self { limit: 1, good: 1, bad: 2, again_ns: u64::MAX, pause_ns: REPROBE_FIRST_NS }
    }

    /// A new limit: small frames pass, everything else is to be seen.
    pub(super) fn set_limit(&mut self, limit: u8) {
        if limit != self.limit {
            let good = limit.min(SECTORS_FALLBACK);
            *self = Self { limit, good, bad: limit.saturating_add(1), ..Self::new() };
        }
    }

    /// The size to try next: the limit first, then halves.
    pub(super) fn candidate(&mut self, now_ns: u64) -> Option<u8> {
        if self.again_ns <= now_ns {
            self.again_ns = u64::MAX;
            self.bad = self.limit.saturating_add(1);
        }
        if self.good.saturating_add(1) >= self.bad {
            return None;
        }
        Some(if self.bad > self.limit { self.limit } else { u8::midpoint(self.good, self.bad) })
    }

    pub(super) fn passed(&mut self, sectors: u8) {
        self.good = self.good.max(sectors);
        self.bad = self.bad.max(self.good.saturating_add(1));
        if self.good == self.limit {
            self.pause_ns = REPROBE_FIRST_NS;
        }
    }

    pub(super) fn failed(&mut self, sectors: u8, now_ns: u64) {
        self.bad = self.bad.min(sectors.max(SECTORS_FALLBACK.saturating_add(1)));
        self.good = self.good.min(self.bad.saturating_sub(1));
        self.try_again_later(now_ns);
    }

    /// What passed once passes no more.
    pub(super) fn fall_back(&mut self, now_ns: u64) {
        self.good = self.limit.min(SECTORS_FALLBACK);
        self.bad = self.good.saturating_add(1);
        self.try_again_later(now_ns);
    }

    /// The path carries less than the target advertises.
    pub(super) fn fell_back(&self) -> bool {
        self.good < self.limit && self.good.saturating_add(1) >= self.bad
    }

    fn try_again_later(&mut self, now_ns: u64) {
        if self.again_ns == u64::MAX {
            self.again_ns = now_ns.saturating_add(self.pause_ns);
            self.pause_ns = self.pause_ns.saturating_mul(2).min(REPROBE_NS_MAX);
        }
    }
}

#[derive(Debug)]
pub(super) struct Path {
    pub(super) source: MacAddress,
    /// Largest Ethernet payload of our network.
    pub(super) mtu: usize,
    pub(super) mac: Option<MacAddress>,
    pub(super) phase: Phase,
    /// The disk is to be identified once more.
    pub(super) recheck: bool,
    pub(super) sizes: Sizes,
    pub(super) buffers: u16,
    pub(super) firmware: u16,
    /// Frames in flight.
    pub(super) in_flight: u32,
    /// Frames allowed in flight, in sixteenths.
    pub(super) window: u32,
    threshold: u32,
    halved_ns: u64,
    pub(super) srtt_ns: Option<u64>,
    rttvar_ns: u64,
    /// How long the last frame that was sent more than once waited for its answer. It may
    /// answer any of the copies: new frames are given twice as long until one of them
    /// tells.
    backed_off_ns: u64,
    pub(super) heard_ns: u64,
    pub(super) lost_since_ns: Option<u64>,
    /// The operator took it out of use.
    pub(super) disabled: bool,
    pub(super) last_error: Option<&'static str>,
    pub(super) latency: Histogram,
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
    pub(super) retries: u64,
    pub(super) stalls: u64,
}

impl Path {
    pub(super) fn new(source: &Source, mac: Option<MacAddress>) -> Self {
        Self {
            source: source.mac,
            mtu: source.mtu,
            mac,
            phase: Phase::Query,
            recheck: false,
            sizes: Sizes::new(),
            buffers: 1,
            firmware: 0,
            in_flight: 0,
            window: WINDOW_FIRST * 16,
            threshold: u32::MAX,
            halved_ns: 0,
            srtt_ns: None,
            rttvar_ns: 0,
            backed_off_ns: 0,
            heard_ns: 0,
            lost_since_ns: None,
            disabled: false,
            last_error: None,
            latency: Histogram::default(),
            bytes_read: 0,
            bytes_written: 0,
            retries: 0,
            stalls: 0,
        }
    }

    /// It serves, as far as is known.
    pub(super) fn is_live(&self) -> bool {
        self.phase == Phase::Ready && self.lost_since_ns.is_none() && !self.disabled
    }

    pub(super) fn has_room(&self) -> bool {
        self.in_flight < self.window / 16
    }

    pub(super) fn stage(&self) -> Stage {
        match self.phase {
            Phase::Ready => Stage::Ready,
            _ if self.srtt_ns.is_some() => Stage::Connected,
            _ => Stage::Silent,
        }
    }

    pub(super) fn name(&self) -> String {
        let mac = self.mac.map_or_else(|| String::from("any"), mac_text);
        format!("{} > {mac}", mac_text(self.source))
    }

    /// RFC 6298 section 2.
    pub(super) fn sample(&mut self, sample_ns: u64) {
        let sample = sample_ns.max(1);
        self.backed_off_ns = 0;
        match self.srtt_ns {
            None => {
                self.srtt_ns = Some(sample);
                self.rttvar_ns = sample / 2;
            }
            Some(srtt) => {
                let deviation = srtt.abs_diff(sample);
                self.rttvar_ns = (self.rttvar_ns.saturating_mul(3).saturating_add(deviation)) / 4;
                self.srtt_ns = Some((srtt.saturating_mul(7).saturating_add(sample)) / 8);
            }
        }
    }

    /// A frame that was sent more than once was answered (RFC 6298, 5.7: the longer wait
    /// holds until a frame that was sent once tells the time).
    pub(super) fn back_off(&mut self, waited_ns: u64) {
        self.backed_off_ns = waited_ns.saturating_mul(2).min(BACKED_OFF_NS_MAX);
    }

    /// A frame was answered: the window opens, up to what the target can queue.
    pub(super) fn grow(&mut self) {
        let most = u32::from(self.buffers.min(AOE_FRAMES_MAX)) * 16;
        let growth = if self.window < self.threshold { 16 } else { 256 / self.window.max(16) };
        self.window = self.window.saturating_add(growth).min(most).max(16);
    }

    /// A frame was lost: half the window, once per round trip.
    pub(super) fn shrink(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.halved_ns) > self.srtt_ns.unwrap_or(RTO_FIRST_NS) {
            self.halved_ns = now_ns;
            self.window = (self.window / 2).max(16);
            self.threshold = self.window;
        }
    }

    fn rto_ns(&self) -> u64 {
        self.srtt_ns.map_or(RTO_FIRST_NS, |srtt| {
            srtt.saturating_add(self.rttvar_ns.saturating_mul(4)).max(RTO_NS_MIN)
        })
    }

    /// How long to wait for an answer after so many tries.
    pub(super) fn patience_ns(&self, tries: u32, random: &mut Random) -> u64 {
        let doublings = tries.saturating_sub(1).min(16);
        let pause = self.rto_ns().saturating_mul(1 << doublings).min(BACKOFF_NS_MAX);
        if tries > 1 { random.jitter(pause) } else { pause.max(self.backed_off_ns) }
    }
}

/// Digit by digit: who asks for all disks asks for hundreds of them.
pub(super) fn mac_text(mac: MacAddress) -> String {
    let mut text = String::with_capacity(17);
    for octet in mac {
        if !text.is_empty() {
            text.push(':');
        }
        text.extend(
            [octet >> 4, octet & 15].map(|digit| char::from_digit(u32::from(digit), 16).unwrap_or('0')),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_size_that_passes_is_found() {
        for limit in 1..=17 {
            for passes in limit.min(SECTORS_FALLBACK)..=limit {
                let mut sizes = Sizes::new();
                sizes.set_limit(limit);
                let mut steps = 0;
                while let Some(size) = sizes.candidate(0) {
                    assert!(size > sizes.good && size <= limit);
                    if size <= passes {
                        sizes.passed(size)
                    } else {
                        sizes.failed(size, 0)
                    }
                    steps += 1;
                }
                assert_eq!(sizes.good, passes, "limit {limit}");
                assert!(steps <= 5, "{steps} steps");
                assert_eq!(sizes.again_ns == u64::MAX, passes == limit);
                assert_eq!(sizes.candidate(REPROBE_FIRST_NS).is_some(), passes < limit);
            }
        }
    }
}
