//! An iSCSI target that is honest but for its script, and that holds the initiator to
//! the protocol.
//!
//! Spec: RFC 7143; sections are cited where they are held.

use super::SECTORS;
use std::collections::BTreeMap;
use storage::iscsi::crc32c;
use storage::iscsi::pdu::{FLAG_CONTINUE, FLAG_FINAL, Header, IMMEDIATE, NO_TAG, opcode, serial_after};

mod connection;
mod unit;

use connection::Connection;
pub use connection::{Act, Manner, Mischief, Moment, Pdu, SEGMENT, Task, response};
use unit::describe;

/// Octets without being asked.
const FIRST_BURST: usize = 8192;
/// Octets of a Data-In PDU.
const DATA_IN: usize = 3072;
/// What it has to show.
pub const LIST: &[u8] = b"TargetName=iqn.2026-11.io.redoubt:hostile\0TargetAddress=10.0.0.3:3260,1\0";
/// Octets asked for at once.
const ASK: usize = 6000;

/// The target.
#[derive(Debug)]
pub struct Target {
    /// The disk.
    pub disk: Vec<u8>,
    /// Connections so far.
    pub connections: usize,
    /// What the initiator did against the protocol.
    pub faults: Vec<String>,
    /// Every header that came, with its connection.
    pub seen: Vec<(usize, Header)>,
    /// The text of logins.
    pub texts: String,
    /// What scripts have marked.
    pub marks: usize,
    manner: Manner,
    mischief: Mischief,
    connection: Option<Connection>,
    isid: Option<Vec<u8>>,
    now_ms: u64,
    transfer_tag: u32,
}

impl Target {
    /// A target with a script.
    #[must_use]
    pub fn new(manner: Manner, mischief: Mischief) -> Self {
        Self {
            disk: vec![0; usize::try_from(SECTORS).unwrap_or(0) * 512],
            connections: 0,
            faults: Vec::new(),
            seen: Vec::new(),
            texts: String::new(),
            marks: 0,
            manner,
            mischief,
            connection: None,
            isid: None,
            now_ms: 0,
            transfer_tag: 0x7000,
        }
    }

    /// A new connection; the one before is gone.
    pub fn accept(&mut self) {
        self.connections += 1;
        self.connection = Some(Connection {
            input: Vec::new(),
            output: Vec::new(),
            full: false,
            answered: false,
            closed: false,
            status_number: self.manner.status_number,
            command_number: 0,
            command_number_max: 0,
            tasks: BTreeMap::new(),
            asked_tags: Vec::new(),
            sent: BTreeMap::new(),
            total: 0,
            window: self.manner.window,
            silent_until_ms: 0,
            queue: Vec::new(),
            text_tag: NO_TAG,
            logged_out: false,
        });
    }

    /// The initiator has closed the connection.
    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Takes octets; returns what the target sends, and whether it has closed.
    pub fn exchange(&mut self, octets: &[u8], now_ms: u64) -> (Vec<u8>, bool) {
        self.now_ms = now_ms;
        let Some(connection) = &mut self.connection else { return (Vec::new(), true) };
        connection.input.extend_from_slice(octets);
        while let Some((header, data)) = self.take() {
            self.seen.push((self.connections, header));
            self.process(&header, &data);
        }
        self.say();
        let Some(connection) = &mut self.connection else { return (Vec::new(), true) };
        (std::mem::take(&mut connection.output), connection.closed)
    }

    fn fault(&mut self, what: impl Into<String>) {
        let what = what.into();
        if self.faults.len() < 20 && !self.faults.contains(&what) {
            self.faults.push(what);
        }
    }

