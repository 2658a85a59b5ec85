//! What an operator has done with a volume beside a guest's work: it is tried,
//! reserved or released, in use or not.
//!
//! A volume in use is asked through its own session. For another one a session is
//! made that ends with the maintenance operation; a reservation stays at the target.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use mgmt_proto::reason::{Reason, Refusal};
use mgmt_proto::units::mac_text;
use mgmt_proto::volume::VolumeFacts;
use storage::aoe::{Administration, Outcome};
use storage::iscsi::Reservation;
use storage::volume::{Volume, VolumeName};
use storage::{VolumeState, VolumeStatus};

use crate::guests::number::GuestNumber;
use crate::limits::DISCOVERY_TIMEOUT_NS;
use crate::network::stacks::Stacks;
use crate::volumes::connection::Connections;
use crate::volumes::{NoPayload, VolumeSettings, Volumes, status};

/// The share of a maintenance operation's session: beside those of all guests.
const SHARE: u16 = u16::MAX - 1;
/// How long a target that serves may take to answer questions that not every target
/// answers.
const QUESTIONS_NS: u64 = 500_000_000;
/// How long a login with a secret may be refused: targets that call an algorithm by
/// another's number are tried with the next one.
const REFUSED_NS: u64 = 2_000_000_000;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Log in, look, leave.
    Look,
    /// Reserve it for this node.
    Reserve {
        /// Another holder gives way.
        force: bool,
    },
    /// Give its reservation up.
    Release {
        /// Also another node's.
        force: bool,
    },
}

enum Subject {
    /// A session of its own.
    Own { volume: Box<Volume>, connections: Connections },
    /// The session of a guest's disk.
    Used { guest: GuestNumber, device: usize },
}

/// A maintenance operation under way.
pub(crate) struct MaintenanceOp {
    task: Task,
    name: VolumeName,
    settings: VolumeSettings,
    subject: Subject,
    deadline_ns: u64,
    /// Until when a refusal is not the last word.
    patient_until_ns: u64,
    /// When it was last looked at.
    looked_ns: u64,
    /// Since when the volume serves.
    ready_ns: Option<u64>,
    /// What an AoE target answered.
    outcomes: Vec<Outcome>,
    /// The holder that was made to give way.
    preempted: bool,
    /// The reservation is being given up.
    releasing: bool,
}

/// How a maintenance operation ended.
type Ended = Result<VolumeFacts, Refusal>;

impl MaintenanceOp {
    pub(crate) fn next_deadline(&self) -> u64 {
        let Subject::Own { volume, .. } = &self.subject else { return self.deadline_ns };
        let questions = self.ready_ns.map(|ready_ns| ready_ns.saturating_add(QUESTIONS_NS));
        // What is over has been looked at.
        let waits = [questions, Some(self.patient_until_ns)].into_iter().flatten();
        let next = waits.filter(|wait_ns| *wait_ns > self.looked_ns).chain(volume.next_deadline()).min();
        next.map_or(self.deadline_ns, |next_ns| next_ns.min(self.deadline_ns))
    }

    pub(crate) fn target(&mut self) -> Option<&mut storage::aoe::Target> {
        match &mut self.subject {
            Subject::Own { volume, .. } => match &mut **volume {
                Volume::Aoe(target) => Some(target),
                Volume::Iscsi(_) => None,
            },
            Subject::Used { .. } => None,
        }
    }

    fn conflict(&self, holder: &str) -> Refusal {
        Refusal::of(self.name.to_string(), Reason::ReservedElsewhere { holder: holder.into() })
    }

    fn storage_failure(&self, status: &VolumeStatus) -> Refusal {
        let detail = status.trouble().unwrap_or_else(|| String::from("does not answer"));
        Refusal::of(self.name.to_string(), Reason::VolumeSilent { detail })
    }

    fn unsupported(&self) -> Refusal {
        Refusal::of(self.name.to_string(), Reason::NoReservations)
    }

    /// What came of it, once it is known (AoE).
    fn judge_frames(&self, holders: &[[u8; 6]], own: &[[u8; 6]]) -> Result<(), Refusal> {
        let others: Vec<String> =
            holders.iter().filter(|mac| !own.contains(mac)).map(|mac| mac_text(*mac)).collect();
        match self.task {
            Task::Reserve { .. } if holders.iter().any(|mac| own.contains(mac)) => Ok(()),
            Task::Release { .. } if holders.is_empty() => Ok(()),
            Task::Look => Ok(()),
            _ => Err(self.conflict(&others.join(" "))),
        }
    }

