//! Commands as frames.
//!
//! Spec: AoE r11, section 3.

use super::{
    ATA_DATA_OFFSET, Ata, BROADCAST, Body, Config, Frame, Kind, Operation, Payload, Reserve, SECTOR_BYTES,
    Slot, Target, ata,
};

impl Target {
    /// Writes a command's frame.
    pub(super) fn emit(&self, slot: &Slot, buffer: &mut [u8], payload: &mut dyn Payload) -> Option<usize> {
        let path = self.paths.get(slot.path)?;
        let command = |write, extended, sectors, command, lba| {
            Body::Ata(Ata { write, extended, feature: 0, sectors, command, lba, data: &[] })
        };
        let body = match &slot.kind {
            Kind::Query => Body::Config(Config::READ),
            Kind::Identify => command(false, false, 1, ata::IDENTIFY, 0),
            Kind::Claim => Body::Reserve(Reserve { command: 1, macs: &self.macs }),
            Kind::Size(sectors) => command(false, true, *sectors, ata::READ_EXT, 0),
            Kind::Administration(order) => order.body(),
            Kind::Fragment(fragment) => {
                let sectors = u8::try_from(fragment.sectors).ok()?;
                match fragment.operation {
                    Operation::Flush if self.plain_flush_ns.is_some() => {
                        command(false, false, 0, ata::FLUSH, 0)
                    }
                    Operation::Flush => command(false, true, 0, ata::FLUSH_EXT, 0),
                    Operation::Read => command(false, true, sectors, ata::READ_EXT, fragment.lba),
                    _ => command(true, true, sectors, ata::WRITE_EXT, fragment.lba),
                }
            }
        };
        let length = Frame {
            destination: path.mac.unwrap_or(BROADCAST),
            source: path.source,
            response: false,
            error: None,
            target: self.config.target,
            tag: slot.tag,
            body,
        }
        .emit(buffer)?;
        let octets = match &slot.kind {
            // As long as the answer will be, so that both directions are tried.
            Kind::Size(sectors) => usize::from(*sectors).checked_mul(SECTOR_BYTES)?,
            Kind::Fragment(fragment) if fragment.operation.writes() => fragment.octets(),
            _ => return Some(length),
        };
        let data = buffer.get_mut(ATA_DATA_OFFSET..)?.get_mut(..octets)?;
        match &slot.kind {
            Kind::Fragment(fragment) => self.requests.load(fragment, 0, data, payload),
            _ => data.fill(0),
        }
        Some(ATA_DATA_OFFSET.saturating_add(octets).max(length))
    }
}