    /// The next whole PDU.
    fn take(&mut self) -> Option<(Header, Vec<u8>)> {
        let digests = self.manner.digests;
        let segment = self.manner.segment.max(8192);
        let connection = self.connection.as_mut().filter(|it| !it.closed)?;
        let header = Header(*connection.input.first_chunk()?);
        let digest = if connection.full && digests { 4 } else { 0 };
        let (length, limit) = (header.data_length(), if connection.full { segment } else { 8192 });
        let padded = length.next_multiple_of(4);
        let tail = if length > 0 { digest } else { 0 };
        if length > limit || header.additional_length() > 0 {
            connection.closed = true;
            self.fault("a data segment longer than we take, or headers we do not know");
            return None;
        }
        if connection.input.len() < 48 + digest + padded + tail {
            return None;
        }
        let pdu: Vec<u8> = connection.input.drain(..48 + digest + padded + tail).collect();
        let data = pdu.get(48 + digest..48 + digest + padded)?;
        let wrong = (digest > 0 && pdu.get(48..52) != Some(&crc32c(&header.0)[..]))
            || (tail > 0 && pdu.get(48 + digest + padded..) != Some(&crc32c(data)[..]));
        let (data, padding) = data.split_at(length);
        let dirty = padding.iter().any(|octet| *octet != 0);
        let data = data.to_vec();
        if wrong || dirty {
            self.fault("a wrong digest, or padding that is not zero");
        }
        Some((header, data))
    }

    /// 4.2.2.1: commands are numbered one after the other, within the window.
    fn number(&mut self, header: &Header) {
        let Some(connection) = &mut self.connection else { return };
        let number = header.u32(24);
        let (expected, most) = (connection.command_number, connection.command_number_max);
        let immediate = header.u8(0) & IMMEDIATE != 0;
        if !immediate {
            connection.command_number = connection.command_number.wrapping_add(1);
        }
        if number != expected {
            self.fault(format!("CmdSN {number} instead of {expected}"));
        } else if !immediate && serial_after(number, most) {
            self.fault("a command into a closed window");
        }
    }

    fn process(&mut self, header: &Header, data: &[u8]) {
        let Some(connection) = &self.connection else { return };
        let (code, full) = (header.opcode(), connection.full);
        // 4.2.2.2: only what has been sent can be acknowledged.
        let ahead = connection.total > 0 && serial_after(header.u32(28), connection.status_number);
        let logged_out = connection.logged_out;
        if ahead {
            self.fault("ExpStatSN beyond what was sent");
        }
        if logged_out && code != opcode::DATA_OUT {
            self.fault("something after the logout");
        }
        if full != (code != opcode::LOGIN) {
            return self.fault(format!("opcode {code:#x} in the wrong phase"));
        }
        if code != opcode::DATA_OUT && code != opcode::LOGIN {
            self.number(header);
        }
        if self.manner.discovery && matches!(code, opcode::SCSI_COMMAND | opcode::MANAGEMENT) {
            return self.fault("a command in a discovery session");
        }
        match code {
            opcode::LOGIN => self.login(header, data),
            opcode::SCSI_COMMAND => self.command(header, data),
            opcode::DATA_OUT => self.data_out(header, data),
            opcode::NOP_OUT => self.nop_out(header, data),
            opcode::TEXT => self.text(header, data),
            opcode::MANAGEMENT => {
                if let Some(connection) = &mut self.connection {
                    match header.u8(1) & 0x7f {
                        1 => drop(connection.tasks.remove(&header.u32(20))),
                        _ => connection.tasks.clear(),
                    }
                }
                self.push(Pdu::new(opcode::MANAGEMENT_RESPONSE, FLAG_FINAL, header.task_tag()));
            }
            opcode::LOGOUT => {
                if header.u8(1) != FLAG_FINAL {
                    self.fault("another logout than that of the session");
                }
                if let Some(connection) = &mut self.connection {
                    connection.logged_out = true;
                }
                self.push(Pdu::new(opcode::LOGOUT_RESPONSE, FLAG_FINAL, header.task_tag()));
            }
            // At error recovery level 0 there is no SNACK (7.1).
            other => self.fault(format!("opcode {other:#x}")),
        }
    }

