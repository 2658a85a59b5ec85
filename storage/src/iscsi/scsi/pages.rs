//! What a disk tells about itself: INQUIRY, vital product data, logical units.
//!
//! Spec: SPC-4 sections 6.6.2 (standard INQUIRY), 7.8 (pages 00h, 80h, 83h), 6.33
//! (REPORT LUNS); SBC-3 sections 6.6.4 (page B0h), 6.6.6 (page B2h).

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// Vendor, product and revision of standard INQUIRY data.
#[must_use]
pub fn product(data: &[u8]) -> String {
    text(data.get(8..36).unwrap_or_default())
}

fn text(bytes: &[u8]) -> String {
    let printable = |octet: &u8| if octet.is_ascii_graphic() { char::from(*octet) } else { ' ' };
    let text: String = bytes.iter().map(printable).collect();
    String::from(text.trim())
}

/// A page's content, if it is that page.
fn body(data: &[u8], page: u8) -> Option<&[u8]> {
    let [_, code, high, low] = *data.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let rest = data.get(4..)?;
    // The target may have had more to tell than we asked for.
    (code == page).then(|| rest.get(..length).unwrap_or(rest))
}

/// Whether page 00h lists a page.
#[must_use]
pub fn has_page(list: &[u8], page: u8) -> bool {
    body(list, 0).is_some_and(|pages| pages.contains(&page))
}

/// Page 80h: the unit's serial number.
#[must_use]
pub fn serial(data: &[u8]) -> Option<String> {
    body(data, 0x80).map(text).filter(|serial| !serial.is_empty())
}

/// Page 83h: the best name of the logical unit itself, as sent: NAA before EUI-64
/// before a vendor's own.
#[must_use]
pub fn identity(data: &[u8]) -> Option<Vec<u8>> {
    let mut rest = body(data, 0x83)?;
    let mut best: Option<(u8, &[u8])> = None;
    while let [_, kind, _, length, more @ ..] = rest {
        let name = more.get(..usize::from(*length))?;
        let rank = match kind & 0x0f {
            3 => 4,
            2 => 3,
            8 => 2,
            1 => 1,
            _ => 0,
        };
        // Association 0: the logical unit, not its port or target.
        let unit = (kind >> 4) & 3 == 0;
        if unit && rank > best.map_or(0, |(rank, _)| rank) && !name.is_empty() {
            best = Some((rank, name));
        }
        rest = more.get(usize::from(*length)..)?;
    }
    best.map(|(rank, name)| core::iter::once(rank).chain(name.iter().copied()).collect())
}

fn be32(data: &[u8], at: usize) -> u32 {
    data.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_be_bytes(*word))
}

fn be64(data: &[u8], at: usize) -> u64 {
    data.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_be_bytes(*word))
}

/// Page B0h. Zero means that the target does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockLimits {
    /// Blocks of which a transfer should be a multiple.
    pub granularity: u16,
    /// Blocks of a read or write.
    pub transfer: u32,
    /// Blocks of an UNMAP.
    pub unmap: u32,
    /// Ranges of an UNMAP.
    pub descriptors: u32,
    /// Blocks of a WRITE SAME.
    pub write_same: u64,
}

impl BlockLimits {
    /// Reads the page.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        body(data, 0xb0)?;
        Some(Self {
            granularity: data
                .get(6..)
                .and_then(|it| it.first_chunk())
                .map_or(0, |it| u16::from_be_bytes(*it)),
            transfer: be32(data, 8),
            unmap: be32(data, 20),
            descriptors: be32(data, 24),
            write_same: be64(data, 36),
        })
    }
}

/// Page B2h: how blocks are freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Provisioning {
    /// LBPU: by UNMAP.
    pub unmap: bool,
    /// LBPWS: by WRITE SAME(16).
    pub write_same: bool,
}

impl Provisioning {
    /// Reads the page.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let flags = *body(data, 0xb2)?.get(1)?;
        Some(Self { unmap: flags & 0x80 != 0, write_same: flags & 0x40 != 0 })
    }
}

/// The units that REPORT LUNS lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnitList {
    /// Those whose number is of one level, as far as they were told.
    pub units: Vec<u16>,
    /// How many others there are.
    pub others: usize,
}

impl UnitList {
    /// Units that are named in a message.
    const NAMED: usize = 32;

    /// Reads the answer.
    #[must_use]
    pub fn parse(data: &[u8]) -> Self {
        let count = usize::try_from(be32(data, 0)).unwrap_or(usize::MAX) / 8;
        let (listed, _) = data.get(8..).unwrap_or_default().as_chunks::<8>();
        let one_level = listed.iter().take(count).filter_map(|[a, b, rest @ ..]| {
            let flat = a >> 6 <= 1 && rest.iter().all(|octet| *octet == 0);
            flat.then(|| u16::from_be_bytes([a & 0x3f, *b]))
        });
        let units: Vec<u16> = one_level.collect();
        let others = count.saturating_sub(units.len());
        Self { units, others }
    }
}

impl fmt::Display for UnitList {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, unit) in self.units.iter().take(Self::NAMED).enumerate() {
            let space = if place == 0 { "" } else { " " };
            write!(formatter, "{space}{unit}")?;
        }
        match (self.units.len().saturating_sub(Self::NAMED).saturating_add(self.others), self.units.len()) {
            (0, 0) => formatter.write_str("none"),
            (0, _) => Ok(()),
            (more, 0) => write!(formatter, "{more} that cannot be named"),
            (more, _) => write!(formatter, " and {more} more"),
        }
    }
}

/// What the first octet of INQUIRY data says (SPC-4, tables 142 and 143).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peripheral(u8);

