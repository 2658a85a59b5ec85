//! Scripted iSCSI targets: what each PDU that goes wrong brings about.

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use super::guest::Memory;
use super::iscsi_connection::Connection;
use super::iscsi_target::IscsiTarget;
use super::{MS, Random, SECOND, iscsi_world};
use crate::iscsi::pdu::{FLAG_FINAL, Header, NO_TAG, opcode};
use crate::iscsi::{PathPolicy, Portal, Session, SessionConfig, SessionKind};
use crate::{BlockError, Lba, Operation, PathState, Request, RequestId, VolumeState};

mod logged;
mod sizes;

/// A session and the target's ends of its paths; PDUs of some kinds are kept from the
/// target.
struct Bench {
    session: Session,
    target: IscsiTarget,
    /// Which paths are connected.
    connected: Vec<bool>,
    memory: Memory,
    random: Random,
    now: u64,
    /// Operation codes of PDUs that the target never sees.
    swallowed: Vec<u8>,
    /// What it saw, and on which path.
    seen: Vec<(usize, Header)>,
    connects: Vec<Portal>,
}

impl Bench {
    fn new(config: SessionConfig) -> Self {
        let mut target = IscsiTarget::new(1);
        target.healed = true;
        let portals = 0..config.portals.len();
        target.connections = portals.clone().map(connection).collect();
        Self {
            session: Session::new(config),
            target,
            connected: portals.map(|_| false).collect(),
            memory: Memory(BTreeMap::new()),
            random: Random::new(3),
            now: 0,
            swallowed: Vec::new(),
            seen: Vec::new(),
            connects: Vec::new(),
        }
    }

    fn ready(config: SessionConfig) -> Self {
        let mut bench = Self::new(config);
        bench.run(200 * MS);
        assert_eq!(bench.session.status().state, VolumeState::Ready, "{:?}", bench.session.status());
        bench
    }

    fn step(&mut self) {
        for path in 0..self.connected.len() {
            self.step_path(path);
        }
        self.now += MS;
    }

    fn step_path(&mut self, path: usize) {
        if let Some(portal) = self.session.connect(path, self.now) {
            self.connects.push(portal);
            self.target.connections[path] = connection(path);
            self.connected[path] = true;
            self.session.on_connected(path, self.now);
        }
        if !self.connected[path] {
            return self.session.poll(self.now);
        }
        let mut buffer = [0; 8_192];
        let length = self.session.transmit(path, &mut buffer, self.now, &mut self.memory);
        let mut rest = &buffer[..length];
        let connection = &mut self.target.connections[path];
        while let Some(header) = rest.first_chunk::<48>().map(|basic| Header(*basic)) {
            let total = 48 + header.data_length().next_multiple_of(4);
            self.seen.push((path, header));
            if self.swallowed.contains(&header.opcode()) {
                let counts = header.u8(0) & 0x40 == 0 && header.opcode() != opcode::DATA_OUT;
                connection.command_number = connection.command_number.wrapping_add(u32::from(counts));
            } else {
                connection.input.extend_from_slice(&rest[..total]);
            }
            rest = &rest[total..];
        }
        self.target.work(path, self.now, &mut self.random);
        let output = core::mem::take(&mut self.target.connections[path].output);
        // Torn where headers mostly end, and elsewhere.
        for piece in output.chunks(48) {
            self.session.receive(path, piece, self.now, &mut self.memory);
        }
        if self.session.disconnect_wanted(path) {
            self.disconnect(path);
        }
    }

    fn disconnect(&mut self, path: usize) {
        self.connected[path] = false;
        self.session.on_disconnected(path, self.now);
    }

    fn run(&mut self, for_ns: u64) {
        let end = self.now + for_ns;
        while self.now < end {
            self.step();
        }
    }

    fn say(&mut self, header: Header, data: &[u8], counts: bool) {
        self.target.connections[0].send(header, data, counts);
        self.step();
    }

    fn submit(&mut self, id: u64, operation: Operation, lba: u64, sectors: u32) {
        self.memory.0.insert(RequestId(id), vec![id as u8; sectors as usize * 512]);
        let request = Request { id: RequestId(id), operation, lba: Lba(lba), sectors };
        self.session.submit(request, self.now).unwrap();
    }

    fn result(&mut self) -> Option<Result<(), BlockError>> {
        self.session.take_completion().map(|it| it.result)
    }

    fn sent(&self, code: u8) -> Vec<Header> {
        self.seen.iter().map(|(_, header)| *header).filter(|header| header.opcode() == code).collect()
    }
}

