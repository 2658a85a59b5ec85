//! Commands in flight and the PDUs waiting for TCP.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::crc32c::{Crc32c, crc32c};
use super::pdu::{FLAG_FINAL, HEADER_BYTES, Header, opcode};
use crate::block::{Operation, Payload};
use crate::planted::{Bug, planted};
use crate::requests::{Fragment, Requests};

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

/// Where the command with a tag is: they are in the order of their tags, with gaps.
pub(super) fn find(tasks: &VecDeque<Task>, tag: u32) -> Option<usize> {
    let last = tasks.len().checked_sub(1)?;
    let ahead = tag.wrapping_sub(tasks.front()?.tag);
    let mut index = usize::try_from(ahead).map_or(last, |ahead| ahead.min(last));
    while tasks.get(index)?.tag != tag {
        index = index.checked_sub(1)?;
    }
    Some(index)
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
    pub(super) body: Body,
    /// Answer of a probe.
    pub(super) answer: Vec<u8>,
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
        let from = if planted(Bug::TransferOffsetIgnored) { 0 } else { self.offset };
        let source = Source::piece(&self.body, usize::try_from(from).unwrap_or(0), octets);
        self.offset = self.offset.saturating_add(length);
        self.data_number = self.data_number.wrapping_add(1);
        (header, source)
    }

    pub(super) fn is_done(&self) -> bool {
        self.offset >= self.end
    }
}

/// The PDU being given to TCP, octet by octet.
#[derive(Debug)]
pub(super) struct Sending {
    head: [u8; HEADER_BYTES + 4],
    head_bytes: usize,
    source: Source,
    digest: Option<Crc32c>,
    position: usize,
}

impl Sending {
    pub(super) fn new(header: Header, source: Source, header_digest: bool, data: bool) -> Self {
        let mut head = [0; HEADER_BYTES + 4];
        copy_from(&mut head, Some(&header.0));
        let head_bytes = if header_digest {
            copy_from(head.get_mut(HEADER_BYTES..).unwrap_or_default(), Some(&crc32c(&header.0)));
            HEADER_BYTES + 4
        } else {
            HEADER_BYTES
        };
        let digest = (data && source.length() > 0).then(Crc32c::new);
        Self { head, head_bytes, source, digest, position: 0 }
    }

    /// Copies what fits; true when the PDU is complete.
    pub(super) fn copy(
        &mut self,
        target: &mut &mut [u8],
        written: &mut usize,
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
            *written = written.saturating_add(count);
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
