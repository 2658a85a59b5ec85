//! Cuts the TCP stream into PDUs and checks their digests.
//!
//! Spec: RFC 7143 sections 11.2 and 13.1.
//!
//! Data segments are passed on in pieces as they arrive, so that a read's data is
//! copied once, from the TCP buffer to the guest.

use alloc::vec::Vec;

use super::crc32c::{Crc32c, crc32c};
use super::pdu::{HEADER_BYTES, Header};
use crate::mutants::{Mutant, mutated};

const DIGEST_BYTES: usize = 4;

/// The stream cannot be trusted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamFault {
    HeaderDigest,
    DataDigest,
    TooLong,
}

/// What was received.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event<'a> {
    /// Not enough octets for more.
    Nothing,
    /// A header; its data segment follows.
    Header(Header),
    /// A piece of the data segment.
    Data(&'a [u8]),
    /// The PDU is complete and its digests are right.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    Data { left: usize },
    Tail { padding: usize, digest: bool },
}

#[derive(Debug)]
pub(crate) struct Receiver {
    stage: Stage,
    held: Vec<u8>,
    /// Padding octets behind the data, and whether a digest follows them.
    after: (usize, bool),
    digest: Crc32c,
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
    pub(crate) segment_bytes_max: usize,
}

impl Receiver {
    pub(crate) fn new(segment_bytes_max: usize) -> Self {
        Self {
            stage: Stage::Header,
            held: Vec::new(),
            after: (0, false),
            digest: Crc32c::new(),
            header_digest: false,
            data_digest: false,
            segment_bytes_max,
        }
    }

    /// Whether the next octet is a header's first.
    pub(crate) fn is_between(&self) -> bool {
        self.stage == Stage::Header && self.held.is_empty()
    }

    /// Takes a PDU off the front of `bytes`, if it is there from its first octet to its
    /// last: its header and its data segment.
    pub(crate) fn whole<'a>(
        &mut self,
        bytes: &mut &'a [u8],
    ) -> Result<Option<(Header, &'a [u8])>, StreamFault> {
        if self.stage != Stage::Header || !self.held.is_empty() {
            return Ok(None);
        }
        let Some((basic, rest)) = bytes.split_first_chunk() else { return Ok(None) };
        let header = Header(*basic);
        let length = header.data_length();
        let head = if self.header_digest { DIGEST_BYTES } else { 0 };
        // Zero-length segments carry neither padding nor digest (11.2.4).
        let tail = if self.data_digest && length > 0 { DIGEST_BYTES } else { 0 };
        let padded = length.next_multiple_of(4);
        let total = head.saturating_add(padded).saturating_add(tail);
        if header.additional_length() > 0 || length > self.segment_bytes_max || rest.len() < total {
            return Ok(None);
        }
        let (pdu, rest) = rest.split_at(total);
        let (digest, pdu) = pdu.split_at(head.min(pdu.len()));
        if self.header_digest && crc32c(&header.0) != *digest && !mutated(Mutant::DigestIgnored) {
            return Err(StreamFault::HeaderDigest);
        }
        let (covered, digest) = pdu.split_at(padded.min(pdu.len()));
        if tail > 0 && crc32c(covered) != *digest && !mutated(Mutant::DigestIgnored) {
            return Err(StreamFault::DataDigest);
        }
        *bytes = rest;
        Ok(Some((header, covered.get(..length).unwrap_or_default())))
    }

    /// Takes octets off the front of `bytes` up to the next event.
    pub(crate) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Event<'a>, StreamFault> {
        match self.stage {
            Stage::Header => self.header(bytes),
            Stage::Data { left: 0 } => {
                self.end_data();
                self.next(bytes)
            }
            Stage::Data { left } => {
                let (piece, rest) = bytes.split_at(left.min(bytes.len()));
                *bytes = rest;
                if piece.is_empty() {
                    return Ok(Event::Nothing);
                }
                self.stage = Stage::Data { left: left.saturating_sub(piece.len()) };
                if self.data_digest {
                    self.digest.update(piece);
                }
                Ok(Event::Data(piece))
            }
            Stage::Tail { padding, digest } => self.tail(bytes, padding, digest),
        }
    }

    fn fill(&mut self, bytes: &mut &[u8], wanted: usize) -> bool {
        let missing = wanted.saturating_sub(self.held.len());
        let (piece, rest) = bytes.split_at(missing.min(bytes.len()));
        self.held.extend_from_slice(piece);
        *bytes = rest;
        self.held.len() >= wanted
    }

    fn header<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Event<'a>, StreamFault> {
        // Whole and without anything to check, as it mostly is: not copied together.
        if self.held.is_empty()
            && !self.header_digest
            && let Some((basic, rest)) = bytes.split_first_chunk()
            && Header(*basic).additional_length() == 0
        {
            *bytes = rest;
            return self.begin(Header(*basic));
        }
        if !self.fill(bytes, HEADER_BYTES) {
            return Ok(Event::Nothing);
        }
        let Some(header) = self.held.first_chunk().map(|basic| Header(*basic)) else {
            return Ok(Event::Nothing);
        };
        let length = HEADER_BYTES.saturating_add(header.additional_length());
        let digest = if self.header_digest { DIGEST_BYTES } else { 0 };
        if !self.fill(bytes, length.saturating_add(digest)) {
            return Ok(Event::Nothing);
        }
        let (covered, sent) = self.held.split_at(length.min(self.held.len()));
        if self.header_digest && crc32c(covered) != *sent && !mutated(Mutant::DigestIgnored) {
            return Err(StreamFault::HeaderDigest);
        }
        self.held.clear();
        self.begin(header)
    }

    /// The data segment begins.
    fn begin<'a>(&mut self, header: Header) -> Result<Event<'a>, StreamFault> {
        let left = header.data_length();
        if left > self.segment_bytes_max {
            return Err(StreamFault::TooLong);
        }
        self.digest = Crc32c::new();
        self.stage = Stage::Data { left };
        // Zero-length segments carry neither padding nor digest (11.2.4).
        self.after = (left.wrapping_neg() % 4, left > 0 && self.data_digest);
        Ok(Event::Header(header))
    }

    fn end_data(&mut self) {
        let (padding, digest) = self.after;
        self.held.clear();
        self.stage = Stage::Tail { padding, digest };
    }

    fn tail<'a>(
        &mut self,
        bytes: &mut &'a [u8],
        padding: usize,
        digest: bool,
    ) -> Result<Event<'a>, StreamFault> {
        let wanted = padding.saturating_add(if digest { DIGEST_BYTES } else { 0 });
        if wanted == 0 {
            self.stage = Stage::Header;
            return Ok(Event::End);
        }
        if !self.fill(bytes, wanted) {
            return Ok(Event::Nothing);
        }
        let (pad, sent) = self.held.split_at(padding.min(self.held.len()));
        self.digest.update(pad);
        if digest && self.digest.finish() != *sent && !mutated(Mutant::DigestIgnored) {
            return Err(StreamFault::DataDigest);
        }
        self.held.clear();
        self.stage = Stage::Header;
        Ok(Event::End)
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "tests cut random numbers to size")]
mod tests {
    use super::*;
    use crate::iscsi::login::{DigestPolicy, Goal, Login};
    use crate::iscsi::scsi::{Capacity, Sense};

