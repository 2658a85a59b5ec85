//! Commands as frames.
//!
//! Spec: AoE r11, section 3.

use super::{ATA_DATA_OFFSET, Ata, BROADCAST, Body, Config, Frame, Kind, Payload, SECTOR_BYTES, Target, ata};

impl Target {
    pub(super) fn emit(
        &self,
        tag: u32,
        kind: Kind,
        buffer: &mut [u8],
        payload: &mut dyn Payload,
    ) -> Option<usize> {
        let command = |write, extended, sectors, command, lba| {
            Body::Ata(Ata { write, extended, feature: 0, sectors, command, lba, data: &[] })
        };
        let body = match kind {
            Kind::Query => Body::Config(Config::READ),
            Kind::Identify => command(false, false, 1, ata::IDENTIFY, 0),
            Kind::Flush { .. } if self.plain_flush => command(false, false, 0, ata::FLUSH, 0),
            Kind::Flush { .. } => command(false, true, 0, ata::FLUSH_EXT, 0),
            Kind::Data { write: true, lba, sectors, .. } => command(true, true, sectors, ata::WRITE_EXT, lba),
            Kind::Data { lba, sectors, .. } => command(false, true, sectors, ata::READ_EXT, lba),
        };
        let length = Frame {
            destination: self.mac.unwrap_or(BROADCAST),
            source: self.config.source,
            response: false,
            error: None,
            target: self.config.target,
            tag,
            body,
        }
        .emit(buffer)?;
        let Kind::Data { id, write: true, first, sectors, .. } = kind else { return Some(length) };
        let octets = usize::from(sectors) * SECTOR_BYTES;
        let data = buffer.get_mut(ATA_DATA_OFFSET..)?.get_mut(..octets)?;
        let offset = usize::try_from(first).ok()?.checked_mul(SECTOR_BYTES)?;
        payload.load(id, offset, data);
        Some(ATA_DATA_OFFSET.saturating_add(octets))
    }
}
