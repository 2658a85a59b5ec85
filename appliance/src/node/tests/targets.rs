//! Disk targets of a few lines: what they hold is a vector, what they speak is
//! what the initiators need.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use netstack::frame::MacAddress;
use netstack::host::{Addressing, ConnectionId, ConnectionState, Host, HostConfig, TcpOptions};
use netstack::offload::Accepts;
use sha2::{Digest as _, Sha256};
use storage::aoe::TargetAddress;
use storage::aoe::wire::{Ata, Body, Config, Frame, Reserve, ata};
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
    /// Stations that hold it.
    pub(super) holders: Vec<[u8; 6]>,
    /// Does not answer who holds it.
    pub(super) keeps_no_list: bool,
    /// Commands for its disk.
    pub(super) commands: usize,
    /// How many it says that it takes at once.
    pub(super) buffers: u16,
}

impl AoeTarget {
    pub(super) fn new(shelf: u16, slot: u8, sectors: usize) -> Self {
        let mac = [2, 0xa0, 0xe0, 0, shelf.to_le_bytes()[0], slot];
        let address = TargetAddress { shelf, slot };
        Self {
            address,
            mac,
            disk: vec![0; sectors * 512],
            up: true,
            queries_only: false,
            holders: Vec::new(),
            keeps_no_list: false,
            commands: 0,
            buffers: 8,
        }
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
        let stations;
        let body = match frame.body {
            Body::Config(_) => {
                let buffers = self.buffers;
                Body::Config(Config { buffers, firmware: 1, sectors_max: 2, command: 0, string: b"" })
            }
            Body::Ata(_) if self.queries_only => return None,
            Body::Ata(request) => {
                self.commands += 1;
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
            Body::Reserve(_) if self.keeps_no_list => return None,
            Body::Reserve(asked) => {
                let mut list = asked.macs.to_vec();
                let ours = self.holders.is_empty() || self.holders.contains(&frame.source);
                match asked.command {
                    0 => list = self.holders.clone(),
                    1 if !ours => list = self.holders.clone(),
                    _ => self.holders = list.clone(),
                }
                stations = list;
                Body::Reserve(Reserve { command: asked.command, macs: &stations })
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
    /// On the wire of the first card for disks.
    pub(super) second: Option<Host>,
    pub(super) disk: Vec<u8>,
    /// Logins seen on a connection.
    pub(super) logins: usize,
    /// Commands wait for ever.
    pub(super) silent: bool,
    /// The next command that moves data is told that the size has changed.
    pub(super) resized: bool,
    /// Knows persistent reservations: who is registered, who holds it.
    pub(super) reservations: bool,
    pub(super) registered: Vec<u64>,
    pub(super) holder: Option<u64>,
    /// Octets of its blocks.
    pub(super) block_bytes: u64,
    /// The first octet of its INQUIRY data.
    pub(super) peripheral: u8,
    /// Its units; without any it has all, and no list.
    pub(super) units: Vec<u8>,
    /// Can discard; what was discarded.
    pub(super) thin: bool,
    pub(super) discarded: Vec<(u64, u32)>,
    /// Lets in who knows this.
    pub(super) secret: Option<(&'static str, &'static [u8])>,
    /// Refused logins.
    pub(super) refused: usize,
    /// How many right answers it still refuses, as if it meant another algorithm.
    pub(super) confused: usize,
    /// Sessions that said goodbye.
    pub(super) goodbyes: usize,
    /// Asks for an answer so often whenever it is looked at.
    pub(super) pings: usize,
    lanes: [Lane; 3],
    lane: usize,
}

/// A portal and the connection to it.
#[derive(Default)]
struct Lane {
    connection: Option<ConnectionId>,
    input: Vec<u8>,
    output: Vec<u8>,
    status_number: u32,
    command_number: u32,
    full: bool,
    /// A key is registered for this session.
    registered: bool,
    /// Commands by portal.
    commands: usize,
}

const CHALLENGE: [u8; 16] = [0x5a; 16];

pub(super) const ISCSI_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const SECOND_MAC: [u8; 6] = [2, 0, 0, 0, 1, 3];

pub(super) fn stack(mac: [u8; 6], address: Ipv4Addr) -> Host {
    let config = HostConfig {
        mac: MacAddress(mac),
        mtu: 1500,
        accepts: Accepts::default(),
        addressing: Addressing::Static { address, prefix: 24, gateway: None },
        seed: 33,
        secret: [7; 16],
    };
    let mut host = Host::new(&config, 0).unwrap();
    for port in [3260, 3261] {
        host.listen(port, 2, TcpOptions::STORAGE).unwrap();
    }
    host
}

impl IscsiTarget {
    pub(super) fn new(sectors: usize) -> Self {
        Self::at(sectors, [2, 0, 0, 0, 0, 3])
    }

    /// The same size in longer blocks.
    pub(super) fn of_blocks(sectors: usize, block_bytes: u64) -> Self {
        Self { block_bytes, ..Self::new(sectors) }
    }

    /// One of many: at 10.0.0.`last`.
    pub(super) fn numbered(sectors: usize, last: u8) -> Self {
        let host = stack([2, 0, 0, 0, 3, last], Ipv4Addr::new(10, 0, 0, last));
        Self { host, ..Self::new(sectors) }
    }

    /// At a station of this address.
    pub(super) fn at(sectors: usize, mac: [u8; 6]) -> Self {
        let host = stack(mac, ISCSI_ADDRESS);
        Self {
            host,
            second: None,
            disk: vec![0; sectors * 512],
            logins: 0,
            silent: false,
            resized: false,
            reservations: false,
            registered: Vec::new(),
            holder: None,
            block_bytes: 512,
            peripheral: 0,
            units: Vec::new(),
            thin: false,
            discarded: Vec::new(),
            secret: None,
            refused: 0,
            confused: 0,
            goodbyes: 0,
            pings: 0,
            lanes: [Lane::default(), Lane::default(), Lane::default()],
            lane: 0,
        }
    }

    /// Is on the wire of the first card for disks as well.
    pub(super) fn on_two_wires(mut self, address: Ipv4Addr) -> Self {
        self.second = Some(stack(SECOND_MAC, address));
        self
    }

    pub(super) fn next_deadline(&mut self, now_ns: u64) -> Option<u64> {
        let hosts = core::iter::once(&mut self.host).chain(&mut self.second);
        hosts.filter_map(|host| host.next_deadline(now_ns)).min()
    }

    /// Ends all connections without a word.
    pub(super) fn drop_all(&mut self, now_ns: u64) {
        for lane in 0..self.lanes.len() {
            self.lane = lane;
            if let Some(connection) = self.lanes[lane].connection.take() {
                self.lane_host().abort(connection, now_ns);
            }
        }
    }

    /// The stack of the lane that is looked at.
    fn lane_host(&mut self) -> &mut Host {
        match &mut self.second {
            Some(second) if self.lane == 2 => second,
            _ => &mut self.host,
        }
    }

    /// Commands that came to a portal.
    pub(super) fn commands(&self, lane: usize) -> usize {
        self.lanes[lane].commands
    }

    pub(super) fn poll(&mut self, now_ns: u64) {
        for lane in 0..if self.second.is_some() { 3 } else { 2 } {
            self.lane = lane;
            self.poll_lane(now_ns);
        }
    }

    fn poll_lane(&mut self, now_ns: u64) {
        self.lane_host().poll(now_ns);
        let port = if self.lane == 1 { 3261 } else { 3260 };
        if let Some(connection) = self.lane_host().accept(port) {
            // One session, one connection: the newer one wins.
            if let Some(old) = self.lanes[self.lane].connection.replace(connection) {
                self.lane_host().abort(old, now_ns);
            }
            self.lanes[self.lane].input.clear();
            self.lanes[self.lane].output.clear();
            self.lanes[self.lane].full = false;
            self.lanes[self.lane].registered = false;
        }
        let Some(connection) = self.lanes[self.lane].connection else { return };
        let mut buffer = [0; 4096];
        loop {
            let count = self.lane_host().read(connection, &mut buffer);
            if count == 0 {
                break;
            }
            self.lanes[self.lane].input.extend_from_slice(&buffer[..count]);
        }
        while self.work() {}
        for _ in 0..if self.lanes[self.lane].full { self.pings } else { 0 } {
            let mut ping = Header::new(opcode::NOP_IN, FLAG_FINAL);
            ping.set_u32(16, NO_TAG);
            ping.set_u32(20, 77);
            self.send(ping, &[]);
        }
        let output = core::mem::take(&mut self.lanes[self.lane].output);
        let count = self.lane_host().write(connection, &output);
        self.lanes[self.lane].output = output[count..].to_vec();
        if matches!(self.lane_host().state(connection), ConnectionState::PeerClosed | ConnectionState::Closed)
        {
            self.lane_host().close(connection, now_ns);
            self.lanes[self.lane].connection = None;
        }
        self.lane_host().poll(now_ns);
    }

    fn send(&mut self, mut header: Header, data: &[u8]) {
        header.set_data_length(data.len());
        header.set_u32(24, self.lanes[self.lane].status_number);
        self.lanes[self.lane].status_number = self.lanes[self.lane].status_number.wrapping_add(1);
        header.set_u32(28, self.lanes[self.lane].command_number);
        header.set_u32(32, self.lanes[self.lane].command_number.wrapping_add(16));
        self.lanes[self.lane].output.extend_from_slice(&header.0);
        self.lanes[self.lane].output.extend_from_slice(data);
        self.lanes[self.lane].output.resize(self.lanes[self.lane].output.len().next_multiple_of(4), 0);
    }

    /// Takes one PDU; false when there is none.
    fn work(&mut self) -> bool {
        let Some(basic) = self.lanes[self.lane].input.first_chunk::<48>() else { return false };
        let header = Header(*basic);
        let length = header.data_length();
        let total = 48 + length.next_multiple_of(4);
        if self.lanes[self.lane].input.len() < total {
            return false;
        }
        let pdu: Vec<u8> = self.lanes[self.lane].input.drain(..total).collect();
        if header.u8(0) & 0x40 == 0 {
            self.lanes[self.lane].command_number = header.u32(24).wrapping_add(1);
        }
        match header.opcode() {
            opcode::LOGIN => self.login(&header, &pdu[48..48 + length]),
            opcode::LOGOUT => {
                self.goodbyes += 1;
                let mut reply = Header::new(opcode::LOGOUT_RESPONSE, FLAG_FINAL);
                reply.set_u32(16, header.task_tag());
                self.send(reply, &[]);
            }
            opcode::MANAGEMENT => {
                let mut reply = Header::new(opcode::MANAGEMENT_RESPONSE, FLAG_FINAL);
                reply.set_u32(16, header.task_tag());
                self.send(reply, &[]);
            }
            opcode::SCSI_COMMAND if self.silent => {}
            opcode::SCSI_COMMAND => {
                self.lanes[self.lane].commands += 1;
                self.command(&header, &pdu[48..48 + length]);
            }
            opcode::NOP_OUT if header.task_tag() == NO_TAG => {}
            opcode::NOP_OUT => {
                let mut reply = Header::new(opcode::NOP_IN, FLAG_FINAL);
                reply.set_u32(16, header.task_tag());
                reply.set_u32(20, NO_TAG);
                self.send(reply, &[]);
            }
            opcode::TEXT => {
                assert!(pdu[48..].starts_with(b"SendTargets=All"));
                let mut reply = Header::new(opcode::TEXT_RESPONSE, FLAG_FINAL);
                reply.set_u32(16, header.task_tag());
                reply.set_u32(20, NO_TAG);
                self.send(reply, b"TargetName=iqn.t:x\0TargetAddress=10.0.0.3:3260,1\0");
            }
            other => panic!("opcode {other:#x}"),
        }
        true
    }

    fn login(&mut self, header: &Header, text: &[u8]) {
        assert!(!self.lanes[self.lane].full, "a login on a connection that is logged in");
        let flags = header.u8(1);
        self.logins += 1;
        self.lanes[self.lane].command_number = header.u32(24);
        let mut reply = Header::new(opcode::LOGIN_RESPONSE, flags);
        reply.set(8, &header.0[8..16]);
        reply.set_u32(16, header.task_tag());
        if (flags >> 2) & 3 == 1 {
            self.lanes[self.lane].full = true;
            let text: &[u8] = b"HeaderDigest=None\0DataDigest=None\0InitialR2T=No\0ImmediateData=Yes\0\
              MaxRecvDataSegmentLength=65536\0FirstBurstLength=65536\0MaxBurstLength=65536\0";
            return self.send(reply, text);
        }
        let Some((name, secret)) = self.secret else {
            return self.send(reply, b"AuthMethod=None\0TargetPortalGroupTag=1\0");
        };
        let text = String::from_utf8(text.to_vec()).unwrap();
        let value = |key: &str| text.split('\0').find_map(|it| it.strip_prefix(key)?.strip_prefix('='));
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| alloc::format!("{byte:02x}")).collect::<String>();
        // Stays in the stage until the name is proved.
        let mut stay = reply;
        stay.set(1, &[0]);
        if let Some(response) = value("CHAP_R") {
            let digest = Sha256::new().chain_update([7]).chain_update(secret).chain_update(CHALLENGE);
            let proved = response.eq_ignore_ascii_case(&alloc::format!("0x{}", hex(&digest.finalize())));
            if self.confused > 0 {
                self.confused -= 1;
            } else if proved && value("CHAP_N") == Some(name) {
                return self.send(reply, &[]);
            }
        } else if value("CHAP_A").is_some() {
            let answer = alloc::format!("CHAP_A=7\0CHAP_I=7\0CHAP_C=0x{}\0", hex(&CHALLENGE));
            return self.send(stay, answer.as_bytes());
        } else if value("AuthMethod").is_some_and(|methods| methods.contains("CHAP")) {
            return self.send(stay, b"AuthMethod=CHAP\0TargetPortalGroupTag=1\0");
        }
        // 11.13.5: initiator error, authentication failure.
        self.refused += 1;
        stay.set(36, &[2, 1]);
        self.send(stay, &[]);
    }

    fn command(&mut self, header: &Header, data: &[u8]) {
        let (tag, cdb) = (header.task_tag(), &header.0[32..48]);
        // Of commands that move data; of others it means nothing.
        let from = to_usize(u64::from_be_bytes(cdb[2..10].try_into().unwrap()))
            .wrapping_mul(to_usize(self.block_bytes));
        let octets = usize::try_from(header.u32(20)).unwrap();
        if matches!(cdb[0], 0x88 | 0x8a) && core::mem::take(&mut self.resized) {
            return self.complain(tag, [6, 0x2a, 9]);
        }
        let there = self.units.is_empty() || self.units.contains(&header.0[9]);
        let answer: Vec<u8> = match cdb[0] {
            // SPC-4, 6.6.1: asked of any unit.
            0x12 if !there => [&[0x7f][..], &[b'x'; 35]].concat(),
            // SPC-4, 6.33: of unit 0. Elsewhere a target may have nothing to tell.
            0xa0 if !self.units.is_empty() && header.0[9] != 0 => vec![0; 8],
            0xa0 if !self.units.is_empty() => {
                let mut list = vec![0; 8];
                list[3] = u8::try_from(8 * self.units.len()).unwrap();
                list.extend(self.units.iter().flat_map(|unit| [0, *unit, 0, 0, 0, 0, 0, 0]));
                list
            }
            _ if !there => return self.complain(tag, [5, 0x25, 0]),
            0x00 | 0x35 => return self.respond(tag),
            // SPC-4, table 66, and SBC-3, table 13: not for who has not registered.
            0x1a | 0x8a if self.holder.is_some() && !self.lanes[self.lane].registered => {
                return self.conflict(tag);
            }
            0x5e if self.reservations => self.holder.map_or_else(
                || vec![0; 8],
                |key| {
                    [&[0, 0, 0, 1, 0, 0, 0, 16][..], &key.to_be_bytes(), &[0, 0, 0, 0, 0, 5, 0, 0]].concat()
                },
            ),
            0x5f if self.reservations => return self.reserve(tag, cdb[1] & 31, data),
            0x12 if self.thin && cdb[1] & 1 != 0 => match cdb[2] {
                0 => vec![0, 0, 0, 3, 0, 0xb0, 0xb2],
                0xb0 => {
                    let mut page = vec![0; 64];
                    (page[1], page[3]) = (0xb0, 60);
                    page[20..24].copy_from_slice(&u32::MAX.to_be_bytes());
                    page[24..28].copy_from_slice(&1u32.to_be_bytes());
                    page
                }
                _ => vec![0, 0xb2, 0, 4, 0, 0x80, 2, 0],
            },
            0x42 if self.thin => {
                let from = u64::from_be_bytes(data[8..16].try_into().unwrap());
                let blocks = u32::from_be_bytes(data[16..20].try_into().unwrap());
                self.discarded.push((from, blocks));
                return self.respond(tag);
            }
            0x12 if cdb[1] & 1 != 0 => return self.refuse(tag),
            0x12 => [&[self.peripheral][..], &[b'x'; 35]].concat(),
            0x9e => {
                let mut capacity = vec![0; 32];
                let blocks = self.disk.len() as u64 / self.block_bytes;
                capacity[..8].copy_from_slice(&(blocks - 1).to_be_bytes());
                capacity[8..12].copy_from_slice(&u32::try_from(self.block_bytes).unwrap().to_be_bytes());
                capacity[14] = u8::from(self.thin) << 7;
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

    /// PERSISTENT RESERVE OUT (SPC-4, 6.16).
    fn reserve(&mut self, tag: u32, action: u8, data: &[u8]) {
        let key = |at: usize| u64::from_be_bytes(data[at..at + 8].try_into().unwrap());
        let (own, other) = (key(0), key(8));
        match action {
            6 if other == 0 => {
                self.registered.retain(|key| *key != own);
                self.holder = self.holder.filter(|holder| *holder != own);
            }
            6 => self.registered.push(other),
            1 if self.holder.is_none_or(|holder| holder == own) => self.holder = Some(own),
            5 => {
                self.registered.retain(|key| *key != other || *key == own);
                self.holder = Some(own);
            }
            _ => return self.conflict(tag),
        }
        if action == 6 {
            self.lanes[self.lane].registered = other != 0;
        }
        self.respond(tag);
    }

    /// RESERVATION CONFLICT.
    fn conflict(&mut self, tag: u32) {
        let mut header = Header::new(opcode::SCSI_RESPONSE, FLAG_FINAL);
        header.set(3, &[0x18]);
        header.set_u32(16, tag);
        self.send(header, &[]);
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
