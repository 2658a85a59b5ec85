//! The bytes of a state volume: the header of a half, and records.
//!
//! A record is one transaction: all of its changes or none. It names the log it
//! belongs to, which is a new random number for each, and the digest of what comes
//! before it, so what is left of older use of the same blocks never continues a log.
//!
//! Header and records carry a MAC under the store's key, removals included: without the
//! key a record can neither be altered nor appended (HMAC-SHA256, RFC 2104).
//!
//! ```text
//! header   magic 16 | identity 16 | generation 8 | log 8 | records 8 | MAC of the last 32 | MAC 32
//! record   magic 4 | length 4 | log 8 | sequence 8 | MAC before 32 | changes | MAC 32
//! change   1 | key length 1 | key | value length 4 | value      put
//!          2 | key length 1 | key                               remove
//! ```
//!
//! Numbers are little-endian; both are padded with zeroes to whole blocks.

use super::{BLOCK_BYTES, StoreKey};
use crate::limits::{STORE_KEY_BYTES_MAX, STORE_RECORD_BYTES_MAX, STORE_VALUE_BYTES_MAX};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// HMAC-SHA256 under the store's key.
pub(super) type Digest = [u8; 32];

const HEADER_MAGIC: &[u8; 16] = b"redoubt state 2\0";
const RECORD_MAGIC: &[u8; 4] = b"RdSr";
const SEED_LABEL: &[u8] = b"redoubt state log";
const PUT: u8 = 1;
const REMOVE: u8 = 2;
/// Bytes of a record before its changes.
const HEAD_BYTES: usize = 56;
/// Bytes of a header before its MAC.
const HEADER_BYTES: usize = 88;
const DIGEST_BYTES: usize = 32;

/// Takes bytes off the front of a slice, never beyond its end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.array()?)).ok()
    }
}

/// The start of a half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Of the volume, drawn when it was formatted.
    pub(super) identity: [u8; 16],
    /// Rises each time the log moves to the other half.
    pub(super) generation: u64,
    /// Which log this is.
    pub(super) log: u64,
    /// Records that were there before the header was written.
    pub(super) records: u64,
    /// Digest of the last of them, or [`Header::seed`] without any.
    pub(super) last: Digest,
}

/// What the first block of a half holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Zeroes.
    Blank,
    /// A header.
    Header(Header),
    /// A header that is torn, altered, or under another key.
    Torn,
    /// Foreign data.
    Foreign,
}

impl Header {
    /// What the first record of a log continues.
    pub(super) fn seed(key: &StoreKey, identity: &[u8; 16], log: u64) -> Digest {
        key.mac(&[SEED_LABEL, identity, &log.to_le_bytes()])
    }

    /// As a block.
    pub(super) fn to_block(self, key: &StoreKey) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        block.extend_from_slice(HEADER_MAGIC);
        block.extend_from_slice(&self.identity);
        block.extend_from_slice(&self.generation.to_le_bytes());
        block.extend_from_slice(&self.log.to_le_bytes());
        block.extend_from_slice(&self.records.to_le_bytes());
        block.extend_from_slice(&self.last);
        let mac = key.mac(&[&block]);
        block.extend_from_slice(&mac);
        block.resize(BLOCK_BYTES, 0);
        block
    }

    /// What a block holds.
    pub(super) fn find(key: &StoreKey, block: &[u8]) -> Found {
        if block.iter().all(|byte| *byte == 0) {
            return Found::Blank;
        }
        if !block.starts_with(HEADER_MAGIC) {
            return Found::Foreign;
        }
        Self::parse(key, block).map_or(Found::Torn, Found::Header)
    }

    fn parse(key: &StoreKey, block: &[u8]) -> Option<Self> {
        let mut reader = Reader(block.get(HEADER_MAGIC.len()..)?);
        let header = Self {
            identity: reader.array()?,
            generation: reader.number()?,
            log: reader.number()?,
            records: reader.number()?,
            last: reader.array()?,
        };
        let (signed, rest) = block.split_at_checked(HEADER_BYTES)?;
        let (mac, padding) = rest.split_at_checked(DIGEST_BYTES)?;
        let is_whole = block.len() == BLOCK_BYTES && padding.iter().all(|byte| *byte == 0);
        (is_whole && key.verifies(signed, mac)).then_some(header)
    }
}

/// One change of a transaction: a key with its new value, or without one.
pub(super) type Change = (String, Option<Vec<u8>>);

/// What a record follows and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Which log.
    pub(super) log: u64,
    /// One more than the record before; from 1 in each log.
    pub(super) sequence: u64,
    /// Digest of the record before.
    pub(super) before: Digest,
}

