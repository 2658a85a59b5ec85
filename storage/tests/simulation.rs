//! Seeded simulation: an initiator, a bad network and a small target for each
//! protocol. After healing every request has finished, no acknowledged write is
//! lost, and every read returned what was acknowledged before it.
#![expect(
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::tests_outside_test_module,
    reason = "an integration test is all test: it stops at the first surprise"
)]

use std::collections::{BTreeMap, HashMap};

use storage::aoe::wire::{Ata, Body, Config, Frame, ata};
use storage::aoe::{Target, TargetAddress, TargetConfig};
use storage::iscsi::pdu::{FLAG_FINAL, Header, NO_TAG, opcode};
use storage::iscsi::{Portal, Session, SessionConfig, SessionKind, crc32c};
use storage::volume::Volume;
use storage::{Lba, Operation, Payload, Request, RequestId};

const SECTORS: u64 = 64;
const MS: u64 = 1_000_000;

struct Random(u64);
impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

struct Memory(HashMap<RequestId, Vec<u8>>);
impl Payload for Memory {
    fn load(&mut self, id: RequestId, offset: usize, target: &mut [u8]) {
        match self.0.get(&id) {
            Some(data) => target.copy_from_slice(&data[offset..offset + target.len()]),
            None => target.fill(0),
        }
    }
    fn store(&mut self, id: RequestId, offset: usize, source: &[u8]) {
        if let Some(data) = self.0.get_mut(&id) {
            data[offset..offset + source.len()].copy_from_slice(source);
        }
    }
}

/// Submits requests and checks the order the session promises.
struct Guest {
    memory: Memory,
    model: Vec<u8>,
    in_flight: HashMap<RequestId, Request>,
    next_id: u64,
}

impl Guest {
    fn new() -> Self {
        Self {
            memory: Memory(HashMap::new()),
            model: vec![0; SECTORS as usize * 512],
            in_flight: HashMap::new(),
            next_id: 1,
        }
    }

    fn submit(&mut self, volume: &mut Volume, random: &mut Random, now: u64) {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let operation = match random.below(10) {
            0 => Operation::Flush,
            1..=5 => Operation::Write,
            _ => Operation::Read,
        };
        let sectors = if operation == Operation::Flush { 0 } else { 1 + random.below(12) as u32 };
        let lba = random.below(SECTORS - u64::from(sectors));
        let lba = if operation == Operation::Flush { 0 } else { lba };
        let fill = random.next() as u8;
        let data = (0..sectors as usize * 512).map(|at| fill.wrapping_add((at / 32) as u8));
        self.memory.0.insert(id, data.collect());
        let request = Request { id, operation, lba: Lba(lba), sectors };
        self.in_flight.insert(id, request);
        volume.submit(request, now).unwrap();
    }

    fn collect(&mut self, volume: &mut Volume, seed: u64) {
        while let Some(completion) = volume.take_completion() {
            assert_eq!(completion.result, Ok(()), "seed {seed}");
            let request = self.in_flight.remove(&completion.id).unwrap();
            let data = self.memory.0.remove(&completion.id).unwrap();
            let from = request.lba.0 as usize * 512;
            let held = &mut self.model[from..from + data.len()];
            match request.operation {
                Operation::Write => held.copy_from_slice(&data),
                Operation::Read => assert!(held == data, "seed {seed}: stale {request:?}"),
                _ => {}
            }
        }
    }
}

/// An AoE target: a disk that answers frames.
struct AoeTarget {
    disk: Vec<u8>,
    up: bool,
    sectors_max: u8,
}

const AOE: TargetAddress = TargetAddress { shelf: 11, slot: 1 };
const TARGET_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

