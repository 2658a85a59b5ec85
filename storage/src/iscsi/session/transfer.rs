//! Reads and writes where nothing is out of the ordinary, which is most of what a
//! session does: straight from a request to the wire, and from the wire to its end.
//! Whatever is not as usual is left to the general way.
//!
//! Spec: RFC 7143 sections 11.3 (SCSI Command), 11.4 (SCSI Response), 11.7 (Data-In).

use alloc::vec::Vec;

use super::path::{Path, State};
use super::{Bug, ISCSI_COMMANDS_MAX, Operation, Payload, RequestId, Shared, planted};
use crate::iscsi::negotiated::Digest;
use crate::iscsi::pdu::{FLAG_FINAL, HEADER_BYTES, opcode};
use crate::iscsi::scsi::{READ_16, WRITE_16};
use crate::iscsi::tasks::{Probe, Task, TaskKind};
use crate::limits::{ISCSI_RECEIVE_SEGMENT_MAX, ISCSI_SEND_SEGMENT_MAX};
use crate::requests::Fragment;

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

/// What has been written into a buffer for the connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    pub(super) octets: usize,
    /// Octets that were named instead, and are to be sent, too.
    named: usize,
}

/// What the target is sending of a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arriving {
    tag: u32,
    /// From where on, within the command's data, and how many octets are to come.
    offset: usize,
    left: usize,
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
        let immediate = if negotiated.immediate_data { immediate } else { 0 };
        self.immediate_max = usize::try_from(immediate).unwrap_or(0);
    }

    /// Whether there is nothing to send but, maybe, new requests.
    pub(super) fn is_quiet(&self, shared: &Shared) -> bool {
        self.probe == Probe::Done && self.output.is_empty() && self.sending.is_none() && !shared.closing
    }

    /// Whether reads and writes may be begun the usual way: nothing else is to be sent.
    fn begins_transfers(&self, shared: &Shared, calm: bool) -> bool {
        let usual = || {
            matches!(self.state, State::Full)
                && self.is_quiet(shared)
                && self.resume_ns <= shared.now_ns
                && !shared.unit.ten_byte
        };
        self.plain && self.output.is_empty() && self.sending.is_none() && (calm || usual())
    }

    /// Writes reads and writes into `buffer` as long as they are as usual, and all of one
    /// has room; tells whether there is more that could be sent now. Data to be written is
    /// only named in `pieces`, if there are any. A `calm` session has nothing out of the
    /// ordinary that could stand against it.
    #[inline(never)]
    pub(super) fn send_transfers(
        &mut self,
        shared: &mut Shared,
        buffer: &mut [u8],
        sent: &mut Sent,
        payload: &mut dyn Payload,
        mut pieces: Option<&mut Vec<Piece>>,
        calm: bool,
    ) -> bool {
        if !self.begins_transfers(shared, calm) {
            return true;
        }
        let Sent { octets: mut at, mut named } = *sent;
        let Shared { requests, unit, lun, now_ns, .. } = shared;
        let Some(shape) = unit.shape() else { return true };
        let (all, immediate_max) = (buffer.len(), self.immediate_max);
        let mut window = self.window();
        // What is named will have to be sent, too.
        while window > 0 && named < all && requests.has_ready() {
            let Some((place, data)) = buffer.get_mut(at..).and_then(<[u8]>::split_first_chunk_mut) else {
                break;
            };
            let copied_max = if pieces.is_some() { usize::MAX } else { data.len() };
            let fits = |octets: usize| octets <= immediate_max && octets <= copied_max;
            let Some(fragment) = requests.next_whole(shape, fits) else { break };
            window = window.wrapping_sub(1);
            at = at.wrapping_add(HEADER_BYTES);
            if fragment.operation == Operation::Write {
                let octets = fragment.octets();
                if let Some(pieces) = &mut pieces
                    && let Some((id, offset)) = requests.locate(&{ fragment }, 0, octets)
                {
                    pieces.push(Piece { after: at, id, offset, length: octets });
                    named = named.wrapping_add(octets);
                } else if let Some(data) = data.get_mut(..octets) {
                    // Sectors need no padding.
                    requests.load(&{ fragment }, 0, data, payload);
                    at = at.wrapping_add(octets);
                }
            }
            self.begin_transfer(fragment, shape.block, lun, *now_ns, place);
        }
        *sent = Sent { octets: at, named };
        requests.has_work() && named < all
    }

    /// For how many commands the target's window and our table have room.
    fn window(&self) -> usize {
        let ours = ISCSI_COMMANDS_MAX.saturating_sub(self.tasks.len());
        let theirs = self.command_number_max.wrapping_sub(self.command_number);
        if planted(Bug::WindowIgnored) {
            ours
        } else if theirs >= 1 << 31 {
            0
        } else {
            usize::try_from(theirs).unwrap_or(0).saturating_add(1).min(ours)
        }
    }

    /// The header of a read or write (11.3).
    #[inline(always)]
    fn begin_transfer(
        &mut self,
        fragment: Fragment,
        block: u32,
        lun: &[u8; 8],
        now_ns: u64,
        place: &mut Basic,
    ) {
        let length = u32::try_from(fragment.octets()).unwrap_or(u32::MAX);
        let (lba, blocks) = match block {
            0 | 1 => (fragment.lba, fragment.sectors),
            block => (fragment.lba / u64::from(block), fragment.sectors / block),
        };
        let (flags, operation, data_length) = match fragment.operation {
            Operation::Write => (FLAG_FINAL | WRITE | SIMPLE, WRITE_16, length),
            _ => (FLAG_FINAL | READ | SIMPLE, READ_16, 0),
        };
        let tag = self.tasks.add_transfer(fragment, length, self.command_number, now_ns);
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

    /// Takes PDUs that are data of reads, or good status; returns what is left when
    /// something else comes, or not as it should be.
    pub(super) fn receive_transfers<'a>(
        &mut self,
        shared: &mut Shared,
        bytes: &'a [u8],
        payload: &mut dyn Payload,
    ) -> &'a [u8] {
        let mut rest = bytes;
        while !rest.is_empty() {
            let arriving = match self.arriving.take() {
                Some(arriving) => arriving,
                None => {
                    let Some((header, more)) = rest.split_first_chunk() else { break };
                    let Some(arriving) = self.accept(shared, header) else { break };
                    rest = more;
                    arriving
                }
            };
            let Arriving { tag, offset, left, ends } = arriving;
            let (data, more) = rest.split_at(left.min(rest.len()));
            rest = more;
            if !data.is_empty()
                && let Some(Task { kind: TaskKind::Fragment(fragment), .. }) = self.tasks.find(tag)
            {
                shared.requests.store(fragment, offset, data, payload);
            }
            if data.len() < left {
                let (offset, left) = (offset.wrapping_add(data.len()), left.wrapping_sub(data.len()));
                self.arriving = Some(Arriving { tag, offset, left, ends });
            } else if ends {
                self.finish_transfer(shared, tag);
            }
        }
        rest
    }

    /// What comes behind a header, if it is as usual.
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

    #[inline]
    fn finish_transfer(&mut self, shared: &mut Shared, tag: u32) {
        let Some((fragment, started_ns)) = self.tasks.end_transfer(tag) else { return };
        self.sample(shared.now_ns, started_ns);
        self.pauses = 0;
        self.count(&fragment);
        shared.requests.done_well(&fragment);
    }

    /// Where the next octets of the connection belong, if they are a request's.
    pub(super) fn direct(&self, shared: &Shared) -> Option<(RequestId, usize, usize)> {
        let Arriving { tag, offset, left, .. } = self.arriving.as_ref()?;
        let TaskKind::Fragment(fragment) = &self.tasks.get(*tag)?.kind else { return None };
        let (id, at) = shared.requests.locate(fragment, *offset, *left)?;
        Some((id, at, *left))
    }

    /// So many octets were put there.
    pub(super) fn took_direct(&mut self, shared: &mut Shared, octets: usize) {
        self.heard_ns = shared.now_ns;
        let Some(arriving) = &mut self.arriving else { return };
        if octets < arriving.left {
            arriving.offset = arriving.offset.wrapping_add(octets);
            arriving.left = arriving.left.wrapping_sub(octets);
            return;
        }
        let Arriving { tag, ends, .. } = *arriving;
        self.arriving = None;
        if ends {
            self.finish_transfer(shared, tag);
        }
    }
}
