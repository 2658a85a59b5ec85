//! A session with one AoE target.
//!
//! Spec: AoE r11, sections 3.1 and 3.2; RFC 6298 for the retransmission timer.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::wire::{
    ATA_DATA_OFFSET, ATA_OVERHEAD_BYTES, AoeError, Ata, BROADCAST, Body, Config, Frame, Identity, MacAddress,
    TargetAddress, ata,
};
use crate::block::{
    BlockError, Completion, Counters, Operation, Payload, Request, RequestId, SECTOR_BYTES, SubmitError,
    VolumeState, VolumeStatus,
};
use crate::limits::{
    AOE_FRAME_LIFETIME_NS, AOE_FRAMES_MAX, AOE_RETIRED_TAGS_MAX, AOE_STALE_MAX, BACKOFF_NS_MAX, REQUESTS_MAX,
};
use crate::order::Order;
use crate::random::Random;

mod answers;
mod emit;
mod status;

const RTO_FIRST_NS: u64 = 100_000_000;
const RTO_NS_MIN: u64 = 10_000_000;
/// Tries after which the target counts as lost and the volume as stalled.
const STALL_TRIES: u32 = 3;
/// Silence of the target that, with so many tries, is a stall and not mere loss.
const STALL_SILENCE_NS: u64 = 1_000_000_000;
/// Tries after which a frame size that never worked is given up.
const FALLBACK_TRIES: u32 = 3;
/// The size every Ethernet carries: 1024 octets.
const SECTORS_FALLBACK: u8 = 2;
const WINDOW_FIRST: u32 = 4;

/// What a session needs to know.
#[derive(Clone, Copy, Debug)]
pub struct TargetConfig {
    /// The target's name.
    pub target: TargetAddress,
    /// The station we send from.
    pub source: MacAddress,
    /// The only station believed; without it the first one that answers.
    pub mac: Option<MacAddress>,
    /// Largest Ethernet payload of the path.
    pub mtu: usize,
    /// Unpredictable.
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Query,
    Identify,
    Ready,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Query,
    Identify,
    Flush { id: RequestId },
    Data { id: RequestId, write: bool, lba: u64, first: u32, sectors: u8 },
}

/// A frame that awaits its answer.
#[derive(Debug)]
struct Slot {
    tag: u32,
    kind: Kind,
    first_ns: u64,
    sent_ns: u64,
    deadline_ns: u64,
    tries: u32,
    /// The tag has been used for this copy only: its answer times the path.
    timed: bool,
    /// More than one copy of it was sent.
    copied: bool,
}

/// A started request.
#[derive(Debug)]
struct Active {
    request: Request,
    /// Ranges (first sector, count) not yet in a frame.
    todo: VecDeque<(u32, u32)>,
    unacknowledged: u32,
    in_flight: u32,
    failed: Option<BlockError>,
}

/// A range that a wandering copy of a finished write could still overwrite.
#[derive(Debug)]
struct Stale {
    first: u64,
    end: u64,
    expires_ns: u64,
}

/// The session.
pub struct Target {
    config: TargetConfig,
    phase: Phase,
    mac: Option<MacAddress>,
    capacity: Option<u64>,
    buffers: u16,
    firmware: u16,
    sectors_per_frame: u8,
    size_confirmed: bool,
    fell_back: bool,
    plain_flush: bool,
    order: Order,
    active: Vec<Active>,
    slots: Vec<Slot>,
    stale: Vec<Stale>,
    writes_held_until_ns: u64,
    retired: VecDeque<(u32, u64)>,
    completions: VecDeque<Completion>,
    random: Random,
    /// Frames allowed in flight, in sixteenths.
    window: u32,
    threshold: u32,
    halved_ns: u64,
    srtt_ns: Option<u64>,
    rttvar_ns: u64,
    stalled_since_ns: Option<u64>,
    counters: Counters,
    last_error: Option<&'static str>,
    refused: bool,
    heard_ns: u64,
    now_ns: u64,
}