fn connection(path: usize) -> Connection {
    let mut connection = Connection::new(path, false, false, 16, 1);
    connection.attention = false;
    connection
}

fn config() -> SessionConfig {
    iscsi_world::config(1, 7)
}

fn event(code: u8) -> Header {
    let mut event = Header::new(opcode::ASYNC, FLAG_FINAL);
    event.set_u32(16, NO_TAG);
    event.set(36, &[code]);
    event
}

#[test]
fn a_stuck_command_is_aborted_and_reissued() {
    let mut bench = Bench::ready(config());
    bench.swallowed = vec![opcode::SCSI_COMMAND];
    bench.submit(1, Operation::Write, 3, 2);
    bench.run(20 * MS);
    bench.swallowed.clear();
    let stuck = *bench.sent(opcode::SCSI_COMMAND).last().unwrap();
    bench.run(29 * SECOND);
    assert!(bench.sent(opcode::MANAGEMENT).is_empty() && bench.result().is_none());
    bench.run(2 * SECOND);
    let abort = bench.sent(opcode::MANAGEMENT)[0];
    assert_eq!(&abort.0[..2], &[0x42, 0x81], "immediate, abort task");
    assert_eq!((abort.u32(20), abort.u32(32)), (stuck.task_tag(), stuck.u32(24)));
    assert_eq!(bench.result(), Some(Ok(())));
    assert_eq!(bench.target.disk[3 * 512..5 * 512], [1; 1_024]);
    assert_eq!(bench.connects.len(), 1);
}

#[test]
fn measures_against_a_stuck_target_get_harder() {
    let mut bench = Bench::ready(config());
    bench.swallowed = vec![opcode::SCSI_COMMAND, opcode::MANAGEMENT];
    bench.submit(1, Operation::Read, 0, 1);
    bench.run(50 * SECOND);
    let functions: Vec<u8> = bench.sent(opcode::MANAGEMENT).iter().map(|it| it.u8(1) & 0x7f).collect();
    assert_eq!(functions[..3], [1, 5, 6], "abort task, reset the unit, reset the target");
    assert_eq!(bench.connects.len(), 2, "and then a new connection");
    bench.swallowed.clear();
    bench.run(40 * SECOND);
    assert_eq!(bench.result(), Some(Ok(())));
}

#[test]
fn asynchronous_messages() {
    let mut bench = Bench::ready(config());
    bench.say(event(4), &[], true);
    bench.run(20 * MS);
    let text = bench.sent(opcode::TEXT);
    assert_eq!((text.len(), text[0].u8(0)), (1, 0x44), "an immediate text request");
    assert!(bench.session.status().negotiated.contains(&("TargetMaxRecvDataSegmentLength", "2048".into())));
    bench.say(event(0), &[], true);
    bench.run(50 * MS);
    assert_eq!((bench.session.status().state, bench.connects.len()), (VolumeState::Ready, 1));
    bench.say(event(1), &[], true);
    bench.run(20 * MS);
    assert_eq!(bench.sent(opcode::LOGOUT)[0].u8(1), 0x80, "reason: close the session");
    bench.run(SECOND);
    assert_eq!((bench.session.status().state, bench.connects.len()), (VolumeState::Ready, 2));
    // It drops the connection, and wants to be left alone for three seconds.
    let mut drop = event(2);
    drop.set(40, &[0, 3]);
    bench.say(drop, &[], true);
    bench.run(2_900 * MS);
    assert_eq!(bench.connects.len(), 2);
    bench.run(SECOND);
    assert_eq!((bench.session.status().state, bench.connects.len()), (VolumeState::Ready, 3));
    bench.say(event(77), &[], true);
    bench.run(SECOND);
    assert_eq!(bench.connects.len(), 4, "what is unknown ends the connection");
}

