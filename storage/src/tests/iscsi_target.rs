//! An iSCSI target: a disk, and however many connections to it.

use std::vec;
use std::vec::Vec;

use super::iscsi_connection::{Connection, Taken, Write};
use super::{MS, Random, SECTORS};
use crate::iscsi::pdu::{FLAG_FINAL, Header, NO_TAG, opcode};

pub(super) struct IscsiTarget {
    pub(super) disk: Vec<u8>,
    /// What a flush has persisted.
    pub(super) durable: Vec<u8>,
    pub(super) identity: u8,
    pub(super) connections: Vec<Connection>,
    /// Commands that touch these sectors fail.
    pub(super) bad: std::ops::Range<u64>,
    /// Each portal is a group of its own.
    pub(super) groups: bool,
    /// It knows UNMAP and WRITE SAME.
    pub(super) thin: bool,
    /// It knows SYNCHRONIZE CACHE(16) only.
    pub(super) long_flush: bool,
    /// Blocks of a read or write at most; zero is no limit.
    pub(super) transfer: u8,
    /// It resets units when asked.
    pub(super) resets: bool,
    /// Reads overtake each other.
    pub(super) shuffles: bool,
    /// It behaves as well as it can.
    pub(super) healed: bool,
    pub(super) holder: u64,
    pub(super) registered: Vec<([u8; 6], u64)>,
}

fn range(cdb: &[u8; 16]) -> (u64, u32) {
    (u64::from_be_bytes(cdb[2..10].try_into().unwrap()), u32::from_be_bytes(cdb[10..14].try_into().unwrap()))
}

impl IscsiTarget {
    pub(super) fn new(identity: u8) -> Self {
        Self {
            disk: vec![0; SECTORS as usize * 512],
            durable: vec![0; SECTORS as usize * 512],
            identity,
            connections: Vec::new(),
            bad: 0..0,
            groups: false,
            thin: false,
            long_flush: false,
            transfer: 0,
            resets: true,
            shuffles: false,
            healed: false,
            holder: 0,
            registered: Vec::new(),
        }
    }

    /// Takes PDUs off a connection's queue; false when the connection breaks.
    pub(super) fn work(&mut self, index: usize, now: u64, random: &mut Random) -> bool {
        loop {
            let connection = &mut self.connections[index];
            if connection.slow_until > now {
                connection.catch_up();
                return true;
            }
            if connection.full && random.chance(5) && !self.healed {
                self.capers(index, now, random);
            }
            let connection = &mut self.connections[index];
            let (header, data) = match connection.take() {
                Taken::Nothing => {
                    connection.catch_up();
                    return true;
                }
                Taken::Damaged => return false,
                Taken::Pdu(header, data) => (header, data),
            };
            if header.opcode() != opcode::SCSI_COMMAND {
                connection.catch_up();
            }
            if header.u8(0) & 0x40 == 0 && header.opcode() != opcode::DATA_OUT {
                connection.count(&header);
                if self.healed || !random.chance(20) {
                    connection.open_window();
                }
            }
            match header.opcode() {
                opcode::LOGIN => self.login(index, &header, &data),
                opcode::SCSI_COMMAND => self.command(index, &header, &data, random),
                opcode::DATA_OUT => {
                    if let Some(write) = connection.data_out(&header, &data) {
                        self.write(index, header.task_tag(), &write);
                    }
                }
                opcode::NOP_OUT if header.task_tag() != NO_TAG => {
                    let mut reply = Header::new(opcode::NOP_IN, FLAG_FINAL);
                    reply.set_u32(16, header.task_tag());
                    reply.set_u32(20, NO_TAG);
                    connection.send(reply, &[], true);
                }
                opcode::NOP_OUT => {}
                opcode::TEXT => {
                    let mut reply = Header::new(opcode::TEXT_RESPONSE, FLAG_FINAL);
                    reply.set_u32(16, header.task_tag());
                    reply.set_u32(20, NO_TAG);
                    connection.send(reply, b"MaxRecvDataSegmentLength=2048\0", true);
                }
                opcode::MANAGEMENT => self.manage(index, &header),
                opcode::LOGOUT => {
                    let mut reply = Header::new(opcode::LOGOUT_RESPONSE, FLAG_FINAL);
                    reply.set_u32(16, header.task_tag());
                    connection.send(reply, &[], true);
                }
                other => panic!("opcode {other:#x}"),
            }
        }
    }

