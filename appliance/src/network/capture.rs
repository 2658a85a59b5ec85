//! Captures: what a guest's cards send and receive, for an operator to read.
//!
//! Records are those of a capture file with nanoseconds, little endian.
//! Spec: draft-ietf-opsawg-pcap section 5 (packet record).

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use mgmt_proto::limits::STREAM_BYTES;
use mgmt_proto::verb::Stream;

use crate::guests::number::GuestNumber;
use crate::limits::{CAPTURE_BYTES, CAPTURES_MAX};

/// A capture that is not read for so long ends.
const UNREAD_NS: u64 = 10_000_000_000;
/// Octets of a record before the frame.
const RECORD_HEADER_BYTES: usize = 16;

/// What a record takes of memory besides its octets: its place in a list that grows by
/// doubling, and the allocator's.
const RECORD_ROOM_BYTES: usize = 64;

const fn room_of(record: &Vec<u8>) -> usize {
    record.capacity() + RECORD_ROOM_BYTES
}

/// One guest's capture.
#[derive(Debug)]
struct Capture {
    guest: GuestNumber,
    snap_bytes: usize,
    records: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Number of the first record that is there.
    first: u64,
    read_ns: u64,
}

impl Capture {
    fn push(&mut self, frame: &[u8], wall_ns: u64) {
        let kept_bytes = frame.len().min(self.snap_bytes).min(STREAM_BYTES - RECORD_HEADER_BYTES);
        let kept = frame.get(..kept_bytes).unwrap_or_default();
        let word = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
        let mut record = Vec::with_capacity(RECORD_HEADER_BYTES + kept.len());
        for value in [wall_ns / 1_000_000_000, wall_ns % 1_000_000_000, kept.len() as u64, frame.len() as u64]
        {
            record.extend_from_slice(&word(value));
        }
        record.extend_from_slice(kept);
        self.bytes += room_of(&record);
        self.records.push_back(record);
        while self.bytes > CAPTURE_BYTES
            && let Some(oldest) = self.records.pop_front()
        {
            self.bytes -= room_of(&oldest);
            self.first += 1;
        }
    }

    /// Whole records from number `from` on, as many as a reply takes. What was read
    /// before is forgotten.
    pub(crate) fn read(&mut self, from: u64) -> Stream {
        while self.first < from
            && let Some(read) = self.records.pop_front()
        {
            self.bytes -= room_of(&read);
            self.first += 1;
        }
        let (mut bytes, mut next) = (Vec::new(), self.first);
        for record in &self.records {
            if bytes.len() + record.len() > STREAM_BYTES {
                break;
            }
            bytes.extend_from_slice(record);
            next += 1;
        }
        Stream { bytes, next }
    }
}

/// All captures.
#[derive(Debug, Default)]
pub struct Captures {
    captures: Vec<Capture>,
    /// Time of day at monotonic zero.
    pub(crate) wall_base_ns: u64,
}

impl Captures {
    /// A frame that a guest's card sent or received.
    pub fn note(&mut self, guest: GuestNumber, frame: &[u8], now_ns: u64) {
        if self.captures.is_empty() {
            return;
        }
        self.captures.retain(|capture| now_ns < capture.read_ns.saturating_add(UNREAD_NS));
        let wall_ns = self.wall_base_ns.saturating_add(now_ns);
        if let Some(capture) = self.captures.iter_mut().find(|capture| capture.guest == guest) {
            capture.push(frame, wall_ns);
        }
    }

    /// Records of a guest's capture, which count from 1; asking for 0 begins another.
    pub(crate) fn read(
        &mut self,
        guest: GuestNumber,
        from: u64,
        snap_bytes: usize,
        now_ns: u64,
    ) -> Option<Stream> {
        self.captures.retain(|capture| now_ns < capture.read_ns.saturating_add(UNREAD_NS));
        if from == 0 {
            self.captures.retain(|capture| capture.guest != guest);
            if self.captures.len() >= CAPTURES_MAX {
                return None;
            }
            let (records, first) = (VecDeque::new(), 1);
            self.captures.push(Capture { guest, snap_bytes, records, bytes: 0, first, read_ns: now_ns });
        }
        let Some(capture) = self.captures.iter_mut().find(|capture| capture.guest == guest) else {
            // It has ended: nothing more comes.
            return Some(Stream { bytes: Vec::new(), next: 0 });
        };
        capture.read_ns = now_ns;
        Some(capture.read(from))
    }

    /// A guest is gone.
    pub fn forget(&mut self, guest: GuestNumber) {
        self.captures.retain(|capture| capture.guest != guest);
    }
}