#[test]
fn lies_end_the_connection_and_no_request() {
    type Lie = fn(&mut Bench);
    let lies: [(&str, Lie); 8] = [
        ("a response to nothing", |bench| {
            let mut header = Header::new(opcode::SCSI_RESPONSE, FLAG_FINAL);
            header.set_u32(16, 0x7777_7777);
            bench.say(header, &[], true);
        }),
        ("data for nothing", |bench| {
            let mut header = Header::new(opcode::DATA_IN, FLAG_FINAL);
            header.set_u32(16, 0x7777_7777);
            bench.say(header, &[0; 512], false);
        }),
        ("a wrong status number", |bench| {
            bench.target.connections[0].status_number += 1;
            bench.say(event(0), &[], true);
        }),
        ("a transfer request that begins late", |bench| {
            let tag = bench.sent(opcode::SCSI_COMMAND).last().unwrap().task_tag();
            let mut header = Header::new(opcode::R2T, FLAG_FINAL);
            header.set_u32(16, tag);
            header.set_u32(40, 512);
            header.set_u32(44, 512);
            bench.say(header, &[], false);
        }),
        ("a login response after the login", |bench| {
            bench.say(Header::new(opcode::LOGIN_RESPONSE, 0x87), &[], true);
        }),
        ("a text response to nothing", |bench| {
            bench.say(Header::new(opcode::TEXT_RESPONSE, FLAG_FINAL), b"X=1\0", true);
        }),
        ("a segment that is too long", |bench| {
            let mut header = Header::new(opcode::NOP_IN, FLAG_FINAL);
            header.set_data_length(0x00ff_ffff);
            bench.target.connections[0].output.extend_from_slice(&header.0);
            bench.step();
        }),
        ("a logout response unasked", |bench| {
            bench.say(Header::new(opcode::LOGOUT_RESPONSE, FLAG_FINAL), &[], true);
        }),
    ];
    for (name, lie) in lies {
        let mut bench = Bench::ready(config());
        bench.swallowed = vec![opcode::SCSI_COMMAND];
        bench.submit(1, Operation::Write, 8, 2);
        bench.run(10 * MS);
        bench.swallowed.clear();
        lie(&mut bench);
        bench.run(5 * SECOND);
        assert_eq!(bench.connects.len(), 2, "{name}");
        assert_eq!(bench.result(), Some(Ok(())), "{name}");
        assert_eq!(bench.target.disk[8 * 512..10 * 512], [1; 1_024], "{name}");
    }
}

#[test]
fn rejects() {
    let mut bench = Bench::ready(config());
    bench.submit(1, Operation::Write, 8, 2);
    bench.swallowed = vec![opcode::SCSI_COMMAND];
    bench.run(10 * MS);
    bench.swallowed.clear();
    let command = *bench.sent(opcode::SCSI_COMMAND).last().unwrap();
    let mut reject = Header::new(opcode::REJECT, FLAG_FINAL);
    reject.set(2, &[2]);
    reject.set_u32(16, NO_TAG);
    bench.say(reject, &command.0, true);
    bench.step();
    assert_eq!(bench.session.status().last_error, Some("the target rejected a PDU: data digest error"));
    bench.run(SECOND);
    assert_eq!((bench.connects.len(), bench.result()), (2, Some(Ok(()))));
    // A reset that is rejected is followed by the next measure, on the same connection.
    bench.swallowed = vec![opcode::SCSI_COMMAND, opcode::MANAGEMENT];
    bench.submit(2, Operation::Read, 0, 1);
    bench.run(31 * SECOND);
    let abort = *bench.sent(opcode::MANAGEMENT).last().unwrap();
    reject.set(2, &[5]);
    bench.say(reject, &abort.0, true);
    bench.run(10 * MS);
    assert_eq!(bench.sent(opcode::MANAGEMENT).last().unwrap().u8(1), 0x85);
    assert_eq!(bench.connects.len(), 2);
}

#[test]
fn redirections_end_where_they_began() {
    let mut session = Session::new(config());
    let (mut now, mut places) = (0, Vec::new());
    let mut memory = Memory(BTreeMap::new());
    while now < 20 * SECOND {
        now += 10 * MS;
        let Some(portal) = session.connect(0, now) else { continue };
        places.push(portal.address.octets()[3]);
        session.on_connected(0, now);
        let mut reply = Header::new(opcode::LOGIN_RESPONSE, 0x81);
        reply.set(36, &[1, 1]);
        let elsewhere = b"TargetAddress=10.0.0.99:3260,1\0\0";
        reply.set_data_length(elsewhere.len() - 1);
        let bytes = [&reply.0[..], elsewhere].concat();
        session.receive(0, &bytes, now, &mut memory);
        assert!(session.disconnect_wanted(0));
        session.on_disconnected(0, now);
    }
    assert_eq!(places[..6], [3, 99, 99, 99, 99, 3], "a loop is left after four");
    assert!(places.len() < 40, "and not raced: {}", places.len());
}

