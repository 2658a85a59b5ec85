//! The fast path: reads and writes where nothing is out of the ordinary, most of what a
//! session does: straight from a request to the wire, and from the wire to its end.
//! Everything else takes the slow path.
//!
//! Spec: RFC 7143 sections 11.3 (SCSI Command), 11.4 (SCSI Response), 11.7 (Data-In).

use alloc::vec::Vec;

use super::in_flight::Arriving;
use super::path::{Path, State};
use super::{ISCSI_COMMANDS_MAX, Mutant, Operation, Payload, Request, RequestId, Shared, mutated};
use crate::iscsi::negotiated::Digest;
use crate::iscsi::pdu::{FLAG_FINAL, HEADER_BYTES, opcode, serial_after};
use crate::iscsi::scsi::{READ_16, WRITE_16};
use crate::iscsi::tasks::{Probe, Task, TaskKind};
use crate::limits::{ISCSI_RECEIVE_SEGMENT_MAX, ISCSI_SEND_SEGMENT_MAX};
use crate::request_queue::Entry;
use crate::requests::octets;

const READ: u8 = 0x40;
const WRITE: u8 = 0x20;
const SIMPLE: u8 = 0x01;
/// The S bit: status rides on the data.
const FLAG_STATUS: u8 = 0x01;
type Basic = [u8; HEADER_BYTES];

fn octet(header: &Basic, at: usize) -> u8 {
    header.get(at).copied().unwrap_or(0)
}

fn number(header: &Basic, at: usize) -> u32 {
    header.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |field| u32::from_be_bytes(*field))
}

fn put(header: &mut Basic, at: usize, field: &[u8]) {
    if let Some(place) = header.get_mut(at..at.saturating_add(field.len())) {
        place.copy_from_slice(field);
    }
}

/// A request's octets that belong between the octets of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Octets of the buffer before it.
    pub after: usize,
    /// Whose.
    pub id: RequestId,
    /// From where on.
    pub offset: usize,
    /// How many.
    pub length: usize,
}

/// A buffer for octets on their way to the connection.
pub(super) struct Outlet<'a> {
    buffer: &'a mut [u8],
    /// So many have been written.
    pub(super) octets: usize,
    /// Octets that were named instead, and are to be sent, too.
    named: usize,
    /// Where they are named; without, everything is copied.
    pieces: Option<&'a mut Vec<Piece>>,
}

impl<'a> Outlet<'a> {
    pub(super) const fn new(buffer: &'a mut [u8], pieces: Option<&'a mut Vec<Piece>>) -> Self {
        Self { buffer, octets: 0, named: 0, pieces }
    }

    /// What is left of the buffer.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.buffer.get_mut(self.octets..).unwrap_or_default()
    }
}

/// The outcome of an attempt to send a read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It was sent, and may not have been the last.
    More,
    /// There is nothing more, or no room.
    Nothing,
    /// The next PDU takes the slow path.
    SlowPath,
}

impl Path {
    /// Takes note of what was negotiated.
    pub(super) fn apply_negotiated(&mut self) {
        let negotiated = &mut self.negotiated;
        // 13.14: whatever the target says.
        negotiated.first_burst = negotiated.first_burst.min(negotiated.max_burst);
        self.plain = negotiated.header_digest == Digest::None && negotiated.data_digest == Digest::None;
        let segment = u32::try_from(ISCSI_SEND_SEGMENT_MAX).unwrap_or(u32::MAX);
        let immediate = negotiated.first_burst.min(negotiated.send_segment).min(segment);
        let immediate = if negotiated.immediate_data { immediate } else { 0 };
        self.immediate_max = usize::try_from(immediate).unwrap_or(0);
    }

    /// Whether there is nothing to send but, maybe, new requests.
    pub(super) fn is_quiet(&self, shared: &Shared) -> bool {
        self.probe == Probe::Done && self.output.is_empty() && self.sending.is_none() && !shared.closing
    }

    /// Whether reads and writes may take the fast path: nothing else is to be sent. A
    /// `calm` session has nothing out of the ordinary that could stand against it.
    pub(super) fn begins_transfers(&self, shared: &Shared, calm: bool) -> bool {
        let idle = || {
            matches!(self.state, State::Full)
                && self.is_quiet(shared)
                && self.resume_ns <= shared.now_ns
                && !shared.unit.ten_byte
        };
        if !self.plain || !self.output.is_empty() || self.sending.is_some() {
            return false;
        }
        calm || idle()
    }