/// Bytes that a change takes in a record.
pub(super) fn change_bytes(key: &str, value: Option<&[u8]>) -> usize {
    2 + key.len() + value.map_or(0, |value| 4 + value.len())
}

/// A record as whole blocks, and its MAC.
pub(super) fn encode(key: &StoreKey, place: &Place, changes: &[Change]) -> (Vec<u8>, Digest) {
    let body: usize = changes.iter().map(|(key, value)| change_bytes(key, value.as_deref())).sum();
    let length = HEAD_BYTES + body + DIGEST_BYTES;
    let mut bytes = Vec::with_capacity(length.next_multiple_of(BLOCK_BYTES));
    bytes.extend_from_slice(RECORD_MAGIC);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&place.log.to_le_bytes());
    bytes.extend_from_slice(&place.sequence.to_le_bytes());
    bytes.extend_from_slice(&place.before);
    for (name, value) in changes {
        bytes.push(if value.is_some() { PUT } else { REMOVE });
        bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(name.as_bytes());
        if let Some(value) = value {
            bytes.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend_from_slice(value);
        }
    }
    let digest = key.mac(&[&bytes]);
    bytes.extend_from_slice(&digest);
    bytes.resize(length.next_multiple_of(BLOCK_BYTES), 0);
    (bytes, digest)
}

/// Bytes of the record that begins here, if one does: without padding.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let mut reader = Reader(bytes.strip_prefix(RECORD_MAGIC)?);
    let length = reader.length()?;
    (HEAD_BYTES + DIGEST_BYTES..=STORE_RECORD_BYTES_MAX).contains(&length).then_some(length)
}

/// The place of a whole, unaltered record, its MAC and its changes.
pub(super) fn decode(key: &StoreKey, bytes: &[u8]) -> Option<(Place, Digest, Vec<Change>)> {
    let record = bytes.get(..length(bytes)?)?;
    let (signed, digest) = record.split_at_checked(record.len() - DIGEST_BYTES)?;
    if !key.verifies(signed, digest) {
        return None;
    }
    let (place, changes) = parse(signed)?;
    Some((place, digest.try_into().ok()?, changes))
}

/// What a record says whose MAC fits.
fn parse(signed: &[u8]) -> Option<(Place, Vec<Change>)> {
    let mut reader = Reader(signed.get(8..)?);
    let place = Place { log: reader.number()?, sequence: reader.number()?, before: reader.array()? };
    let mut changes = Vec::new();
    while !reader.0.is_empty() {
        let [kind, key_bytes] = reader.array()?;
        let key = core::str::from_utf8(reader.take(usize::from(key_bytes))?).ok()?;
        let value = match kind {
            PUT => {
                let count = reader.length().filter(|count| *count <= STORE_VALUE_BYTES_MAX)?;
                Some(reader.take(count)?.to_vec())
            }
            REMOVE => None,
            _ => return None,
        };
        if key.is_empty() || key.len() > STORE_KEY_BYTES_MAX {
            return None;
        }
        changes.push((key.to_string(), value));
    }
    Some((place, changes))
}

#[cfg(test)]
mod tests {
    use super::{
        Change, DIGEST_BYTES, Found, HEADER_BYTES, Header, Place, StoreKey, decode, encode, length, parse,
    };
    use crate::tests::mutate::{Random, mutate, wanted};
    use alloc::string::ToString as _;
    use alloc::vec;
    use alloc::vec::Vec;
    use sha2::Digest as _;

    /// As another program computed them.
    const HEADER_MAC: [u8; 32] = [
        0x1e, 0xa6, 0x4f, 0xdc, 0xcf, 0x6f, 0x8a, 0x15, 0x5d, 0xf9, 0x8d, 0xee, 0x7c, 0x4f, 0x7a, 0x21, 0xa4,
        0xed, 0xc8, 0x2c, 0x44, 0x30, 0xed, 0xca, 0x12, 0x9e, 0x4b, 0x3b, 0x26, 0x4d, 0x37, 0x3d,
    ];
    const RECORD_MAC: [u8; 32] = [
        0x65, 0xa2, 0x19, 0xad, 0x2c, 0x2e, 0x95, 0x64, 0xca, 0x6e, 0x65, 0xf6, 0xe2, 0xc4, 0x58, 0xa0, 0x4a,
        0xdf, 0xe1, 0x40, 0x33, 0xb6, 0xfe, 0xf7, 0xc6, 0xa8, 0x7e, 0x4f, 0xd8, 0xed, 0xb2, 0x74,
    ];

    fn key() -> StoreKey {
        StoreKey::new([0x6b; 32])
    }

    fn header() -> Header {
        Header { identity: [7; 16], generation: 3, log: 8, records: 2, last: [9; 32] }
    }

