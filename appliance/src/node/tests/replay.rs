//! Everything that was ever sent, sent again: nothing is executed twice, or late.
//!
//! One session uses every verb that is recorded. All of its frames are kept, those of the
//! wire and those of the protocol, and come back: as they were, in another order, cut,
//! with bits changed, to another node, to the same one after dom0 and after the machine
//! were restarted. The audit log, which has an entry for everything that is executed or
//! refused, must not grow by one.

use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use mgmt_proto::audit::Log;
use mgmt_proto::disk::{GuestSettings, Limit};
use mgmt_proto::handshake::{GREETING_BYTES, HELLO_BYTES};
use mgmt_proto::machine::{Disk, Machine};
use mgmt_proto::verb::{Discover, Fault, Reply, Request};
use netstack::host::TcpOptions;
use sha2::{Digest as _, Sha256};

use super::roles::requests;
use super::state::state_settings;
use super::targets::AoeTarget;
use super::trust::{bundle, everybody, root, update};
use super::world::*;
use machine::test_random::TestRandom;

fn disk(volume: &str) -> Disk {
    Disk { volume: volume.to_string(), read_only: false }
}

/// The name of a request's variant.
fn variant(request: &Request) -> String {
    let text = alloc::format!("{request:?}");
    text.split([' ', '(']).next().unwrap_or_default().to_string()
}

fn node(seed: u64) -> World {
    let mut settings = state_settings("aoe:e9.0", 30);
    settings.manifest.owner = root(1).verifying_key().to_bytes();
    settings.manifest.fault_injection = true;
    let mut world = World::with(seed, settings);
    world.aoe.push(AoeTarget::new(9, 0, 18 << 11));
    for slot in 1..=3 {
        world.aoe.push(AoeTarget::new(7, slot, 64));
    }
    world
}

/// What a node does and keeps, by which an execution would show.
#[derive(Debug, PartialEq, Eq)]
struct Snapshot {
    log: u64,
    trust: u64,
    guests: Vec<String>,
    kept: Vec<(String, u32)>,
    running: usize,
    /// What was asked of the hypervisor: to stop the machine, to fail.
    resets: usize,
    faults: usize,
}

fn snapshot(world: &mut World) -> Snapshot {
    world.run(SECOND);
    let session = world.connect(Who::Admin);
    let Reply::Audit(page) = world.done(session, &Request::AuditRead { log: Log::Effects, from: u64::MAX })
    else {
        panic!()
    };
    let refusals = Request::AuditRead { log: Log::Refusals, from: u64::MAX };
    let Reply::Audit(refused) = world.done(session, &refusals) else { panic!() };
    let Reply::State(facts) = world.done(session, &Request::StateShow) else { panic!() };
    let guests = super::state::names(world, session);
    let running = world.hypervisor.guests().len();
    let resets = world.hypervisor.machine().resets.len();
    let faults = world.hypervisor.machine().log.iter().filter(|line| *line == "wild access").count();
    let kept = facts.guests.into_iter().map(|guest| (guest.name, guest.order)).collect();
    hang_up(world, session);
    let log = page.head.length + refused.head.length;
    Snapshot { log, trust: facts.trust_serial, guests, kept, running, resets, faults }
}

fn hang_up(world: &mut World, session: usize) {
    let connection = world.sessions[session].connection;
    world.operator.abort(connection, world.now_ns);
    world.run(MS);
    world.sessions.remove(session);
}

/// Every verb that is recorded, so that it is executed where that can be.
fn script(kernel: [u8; 32]) -> Vec<Request> {
    let name = || "web".to_string();
    let web = Machine { disks: vec![disk("aoe:e7.1")], ..machine("web", kernel) };
    let settings = GuestSettings { limits: Vec::new(), disks: vec![Vec::new()] };
    let (volume, other) = (|| "aoe:e7.3".to_string(), sibling(&machine("", kernel), "other", 5));
    vec![
        Request::BlobPut { digest: kernel, length: self::kernel().len() as u64, resume: true },
        Request::create(other),
        Request::Create { machine: web, settings, paused: false, autostart: None },
        Request::Rename { name: "other".to_string(), to: "renamed".to_string() },
        Request::ConsoleRead { name: name(), from: 0 },
        Request::ConsoleWrite { name: name(), bytes: vec![13] },
        Request::Capture { name: name(), from: 0, snap_bytes: 64 },
        Request::Pause { name: name() },
        Request::Unpause { name: name() },
        Request::BlockAttach { name: name(), disk: disk("aoe:e7.2"), settings: Vec::new() },
        Request::Limit { name: name(), slot: None, limits: vec![Limit::OperationsPerSecond(9)] },
        Request::StoragePath { volume: "aoe:e7.1".to_string(), path: 0, enabled: true },
        Request::BlockDetach { name: name(), slot: 0, force: true },
        Request::StorageDiscover(Discover::Aoe),
        Request::StorageProbe { volume: volume(), settings: Vec::new() },
        Request::StorageReserve { volume: volume(), settings: Vec::new(), force: false },
        Request::StorageRelease { volume: volume(), settings: Vec::new(), force: false },
        Request::Autostart { name: name(), order: Some(3) },
        Request::Create {
            machine: sibling(&machine("", kernel), "kept", 6),
            settings: GuestSettings::default(),
            paused: false,
            autostart: Some(5),
        },
        Request::Destroy { name: "kept".to_string() },
        Request::Start { name: "kept".to_string() },
        Request::Shutdown { name: name() },
        Request::Reboot { name: name() },
        Request::JobCancel { id: 1 },
        Request::NodeKeyRotate,
        Request::InjectFault(Fault::Access),
        Request::TrustUpdate { signed: Vec::new() },
        Request::Lockdown,
        Request::NodeStop { power_off: true },
    ]
}

