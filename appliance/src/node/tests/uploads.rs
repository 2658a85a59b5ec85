//! Uploads whose sessions break, and who may go on with them.

use alloc::vec;
use alloc::vec::Vec;

use mgmt_proto::code::Code;
use mgmt_proto::limits::BLOB_BYTES;
use mgmt_proto::trust::Role;
use mgmt_proto::verb::{Reply, Request};
use sha2::{Digest as _, Sha256};

use super::trust::{bundle, everybody, grant, rooted, update};
use super::world::*;
use crate::limits::{UPLOAD_IDLE_NS, UPLOAD_KEPT_NS, UPLOAD_SILENT_NS, UPLOAD_STEP_BYTES, UPLOADS_KEPT_MAX};

fn digest(file: &[u8]) -> [u8; 32] {
    Sha256::digest(file).into()
}

fn file(world: &mut World, length: usize) -> Vec<u8> {
    (0..length).map(|_| world.random.byte()).collect()
}

fn resume(file: &[u8]) -> Request {
    Request::BlobPut { digest: digest(file), length: file.len() as u64, resume: true }
}

impl World {
    /// Bytes that the node says it has, so that the rest follows.
    fn held(&mut self, session: usize, file: &[u8]) -> usize {
        let Reply::BlobHeld(held) = self.done(session, &resume(file)) else { panic!("held") };
        to_usize(held)
    }

    /// Queues the rest of a file, of which only so many octets go out.
    fn send_some(&mut self, session: usize, rest: &[u8], octets: usize) {
        self.send_data(session, rest);
        self.sessions[session].outgoing.truncate(octets);
        self.until("all of it sent", |world| world.sessions[session].outgoing.is_empty());
        self.run(20 * MS);
    }

    /// The connection breaks: the node is told, or hears no more.
    fn breaks(&mut self, session: usize, told: bool) {
        if told {
            let connection = self.sessions[session].connection;
            self.operator.abort(connection, self.now_ns);
            self.run(MS);
        }
        self.sessions.remove(session);
    }

    /// Announces a file, sends part of it, and breaks.
    fn begin_and_break(&mut self, who: Who, file: &[u8], octets: usize) {
        let session = self.connect(who);
        self.held(session, file);
        self.send_some(session, file, octets);
        self.breaks(session, true);
    }

    /// What is in the first domain that never runs.
    fn blob(&self, length: usize) -> Vec<u8> {
        let machine = self.hypervisor.machine();
        let record = |record: &[u8]| record.starts_with(b"REDOBLOB");
        let domain = machine.slots.iter().flatten().find(|domain| record(&domain.record)).unwrap();
        domain.memory.bytes(0, length)
    }
}

#[test]
fn an_upload_goes_on_wherever_it_broke() {
    for seed in 1..=24 {
        let mut world = World::new(1200 + seed);
        world.loss_percent = if seed % 4 == 0 { 2 } else { 0 };
        let length = 1 + world.random.index(400_000);
        let file = file(&mut world, length);
        let (mut had, mut sent_most, mut breaks) = (0, 0, 0);
        loop {
            let session = world.connect(Who::Operator);
            let held = loop {
                match world.ask(session, &resume(&file)) {
                    Ok(Reply::BlobHeld(held)) => break to_usize(held),
                    // The session before is not known to be dead yet.
                    Err(failure) if failure.code == Code::Conflict => world.run(SECOND / 2),
                    other => panic!("seed {seed}: {other:?}"),
                }
            };
            assert!(held >= had && held <= sent_most, "seed {seed}: {held} of {had} to {sent_most}");
            had = held;
            if held == length {
                break;
            }
            // In the middle of a record as well as between two of them, all of it sometimes.
            let octets = world.random.index(160_000);
            world.send_some(session, &file[held..], octets);
            let missing = Request::BlobMissing(vec![digest(&file)]);
            let other = world.connect(Who::Viewer);
            let Reply::Missing(missing) = world.done(other, &missing) else { panic!() };
            world.breaks(other, true);
            if missing.is_empty() {
                assert_eq!(world.outcome(session), Ok(Reply::Done), "seed {seed}");
                had = length;
                break;
            }
            sent_most = sent_most.max(held + octets);
            breaks += 1;
            let told = world.random.below(3) > 0;
            world.breaks(session, told);
        }
        assert_eq!(had, length);
        assert_eq!(world.blob(length), file, "seed {seed}, {breaks} breaks");
        world.run(125 * SECOND);
        assert_eq!(world.hypervisor.domains(), 1, "seed {seed}: the upload is the blob");
        let session = world.connect(Who::Operator);
        assert_eq!(world.held(session, &file), length, "seed {seed}: it is there");
        // What follows all the same is nobody's.
        world.send_data(session, &file);
        world.done(session, &Request::NodeInfo);
        assert_eq!(world.hypervisor.domains(), 1);
    }
}

