//! An AoE target that is honest but for its script, and that holds the initiator to
//! the protocol.
//!
//! Spec: AoE r11; ATA/ATAPI-7, volume 1.

use super::work::Work;
use super::{MS, SECOND, SECTORS};
use std::collections::VecDeque;
use storage::aoe::wire::{Ata, Body, Config, Frame, MacAddress, TargetAddress, ata};
use storage::aoe::{Source, Target, TargetConfig};
use storage::volume::Volume;
use storage::{VolumeState, VolumeStatus};

/// The initiator's MAC address.
pub const NODE: MacAddress = [2, 0, 0, 0, 0, 1];
/// The target's.
pub const BLADE: MacAddress = [2, 0, 0, 0, 0, 2];
/// Another initiator's.
pub const STRANGER: MacAddress = [2, 0, 0, 0, 0, 3];
/// Its name.
pub const NAME: TargetAddress = TargetAddress { shelf: 11, slot: 1 };
/// Between a frame and its answer.
const ROUND_TRIP_NS: u64 = MS / 5;
const LIMIT_NS: u64 = 120 * SECOND;
/// Late copies have come by then.
const LINGER_NS: u64 = 3 * SECOND;

/// What a script is told of an answer.
#[derive(Debug)]
pub struct Moment<'a> {
    /// The frame that it answers.
    pub asked: &'a [u8],
    /// How many answers went before.
    pub nth: usize,
    /// Of those, to reads, writes and flushes.
    pub nth_data: usize,
    /// Whether this is one of those.
    pub data: bool,
    /// Answers given before.
    pub old: &'a [Vec<u8>],
    /// More frames, and how late they come.
    pub more: &'a mut Vec<(Vec<u8>, u64)>,
    /// Signs that mischief took place.
    pub marks: &'a mut usize,
    /// The time.
    pub now_ns: u64,
}