    /// What a target may do at any time.
    fn capers(&mut self, index: usize, now: u64, random: &mut Random) {
        let connection = &mut self.connections[index];
        let mut event = Header::new(opcode::ASYNC, FLAG_FINAL);
        event.set_u32(16, NO_TAG);
        match random.below(40) {
            0..=3 => connection.slow_until = now + random.below(1_400) * MS,
            6 => {
                // A ping of its own.
                let mut ping = Header::new(opcode::NOP_IN, FLAG_FINAL);
                ping.set_u32(16, NO_TAG);
                ping.set_u32(20, 0x1234);
                connection.send(ping, &[], false);
            }
            7 => {
                event.set(36, &[4]);
                connection.send(event, &[], true);
            }
            4 if random.chance(30) => {
                event.set(36, &[1]);
                connection.send(event, &[], true);
            }
            5 => connection.attention = true,
            _ => {}
        }
    }

    /// The window may have stayed closed: open it, without being asked.
    pub(super) fn open_windows(&mut self) {
        for connection in self.connections.iter_mut().filter(|it| it.full) {
            connection.open_window();
            let mut nudge = Header::new(opcode::NOP_IN, FLAG_FINAL);
            nudge.set_u32(16, NO_TAG);
            nudge.set_u32(20, NO_TAG);
            connection.send(nudge, &[], false);
        }
    }

    fn login(&mut self, index: usize, header: &Header, text: &[u8]) {
        let group = if self.groups { self.connections[index].portal + 1 } else { 1 };
        self.connections[index].login(header, text, group);
        let (isid, portal) = (self.connections[index].isid, self.connections[index].portal);
        // 6.3.5: a session of the same name is ended, with everything in it.
        for (other, connection) in self.connections.iter_mut().enumerate() {
            let same = connection.isid == isid && (!self.groups || connection.portal == portal);
            if other != index && same {
                connection.open = false;
                connection.input.clear();
                connection.writes.clear();
            }
        }
    }

    fn command(&mut self, index: usize, header: &Header, data: &[u8], random: &mut Random) {
        let connection = &mut self.connections[index];
        let (tag, cdb): (u32, [u8; 16]) = (header.task_tag(), header.0[32..48].try_into().unwrap());
        let probes = matches!(cdb[0], 0x12 | 0xa0);
        if !probes && core::mem::take(&mut connection.attention) {
            return connection.respond(tag, 2, Some([6, 0x29, 3]));
        }
        if !self.healed && random.per_mille(8) {
            let busy = random.chance(50);
            return connection.respond(tag, if busy { 8 } else { 0x28 }, None);
        }
        let (first, blocks) = range(&cdb);
        let moves = matches!(cdb[0], 0x88 | 0x8a | 0x93);
        if moves && first + u64::from(blocks) > SECTORS {
            return connection.respond(tag, 2, Some([5, 0x21, 0]));
        }
        if moves && self.bad.start < first + u64::from(blocks) && first < self.bad.end {
            return connection.respond(tag, 2, Some([3, 0x11, 0]));
        }
        match cdb[0] {
            0x00 => connection.respond(tag, 0, None),
            0x35 if self.long_flush => connection.respond(tag, 2, Some([5, 0x20, 0])),
            0x35 | 0x91 => {
                self.durable.clone_from(&self.disk);
                connection.respond(tag, 0, None);
            }
            0x88 if blocks > 1 && !self.healed && random.per_mille(5) => {
                // All is well, it says, and half is missing.
                let from = first as usize * 512;
                connection.data_in(tag, &self.disk[from..from + blocks as usize * 256]);
            }
            0x88 => {
                let from = first as usize * 512;
                // Whichever; it must not cost a random number, or seeds would mean others.
                let overtaken = self.shuffles && (tag >> 8) % 3 == 0;
                connection.read(tag, &self.disk[from..from + blocks as usize * 512], overtaken);
            }
            0x42 | 0x93 if !self.thin => connection.respond(tag, 2, Some([5, 0x20, 0])),
            0x8a | 0x42 | 0x93 | 0x5f => {
                if let Some(write) = connection.begin_write(header, data) {
                    self.write(index, tag, &write);
                }
            }
            _ => {
                let answer = self.describe(&cdb);
                let connection = &mut self.connections[index];
                let Some(answer) = answer else { return connection.respond(tag, 2, Some([5, 0x20, 0])) };
                let length = answer.len().min(header.u32(20) as usize);
                connection.data_in(tag, &answer[..length]);
            }
        }
    }