#[test]
fn only_the_same_operator_goes_on_with_the_same_file() {
    let mut world = World::new(1230);
    let file = file(&mut world, 200_000);
    world.begin_and_break(Who::Operator, &file, 140_000);
    assert_eq!(world.hypervisor.domains(), 1);
    // It is of no use before its digest held.
    let other = world.connect(Who::Admin);
    let missing = world.done(other, &Request::BlobMissing(vec![digest(&file)]));
    assert_eq!(missing, Reply::Missing(vec![digest(&file)]));
    let machine = machine("web", digest(&file));
    let failure = world.refused(other, &Request::create(machine));
    assert_eq!(failure.code, Code::NotFound);
    // Others, and of other lengths, begin.
    assert_eq!(world.held(other, &file), 0);
    for length in [file.len() as u64 - 1, file.len() as u64 + 1, 1, BLOB_BYTES / 4] {
        let request = Request::BlobPut { digest: digest(&file), length, resume: true };
        assert_eq!(world.done(other, &request), Reply::BlobHeld(0), "{length}");
    }
    for length in [0, BLOB_BYTES + 1, u64::MAX] {
        let request = Request::BlobPut { digest: digest(&file), length, resume: true };
        assert_eq!(world.refused(other, &request).code, Code::Usage, "{length}");
    }
    let viewer = world.connect(Who::Viewer);
    assert_eq!(world.refused(viewer, &resume(&file)).code, Code::Refused);
    // And who began it finds it as it was.
    let session = world.connect(Who::Operator);
    let held = world.held(session, &file);
    assert!(held > 98_000, "{held}");
    world.send_data(session, &file[held..]);
    assert_eq!(world.outcome(session), Ok(Reply::Done));
    assert_eq!(world.blob(file.len()), file);
}

#[test]
fn what_does_not_belong_to_it_ends_an_upload_that_goes_on() {
    let mut world = World::new(1231);
    let file = file(&mut world, 150_000);
    // Beyond its end; from its beginning again; other bytes.
    let beyond = |held: usize| [&file[held..], &[1]].concat();
    let again = |held: usize| file[..file.len() - held].to_vec();
    let other = |held: usize| vec![7; file.len() - held];
    let rests: [&dyn Fn(usize) -> Vec<u8>; 3] = [&beyond, &again, &other];
    for rest in rests {
        world.begin_and_break(Who::Operator, &file, 100_000);
        let session = world.connect(Who::Operator);
        let held = world.held(session, &file);
        assert!(held > 60_000, "{held}");
        world.send_data(session, &rest(held));
        assert_eq!(world.outcome(session).unwrap_err().code, Code::Integrity);
        assert_eq!(world.hypervisor.domains(), 0, "nothing is left of it");
        assert_eq!(world.held(session, &file), 0);
        world.breaks(session, true);
        assert_eq!(world.hypervisor.domains(), 0, "nor of what was only announced");
    }
}

#[test]
fn one_session_at_a_time_writes() {
    let mut world = World::new(1232);
    let file = file(&mut world, 300_000);
    let first = world.connect(Who::Operator);
    assert_eq!(world.held(first, &file), 0);
    world.send_data(first, &file[..100_000]);
    world.run(20 * MS);
    let second = world.connect(Who::Operator);
    assert_eq!(world.refused(second, &resume(&file)).code, Code::Conflict);
    // Whoever sends goes on, and may ask again himself.
    let held = world.held(first, &file);
    assert_eq!(held, 100_000);
    world.send_data(first, &file[held..170_000]);
    world.run(UPLOAD_SILENT_NS / 2);
    assert_eq!(world.refused(second, &resume(&file)).code, Code::Conflict);
    // One that is silent is taken for dead: it ends, and what it had gone on with is theirs.
    world.run(UPLOAD_SILENT_NS);
    let held = world.held(second, &file);
    assert_eq!(held, 170_000);
    world.run(20 * MS);
    assert!(world.is_dead(first));
    // Its own comes too late: a session of the same key, while this one is at it.
    let third = world.connect(Who::Operator);
    assert_eq!(world.refused(third, &resume(&file)).code, Code::Conflict);
    // Others send the same file beside it, and it is kept once.
    let other = world.connect(Who::Admin);
    world.upload(other, &file);
    assert_eq!(world.held(third, &file), file.len());
    world.send_data(second, &file[held..]);
    assert_eq!(world.outcome(second), Ok(Reply::Done));
    assert_eq!(world.hypervisor.domains(), 1);
}