    fn login(&mut self, header: &Header, data: &[u8]) {
        let flags = header.u8(1);
        let isid = header.0.get(8..14).map(<[u8]>::to_vec);
        if self.isid.is_some() && self.isid != isid {
            self.fault("another session identifier than before");
        }
        self.isid = isid;
        if header.u16(14) != 0 || header.u8(2) != 0 || header.u8(3) != 0 {
            self.fault("a session handle before there is one, or another version");
        }
        if flags & FLAG_FINAL != 0 && flags & FLAG_CONTINUE != 0 {
            self.fault("transit and continue at once");
        }
        self.texts.push_str(&String::from_utf8_lossy(data).replace('\0', "\n"));
        let manner = self.manner;
        let Some(connection) = &mut self.connection else { return };
        connection.command_number = header.u32(24);
        let mut reply = Pdu::new(opcode::LOGIN_RESPONSE, flags, header.task_tag());
        reply.header.set(8, header.0.get(8..16).unwrap_or_default());
        reply.header.set(20, &[0; 4]);
        let digest = if manner.digests { "CRC32C" } else { "None" };
        let answer = match (flags >> 2) & 3 {
            0 => "AuthMethod=None\0TargetPortalGroupTag=1\0".to_string(),
            // A key is negotiated once (6.3).
            _ if data.is_empty() || std::mem::replace(&mut connection.answered, true) => String::new(),
            _ => format!(
                "HeaderDigest={digest}\0DataDigest={digest}\0InitialR2T={r2t}\0ImmediateData=Yes\0\
                 MaxRecvDataSegmentLength={segment}\0FirstBurstLength={FIRST_BURST}\0MaxBurstLength=16384\0\
                 ErrorRecoveryLevel=0\0MaxConnections=1\0MaxOutstandingR2T=1\0DataPDUInOrder=Yes\0\
                 DataSequenceInOrder=Yes\0DefaultTime2Wait=0\0DefaultTime2Retain=0\0",
                r2t = if manner.initial_r2t { "Yes" } else { "No" },
                segment = manner.segment,
            ),
        };
        let last = flags & FLAG_FINAL != 0 && flags & 3 == 3;
        if last {
            reply.header.set(14, &[0, 9]);
        }
        self.push(reply.with(answer.as_bytes()));
    }

    /// 11.10, appendix C.
    fn text(&mut self, header: &Header, data: &[u8]) {
        let mut answer = Pdu::new(opcode::TEXT_RESPONSE, FLAG_FINAL, header.task_tag());
        if self.manner.discovery {
            let (tag, expected) = (header.u32(20), self.connection.as_ref().map(|it| it.text_tag));
            if tag == NO_TAG {
                answer.data = LIST.to_vec();
            }
            let wanted: &[u8] = if tag == NO_TAG { b"SendTargets=All\0" } else { b"" };
            if data != wanted || (tag != NO_TAG && Some(tag) != expected) {
                self.fault("a text request that asks for something else");
            }
        }
        self.push(answer);
    }

    fn command(&mut self, header: &Header, data: &[u8]) {
        let manner = self.manner;
        let tag = header.task_tag();
        let length = usize::try_from(header.u32(20)).unwrap_or(0);
        let outward = header.u8(1) & 0x20 != 0;
        let last = header.u8(1) & FLAG_FINAL != 0;
        let Some(connection) = &mut self.connection else { return };
        if tag == NO_TAG || connection.tasks.contains_key(&tag) {
            return self.fault("a task tag that is in use");
        }
        let unasked = if !outward || last { data.len() } else { length.min(FIRST_BURST) };
        let mut buffer = if outward { vec![0; length] } else { Vec::new() };
        let fits = buffer.get_mut(..data.len()).map(|room| room.copy_from_slice(data)).is_some();
        let task = Task {
            header: *header,
            data: buffer,
            got: data.len(),
            asked: unasked,
            transfer_tag: NO_TAG,
            next_data: 0,
            asks: 0,
        };
        connection.tasks.insert(tag, task);
        // 13.10 to 13.14.
        if !fits || data.len() > FIRST_BURST || data.len() > manner.segment {
            return self.fault("more immediate data than was negotiated");
        }
        if !last && (manner.initial_r2t || !outward) {
            return self.fault("data announced that nobody asked for");
        }
        if last {
            self.proceed(tag);
        }
    }