#[test]
fn a_changed_size_and_a_protected_disk() {
    let mut bench = Bench::ready(config());
    let end = bench.session.ready_capacity().unwrap();
    bench.submit(1, Operation::Read, end - 1, 2);
    bench.run(10 * MS);
    assert_eq!(bench.result(), Some(Err(BlockError::OutOfRange)));
    // "Capacity data has changed" at the next command: it is asked, then issued again.
    let before = bench.sent(opcode::SCSI_COMMAND).len();
    bench.swallowed = vec![opcode::SCSI_COMMAND];
    bench.submit(2, Operation::Write, 0, 1);
    bench.run(5 * MS);
    bench.swallowed.clear();
    let tag = bench.sent(opcode::SCSI_COMMAND).last().unwrap().task_tag();
    bench.target.connections[0].respond(tag, 2, Some([6, 0x2a, 9]));
    bench.run(20 * MS);
    assert_eq!(bench.result(), Some(Ok(())));
    let codes: Vec<u8> = bench.sent(opcode::SCSI_COMMAND)[before..].iter().map(|it| it.u8(32)).collect();
    assert_eq!(codes[..2], [0x8a, 0x9e], "a write, then the size");
    assert!(codes.contains(&0x8a) && codes.len() <= 5);
    // Write protection is an error at once, and said.
    bench.swallowed = vec![opcode::SCSI_COMMAND];
    bench.submit(3, Operation::Write, 0, 1);
    bench.run(5 * MS);
    let tag = bench.sent(opcode::SCSI_COMMAND).last().unwrap().task_tag();
    bench.target.connections[0].respond(tag, 2, Some([7, 0x27, 0]));
    bench.run(5 * MS);
    assert_eq!(bench.result(), Some(Err(BlockError::WriteProtected)));
    assert!(bench.session.status().write_protected);
}

#[test]
fn one_node_writes() {
    let reserving = |key| SessionConfig { reservation: Some(key), ..config() };
    let mut first = Bench::ready(reserving(0xa));
    assert_eq!(first.target.holder, 0xa);
    assert!(first.session.status().negotiated.contains(&("Reservation", "0x000000000000000a".into())));
    // The same disk on another node.
    let mut second = Bench::new(reserving(0xb));
    second.target.holder = 0xa;
    second.run(SECOND);
    let status = second.session.status();
    assert_eq!(status.state, VolumeState::Refused);
    assert_eq!(status.last_error, Some("another node holds the reservation of this disk"));
    assert!(second.target.registered.is_empty(), "not even registered");
    // An operator says that the first one is dead.
    second.session.set_reservation(Some(0xb), Some(0xa));
    second.run(6 * SECOND);
    assert_eq!((second.session.status().state, second.target.holder), (VolumeState::Ready, 0xb));
    // The first one is alive after all: its writes conflict, it stalls and says so.
    first.target.holder = 0xb;
    first.swallowed = vec![opcode::SCSI_COMMAND];
    first.submit(1, Operation::Write, 0, 1);
    first.run(5 * MS);
    first.swallowed.clear();
    let tag = first.sent(opcode::SCSI_COMMAND).last().unwrap().task_tag();
    first.target.connections[0].respond(tag, 0x18, None);
    first.run(5 * SECOND);
    assert_eq!((first.result(), first.session.status().state), (None, VolumeState::Refused));
    // The logout releases the reservation first.
    second.session.close();
    second.run(SECOND);
    assert!(second.session.is_closed() && second.target.holder == 0 && second.target.registered.is_empty());
    assert_eq!(second.sent(opcode::LOGOUT).len(), 1);
}

#[test]
fn discovery_takes_its_list_in_pieces() {
    let kind = SessionKind::Discovery;
    let mut session = Session::new(SessionConfig { kind, ..config() });
    let mut memory = Memory(BTreeMap::new());
    let mut connection = Connection::new(0, false, true, 8, 1);
    session.connect(0, 0).unwrap();
    session.on_connected(0, 0);
    let pieces: [(u8, &[u8]); 3] = [
        (0x40, b"TargetName=iqn.a\0TargetAddress=10.0.0.3:3260,1\0TargetAdd"),
        (0, b"ress=10.0.1.3,2\0"),
        (FLAG_FINAL, b"TargetName=iqn.b\0"),
    ];
    let mut sent = 0;
    for now in 1..100 {
        let mut buffer = [0; 2_048];
        let length = session.transmit(0, &mut buffer, now * MS, &mut memory);
        connection.input.extend_from_slice(&buffer[..length]);
        while let super::iscsi_connection::Taken::Pdu(header, data) = connection.take() {
            if header.opcode() == opcode::LOGIN {
                connection.login(&header, &data, 1);
            } else {
                assert_eq!(header.opcode(), opcode::TEXT);
                assert_eq!(data, if sent == 0 { &b"SendTargets=All\0"[..] } else { b"" });
                let mut reply = Header::new(opcode::TEXT_RESPONSE, pieces[sent].0);
                reply.set_u32(16, header.task_tag());
                reply.set_u32(20, if sent == 2 { NO_TAG } else { 0x55 });
                connection.send(reply, pieces[sent].1, true);
                sent += 1;
            }
        }
        let output = core::mem::take(&mut connection.output);
        session.receive(0, &output, now * MS, &mut memory);
    }
    assert!(session.discovery_finished());
    let found = session.discovered();
    assert_eq!((found.len(), found[0].name.as_str(), found[0].portals.len()), (2, "iqn.a", 2));
}