#[test]
fn unfinished_uploads_are_few_and_do_not_last() {
    let mut world = World::new(1233);
    let files: Vec<Vec<u8>> = (0..8).map(|_| file(&mut world, 100_000)).collect();
    world.begin_and_break(Who::Admin, &files[0], 60_000);
    for file in &files {
        world.begin_and_break(Who::Operator, file, 60_000);
        assert!(world.hypervisor.domains() <= UPLOADS_KEPT_MAX);
    }
    // The oldest of the same operator went, and nobody else's.
    let admin = world.connect(Who::Admin);
    assert!(world.held(admin, &files[0]) > 0);
    world.breaks(admin, true);
    let session = world.connect(Who::Operator);
    let kept = files.iter().filter(|file| world.held(session, file) > 0).count();
    assert_eq!(kept, UPLOADS_KEPT_MAX - 1);
    world.breaks(session, true);
    // By silence as well: the session's end comes by time, and then the upload's.
    let session = world.connect(Who::Operator);
    world.held(session, &files[1]);
    world.send_some(session, &files[1], 60_000);
    world.sessions.remove(session);
    world.run(UPLOAD_KEPT_NS - SECOND);
    assert!(world.hypervisor.domains() > 0);
    world.run(5 * SECOND);
    assert_eq!(world.hypervisor.domains(), 0);
}

#[test]
fn unfinished_uploads_give_way_to_what_needs_their_memory() {
    let mut world = World::new(1234);
    let (admin, guest) = world.ready();
    let files: Vec<Vec<u8>> = (0..3).map(|_| file(&mut world, 100_000)).collect();
    files.iter().for_each(|file| world.begin_and_break(Who::Operator, file, 60_000));
    assert_eq!(world.hypervisor.domains(), 4);
    // A guest that needs more than is free, and then a kernel.
    world.hypervisor.machine().memory_free_bytes = guest.memory_bytes - 2 * MIB;
    let check = Request::check(guest.clone());
    world.done(admin, &check);
    assert_eq!(world.hypervisor.domains(), 4, "whoever only looks drops nothing");
    world.create(admin, &guest);
    assert_eq!(world.hypervisor.domains(), 4, "one upload went for the guest");
    let failure = world.refused(admin, &Request::check(sibling(&guest, "other", 1)));
    assert_eq!(failure.code, Code::Capacity, "the others are not enough");
    world.hypervisor.machine().memory_free_bytes = 0;
    world.upload(admin, &[3; 1000]);
    let session = world.connect(Who::Operator);
    assert!(world.held(session, &files[2]) > 0, "the youngest goes last");
    assert_eq!(world.hypervisor.domains(), 4);
}

#[test]
fn a_revoked_operator_leaves_no_upload_behind() {
    let mut world = rooted(1235);
    let file = file(&mut world, 100_000);
    world.begin_and_break(Who::Operator, &file, 60_000);
    let admin = world.connect(Who::Admin);
    world.done(admin, &update(&bundle(1, everybody()), &[1]));
    world.run(SECOND);
    assert_eq!(world.hypervisor.domains(), 1);
    world.done(admin, &update(&bundle(2, vec![grant(Who::Admin, Role::Admin)]), &[1]));
    world.run(SECOND);
    assert_eq!(world.hypervisor.domains(), 0);
}

#[test]
fn an_announced_upload_takes_memory_as_its_bytes_come() {
    let mut world = World::new(1236);
    let before = world.hypervisor.machine().memory_free_bytes;
    let announce = |number: u8, length| Request::BlobPut { digest: [number; 32], length, resume: false };
    let who = [Who::Admin, Who::Operator];
    let sessions: Vec<usize> = (0..4).map(|number| world.connect(who[number % 2])).collect();
    for (number, session) in (1..).zip(&sessions) {
        world.done(*session, &announce(number, BLOB_BYTES / 2));
    }
    let taken = before - world.hypervisor.machine().memory_free_bytes;
    assert_eq!(taken, 4 * UPLOAD_STEP_BYTES, "four announcements of 256 MiB");
    // One that goes on takes what it needs and no more, and is right to the last byte.
    let file = file(&mut world, 5 << 20);
    let session = sessions[0];
    assert_eq!(world.held(session, &file), 0);
    world.send_data(session, &file[..3 << 20]);
    world.run(SECOND);
    let taken = before - world.hypervisor.machine().memory_free_bytes;
    assert_eq!(taken, 5 * UPLOAD_STEP_BYTES);
    world.send_data(session, &file[3 << 20..]);
    assert_eq!(world.outcome(session), Ok(Reply::Done));
    let machine = machine("web", digest(&file));
    let failure = world.refused(session, &Request::check(machine));
    assert!(!failure.message.contains("not on this node"), "{failure}");
}

