//! What a target's answers mean.

use alloc::vec::Vec;

use super::administration::{answer_of, mask_answer};
use super::{
    ATA_OVERHEAD_BYTES, AoeError, Ata, BlockError, Body, Config, Fragment, Frame, Identity, Kind, MacAddress,
    Mutant, Operation, Outcome, Payload, Phase, SECTOR_BYTES, SECTORS_FALLBACK, Slot, Target, ata, mutated,
};

impl Target {
    /// Takes a received Ethernet frame; true when it belonged to this session.
    /// Several sessions may share a target: a tag says whose an answer is.
    pub fn receive(&mut self, frame: &[u8], now_ns: u64, payload: &mut dyn Payload) -> bool {
        self.now_ns = self.now_ns.max(now_ns);
        let Some(frame) = Frame::parse(frame) else { return false };
        let ours =
            frame.response && frame.target == self.config.target && self.macs.contains(&frame.destination);
        if !ours {
            return false;
        }
        let index = self.find(frame.tag);
        let path = self.path_of(frame.destination, frame.source);
        let (Some(path), Some(index)) = (path, index) else {
            self.reject();
            return index.is_some();
        };
        if let Some(error) = frame.error {
            self.complain(index, path, error);
            return true;
        }
        if !self.slots.get(index).is_some_and(|slot| is_plausible(&slot.kind, &frame.body)) {
            self.reject();
            return true;
        }
        let slot = self.leave(index);
        self.heard(&slot, path);
        match frame.body {
            Body::Config(config) if slot.kind == Kind::Query => self.bind(slot.path, frame.source, &config),
            Body::Ata(ata) => self.result(slot, &ata, payload),
            Body::Reserve(list) if slot.kind == Kind::Claim => {
                self.claimed(slot.path, Some(list.macs.to_vec()));
            }
            other => {
                if let Some(outcome) = answer_of(&other) {
                    self.outcomes.push_back(outcome);
                }
            }
        }
        true
    }

    fn reject(&mut self) {
        self.requests.counters.rejected = self.requests.counters.rejected.wrapping_add(1);
    }

    /// The path on which a frame came: only MAC addresses that are configured are
    /// accepted, or, where none is, the first one that answers.
    fn path_of(&self, destination: MacAddress, source: MacAddress) -> Option<usize> {
        let single = source.first().is_some_and(|octet| octet & 1 == 0);
        self.paths.iter().position(|path| {
            path.source == destination
                && match path.mac {
                    Some(mac) => mac == source || mutated(Mutant::AnyMac),
                    None => single,
                }
        })
    }

    /// Learns the target's MAC address and limits (3.2).
    fn bind(&mut self, index: usize, source: MacAddress, config: &Config<'_>) {
        let Some(path) = self.paths.get_mut(index) else { return };
        path.mac = Some(source);
        path.buffers = config.buffers.max(1);
        path.firmware = config.firmware;
        let advertised = if config.sectors_max == 0 { SECTORS_FALLBACK } else { config.sectors_max };
        let fitting = path.mtu.saturating_sub(ATA_OVERHEAD_BYTES) / SECTOR_BYTES;
        let fitting = u8::try_from(fitting).unwrap_or(u8::MAX).max(1);
        path.sizes.set_limit(advertised.min(fitting));
        if mutated(Mutant::FrameSizeStuck) {
            path.sizes.passed(advertised.min(fitting));
        }
        path.phase = Phase::Identify;
    }

    fn identified(&mut self, index: usize, found: Option<Identity>) {
        let Some(found) = found else {
            return self.refuse_path(index, "the target has no disk with 48-bit addresses");
        };
        let same = self.identity.is_none_or(|known| known.name == found.name);
        if !same && !mutated(Mutant::OtherDiskUsed) {
            return self.refuse_path(index, "the path leads to another disk");
        }
        self.identity = Some(found);
        self.refused = false;
        self.stalled_since_ns = None;
        if !self.config.reserve {
            self.serve(index);
        } else if let Some(path) = self.paths.get_mut(index) {
            path.phase = Phase::Claim;
            path.last_error = None;
        }
    }

    /// The target is ours, or takes no reservations.
    fn claimed(&mut self, index: usize, holders: Option<Vec<MacAddress>>) {
        self.holders = holders;
        self.serve(index);
    }

