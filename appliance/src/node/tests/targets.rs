//! Disk targets of a few lines: what they hold is a vector, what they speak is
//! what the initiators need.

use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use netstack::frame::MacAddress;
use netstack::host::{Addressing, ConnectionId, ConnectionState, Host, HostConfig, TcpOptions};
use storage::aoe::TargetAddress;
use storage::aoe::wire::{Ata, Body, Config, Frame, ata};
use storage::iscsi::pdu::{FLAG_FINAL, Header, NO_TAG, opcode};

use super::world::to_usize;

/// An AoE target.
pub(super) struct AoeTarget {
    pub(super) address: TargetAddress,
    pub(super) mac: [u8; 6],
    pub(super) disk: Vec<u8>,
    pub(super) up: bool,
    /// Answers queries only: its disk is not ready.
    pub(super) queries_only: bool,
}

impl AoeTarget {
    pub(super) fn new(shelf: u16, slot: u8, sectors: usize) -> Self {
        let mac = [2, 0xa0, 0xe0, 0, shelf.to_le_bytes()[0], slot];
        let address = TargetAddress { shelf, slot };
        Self { address, mac, disk: vec![0; sectors * 512], up: true, queries_only: false }
    }

    pub(super) fn answer(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let frame = Frame::parse(bytes).filter(|frame| self.up && !frame.response)?;
        let shelf = frame.target.shelf == self.address.shelf || frame.target.shelf == u16::MAX;
        let slot = frame.target.slot == self.address.slot || frame.target.slot == u8::MAX;
        if !shelf || !slot {
            return None;
        }
        let mut identity = [0u8; 512];
        identity[167] = 4;
        identity[200..208].copy_from_slice(&(self.disk.len() as u64 / 512).to_le_bytes());
        let body = match frame.body {
            Body::Config(_) => {
                Body::Config(Config { buffers: 8, firmware: 1, sectors_max: 2, command: 0, string: b"" })
            }
            Body::Ata(_) if self.queries_only => return None,
            Body::Ata(request) => {
                let from = to_usize(request.lba) * 512;
                let to = from + usize::from(request.sectors) * 512;
                let data: &[u8] = match request.command {
                    ata::IDENTIFY => &identity,
                    ata::READ_EXT => &self.disk[from..to],
                    ata::WRITE_EXT => {
                        self.disk[from..to].copy_from_slice(&request.data[..to - from]);
                        &[]
                    }
                    ata::FLUSH_EXT | ata::FLUSH => &[],
                    other => panic!("command {other:#x}"),
                };
                Body::Ata(Ata { command: 0x40, feature: 0, data, ..request })
            }
            _ => return None,
        };
        let target = self.address;
        let reply =
            Frame { destination: frame.source, source: self.mac, response: true, body, target, ..frame };
        let mut bytes = vec![0; 1514];
        let length = reply.emit(&mut bytes)?;
        bytes.truncate(length);
        Some(bytes)
    }
}

/// An iSCSI target with a TCP stack of its own.
pub(super) struct IscsiTarget {
    pub(super) host: Host,
    pub(super) disk: Vec<u8>,
    /// Logins seen on a connection.
    pub(super) logins: usize,
    /// Commands wait for ever.
    pub(super) silent: bool,
    /// The next command that moves data is told that the size has changed.
    pub(super) resized: bool,
    connection: Option<ConnectionId>,
    input: Vec<u8>,
    output: Vec<u8>,
    status_number: u32,
    command_number: u32,
    full: bool,
}

pub(super) const ISCSI_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);

impl IscsiTarget {
    pub(super) fn new(sectors: usize) -> Self {
        let mut host = Host::new(
            &HostConfig {
                mac: MacAddress([2, 0, 0, 0, 0, 3]),
                mtu: 1500,
                addressing: Addressing::Static { address: ISCSI_ADDRESS, prefix: 24, gateway: None },
                seed: 33,
            },
            0,
        )
        .unwrap();
        host.listen(3260, 2, TcpOptions::STORAGE).unwrap();
        Self {
            host,
            disk: vec![0; sectors * 512],
            logins: 0,
            silent: false,
            resized: false,
            connection: None,
            input: Vec::new(),
            output: Vec::new(),
            status_number: 1,
            command_number: 0,
            full: false,
        }
    }

    pub(super) fn poll(&mut self, now_ns: u64) {
        self.host.poll(now_ns);
        if let Some(connection) = self.host.accept(3260) {
            // One session, one connection: the newer one wins.
            if let Some(old) = self.connection.replace(connection) {
                self.host.abort(old, now_ns);
            }
            self.input.clear();
            self.output.clear();
            self.full = false;
        }
        let Some(connection) = self.connection else { return };
        let mut buffer = [0; 4096];
        loop {
            let count = self.host.read(connection, &mut buffer);
            if count == 0 {
                break;
            }
            self.input.extend_from_slice(&buffer[..count]);
        }
        while self.work() {}
        let count = self.host.write(connection, &self.output);
        self.output.drain(..count);
        if matches!(self.host.state(connection), ConnectionState::PeerClosed | ConnectionState::Closed) {
            self.host.close(connection, now_ns);
            self.connection = None;
        }
        self.host.poll(now_ns);
    }

