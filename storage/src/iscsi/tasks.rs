//! Commands in flight and the PDUs waiting for TCP.

use alloc::vec::Vec;

use super::crc32c::{Crc32c, crc32c};
use super::pdu::{FLAG_FINAL, HEADER_BYTES, Header, opcode};
use crate::block::{Payload, RequestId};

/// What a command is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskKind {
    TestUnitReady,
    Inquiry,
    Capacity,
    Text,
    Data { id: RequestId, write: bool, first: u32, sectors: u32 },
    Flush { id: RequestId },
}

/// A command that awaits its response.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) tag: u32,
    pub(super) kind: TaskKind,
    /// Octets to be transferred.
    pub(super) length: u32,
    /// Octets received in order (reads), or offered by us (writes).
    pub(super) moved: u32,
    pub(super) data_number: u32,
    pub(super) r2t_number: u32,
    pub(super) started_ns: u64,
    /// Answer of a probe.
    pub(super) answer: Vec<u8>,
}

/// The data of an outgoing PDU.
#[derive(Debug)]
pub(super) enum Source {
    Own(Vec<u8>),
    /// The guest's: request, offset in it, octets.
    Guest {
        id: RequestId,
        offset: usize,
        length: usize,
    },
}

impl Source {
    pub(super) fn length(&self) -> usize {
        match self {
            Self::Own(bytes) => bytes.len(),
            Self::Guest { length, .. } => *length,
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
    pub(super) id: RequestId,
    /// Where the command's data begins in the request.
    pub(super) base: usize,
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
        let offset = self.base.saturating_add(usize::try_from(self.offset).unwrap_or(0));
        self.offset = self.offset.saturating_add(length);
        self.data_number = self.data_number.wrapping_add(1);
        (header, Source::Guest { id: self.id, offset, length: octets })
    }

    pub(super) fn is_done(&self) -> bool {
        self.offset >= self.end
    }
}

/// The PDU being given to TCP, octet by octet.
#[derive(Debug)]
pub(super) struct Sending {
    head: Vec<u8>,
    source: Source,
    digest: Option<Crc32c>,
    position: usize,
}

impl Sending {
    pub(super) fn new(header: Header, source: Source, header_digest: bool, data: bool) -> Self {
        let mut head = Vec::with_capacity(HEADER_BYTES + 4);
        head.extend_from_slice(&header.0);
        if header_digest {
            head.extend_from_slice(&crc32c(&header.0));
        }
        let digest = (data && source.length() > 0).then(Crc32c::new);
        Self { head, source, digest, position: 0 }
    }

    /// Copies what fits; true when the PDU is complete.
    pub(super) fn copy(
        &mut self,
        target: &mut &mut [u8],
        written: &mut usize,
        payload: &mut dyn Payload,
    ) -> bool {
        let (head, data) = (self.head.len(), self.source.length());
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
                copy_from(piece, self.head.get(position..));
            } else if position < padded {
                let inside = position.saturating_sub(head);
                match &self.source {
                    _ if inside >= data => piece.fill(0),
                    Source::Own(bytes) => copy_from(piece, bytes.get(inside..)),
                    Source::Guest { id, offset, .. } => {
                        payload.load(*id, offset.saturating_add(inside), piece);
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
    for (target, source) in target.iter_mut().zip(source.unwrap_or_default()) {
        *target = *source;
    }
}