impl AoeTarget {
    fn answer(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let frame = Frame::parse(bytes).filter(|frame| self.up && !frame.response)?;
        let mut identity = [0u8; 512];
        identity[167] = 4;
        identity[200] = SECTORS as u8;
        let body = match frame.body {
            Body::Config(_) => Body::Config(Config {
                buffers: 8,
                firmware: 1,
                sectors_max: self.sectors_max,
                command: 0,
                string: b"",
            }),
            Body::Ata(request) => {
                let from = request.lba as usize * 512;
                let to = from + usize::from(request.sectors) * 512;
                let data: &[u8] = match request.command {
                    ata::IDENTIFY => &identity,
                    ata::READ_EXT => &self.disk[from..to],
                    ata::WRITE_EXT => {
                        self.disk[from..to].copy_from_slice(&request.data[..to - from]);
                        &[]
                    }
                    ata::FLUSH_EXT => &[],
                    other => panic!("command {other:#x}"),
                };
                Body::Ata(Ata { command: 0x40, feature: 0, data, ..request })
            }
            _ => return None,
        };
        let reply = Frame { destination: frame.source, source: TARGET_MAC, response: true, body, ..frame };
        let mut bytes = vec![0; 9100];
        let length = reply.emit(&mut bytes)?;
        bytes.truncate(length);
        Some(bytes)
    }
}

/// An Ethernet that loses, delays, swaps, copies and damages.
struct Network {
    /// Frames under way: (arrival, order) to (towards the target, bytes).
    wire: BTreeMap<(u64, u64), (bool, Vec<u8>)>,
    order: u64,
    loss: u64,
    path: usize,
}

impl Network {
    fn next(&self) -> Option<u64> {
        self.wire.first_key_value().map(|((at, _), _)| *at)
    }

    fn carry(&mut self, to_target: bool, bytes: &[u8], now: u64, healed: bool, random: &mut Random) {
        let copies = if healed { 1 } else { 1 + u64::from(random.chance(10)) };
        let mut delay = 0;
        for copy in 0..copies {
            let lost = bytes.len() > self.path || (!healed && random.chance(self.loss));
            // Usually quick, sometimes as late as a frame may ever be. A request that
            // the network itself doubles arrives twice at once: no AoE initiator could
            // know of a lone copy that outlives the answer.
            if copy == 0 || !to_target {
                delay = match random.below(50) {
                    0 if !healed => random.below(1_900) * MS,
                    1..=10 => random.below(20) * MS,
                    _ => random.below(2) * MS,
                };
            }
            if lost {
                continue;
            }
            self.order += 1;
            let mut bytes = bytes.to_vec();
            // Damage that Ethernet's own check lets through hits the header here.
            if !healed && !to_target && random.chance(2) {
                let at = 14 + random.below(10) as usize;
                bytes[at] ^= 1 << random.below(8);
            }
            self.wire.insert((now + delay, self.order), (to_target, bytes));
        }
    }
}

