//! A connection as a target sees it: octets to PDUs, numbering, digests, login.

use std::collections::BTreeMap;
use std::format;
use std::vec::Vec;

use crate::iscsi::crc32c;
use crate::iscsi::pdu::{FLAG_FINAL, Header, NO_TAG, opcode};

pub(super) const SEGMENT: usize = 2_048;
const FIRST_BURST: usize = 4_096;

/// A write whose data is coming in.
pub(super) struct Write {
    pub(super) cdb: [u8; 16],
    pub(super) buffer: Vec<u8>,
    pub(super) got: usize,
    asks: u32,
}

pub(super) struct Connection {
    /// On which portal.
    pub(super) portal: usize,
    /// The initiator has not closed it.
    pub(super) open: bool,
    pub(super) isid: [u8; 6],
    pub(super) input: Vec<u8>,
    pub(super) output: Vec<u8>,
    pub(super) full: bool,
    pub(super) digests: bool,
    pub(super) initial_r2t: bool,
    /// Commands that may be in flight.
    pub(super) window: u32,
    pub(super) status_number: u32,
    pub(super) command_number: u32,
    pub(super) command_number_max: u32,
    pub(super) writes: BTreeMap<u32, Write>,
    pub(super) attention: bool,
    /// It takes nothing off its queue until then.
    pub(super) slow_until: u64,
    /// A surprise is the initiator's fault: not if it is lied to.
    pub(super) strict: bool,
    /// Octets of a Data-In PDU at most.
    pub(super) data_in_max: usize,
    /// Reads that are answered when those behind them are.
    later: Vec<(u32, Vec<u8>)>,
    asks: u32,
}

/// A PDU off the queue.
pub(super) enum Taken {
    Nothing,
    Pdu(Header, Vec<u8>),
    /// A digest was wrong.
    Damaged,
}

impl Connection {
    pub(super) fn new(portal: usize, digests: bool, initial_r2t: bool, window: u32, number: u32) -> Self {
        Self {
            portal,
            open: true,
            isid: [0; 6],
            input: Vec::new(),
            output: Vec::new(),
            full: false,
            digests,
            initial_r2t,
            window,
            status_number: number,
            command_number: 0,
            command_number_max: 0,
            writes: BTreeMap::new(),
            attention: true,
            slow_until: 0,
            strict: true,
            data_in_max: 1_536,
            later: Vec::new(),
            asks: 0,
        }
    }

    /// Sends a PDU; `counts` if it carries a status number.
    pub(super) fn send(&mut self, mut header: Header, data: &[u8], counts: bool) {
        header.set_data_length(data.len());
        header.set_u32(24, self.status_number);
        self.status_number = self.status_number.wrapping_add(u32::from(counts));
        header.set_u32(28, self.command_number);
        header.set_u32(32, self.command_number_max);
        self.output.extend_from_slice(&header.0);
        if self.full && self.digests {
            self.output.extend_from_slice(&crc32c(&header.0));
        }
        let mut padded = data.to_vec();
        padded.resize(data.len().next_multiple_of(4), 0);
        self.output.extend_from_slice(&padded);
        if self.full && self.digests && !data.is_empty() {
            self.output.extend_from_slice(&crc32c(&padded));
        }
    }

    pub(super) fn take(&mut self) -> Taken {
        let Some(basic) = self.input.first_chunk::<48>() else { return Taken::Nothing };
        let header = Header(*basic);
        let digest = if self.full && self.digests { 4 } else { 0 };
        let length = header.data_length();
        let padded = length.next_multiple_of(4);
        let tail = if length > 0 { digest } else { 0 };
        if digest > 0 && self.input.len() >= 52 && crc32c(&self.input[..48]) != self.input[48..52] {
            return Taken::Damaged;
        }
        let total = 48 + digest + padded + tail;
        if self.input.len() < total {
            return Taken::Nothing;
        }
        let pdu: Vec<u8> = self.input.drain(..total).collect();
        let data = &pdu[48 + digest..48 + digest + padded];
        if tail > 0 && crc32c(data) != pdu[total - 4..] {
            return Taken::Damaged;
        }
        Taken::Pdu(header, data[..length].to_vec())
    }

    /// A command takes its number; it has to be the next one within the window.
    pub(super) fn count(&mut self, header: &Header) {
        assert!(header.u32(24) == self.command_number || !self.strict, "CmdSN in order");
        let room = self.command_number_max.wrapping_sub(self.command_number);
        assert!(room < 1 << 31 || !self.strict, "a command into a closed window");
        self.command_number = self.command_number.wrapping_add(1);
    }

    /// Opens the window as far as it goes.
    pub(super) fn open_window(&mut self) {
        self.command_number_max = self.command_number.wrapping_add(self.window).wrapping_sub(1);
    }