    /// A piece of a write.
    fn data_out(&mut self, header: &Header, data: &[u8]) {
        let tag = header.task_tag();
        let Some(connection) = &mut self.connection else { return };
        // Data of a command that has ended may still be under way.
        let Some(task) = connection.tasks.get_mut(&tag) else { return };
        let offset = usize::try_from(header.u32(40)).unwrap_or(usize::MAX);
        let last = header.u8(1) & FLAG_FINAL != 0;
        let end = offset.saturating_add(data.len());
        let sound = header.u32(20) == task.transfer_tag
            && header.u32(36) == task.next_data
            && offset == task.got
            && end <= task.asked
            && last == (end == task.asked);
        let room = task.data.get_mut(offset..end);
        let (Some(room), true) = (room, sound) else {
            return self.fault("Data-Out out of order, range or sequence");
        };
        room.copy_from_slice(data);
        task.got = end;
        task.next_data += 1;
        if last {
            self.proceed(tag);
        }
    }

    /// Asks for more, or carries the command out.
    fn proceed(&mut self, tag: u32) {
        let Some(connection) = &mut self.connection else { return };
        let Some(task) = connection.tasks.get_mut(&tag) else { return };
        if task.got >= task.data.len() {
            return self.carry_out(tag);
        }
        self.transfer_tag += 1;
        let length = ASK.min(task.data.len() - task.got);
        let octets = |value: usize| u32::try_from(value).unwrap_or(0);
        let mut ask = Pdu::new(opcode::R2T, FLAG_FINAL, tag);
        ask.counts = false;
        ask.header.set(8, task.header.0.get(8..16).unwrap_or_default());
        ask.header.set_u32(20, self.transfer_tag);
        ask.header.set_u32(36, task.asks);
        ask.header.set_u32(40, octets(task.got));
        ask.header.set_u32(44, octets(length));
        (task.transfer_tag, task.next_data) = (self.transfer_tag, 0);
        task.asked = task.got + length;
        task.asks += 1;
        self.push(ask);
    }

    fn carry_out(&mut self, tag: u32) {
        let Some(task) = self.connection.as_ref().and_then(|it| it.tasks.get(&tag)).cloned() else { return };
        let (first, count) = task.range();
        let range = first * 512..(first + count) * 512;
        match task.header.u8(32) {
            0x00 | 0x35 => self.respond(tag, 0, &[]),
            0x8a => match self.disk.get_mut(range) {
                Some(disk) if disk.len() == task.data.len() => {
                    disk.copy_from_slice(&task.data);
                    self.respond(tag, 0, &[]);
                }
                _ => self.respond(tag, 2, &[5, 0x21, 0]),
            },
            // UNMAP with one descriptor; WRITE SAME(16) of one block of zeroes.
            0x42 => {
                let field = |at: usize, length: usize| task.data.get(at..at + length).unwrap_or_default();
                if (field(0, 4), task.data.len()) != (&[0, 22, 0, 16][..], 24) || field(8, 4) != [0; 4] {
                    self.fault("a list of ranges that lies about its length");
                }
                let number =
                    |at| field(at, 4).iter().fold(0, |number, octet| number << 8 | usize::from(*octet));
                self.zero(tag, number(12), number(16));
            }
            0x93 => {
                if task.data.len() != 512 || task.data.iter().any(|octet| *octet != 0) {
                    self.fault("WRITE SAME of something else than a block of zeroes");
                }
                self.zero(tag, first, count);
            }
            0x88 => match self.disk.get(range).map(<[u8]>::to_vec) {
                Some(data) => self.data_in(tag, &data),
                None => self.respond(tag, 2, &[5, 0x21, 0]),
            },
            _ => match describe(task.cdb(), self.manner.thin) {
                Some(answer) => {
                    let wanted = usize::try_from(task.header.u32(20)).unwrap_or(0);
                    self.data_in(tag, answer.get(..wanted.min(answer.len())).unwrap_or_default());
                }
                None => self.respond(tag, 2, &[5, 0x20, 0]),
            },
        }
    }

