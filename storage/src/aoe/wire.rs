//! AoE frames: parse and emit.
//!
//! Spec: AoE r11, section 2 (header), 3.1 (ATA), 3.2 (query config), 3.3 (MAC mask
//! list), 3.4 (reserve and release).

use core::fmt;

/// EtherType of AoE (section 2).
pub const ETHERTYPE: u16 = 0x88a2;
/// Octets of Ethernet and AoE header.
pub const HEADER_BYTES: usize = 24;
/// Octets of all headers of an ATA frame: its data begins here.
pub const ATA_DATA_OFFSET: usize = 36;
/// Octets of AoE and ATA header, which count towards the MTU.
pub const ATA_OVERHEAD_BYTES: usize = 22;
/// Ethernet's smallest frame without check sequence.
pub const FRAME_BYTES_MIN: usize = 60;
/// Protocol version (section 2.1).
const VERSION: u8 = 1;
const FLAG_RESPONSE: u8 = 0x08;
const FLAG_ERROR: u8 = 0x04;
const COMMAND_ATA: u8 = 0;
const COMMAND_CONFIG: u8 = 1;
const COMMAND_MASK: u8 = 2;
const COMMAND_RESERVE: u8 = 3;

/// A MAC address.
pub type MacAddress = [u8; 6];
/// The broadcast MAC address.
pub const BROADCAST: MacAddress = [0xff; 6];
/// Major address that every target answers.
pub const SHELF_ALL: u16 = 0xffff;
/// Minor address that every target answers.
pub const SLOT_ALL: u8 = 0xff;

/// A target's name: shelf (major) and slot (minor).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetAddress {
    /// Shelf.
    pub shelf: u16,
    /// Slot.
    pub slot: u8,
}

impl fmt::Display for TargetAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "e{}.{}", self.shelf, self.slot)
    }
}

/// ATA commands used (ATA/ATAPI-7, section 6).
pub mod ata {
    /// READ SECTORS EXT.
    pub const READ_EXT: u8 = 0x24;
    /// WRITE SECTORS EXT.
    pub const WRITE_EXT: u8 = 0x34;
    /// FLUSH CACHE EXT.
    pub const FLUSH_EXT: u8 = 0xea;
    /// FLUSH CACHE, for targets without the extended one.
    pub const FLUSH: u8 = 0xe7;
    /// IDENTIFY DEVICE.
    pub const IDENTIFY: u8 = 0xec;
    /// Status: error.
    pub const STATUS_ERROR: u8 = 0x01;
    /// Status: device fault.
    pub const STATUS_FAULT: u8 = 0x20;
    /// Error: command aborted.
    pub const ERROR_ABORTED: u8 = 0x04;
    /// Error: address not found.
    pub const ERROR_NOT_FOUND: u8 = 0x10;
    /// Error: write protected medium.
    pub const ERROR_WRITE_PROTECTED: u8 = 0x40;
}

/// Error codes of the AoE header (section 2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AoeError {
    /// 1: unrecognized command code.
    UnrecognizedCommand,
    /// 2: bad argument parameter.
    BadArgument,
    /// 3: device unavailable.
    DeviceUnavailable,
    /// 4: configuration string present.
    ConfigPresent,
    /// 5: unsupported version.
    UnsupportedVersion,
    /// 6: target is reserved.
    Reserved,
    /// Any other.
    Unknown(u8),
}

impl AoeError {
    const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::UnrecognizedCommand,
            2 => Self::BadArgument,
            3 => Self::DeviceUnavailable,
            4 => Self::ConfigPresent,
            5 => Self::UnsupportedVersion,
            6 => Self::Reserved,
            other => Self::Unknown(other),
        }
    }
}