impl Peripheral {
    /// Reads standard INQUIRY data.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        data.first().copied().map(Self)
    }

    /// Whether there is a unit.
    #[must_use]
    pub const fn is_there(self) -> bool {
        self.0 >> 5 == 0
    }

    /// The device type.
    #[must_use]
    pub const fn device_type(self) -> u8 {
        self.0 & 0x1f
    }

    /// Whether it takes the commands of a disk.
    #[must_use]
    pub const fn is_disk(self) -> bool {
        // Direct access, write once, CD and DVD, optical memory, simplified direct access.
        self.is_there() && matches!(self.device_type(), 0x00 | 0x04 | 0x05 | 0x07 | 0x0e)
    }

    /// What it is, in words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.device_type() {
            0x00 | 0x0e => "a disk",
            0x01 => "a tape",
            0x02 => "a printer",
            0x03 => "a processor",
            0x04 => "a write-once disk",
            0x05 => "a CD or DVD",
            0x06 => "a scanner",
            0x07 => "an optical memory",
            0x08 => "a medium changer",
            0x09 => "a communications device",
            0x0c => "a storage array controller",
            0x0d => "an enclosure",
            0x0f => "an optical card reader",
            0x10 => "a bridge controller",
            0x11 => "an object storage device",
            0x12 => "an automation interface",
            0x14 => "a zoned disk",
            0x1e => "a well known logical unit",
            _ => "a device of unknown type",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn names() {
        let mut standard = [0u8; 36];
        standard[8..].copy_from_slice(b"IET     VIRTUAL-DISK    0001");
        assert_eq!(product(&standard), "IET     VIRTUAL-DISK    0001");
        assert_eq!(product(&[]), "");
        assert_eq!(serial(b"\x00\x80\x00\x06  ab12").unwrap(), "ab12");
        assert_eq!(serial(b"\x00\x80\x00\x02  "), None);
        assert_eq!(serial(b"\x00\x83\x00\x02ab"), None);
        assert!(has_page(b"\x00\x00\x00\x03\x00\x80\xb0", 0xb0));
        assert!(!has_page(b"\x00\x00\x00\x02\x00\x80\xb0", 0xb0));
    }

    #[test]
    fn the_best_designator_of_the_unit() {
        let mut page = alloc::vec![0, 0x83, 0, 0];
        let mut add = |kind: u8, name: &[u8]| {
            page.extend_from_slice(&[1, kind, 0, u8::try_from(name.len()).unwrap()]);
            page.extend_from_slice(name);
            page[3] = u8::try_from(page.len() - 4).unwrap();
            identity(&page)
        };
        assert_eq!(add(0x13, &[7; 8]), None, "a port's name");
        assert_eq!(add(0x01, b"vendor").unwrap(), b"\x01vendor");
        assert_eq!(add(0x03, &[6; 8]).unwrap(), [4, 6, 6, 6, 6, 6, 6, 6, 6]);
        assert_eq!(add(0x02, &[5; 8]).unwrap(), [4, 6, 6, 6, 6, 6, 6, 6, 6]);
        assert_eq!(identity(&[0, 0x83, 0, 9, 1, 3, 0, 99, 1]), None, "longer than the page");
    }

    #[test]
    fn limits_and_provisioning() {
        let mut page = [0u8; 64];
        page[..4].copy_from_slice(&[0, 0xb0, 0, 60]);
        page[7] = 8;
        page[8..12].copy_from_slice(&[0, 0, 1, 0]);
        page[20..28].copy_from_slice(&[0, 0, 2, 0, 0, 0, 0, 1]);
        page[36..44].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0]);
        let limits =
            BlockLimits { granularity: 8, transfer: 256, unmap: 512, descriptors: 1, write_same: 1 << 32 };
        assert_eq!(BlockLimits::parse(&page), Some(limits));
        assert_eq!(BlockLimits::parse(&[0, 0xb0, 0, 12]), Some(BlockLimits::default()), "an old, short page");
        let both = Provisioning { unmap: true, write_same: true };
        assert_eq!(Provisioning::parse(&[0, 0xb2, 0, 4, 0, 0xc0, 0, 0]), Some(both));
        assert_eq!(Provisioning::parse(&[0, 0xb2, 0, 1, 0]), None);
    }

    #[test]
    fn units() {
        let mut data = [0u8; 40];
        data[3] = 24;
        data[16..18].copy_from_slice(&[0, 7]);
        data[24..26].copy_from_slice(&[0x41, 2]);
        data[33] = 9;
        let list = UnitList::parse(&data);
        assert_eq!((list.units.as_slice(), list.others), (&[0, 7, 258][..], 0));
        assert_eq!(list.to_string(), "0 7 258");
        // More than was asked for, and one of two levels.
        (data[2], data[12]) = (1, 1);
        let list = UnitList::parse(&data);
        assert_eq!((list.units.len(), list.others), (3, 32));
        assert_eq!(list.to_string(), "7 258 9 and 32 more");
        assert_eq!(UnitList::parse(&[]).to_string(), "none");
        assert_eq!(UnitList::parse(&[0, 0, 0, 8, 0, 0, 0, 0]).to_string(), "1 that cannot be named");
        assert!(UnitList::parse(&[0xff; 9]).units.is_empty());
    }

    #[test]
    fn kinds_of_units() {
        let kind = |octet: u8| Peripheral::parse(&[octet, 0]).unwrap();
        assert!(kind(0).is_disk() && kind(5).is_disk() && !kind(0x0c).is_disk());
        assert_eq!((kind(0x0c).name(), kind(0x0c).is_there()), ("a storage array controller", true));
        // Qualifier 011b, type 1Fh: there is none. Qualifier 001b: none is connected.
        assert!(!kind(0x7f).is_there() && !kind(0x20).is_disk());
        assert_eq!(Peripheral::parse(&[]), None);
    }
}