#[test]
fn a_key_uploads_so_much_at_a_time() {
    let mut world = World::new(1237);
    world.hypervisor.machine().memory_free_bytes = 4 << 30;
    let announce = |number: u8, length| Request::BlobPut { digest: [number; 32], length, resume: false };
    let sessions: Vec<usize> = (0..4).map(|_| world.connect(Who::Operator)).collect();
    world.done(sessions[0], &announce(1, BLOB_BYTES));
    world.done(sessions[1], &announce(2, BLOB_BYTES - 1));
    let failure = world.refused(sessions[2], &announce(3, 2));
    assert_eq!(failure.code, Code::Capacity);
    assert!(failure.message.contains("1023 MiB") && failure.remedy.contains("wait"), "{failure}");
    world.done(sessions[2], &announce(3, 1));
    // Its own gives way to its next one, and others are not concerned.
    world.done(sessions[0], &announce(4, BLOB_BYTES));
    let other = world.connect(Who::Admin);
    world.done(other, &announce(5, BLOB_BYTES));
    // What was left unfinished counts, and makes room.
    world.send_data(sessions[1], &[7; 30_000]);
    world.run(SECOND);
    world.breaks(sessions[1], true);
    world.done(sessions[2], &announce(6, BLOB_BYTES - 1));
    let again = Request::BlobPut { digest: [2; 32], length: BLOB_BYTES - 1, resume: true };
    let last = world.connect(Who::Operator);
    assert_eq!(world.refused(last, &again).code, Code::Capacity);
}

#[test]
fn a_session_that_only_asks_other_things_keeps_no_upload() {
    let mut world = World::new(1238);
    let file = file(&mut world, 150_000);
    let session = world.connect(Who::Operator);
    world.held(session, &file);
    world.send_data(session, &file[..70_000]);
    world.run(SECOND);
    let asked = Request::NodeInfo;
    for _ in 0..UPLOAD_IDLE_NS / SECOND - 3 {
        world.done(session, &asked);
        world.run(SECOND);
    }
    assert_eq!(world.hypervisor.domains(), 1);
    world.run(4 * SECOND);
    let failure = world.outcome(session).unwrap_err();
    assert!(failure.code == Code::Deadline && failure.message.contains("30 s"), "{failure}");
    // It lives, and what it goes on to send is nothing's.
    world.send_data(session, &file[70_000..]);
    world.done(session, &asked);
    // It has the first part still, and only what was announced and never begun is gone.
    let held = world.held(session, &file);
    assert_eq!(held, 70_000);
    world.send_data(session, &file[held..]);
    assert_eq!(world.outcome(session), Ok(Reply::Done));
    world.done(session, &Request::BlobPut { digest: [9; 32], length: 1000, resume: false });
    assert_eq!(world.hypervisor.domains(), 2);
    world.run(UPLOAD_IDLE_NS + SECOND);
    assert_eq!(world.outcome(session).unwrap_err().code, Code::Deadline);
    assert_eq!(world.hypervisor.domains(), 1, "the file that is whole");
}

#[test]
fn memory_that_runs_out_on_the_way_ends_an_upload_with_the_number() {
    let mut world = World::new(1239);
    let session = world.connect(Who::Operator);
    let file = file(&mut world, 6 << 20);
    world.held(session, &file);
    world.hypervisor.machine().memory_free_bytes = 2 << 20;
    world.send_data(session, &file);
    let failure = world.outcome(session).unwrap_err();
    assert_eq!(failure.code, Code::Capacity);
    assert!(failure.message.contains("a file of 6 MiB"), "{failure}");
    assert_eq!(world.hypervisor.domains(), 0, "nothing is left of it");
    // One that cannot fit is refused before a byte of it is sent.
    let request = Request::BlobPut { digest: [1; 32], length: 64 << 20, resume: false };
    let failure = world.refused(session, &request);
    assert!(failure.code == Code::Capacity && failure.message.contains("64 MiB: 4 MiB"), "{failure}");
}