/// The command part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// Section 3.1.
    Ata(Ata<'a>),
    /// Section 3.2.
    Config(Config<'a>),
    /// Section 3.3.
    Mask(Mask<'a>),
    /// Section 3.4.
    Reserve(Reserve<'a>),
    /// A command we do not speak.
    Other(u8),
}

/// Section 3.3: the MAC addresses that a target answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask<'a> {
    /// Zero reads the list, one edits it.
    pub command: u8,
    /// In a response, why the edit failed: 1 unspecified, 2 bad directive, 3 full.
    pub error: u8,
    /// Directives of eight octets: reserved, what to do (1 add, 2 delete), MAC address.
    pub directives: &'a [[u8; 8]],
}

/// Section 3.4: the MAC addresses that may use a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve<'a> {
    /// Zero reads the list, one sets it, two sets it by force.
    pub command: u8,
    /// The MAC addresses; none means that no initiator holds the target.
    pub macs: &'a [MacAddress],
}

/// Section 3.1: an ATA command or its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ata<'a> {
    /// The data flows to the target.
    pub write: bool,
    /// The registers hold 48-bit addresses.
    pub extended: bool,
    /// Feature, or in a response the error register.
    pub feature: u8,
    /// Sector count.
    pub sectors: u8,
    /// Command, or in a response the status register.
    pub command: u8,
    /// Sector address.
    pub lba: u64,
    /// Sectors' contents, with any Ethernet padding.
    pub data: &'a [u8],
}

/// Section 3.2: query config.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config<'a> {
    /// Frames the target can queue.
    pub buffers: u16,
    /// Firmware version.
    pub firmware: u16,
    /// Most sectors per frame; zero means two.
    pub sectors_max: u8,
    /// Subcommand: zero reads.
    pub command: u8,
    /// The configuration string.
    pub string: &'a [u8],
}

/// A parsed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Receiving MAC address.
    pub destination: MacAddress,
    /// Sending MAC address.
    pub source: MacAddress,
    /// From the target.
    pub response: bool,
    /// The target's complaint.
    pub error: Option<AoeError>,
    /// The target.
    pub target: TargetAddress,
    /// The initiator's mark.
    pub tag: u32,
    /// The command.
    pub body: Body<'a>,
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|word| u16::from_be_bytes(*word))
}

impl<'a> Frame<'a> {
    /// Reads an untagged Ethernet frame; `None` when it is not well-formed AoE.
    #[must_use]
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let destination = *frame.first_chunk()?;
        let source = *frame.get(6..)?.first_chunk()?;
        let version_flags = *frame.get(14)?;
        if be16(frame, 12)? != ETHERTYPE || version_flags >> 4 != VERSION {
            return None;
        }
        let code = *frame.get(15)?;
        let target = TargetAddress { shelf: be16(frame, 16)?, slot: *frame.get(18)? };
        let tag = u32::from_be_bytes(*frame.get(20..)?.first_chunk()?);
        let error = (version_flags & FLAG_ERROR != 0).then(|| AoeError::from_code(code));
        let body = match *frame.get(19)? {
            COMMAND_ATA => Body::Ata(Ata::parse(frame.get(HEADER_BYTES..)?)?),
            COMMAND_CONFIG => Body::Config(Config::parse(frame.get(HEADER_BYTES..)?)?),
            COMMAND_MASK => Body::Mask(Mask::parse(frame.get(HEADER_BYTES..)?)?),
            COMMAND_RESERVE => Body::Reserve(Reserve::parse(frame.get(HEADER_BYTES..)?)?),
            other => Body::Other(other),
        };
        let response = version_flags & FLAG_RESPONSE != 0;
        Some(Self { destination, source, response, error, target, tag, body })
    }

    /// Writes the frame, padded to Ethernet's minimum; returns its length, or `None`
    /// when `target` is too small. An ATA write's data is written if given, else
    /// the caller fills it in at [`ATA_DATA_OFFSET`].
    pub fn emit(&self, target: &mut [u8]) -> Option<usize> {
        let length = match &self.body {
            Body::Ata(ata) => ATA_DATA_OFFSET.checked_add(ata.data.len())?,
            Body::Config(config) => (HEADER_BYTES + 8).checked_add(config.string.len())?,
            Body::Mask(mask) => (HEADER_BYTES + 4).checked_add(mask.directives.as_flattened().len())?,
            Body::Reserve(list) => (HEADER_BYTES + 2).checked_add(list.macs.as_flattened().len())?,
            Body::Other(_) => HEADER_BYTES,
        };
        let padded = length.max(FRAME_BYTES_MIN);
        let frame = target.get_mut(..padded)?;
        frame.fill(0);
        let (version, code) = (VERSION << 4, self.error.map_or(0, AoeError::code));
        let response = if self.response { FLAG_RESPONSE } else { 0 };
        let error = if self.error.is_some() { FLAG_ERROR } else { 0 };
        let command = match self.body {
            Body::Ata(_) => COMMAND_ATA,
            Body::Config(_) => COMMAND_CONFIG,
            Body::Mask(_) => COMMAND_MASK,
            Body::Reserve(_) => COMMAND_RESERVE,
            Body::Other(other) => other,
        };
        let [s0, s1] = self.target.shelf.to_be_bytes();
        frame.get_mut(..6)?.copy_from_slice(&self.destination);
        frame.get_mut(6..12)?.copy_from_slice(&self.source);
        frame.get_mut(12..14)?.copy_from_slice(&ETHERTYPE.to_be_bytes());
        frame.get_mut(14..20)?.copy_from_slice(&[
            version | response | error,
            code,
            s0,
            s1,
            self.target.slot,
            command,
        ]);
        frame.get_mut(20..24)?.copy_from_slice(&self.tag.to_be_bytes());
        let rest = frame.get_mut(HEADER_BYTES..length)?;
        match &self.body {
            Body::Ata(ata) => ata.emit(rest)?,
            Body::Config(config) => config.emit(rest)?,
            Body::Mask(mask) => mask.emit(rest)?,
            Body::Reserve(list) => list.emit(rest)?,
            Body::Other(_) => {}
        }
        Some(padded)
    }
}