    fn pdu(digests: bool) -> Vec<u8> {
        let mut header = Header::new(0x25, 0x80);
        header.set_data_length(5);
        let mut bytes = header.0.to_vec();
        if digests {
            bytes.extend_from_slice(&crc32c(&header.0));
        }
        bytes.extend_from_slice(b"hello\0\0\0");
        if digests {
            bytes.extend_from_slice(&crc32c(b"hello\0\0\0"));
        }
        bytes
    }

    fn drain(receiver: &mut Receiver, bytes: &[u8]) -> Result<(usize, Vec<u8>), StreamFault> {
        let (mut rest, mut ends, mut data) = (bytes, 0, Vec::new());
        loop {
            match receiver.next(&mut rest)? {
                Event::Nothing => return Ok((ends, data)),
                Event::Header(_) => {}
                Event::Data(piece) => data.extend_from_slice(piece),
                Event::End => ends += 1,
            }
        }
    }

    #[test]
    fn any_cut_gives_the_same_pdus() {
        for digests in [false, true] {
            let bytes = [pdu(digests), pdu(digests)].concat();
            for cut in 0..bytes.len() {
                let mut receiver = Receiver::new(64);
                (receiver.header_digest, receiver.data_digest) = (digests, digests);
                let (first, mut data) = drain(&mut receiver, &bytes[..cut]).unwrap();
                let (second, more) = drain(&mut receiver, &bytes[cut..]).unwrap();
                data.extend_from_slice(&more);
                assert_eq!((first + second, &data[..]), (2, &b"hellohello"[..]), "cut {cut}");
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = pdu(true);
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let mut receiver = Receiver::new(64);
            (receiver.header_digest, receiver.data_digest) = (true, true);
            assert!(drain(&mut receiver, &bytes).map_or(true, |(ends, _)| ends == 0), "{bit}");
        }
    }

    #[test]
    fn mutated_streams_and_texts_never_panic() {
        let mut state = 0x0bad_cafe_dead_beefu64;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state >> 8
        };
        let text = b"AuthMethod=None\0HeaderDigest=CRC32C\0MaxBurstLength=0x10000\0X=y\0";
        for _ in 0..150_000 {
            let digests = random().is_multiple_of(2);
            let mut bytes = [pdu(digests), pdu(digests)].concat();
            for _ in 0..random() % 4 {
                let at = random() as usize % bytes.len();
                bytes[at] = random() as u8;
            }
            let mut receiver = Receiver::new(64);
            (receiver.header_digest, receiver.data_digest) = (digests, digests);
            let _ = drain(&mut receiver, &bytes);
            let _ = Sense::parse(&bytes[random() as usize % 8..]);
            let _ = Capacity::parse_16(&bytes[random() as usize % 80..]);
            let mut words = text.to_vec();
            for _ in 0..random() % 4 {
                let at = random() as usize % words.len();
                words[at] = random() as u8;
            }
            let (mut login, ..) = Login::new(Goal {
                initiator: "iqn.a",
                target: Some("iqn.b"),
                credentials: None,
                digests: DigestPolicy::Preferred,
                challenge: Vec::new(),
                tried: &[],
            });
            let mut header = Header::new(0x23, random() as u8);
            header.set(36, &[(random() % 3) as u8 / 2, 0]);
            let _ = login.answer(&header, &words);
            let _ = login.answer(&Header::new(0x23, 0x87), &words);
        }
    }
}
