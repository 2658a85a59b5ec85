//! What an operator asks an AoE target: configuration, masks, reservation; and what
//! discovery finds by them. Capacity and reservation as the session sees them.

use std::vec;
use std::vec::Vec;

use super::aoe_target::{AOE, AoeTarget};
use super::guest::Memory;
use super::{MS, SECOND};
use crate::aoe::{Administration, Discovery, Filter, Outcome, Source, Target, TargetConfig};
use crate::{BlockError, Lba, Operation, Request, RequestId, Stage, VolumeState};

const NODE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 7];
const TARGET: [u8; 6] = [2, 0, 0, 0, 0, 2];

struct Bench {
    session: Target,
    target: AoeTarget,
    memory: Memory,
    now: u64,
}

impl Bench {
    fn new(mtu: usize) -> Self {
        let session = Target::new(TargetConfig {
            target: AOE,
            sources: vec![Source { mac: NODE, mtu }],
            macs: vec![TARGET],
            read_only: false,
            reserve: false,
            hold_writes_until_ns: 0,
            seed: 9,
        });
        let mut target = AoeTarget::new(&[TARGET], b's');
        target.sectors_max = 17;
        Self { session, target, memory: Memory(Default::default()), now: 0 }
    }

    /// Frames pass at once; those that are too long do not.
    fn run(&mut self, for_ns: u64, longest: usize) {
        let end = self.now + for_ns;
        while self.now < end {
            let mut buffer = [0; 9_100];
            while let Some(length) = self.session.transmit(&mut buffer, self.now, &mut self.memory) {
                let reply = self.target.answer(&buffer[..length]).filter(|_| length <= longest);
                if let Some(reply) = reply.filter(|reply| reply.len() <= longest) {
                    self.session.receive(&reply, self.now, &mut self.memory);
                }
            }
            self.now += MS;
        }
    }

    fn ask(&mut self, command: Administration) -> Option<Outcome> {
        self.session.administer(command).unwrap();
        self.run(20 * MS, 9_100);
        self.session.take_outcome()
    }

    fn submit_and_wait(&mut self, id: u64) {
        let write = Request { id: RequestId(id), operation: Operation::Write, lba: Lba(0), sectors: 1 };
        self.memory.0.insert(write.id, vec![1; 512]);
        self.session.submit(write, self.now).unwrap();
        self.run(3 * SECOND, 9_100);
    }

    fn negotiated(&self, key: &str) -> std::string::String {
        let report = self.session.status().negotiated;
        report.into_iter().find(|(name, _)| *name == key).unwrap().1
    }
}

#[test]
fn configuration_strings() {
    let mut bench = Bench::new(1_500);
    bench.run(100 * MS, 9_100);
    let config = |text: &[u8]| Some(Outcome::Config(text.to_vec()));
    assert_eq!(bench.ask(Administration::ReadConfig), config(b""));
    assert_eq!(bench.ask(Administration::SetConfig(b"rack 7".to_vec())), config(b"rack 7"));
    let refused = Some(Outcome::Refused("the target has a configuration string already"));
    assert_eq!(bench.ask(Administration::SetConfig(b"x".to_vec())), refused);
    assert_eq!(bench.ask(Administration::TestConfig(b"rack 7".to_vec())), config(b"rack 7"));
    assert_eq!(bench.ask(Administration::TestConfigPrefix(b"ra".to_vec())), config(b"rack 7"));
    assert_eq!(bench.ask(Administration::TestConfig(b"ra".to_vec())), None, "silence means no");
    bench.session.cancel_administration();
    assert_eq!(bench.ask(Administration::ForceConfig(b"new".to_vec())), config(b"new"));
    for (filter, found) in [
        (Filter::All, 1),
        (Filter::Config(b"new".to_vec()), 1),
        (Filter::Config(b"ne".to_vec()), 0),
        (Filter::ConfigPrefix(b"ne".to_vec()), 1),
    ] {
        let mut search = Discovery::new(NODE, 5, 0).filtered(filter);
        let mut buffer = [0; 1_500];
        while let Some(length) = search.transmit(&mut buffer, search.next_deadline()) {
            // Everybody is asked: the address is a broadcast, and so is the name.
            buffer[16..19].copy_from_slice(&[0, 11, 1]);
            if let Some(reply) = bench.target.answer(&buffer[..length]) {
                search.receive(&reply);
            }
        }
        assert_eq!(search.found().len(), found);
    }
}