    fn judge_frames_of(
        &mut self,
        target: &mut storage::aoe::Target,
        status: &VolumeStatus,
        own: &[[u8; 6]],
        now_ns: u64,
    ) -> Option<Result<(), Refusal>> {
        while let Some(outcome) = target.take_outcome() {
            self.outcomes.push(outcome);
        }
        if self.task == Task::Look {
            let asked_ns = self.ready_ns.map(|ready_ns| ready_ns.saturating_add(QUESTIONS_NS));
            let answered = self.outcomes.len() >= 2 || asked_ns.is_some_and(|until_ns| now_ns >= until_ns);
            return (status.state == VolumeState::Refused || answered).then_some(Ok(()));
        }
        match self.outcomes.pop()? {
            Outcome::Reservation(holders) => Some(self.judge_frames(&holders, own)),
            Outcome::Refused(why) if why.contains("reserved") => {
                Some(Err(self.conflict("see `redoubt storage probe`")))
            }
            Outcome::Refused(_) => Some(Err(self.unsupported())),
            Outcome::Config(_) | Outcome::Masks(_) => None,
        }
    }

    fn judge_session(
        &mut self,
        session: &mut storage::iscsi::Session,
        status: &VolumeStatus,
        key: u64,
        now_ns: u64,
    ) -> Option<Result<(), Refusal>> {
        let holder = session.holder();
        let taken = matches!(holder, Reservation::Held(other) if other != key);
        let patient = now_ns < self.patient_until_ns && (self.task == Task::Look || !taken);
        match (self.task, status.state) {
            (_, VolumeState::Refused) if patient => None,
            (Task::Look, VolumeState::Ready | VolumeState::Refused) => Some(Ok(())),
            (Task::Reserve { force } | Task::Release { force }, VolumeState::Refused) => match holder {
                Reservation::Held(other) if other != key && force && !self.preempted => {
                    self.preempted = true;
                    session.set_reservation(Some(key), Some(other));
                    None
                }
                Reservation::Held(other) if other != key && !self.preempted => {
                    Some(Err(self.conflict(&format!("key {other:#018x}"))))
                }
                Reservation::Held(other) if other != key => None,
                _ => Some(Err(self.storage_failure(status))),
            },
            (Task::Reserve { .. }, VolumeState::Ready) => match holder {
                Reservation::Held(other) if other == key => Some(Ok(())),
                Reservation::Unsupported => Some(Err(self.unsupported())),
                _ => None,
            },
            (Task::Release { .. }, VolumeState::Ready) if holder == Reservation::Unsupported => {
                Some(Err(self.unsupported()))
            }
            _ => None,
        }
    }
}

impl Volumes {
    /// Begins a maintenance operation: [`Self::take_maintenance`] tells what came of it.
    ///
    /// # Errors
    /// Another one is under way.
    pub fn begin_maintenance(
        &mut self,
        name: &VolumeName,
        task: Task,
        mut settings: VolumeSettings,
        now_ns: u64,
    ) -> Result<(), Refusal> {
        if self.maintenance.is_some() {
            return Err(Refusal::of(name.to_string(), Reason::ProbeBusy));
        }
        let used = self.bindings.iter().find(|it| it.name.is_same_disk(name) && !it.read_only);
        let used = used.filter(|_| task != Task::Look).map(|it| (it.guest, it.device));
        let deadline_ns = now_ns.saturating_add(DISCOVERY_TIMEOUT_NS);
        let subject = match used {
            Some((guest, device)) => {
                self.change_reservation(guest, device, task, now_ns);
                Subject::Used { guest, device }
            }
            None => {
                let own_key = self.reservation_key();
                let releases = matches!(task, Task::Release { .. });
                // What an earlier session of this node left behind is taken over first.
                settings.preempt = releases.then_some(own_key);
                settings.reserve = task != Task::Look && matches!(name, VolumeName::Iscsi { .. });
                settings.deadline_ns = None;
                let mut volume = self.session(name, SHARE, task == Task::Look, &settings, now_ns);
                if let Volume::Aoe(target) = &mut volume {
                    for question in questions(task, &self.stations()) {
                        let _ = target.administer(question);
                    }
                }
                Subject::Own { volume: Box::new(volume), connections: Connections::questions() }
            }
        };
        let (name, outcomes) = (name.clone(), Vec::new());
        let patience_ns = if settings.credentials.is_some() { REFUSED_NS } else { 0 };
        self.maintenance = Some(MaintenanceOp {
            task,
            name,
            settings,
            subject,
            deadline_ns,
            patient_until_ns: now_ns.saturating_add(patience_ns),
            looked_ns: now_ns,
            ready_ns: None,
            outcomes,
            preempted: false,
            releasing: false,
        });
        Ok(())
    }