impl AoeError {
    const fn code(self) -> u8 {
        match self {
            Self::UnrecognizedCommand => 1,
            Self::BadArgument => 2,
            Self::DeviceUnavailable => 3,
            Self::ConfigPresent => 4,
            Self::UnsupportedVersion => 5,
            Self::Reserved => 6,
            Self::Unknown(code) => code,
        }
    }
}

impl<'a> Ata<'a> {
    const FLAG_WRITE: u8 = 0x01;
    const FLAG_EXTENDED: u8 = 0x40;

    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let [flags, feature, sectors, command, a, b, c, d, e, f, _, _] = *bytes.first_chunk()?;
        Some(Self {
            write: flags & Self::FLAG_WRITE != 0,
            extended: flags & Self::FLAG_EXTENDED != 0,
            feature,
            sectors,
            command,
            lba: u64::from_le_bytes([a, b, c, d, e, f, 0, 0]),
            data: bytes.get(12..)?,
        })
    }

    fn emit(&self, target: &mut [u8]) -> Option<()> {
        let flags = if self.write { Self::FLAG_WRITE } else { 0 }
            | if self.extended { Self::FLAG_EXTENDED } else { 0 };
        let [a, b, c, d, e, f, _, _] = self.lba.to_le_bytes();
        let header = [flags, self.feature, self.sectors, self.command, a, b, c, d, e, f, 0, 0];
        target.get_mut(..12)?.copy_from_slice(&header);
        target.get_mut(12..)?.copy_from_slice(self.data);
        Some(())
    }
}

impl<'a> Config<'a> {
    /// The request that reads a target's configuration.
    pub const READ: Self = Self { buffers: 0, firmware: 0, sectors_max: 0, command: 0, string: &[] };

    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let length = usize::from(be16(bytes, 6)?);
        Some(Self {
            buffers: be16(bytes, 0)?,
            firmware: be16(bytes, 2)?,
            sectors_max: *bytes.get(4)?,
            command: *bytes.get(5)? & 0x0f,
            string: bytes.get(8..)?.get(..length)?,
        })
    }

    fn emit(&self, target: &mut [u8]) -> Option<()> {
        let length = u16::try_from(self.string.len()).ok()?;
        target.get_mut(..2)?.copy_from_slice(&self.buffers.to_be_bytes());
        target.get_mut(2..4)?.copy_from_slice(&self.firmware.to_be_bytes());
        // The upper half is the AoE version the target speaks.
        let command = (VERSION << 4) | (self.command & 0x0f);
        target.get_mut(4..6)?.copy_from_slice(&[self.sectors_max, command]);
        target.get_mut(6..8)?.copy_from_slice(&length.to_be_bytes());
        target.get_mut(8..)?.copy_from_slice(self.string);
        Some(())
    }
}

