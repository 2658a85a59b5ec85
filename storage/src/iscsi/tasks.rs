//! Commands in flight and the PDUs waiting for TCP.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::crc32c::{Crc32c, crc32c};
use super::pdu::{FLAG_FINAL, HEADER_BYTES, Header, NO_TAG, opcode};
use crate::block::{Operation, Payload};
use crate::mutants::{Mutant, mutated};
use crate::requests::{Fragment, Requests};

mod table;

pub(super) use table::Tasks;

const DIGEST_BYTES: usize = 4;

/// Commands between login and the first request, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Probe {
    TestUnitReady,
    Units,
    Inquiry,
    Pages,
    Serial,
    Identity,
    Limits,
    Provisioning,
    Capacity,
    Mode,
    Holder,
    Register,
    Reserve,
    Preempt,
    Unregister,
    Done,
}

/// What a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskKind {
    Probe(Probe),
    Text,
    Fragment(Fragment),
}

impl TaskKind {
    /// Whether it can change what the disk holds.
    pub(super) const fn writes(&self) -> bool {
        matches!(self, Self::Fragment(fragment) if fragment.operation.writes())
    }
}

/// Where a command's outgoing data comes from.
#[derive(Clone, Debug)]
pub(super) enum Body {
    None,
    Own(Vec<u8>),
    Fragment(Fragment),
}

/// A command that awaits its response.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) tag: u32,
    pub(super) kind: TaskKind,
    /// Operation code of its command.
    pub(super) opcode: u8,
    pub(super) command_number: u32,
    /// Octets to be transferred.
    pub(super) length: u32,
    /// The data flows to the target.
    pub(super) outward: bool,
    /// Octets received in order, or offered by us.
    pub(super) moved: u32,
    pub(super) data_number: u32,
    pub(super) r2t_number: u32,
    pub(super) started_ns: u64,
    /// When the target last moved it on.
    pub(super) touched_ns: u64,
    /// The next free slot, if this one is free.
    pub(super) after: u8,
    /// What few commands have.
    pub(super) own: Option<Box<Own>>,
}

/// Data that belongs to a command, not to a request.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// What is sent.
    pub(super) data: Option<Vec<u8>>,
    /// Answer of a probe.
    pub(super) answer: Vec<u8>,
}

impl Task {
    /// None.
    pub(super) const FREE: Self = Self {
        tag: NO_TAG,
        kind: TaskKind::Text,
        opcode: 0,
        command_number: 0,
        length: 0,
        outward: false,
        moved: 0,
        data_number: 0,
        r2t_number: 0,
        started_ns: 0,
        touched_ns: 0,
        after: table::NO_INDEX,
        own: None,
    };

    /// What a probe was answered.
    pub(super) fn answer(&self) -> &[u8] {
        self.own.as_ref().map_or(&[], |own| &own.answer)
    }

    /// Where its outgoing data comes from.
    pub(super) fn body(&self) -> Body {
        let own = self.own.as_ref().and_then(|own| own.data.clone());
        match (own, self.kind) {
            (Some(data), _) => Body::Own(data),
            (None, TaskKind::Fragment(fragment)) if self.outward => Body::Fragment(fragment),
            (None, _) => Body::None,
        }
    }
}

/// The data of an outgoing PDU.
#[derive(Debug)]
pub(super) enum Source {
    Own(Vec<u8>),
    /// A request's: fragment, offset in it, octets.
    Fragment {
        fragment: Fragment,
        offset: usize,
        length: usize,
    },
}

impl Source {
    pub(super) const EMPTY: Self = Self::Own(Vec::new());

    /// A piece of a command's data.
    pub(super) fn piece(body: &Body, offset: usize, length: usize) -> Self {
        match body {
            Body::None => Self::EMPTY,
            Body::Own(bytes) => {
                let end = offset.saturating_add(length);
                Self::Own(bytes.get(offset..end).unwrap_or_default().to_vec())
            }
            Body::Fragment(fragment) => Self::Fragment { fragment: *fragment, offset, length },
        }
    }

    pub(super) fn length(&self) -> usize {
        match self {
            Self::Own(bytes) => bytes.len(),
            Self::Fragment { length, .. } => *length,
        }
    }
}

/// Something to send, in order.
#[derive(Debug)]
pub(super) enum Outgoing {
    Pdu(Header, Source),
    /// Data-Out PDUs of one sequence (11.7), made as TCP takes them.
    Sequence(Sequence),
}

#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) tag: u32,
    pub(super) transfer_tag: u32,
    pub(super) lun: [u8; 8],
    pub(super) body: Body,
    /// Buffer offset of the next PDU, and of the sequence's end.
    pub(super) offset: u32,
    pub(super) end: u32,
    pub(super) data_number: u32,
}

impl Sequence {
    /// The next Data-Out PDU of at most `segment` octets.
    pub(super) fn pdu(&mut self, segment: u32) -> (Header, Source) {
        let length = self.end.saturating_sub(self.offset).min(segment);
        let last = self.offset.saturating_add(length) >= self.end;
        let mut header = Header::new(opcode::DATA_OUT, if last { FLAG_FINAL } else { 0 });
        let octets = usize::try_from(length).unwrap_or(0);
        header.set_data_length(octets);
        header.set(8, &self.lun);
        header.set_u32(16, self.tag);
        header.set_u32(20, self.transfer_tag);
        header.set_u32(36, self.data_number);
        header.set_u32(40, self.offset);
        let from = if mutated(Mutant::TransferOffsetIgnored) { 0 } else { self.offset };
        let source = Source::piece(&self.body, usize::try_from(from).unwrap_or(0), octets);
        self.offset = self.offset.saturating_add(length);
        self.data_number = self.data_number.wrapping_add(1);
        (header, source)
    }

