//! The logical unit, whatever path leads to it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::scsi::{BlockLimits, Capacity, Peripheral, Provisioning, Reservation, UnitList};
use crate::block::Geometry;
use crate::limits::{ISCSI_COMMAND_SECTORS_MAX, RANGE_SECTORS_MAX};
use crate::requests::Shape;

/// How the cache is flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlushForm {
    Ten,
    Sixteen,
    /// The unit knows neither: it has no cache that could lose anything.
    Needless,
}

/// What is known of the unit.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) capacity: Option<Capacity>,
    pub(super) product: String,
    pub(super) serial: Option<String>,
    pub(super) identity: Option<Vec<u8>>,
    pub(super) units: UnitList,
    pub(super) peripheral: Option<Peripheral>,
    /// It cannot be used: what it is, if it is there at all.
    pub(super) wrong: Option<Option<Peripheral>>,
    pub(super) limits: BlockLimits,
    pub(super) provisioning: Provisioning,
    pub(super) ten_byte: bool,
    pub(super) flush: FlushForm,
    /// WRITE SAME(16) has not been refused.
    pub(super) write_same: bool,
    pub(super) write_protected: bool,
    pub(super) holder: Reservation,
    /// The target takes a reservation away without ending commands, or not at all.
    pub(super) plain_preempt: bool,
    /// Times its size changed.
    pub(super) resized: u32,
    /// What it takes, until something of the above changes.
    pub(super) shape: Option<Shape>,
}

impl Unit {
    pub(super) fn new() -> Self {
        Self {
            capacity: None,
            product: String::new(),
            serial: None,
            identity: None,
            units: UnitList::default(),
            peripheral: None,
            wrong: None,
            limits: BlockLimits::default(),
            provisioning: Provisioning::default(),
            ten_byte: false,
            flush: FlushForm::Ten,
            write_same: true,
            write_protected: false,
            holder: Reservation::Unknown,
            plain_preempt: false,
            resized: 0,
            shape: None,
        }
    }

    /// Ranges can be freed.
    pub(super) fn can_discard(&self) -> bool {
        let thin = self.capacity.is_some_and(|capacity| capacity.thin);
        thin && (self.provisioning.unmap || self.provisioning.write_same)
    }

    /// Its blocks.
    pub(super) fn geometry(&self) -> Geometry {
        let Some(capacity) = self.capacity else { return Geometry::default() };
        let physical = 1u16 << capacity.physical_exponent;
        let granularity = self.limits.granularity;
        let least_blocks =
            if granularity.is_multiple_of(physical) { granularity.max(physical) } else { physical };
        Geometry {
            block_bytes: capacity.block_bytes,
            physical_exponent: capacity.physical_exponent,
            aligned_block: capacity.aligned_block,
            least_blocks,
        }
    }

    /// Zeroes are written by one command, not one by one.
    pub(super) fn zeroes_by_command(&self) -> bool {
        let known = self.provisioning.write_same || self.limits.write_same > 0;
        self.write_same && known && !self.ten_byte
    }

    /// What requests it takes, once it is known.
    pub(super) fn shape(&mut self) -> Option<&Shape> {
        if self.shape.is_none() {
            self.shape = self.make_shape();
        }
        self.shape.as_ref()
    }

    fn make_shape(&self) -> Option<Shape> {
        let capacity = self.capacity?;
        let block = capacity.sectors_per_block();
        let sectors = |blocks: u64, most: u32| {
            let all = blocks.saturating_mul(u64::from(block)).min(u64::from(most));
            if blocks == 0 { most } else { u32::try_from(all).unwrap_or(most) }
        };
        let data = sectors(u64::from(self.limits.transfer), ISCSI_COMMAND_SECTORS_MAX);
        let by_unmap = sectors(u64::from(self.limits.unmap), RANGE_SECTORS_MAX);
        let by_same = sectors(self.limits.write_same, RANGE_SECTORS_MAX);
        let discard = match (self.can_discard(), self.provisioning.unmap) {
            (false, _) => 0,
            (true, true) => by_unmap,
            (true, false) => by_same,
        };
        let zeroes = if self.zeroes_by_command() { by_same } else { data };
        Some(Shape { capacity: capacity.sectors(), block, data, discard, zeroes })
    }

    /// Why it cannot be used, and which units there are instead.
    pub(super) fn unusable(&self, lun: u16) -> Option<String> {
        let what = match self.wrong? {
            Some(kind) => {
                format!(
                    "logical unit {lun} is {} (device type {:02X}h), no disk",
                    kind.name(),
                    kind.device_type()
                )
            }
            None => format!("the target has no logical unit {lun}"),
        };
        Some(format!("{what}; units there are: {}", self.units))
    }

    pub(super) fn report(&self) -> Vec<(&'static str, String)> {
        let mut report = Vec::new();
        if let Some(capacity) = self.capacity {
            report.push(("BlockBytes", format!("{}", capacity.block_bytes)));
            let physical = capacity.block_bytes << capacity.physical_exponent;
            report.push(("PhysicalBlockBytes", format!("{physical}")));
        }
        report.push(("Product", self.product.clone()));
        if let Some(serial) = &self.serial {
            report.push(("Serial", serial.clone()));
        }
        if let Some(identity) = &self.identity {
            let digits = identity.iter().skip(1).map(|octet| format!("{octet:02x}"));
            report.push(("Identity", digits.collect()));
        }
        let yes = |value| String::from(if value { "Yes" } else { "No" });
        report.push(("Discard", yes(self.can_discard())));
        report.push(("WriteZeroes", yes(self.zeroes_by_command())));
        report.push(("WriteProtected", yes(self.write_protected)));
        report.push(("Flush", yes(self.flush != FlushForm::Needless)));
        report.push(("Units", format!("{}", self.units)));
        let holder = match self.holder {
            Reservation::Unknown => String::from("not asked for"),
            Reservation::Free => String::from("free"),
            Reservation::Held(key) => format!("{key:#018x}"),
            Reservation::Unsupported => String::from("unsupported"),
        };
        report.push(("Reservation", holder));
        report
    }
}