impl<'a> Mask<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let [_, command, error, count] = *bytes.first_chunk()?;
        let (directives, _) = bytes.get(4..)?.as_chunks::<8>();
        Some(Self { command, error, directives: directives.get(..usize::from(count))? })
    }

    fn emit(&self, target: &mut [u8]) -> Option<()> {
        let count = u8::try_from(self.directives.len()).ok()?;
        target.get_mut(..4)?.copy_from_slice(&[0, self.command, self.error, count]);
        target.get_mut(4..)?.copy_from_slice(self.directives.as_flattened());
        Some(())
    }
}

impl<'a> Reserve<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let [command, count] = *bytes.first_chunk()?;
        let (macs, _) = bytes.get(2..)?.as_chunks::<6>();
        Some(Self { command, macs: macs.get(..usize::from(count))? })
    }

    fn emit(&self, target: &mut [u8]) -> Option<()> {
        let count = u8::try_from(self.macs.len()).ok()?;
        target.get_mut(..2)?.copy_from_slice(&[self.command, count]);
        target.get_mut(2..)?.copy_from_slice(self.macs.as_flattened());
        Some(())
    }
}

/// What IDENTIFY DEVICE tells (ATA/ATAPI-7, section 6.17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Sectors addressable with 48 bits.
    pub capacity: u64,
    /// Serial number and model: words 10 to 19 and 27 to 46, as sent.
    pub name: [u8; 60],
}

impl Identity {
    /// Reads the 512 octets; `None` without 48-bit addressing.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let word = |index: usize| -> Option<u16> {
            let at = index.checked_mul(2)?;
            data.get(at..)?.first_chunk().map(|word| u16::from_le_bytes(*word))
        };
        // Word 83 bit 10: 48-bit addresses supported.
        if data.len() < 512 || word(83)? & (1 << 10) == 0 {
            return None;
        }
        let capacity =
            (100..104).rev().try_fold(0u64, |sum, index| Some((sum << 16) | u64::from(word(index)?)))?;
        let mut name = [0; 60];
        let words = data.get(20..40)?.iter().chain(data.get(54..94)?);
        for (target, source) in name.iter_mut().zip(words) {
            *target = *source;
        }
        (capacity > 0 && capacity <= 1 << 48).then_some(Self { capacity, name })
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "tests cut random numbers to size")]
mod tests {
    use super::*;

    #[test]
    fn a_read_as_the_specification_draws_it() {
        let frame = Frame {
            destination: [1, 2, 3, 4, 5, 6],
            source: [7, 8, 9, 10, 11, 12],
            response: false,
            error: None,
            target: TargetAddress { shelf: 11, slot: 1 },
            tag: 0x0102_0304,
            body: Body::Ata(Ata {
                write: false,
                extended: true,
                feature: 0,
                sectors: 2,
                command: ata::READ_EXT,
                lba: 0x0605_0403_0201,
                data: &[],
            }),
        };
        let mut bytes = [0xee; 64];
        assert_eq!(frame.emit(&mut bytes), Some(60));
        let expected = [
            1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x88, 0xa2, 0x10, 0, 0, 11, 1, 0, 1, 2, 3, 4, 0x40, 0, 2,
            0x24, 1, 2, 3, 4, 5, 6, 0, 0,
        ];
        assert_eq!(&bytes[..36], &expected);
        assert!(bytes[36..60].iter().all(|octet| *octet == 0));
        assert_eq!(Frame::parse(&bytes[..60]).unwrap().tag, frame.tag);
        assert_eq!(frame.emit(&mut bytes[..59]), None);
    }