fn aoe_world(seed: u64) {
    let mut random = Random::new(seed);
    let loss = random.below(31);
    let mtu = [1500, 9000][random.below(2) as usize];
    // Some paths do not carry what the target advertises.
    let path = if random.chance(20) { 1514 } else { 9014 };
    let mut volume = Volume::Aoe(Target::new(TargetConfig {
        target: AOE,
        sources: vec![NODE_MAC],
        macs: random.chance(50).then_some(TARGET_MAC).into_iter().collect(),
        mtu,
        read_only: false,
        hold_writes_until_ns: 0,
        seed,
    }));
    let disk = vec![0; SECTORS as usize * 512];
    let mut target = AoeTarget { disk, up: true, sectors_max: ((mtu - 22) / 512) as u8 };
    let mut guest = Guest::new();
    let mut network = Network { wire: BTreeMap::new(), order: 0, loss, path };
    let (mut now, mut healed_at) = (0u64, None);
    let mut submitted = 0;
    loop {
        let healed = healed_at.is_some();
        if submitted < 40 && guest.in_flight.len() < 8 {
            guest.submit(&mut volume, &mut random, now);
            submitted += 1;
        } else if submitted == 40 && !healed {
            healed_at = Some(now);
            target.up = true;
        }
        if healed_at.is_none() && random.chance(1) {
            target.up = !target.up;
        }
        let mut outgoing = Vec::new();
        let Volume::Aoe(session) = &mut volume else { unreachable!() };
        let mut buffer = [0; 9100];
        while let Some(length) = session.transmit(&mut buffer, now, &mut guest.memory) {
            outgoing.push((true, buffer[..length].to_vec()));
        }
        // What arrives may make room for more to be sent at once.
        let arrived = network.next().is_some_and(|at| at <= now);
        while network.next().is_some_and(|at| at <= now) {
            let (_, (to_target, bytes)) = network.wire.pop_first().unwrap();
            if to_target {
                outgoing.extend(target.answer(&bytes).map(|reply| (false, reply)));
            } else {
                session.receive(&bytes, now, &mut guest.memory);
            }
        }
        for (to_target, bytes) in outgoing {
            network.carry(to_target, &bytes, now, healed, &mut random);
        }
        guest.collect(&mut volume, seed);
        if healed && guest.in_flight.is_empty() {
            break;
        }
        let waited = healed_at.map_or(0, |at| now - at);
        assert!(waited < 40_000 * MS, "seed {seed}: {:#?}", volume.status());
        let next = network.next().into_iter().chain(volume.next_deadline()).min().unwrap_or(now);
        now = if arrived { now } else { next }.max(now + MS / 4);
    }
    // Let every wandering copy land, then look at the disk.
    for (_, (to_target, bytes)) in network.wire {
        if to_target {
            target.answer(&bytes);
        }
    }
    assert!(target.disk == guest.model, "seed {seed}: an acknowledged write was lost");
}

#[test]
fn aoe_loses_nothing() {
    let seeds = std::env::var("SEEDS").ok().and_then(|it| it.parse().ok()).unwrap_or(500);
    for seed in 1..=seeds {
        aoe_world(seed);
    }
}

/// An iSCSI target: one session, one connection, a disk.
struct IscsiTarget {
    disk: Vec<u8>,
    up: bool,
    digests: bool,
    initial_r2t: bool,
    input: Vec<u8>,
    output: Vec<u8>,
    full: bool,
    status_number: u32,
    command_number: u32,
    writes: HashMap<u32, (usize, Vec<u8>, usize)>,
    attention: bool,
    asks: u32,
    /// Whether a surprise is the initiator's fault: not after damage without digests.
    strict: bool,
}

const SEGMENT: usize = 2_048;
const FIRST_BURST: usize = 4_096;

impl IscsiTarget {
    fn disconnect(&mut self) {
        self.input.clear();
        self.output.clear();
        self.writes.clear();
        self.full = false;
        self.attention = true;
    }