impl Target {
    /// A session that will look for its target.
    #[must_use]
    pub fn new(config: TargetConfig) -> Self {
        Self {
            config,
            phase: Phase::Query,
            mac: config.mac,
            capacity: None,
            buffers: 1,
            firmware: 0,
            sectors_per_frame: SECTORS_FALLBACK,
            size_confirmed: false,
            fell_back: false,
            plain_flush: false,
            order: Order::new(),
            active: Vec::new(),
            slots: Vec::new(),
            stale: Vec::new(),
            writes_held_until_ns: 0,
            retired: VecDeque::new(),
            completions: VecDeque::new(),
            random: Random::new(config.seed),
            window: WINDOW_FIRST * 16,
            threshold: u32::MAX,
            halved_ns: 0,
            srtt_ns: None,
            rttvar_ns: 0,
            stalled_since_ns: None,
            counters: Counters::default(),
            last_error: None,
            refused: false,
            heard_ns: 0,
            now_ns: 0,
        }
    }

    /// Accepts a request.
    ///
    /// # Errors
    /// Nothing was accepted.
    pub fn submit(&mut self, request: Request, _now_ns: u64) -> Result<(), SubmitError> {
        if self.order.len().saturating_add(self.completions.len()) >= REQUESTS_MAX {
            return Err(SubmitError::Full);
        }
        self.order.submit(request)
    }

    /// The next finished request.
    pub fn take_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    /// Requests accepted and not finished, in order of submission.
    #[must_use]
    pub fn unfinished(&self) -> Vec<Request> {
        self.order.unfinished()
    }

    fn active(&mut self, id: RequestId) -> Option<&mut Active> {
        self.active.iter_mut().find(|active| active.request.id == id)
    }

    fn fragment_done(&mut self, id: RequestId, sectors: u32, error: Option<BlockError>) {
        let Some(active) = self.active(id) else { return };
        active.in_flight = active.in_flight.saturating_sub(1);
        active.unacknowledged = active.unacknowledged.saturating_sub(sectors);
        if error.is_some() {
            active.failed = active.failed.or(error);
            active.todo.clear();
        }
        // A failed request ends only when none of its frames can still land.
        let done = active.in_flight == 0
            && active.todo.is_empty()
            && (active.failed.is_some() || active.unacknowledged == 0);
        if done {
            let result = active.failed.map_or(Ok(()), Err);
            self.active.retain(|active| active.request.id != id);
            self.complete(id, result);
        }
    }

    fn complete(&mut self, id: RequestId, result: Result<(), BlockError>) {
        let Some(request) = self.order.finish(id) else { return };
        let octets = u64::from(request.sectors).saturating_mul(SECTOR_BYTES as u64);
        match (result, request.operation) {
            (Err(_), _) => self.counters.failed = self.counters.failed.wrapping_add(1),
            (Ok(()), Operation::Read) => {
                self.counters.bytes_read = self.counters.bytes_read.wrapping_add(octets);
            }
            (Ok(()), Operation::Write) => {
                self.counters.bytes_written = self.counters.bytes_written.wrapping_add(octets);
            }
            (Ok(()), Operation::Flush) => {}
        }
        if result.is_ok() {
            self.counters.completed = self.counters.completed.wrapping_add(1);
        }
        self.completions.push_back(Completion { id, result });
    }