    /// A volume in use gets or gives up its reservation.
    fn change_reservation(&mut self, guest: GuestNumber, device: usize, task: Task, now_ns: u64) {
        let (key, own) = (self.reservation_key(), self.stations());
        let Some(mut settings) = self.settings(guest, device).cloned() else { return };
        let found = self.binding_mut(guest, device);
        let Some(binding) = found else { return };
        let reserve = matches!(task, Task::Reserve { .. });
        let force = matches!(task, Task::Reserve { force: true } | Task::Release { force: true });
        settings.reserve = reserve;
        match &mut binding.volume {
            Volume::Iscsi(session) => {
                if let Reservation::Held(other) = session.holder()
                    && other != key
                    && force
                {
                    settings.preempt = Some(other);
                }
            }
            Volume::Aoe(target) => {
                for question in questions(task, &own) {
                    let _ = target.administer(question);
                }
            }
        }
        self.configure(guest, device, settings, now_ns);
    }

    /// How a maintenance operation ended, once it has.
    pub fn take_maintenance(&mut self, stacks: &mut Stacks, now_ns: u64) -> Option<Ended> {
        let mut maintenance = self.maintenance.take()?;
        let (key, own) = (self.reservation_key(), self.stations());
        maintenance.looked_ns = now_ns;
        let ended = match &mut maintenance.subject {
            Subject::Own { .. } => self.judge_own(&mut maintenance, now_ns, key, &own),
            Subject::Used { guest, device } => {
                let (guest, device) = (*guest, *device);
                self.judge_used(&mut maintenance, guest, device, now_ns, key, &own)
            }
        };
        let ended =
            ended.or_else(|| (now_ns >= maintenance.deadline_ns).then(|| self.too_late(&maintenance)));
        let Some(ended) = ended else {
            self.maintenance = Some(maintenance);
            return None;
        };
        let facts = self.facts_of(&maintenance);
        self.finish(maintenance, stacks, now_ns);
        Some(ended.and(facts))
    }

    /// Ends a maintenance operation that only looks, and whose caller no longer waits.
    pub fn cancel_maintenance(&mut self, stacks: &mut Stacks, now_ns: u64) {
        if let Some(maintenance) = self.maintenance.take_if(|maintenance| maintenance.task == Task::Look) {
            self.finish(maintenance, stacks, now_ns);
        }
    }

    fn judge_own(
        &self,
        maintenance: &mut MaintenanceOp,
        now_ns: u64,
        key: u64,
        own: &[[u8; 6]],
    ) -> Option<Result<(), Refusal>> {
        // The maintenance operation and its session are looked at side by side.
        let idle = Subject::Used { guest: GuestNumber::default(), device: 0 };
        let mut subject = core::mem::replace(&mut maintenance.subject, idle);
        let mut ended = None;
        if let Subject::Own { volume, .. } = &mut subject {
            let status = volume.status();
            if status.state == VolumeState::Ready {
                maintenance.ready_ns.get_or_insert(now_ns);
            }
            ended = match &mut **volume {
                Volume::Aoe(target) => maintenance.judge_frames_of(target, &status, own, now_ns),
                Volume::Iscsi(session) => {
                    let releases = matches!(maintenance.task, Task::Release { .. });
                    if maintenance.releasing {
                        session.is_closed().then_some(Ok(()))
                    } else if releases
                        && status.state == VolumeState::Ready
                        && session.holder() != Reservation::Unsupported
                    {
                        session.close();
                        maintenance.releasing = true;
                        None
                    } else {
                        maintenance.judge_session(session, &status, key, now_ns)
                    }
                }
            };
        }
        maintenance.subject = subject;
        ended
    }