#[test]
fn masks_and_reservations() {
    let mut bench = Bench::new(1_500);
    bench.run(100 * MS, 9_100);
    assert_eq!(bench.ask(Administration::ReadMasks), Some(Outcome::Masks(vec![])));
    let edit = vec![Administration::add_station(NODE), Administration::add_station(OTHER)];
    let both = Some(Outcome::Masks(vec![NODE, OTHER]));
    assert_eq!(bench.ask(Administration::EditMasks(edit)), both);
    let edit = vec![Administration::delete_station(OTHER)];
    assert_eq!(bench.ask(Administration::EditMasks(edit)), Some(Outcome::Masks(vec![NODE])));

    let held = |by: &[[u8; 6]]| Some(Outcome::Reservation(by.to_vec()));
    assert_eq!(bench.ask(Administration::ReadReservation), held(&[]));
    assert_eq!(bench.ask(Administration::Reserve(vec![NODE])), held(&[NODE]));
    assert_eq!(bench.ask(Administration::Reserve(vec![])), held(&[]));
    // Somebody else holds it: requests wait, and it is said why.
    bench.target.holders = vec![OTHER];
    let read = Request { id: RequestId(1), operation: Operation::Read, lba: Lba(0), sectors: 1 };
    bench.memory.0.insert(read.id, vec![0; 512]);
    bench.session.submit(read, bench.now).unwrap();
    bench.run(SECOND, 9_100);
    let status = bench.session.status();
    assert_eq!((status.state, status.stage), (VolumeState::Refused, Stage::Ready));
    assert_eq!(status.last_error, Some("the target is reserved by another station"));
    let refused = Some(Outcome::Refused("the target is reserved by another station"));
    assert_eq!(bench.ask(Administration::Reserve(vec![NODE])), refused);
    assert_eq!(bench.ask(Administration::ForceReserve(vec![NODE])), held(&[NODE]));
    bench.run(6 * SECOND, 9_100);
    assert_eq!(bench.session.take_completion().unwrap().result, Ok(()));
    assert_eq!(bench.session.status().state, VolumeState::Ready);
}

#[test]
fn the_frame_size_is_found_and_found_again() {
    for (longest, sectors) in [(9_100, "17"), (4_700, "9"), (1_514, "2")] {
        let mut bench = Bench::new(9_000);
        bench.run(6 * SECOND, longest);
        assert_eq!(bench.negotiated("SectorsPerFrame"), sectors);
        assert_eq!(bench.negotiated("FrameSizeFellBack"), if sectors == "17" { "false" } else { "true" });
        assert_eq!(bench.session.status().state, VolumeState::Ready);
        // The network gets better: it is noticed within a minute or so.
        bench.run(130 * SECOND, 9_100);
        assert_eq!(bench.negotiated("SectorsPerFrame"), "17");
    }
}

#[test]
fn requests_beyond_the_end_and_writes_to_a_read_only_disk() {
    let mut bench = Bench::new(1_500);
    bench.run(100 * MS, 9_100);
    let write = Request { id: RequestId(1), operation: Operation::Write, lba: Lba(63), sectors: 2 };
    bench.session.submit(write, bench.now).unwrap();
    bench.run(MS, 9_100);
    assert_eq!(bench.session.take_completion().unwrap().result, Err(BlockError::OutOfRange));
    let trim = Request { operation: Operation::Discard, sectors: 1, ..write };
    bench.session.submit(trim, bench.now).unwrap();
    bench.run(MS, 9_100);
    assert_eq!(bench.session.take_completion().unwrap().result, Err(BlockError::Unsupported));
    let mut session = Target::new(TargetConfig {
        target: AOE,
        sources: vec![Source { mac: NODE, mtu: 1_500 }],
        macs: Vec::new(),
        read_only: true,
        reserve: false,
        hold_writes_until_ns: 0,
        seed: 1,
    });
    assert_eq!(session.submit(write, 0), Err(crate::SubmitError::ReadOnly));
}

#[test]
fn a_disk_is_claimed_and_claimed_again_when_it_comes_back() {
    let mut bench = Bench::new(1_500);
    bench.session.set_reserve(true);
    bench.run(100 * MS, 9_100);
    assert_eq!(
        (bench.target.holders.as_slice(), bench.session.status().state),
        (&[NODE][..], VolumeState::Ready)
    );
    assert_eq!(bench.negotiated("Reservation"), "02:00:00:00:00:01");
    // The target starts anew and has forgotten.
    (bench.target.up, bench.target.holders) = (false, Vec::new());
    let write = Request { id: RequestId(1), operation: Operation::Write, lba: Lba(0), sectors: 1 };
    bench.memory.0.insert(write.id, vec![1; 512]);
    bench.session.submit(write, bench.now).unwrap();
    bench.run(3 * SECOND, 9_100);
    bench.target.up = true;
    bench.run(6 * SECOND, 9_100);
    assert_eq!(bench.session.take_completion().unwrap().result, Ok(()));
    assert_eq!(bench.target.holders, [NODE]);
    bench.session.set_reserve(false);
    bench.run(100 * MS, 9_100);
    assert!(bench.target.holders.is_empty());
    // Another node has it: nothing is written, and it is said why.
    bench.target.holders = vec![OTHER];
    bench.session.set_reserve(true);
    bench.submit_and_wait(2);
    assert_eq!((bench.session.take_completion(), bench.session.status().state), (None, VolumeState::Refused));
}

