//! An AoE session and its target on a table: frames pass at once, or do not.

use std::vec;
use std::vec::Vec;

use super::MS;
use super::aoe_target::{AOE, AoeTarget};
use super::guest::Memory;
use crate::aoe::{Administration, MacAddress, Outcome, Source, Target, TargetConfig};
use crate::{Lba, Operation, Request, RequestId};

pub(super) const NODE: MacAddress = [2, 0, 0, 0, 0, 1];
pub(super) const OTHER: MacAddress = [2, 0, 0, 0, 0, 7];
const TARGET: MacAddress = [2, 0, 0, 0, 0, 2];

/// A session over a path for each of the MAC addresses.
pub(super) fn config(macs: &[MacAddress], mtu: usize) -> TargetConfig {
    TargetConfig {
        target: AOE,
        sources: macs.iter().map(|mac| Source { mac: *mac, mtu }).collect(),
        macs: vec![TARGET],
        read_only: false,
        reserve: false,
        hold_writes_until_ns: 0,
        seed: 9,
    }
}

pub(super) struct Bench {
    pub(super) session: Target,
    pub(super) target: AoeTarget,
    pub(super) memory: Memory,
    pub(super) now: u64,
}

impl Bench {
    pub(super) fn new(macs: &[MacAddress], mtu: usize) -> Self {
        let session = Target::new(config(macs, mtu));
        let mut target = AoeTarget::new(&[TARGET], b's');
        target.sectors_max = 17;
        Self { session, target, memory: Memory(Default::default()), now: 0 }
    }

    /// Frames pass at once; those that are too long do not.
    pub(super) fn run(&mut self, for_ns: u64, longest: usize) {
        self.run_with(for_ns, |frame| frame.len() <= longest);
    }

    /// The same, for those that `passes` tells.
    pub(super) fn run_with(&mut self, for_ns: u64, passes: impl Fn(&[u8]) -> bool) {
        let end = self.now + for_ns;
        while self.now < end {
            self.exchange(&passes);
            self.now += MS;
        }
    }

    /// What the session wants to send now goes to the target, and the answers come back,
    /// if they pass.
    pub(super) fn exchange(&mut self, mut passes: impl FnMut(&[u8]) -> bool) {
        let mut buffer = [0; 9_100];
        while let Some(length) = self.session.transmit(&mut buffer, self.now, &mut self.memory) {
            let request = buffer.get(..length).filter(|request| passes(request));
            if let Some(reply) =
                request.and_then(|request| self.target.answer(request)).filter(|it| passes(it))
            {
                self.session.receive(&reply, self.now, &mut self.memory);
            }
        }
    }

    pub(super) fn ask(&mut self, command: Administration) -> Option<Outcome> {
        self.session.administer(command).unwrap();
        self.run(20 * MS, 9_100);
        self.session.take_outcome()
    }

    pub(super) fn submit(&mut self, id: u64, operation: Operation, lba: u64, sectors: u32) {
        let request = Request { id: RequestId(id), operation, lba: Lba(lba), sectors };
        self.memory.0.insert(request.id, vec![1; sectors as usize * 512]);
        self.session.submit(request, self.now).unwrap();
    }

    /// What every path says of itself under this name.
    pub(super) fn negotiated(&self, key: &str) -> Vec<std::string::String> {
        let paths = self.session.status().paths;
        let of_path = |path: &crate::PathStatus| {
            path.negotiated.iter().find(|(name, _)| *name == key).unwrap().1.clone()
        };
        paths.iter().map(of_path).collect()
    }
}