/// A piece of mischief: changes an answer; how late it comes, or not at all.
pub type Mischief = fn(&mut Vec<u8>, &mut Moment<'_>) -> Option<u64>;

/// What was seen when all was over.
#[derive(Debug)]
pub struct Run {
    /// The volume's last state.
    pub status: VolumeStatus,
    /// The guest.
    pub work: Work,
    /// When the last request was done.
    pub finished_ns: Option<u64>,
    /// What the initiator did against the protocol.
    pub faults: Vec<String>,
    /// Frames that it sent.
    pub frames: usize,
    /// What the script marked.
    pub marks: usize,
    /// What the disk holds.
    pub disk: Vec<u8>,
    old: Vec<Vec<u8>>,
    data: usize,
    /// Tags in use, with what was asked and when: it must not change.
    tags: Vec<(u32, Vec<u8>)>,
}

/// The 512 octets of IDENTIFY DEVICE.
#[must_use]
pub fn identity(sectors: u64) -> Vec<u8> {
    let mut data = vec![0; 512];
    for (at, octet) in [(166, 0), (167, 0x04), (172, 0), (173, 0x04)] {
        if let Some(place) = data.get_mut(at) {
            *place = octet;
        }
    }
    if let Some(place) = data.get_mut(200..208) {
        place.copy_from_slice(&sectors.to_le_bytes());
    }
    if let Some(place) = data.get_mut(20..40) {
        place.fill(b's');
    }
    data
}

impl Run {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new(status: VolumeStatus) -> Self {
        Self {
            status,
            work: Work::new(),
            finished_ns: None,
            faults: Vec::new(),
            frames: 0,
            marks: 0,
            disk: vec![0; usize::try_from(SECTORS).unwrap_or(0) * 512],
            old: Vec::new(),
            data: 0,
            tags: Vec::new(),
        }
    }

    fn fault(&mut self, what: impl Into<String>) {
        let what = what.into();
        if self.faults.len() < 20 && !self.faults.contains(&what) {
            self.faults.push(what);
        }
    }

    /// The honest answer.
    fn answer(&mut self, octets: &[u8]) -> Option<Vec<u8>> {
        self.frames += 1;
        let Some(frame) = Frame::parse(octets) else {
            self.fault("a frame that is no AoE");
            return None;
        };
        if frame.response || frame.source != NODE || octets.len() > 1514 {
            self.fault("a response, another's source or too long a frame");
        }
        // A tag names one command until it is answered; copies are the same.
        if let Some((_, other)) = self.tags.iter().find(|(tag, _)| *tag == frame.tag) {
            if other != octets {
                self.fault("a tag that is in use for something else");
            }
        } else {
            self.tags.push((frame.tag, octets.to_vec()));
        }
        let mut answer = vec![0; 1600];
        let back = Frame { destination: frame.source, source: BLADE, response: true, target: NAME, ..frame };
        let length = match frame.body {
            Body::Config(_) => {
                let config = Config { buffers: 16, firmware: 1, sectors_max: 2, command: 0, string: &[] };
                Frame { body: Body::Config(config), ..back }.emit(&mut answer)?
            }
            Body::Ata(command) => {
                let (status, data) = self.ata(&command);
                let done = Ata { command: status, feature: 0, data: &data, ..command };
                Frame { body: Body::Ata(done), ..back }.emit(&mut answer)?
            }
            _ => return None,
        };
        answer.truncate(length);
        Some(answer)
    }

    /// A frame is about to reach the initiator: if it answers, its tag is free.
    pub fn arrives(&mut self, frame: &[u8]) {
        if let Some(found) = Frame::parse(frame) {
            self.tags.retain(|(tag, _)| *tag != found.tag);
        }
    }

    /// What comes back for a frame, and when.
    pub fn exchange(&mut self, asked: &[u8], mischief: Mischief, now_ns: u64) -> Vec<(u64, Vec<u8>)> {
        let Some(mut answer) = self.answer(asked) else { return Vec::new() };
        let data = matches!(Frame::parse(asked).map(|it| it.body),
            Some(Body::Ata(it)) if it.command != ata::IDENTIFY);
        let mut more = Vec::new();
        let late = mischief(
            &mut answer,
            &mut Moment {
                asked,
                nth: self.old.len(),
                nth_data: self.data,
                data,
                old: &self.old,
                more: &mut more,
                marks: &mut self.marks,
                now_ns,
            },
        );
        self.data += usize::from(data);
        self.old.push(answer.clone());
        let frames = more.into_iter().chain(late.map(|late_ns| (answer, late_ns)));
        frames.map(|(frame, late_ns)| (now_ns + ROUND_TRIP_NS + late_ns, frame)).collect()
    }

    fn ata(&mut self, command: &Ata<'_>) -> (u8, Vec<u8>) {
        let octets = usize::from(command.sectors) * 512;
        let at = usize::try_from(command.lba).unwrap_or(usize::MAX).saturating_mul(512);
        let end = at.saturating_add(octets);
        match command.command {
            ata::IDENTIFY => (0x40, identity(SECTORS)),
            ata::READ_EXT => match self.disk.get(at..end) {
                Some(data) => (0x40, data.to_vec()),
                None => (0x41, Vec::new()),
            },
            ata::WRITE_EXT => match (self.disk.get_mut(at..end), command.data.get(..octets)) {
                (Some(place), Some(data)) => {
                    place.copy_from_slice(data);
                    (0x40, Vec::new())
                }
                _ => {
                    self.fault("a write beyond the disk, or without its data");
                    (0x41, Vec::new())
                }
            },
            ata::FLUSH_EXT | ata::FLUSH => (0x40, Vec::new()),
            other => {
                self.fault(format!("ATA command {other:#x}"));
                (0x41, Vec::new())
            }
        }
    }

    /// What is wrong with it.
    #[must_use]
    pub fn faults(&self, seconds: Option<u64>, words: &str) -> Vec<String> {
        let mut faults = self.faults.clone();
        faults.extend(self.work.faults(&self.disk));
        match (seconds, self.finished_ns) {
            (Some(seconds), Some(at)) if at > seconds * SECOND => {
                faults.push(format!("it took {} ms", at / MS))
            }
            (Some(_), None) => {
                let said = self.status.last_error;
                faults.push(format!("{} requests were done, then no more: {said:?}", self.work.done));
            }
            (None, _) if self.work.done > 0 => faults.push(format!("{} requests ended", self.work.done)),
            (None, _) if self.status.state == VolumeState::Ready || self.frames > 2_000 => {
                faults.push(format!("{:?} after {} frames", self.status.state, self.frames));
            }
            _ => {}
        }
        if !self.work.failed.is_empty() && words != "failed" {
            faults.push(format!("requests failed: {:?}", self.work.failed));
        }
        let said = self.status.last_error.unwrap_or_default();
        if seconds.is_none() && !said.contains(words) {
            faults.push(format!("it says {said:?}"));
        }
        faults
    }
}

/// Runs all of the guest's work, or two minutes.
#[must_use]
pub fn run(macs: &[MacAddress], mischief: Mischief) -> Run {
    run_volume(macs, mischief).0
}

/// The same; the volume is kept as it is then.
#[must_use]
pub fn run_volume(macs: &[MacAddress], mischief: Mischief) -> (Run, Volume) {
    let mut volume = Volume::Aoe(Target::new(TargetConfig {
        target: NAME,
        sources: vec![Source { mac: NODE, mtu: 1500 }],
        macs: macs.to_vec(),
        read_only: false,
        reserve: false,
        hold_writes_until_ns: 0,
        seed: 5,
    }));
    let mut run = Run::new(volume.status());
    let mut wire: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
    let (mut now_ns, mut buffer) = (0, vec![0; 1600]);
    while now_ns < LIMIT_NS && run.finished_ns.is_none_or(|at| now_ns < at + LINGER_NS) {
        run.work.step(&mut volume, now_ns);
        if run.work.is_over() && run.finished_ns.is_none() {
            run.finished_ns = Some(now_ns);
        }
        let Volume::Aoe(target) = &mut volume else { break };
        while let Some(length) = target.transmit(&mut buffer, now_ns, &mut run.work.memory) {
            let asked = buffer.get(..length).unwrap_or_default();
            wire.extend(run.exchange(asked, mischief, now_ns));
        }
        let mut index = 0;
        while let Some((at, _)) = wire.get(index) {
            if *at > now_ns {
                index += 1;
            } else if let Some((_, frame)) = wire.remove(index) {
                run.arrives(&frame);
                target.receive(&frame, now_ns, &mut run.work.memory);
            }
        }
        now_ns += MS / 5;
        volume.poll(now_ns);
    }
    run.status = volume.status();
    (run, volume)
}
