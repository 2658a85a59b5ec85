//! SCSI commands, capacity and sense.
//!
//! Spec: SPC-4 (sense 4.5, TEST UNIT READY 6.47), SBC-3 (READ CAPACITY(16) 5.16,
//! READ/WRITE 5.11 and 5.32, SYNCHRONIZE CACHE 5.22).

/// A command descriptor block, padded to the 16 octets an iSCSI header holds.
pub type Cdb = [u8; 16];

/// TEST UNIT READY.
pub const TEST_UNIT_READY: Cdb = [0; 16];

/// Octets asked of READ CAPACITY(16).
pub const CAPACITY_BYTES: u32 = 32;

/// READ CAPACITY(16).
pub const READ_CAPACITY_16: Cdb = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
/// READ CAPACITY(10), for targets without the longer one.
pub const READ_CAPACITY_10: Cdb = [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// SYNCHRONIZE CACHE(10) of the whole medium.
pub const SYNCHRONIZE_CACHE_10: Cdb = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// SYNCHRONIZE CACHE(16) of the whole medium.
pub const SYNCHRONIZE_CACHE_16: Cdb = [0x91, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Octets asked of INQUIRY.
pub const INQUIRY_BYTES: u32 = 36;
/// Standard INQUIRY.
pub const INQUIRY: Cdb = [0x12, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// READ(16) or WRITE(16); `ten` asks for the ten-octet form, which is used if the
/// address and length fit it.
#[must_use]
pub fn transfer(write: bool, block: u64, blocks: u32, ten: bool) -> Cdb {
    let mut cdb = [0; 16];
    if ten && let (Ok(block), Ok(blocks)) = (u32::try_from(block), u16::try_from(blocks)) {
        let ([a, b, c, d], [e, f]) = (block.to_be_bytes(), blocks.to_be_bytes());
        let short = [if write { 0x2a } else { 0x28 }, 0, a, b, c, d, 0, e, f];
        for (target, source) in cdb.iter_mut().zip(short) {
            *target = source;
        }
        return cdb;
    }
    let opcode = [if write { 0x8a } else { 0x88 }, 0];
    let fields = opcode.into_iter().chain(block.to_be_bytes()).chain(blocks.to_be_bytes()).chain([0, 0]);
    for (target, source) in cdb.iter_mut().zip(fields) {
        *target = source;
    }
    cdb
}

/// A disk's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Logical blocks.
    pub blocks: u64,
    /// Octets per block: a power of two from 512 to 64 KiB.
    pub block_bytes: u32,
}

impl Capacity {
    /// Reads the answer to READ CAPACITY(16).
    #[must_use]
    pub fn parse_16(data: &[u8]) -> Option<Self> {
        let last = u64::from_be_bytes(*data.first_chunk()?);
        let block_bytes = u32::from_be_bytes(*data.get(8..)?.first_chunk()?);
        Self::checked(last, block_bytes)
    }

    /// Reads the answer to READ CAPACITY(10).
    #[must_use]
    pub fn parse_10(data: &[u8]) -> Option<Self> {
        let last = u32::from_be_bytes(*data.first_chunk()?);
        let block_bytes = u32::from_be_bytes(*data.get(4..)?.first_chunk()?);
        Self::checked(u64::from(last), block_bytes)
    }

    fn checked(last: u64, block_bytes: u32) -> Option<Self> {
        let sound = block_bytes.is_power_of_two() && (512..=65_536).contains(&block_bytes);
        let blocks = last.checked_add(1)?;
        blocks.checked_mul(u64::from(block_bytes))?;
        sound.then_some(Self { blocks, block_bytes })
    }

    /// Sectors of 512 octets per block.
    #[must_use]
    pub const fn sectors_per_block(&self) -> u32 {
        self.block_bytes / 512
    }

    /// The size in sectors of 512 octets.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.blocks.saturating_mul(u64::from(self.sectors_per_block()))
    }
}

/// Sense key and additional sense code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: u8,
    /// Additional sense code.
    pub code: u8,
    /// Its qualifier.
    pub qualifier: u8,
}