    /// Writes a read or write to the outlet, if it takes the fast path and all of it has room.
    /// One at a time: mostly there is no other.
    #[inline(never)]
    pub(super) fn send_transfer(
        &mut self,
        shared: &mut Shared,
        outlet: &mut Outlet<'_>,
        payload: &mut dyn Payload,
    ) -> Next {
        let Shared { requests, unit, lun, now_ns, .. } = shared;
        let Some(shape) = unit.shape() else { return Next::SlowPath };
        if !requests.takes_fast_path() {
            return if requests.has_work() { Next::SlowPath } else { Next::Nothing };
        }
        // What is named will have to be sent, too.
        let full = outlet.named >= outlet.buffer.len();
        let at = outlet.octets;
        let Some((place, data)) = outlet.buffer.get_mut(at..).and_then(<[u8]>::split_first_chunk_mut) else {
            return Next::Nothing;
        };
        if full || !self.has_window() {
            return Next::Nothing;
        }
        let octets_max =
            if outlet.pieces.is_some() { self.immediate_max } else { self.immediate_max.min(data.len()) };
        let Some(entry) = requests.next_whole(shape, octets_max) else {
            return if requests.has_work() { Next::SlowPath } else { Next::Nothing };
        };
        outlet.octets = at.wrapping_add(HEADER_BYTES);
        self.begin_transfer(entry, shape.block, lun, *now_ns, place);
        if entry.request.operation == Operation::Write {
            let (id, octets) = (entry.request.id, octets(entry.request.sectors));
            if let Some(pieces) = &mut outlet.pieces {
                pieces.push(Piece { after: outlet.octets, id, offset: 0, length: octets });
                outlet.named = outlet.named.wrapping_add(octets);
            } else if let Some(data) = data.get_mut(..octets) {
                // Sectors need no padding.
                payload.load(id, 0, data);
                outlet.octets = outlet.octets.wrapping_add(octets);
            }
        }
        if requests.has_work() { Next::More } else { Next::Nothing }
    }

    /// Whether the target's window and our table have room for a command.
    fn has_window(&self) -> bool {
        let open =
            !serial_after(self.command_number, self.command_number_max) || mutated(Mutant::WindowIgnored);
        open && self.tasks.len() < ISCSI_COMMANDS_MAX
    }

    /// The header of a read or write (11.3).
    #[inline(always)]
    fn begin_transfer(&mut self, entry: &Entry, block: u32, lun: &[u8; 8], now_ns: u64, place: &mut Basic) {
        let Request { operation, lba, sectors, .. } = entry.request;
        // No more than go with a command.
        let length = sectors.wrapping_mul(512);
        let (lba, blocks) = match block {
            0 | 1 => (lba.0, sectors),
            block => (lba.0 / u64::from(block), sectors / block),
        };
        let (flags, operation, data_length) = match operation {
            Operation::Write => (FLAG_FINAL | WRITE | SIMPLE, WRITE_16, length),
            _ => (FLAG_FINAL | READ | SIMPLE, READ_16, 0),
        };
        let tag = self.tasks.add_transfer(entry, length, self.command_number, now_ns);
        put(place, 0, &[opcode::SCSI_COMMAND, flags, 0, 0]);
        // Below 2^24: no additional header segments.
        put(place, 4, &data_length.to_be_bytes());
        put(place, 8, lun);
        put(place, 16, &tag.to_be_bytes());
        put(place, 20, &length.to_be_bytes());
        put(place, 24, &self.command_number.to_be_bytes());
        put(place, 28, &self.status_number.to_be_bytes());
        put(place, 32, &[operation, 0]);
        put(place, 34, &lba.to_be_bytes());
        put(place, 42, &blocks.to_be_bytes());
        put(place, 46, &[0, 0]);
        self.command_number = self.command_number.wrapping_add(1);
    }