    fn data_in(&mut self, tag: u32, data: &[u8]) {
        let pieces: Vec<&[u8]> = data.chunks(DATA_IN).collect();
        let octets = |value: usize| u32::try_from(value).unwrap_or(0);
        for (number, piece) in pieces.iter().enumerate() {
            let last = number + 1 == pieces.len();
            let mut pdu = Pdu::new(opcode::DATA_IN, if last { FLAG_FINAL | 1 } else { 0 }, tag).with(piece);
            pdu.counts = last;
            pdu.header.set_u32(36, octets(number));
            pdu.header.set_u32(40, octets(number * DATA_IN));
            self.push(pdu);
        }
    }

    fn zero(&mut self, tag: u32, first: usize, count: usize) {
        match self.disk.get_mut(first * 512..(first + count) * 512) {
            Some(disk) => {
                disk.fill(0);
                self.respond(tag, 0, &[]);
            }
            None => self.respond(tag, 2, &[5, 0x21, 0]),
        }
    }

    fn respond(&mut self, tag: u32, status: u8, sense: &[u8]) {
        let pdu = response(tag, status, sense);
        self.push(pdu);
    }

    fn nop_out(&mut self, header: &Header, data: &[u8]) {
        if header.task_tag() != NO_TAG {
            self.push(Pdu::new(opcode::NOP_IN, FLAG_FINAL, header.task_tag()).with(data));
        } else if header.u32(20) == NO_TAG || header.u8(0) & IMMEDIATE == 0 {
            self.fault("a ping that is neither a question nor an answer");
        } else if let Some(connection) = &mut self.connection {
            let asked = connection.asked_tags.iter().position(|tag| *tag == header.u32(20));
            match asked {
                Some(index) => drop(connection.asked_tags.swap_remove(index)),
                None => self.fault("an answer to a ping that was not sent"),
            }
        }
    }

    fn push(&mut self, pdu: Pdu) {
        if let Some(connection) = &mut self.connection {
            connection.queue.push(pdu);
        }
    }

    /// Gives what is queued to the script and to the wire.
    fn say(&mut self) {
        let now_ms = self.now_ms;
        let (mischief, number) = (self.mischief, self.connections);
        let digests = self.manner.digests;
        let Some(connection) = &mut self.connection else { return };
        let mut queue = std::mem::take(&mut connection.queue).into_iter();
        while !connection.closed && connection.silent_until_ms <= now_ms {
            let Some(mut pdu) = queue.next() else { break };
            let count = connection.sent.entry(pdu.header.opcode()).or_default();
            let nth = std::mem::replace(count, *count + 1);
            let (mut before, mut after, mut silence_ms) = (Vec::new(), Vec::new(), 0);
            let task = connection.tasks.get(&pdu.header.task_tag()).cloned();
            let act = mischief(
                &mut pdu,
                &mut Moment {
                    connection: number,
                    nth,
                    total: connection.total,
                    command: task.as_ref(),
                    before: &mut before,
                    after: &mut after,
                    window: &mut connection.window,
                    silence_ms: &mut silence_ms,
                    marks: &mut self.marks,
                },
            );
            if pdu.header.opcode() == opcode::TEXT_RESPONSE {
                connection.text_tag = pdu.header.u32(20);
            }
            before.into_iter().for_each(|pdu| connection.send(pdu, &Act::Send, digests));
            connection.send(pdu, &act, digests);
            after.into_iter().for_each(|pdu| connection.send(pdu, &Act::Send, digests));
            if silence_ms > 0 {
                connection.silent_until_ms = now_ms + silence_ms;
            }
        }
        connection.queue.extend(queue);
    }
}