    fn result(&mut self, slot: Slot, ata: &Ata<'_>, payload: &mut dyn Payload) {
        match &slot.kind {
            Kind::Identify => self.identified(slot.path, Identity::parse(ata.data).filter(|_| !failed(ata))),
            Kind::Size(sectors) => {
                let now_ns = self.now_ns;
                if let Some(path) = self.paths.get_mut(slot.path) {
                    // An error is too short an answer to tell anything.
                    if failed(ata) {
                        path.sizes.failed(*sectors, now_ns)
                    } else {
                        path.sizes.passed(*sectors)
                    }
                }
            }
            Kind::Fragment(fragment) => {
                let aborted = failed(ata) && ata.feature & ata::ERROR_ABORTED != 0;
                // Several may have been sent before the first one was refused.
                let extended = self.plain_flush_ns.is_none_or(|since_ns| slot.first_ns <= since_ns);
                if fragment.operation == Operation::Flush && aborted && extended {
                    self.plain_flush_ns.get_or_insert(self.now_ns);
                    return self.requests.requeue(fragment);
                }
                self.ended(&slot, fragment, ata, payload);
            }
            Kind::Query | Kind::Claim | Kind::Administration(_) => {}
        }
    }

    fn ended(&mut self, slot: &Slot, fragment: &Fragment, ata: &Ata<'_>, payload: &mut dyn Payload) {
        let result = if failed(ata) { Err(block_error(ata, fragment.operation)) } else { Ok(()) };
        let octets = fragment.octets();
        if result.is_ok() && fragment.operation == Operation::Read {
            let data = ata.data.get(..octets.min(ata.data.len())).unwrap_or_default();
            self.requests.store(fragment, 0, data, payload);
        }
        if slot.copied {
            self.fence(slot);
        }
        if let Some(path) = self.paths.get_mut(slot.path) {
            let octets = octets as u64;
            match fragment.operation {
                Operation::Read => path.bytes_read = path.bytes_read.wrapping_add(octets),
                _ => path.bytes_written = path.bytes_written.wrapping_add(octets),
            }
        }
        self.requests.done(fragment, result);
    }

    /// An error of the AoE layer (2.4).
    fn complain(&mut self, index: usize, path: usize, error: AoeError) {
        let why = match error {
            AoeError::DeviceUnavailable => "the target says: device unavailable",
            AoeError::Reserved => "the target is reserved by another station",
            AoeError::BadArgument => "the target says: bad argument",
            AoeError::UnsupportedVersion => "the target speaks another AoE version",
            AoeError::ConfigPresent => "the target has a configuration string already",
            _ => "the target refused a command",
        };
        let permanent = matches!(error, AoeError::BadArgument | AoeError::UnrecognizedCommand);
        let slot = self.leave(index);
        self.heard(&slot, path);
        match slot.kind {
            Kind::Administration(_) => return self.outcomes.push_back(Outcome::Refused(why)),
            Kind::Fragment(fragment) if permanent => {
                self.last_error = Some(why);
                if slot.copied {
                    self.fence(&slot);
                }
                return self.requests.done(&fragment, Err(BlockError::Unsupported));
            }
            Kind::Claim if permanent => return self.claimed(slot.path, None),
            Kind::Size(sectors) => {
                if let Some(path) = self.paths.get_mut(slot.path) {
                    path.sizes.failed(sectors, self.now_ns);
                }
                return;
            }
            kind => {
                self.last_error = Some(why);
                self.refused = true;
                self.later(kind, slot.path, slot.tries);
            }
        }
        if let Some(path) = self.paths.get_mut(slot.path) {
            path.last_error = Some(why);
        }
    }
}

/// Whether an answer can be one to that command.
fn is_plausible(kind: &Kind, body: &Body<'_>) -> bool {
    match (kind, body) {
        (Kind::Query, Body::Config(_)) | (Kind::Claim, Body::Reserve(_)) => true,
        (Kind::Identify, Body::Ata(ata)) => failed(ata) || ata.data.len() >= SECTOR_BYTES,
        (Kind::Size(sectors), Body::Ata(ata)) => {
            failed(ata) || ata.data.len() >= usize::from(*sectors) * SECTOR_BYTES
        }
        (Kind::Fragment(fragment), Body::Ata(ata)) => {
            let enough = ata.data.len() >= fragment.octets() || mutated(Mutant::ShortAnswer);
            fragment.operation != Operation::Read || failed(ata) || enough
        }
        (Kind::Administration(command), body) => mask_answer(command, body),
        _ => false,
    }
}

/// ATA status of a failed command.
const fn failed(ata: &Ata<'_>) -> bool {
    ata.command & (ata::STATUS_ERROR | ata::STATUS_FAULT) != 0
}

/// The error register (ATA/ATAPI-7, section 6): bit 6 says "write protected" of a
/// write and "uncorrectable" of a read.
fn block_error(ata: &Ata<'_>, operation: Operation) -> BlockError {
    if ata.feature & ata::ERROR_NOT_FOUND != 0 {
        BlockError::OutOfRange
    } else if ata.feature & ata::ERROR_WRITE_PROTECTED != 0 && operation.writes() {
        BlockError::WriteProtected
    } else if ata.feature & ata::ERROR_ABORTED != 0 {
        BlockError::Unsupported
    } else {
        BlockError::Medium
    }
}
