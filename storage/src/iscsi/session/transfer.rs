//! Reads and writes where nothing is out of the ordinary, which is most of what a
//! session does: straight from a request to the wire, and from the wire to its end.
//! Whatever is not as usual is left to the general way.
//!
//! Spec: RFC 7143 sections 11.3 (SCSI Command), 11.4 (SCSI Response), 11.7 (Data-In).

use alloc::vec::Vec;

use super::path::{Path, State};
use super::{Bug, ISCSI_COMMANDS_MAX, Operation, Payload, RequestId, Shared, planted};
use crate::iscsi::negotiated::Digest;
use crate::iscsi::pdu::{FLAG_FINAL, HEADER_BYTES, opcode, serial_after};
use crate::iscsi::tasks::{Probe, Task, TaskKind};
use crate::limits::{ISCSI_RECEIVE_SEGMENT_MAX, ISCSI_SEND_SEGMENT_MAX};
use crate::requests::Fragment;

const READ: u8 = 0x40;
const WRITE: u8 = 0x20;
const SIMPLE: u8 = 0x01;
/// The S bit: status rides on the data.
const FLAG_STATUS: u8 = 0x01;
/// READ(16) and WRITE(16) (SBC-3 5.11, 5.32).
const READ_16: u8 = 0x88;
const WRITE_16: u8 = 0x8a;

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

/// What the target is sending of a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arriving {
    tag: u32,
    fragment: Fragment,
    offset: usize,
    left: usize,
    started_ns: u64,
    /// The command has ended well when all is here.
    ends: bool,
}

impl Path {
    /// Takes note of what was negotiated.
    pub(super) fn settle_negotiated(&mut self) {
        let negotiated = &mut self.negotiated;
        // 13.14: whatever the target says.
        negotiated.first_burst = negotiated.first_burst.min(negotiated.max_burst);
        self.plain = negotiated.header_digest == Digest::None && negotiated.data_digest == Digest::None;
        let segment = u32::try_from(ISCSI_SEND_SEGMENT_MAX).unwrap_or(u32::MAX);
        let immediate = negotiated.first_burst.min(negotiated.send_segment).min(segment);
        self.immediate_max = if negotiated.immediate_data { immediate } else { 0 };
    }

    /// Whether a request may be begun now, and nothing is to be sent before it.
    pub(super) fn begins_requests(&self, shared: &Shared) -> bool {
        let window =
            !serial_after(self.command_number, self.command_number_max) || planted(Bug::WindowIgnored);
        shared.requests.has_work()
            && window
            && self.state == State::Full
            && self.probe == Probe::Done
            && self.output.is_empty()
            && self.resume_ns <= shared.now_ns
            && self.tasks.len() < ISCSI_COMMANDS_MAX
    }

    /// Whether there is nothing at all to send.
    pub(super) fn is_quiet(&self, shared: &Shared) -> bool {
        !shared.requests.has_work()
            && self.output.is_empty()
            && self.probe == Probe::Done
            && self.sending.is_none()
            && !shared.closing
    }

    /// Writes a read or write into `room`, if it is one and all of it has room; tells
    /// how many octets it took. Data to be written is only named in `pieces`, if there
    /// are any.
    #[inline]
    pub(super) fn send_transfer(
        &mut self,
        shared: &Shared,
        (fragment, block): (&Fragment, u32),
        room: &mut [u8],
        payload: &mut dyn Payload,
        pieces: Option<(&mut Vec<Piece>, usize)>,
    ) -> Option<usize> {
        let outward = match fragment.operation {
            Operation::Read => false,
            Operation::Write => true,
            _ => return None,
        };
        let octets = fragment.octets();
        let length = u32::try_from(octets).unwrap_or(u32::MAX);
        if !self.plain || shared.unit.ten_byte || (outward && length > self.immediate_max) {
            return None;
        }
        let (place, data) = room.split_first_chunk_mut()?;
        let mut taken = HEADER_BYTES;
        if outward {
            let named = pieces.and_then(|(pieces, before)| {
                let (id, offset) = shared.requests.locate(fragment, 0, octets)?;
                let after = before.wrapping_add(HEADER_BYTES);
                pieces.push(Piece { after, id, offset, length: octets });
                Some(())
            });
            if named.is_none() {
                // Sectors need no padding.
                shared.requests.load(fragment, 0, data.get_mut(..octets)?, payload);
                taken = taken.wrapping_add(octets);
            }
        }
        let (lba, blocks) = match block {
            0 | 1 => (fragment.lba, fragment.sectors),
            block => (fragment.lba / u64::from(block), fragment.sectors / block),
        };
        let tag = self.tasks.add(Task {
            tag: 0,
            kind: TaskKind::Fragment(*fragment),
            opcode: if outward { WRITE_16 } else { READ_16 },
            outward,
            command_number: self.command_number,
            length,
            moved: if outward { length } else { 0 },
            data_number: 0,
            r2t_number: 0,
            started_ns: shared.now_ns,
            touched_ns: shared.now_ns,
            own: None,
        });
        let (direction, operation) = if outward { (WRITE, WRITE_16) } else { (READ, READ_16) };
        let data_length = if outward { length } else { 0 };
        put(place, 0, &[opcode::SCSI_COMMAND, FLAG_FINAL | direction | SIMPLE, 0, 0]);
        // Below 2^24: no additional header segments.
        put(place, 4, &data_length.to_be_bytes());
        put(place, 8, &shared.lun);
        put(place, 16, &tag.to_be_bytes());
        put(place, 20, &length.to_be_bytes());
        put(place, 24, &self.command_number.to_be_bytes());
        put(place, 28, &self.status_number.to_be_bytes());
        put(place, 32, &[operation, 0]);
        put(place, 34, &lba.to_be_bytes());
        put(place, 42, &blocks.to_be_bytes());
        put(place, 46, &[0, 0]);
        self.command_number = self.command_number.wrapping_add(1);
        Some(taken)
    }