/// Keeps the frames of operators that the node was sent since the last time.
fn keep_frames(world: &mut World, wire: &mut Vec<Vec<u8>>) {
    assert!(world.to_node.len() < 4096, "the recording is whole");
    wire.extend(world.to_node.drain(..).filter(|frame| frame[12..14] == [8, 0]));
}

/// What one session sent.
struct Recording {
    hello: Vec<u8>,
    /// Each with its length before it.
    records: Vec<Vec<u8>>,
    /// Frames that the node was sent.
    wire: Vec<Vec<u8>>,
}

fn record(world: &mut World) -> Recording {
    world.until("its state", |world| world.node.state.is_persistent());
    world.to_node.clear();
    let (session, kernel) = {
        let session = world.connect(Who::Admin);
        let digest = world.upload(session, &kernel());
        (session, digest)
    };
    let mut used: BTreeSet<String> =
        [variant(&Request::BlobPut { digest: [0; 32], length: 0, resume: false })].into();
    let mut wire = Vec::new();
    keep_frames(world, &mut wire);
    for mut request in script(kernel) {
        if let Request::BlockDetach { slot, .. } = &mut request {
            let Reply::Disks(disks) = world.done(session, &Request::BlockList { name: "web".to_string() })
            else {
                panic!()
            };
            *slot = disks[1].slot;
        }
        if let Request::TrustUpdate { .. } = request {
            request = update(&bundle(4, everybody()), &[1]);
        }
        used.insert(variant(&request));
        let outcome = world.ask(session, &request);
        keep_frames(world, &mut wire);
        // A job that has ended, and what lockdown bars; the rest is done.
        let barred = matches!(request, Request::JobCancel { .. } | Request::NodeStop { .. });
        assert_eq!(outcome.is_err(), barred, "{request:?}: {outcome:?}");
    }
    // A configuration in, the lockdown out, and off.
    world.done(session, &update(&bundle(5, everybody()), &[1]));
    let mut file = Vec::new();
    while let Reply::Stream(stream) = world.done(session, &Request::ConfigExport { from: file.len() as u64 })
        && !stream.bytes.is_empty()
    {
        file.extend(stream.bytes);
    }
    world.upload(session, &file);
    let import = Request::ConfigImport { digest: Sha256::digest(&file).into() };
    world.done(session, &import);
    used.insert(variant(&import));
    used.insert(variant(&Request::ConfigExport { from: 0 }));
    world.done(session, &Request::NodeStop { power_off: true });
    world.run(SECOND);

    let recorded = requests().into_iter().map(|(request, ..)| request);
    let recorded = recorded.filter(|request| request.verb().is_recorded());
    let all: BTreeSet<String> = recorded.map(|request| variant(&request)).collect();
    assert_eq!(used, all, "a verb that is recorded is not in the script, or the other way round");
    let sent = world.sessions[session].sent.clone();
    let (hello, mut rest) = sent.split_at(HELLO_BYTES);
    let mut records = Vec::new();
    while let Some((length, _)) = rest.split_first_chunk::<4>() {
        let (record, more) = rest.split_at(4 + u32::from_le_bytes(*length) as usize);
        records.push(record.to_vec());
        rest = more;
    }
    assert!(records.len() > all.len() && rest.is_empty());
    keep_frames(world, &mut wire);
    assert!(wire.len() > records.len());
    Recording { hello: hello.to_vec(), records, wire }
}