    fn send(&mut self, mut header: Header, data: &[u8]) {
        header.set_data_length(data.len());
        header.set_u32(24, self.status_number);
        self.status_number = self.status_number.wrapping_add(1);
        header.set_u32(28, self.command_number);
        header.set_u32(32, self.command_number.wrapping_add(16));
        self.output.extend_from_slice(&header.0);
        self.output.extend_from_slice(data);
        self.output.resize(self.output.len().next_multiple_of(4), 0);
    }

    /// Takes one PDU; false when there is none.
    fn work(&mut self) -> bool {
        let Some(basic) = self.input.first_chunk::<48>() else { return false };
        let header = Header(*basic);
        let length = header.data_length();
        let total = 48 + length.next_multiple_of(4);
        if self.input.len() < total {
            return false;
        }
        let pdu: Vec<u8> = self.input.drain(..total).collect();
        if header.u8(0) & 0x40 == 0 {
            self.command_number = header.u32(24).wrapping_add(1);
        }
        match header.opcode() {
            opcode::LOGIN => self.login(&header),
            opcode::SCSI_COMMAND if self.silent => {}
            opcode::SCSI_COMMAND => self.command(&header, &pdu[48..48 + length]),
            opcode::NOP_OUT => {
                let mut reply = Header::new(opcode::NOP_IN, FLAG_FINAL);
                reply.set_u32(16, header.task_tag());
                reply.set_u32(20, NO_TAG);
                self.send(reply, &[]);
            }
            other => panic!("opcode {other:#x}"),
        }
        true
    }

    fn login(&mut self, header: &Header) {
        assert!(!self.full, "a login on a connection that is logged in");
        let flags = header.u8(1);
        self.logins += 1;
        self.command_number = header.u32(24);
        let mut reply = Header::new(opcode::LOGIN_RESPONSE, flags);
        reply.set(8, &header.0[8..16]);
        reply.set_u32(16, header.task_tag());
        self.full = (flags >> 2) & 3 == 1;
        let text: &[u8] = if self.full {
            b"HeaderDigest=None\0DataDigest=None\0InitialR2T=No\0ImmediateData=Yes\0\
              MaxRecvDataSegmentLength=65536\0FirstBurstLength=65536\0MaxBurstLength=65536\0"
        } else {
            b"AuthMethod=None\0TargetPortalGroupTag=1\0"
        };
        self.send(reply, text);
    }

    fn command(&mut self, header: &Header, data: &[u8]) {
        let (tag, cdb) = (header.task_tag(), &header.0[32..48]);
        // Of commands that move data; of others it means nothing.
        let from = to_usize(u64::from_be_bytes(cdb[2..10].try_into().unwrap())).wrapping_mul(512);
        let octets = usize::try_from(header.u32(20)).unwrap();
        if matches!(cdb[0], 0x88 | 0x8a) && core::mem::take(&mut self.resized) {
            return self.complain(tag, [6, 0x2a, 9]);
        }
        let answer: Vec<u8> = match cdb[0] {
            0x00 | 0x35 => return self.respond(tag),
            0x12 if cdb[1] & 1 != 0 => return self.refuse(tag),
            0x12 => vec![b'x'; 36],
            0x9e => {
                let mut capacity = vec![0; 32];
                capacity[..8].copy_from_slice(&(self.disk.len() as u64 / 512 - 1).to_be_bytes());
                capacity[10] = 2;
                capacity
            }
            0x88 => self.disk[from..from + octets].to_vec(),
            0x8a => {
                assert_eq!(data.len(), octets, "all of it was immediate");
                self.disk[from..from + octets].copy_from_slice(data);
                return self.respond(tag);
            }
            // Lists of units, vital product data, modes: it knows none of them.
            0x1a | 0x5e | 0xa0 => return self.refuse(tag),
            other => panic!("CDB {other:#x}"),
        };
        let mut reply = Header::new(opcode::DATA_IN, FLAG_FINAL | 1);
        reply.set_u32(16, tag);
        reply.set_u32(20, NO_TAG);
        self.send(reply, &answer);
    }

    /// Check condition: illegal request, invalid command operation code.
    fn refuse(&mut self, tag: u32) {
        self.complain(tag, [5, 0x20, 0]);
    }

    fn complain(&mut self, tag: u32, [key, code, qualifier]: [u8; 3]) {
        let mut header = Header::new(opcode::SCSI_RESPONSE, FLAG_FINAL);
        header.set(3, &[2]);
        header.set_u32(16, tag);
        let sense = [0, 18, 0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier, 0, 0, 0, 0];
        self.send(header, &sense);
    }

    fn respond(&mut self, tag: u32) {
        let mut header = Header::new(opcode::SCSI_RESPONSE, FLAG_FINAL);
        header.set_u32(16, tag);
        self.send(header, &[]);
    }
}
