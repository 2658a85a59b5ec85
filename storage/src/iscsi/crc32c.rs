//! CRC32C (Castagnoli), the iSCSI digest.
//!
//! Spec: RFC 7143 section 13.1; test values from appendix B.4 of RFC 3720.

const POLYNOMIAL: u32 = 0x82f6_3b78;

/// Eight tables: eight octets a step.
#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "evaluated by the compiler; indices are loop bounds below the array lengths"
)]
const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut index = 0;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 != 0 { (value >> 1) ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        tables[0][index] = value;
        index += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut index = 0;
        while index < 256 {
            let previous = tables[table - 1][index];
            tables[table][index] = (previous >> 8) ^ tables[0][(previous & 0xff) as usize];
            index += 1;
        }
        table += 1;
    }
    tables
}

static TABLES: [[u32; 256]; 8] = tables();

/// A running digest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crc32c(u32);

impl Crc32c {
    pub(crate) const fn new() -> Self {
        Self(u32::MAX)
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "an octet always indexes a table of 256; checked access halves the speed"
    )]
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        let [t0, t1, t2, t3, t4, t5, t6, t7] = &TABLES;
        let (chunks, rest) = bytes.as_chunks::<8>();
        for [a, b, c, d, e, f, g, h] in chunks {
            let [w, x, y, z] = (self.0 ^ u32::from_le_bytes([*a, *b, *c, *d])).to_le_bytes();
            self.0 = t7[usize::from(w)]
                ^ t6[usize::from(x)]
                ^ t5[usize::from(y)]
                ^ t4[usize::from(z)]
                ^ t3[usize::from(*e)]
                ^ t2[usize::from(*f)]
                ^ t1[usize::from(*g)]
                ^ t0[usize::from(*h)];
        }
        for octet in rest {
            let [low, ..] = self.0.to_le_bytes();
            self.0 = (self.0 >> 8) ^ t0[usize::from(low ^ octet)];
        }
    }

    /// The digest as it is sent.
    pub(crate) const fn finish(self) -> [u8; 4] {
        (!self.0).to_le_bytes()
    }
}

/// The digest of `bytes` as it is sent.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> [u8; 4] {
    let mut digest = Crc32c::new();
    digest.update(bytes);
    digest.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_values() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283u32.to_le_bytes());
        assert_eq!(crc32c(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
        assert_eq!(crc32c(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
        let rising: [u8; 32] = core::array::from_fn(|index| u8::try_from(index).unwrap());
        assert_eq!(crc32c(&rising), [0x4e, 0x79, 0xdd, 0x46]);
        for split in 0..32 {
            let mut digest = Crc32c::new();
            digest.update(&rising[..split]);
            digest.update(&rising[split..]);
            assert_eq!(digest.finish(), [0x4e, 0x79, 0xdd, 0x46]);
        }
    }
}
