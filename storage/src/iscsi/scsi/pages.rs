//! What a disk tells about itself: INQUIRY, vital product data, logical units.
//!
//! Spec: SPC-4 sections 6.6.2 (standard INQUIRY), 7.8 (pages 00h, 80h, 83h), 6.33
//! (REPORT LUNS); SBC-3 sections 6.6.4 (page B0h), 6.6.6 (page B2h).

use alloc::string::String;
use alloc::vec::Vec;

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

/// The units that REPORT LUNS lists, of those that fit one level.
#[must_use]
pub fn lun_list(data: &[u8]) -> Vec<u16> {
    let length = usize::try_from(be32(data, 0)).unwrap_or(usize::MAX);
    let (units, _) = data.get(8..).unwrap_or_default().as_chunks::<8>();
    let one_level = units.iter().take(length / 8).filter_map(|[a, b, rest @ ..]| {
        let flat = a >> 6 <= 1 && rest.iter().all(|octet| *octet == 0);
        flat.then(|| u16::from_be_bytes([a & 0x3f, *b]))
    });
    one_level.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        page[8..12].copy_from_slice(&[0, 0, 1, 0]);
        page[20..28].copy_from_slice(&[0, 0, 2, 0, 0, 0, 0, 1]);
        page[36..44].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0]);
        let limits = BlockLimits { transfer: 256, unmap: 512, descriptors: 1, write_same: 1 << 32 };
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
        assert_eq!(lun_list(&data), [0, 7, 258]);
        assert!(lun_list(&[0xff; 9]).is_empty());
    }
}
