//! An initiator against a scripted iSCSI target, with a clock of its own.

use super::iscsi_target::{Manner, Mischief, Target};
use super::work::Work;
use super::{MS, SECOND};
use std::ops::RangeInclusive;
use storage::iscsi::{DigestPolicy, Portal, Session, SessionConfig, SessionKind};
use storage::volume::Volume;
use storage::{BlockError, VolumeState, VolumeStatus};

/// How long a run may last.
const LIMIT_NS: u64 = 120 * SECOND;
/// What is looked at after all is done: a storm's end, an answer that comes late.
const LINGER_NS: u64 = 2 * SECOND;

/// What must come of a script.
#[derive(Clone, Debug)]
pub enum Expected {
    /// Every request is served, within so many seconds and over so many connections.
    Served {
        /// The most it may take.
        seconds: u64,
        /// Connections.
        connections: RangeInclusive<usize>,
    },
    /// So many requests fail with an error of the medium, and all others are served.
    Failed {
        /// Requests.
        requests: usize,
    },
    /// Nothing is served; the volume's last error has these words, and in two minutes
    /// there are no more connections than these.
    Stalled {
        /// Part of the last error.
        words: &'static str,
        /// The most connections.
        connections: usize,
    },
}

/// What was seen when all was over.
#[derive(Debug)]
pub struct Run {
    /// The target.
    pub target: Target,
    /// The volume's last state.
    pub status: VolumeStatus,
    /// The guest.
    pub work: Work,
    /// When the last request was done.
    pub finished_ns: Option<u64>,
    /// Where was connected to, by the last octet of the address.
    pub portals: Vec<u8>,
    /// The worst word the initiator had for the target: errors in their order.
    pub errors: Vec<&'static str>,
}

pub(super) fn session(manner: &Manner) -> Session {
    let portal = Portal { address: [10, 0, 0, 3].into(), port: 3260 };
    let kind = match manner.discovery {
        true => SessionKind::Discovery,
        false => SessionKind::Normal { target: "iqn.2026-11.io.redoubt:hostile".into(), lun: 0 },
    };
    let name = "iqn.2026-11.io.redoubt:initiator".into();
    let mut config = SessionConfig::new(portal, name, kind, [0x80, 0, 0, 0, 0, 1], 11);
    if !manner.digests {
        config.digests = DigestPolicy::Off;
    }
    Session::new(config)
}

/// Runs all of the guest's work, or two minutes.
#[must_use]
pub fn run(manner: Manner, mischief: Mischief) -> Run {
    run_volume(manner, mischief).0
}

/// The same; the volume is kept as it is then.
#[must_use]
pub fn run_volume(manner: Manner, mischief: Mischief) -> (Run, Volume) {
    let mut target = Target::new(manner, mischief);
    let mut volume = Volume::Iscsi(session(&manner));
    let work = if manner.thin { Work::discarding() } else { Work::new() };
    let (mut work, mut portals, mut errors) = (work, Vec::new(), Vec::new());
    let (mut now_ns, mut open, mut finished_ns) = (0, false, None);
    let mut buffer = vec![0; 16_384];
    while now_ns < LIMIT_NS && finished_ns.is_none_or(|finished_ns| now_ns < finished_ns + LINGER_NS) {
        work.step(&mut volume, now_ns);
        if work.is_over() && finished_ns.is_none() {
            finished_ns = Some(now_ns);
        }
        let Volume::Iscsi(session) = &mut volume else { break };
        if let Some(portal) = session.connect(0, now_ns) {
            portals.push(portal.address.octets()[3]);
            target.accept();
            open = true;
            session.on_connected(0, now_ns);
        }
        let mut moved = 0;
        if open {
            let length = session.transmit(0, &mut buffer, now_ns, &mut work.memory);
            let sent = buffer.get(..length).unwrap_or_default();
            let (answer, closed) = target.exchange(sent, now_ns / MS);
            moved = length + answer.len();
            // Torn as TCP may tear it.
            for piece in answer.chunks(1 + usize::try_from(now_ns / MS % 977).unwrap_or(0)) {
                session.receive(0, piece, now_ns, &mut work.memory);
            }
            if closed || session.disconnect_wanted(0) {
                target.disconnect();
                session.on_disconnected(0, now_ns);
                open = false;
            }
        }
        if let Some(error) = session.status().last_error.filter(|error| errors.last() != Some(error)) {
            errors.push(error);
        }
        // Nothing moves: on to what happens next, by small steps.
        let idle = moved == 0 && work.is_over() || !open;
        now_ns += if idle { 10 * MS } else { MS };
        volume.poll(now_ns);
    }
    let status = volume.status();
    let run = Run { target, status, work, finished_ns, portals, errors };
    (run, volume)
}

impl Run {
    /// What is wrong with it.
    #[must_use]
    pub fn faults(&self, expected: &Expected) -> Vec<String> {
        let mut faults = self.target.faults.clone();
        faults.extend(self.work.faults(&self.target.disk));
        let connections = self.target.connections;
        match expected {
            Expected::Served { seconds, connections: wanted } => {
                if !self.work.failed.is_empty() {
                    faults.push(format!("requests failed: {:?}", self.work.failed));
                }
                match self.finished_ns {
                    None => faults.push(format!("{} requests were done, then no more", self.work.done)),
                    Some(at) if at > seconds * SECOND => {
                        faults.push(format!("it took {} ms", at / MS));
                    }
                    Some(_) => {}
                }
                if !wanted.contains(&connections) {
                    faults.push(format!("{connections} connections, not {wanted:?}"));
                }
            }
            Expected::Failed { requests } => {
                let medium = self.work.failed.iter().filter(|(_, error)| *error == BlockError::Medium);
                if self.finished_ns.is_none() || medium.count() != *requests {
                    faults.push(format!("{} were done, {:?} failed", self.work.done, self.work.failed));
                }
            }
            Expected::Stalled { words, connections: most } => {
                if self.work.done > 0 {
                    faults.push(format!("{} requests ended", self.work.done));
                }
                let said = self.status.last_error.unwrap_or_default();
                if !said.contains(words) || self.status.state == VolumeState::Ready {
                    faults.push(format!("{:?}, saying {said:?}", self.status.state));
                }
                if connections > *most || connections < 2 {
                    faults.push(format!("{connections} connections"));
                }
            }
        }
        faults
    }
}