#[test]
fn the_policy_deadline_of_a_silent_target() {
    let mut bench = Bench::ready(config());
    bench.session.set_deadline(Some(2 * SECOND));
    bench.swallowed = vec![opcode::SCSI_COMMAND];
    bench.submit(1, Operation::Write, 5, 4);
    bench.run(1_990 * MS);
    assert_eq!(bench.result(), None);
    bench.run(30 * MS);
    assert_eq!(bench.result(), Some(Err(BlockError::Deadline)));
    // A write to the same place waits until the old one cannot land any more.
    bench.memory.0.clear();
    bench.submit(2, Operation::Write, 5, 4);
    bench.swallowed.clear();
    bench.run(SECOND);
    assert_eq!((bench.result(), bench.connects.len()), (Some(Ok(())), 2));
    let path = &bench.session.status().paths[0];
    assert_eq!((path.state, path.stalls), (PathState::Active, 1));
}

#[test]
fn a_request_takes_until_its_answer_comes() {
    let mut bench = Bench::ready(config());
    bench.submit(1, Operation::Read, 0, 2);
    let mut buffer = [0; 8_192];
    let length = bench.session.transmit(0, &mut buffer, bench.now, &mut bench.memory);
    bench.target.connections[0].input.extend_from_slice(&buffer[..length]);
    bench.target.work(0, u64::MAX, &mut bench.random);
    let output = core::mem::take(&mut bench.target.connections[0].output);
    // The session was not polled in between.
    bench.session.receive(0, &output, bench.now + 50 * MS, &mut bench.memory);
    assert_eq!(bench.result(), Some(Ok(())));
    let latency = bench.session.status().latency;
    assert_eq!((latency.count(), latency.quantile_ns(500)), (1, Some(65_536_000)));
}

#[test]
fn nothing_received_is_no_sign_of_life() {
    let mut bench = Bench::ready(config());
    bench.swallowed = vec![opcode::SCSI_COMMAND, opcode::NOP_OUT];
    bench.submit(1, Operation::Read, 0, 2);
    while bench.session.status().last_error.is_none() {
        assert!(bench.now < 7 * SECOND, "the target is taken to live");
        // A caller that polls its socket whenever something happens elsewhere.
        bench.session.receive(0, &[], bench.now, &mut bench.memory);
        bench.step();
    }
    assert!(!bench.sent(opcode::NOP_OUT).is_empty(), "the target was not asked whether it lives");
    assert_eq!(bench.session.status().last_error, Some("the target stopped answering"));
    bench.swallowed.clear();
    bench.run(SECOND);
    assert_eq!((bench.result(), bench.connects.len()), (Some(Ok(())), 2));
}

/// A path is lost with a reset of the unit in flight, which the target may have carried out:
/// that ends the commands of the other paths without a word.
#[test]
fn a_reset_on_a_lost_path_reissues_commands() {
    let mut bench =
        Bench::ready(SessionConfig { policy: PathPolicy::RoundRobin, ..iscsi_world::config(2, 7) });
    bench.swallowed = vec![opcode::SCSI_COMMAND, opcode::MANAGEMENT];
    bench.submit(1, Operation::Read, 0, 1);
    // It is stuck, and so is what is asked about it: the unit is reset, and the path is lost.
    bench.run(34 * SECOND);
    bench.submit(2, Operation::Read, 8, 1);
    while bench.sent(opcode::MANAGEMENT).len() < 2 {
        assert!(bench.now < 40 * SECOND);
        bench.step();
    }
    let (lost, reset) = *bench.seen.iter().rfind(|(_, it)| it.opcode() == opcode::MANAGEMENT).unwrap();
    assert_eq!(reset.u8(1), 0x85);
    let (other, _) = *bench.seen.iter().rfind(|(_, it)| it.opcode() == opcode::SCSI_COMMAND).unwrap();
    assert_ne!(lost, other, "the second request is on the other path");
    assert_eq!(bench.session.unfinished().len(), 2);
    bench.swallowed.clear();
    bench.disconnect(lost);
    bench.run(2 * SECOND);
    assert_eq!([bench.result(), bench.result()], [Some(Ok(())); 2]);
}