    /// Bookkeeping of an answered frame: round-trip time, window, stall.
    fn answered(&mut self, slot: &Slot) {
        self.retire(slot.tag);
        self.heard_ns = self.now_ns;
        if slot.timed {
            let sample = self.now_ns.saturating_sub(slot.sent_ns).max(1);
            // RFC 6298 section 2.
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
        let most = u32::from(self.buffers.min(AOE_FRAMES_MAX)) * 16;
        let growth = if self.window < self.threshold { 16 } else { 256 / self.window.max(16) };
        self.window = self.window.saturating_add(growth).min(most).max(16);
        self.refused = false;
        if self.stalled_since_ns.take().is_some() {
            // It is back: do not sit out the long pauses.
            for slot in &mut self.slots {
                slot.deadline_ns = self.now_ns;
            }
        }
    }

    fn rto_ns(&self) -> u64 {
        self.srtt_ns.map_or(RTO_FIRST_NS, |srtt| {
            srtt.saturating_add(self.rttvar_ns.saturating_mul(4)).max(RTO_NS_MIN)
        })
    }

    fn backoff_ns(&mut self, tries: u32) -> u64 {
        let doublings = tries.saturating_sub(1).min(16);
        let pause = self.rto_ns().saturating_mul(1 << doublings).min(BACKOFF_NS_MAX);
        if tries > 1 { self.random.jitter(pause) } else { pause }
    }

    fn retire(&mut self, tag: u32) {
        if self.retired.len() >= AOE_RETIRED_TAGS_MAX {
            self.retired.pop_front();
        }
        self.retired.push_back((tag, self.now_ns));
    }

    /// A tag that no frame in the network can carry.
    fn fresh_tag(&mut self) -> u32 {
        while let Some((_, retired_ns)) = self.retired.front()
            && self.now_ns.saturating_sub(*retired_ns) > AOE_FRAME_LIFETIME_NS
        {
            self.retired.pop_front();
        }
        loop {
            let tag = self.random.next_u32();
            let taken = self.slots.iter().any(|slot| slot.tag == tag)
                || self.retired.iter().any(|(retired, _)| *retired == tag);
            if !taken {
                return tag;
            }
        }
    }

    fn remember_stale(&mut self, lba: u64, sectors: u64, sent_ns: u64) {
        let expires_ns = sent_ns.saturating_add(AOE_FRAME_LIFETIME_NS);
        if self.stale.len() >= AOE_STALE_MAX {
            // Out of room: hold every write until nothing can wander any more.
            self.writes_held_until_ns = self.writes_held_until_ns.max(expires_ns);
        } else {
            self.stale.push(Stale { first: lba, end: lba.saturating_add(sectors), expires_ns });
        }
    }

    fn again(&mut self, kind: Kind) {
        self.again_after(kind, STALL_TRIES, self.now_ns);
    }

    /// Keeps a command under a new tag, to be sent after a pause.
    fn again_after(&mut self, kind: Kind, tries: u32, first_ns: u64) {
        let pause = self.backoff_ns(tries.saturating_add(1));
        let tag = self.fresh_tag();
        self.slots.push(Slot {
            tag,
            kind,
            first_ns,
            sent_ns: self.now_ns,
            deadline_ns: self.now_ns.saturating_add(pause),
            tries: tries.saturating_add(1),
            timed: false,
            copied: true,
        });
    }

    /// The next Ethernet frame to send, written to `buffer`; call until `None`.
    pub fn transmit(&mut self, buffer: &mut [u8], now_ns: u64, payload: &mut dyn Payload) -> Option<usize> {
        self.poll(now_ns);
        if let Some(index) = self.slots.iter().position(|slot| slot.deadline_ns <= now_ns) {
            return self.resend(index, buffer, payload);
        }
        let kind = self.next_command()?;
        let tag = self.fresh_tag();
        let pause = self.backoff_ns(1);
        self.slots.push(Slot {
            tag,
            kind,
            first_ns: now_ns,
            sent_ns: now_ns,
            deadline_ns: now_ns.saturating_add(pause),
            tries: 1,
            timed: true,
            copied: false,
        });
        self.emit(tag, kind, buffer, payload)
    }

    fn resend(&mut self, index: usize, buffer: &mut [u8], payload: &mut dyn Payload) -> Option<usize> {
        let now_ns = self.now_ns;
        let tries = self.slots.get(index)?.tries.saturating_add(1);
        let pause = self.backoff_ns(tries);
        let slot = self.slots.get_mut(index)?;
        slot.tries = tries;
        slot.sent_ns = now_ns;
        slot.timed = false;
        slot.copied = true;
        slot.deadline_ns = now_ns.saturating_add(pause);
        let (tag, kind, first_ns) = (slot.tag, slot.kind, slot.first_ns);
        self.counters.retries = self.counters.retries.wrapping_add(1);
        if now_ns.saturating_sub(self.halved_ns) > self.srtt_ns.unwrap_or(RTO_FIRST_NS) {
            self.halved_ns = now_ns;
            self.window = (self.window / 2).max(16);
            self.threshold = self.window;
        }
        let silent = now_ns.saturating_sub(self.heard_ns.max(first_ns)) >= STALL_SILENCE_NS;
        if tries >= STALL_TRIES && silent && self.stalled_since_ns.is_none() {
            self.stalled_since_ns = Some(self.heard_ns.max(first_ns));
            self.counters.stalls = self.counters.stalls.wrapping_add(1);
        }
        self.emit(tag, kind, buffer, payload)
    }

    /// What to send next, if the window has room.
    fn next_command(&mut self) -> Option<Kind> {
        match self.phase {
            Phase::Query => self.slots.is_empty().then_some(Kind::Query),
            Phase::Identify => self.slots.is_empty().then_some(Kind::Identify),
            Phase::Ready => {
                let in_flight = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
                if in_flight >= self.window / 16 {
                    return None;
                }
                loop {
                    if let Some(kind) = self.next_fragment() {
                        return Some(kind);
                    }
                    self.start_request()?;
                }
            }
        }
    }

    fn next_fragment(&mut self) -> Option<Kind> {
        let limit = u32::from(self.sectors_per_frame.max(1));
        let active = self.active.iter_mut().find(|active| !active.todo.is_empty())?;
        let (first, count) = active.todo.pop_front()?;
        active.in_flight = active.in_flight.saturating_add(1);
        let request = active.request;
        if request.operation == Operation::Flush {
            return Some(Kind::Flush { id: request.id });
        }
        let sectors = count.min(limit);
        if count > sectors {
            active.todo.push_front((first.saturating_add(sectors), count - sectors));
        }
        Some(Kind::Data {
            id: request.id,
            write: request.operation == Operation::Write,
            lba: request.lba.0.saturating_add(u64::from(first)),
            first,
            sectors: u8::try_from(sectors).unwrap_or(1),
        })
    }

    fn start_request(&mut self) -> Option<()> {
        let (stale, held) = (&self.stale, self.now_ns < self.writes_held_until_ns);
        let request = self.order.start_next(|request| {
            request.operation != Operation::Write
                || (!held
                    && !stale.iter().any(|stale| request.lba.0 < stale.end && stale.first < request.end()))
        })?;
        if request.operation != Operation::Flush
            && self.capacity.is_none_or(|capacity| request.end() > capacity)
        {
            self.complete(request.id, Err(BlockError::OutOfRange));
            return Some(());
        }
        self.active.push(Active {
            request,
            todo: VecDeque::from([(0, request.sectors)]),
            unacknowledged: request.sectors,
            in_flight: 0,
            failed: None,
        });
        Some(())
    }

    /// Advances timers: forgets what can no longer arrive, falls back to small frames.
    pub fn poll(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
        self.stale.retain(|stale| stale.expires_ns > now_ns);
        let too_big = !self.size_confirmed
            && self.sectors_per_frame > SECTORS_FALLBACK
            && self.slots.iter().any(|slot| {
                slot.deadline_ns <= now_ns
                    && slot.tries >= FALLBACK_TRIES
                    && matches!(slot.kind, Kind::Data { sectors, .. } if sectors > SECTORS_FALLBACK)
            });
        if too_big {
            self.fall_back();
        }
    }

    /// The path loses full frames: cut what is under way into small ones.
    fn fall_back(&mut self) {
        self.sectors_per_frame = SECTORS_FALLBACK;
        self.fell_back = true;
        self.last_error = Some("the path does not carry the advertised frame size");
        for slot in core::mem::take(&mut self.slots) {
            let Kind::Data { id, write, lba, first, sectors } = slot.kind else {
                self.slots.push(slot);
                continue;
            };
            self.retire(slot.tag);
            if write {
                self.remember_stale(lba, u64::from(sectors), slot.sent_ns);
            }
            if let Some(active) = self.active(id) {
                active.in_flight = active.in_flight.saturating_sub(1);
                if active.failed.is_none() {
                    active.todo.push_back((first, u32::from(sectors)));
                }
            }
        }
        // Requests that had failed and lost their last frame end here.
        let ended: Vec<RequestId> = self
            .active
            .iter()
            .filter(|active| active.failed.is_some() && active.in_flight == 0)
            .map(|active| active.request.id)
            .collect();
        for id in ended {
            self.fragment_done(id, 0, None);
        }
    }
}
