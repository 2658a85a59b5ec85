//! What a target's answers mean.

use super::{
    ATA_OVERHEAD_BYTES, AoeError, Ata, BlockError, Body, Config, Frame, Identity, Kind, MacAddress, Payload,
    Phase, SECTOR_BYTES, SECTORS_FALLBACK, STALL_TRIES, Slot, Target, ata,
};

impl Target {
    /// Takes a received Ethernet frame; true when it belonged to this session.
    /// Several sessions may share a target: a tag says whose an answer is.
    pub fn receive(&mut self, frame: &[u8], now_ns: u64, payload: &mut dyn Payload) -> bool {
        self.now_ns = now_ns;
        let Some(frame) = Frame::parse(frame) else { return false };
        let ours =
            frame.response && frame.target == self.config.target && frame.destination == self.config.source;
        if !ours {
            return false;
        }
        // Only the bound station is believed; before that, any single station.
        let believed =
            self.mac.map_or(frame.source.first().is_some_and(|it| it & 1 == 0), |mac| mac == frame.source);
        let index = self.slots.iter().position(|slot| slot.tag == frame.tag);
        let (true, Some(index)) = (believed, index) else {
            self.counters.rejected = self.counters.rejected.wrapping_add(1);
            return index.is_some();
        };
        if let Some(error) = frame.error {
            self.complain(index, error);
            return true;
        }
        let kind = self.slots.get(index).map(|slot| slot.kind);
        let plausible = match (kind, &frame.body) {
            (Some(Kind::Query), Body::Config(_)) => true,
            (Some(Kind::Identify), Body::Ata(ata)) => failed(ata) || ata.data.len() >= 512,
            (Some(Kind::Flush { .. }), Body::Ata(_)) => true,
            (Some(Kind::Data { write, sectors, .. }), Body::Ata(ata)) => {
                write || failed(ata) || ata.data.len() >= usize::from(sectors) * SECTOR_BYTES
            }
            _ => false,
        };
        if !plausible {
            self.counters.rejected = self.counters.rejected.wrapping_add(1);
            return true;
        }
        let slot = self.slots.swap_remove(index);
        self.answered(&slot);
        match frame.body {
            Body::Config(config) => self.bind(frame.source, &config),
            Body::Ata(ata) => self.result(&slot, &ata, payload),
            Body::Other(_) => {}
        }
        true
    }

    /// Learns the target's station and limits (3.2).
    fn bind(&mut self, source: MacAddress, config: &Config<'_>) {
        self.mac = Some(source);
        self.buffers = config.buffers.max(1);
        self.firmware = config.firmware;
        let advertised = if config.sectors_max == 0 { SECTORS_FALLBACK } else { config.sectors_max };
        let fitting = self.config.mtu.saturating_sub(ATA_OVERHEAD_BYTES) / SECTOR_BYTES;
        let fitting = u8::try_from(fitting).unwrap_or(u8::MAX).max(1);
        self.sectors_per_frame = advertised.min(fitting);
        self.phase = Phase::Identify;
    }

    fn result(&mut self, slot: &Slot, ata: &Ata<'_>, payload: &mut dyn Payload) {
        match slot.kind {
            Kind::Query => {}
            Kind::Identify => match Identity::parse(ata.data).filter(|_| !failed(ata)) {
                Some(identity) => {
                    self.capacity = Some(identity.capacity);
                    self.refused = false;
                    self.phase = Phase::Ready;
                }
                None => {
                    self.refused = true;
                    self.last_error = Some("the target has no disk with 48-bit addresses");
                    // Asked again after a pause: a disk may appear.
                    self.again(Kind::Identify);
                }
            },
            Kind::Flush { id } => {
                let aborted = failed(ata) && ata.feature & ata::ERROR_ABORTED != 0;
                if aborted && !self.plain_flush {
                    self.plain_flush = true;
                    if let Some(active) = self.active(id) {
                        active.in_flight = active.in_flight.saturating_sub(1);
                        active.todo.push_back((0, 0));
                    }
                } else {
                    self.fragment_done(id, 0, failed(ata).then(|| block_error(ata)));
                }
            }
            Kind::Data { id, write, lba, first, sectors } => {
                let error = failed(ata).then(|| block_error(ata));
                let offset = usize::try_from(first).unwrap_or(0).saturating_mul(SECTOR_BYTES);
                if error.is_none() && !write {
                    let length = usize::from(sectors) * SECTOR_BYTES;
                    if let Some(data) = ata.data.get(..length) {
                        payload.store(id, offset, data);
                    }
                }
                if write && slot.copied {
                    self.remember_stale(lba, u64::from(sectors), slot.sent_ns);
                }
                if error.is_none() && sectors > SECTORS_FALLBACK {
                    self.size_confirmed = true;
                }
                self.fragment_done(id, u32::from(sectors), error);
            }
        }
    }

    /// An error of the AoE layer (2.4).
    fn complain(&mut self, index: usize, error: AoeError) {
        self.last_error = Some(match error {
            AoeError::DeviceUnavailable => "the target says: device unavailable",
            AoeError::Reserved => "the target is reserved by another station",
            AoeError::BadArgument => "the target says: bad argument",
            AoeError::UnsupportedVersion => "the target speaks another AoE version",
            _ => "the target refused a command",
        });
        let permanent = matches!(error, AoeError::BadArgument | AoeError::UnrecognizedCommand);
        let slot = self.slots.swap_remove(index);
        self.retire(slot.tag);
        match slot.kind {
            Kind::Flush { id } if permanent => {
                self.fragment_done(id, 0, Some(BlockError::Unsupported));
            }
            Kind::Data { id, .. } if permanent => {
                self.fragment_done(id, 0, Some(BlockError::Unsupported));
            }
            kind => {
                self.refused = true;
                let tries = slot.tries.max(STALL_TRIES);
                self.again_after(kind, tries, slot.first_ns);
            }
        }
    }
}

/// ATA status of a failed command.
const fn failed(ata: &Ata<'_>) -> bool {
    ata.command & (ata::STATUS_ERROR | ata::STATUS_FAULT) != 0
}

const fn block_error(ata: &Ata<'_>) -> BlockError {
    if ata.feature & ata::ERROR_NOT_FOUND != 0 {
        BlockError::OutOfRange
    } else if ata.feature & ata::ERROR_WRITE_PROTECTED != 0 {
        BlockError::WriteProtected
    } else if ata.feature & ata::ERROR_ABORTED != 0 {
        BlockError::Unsupported
    } else {
        BlockError::Medium
    }
}