    /// Takes a PDU, or what has come of it, that is data of a read, or good status; returns
    /// what is behind it. None, if something else comes, or not as it should be. One at a
    /// time: mostly there is no other.
    #[inline(never)]
    pub(super) fn receive_transfer<'a>(
        &mut self,
        shared: &mut Shared,
        bytes: &'a [u8],
        payload: &mut dyn Payload,
    ) -> Option<&'a [u8]> {
        let (arriving, rest) = match self.arriving.take() {
            Some(arriving) => (arriving, bytes),
            None => {
                let (header, rest) = bytes.split_first_chunk()?;
                (self.accept(shared, header)?, rest)
            }
        };
        let (data, rest) = rest.split_at(arriving.left.min(rest.len()));
        if !data.is_empty()
            && let Some(Task { kind: TaskKind::Fragment(fragment), .. }) = self.tasks.get(arriving.tag)
        {
            shared.requests.store(fragment, arriving.offset, data, payload);
        }
        self.advance(shared, arriving, data.len());
        Some(rest)
    }

    /// Takes PDUs of the fast path as long as there are any; returns what is left.
    #[inline(always)]
    pub(super) fn receive_transfers<'a>(
        &mut self,
        shared: &mut Shared,
        bytes: &'a [u8],
        payload: &mut dyn Payload,
    ) -> &'a [u8] {
        let mut rest = bytes;
        while !rest.is_empty()
            && let Some(more) = self.receive_transfer(shared, rest, payload)
        {
            self.pdus = self.pdus.wrapping_add(1);
            rest = more;
        }
        rest
    }

    /// What follows a header, if it takes the fast path.
    #[inline(always)]
    fn accept(&mut self, shared: &Shared, header: &Basic) -> Option<Arriving> {
        let code = octet(header, 0);
        // No additional header segments, and less than 2^24.
        let length = number(header, 4);
        let (is_data, ends) = match code {
            opcode::DATA_IN => (true, octet(header, 1) & FLAG_STATUS != 0),
            opcode::SCSI_RESPONSE if length == 0 && octet(header, 2) == 0 => (false, true),
            _ => return None,
        };
        let counts = !ends || (octet(header, 3) == 0 && number(header, 24) == self.status_number);
        let left = usize::try_from(length).unwrap_or(usize::MAX);
        if !counts || !self.output.is_empty() || left > ISCSI_RECEIVE_SEGMENT_MAX {
            return None;
        }
        let tag = number(header, 16);
        let task = self.tasks.find(tag)?;
        let TaskKind::Fragment(fragment) = &task.kind else { return None };
        let mut moved = task.moved;
        if is_data {
            moved = moved.wrapping_add(length);
            let sound = fragment.operation == Operation::Read
                && number(header, 40) == task.moved
                && number(header, 36) == task.data_number
                && moved <= task.length
                && length.is_multiple_of(4);
            if !sound {
                return None;
            }
        }
        if ends && (moved < task.length || task.own.is_some()) {
            return None;
        }
        let offset = usize::try_from(task.moved).unwrap_or(0);
        if is_data {
            task.moved = moved;
            task.data_number = task.data_number.wrapping_add(1);
        }
        task.touched_ns = shared.now_ns;
        self.take_window(number(header, 28), number(header, 32));
        self.status_number = self.status_number.wrapping_add(u32::from(ends));
        Some(Arriving { tag, offset, left, ends })
    }

    #[inline(always)]
    fn finish_transfer(&mut self, shared: &mut Shared, tag: u32) {
        let Some(Task { kind: TaskKind::Fragment(fragment), outward, length, started_ns, .. }) =
            self.tasks.get(tag)
        else {
            return;
        };
        shared.requests.complete_fragment(fragment);
        let octets = if *outward { &mut self.bytes_written } else { &mut self.bytes_read };
        *octets = octets.wrapping_add(u64::from(*length));
        let started_ns = *started_ns;
        self.tasks.end(tag);
        self.sample(shared.now_ns, started_ns);
        self.pauses = 0;
    }

    /// So many octets of a PDU's data are where they belong.
    #[inline(always)]
    fn advance(&mut self, shared: &mut Shared, arriving: Arriving, octets: usize) {
        let Arriving { tag, offset, left, ends } = arriving;
        if octets < left {
            let (offset, left) = (offset.wrapping_add(octets), left.wrapping_sub(octets));
            self.arriving = Some(Arriving { tag, offset, left, ends });
        } else if ends {
            self.finish_transfer(shared, tag);
        }
    }
}