    fn send(&mut self, mut header: Header, data: &[u8], counts: bool) {
        header.set_data_length(data.len());
        header.set_u32(24, self.status_number);
        self.status_number = self.status_number.wrapping_add(u32::from(counts));
        header.set_u32(28, self.command_number);
        header.set_u32(32, self.command_number.wrapping_add(7));
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

    /// Takes whole PDUs from the input; false to drop the connection.
    fn work(&mut self) -> bool {
        loop {
            let Some(basic) = self.input.first_chunk::<48>() else { return true };
            let header = Header(*basic);
            let digest = if self.full && self.digests { 4 } else { 0 };
            let length = header.data_length();
            let padded = length.next_multiple_of(4);
            let tail = if length > 0 { digest } else { 0 };
            let total = 48 + digest + padded + tail;
            if self.input.len() < total {
                return true;
            }
            let pdu: Vec<u8> = self.input.drain(..total).collect();
            let data = &pdu[48 + digest..48 + digest + padded];
            if digest > 0
                && (crc32c(&pdu[..48]) != pdu[48..52] || (length > 0 && crc32c(data) != pdu[total - 4..]))
            {
                return false;
            }
            if header.u8(0) & 0x40 == 0 && header.opcode() != opcode::DATA_OUT {
                let in_order = header.u32(24) == self.command_number;
                assert!(in_order || !self.strict, "CmdSN in order");
                self.command_number = self.command_number.wrapping_add(1);
            }
            match header.opcode() {
                opcode::LOGIN => self.login(&header, &data[..length]),
                opcode::SCSI_COMMAND => self.command(&header, &data[..length]),
                opcode::DATA_OUT => self.data_out(&header, &data[..length]),
                opcode::NOP_OUT => {
                    let mut reply = Header::new(opcode::NOP_IN, FLAG_FINAL);
                    reply.set_u32(16, header.task_tag());
                    reply.set_u32(20, NO_TAG);
                    self.send(reply, &[], true);
                }
                other => panic!("opcode {other:#x}"),
            }
        }
    }

    fn login(&mut self, header: &Header, text: &[u8]) {
        let flags = header.u8(1);
        self.command_number = header.u32(24);
        let mut reply = Header::new(opcode::LOGIN_RESPONSE, flags);
        reply.set(8, &header.0[8..16]);
        reply.set_u32(16, header.task_tag());
        let operational = (flags >> 2) & 3 == 1;
        let answer = if operational {
            let offers = text.starts_with(b"HeaderDigest=CRC32C,None\0");
            assert!(offers || !self.strict);
            let digest = if self.digests { "CRC32C" } else { "None" };
            let r2t = if self.initial_r2t { "Yes" } else { "No" };
            format!(
                "HeaderDigest={digest}\0DataDigest={digest}\0InitialR2T={r2t}\0\
                 ImmediateData=Yes\0MaxRecvDataSegmentLength={SEGMENT}\0\
                 FirstBurstLength={FIRST_BURST}\0MaxBurstLength=65536\0"
            )
        } else {
            "AuthMethod=None\0TargetPortalGroupTag=1\0".into()
        };
        self.send(reply, answer.as_bytes(), true);
        self.full = operational;
    }

    fn command(&mut self, header: &Header, data: &[u8]) {
        let (tag, cdb) = (header.task_tag(), &header.0[32..48]);
        if std::mem::take(&mut self.attention) {
            let sense = [0, 18, 0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 0, 0, 0, 0, 0];
            return self.respond(tag, 2, &sense);
        }
        let lba = u64::from_be_bytes(cdb[2..10].try_into().unwrap()) as usize * 512;
        let octets = header.u32(20) as usize;
        match cdb[0] {
            0x00 | 0x35 => self.respond(tag, 0, &[]),
            0x12 => self.data_in(tag, &[b'x'; 36]),
            0x9e => {
                let mut capacity = [0; 32];
                capacity[7] = SECTORS as u8 - 1;
                capacity[10] = 2;
                self.data_in(tag, &capacity);
            }
            0x88 => {
                let bytes = self.disk[lba..lba + octets].to_vec();
                self.data_in(tag, &bytes);
            }
            0x8a => {
                let mut buffer = vec![0; octets];
                buffer[..data.len()].copy_from_slice(data);
                self.writes.insert(tag, (lba, buffer, data.len()));
                if header.u8(1) & FLAG_FINAL != 0 {
                    self.proceed(tag);
                }
            }
            other => panic!("CDB {other:#x}"),
        }
    }

    /// All unsolicited data has come: ask for the rest or finish.
    fn proceed(&mut self, tag: u32) {
        let (lba, buffer, got) = &self.writes[&tag];
        if *got == buffer.len() {
            let lba = *lba;
            let (_, buffer, _) = self.writes.remove(&tag).unwrap();
            self.disk[lba..lba + buffer.len()].copy_from_slice(&buffer);
            return self.respond(tag, 0, &[]);
        }
        // Odd sizes, in order.
        self.asks = self.asks.wrapping_add(1);
        let length = (buffer.len() - got).min(1_000 + self.asks as usize % 3_000);
        let mut ask = Header::new(opcode::R2T, FLAG_FINAL);
        ask.set_u32(16, tag);
        ask.set_u32(20, 0x7700_0000 | (self.asks & 0xffff));
        ask.set_u32(40, *got as u32);
        ask.set_u32(44, length as u32);
        ask.set_u32(36, self.numbers(tag));
        self.send(ask, &[], false);
    }

    fn numbers(&mut self, tag: u32) -> u32 {
        // The count of requests is kept behind the buffer's entry.
        let entry = self.writes.entry(tag ^ 0x8000_0000).or_insert((0, Vec::new(), 0));
        entry.2 += 1;
        entry.2 as u32 - 1
    }

    fn data_out(&mut self, header: &Header, data: &[u8]) {
        let tag = header.task_tag();
        let offset = header.u32(40) as usize;
        let found = self.writes.get_mut(&tag).filter(|(_, _, got)| *got == offset);
        let Some((_, buffer, got)) = found.filter(|it| it.1.len() >= offset + data.len()) else {
            assert!(!self.strict, "stray Data-Out");
            return;
        };
        buffer[offset..offset + data.len()].copy_from_slice(data);
        *got += data.len();
        if header.u8(1) & FLAG_FINAL != 0 {
            self.proceed(tag);
        }
    }

    fn data_in(&mut self, tag: u32, data: &[u8]) {
        let pieces: Vec<_> = data.chunks(1_536).collect();
        for (number, piece) in pieces.iter().enumerate() {
            let last = number + 1 == pieces.len();
            let mut header = Header::new(opcode::DATA_IN, if last { FLAG_FINAL | 1 } else { 0 });
            header.set_u32(16, tag);
            header.set_u32(20, NO_TAG);
            header.set_u32(36, number as u32);
            header.set_u32(40, number as u32 * 1_536);
            self.send(header, piece, last);
        }
    }

    fn respond(&mut self, tag: u32, status: u8, data: &[u8]) {
        self.writes.remove(&(tag ^ 0x8000_0000));
        let mut header = Header::new(opcode::SCSI_RESPONSE, FLAG_FINAL);
        header.set(3, &[status]);
        header.set_u32(16, tag);
        self.send(header, data, true);
    }
}

fn iscsi_session(seed: u64) -> Volume {
    Volume::Iscsi(Session::new(SessionConfig {
        portal: Portal { address: std::net::Ipv4Addr::LOCALHOST, port: 3260 },
        initiator: "iqn.2026-01.org.example:node".into(),
        kind: SessionKind::Normal { target: "iqn.2026-01.org.example:disk".into(), lun: 0 },
        isid: [0x80, 0, 0, 0, 0, 1],
        seed,
    }))
}

fn iscsi_target(random: &mut Random) -> IscsiTarget {
    IscsiTarget {
        disk: vec![0; SECTORS as usize * 512],
        up: true,
        digests: random.chance(70),
        initial_r2t: random.chance(50),
        input: Vec::new(),
        output: Vec::new(),
        full: false,
        status_number: random.next() as u32,
        command_number: 0,
        writes: HashMap::new(),
        attention: true,
        asks: 0,
        strict: true,
    }
}

fn iscsi_world(seed: u64) {
    let mut random = Random::new(seed);
    let mut target = iscsi_target(&mut random);
    let cuts = random.below(4);
    let mut volume = iscsi_session(seed);
    let mut guest = Guest::new();
    let (mut now, mut submitted, mut connected, mut healed_at) = (0u64, 0, false, None);
    loop {
        let healed = healed_at.is_some();
        if submitted < 40 && guest.in_flight.len() < 8 {
            guest.submit(&mut volume, &mut random, now);
            submitted += 1;
        } else if submitted == 40 && !healed {
            healed_at = Some(now);
            target.up = true;
        }
        if healed_at.is_none() && random.chance(1) {
            target.up = !target.up;
        }
        let Volume::Iscsi(session) = &mut volume else { unreachable!() };
        if session.connection_wanted(now).is_some() {
            connected = target.up;
            target.disconnect();
            if connected { session.on_connected(now) } else { session.on_disconnected(now) }
        }
        // A torn stream: any number of octets, cut anywhere, sometimes damaged.
        let mut buffer = vec![0; 1 + random.below(3_000) as usize];
        let length = session.transmit(&mut buffer, now, &mut guest.memory);
        let mut alive = connected && target.up && !session.disconnect_wanted();
        if connected {
            let damaged = !healed && target.full && target.digests && random.chance(cuts);
            if damaged && length > 0 {
                buffer[random.below(length as u64) as usize] ^= 1 << random.below(8);
            }
            target.input.extend_from_slice(&buffer[..length]);
            alive &= target.work();
            let take = (random.below(6_000) as usize).min(target.output.len());
            let mut piece: Vec<u8> = target.output.drain(..take).collect();
            // Login itself has no digest: damage begins when both ends use them.
            let digest = ("HeaderDigest", "CRC32C".to_string());
            let protected = target.full && session.status().negotiated.contains(&digest);
            if !healed && protected && take > 0 && random.chance(cuts) {
                piece[random.below(take as u64) as usize] ^= 1 << random.below(8);
            }
            session.receive(&piece, now, &mut guest.memory);
            alive &= !session.disconnect_wanted() && (healed || !random.chance(cuts));
            if !alive {
                connected = false;
                target.disconnect();
                session.on_disconnected(now);
            }
        }
        guest.collect(&mut volume, seed);
        if healed && guest.in_flight.is_empty() {
            break;
        }
        let waited = healed_at.map_or(0, |at| now - at);
        assert!(waited < 40_000 * MS, "seed {seed}: {:#?}", volume.status());
        now += if connected { MS / 2 } else { 20 * MS };
    }
    assert!(target.disk == guest.model, "seed {seed}: an acknowledged write was lost");
}

#[test]
fn iscsi_loses_nothing() {
    let seeds = std::env::var("SEEDS").ok().and_then(|it| it.parse().ok()).unwrap_or(500);
    for seed in 1..=seeds {
        iscsi_world(seed);
    }
}

/// A target that answers with damaged PDUs and no digest: no panic, ever.
#[test]
fn iscsi_survives_mutated_targets() {
    let mut pdus = 0u64;
    for seed in 1.. {
        let mut random = Random::new(seed);
        let mut target = iscsi_target(&mut random);
        target.digests = false;
        target.strict = false;
        let mut volume = iscsi_session(seed);
        let mut guest = Guest::new();
        for _ in 0..8 {
            guest.submit(&mut volume, &mut random, 0);
        }
        let Volume::Iscsi(session) = &mut volume else { unreachable!() };
        session.on_connected(0);
        for step in 1..60u64 {
            let mut buffer = vec![0; 4_096];
            let length = session.transmit(&mut buffer, step * MS, &mut guest.memory);
            target.input.extend_from_slice(&buffer[..length]);
            target.work();
            let mut piece = std::mem::take(&mut target.output);
            if random.chance(20) && piece.len() >= 48 {
                for _ in 0..=random.below(3) {
                    let at = random.below(48.min(piece.len() as u64)) as usize;
                    piece[at] = random.next() as u8;
                }
                pdus += 1;
            }
            session.receive(&piece, step * MS, &mut guest.memory);
            while session.take_completion().is_some() {}
            if session.disconnect_wanted() {
                session.on_disconnected(step * MS);
                target.disconnect();
                session.on_connected(step * MS);
            }
        }
        if pdus > 20_000 {
            break;
        }
    }
}
