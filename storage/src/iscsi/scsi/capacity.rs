//! A disk's size.
//!
//! Spec: SBC-3 sections 5.15 (READ CAPACITY(10)) and 5.16 (READ CAPACITY(16)).

/// Octets of the longest physical block that is accepted.
const PHYSICAL_BYTES_MAX: u32 = 65_536;

/// A disk's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Logical blocks.
    pub blocks: u64,
    /// Octets per block: a power of two from 512 to 64 KiB.
    pub block_bytes: u32,
    /// LBPME: blocks can be unmapped.
    pub thin: bool,
    /// LBPRZ: unmapped blocks read as zeroes.
    pub unmapped_zeroes: bool,
    /// Logical blocks of a physical one, as a power of two.
    pub physical_exponent: u8,
    /// The first logical block with which a physical one begins.
    pub aligned_block: u8,
}

impl Capacity {
    /// Reads the answer to READ CAPACITY(16).
    #[must_use]
    pub fn parse_16(data: &[u8]) -> Option<Self> {
        let last = u64::from_be_bytes(*data.first_chunk()?);
        let block_bytes = u32::from_be_bytes(*data.get(8..)?.first_chunk()?);
        let flags = data.get(14).copied().unwrap_or(0);
        let capacity = Self::checked(last, block_bytes)?;
        // Physical blocks that are longer than any are not accepted.
        let exponent = data.get(13).copied().unwrap_or(0) & 0xf;
        let physical_exponent = if block_bytes << exponent <= PHYSICAL_BYTES_MAX { exponent } else { 0 };
        let aligned = u16::from_be_bytes([flags & 0x3f, data.get(15).copied().unwrap_or(0)]);
        let within = u8::try_from(aligned).ok().filter(|it| u32::from(*it) < 1 << physical_exponent);
        Some(Self {
            thin: flags & 0x80 != 0,
            unmapped_zeroes: flags & 0x40 != 0,
            physical_exponent,
            aligned_block: within.unwrap_or(0),
            ..capacity
        })
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
        sound.then_some(Self {
            blocks,
            block_bytes,
            thin: false,
            unmapped_zeroes: false,
            physical_exponent: 0,
            aligned_block: 0,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let mut data = [0u8; 32];
        data[6..12].copy_from_slice(&[0xff, 0xff, 0, 0, 0x10, 0]);
        data[14] = 0xc0;
        let capacity = Capacity::parse_16(&data).unwrap();
        assert_eq!((capacity.blocks, capacity.sectors()), (65_536, 524_288));
        assert!(capacity.thin && capacity.unmapped_zeroes);
        // A disk of 512 octets on blocks of 4,096, the first of which begins at LBA 7.
        (data[10], data[13], data[14], data[15]) = (2, 3, 0, 7);
        let emulated = Capacity::parse_16(&data).unwrap();
        assert_eq!((emulated.block_bytes, emulated.physical_exponent, emulated.aligned_block), (512, 3, 7));
        (data[13], data[15]) = (0xf, 8);
        let absurd = Capacity::parse_16(&data).unwrap();
        assert_eq!((absurd.physical_exponent, absurd.aligned_block), (0, 0));
        data[10] = 0x11;
        assert_eq!(Capacity::parse_16(&data), None);
        assert_eq!(Capacity::parse_16(&[0xff; 32]), None);
        let ten = Capacity::parse_10(&[0, 0, 0, 7, 0, 0, 2, 0]).unwrap();
        assert_eq!((ten.blocks, ten.block_bytes, ten.thin), (8, 512, false));
    }
}
