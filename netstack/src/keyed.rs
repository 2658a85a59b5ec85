//! Hashing for tables whose keys strangers choose: a seed of this boot, which they do not
//! know, decides what falls together.

use core::fmt;
use core::hash::{BuildHasher, Hasher};

use sha2::{Digest, Sha256};

/// A table that is looked up by key, in no order.
pub(crate) type KeyedMap<K, V> = hashbrown::HashMap<K, V, Keyed>;

/// Makes hashers of one seed.
#[derive(Clone, Copy)]
pub(crate) struct Keyed {
    begin: u64,
    factor: u64,
}

impl Keyed {
    /// Hashers for one purpose, by a secret of this boot.
    pub(crate) fn new(secret: &[u8; 16], purpose: &[u8]) -> Self {
        let digest = Sha256::new().chain_update(secret).chain_update(purpose).finalize();
        let mut words = digest.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let mut next = || words.next().unwrap_or(0);
        // An odd factor loses nothing.
        Self { begin: next(), factor: next() | 1 }
    }
}

/// The seed stays unsaid.
impl fmt::Debug for Keyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyed")
    }
}

impl BuildHasher for Keyed {
    type Hasher = KeyedHasher;

    fn build_hasher(&self) -> KeyedHasher {
        KeyedHasher { state: self.begin, factor: self.factor }
    }
}

/// Multiplies what it is given by the seed, and folds both halves of the product.
pub(crate) struct KeyedHasher {
    state: u64,
    factor: u64,
}

impl Hasher for KeyedHasher {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            for (octet, byte) in word.iter_mut().zip(part) {
                *octet = *byte;
            }
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let [low, high] = halves(u128::from(self.state ^ word) * u128::from(self.factor));
        self.state = low ^ high;
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

fn halves(value: u128) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = value.to_le_bytes();
    [u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes([i, j, k, l, m, n, o, p])]
}

#[cfg(test)]
mod tests {
    use super::Keyed;
    use alloc::collections::BTreeMap;
    use core::hash::BuildHasher;

    /// How many of the likeliest keys fall on the fullest of 256 places, by either end of the
    /// hash: a table chooses by the low bits and compares the high ones first.
    fn fullest(keyed: Keyed, keys: impl Iterator<Item = [u8; 6]>) -> usize {
        let (mut low, mut high) = (BTreeMap::new(), BTreeMap::new());
        for key in keys {
            let hash = keyed.hash_one(key);
            *low.entry(hash & 0xff).or_insert(0) += 1;
            *high.entry(hash >> 56).or_insert(0) += 1;
        }
        low.into_values().chain(high.into_values()).max().unwrap_or(0)
    }

    #[test]
    fn addresses_of_any_kind_spread() {
        for seed in 0..32 {
            let keyed = Keyed::new(&[seed; 16], b"test");
            let counted = (0..4096_u32).map(|number| {
                let [a, b, c, d] = number.to_be_bytes();
                [2, 0, a, b, c, d]
            });
            let at_the_front = (0..4096_u32).map(|number| {
                let [a, b, c, d] = number.to_le_bytes();
                [a, b, c, d, 0, 0]
            });
            // 16 each on average.
            assert!(fullest(keyed, counted) < 64, "seed {seed}");
            assert!(fullest(keyed, at_the_front) < 64, "seed {seed}");
        }
    }

    #[test]
    fn seeds_and_purposes_make_other_hashes() {
        let hash = |secret, purpose: &[u8]| Keyed::new(&[secret; 16], purpose).hash_one([1_u8; 6]);
        assert_eq!(hash(1, b"a"), hash(1, b"a"));
        assert!(hash(1, b"a") != hash(2, b"a") && hash(1, b"a") != hash(1, b"b"));
    }
}
