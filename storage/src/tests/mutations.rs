//! Millions of damaged, forged and stale answers: none panics, none is accepted.
//!
//! `MUTATIONS=<n>` runs that many for each protocol (10000000 is the full number).

use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

use super::aoe_target::{AOE, AoeTarget};
use super::guest::{Memory, sector};
use super::iscsi_connection::Connection;
use super::iscsi_target::IscsiTarget;
use super::mutate::{Random, mutate, wanted};
use super::{MS, iscsi_world};
use crate::aoe::wire::{Body, Frame};
use crate::aoe::{Source, Target, TargetConfig};
use crate::iscsi::Session;
use crate::{Lba, Operation, Request, RequestId};

const NODE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const TARGET: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn aoe_session(seed: u64) -> Target {
    Target::new(TargetConfig {
        target: AOE,
        sources: vec![Source { mac: NODE, mtu: 1_500 }],
        macs: vec![TARGET],
        read_only: false,
        reserve: false,
        hold_writes_until_ns: 0,
        seed,
    })
}

fn request(random: &mut Random, id: u64) -> Request {
    let operation = [Operation::Read, Operation::Write, Operation::Flush][random.below(3) as usize];
    let sectors = if operation == Operation::Flush { 0 } else { 1 + random.below(2) as u32 };
    let lba = if sectors == 0 { 0 } else { random.below(60) };
    Request { id: RequestId(id), operation, lba: Lba(lba), sectors }
}

/// Whether a frame may be taken as the answer to what was asked.
fn is_genuine(frame: &[u8], asked: &[u8]) -> bool {
    let (Some(frame), Some(asked)) = (Frame::parse(frame), Frame::parse(asked)) else { return false };
    let addressed = frame.response && frame.source == TARGET && frame.destination == NODE;
    let command = matches!(frame.body, Body::Ata(_)) == matches!(asked.body, Body::Ata(_));
    addressed && frame.target == AOE && frame.tag == asked.tag && command
}

#[test]
fn mutated_aoe_frames_are_harmless() {
    let mut random = Random::new(1);
    let mut target = AoeTarget::new(&[TARGET], b's');
    let mut session = aoe_session(1);
    let mut memory = Memory(BTreeMap::new());
    let (mut now, mut next_id, mut stale) = (0, 1, Vec::new());
    let mut buffer = [0; 2_000];
    for round in 0..wanted(1_000_000) {
        now += MS / 100;
        if session.unfinished().is_empty() {
            let request = request(&mut random, next_id);
            memory.0.insert(request.id, (0..request.sectors).flat_map(|_| sector(next_id)).collect());
            next_id += 1;
            session.submit(request, now).unwrap();
        }
        let Some(length) = session.transmit(&mut buffer, now, &mut memory) else {
            now += 10 * MS;
            continue;
        };
        let asked = &buffer[..length];
        let Some(mut answer) = target.answer(asked) else { continue };
        let mutated = random.chance(70);
        if mutated {
            mutate(&mut random, &mut answer, 40);
        }
        if random.chance(5) && !stale.is_empty() {
            // One that was right once.
            let at = random.below(stale.len() as u64) as usize;
            answer = Vec::clone(&stale[at]);
        } else if !mutated {
            stale.truncate(63);
            stale.insert(0, answer.clone());
        }
        session.receive(&answer, now, &mut memory);
        while let Some(completion) = session.take_completion() {
            memory.0.remove(&completion.id);
            assert!(is_genuine(&answer, asked), "round {round}: a forged or stale answer was accepted");
        }
    }
}

/// A session and the target's end of its only connection.
struct Ends {
    session: Session,
    target: IscsiTarget,
    memory: Memory,
    next_id: u64,
    now: u64,
}

impl Ends {
    fn new(seed: u64) -> Self {
        let session = Session::new(iscsi_world::config(1, seed));
        let mut target = IscsiTarget::new(1);
        target.healed = true;
        target.thin = true;
        Self { session, target, memory: Memory(BTreeMap::new()), next_id: 1, now: 0 }
    }

    fn connect(&mut self, random: &mut Random) {
        while self.session.connect(0, self.now).is_none() {
            self.now += 50 * MS;
        }
        self.target.connections.clear();
        let number = random.next() as u32;
        let initial_r2t = random.chance(50);
        let mut connection = Connection::new(0, false, initial_r2t, 32, number);
        connection.strict = false;
        self.target.connections.push(connection);
        self.session.on_connected(0, self.now);
    }

    /// What the target has to say next.
    fn exchange(&mut self, random: &mut Random) -> Vec<u8> {
        while self.session.unfinished().len() < 4 {
            let mut request = request(random, self.next_id);
            if request.operation == Operation::Write && random.chance(30) {
                request.operation = Operation::Discard;
            }
            let data = (0..request.sectors).flat_map(|_| sector(self.next_id)).collect();
            self.memory.0.insert(request.id, data);
            self.next_id += 1;
            self.session.submit(request, self.now).unwrap();
        }
        let mut buffer = [0; 8_192];
        let length = self.session.transmit(0, &mut buffer, self.now, &mut self.memory);
        self.target.connections[0].input.extend_from_slice(&buffer[..length]);
        self.target.work(0, self.now, random);
        core::mem::take(&mut self.target.connections[0].output)
    }
}

#[test]
fn mutated_iscsi_pdus_are_harmless() {
    let mut random = Random::new(2);
    let mut ends = Ends::new(2);
    let (goal, mut mutated) = (wanted(200_000), 0);
    ends.connect(&mut random);
    while mutated < goal {
        ends.now += MS;
        let mut answers = ends.exchange(&mut random);
        // Each of its PDUs by itself; damage does not follow their borders.
        while !answers.is_empty() {
            let length = (48 + random.below(64) as usize).min(answers.len());
            let mut piece: Vec<u8> = answers.drain(..length).collect();
            if random.chance(25) {
                mutate(&mut random, &mut piece, 64);
                mutated += 1;
            }
            ends.session.receive(0, &piece, ends.now, &mut ends.memory);
        }
        while let Some(completion) = ends.session.take_completion() {
            ends.memory.0.remove(&completion.id).expect("a completion of something unfinished");
        }
        ends.now += if random.chance(1) { 4_000 * MS } else { 0 };
        ends.session.poll(ends.now);
        if ends.session.disconnect_wanted(0) {
            ends.session.on_disconnected(0, ends.now);
            ends.connect(&mut random);
        }
    }
}