impl Sense {
    /// Reads fixed or descriptor sense data (SPC-4 4.5.2, 4.5.3).
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let at = |index: usize| data.get(index).copied().unwrap_or(0);
        match data.first()? & 0x7f {
            0x70 | 0x71 => Some(Self { key: *data.get(2)? & 0x0f, code: at(12), qualifier: at(13) }),
            0x72 | 0x73 => Some(Self { key: *data.get(1)? & 0x0f, code: at(2), qualifier: at(3) }),
            _ => None,
        }
    }
}

/// What to do about a command's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It succeeded.
    Good,
    /// Reissue it at once; the unit told us something.
    Again,
    /// Reissue it at once; the capacity may have changed.
    AgainResized,
    /// Reissue it after a pause.
    Later(&'static str),
    /// The command is not implemented.
    NotImplemented,
    /// It failed for good.
    OutOfRange,
    /// It failed for good.
    WriteProtected,
    /// It failed for good.
    Medium,
    /// It failed for good.
    Unsupported,
    /// Another initiator's reservation.
    Reserved,
}

/// Judges a status (SAM-5 5.3) and its sense data.
#[must_use]
pub fn judge(status: u8, sense: Option<Sense>) -> Verdict {
    match (status, sense.unwrap_or_default()) {
        (0x00, _) => Verdict::Good,
        (0x02, sense) => judge_sense(sense),
        (0x08, _) => Verdict::Later("the target is busy"),
        (0x18, _) => Verdict::Reserved,
        (0x28, _) => Verdict::Later("the target's task set is full"),
        (0x40, _) => Verdict::Again,
        _ => Verdict::Medium,
    }
}

const fn judge_sense(sense: Sense) -> Verdict {
    match (sense.key, sense.code, sense.qualifier) {
        (0x0 | 0x1, ..) => Verdict::Good,
        (0x2, ..) => Verdict::Later("the logical unit is not ready"),
        (0x5, 0x20, _) => Verdict::NotImplemented,
        (0x5, 0x21, _) => Verdict::OutOfRange,
        (0x5, 0x25, _) => Verdict::Later("the target has no such logical unit"),
        (0x5, ..) => Verdict::Unsupported,
        (0x6, 0x2a, 0x09) => Verdict::AgainResized,
        (0x6, ..) | (0xb, ..) => Verdict::Again,
        (0x7, ..) => Verdict::WriteProtected,
        _ => Verdict::Medium,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let read = transfer(false, 0x0102_0304_0506_0708, 0x1122_3344, false);
        assert_eq!(read, [0x88, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x22, 0x33, 0x44, 0, 0]);
        let write = transfer(true, 0x0102_0304, 0x1122, true);
        assert_eq!(&write[..10], &[0x2a, 0, 1, 2, 3, 4, 0, 0x11, 0x22, 0]);
        assert_eq!(transfer(true, 1 << 32, 1, true)[0], 0x8a, "does not fit");
    }

    #[test]
    fn capacities_and_sense() {
        let mut data = [0u8; 32];
        data[6..12].copy_from_slice(&[0xff, 0xff, 0, 0, 0x10, 0]);
        let capacity = Capacity::parse_16(&data).unwrap();
        assert_eq!((capacity.blocks, capacity.sectors()), (65_536, 524_288));
        data[10] = 0x11;
        assert_eq!(Capacity::parse_16(&data), None);
        assert_eq!(Capacity::parse_16(&[0xff; 32]), None);
        let fixed = [0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 0, 0, 0, 0, 0];
        assert_eq!(judge(2, Sense::parse(&fixed)), Verdict::Again);
        assert_eq!(judge(2, Sense::parse(&[0x72, 5, 0x21, 0])), Verdict::OutOfRange);
        assert_eq!(judge(2, Sense::parse(&[0x72, 6, 0x2a, 9])), Verdict::AgainResized);
        assert_eq!(Sense::parse(&[]), None);
    }
}