    fn record() -> (Place, Vec<Change>, Vec<u8>) {
        let place = Place { log: 3, sequence: 12, before: [5; 32] };
        let changes = vec![
            ("identity".to_string(), Some(vec![1, 2, 3])),
            ("guest/web1".to_string(), None),
            ("empty".to_string(), Some(Vec::new())),
        ];
        let bytes = encode(&key(), &place, &changes).0;
        (place, changes, bytes)
    }

    #[test]
    fn headers_round_trip_and_altered_ones_are_torn() {
        let block = header().to_block(&key());
        assert_eq!(block.len(), 4096);
        assert_eq!(Header::find(&key(), &block), Found::Header(header()));
        assert_eq!(Header::find(&key(), &[0; 4096]), Found::Blank);
        for at in 0..block.len() {
            let mut altered = block.clone();
            altered[at] ^= 1;
            let expected = if at < 16 { Found::Foreign } else { Found::Torn };
            assert_eq!(Header::find(&key(), &altered), expected, "byte {at}");
        }
    }

    #[test]
    fn records_round_trip_and_altered_ones_fail() {
        let (place, changes, bytes) = record();
        assert_eq!(bytes.len(), 4096);
        let (found, digest, decoded) = decode(&key(), &bytes).unwrap();
        assert_eq!((found, decoded), (place, changes.clone()));
        assert_eq!(digest, encode(&key(), &place, &changes).1);
        for at in 0..length(&bytes).unwrap() {
            let mut altered = bytes.clone();
            altered[at] ^= 0x10;
            assert_eq!(decode(&key(), &altered), None, "byte {at}");
        }
        for cut in 0..length(&bytes).unwrap() {
            assert_eq!(decode(&key(), &bytes[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn nothing_is_authentic_under_another_key() {
        let other = StoreKey::new([0x6c; 32]);
        let (place, changes, bytes) = record();
        assert_eq!(decode(&other, &bytes), None);
        assert_eq!(Header::find(&other, &header().to_block(&key())), Found::Torn);
        assert_ne!(Header::seed(&other, &[7; 16], 8), Header::seed(&key(), &[7; 16], 8));
        // A plain SHA-256, which anyone can compute, is no MAC.
        let mut forged = encode(&key(), &place, &changes).0;
        let end = length(&forged).unwrap();
        let digest = sha2::Sha256::digest(&forged[..end - DIGEST_BYTES]);
        forged[end - DIGEST_BYTES..end].copy_from_slice(&digest);
        assert_eq!(decode(&key(), &forged), None);
    }

    #[test]
    fn the_bytes_of_version_2_are_these() {
        let block = header().to_block(&key());
        assert_eq!(block[..16], *b"redoubt state 2\0");
        assert_eq!(block[16..32], [7; 16]);
        assert_eq!(block[32..56], *b"\x03\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0");
        assert_eq!(block[56..88], [9; 32]);
        assert_eq!(block[HEADER_BYTES..120], HEADER_MAC);
        let (_, _, bytes) = record();
        assert_eq!(bytes[96..128], RECORD_MAC);
        assert_eq!(bytes[..8], *b"RdSr\x80\0\0\0");
        assert_eq!(bytes[8..24], *b"\x03\0\0\0\0\0\0\0\x0c\0\0\0\0\0\0\0");
        assert_eq!(bytes[24..56], [5; 32]);
        assert_eq!(bytes[56..73], *b"\x01\x08identity\x03\0\0\0\x01\x02\x03");
        assert_eq!(bytes[73..85], *b"\x02\x0aguest/web1");
        assert_eq!(bytes[85..96], *b"\x01\x05empty\0\0\0\0");
    }

    /// Behind a MAC that fits, as only the key's holder could make it.
    #[test]
    fn mutated_records_and_headers_are_harmless() {
        let mut random = Random::new(3);
        let (_, _, good) = record();
        let good = &good[..length(&good).unwrap() - DIGEST_BYTES];
        let block = header().to_block(&key());
        for round in 0..wanted(1_000_000) {
            let mut bytes = good.to_vec();
            mutate(&mut random, &mut bytes, good.len());
            if let Some((place, changes)) = parse(&bytes) {
                let (again, digest) = encode(&key(), &place, &changes);
                let told = decode(&key(), &again);
                assert_eq!(told, Some((place, digest, changes)), "round {round}");
                assert!(length(&again).unwrap() <= bytes.len() + DIGEST_BYTES, "round {round}");
            }
            if round % 64 == 0 {
                let mut altered = block.clone();
                mutate(&mut random, &mut altered, 128);
                let is_same = altered == block;
                assert_eq!(
                    Header::find(&key(), &altered) == Found::Header(header()),
                    is_same,
                    "round {round}"
                );
                let _ = decode(&key(), &bytes);
            }
        }
    }
}
