//! SCSI commands, what disks tell about themselves, and sense.
//!
//! Spec: SPC-4 (INQUIRY 6.6, REPORT LUNS 6.33, MODE SENSE(6) 6.11, PERSISTENT RESERVE
//! 6.15 and 6.16, sense 4.5, VPD pages 7.8), SBC-3 (READ CAPACITY(16) 5.16, READ and
//! WRITE 5.11 and 5.32, SYNCHRONIZE CACHE 5.22, UNMAP 5.28, WRITE SAME(16) 5.44, VPD
//! pages 6.6).

use alloc::vec::Vec;

mod capacity;
mod pages;
mod reservation;
mod sense;

pub use capacity::Capacity;
pub use pages::{BlockLimits, Peripheral, Provisioning, UnitList, has_page, identity, product, serial};
pub use reservation::{PersistentOut, Reservation};
pub use sense::{Sense, Verdict, judge};

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
/// Octets asked of a VPD page.
pub const PAGE_BYTES: u32 = 1_024;
/// Octets asked of REPORT LUNS: the header and 255 units.
pub const LUNS_BYTES: u32 = 2_048;
/// REPORT LUNS.
pub const REPORT_LUNS: Cdb = [0xa0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0];
/// Octets asked of MODE SENSE(6).
pub const MODE_BYTES: u32 = 192;
/// MODE SENSE(6), all pages, no block descriptors.
pub const MODE_SENSE: Cdb = [0x1a, 8, 0x3f, 0, 192, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Octets asked of PERSISTENT RESERVE IN.
pub const RESERVATION_BYTES: u32 = 24;
/// PERSISTENT RESERVE IN, READ RESERVATION.
pub const READ_RESERVATION: Cdb = [0x5e, 1, 0, 0, 0, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0];
/// Octets of UNMAP's parameter list with one descriptor.
pub const UNMAP_BYTES: u32 = 24;
/// Operation code of READ(16).
pub const READ_16: u8 = 0x88;
/// Operation code of WRITE(16).
pub const WRITE_16: u8 = 0x8a;
/// UNMAP with one descriptor.
pub const UNMAP: Cdb = [0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0];

/// INQUIRY for a vital product data page.
#[must_use]
pub const fn inquiry_page(page: u8) -> Cdb {
    [0x12, 1, page, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn padded(fields: impl Iterator<Item = u8>) -> Cdb {
    let mut cdb = [0; 16];
    for (target, source) in cdb.iter_mut().zip(fields) {
        *target = source;
    }
    cdb
}

/// READ(16) or WRITE(16); `ten` asks for the ten-octet form, which is used if the
/// address and length fit it.
#[must_use]
pub fn transfer(write: bool, block: u64, blocks: u32, ten: bool) -> Cdb {
    if ten && let (Ok(block), Ok(blocks)) = (u32::try_from(block), u16::try_from(blocks)) {
        let ([a, b, c, d], [e, f]) = (block.to_be_bytes(), blocks.to_be_bytes());
        return padded([if write { 0x2a } else { 0x28 }, 0, a, b, c, d, 0, e, f].into_iter());
    }
    let ([a, b, c, d, e, f, g, h], [i, j, k, l]) = (block.to_be_bytes(), blocks.to_be_bytes());
    [if write { WRITE_16 } else { READ_16 }, 0, a, b, c, d, e, f, g, h, i, j, k, l, 0, 0]
}

/// WRITE SAME(16) of one block; `unmap` lets the target free the range if zeroes are
/// read from it afterwards.
#[must_use]
pub fn write_same(block: u64, blocks: u32, unmap: bool) -> Cdb {
    let opcode = [0x93, if unmap { 8 } else { 0 }];
    padded(opcode.into_iter().chain(block.to_be_bytes()).chain(blocks.to_be_bytes()))
}

/// UNMAP's parameter list for one range (SBC-3 5.28.2).
#[must_use]
pub fn unmap_list(block: u64, blocks: u32) -> Vec<u8> {
    let header = [0, 22, 0, 16, 0, 0, 0, 0];
    header.into_iter().chain(block.to_be_bytes()).chain(blocks.to_be_bytes()).chain([0; 4]).collect()
}

/// Whether MODE SENSE(6) says that the medium is write-protected (SPC-4 7.5.5).
#[must_use]
pub fn is_write_protected(data: &[u8]) -> bool {
    data.get(2).is_some_and(|device| device & 0x80 != 0)
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
        let same = write_same(0x0102_0304_0506_0708, 0x1122_3344, true);
        assert_eq!(same, [0x93, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x22, 0x33, 0x44, 0, 0]);
        let list = unmap_list(0x0102_0304_0506_0708, 0x1122_3344);
        assert_eq!(
            list,
            [0, 22, 0, 16, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x22, 0x33, 0x44, 0, 0, 0, 0]
        );
        assert_eq!(inquiry_page(0x83)[..6], [0x12, 1, 0x83, 4, 0, 0]);
        assert!(is_write_protected(&[3, 0, 0x80, 0]) && !is_write_protected(&[3, 0, 0x10, 0]));
    }
}