    pub(super) fn is_done(&self) -> bool {
        self.offset >= self.end
    }
}

/// Which digests a PDU carries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Digests {
    pub(super) header: bool,
    pub(super) data: bool,
}

/// Writes a PDU at once; gives its source back if there is no room for all of it.
pub(super) fn write_whole<'a>(
    header: &Header,
    source: Source,
    digests: Digests,
    room: &'a mut [u8],
    requests: &Requests,
    payload: &mut dyn Payload,
) -> Result<&'a mut [u8], (&'a mut [u8], Source)> {
    let length = source.length();
    let head = HEADER_BYTES.wrapping_add(if digests.header { DIGEST_BYTES } else { 0 });
    let tail = if length > 0 && digests.data { DIGEST_BYTES } else { 0 };
    let total = head.saturating_add(length.next_multiple_of(4)).saturating_add(tail);
    if room.len() < total || room.len() < HEADER_BYTES {
        return Err((room, source));
    }
    let (place, rest) = room.split_at_mut(total);
    let Some((basic, place)) = place.split_first_chunk_mut() else { return Ok(rest) };
    *basic = header.0;
    if total == HEADER_BYTES {
        return Ok(rest);
    }
    let (digest, place) = place.split_at_mut(head.wrapping_sub(HEADER_BYTES).min(place.len()));
    if digests.header {
        digest.copy_from_slice(&crc32c(&header.0));
    }
    let (place, digest) = place.split_at_mut(place.len().wrapping_sub(tail).min(place.len()));
    let (data, padding) = place.split_at_mut(length.min(place.len()));
    match &source {
        Source::Own(bytes) => data.copy_from_slice(bytes),
        Source::Fragment { fragment, offset, .. } => requests.load(fragment, *offset, data, payload),
    }
    padding.fill(0);
    if tail > 0 {
        digest.copy_from_slice(&crc32c(place));
    }
    Ok(rest)
}

/// The PDU being given to TCP, octet by octet.
#[derive(Debug)]
pub(super) struct Sending {
    head: [u8; HEADER_BYTES + DIGEST_BYTES],
    head_bytes: usize,
    source: Source,
    digest: Option<Crc32c>,
    position: usize,
}

impl Sending {
    pub(super) fn new(header: &Header, source: Source, digests: Digests) -> Self {
        let mut head = [0; HEADER_BYTES + DIGEST_BYTES];
        copy_from(&mut head, Some(&header.0));
        let head_bytes = if digests.header {
            copy_from(head.get_mut(HEADER_BYTES..).unwrap_or_default(), Some(&crc32c(&header.0)));
            HEADER_BYTES + DIGEST_BYTES
        } else {
            HEADER_BYTES
        };
        let digest = (digests.data && source.length() > 0).then(Crc32c::new);
        Self { head, head_bytes, source, digest, position: 0 }
    }

    /// Copies what fits; true when the PDU is complete.
    pub(super) fn copy(
        &mut self,
        target: &mut &mut [u8],
        requests: &Requests,
        payload: &mut dyn Payload,
    ) -> bool {
        let (head, data) = (self.head_bytes, self.source.length());
        let padded = head.saturating_add(data.next_multiple_of(4));
        let end = padded.saturating_add(if self.digest.is_some() { 4 } else { 0 });
        while self.position < end && !target.is_empty() {
            let position = self.position;
            let boundary = if position < head {
                head
            } else if position < head.saturating_add(data) {
                head.saturating_add(data)
            } else if position < padded {
                padded
            } else {
                end
            };
            let count = boundary.saturating_sub(position).min(target.len());
            let Some((piece, rest)) = core::mem::take(target).split_at_mut_checked(count) else {
                return false;
            };
            *target = rest;
            if position < head {
                copy_from(piece, self.head.get(position..head));
            } else if position < padded {
                let inside = position.saturating_sub(head);
                match &self.source {
                    _ if inside >= data => piece.fill(0),
                    Source::Own(bytes) => copy_from(piece, bytes.get(inside..)),
                    Source::Fragment { fragment, offset, .. } => {
                        requests.load(fragment, offset.saturating_add(inside), piece, payload);
                    }
                }
                if let Some(digest) = &mut self.digest {
                    digest.update(piece);
                }
            } else if let Some(digest) = self.digest {
                let bytes = digest.finish();
                copy_from(piece, bytes.get(position.saturating_sub(padded)..));
            }
            self.position = position.saturating_add(count);
        }
        self.position >= end
    }
}

fn copy_from(target: &mut [u8], source: Option<&[u8]>) {
    let source = source.unwrap_or_default();
    let count = target.len().min(source.len());
    if let (Some(target), Some(source)) = (target.get_mut(..count), source.get(..count)) {
        target.copy_from_slice(source);
    }
}

/// The data of a command that carries out a fragment: what is written, nothing for
/// the rest.
pub(super) const fn body_of(fragment: &Fragment) -> Body {
    match fragment.operation {
        Operation::Write | Operation::WriteZeroes => Body::Fragment(*fragment),
        _ => Body::None,
    }
}
