//! The bytes of a state volume: the header of a half, and records.
//!
//! A record is one transaction: all of its changes or none. It names the log it
//! belongs to, which is a new random number for each, and the digest of what comes
//! before it, so what is left of older use of the same blocks never continues a log.
//!
//! ```text
//! header   magic 16 | identity 16 | generation 8 | log 8 | records 8 | digest of the last 32 | SHA-256 32
//! record   magic 4 | length 4 | log 8 | sequence 8 | digest before 32 | changes | SHA-256 32
//! change   1 | key length 1 | key | value length 4 | value      put
//!          2 | key length 1 | key                               remove
//! ```
//!
//! Numbers are little-endian; both are padded with zeroes to whole blocks.

use super::BLOCK_BYTES;
use crate::limits::{STORE_KEY_BYTES_MAX, STORE_RECORD_BYTES_MAX, STORE_VALUE_BYTES_MAX};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use sha2::{Digest as _, Sha256};

/// SHA-256.
pub(super) type Digest = [u8; 32];

const HEADER_MAGIC: &[u8; 16] = b"redoubt state 1\0";
const RECORD_MAGIC: &[u8; 4] = b"RdSr";
const PUT: u8 = 1;
const REMOVE: u8 = 2;
/// Bytes of a record before its changes.
const HEAD_BYTES: usize = 56;
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
    /// A header of ours that is torn or altered.
    Torn,
    /// Somebody else's data.
    Foreign,
}

impl Header {
    /// What the first record of a log continues.
    pub(super) fn seed(identity: &[u8; 16], log: u64) -> Digest {
        let mut hash = Sha256::new();
        hash.update(HEADER_MAGIC);
        hash.update(identity);
        hash.update(log.to_le_bytes());
        hash.finalize().into()
    }