    /// What the unit tells about itself.
    fn describe(&self, cdb: &[u8; 16]) -> Option<Vec<u8>> {
        let page = |code: u8, rest: &[u8]| [&[0, code, 0, rest.len() as u8], rest].concat();
        Some(match (cdb[0], cdb[1], cdb[2]) {
            (0x12, 0, _) => [&[0][..], &[b'x'; 35]].concat(),
            (0x12, 1, 0) if self.thin => page(0, &[0, 0x80, 0x83, 0xb0, 0xb2]),
            (0x12, 1, 0) => page(0, &[0, 0x80, 0x83]),
            (0x12, 1, 0x80) => page(0x80, &[b's', self.identity]),
            (0x12, 1, 0x83) => page(0x83, &[1, 3, 0, 8, 6, 0, 0, 0, 0, 0, 0, self.identity]),
            (0x12, 1, 0xb0) => {
                let mut rest = [0; 60];
                (rest[7], rest[19], rest[23], rest[39]) = (self.transfer, 16, 1, 24);
                page(0xb0, &rest)
            }
            (0x12, 1, 0xb2) => page(0xb2, &[0, 0xc0, 0, 0]),
            (0x9e, ..) => {
                let mut capacity = vec![0; 32];
                (capacity[7], capacity[10]) = (SECTORS as u8 - 1, 2);
                capacity[14] = if self.thin { 0xc0 } else { 0 };
                capacity
            }
            (0xa0, ..) => [&[0, 0, 0, 8, 0, 0, 0, 0][..], &[0; 8]].concat(),
            (0x1a, ..) => vec![3, 0, 0, 0],
            (0x5e, 1, _) if self.holder != 0 => {
                let key = self.holder.to_be_bytes();
                [&[0, 0, 0, 1, 0, 0, 0, 16][..], &key, &[0, 0, 0, 0, 0, 5, 0, 0]].concat()
            }
            (0x5e, 1, _) => vec![0; 8],
            _ => return None,
        })
    }

    /// A write has all its data.
    fn write(&mut self, index: usize, tag: u32, write: &Write) {
        let (first, blocks) = range(&write.cdb);
        let from = (first as usize).wrapping_mul(512);
        let connection = &mut self.connections[index];
        match write.cdb[0] {
            0x8a => self.disk[from..from + write.buffer.len()].copy_from_slice(&write.buffer),
            0x93 => self.disk[from..from + blocks as usize * 512].fill(0),
            0x42 => {
                let first = u64::from_be_bytes(write.buffer[8..16].try_into().unwrap()) as usize * 512;
                let blocks = u32::from_be_bytes(write.buffer[16..20].try_into().unwrap()) as usize;
                self.disk[first..first + blocks * 512].fill(0);
            }
            _ => {
                let key = u64::from_be_bytes(write.buffer[..8].try_into().unwrap());
                let other = u64::from_be_bytes(write.buffer[8..16].try_into().unwrap());
                let registered = self.registered.contains(&(connection.isid, key));
                match write.cdb[1] {
                    6 => {
                        self.registered.retain(|(isid, _)| *isid != connection.isid);
                        if other != 0 {
                            self.registered.push((connection.isid, other));
                        } else if self.holder == key {
                            self.holder = 0;
                        }
                    }
                    1 if registered && self.holder == 0 => self.holder = key,
                    5 if registered && self.holder == other => self.holder = key,
                    _ => return connection.respond(tag, 0x18, None),
                }
            }
        }
        connection.respond(tag, 0, None);
    }

    /// Task management.
    fn manage(&mut self, index: usize, header: &Header) {
        let mut reply = Header::new(opcode::MANAGEMENT_RESPONSE, FLAG_FINAL);
        reply.set_u32(16, header.task_tag());
        match header.u8(1) & 0x7f {
            1 => {
                let gone = self.connections[index].writes.remove(&header.u32(20)).is_none();
                reply.set(2, &[u8::from(gone)]);
            }
            5 if self.resets => {
                for connection in &mut self.connections {
                    connection.writes.clear();
                    connection.attention = true;
                }
            }
            _ => reply.set(2, &[5]),
        }
        self.connections[index].send(reply, &[], true);
    }
}
