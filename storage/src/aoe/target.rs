//! A session with one AoE target, over one path or several.
//!
//! Spec: AoE r11, sections 3.1 to 3.4.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use log::Level;

use super::wire::{
    ATA_DATA_OFFSET, ATA_OVERHEAD_BYTES, AoeError, Ata, BROADCAST, Body, Config, Frame, Identity, MacAddress,
    Mask, Reserve, TargetAddress, ata,
};
use crate::block::{
    BlockError, Completion, Operation, PathRefusal, PathState, PathStatus, Payload, Request, SECTOR_BYTES,
    Stage, SubmitError, VolumeState, VolumeStatus,
};
use crate::limits::{
    AOE_ADMINISTRATIONS_MAX, AOE_CONFIG_STRING_MAX, AOE_FRAME_LIFETIME_NS, AOE_FRAMES_MAX, AOE_PATHS_MAX,
};
use crate::lines::Lines;
use crate::mutants::{Mutant, mutated};
use crate::random::{Marks, Random};
use crate::rate::Limits;
use crate::requests::{Fragment, Release, Requests, Shape};

mod administration;
mod answers;
mod emit;
mod path;
mod recovery;
mod status;

pub use administration::{Administration, Outcome};
use path::{Path, Phase};

/// The size every Ethernet carries: 1024 octets.
const SECTORS_FALLBACK: u8 = 2;

/// A MAC address of ours, on a network that leads to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its address.
    pub mac: MacAddress,
    /// Largest Ethernet payload of its network.
    pub mtu: usize,
}

/// What a session needs to know.
#[derive(Clone, Debug)]
pub struct TargetConfig {
    /// The target's name.
    pub target: TargetAddress,
    /// The MAC addresses we send from: one for each network that leads to the target.
    pub sources: Vec<Source>,
    /// The only MAC addresses accepted; without any, the first that answers on each
    /// network.
    pub macs: Vec<MacAddress>,
    /// Writes are refused.
    pub read_only: bool,
    /// The target is reserved for our MAC addresses before anything is written, and again
    /// whenever it comes back. A target that cannot do that is used without.
    pub reserve: bool,
    /// Frames of an earlier session with this target can arrive until then: no
    /// write starts before.
    pub hold_writes_until_ns: u64,
    /// Unpredictable.
    pub seed: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Query,
    Identify,
    Claim,
    /// A read that answers whether frames of this size pass, both ways.
    Size(u8),
    /// A read, write or flush.
    Fragment(Fragment),
    Administration(Administration),
}

impl Kind {
    /// The part of a request that it carries.
    const fn fragment(&self) -> Option<&Fragment> {
        match self {
            Self::Fragment(fragment) => Some(fragment),
            _ => None,
        }
    }
}

/// A frame that awaits its answer.
#[derive(Debug)]
struct Slot {
    tag: u32,
    kind: Kind,
    path: usize,
    first_ns: u64,
    sent_ns: u64,
    deadline_ns: u64,
    tries: u32,
    /// The tag has been used for this copy only: its answer times the path.
    timed: bool,
    /// More than one copy of it was sent.
    copied: bool,
}

/// The session.
pub struct Target {
    config: TargetConfig,
    paths: Vec<Path>,
    /// The addresses of our MAC addresses.
    macs: Vec<MacAddress>,
    identity: Option<Identity>,
    /// Since when the target is known to have the short flush only.
    plain_flush_ns: Option<u64>,
    requests: Requests,
    slots: Vec<Slot>,
    /// No command is to be sent again before then.
    due_ns: u64,
    /// Where commands may be, by the lowest octet of their tags.
    hints: [u8; 256],
    /// Where to look for work next, so that paths take turns.
    turn: usize,
    tags: Marks,
    random: Random,
    administrations: VecDeque<Administration>,
    outcomes: VecDeque<Outcome>,
    /// The initiators that hold the target, if it was asked.
    holders: Option<Vec<MacAddress>>,
    stalled_since_ns: Option<u64>,
    last_error: Option<&'static str>,
    refused: bool,
    now_ns: u64,
    lines: Lines,
}

impl Target {
    /// Writes to the log what became of a path.
    fn say(&mut self, level: Level, index: usize, line: fmt::Arguments<'_>) {
        let Some(path) = self.paths.get(index) else { return };
        self.lines.say(self.now_ns, level, self.config.target, format_args!("path {} {line}", path.name()));
    }