    #[test]
    fn a_config_reply() {
        let mut bytes = [0u8; 60];
        bytes[12..].copy_from_slice(&{
            let mut rest = [0u8; 48];
            rest[..23].copy_from_slice(&[
                0x88, 0xa2, 0x18, 0, 0, 11, 1, 1, 0, 0, 0, 9, 0, 16, 0x40, 0x0e, 2, 0x10, 0, 3, b'a', b'b',
                b'c',
            ]);
            rest
        });
        let frame = Frame::parse(&bytes).unwrap();
        assert!(frame.response);
        let Body::Config(config) = frame.body else { panic!("{frame:?}") };
        assert_eq!((config.buffers, config.firmware, config.sectors_max), (16, 0x400e, 2));
        assert_eq!(config.string, b"abc");
        bytes[31] = 200;
        assert_eq!(Frame::parse(&bytes), None, "string longer than the frame");
    }

    #[test]
    fn masks_and_reservations() {
        let mut bytes = [0u8; 60];
        bytes[12..24].copy_from_slice(&[0x88, 0xa2, 0x10, 0, 0, 11, 1, 2, 0, 0, 0, 9]);
        let directives = [0, 1, 1, 2, 3, 4, 5, 6, 0, 2, 7, 8, 9, 10, 11, 12];
        bytes[24..28].copy_from_slice(&[0, 1, 0, 2]);
        bytes[28..44].copy_from_slice(&directives);
        let frame = Frame::parse(&bytes).unwrap();
        let pairs = directives.as_chunks().0;
        assert_eq!(frame.body, Body::Mask(Mask { command: 1, error: 0, directives: pairs }));
        let mut again = [0xee; 60];
        assert_eq!((frame.emit(&mut again), again), (Some(60), bytes));
        bytes[27] = 5;
        assert_eq!(Frame::parse(&bytes), None, "more directives than octets");

        bytes[19] = 3;
        bytes[24..].fill(0);
        bytes[24..32].copy_from_slice(&[2, 1, 1, 2, 3, 4, 5, 6]);
        let frame = Frame::parse(&bytes).unwrap();
        let macs = &[[1, 2, 3, 4, 5, 6]];
        assert_eq!(frame.body, Body::Reserve(Reserve { command: 2, macs }));
        assert_eq!((frame.emit(&mut again), again), (Some(60), bytes));
        bytes[25] = 6;
        assert_eq!(Frame::parse(&bytes), None, "more stations than octets");
    }

    #[test]
    fn mutations_round_trip_or_are_refused() {
        let mut state = 0x2545_f491_4f6c_dd1du64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut base = [0u8; 96];
        base[12..15].copy_from_slice(&[0x88, 0xa2, 0x18]);
        for _ in 0..200_000 {
            let mut bytes = base;
            for _ in 0..random() % 5 {
                bytes[12 + (random() % 24) as usize] = random() as u8;
            }
            let length = (random() % 97) as usize;
            let Some(frame) = Frame::parse(&bytes[..length]) else { continue };
            let mut again = [0u8; 128];
            let emitted = frame.emit(&mut again).unwrap();
            let reparsed = Frame::parse(&again[..emitted]).unwrap();
            assert_eq!((reparsed.tag, reparsed.target), (frame.tag, frame.target));
            let _ = Identity::parse(&bytes[..length]);
        }
    }

    #[test]
    fn identity() {
        let mut data = [0u8; 512];
        assert_eq!(Identity::parse(&data), None);
        data[167] = 4;
        assert_eq!(Identity::parse(&data), None, "no capacity");
        data[200..206].copy_from_slice(&[0, 0, 2, 0, 1, 0]);
        data[20..22].copy_from_slice(b"es");
        data[54..56].copy_from_slice(b"om");
        let identity = Identity::parse(&data).unwrap();
        assert_eq!(identity.capacity, 0x1_0002_0000);
        assert_eq!((&identity.name[..2], &identity.name[20..22]), (&b"es"[..], &b"om"[..]));
    }
}