    /// As a block.
    pub(super) fn to_block(self) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        block.extend_from_slice(HEADER_MAGIC);
        block.extend_from_slice(&self.identity);
        block.extend_from_slice(&self.generation.to_le_bytes());
        block.extend_from_slice(&self.log.to_le_bytes());
        block.extend_from_slice(&self.records.to_le_bytes());
        block.extend_from_slice(&self.last);
        let digest = Sha256::digest(&block);
        block.extend_from_slice(&digest);
        block.resize(BLOCK_BYTES, 0);
        block
    }

    /// What a block holds.
    pub(super) fn find(block: &[u8]) -> Found {
        if block.iter().all(|byte| *byte == 0) {
            return Found::Blank;
        }
        if !block.starts_with(HEADER_MAGIC) {
            return Found::Foreign;
        }
        Self::parse(block).map_or(Found::Torn, Found::Header)
    }

    fn parse(block: &[u8]) -> Option<Self> {
        let mut reader = Reader(block.get(HEADER_MAGIC.len()..)?);
        let header = Self {
            identity: reader.array()?,
            generation: reader.number()?,
            log: reader.number()?,
            records: reader.number()?,
            last: reader.array()?,
        };
        (header.to_block().as_slice() == block).then_some(header)
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

/// A record as whole blocks, and its digest.
pub(super) fn encode(place: &Place, changes: &[Change]) -> (Vec<u8>, Digest) {
    let body: usize = changes.iter().map(|(key, value)| change_bytes(key, value.as_deref())).sum();
    let length = HEAD_BYTES + body + DIGEST_BYTES;
    let mut bytes = Vec::with_capacity(length.next_multiple_of(BLOCK_BYTES));
    bytes.extend_from_slice(RECORD_MAGIC);
    bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    bytes.extend_from_slice(&place.log.to_le_bytes());
    bytes.extend_from_slice(&place.sequence.to_le_bytes());
    bytes.extend_from_slice(&place.before);
    for (key, value) in changes {
        bytes.push(if value.is_some() { PUT } else { REMOVE });
        bytes.push(u8::try_from(key.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(key.as_bytes());
        if let Some(value) = value {
            bytes.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend_from_slice(value);
        }
    }
    let digest: Digest = Sha256::digest(&bytes).into();
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

/// The place of a whole, unaltered record, its digest and its changes.
pub(super) fn decode(bytes: &[u8]) -> Option<(Place, Digest, Vec<Change>)> {
    let record = bytes.get(..length(bytes)?)?;
    let (signed, digest) = record.split_at_checked(record.len() - DIGEST_BYTES)?;
    let computed: Digest = Sha256::digest(signed).into();
    if computed != digest {
        return None;
    }
    let (place, changes) = parse(signed)?;
    Some((place, computed, changes))
}

/// What a record says whose digest fits.
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
    use super::{Change, DIGEST_BYTES, Found, Header, Place, decode, encode, length, parse};
    use crate::tests::mutate::{Random, mutate, wanted};
    use alloc::string::ToString as _;
    use alloc::vec;
    use alloc::vec::Vec;

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
        let bytes = encode(&place, &changes).0;
        (place, changes, bytes)
    }

    #[test]
    fn a_header_is_found_again_and_an_altered_one_is_torn() {
        let block = header().to_block();
        assert_eq!(block.len(), 4096);
        assert_eq!(Header::find(&block), Found::Header(header()));
        assert_eq!(Header::find(&[0; 4096]), Found::Blank);
        for at in 0..block.len() {
            let mut altered = block.clone();
            altered[at] ^= 1;
            let expected = if at < 16 { Found::Foreign } else { Found::Torn };
            assert_eq!(Header::find(&altered), expected, "byte {at}");
        }
    }

    #[test]
    fn a_record_is_decoded_as_it_was_encoded_and_an_altered_one_is_not() {
        let (place, changes, bytes) = record();
        assert_eq!(bytes.len(), 4096);
        let (found, digest, decoded) = decode(&bytes).unwrap();
        assert_eq!((found, decoded), (place, changes.clone()));
        assert_eq!(digest, encode(&place, &changes).1);
        for at in 0..length(&bytes).unwrap() {
            let mut altered = bytes.clone();
            altered[at] ^= 0x10;
            assert_eq!(decode(&altered), None, "byte {at}");
        }
        for cut in 0..length(&bytes).unwrap() {
            assert_eq!(decode(&bytes[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn the_bytes_of_version_1_are_these() {
        let (_, _, bytes) = record();
        assert_eq!(bytes[..8], *b"RdSr\x80\0\0\0");
        assert_eq!(bytes[8..24], *b"\x03\0\0\0\0\0\0\0\x0c\0\0\0\0\0\0\0");
        assert_eq!(bytes[24..56], [5; 32]);
        assert_eq!(bytes[56..73], *b"\x01\x08identity\x03\0\0\0\x01\x02\x03");
        assert_eq!(bytes[73..85], *b"\x02\x0aguest/web1");
        assert_eq!(bytes[85..96], *b"\x01\x05empty\0\0\0\0");
    }

    /// Behind a digest that fits, as only somebody with the key could make it.
    #[test]
    fn mutated_records_and_headers_are_harmless() {
        let mut random = Random::new(3);
        let (_, _, good) = record();
        let good = &good[..length(&good).unwrap() - DIGEST_BYTES];
        let block = header().to_block();
        for round in 0..wanted(1_000_000) {
            let mut bytes = good.to_vec();
            mutate(&mut random, &mut bytes, good.len());
            if let Some((place, changes)) = parse(&bytes) {
                let (again, digest) = encode(&place, &changes);
                let told = decode(&again);
                assert_eq!(told, Some((place, digest, changes)), "round {round}");
                assert!(length(&again).unwrap() <= bytes.len() + DIGEST_BYTES, "round {round}");
            }
            if round % 64 == 0 {
                let mut altered = block.clone();
                mutate(&mut random, &mut altered, 128);
                let is_same = altered == block;
                assert_eq!(Header::find(&altered) == Found::Header(header()), is_same, "round {round}");
                let _ = decode(&bytes);
            }
        }
    }
}