    /// Heap that a session takes at most: requests, frames that await answers, paths, lists
    /// of MAC addresses, and what an operator asked for.
    pub const HEAP_BYTES_MAX: usize = Requests::HEAP_BYTES_MAX
        + 2 * AOE_FRAMES_MAX as usize * size_of::<Slot>()
        + AOE_PATHS_MAX * size_of::<Path>()
        + 2 * AOE_ADMINISTRATIONS_MAX * AOE_CONFIG_STRING_MAX
        + 4 * 1024;

    /// A session that will look for its target.
    #[must_use]
    pub fn new(config: TargetConfig) -> Self {
        let mut random = Random::new(config.seed);
        let mut paths = Vec::new();
        for source in &config.sources {
            if config.macs.is_empty() {
                paths.push(Path::new(source, None));
            }
            paths.extend(config.macs.iter().map(|mac| Path::new(source, Some(*mac))));
        }
        let macs = config.sources.iter().map(|source| source.mac).collect();
        paths.truncate(AOE_PATHS_MAX);
        let mut requests = Requests::new();
        requests.fences.fence_all(config.hold_writes_until_ns);
        Self {
            config,
            paths,
            macs,
            identity: None,
            plain_flush_ns: None,
            requests,
            slots: Vec::new(),
            due_ns: u64::MAX,
            hints: [0; 256],
            turn: 0,
            tags: Marks::new(&mut random),
            random,
            administrations: VecDeque::new(),
            outcomes: VecDeque::new(),
            holders: None,
            stalled_since_ns: None,
            last_error: None,
            refused: false,
            now_ns: 0,
            lines: Lines::new(),
        }
    }

    /// Accepts a request.
    ///
    /// # Errors
    /// Nothing was accepted.
    pub fn submit(&mut self, request: Request, now_ns: u64) -> Result<(), SubmitError> {
        if self.config.read_only && request.operation.writes() {
            return Err(SubmitError::ReadOnly);
        }
        self.requests.submit(request, now_ns)
    }

    /// The next finished request.
    pub fn take_completion(&mut self) -> Option<Completion> {
        self.requests.take_completion()
    }

    /// Requests accepted and not finished, in order of submission.
    #[must_use]
    pub fn unfinished(&self) -> Vec<Request> {
        self.requests.unfinished()
    }

    /// Limits what the volume may do.
    pub fn set_limits(&mut self, limits: Limits, now_ns: u64) {
        self.requests.set_limits(limits, now_ns);
    }

    /// How long a request may wait for the target before it fails; `None` is for
    /// ever.
    pub fn set_deadline(&mut self, deadline_ns: Option<u64>) {
        self.requests.set_deadline(deadline_ns);
    }

    /// Reserves the target for our MAC addresses from now on, or gives it up.
    pub fn set_reserve(&mut self, reserve: bool) {
        let given_up = self.config.reserve && !reserve;
        self.config.reserve = reserve;
        if given_up {
            self.holders = None;
            self.administrations.push_back(Administration::Reserve(Vec::new()));
        }
        for path in self.paths.iter_mut().filter(|path| reserve && path.phase == Phase::Ready) {
            path.phase = Phase::Claim;
        }
    }

    /// A tag that no frame in the network can carry.
    fn fresh_tag(&mut self) -> u32 {
        if !mutated(Mutant::TagsReused) {
            return self.tags.next();
        }
        loop {
            let tag = self.random.next_u32() % 24;
            if !self.slots.iter().any(|slot| slot.tag == tag) {
                return tag;
            }
        }
    }

    /// Enters a command into the table; it is sent at `deadline_ns`.
    fn enter(&mut self, kind: Kind, path: usize, tries: u32, deadline_ns: u64) -> u32 {
        let tag = self.fresh_tag();
        if let Some(path) = self.paths.get_mut(path) {
            path.in_flight = path.in_flight.saturating_add(1);
        }
        self.due_ns = self.due_ns.min(deadline_ns);
        self.hint(tag, self.slots.len());
        self.slots.push(Slot {
            tag,
            kind,
            path,
            first_ns: self.now_ns,
            sent_ns: self.now_ns,
            deadline_ns,
            tries,
            timed: tries == 1,
            copied: tries > 1,
        });
        tag
    }

    fn hint(&mut self, tag: u32, index: usize) {
        let [low, ..] = tag.to_le_bytes();
        if let (Some(hint), Ok(index)) = (self.hints.get_mut(usize::from(low)), u8::try_from(index)) {
            *hint = index;
        }
    }