#[test]
fn a_frame_that_is_lost_again_and_again_is_not_left_for_long_while_others_pass() {
    let mut bench = Bench::new(1_500);
    bench.run(100 * MS, 9_100);
    let request = |id, operation, lba| Request { id: RequestId(id), operation, lba: Lba(lba), sectors: 1 };
    let write = request(1, Operation::Write, 40);
    bench.memory.0.insert(write.id, vec![1; 512]);
    bench.session.submit(write, bench.now).unwrap();
    let (began, mut copies, mut next) = (bench.now, 0, 2);
    loop {
        // The neighbours' requests come and go.
        if bench.session.unfinished().len() < 2 {
            bench.memory.0.insert(RequestId(next), vec![0; 512]);
            bench.session.submit(request(next, Operation::Read, next % 32), bench.now).unwrap();
            next += 1;
        }
        let mut buffer = [0; 2_000];
        while let Some(length) = bench.session.transmit(&mut buffer, bench.now, &mut bench.memory) {
            // AoE r11, 3.1: the command, and the lowest octet of the address.
            let writes = buffer[27] == 0x34 && buffer[28] == 40;
            copies += u32::from(writes);
            if !writes || copies > 12 {
                let reply = bench.target.answer(&buffer[..length]).unwrap();
                bench.session.receive(&reply, bench.now, &mut bench.memory);
            }
        }
        bench.now += MS;
        if core::iter::from_fn(|| bench.session.take_completion()).any(|it| it.id == write.id) {
            break;
        }
        assert!(bench.now - began < 4 * SECOND, "{copies} copies of it were lost, and it waits");
    }
    assert_eq!(copies, 13);
}

#[test]
fn a_target_that_has_become_slow_is_not_asked_everything_again_and_again() {
    let mut bench = Bench::new(1_500);
    bench.run(100 * MS, 9_100);
    let (mut late, mut next): (std::collections::VecDeque<(u64, Vec<u8>)>, u64) = (Default::default(), 1);
    let before = bench.session.status().counters;
    while bench.session.status().counters.completed < before.completed + 50 {
        if bench.session.unfinished().is_empty() {
            let read = Request { id: RequestId(next), operation: Operation::Read, lba: Lba(0), sectors: 1 };
            bench.memory.0.insert(read.id, vec![0; 512]);
            bench.session.submit(read, bench.now).unwrap();
            next += 1;
        }
        let mut buffer = [0; 2_000];
        while let Some(length) = bench.session.transmit(&mut buffer, bench.now, &mut bench.memory) {
            // Six times as long as any wait that its first answers suggested.
            late.push_back((bench.now + 60 * MS, bench.target.answer(&buffer[..length]).unwrap()));
        }
        while let Some((_, reply)) = late.pop_front_if(|(at, _)| *at <= bench.now) {
            bench.session.receive(&reply, bench.now, &mut bench.memory);
        }
        while bench.session.take_completion().is_some() {}
        bench.now += MS;
    }
    let retries = bench.session.status().counters.retries - before.retries;
    assert!(retries <= 5, "{retries} frames were sent again");
}

/// The path dies that the first of several writes takes, each over the one before. Its long
/// frame is given up before the path counts as lost, and goes elsewhere: nothing is under
/// way on the dead path any more while its copies are waited for. No later write may be the
/// one that finds the path dead, and leave copies in its turn.
#[test]
fn a_path_that_dies_under_long_frames_alone_is_left_in_time() {
    let source = |mac| Source { mac, mtu: 9_000 };
    let mut bench = Bench::new(9_000);
    bench.session = Target::new(TargetConfig {
        target: AOE,
        sources: vec![source(NODE), source(OTHER)],
        macs: vec![TARGET],
        read_only: false,
        reserve: false,
        hold_writes_until_ns: 0,
        seed: 9,
    });
    // Long frames are known to pass on both.
    bench.run(SECOND, 9_100);
    assert!(
        bench
            .session
            .status()
            .paths
            .iter()
            .all(|path| path.negotiated.contains(&("SectorsPerFrame", "17".into())))
    );
    let began = bench.now;
    for number in 1..=6 {
        let write = Request { id: RequestId(number), operation: Operation::Write, lba: Lba(0), sectors: 17 };
        bench.memory.0.insert(write.id, vec![1; 17 * 512]);
        bench.session.submit(write, bench.now).unwrap();
    }
    let mut dead: Option<[u8; 6]> = None;
    while !bench.session.unfinished().is_empty() {
        assert!(bench.now - began < 3 * SECOND, "{}", bench.session.describe());
        let mut buffer = [0; 9_100];
        while let Some(length) = bench.session.transmit(&mut buffer, bench.now, &mut bench.memory) {
            if buffer[6..12] == *dead.get_or_insert(buffer[6..12].try_into().unwrap()) {
                continue;
            }
            let reply = bench.target.answer(&buffer[..length]).unwrap();
            bench.session.receive(&reply, bench.now, &mut bench.memory);
        }
        bench.now += MS;
    }
}