    fn judge_used(
        &mut self,
        maintenance: &mut MaintenanceOp,
        guest: GuestNumber,
        device: usize,
        now_ns: u64,
        key: u64,
        own: &[[u8; 6]],
    ) -> Option<Result<(), Refusal>> {
        let found = self.binding_mut(guest, device);
        let Some(binding) = found else {
            let gone = Reason::GuestGone { why: "has gone".into() };
            return Some(Err(Refusal::of(maintenance.name.to_string(), gone)));
        };
        match &mut binding.volume {
            Volume::Aoe(target) => maintenance.judge_frames_of(target, &target.status(), own, 0),
            Volume::Iscsi(session) => {
                let status = session.status();
                let released = matches!(session.holder(), Reservation::Free | Reservation::Held(_))
                    && session.holder() != Reservation::Held(key);
                if matches!(maintenance.task, Task::Release { .. }) {
                    return (status.state == VolumeState::Ready && released).then_some(Ok(()));
                }
                maintenance.judge_session(session, &status, key, now_ns)
            }
        }
    }

    fn too_late(&self, maintenance: &MaintenanceOp) -> Result<(), Refusal> {
        let name = maintenance.name.to_string();
        match &maintenance.subject {
            Subject::Own { .. } if maintenance.task == Task::Look => Ok(()),
            Subject::Own { volume, .. } if volume.ready_capacity().is_some() && !maintenance.releasing => {
                Err(maintenance.unsupported())
            }
            Subject::Own { volume, .. } => Err(maintenance.storage_failure(&volume.status())),
            Subject::Used { .. } => Err(Refusal::of(name, Reason::TargetPending)),
        }
    }

    fn facts_of(&self, maintenance: &MaintenanceOp) -> Ended {
        let name = &maintenance.name;
        let Subject::Own { volume, connections } = &maintenance.subject else {
            let Subject::Used { guest, device } = maintenance.subject else {
                return Err(maintenance.unsupported());
            };
            return self.volume_facts(guest, device).ok_or_else(|| maintenance.unsupported());
        };
        let mut facts = status::volume_facts(name, true, &maintenance.settings, &volume.status());
        self.name_cards(&mut facts, connections);
        for outcome in &maintenance.outcomes {
            let (key, value) = match outcome {
                Outcome::Config(string) => ("ConfigString", String::from_utf8_lossy(string).into_owned()),
                Outcome::Masks(stations) => ("Masks", macs(stations)),
                Outcome::Reservation(holders) => ("Reservation", macs(holders)),
                Outcome::Refused(why) => ("Refused", (*why).to_string()),
            };
            facts.negotiated.retain(|(known, _)| known != key);
            facts.negotiated.push((key.to_string(), value));
        }
        Ok(facts)
    }

    fn finish(&mut self, maintenance: MaintenanceOp, stacks: &mut Stacks, now_ns: u64) {
        let Subject::Own { volume, connections } = maintenance.subject else { return };
        if maintenance.task == Task::Look {
            return self.begin_logout(maintenance.name, SHARE, *volume, connections, false, stacks, now_ns);
        }
        // A goodbye would give up what was reserved.
        connections.abort(stacks, now_ns);
    }

    pub(crate) fn drive_maintenance(&mut self, stacks: &mut Stacks, now_ns: u64) {
        let Some(MaintenanceOp { subject: Subject::Own { volume, connections }, .. }) = &mut self.maintenance
        else {
            return;
        };
        volume.poll(now_ns);
        if let Volume::Iscsi(session) = &mut **volume {
            connections.drive(session, stacks, &mut NoPayload, (&mut self.pace, now_ns));
        }
    }
}

fn macs(list: &[[u8; 6]]) -> String {
    if list.is_empty() {
        return String::from("none");
    }
    list.iter().map(|mac| mac_text(*mac)).collect::<Vec<_>>().join(" ")
}

/// What an AoE target is asked.
fn questions(task: Task, own: &[[u8; 6]]) -> Vec<Administration> {
    match task {
        Task::Look => vec![Administration::ReadReservation, Administration::ReadConfig],
        Task::Reserve { force: false } => vec![Administration::Reserve(own.to_vec())],
        Task::Reserve { force: true } => vec![Administration::ForceReserve(own.to_vec())],
        Task::Release { force: false } => vec![Administration::Reserve(Vec::new())],
        Task::Release { force: true } => vec![Administration::ForceReserve(Vec::new())],
    }
}