    pub(super) fn login(&mut self, header: &Header, text: &[u8], group: usize) {
        let flags = header.u8(1);
        self.command_number = header.u32(24);
        self.open_window();
        self.isid.copy_from_slice(&header.0[8..14]);
        let mut reply = Header::new(opcode::LOGIN_RESPONSE, flags);
        reply.set(8, &header.0[8..16]);
        reply.set_u32(16, header.task_tag());
        let operational = (flags >> 2) & 3 == 1;
        let answer = if operational {
            assert!(text.starts_with(b"HeaderDigest=CRC32C,None\0") || !self.strict);
            reply.set(14, &[0, 9]);
            let digest = if self.digests { "CRC32C" } else { "None" };
            let r2t = if self.initial_r2t { "Yes" } else { "No" };
            format!(
                "HeaderDigest={digest}\0DataDigest={digest}\0InitialR2T={r2t}\0\
                 ImmediateData=Yes\0MaxRecvDataSegmentLength={SEGMENT}\0\
                 FirstBurstLength={FIRST_BURST}\0MaxBurstLength=65536\0"
            )
        } else {
            format!("AuthMethod=None\0TargetPortalGroupTag={group}\0")
        };
        self.send(reply, answer.as_bytes(), true);
        self.full = operational;
    }

    /// A write begins.
    pub(super) fn begin_write(&mut self, header: &Header, data: &[u8]) -> Option<Write> {
        let octets = header.u32(20) as usize;
        let mut buffer = std::vec![0; octets];
        let data = &data[..data.len().min(octets)];
        buffer[..data.len()].copy_from_slice(data);
        let cdb = header.0[32..48].try_into().unwrap();
        let write = Write { cdb, buffer, got: data.len(), asks: 0 };
        self.writes.insert(header.task_tag(), write);
        if header.u8(1) & FLAG_FINAL != 0 { self.proceed(header.task_tag()) } else { None }
    }

    /// All that was asked for has come: ask for more, or hand the write out.
    fn proceed(&mut self, tag: u32) -> Option<Write> {
        let write = self.writes.get_mut(&tag)?;
        if write.got == write.buffer.len() {
            return self.writes.remove(&tag);
        }
        // Odd sizes, in order.
        self.asks = self.asks.wrapping_add(1);
        let length = (write.buffer.len() - write.got).min(1_000 + self.asks as usize % 3_000);
        let mut ask = Header::new(opcode::R2T, FLAG_FINAL);
        ask.set_u32(16, tag);
        ask.set_u32(20, 0x7700_0000 | (self.asks & 0xffff));
        ask.set_u32(36, write.asks);
        ask.set_u32(40, write.got as u32);
        ask.set_u32(44, length as u32);
        write.asks += 1;
        self.send(ask, &[], false);
        None
    }

    pub(super) fn data_out(&mut self, header: &Header, data: &[u8]) -> Option<Write> {
        let tag = header.task_tag();
        // A task that was aborted may still have data in flight.
        let write = self.writes.get_mut(&tag)?;
        let offset = header.u32(40) as usize;
        let fits = offset == write.got && offset + data.len() <= write.buffer.len();
        assert!(fits || !self.strict, "Data-Out in order");
        if !fits {
            return None;
        }
        write.buffer[offset..offset + data.len()].copy_from_slice(data);
        write.got += data.len();
        if header.u8(1) & FLAG_FINAL != 0 { self.proceed(tag) } else { None }
    }

    pub(super) fn data_in(&mut self, tag: u32, data: &[u8]) {
        // Large ones are of two sizes, whichever.
        let odd = self.data_in_max > 4_608 && (tag >> 8) % 2 == 1;
        let most = if odd { 4_608 } else { self.data_in_max };
        let sizes: Vec<usize> = data.chunks(most).map(<[u8]>::len).collect();
        self.data_in_pieces(tag, data, &sizes);
    }

    /// Data-In PDUs of these sizes.
    pub(super) fn data_in_pieces(&mut self, tag: u32, data: &[u8], sizes: &[usize]) {
        let mut offset = 0;
        for (number, size) in sizes.iter().enumerate() {
            let last = number + 1 == sizes.len();
            let mut header = Header::new(opcode::DATA_IN, if last { FLAG_FINAL | 1 } else { 0 });
            header.set_u32(16, tag);
            header.set_u32(20, NO_TAG);
            header.set_u32(36, number as u32);
            header.set_u32(40, offset as u32);
            self.send(header, &data[offset..offset + size], last);
            offset += size;
        }
    }

    /// Answers a read, or lets others overtake it.
    pub(super) fn read(&mut self, tag: u32, data: &[u8], overtaken: bool) {
        if overtaken {
            self.later.push((tag, data.to_vec()));
        } else {
            self.data_in(tag, data);
        }
    }

    /// Answers all that were overtaken.
    pub(super) fn catch_up(&mut self) {
        for (tag, data) in core::mem::take(&mut self.later) {
            self.data_in(tag, &data);
        }
    }

    pub(super) fn respond(&mut self, tag: u32, status: u8, sense: Option<[u8; 3]>) {
        let mut header = Header::new(opcode::SCSI_RESPONSE, FLAG_FINAL);
        header.set(3, &[status]);
        header.set_u32(16, tag);
        let data = sense.map_or_else(Vec::new, |[key, code, qualifier]| {
            let mut data = std::vec![0, 18, 0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier];
            data.extend_from_slice(&[0; 4]);
            data
        });
        self.send(header, &data, true);
    }
}