    /// Where the command with a tag is.
    fn find(&self, tag: u32) -> Option<usize> {
        let [low, ..] = tag.to_le_bytes();
        let hint = self.hints.get(usize::from(low)).map_or(0, |hint| usize::from(*hint));
        if self.slots.get(hint).is_some_and(|slot| slot.tag == tag) {
            return Some(hint);
        }
        self.slots.iter().position(|slot| slot.tag == tag)
    }

    /// Takes a command out of the table.
    fn leave(&mut self, index: usize) -> Slot {
        let slot = self.slots.swap_remove(index);
        if let Some(moved) = self.slots.get(index).map(|moved| moved.tag) {
            self.hint(moved, index);
        }
        if let Some(path) = self.paths.get_mut(slot.path) {
            path.in_flight = path.in_flight.saturating_sub(1);
        }
        slot
    }

    /// The next Ethernet frame to send, written to `buffer`; call until `None`. Its
    /// source address tells from which network it is to leave.
    pub fn transmit(&mut self, buffer: &mut [u8], now_ns: u64, payload: &mut dyn Payload) -> Option<usize> {
        self.poll(now_ns);
        if now_ns >= self.due_ns {
            while let Some(index) = self.slots.iter().position(|slot| slot.deadline_ns <= now_ns) {
                if let Some(length) = self.resend(index, buffer, payload) {
                    return Some(length);
                }
            }
            self.due_ns = self.slots.iter().map(|slot| slot.deadline_ns).min().unwrap_or(u64::MAX);
        }
        let (path, kind) = self.next_command()?;
        let patience = self.paths.get(path)?.patience_ns(1, &mut self.random);
        let tag = self.enter(kind, path, 1, now_ns.saturating_add(patience));
        let slot = self.slots.last().filter(|slot| slot.tag == tag)?;
        self.emit(slot, buffer, payload)
    }

    /// What to send next and where, if there is room.
    fn next_command(&mut self) -> Option<(usize, Kind)> {
        for step in 0..self.paths.len() {
            let index = self.turn.wrapping_add(step) % self.paths.len().max(1);
            if let Some(kind) = self.next_on_path(index) {
                self.turn = index.wrapping_add(1);
                return Some((index, kind));
            }
        }
        None
    }

    fn next_on_path(&mut self, index: usize) -> Option<Kind> {
        let (now_ns, total) = (self.now_ns, self.slots.len());
        let ask = self.ask_at_ns(index).is_some_and(|at_ns| at_ns <= now_ns);
        let others_live = self.paths.iter().any(Path::is_live);
        let path = self.paths.get_mut(index).filter(|path| !path.disabled)?;
        match path.phase {
            Phase::Query | Phase::Refused => return (path.in_flight == 0).then_some(Kind::Query),
            Phase::Identify => return (path.in_flight == 0).then_some(Kind::Identify),
            Phase::Claim => return (path.in_flight == 0).then_some(Kind::Claim),
            Phase::Ready => {}
        }
        if path.lost_since_ns.is_some() && others_live {
            // Others do its work: it looks for the target from the beginning.
            path.phase = Phase::Query;
            return None;
        }
        if core::mem::take(&mut path.recheck) || ask {
            return Some(Kind::Identify);
        }
        let capacity = self.identity.map_or(0, |identity| identity.capacity);
        let probing = |slot: &Slot| slot.path == index && matches!(slot.kind, Kind::Size(_));
        if let Some(size) = path.sizes.candidate(now_ns).filter(|size| u64::from(*size) <= capacity)
            && !self.slots.iter().any(probing)
        {
            return Some(Kind::Size(size));
        }
        let queue = usize::from(path.buffers.clamp(1, AOE_FRAMES_MAX));
        if !path.has_room() || total >= queue {
            return None;
        }
        if let Some(command) = self.administrations.pop_front() {
            return Some(Kind::Administration(command));
        }
        let shape = self.shape(index)?;
        self.requests.next_fragment(&shape).map(Kind::Fragment)
    }

    fn shape(&self, path: usize) -> Option<Shape> {
        let data = u32::from(self.paths.get(path)?.sizes.good.max(1));
        let capacity = self.identity?.capacity;
        Some(Shape { capacity, block: 1, data, discard: 0, zeroes: data })
    }
}