/// Says this on a connection of its own once the node has greeted, as far as the node
/// listens: the first message in a segment of its own.
fn say(world: &mut World, bytes: &[u8]) {
    let connection = world.operator.connect(NODE_ADDRESS, PORT, TcpOptions::MANAGEMENT).unwrap();
    let (mut written, until_ns) = (0, world.now_ns + 20 * MS);
    let (mut heard, mut greeting) = (0, [0; 256]);
    while world.now_ns < until_ns {
        heard += world.operator.read(connection, &mut greeting);
        if heard >= GREETING_BYTES {
            let end = if written < HELLO_BYTES { bytes.len().min(HELLO_BYTES) } else { bytes.len() };
            written += world.operator.write(connection, &bytes[written..end]);
        }
        world.step(until_ns);
    }
    assert_eq!(heard, GREETING_BYTES, "and nothing else");
    assert!(written >= bytes.len().min(HELLO_BYTES));
    world.operator.abort(connection, world.now_ns);
    world.run(MS);
}

/// Says this in an open session: the node ends it without a word.
fn intrude(world: &mut World, bytes: &[u8], what: &str) {
    let session = world.connect(Who::Admin);
    world.sessions[session].outgoing.extend_from_slice(bytes);
    world.run(10 * MS);
    assert!(world.sessions[session].outcomes.is_empty(), "{what} was answered");
    hang_up(world, session);
}

/// All of it, in every way that somebody could who has it.
fn again(world: &mut World, recording: &Recording, random: &mut TestRandom, what: &str) {
    let before = snapshot(world);
    let Recording { hello, records, wire } = recording;
    let whole: Vec<u8> = hello.iter().chain(records.iter().flatten()).copied().collect();
    say(world, &whole);
    say(world, &whole[HELLO_BYTES..]);
    say(world, &whole[..random.index(whole.len())]);
    let backwards: Vec<u8> = hello.iter().chain(records.iter().rev().flatten()).copied().collect();
    say(world, &backwards);
    for (number, record) in records.iter().enumerate() {
        let what = alloc::format!("{what}: record {number} of {}", records.len());
        say(world, &[&hello[..], record].concat());
        intrude(world, record, &what);
        let mut altered = record.clone();
        let at = 4 + random.index(altered.len() - 4);
        altered[at] ^= 1 << random.below(8);
        intrude(world, &altered, &what);
        let cut = &record[..random.index(record.len())];
        // What is missing comes from another record.
        let other = &records[random.index(records.len())];
        intrude(world, &[cut, other].concat(), &what);
    }
    for order in 0..3 {
        for index in 0..wire.len() {
            let mut frame = match order {
                0 => wire[index].clone(),
                _ => wire[random.index(wire.len())].clone(),
            };
            if order == 2 {
                let at = 12 + random.index(frame.len() - 12);
                frame[at] ^= 1 << random.below(8);
                frame.truncate(frame.len() - random.index(8));
            }
            world.nic.card().received.push_back(frame);
            if index % 8 == 0 {
                world.run(MS);
            }
        }
        world.run(10 * MS);
    }
    assert_eq!(snapshot(world), before, "{what}");
}

#[test]
fn nothing_that_was_sent_is_executed_twice_or_late() {
    let mut random = TestRandom(0x5eed_0777);
    let mut world = node(700);
    let recording = record(&mut world);
    // The session is open still.
    again(&mut world, &recording, &mut random, "the same node");
    world.restart_dom0();
    again(&mut world, &recording, &mut random, "after dom0 was restarted");
    world.power_cycle();
    world.run(20 * SECOND);
    again(&mut world, &recording, &mut random, "after the machine was restarted");
    let mut other = node(701);
    let session = other.connect(Who::Admin);
    other.upload(session, &kernel());
    again(&mut other, &recording, &mut random, "another node of the same owner");
}

/// In its own session, right after it was executed: what the counters are for.
#[test]
fn a_command_is_good_for_one_place_in_its_session() {
    let (mut stopped, mut failed) = (0, 0);
    for (request, ..) in requests().into_iter().filter(|(request, ..)| request.verb().is_recorded()) {
        // One after which there is a node to look at: the fake hypervisor only takes note.
        let request = match request {
            Request::InjectFault(_) => Request::InjectFault(Fault::Access),
            other => other,
        };
        let mut world = node(710);
        let session = world.connect(Who::Admin);
        let start = world.sessions[session].sent.len();
        let _ = world.ask(session, &request);
        let record = world.sessions[session].sent[start..].to_vec();
        world.run(SECOND);
        let before = snapshot(&mut world);
        assert!(before.log > 0, "{request:?}");
        (stopped, failed) = (stopped + before.resets, failed + before.faults);
        world.sessions[session].outgoing.extend_from_slice(&record);
        world.run(10 * MS);
        assert!(world.is_dead(session), "{request:?}");
        assert_eq!(snapshot(&mut world), before, "{request:?}");
    }
    assert_eq!((stopped, failed), (1, 1), "the machine was stopped by one, and failed by one");
}