    /// Takes PDUs that are data of reads, or good status; returns what is left when
    /// something else comes, or not as it should be.
    pub(super) fn receive_transfers<'a>(
        &mut self,
        shared: &mut Shared,
        bytes: &'a [u8],
        payload: &mut dyn Payload,
    ) -> &'a [u8] {
        let mut rest = bytes;
        loop {
            let arriving = match self.arriving.take() {
                Some(arriving) => arriving,
                None => {
                    let Some((header, more)) = rest.split_first_chunk() else { return rest };
                    let Some(arriving) = self.accept(shared, header) else { return rest };
                    rest = more;
                    arriving
                }
            };
            if arriving.left > rest.len() {
                if !rest.is_empty() {
                    shared.requests.store(&arriving.fragment, arriving.offset, rest, payload);
                }
                let (offset, left) =
                    (arriving.offset.wrapping_add(rest.len()), arriving.left.wrapping_sub(rest.len()));
                self.arriving = Some(Arriving { offset, left, ..arriving });
                return &[];
            }
            let (data, more) = rest.split_at(arriving.left.min(rest.len()));
            if !data.is_empty() {
                shared.requests.store(&arriving.fragment, arriving.offset, data, payload);
            }
            rest = more;
            if arriving.ends {
                self.finish_transfer(shared, &arriving);
            }
        }
    }

    /// What comes behind a header, if it is as usual.
    #[inline]
    fn accept(&mut self, shared: &Shared, header: &Basic) -> Option<Arriving> {
        let code = octet(header, 0);
        // No additional header segments, and less than 2^24.
        let length = number(header, 4);
        let ends = match code {
            opcode::DATA_IN => octet(header, 1) & FLAG_STATUS != 0,
            opcode::SCSI_RESPONSE if length == 0 && octet(header, 2) == 0 => true,
            _ => return None,
        };
        if ends && (octet(header, 3) != 0 || number(header, 24) != self.status_number) {
            return None;
        }
        if !self.output.is_empty()
            || usize::try_from(length).is_ok_and(|length| length > ISCSI_RECEIVE_SEGMENT_MAX)
        {
            return None;
        }
        let tag = number(header, 16);
        let task = self.tasks.find(tag)?;
        let TaskKind::Fragment(fragment) = task.kind else { return None };
        let from = if code == opcode::DATA_IN {
            let offset = number(header, 40);
            let end = offset.saturating_add(length);
            let sound = fragment.operation == Operation::Read
                && offset == task.moved
                && number(header, 36) == task.data_number
                && if ends { end == task.length } else { end <= task.length }
                && length.is_multiple_of(4);
            if !sound {
                return None;
            }
            task.moved = end;
            task.data_number = task.data_number.wrapping_add(1);
            offset
        } else {
            0
        };
        if ends && (task.own.is_some() || task.moved < task.length) {
            return None;
        }
        task.touched_ns = shared.now_ns;
        let started_ns = task.started_ns;
        self.take_window(number(header, 28), number(header, 32));
        if ends {
            self.status_number = self.status_number.wrapping_add(1);
        }
        let (offset, left) = (usize::try_from(from).unwrap_or(0), usize::try_from(length).unwrap_or(0));
        Some(Arriving { tag, fragment, offset, left, started_ns, ends })
    }

    #[inline]
    fn finish_transfer(&mut self, shared: &mut Shared, arriving: &Arriving) {
        self.tasks.release(arriving.tag);
        self.sample(shared.now_ns, arriving.started_ns);
        self.pauses = 0;
        self.count(&arriving.fragment);
        shared.requests.done(&arriving.fragment, Ok(()));
    }

    /// Where the next octets of the connection belong, if they are a request's.
    pub(super) fn direct(&self, shared: &Shared) -> Option<(RequestId, usize, usize)> {
        let Arriving { fragment, offset, left, .. } = self.arriving.as_ref().filter(|it| it.left > 0)?;
        let (id, at) = shared.requests.locate(fragment, *offset, *left)?;
        Some((id, at, *left))
    }

    /// So many octets were put there.
    pub(super) fn took_direct(&mut self, shared: &mut Shared, octets: usize) {
        self.heard_ns = shared.now_ns;
        let Some(arriving) = &mut self.arriving else { return };
        arriving.offset = arriving.offset.wrapping_add(octets);
        arriving.left = arriving.left.saturating_sub(octets);
        if arriving.left == 0
            && let Some(arriving) = self.arriving.take()
            && arriving.ends
        {
            self.finish_transfer(shared, &arriving);
        }
    }
}
