//! What operators ask, carried out.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use hv_abi::previous::{LOG_NOW, LOG_PREVIOUS};
use mgmt_proto::audit::{self, Result as Recorded};
use mgmt_proto::bundle::Lacks;
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::disk::GuestSettings;
use mgmt_proto::limits::{DIGESTS, STREAM_BYTES};
use mgmt_proto::machine::{Digest, Machine};
use mgmt_proto::trust::{Role, is_rescue};
use mgmt_proto::verb::{Discover, Fault, Outcome, Reply, Request, Stream};

use crate::guests::guest::Life;
use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::operators::jobs::{Asker, Work};
use crate::operators::sessions::Command;

/// How long the machine goes on after it was told to stop, for the answer to arrive.
const STOP_DELAY_NS: u64 = 200_000_000;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Carries a verified command out, records it and answers it, now or later.
    pub(crate) fn execute(&mut self, command: Command, now_ns: u64) {
        let Command { asker, request, role, asked } = command;
        let session = asker.session;
        if let Some(failure) = self.refusal(&asker, &request, role, asked.is_some(), now_ns) {
            let code = failure.code;
            self.sessions.answer(session, &Err(failure));
            if let Some(asked) = &asked {
                self.audit.refuse(asked, code, now_ns);
            }
            return;
        }
        let changed = request.changes().then(|| changed_by(&request));
        // Whoever reads the record must find what ended the node, or dom0.
        if let (Request::NodeStop { .. } | Request::InjectFault(_), Some(asked)) = (&request, &asked) {
            self.audit.record(asked, Recorded::Accepted, now_ns);
            self.carry_out(&asker, request, role, now_ns);
            return;
        }
        let with_effect = audit::codes_with_effect(&request);
        let result = self.carry_out(&asker, request, role, now_ns);
        match (&asked, result) {
            (Some(asked), Recorded::Failed(code)) if !with_effect.contains(&code) => {
                self.audit.refuse(asked, code, now_ns);
            }
            (Some(asked), result) => self.audit.record(asked, result, now_ns),
            (None, _) => {}
        }
        if let Some(guests) = changed
            && !matches!(result, Recorded::Failed(_))
        {
            self.revisions.note(&guests, self.audit.end());
        }
    }

    /// Why nothing is done, if that is known before anything is.
    fn refusal(
        &mut self,
        asker: &Asker,
        request: &Request,
        role: Role,
        is_recorded: bool,
        now_ns: u64,
    ) -> Option<Failure> {
        let overtaken = self.overtaken(asker.session, request);
        let lacks = self.trust.permits(&asker.operator, request).err();
        if let Some(Lacks::Role(needed)) = lacks {
            return Some(role_missing(needed, role));
        }
        if let Some(failure) = self.barred(request) {
            return Some(failure);
        }
        if lacks == Some(Lacks::Guest) {
            return Some(not_yours(request.guest().unwrap_or_default()));
        }
        if is_recorded {
            self.audit.ensure(&mut self.hypervisor);
            let room = self.audit.check_room(self.history_waiting(), is_rescue(request));
            if let Err(failure) = room {
                return Some(failure);
            }
        }
        overtaken.or_else(|| self.room_for_job(request, now_ns).err())
    }

    /// Why a change is not made, if it supposes what is so no longer.
    fn overtaken(&mut self, session: usize, request: &Request) -> Option<Failure> {
        if !request.changes() {
            return None;
        }
        let (of, expected) = self.sessions.take_expected(session)?;
        self.revisions.check(of.as_deref(), expected).err()
    }

    fn carry_out(&mut self, asker: &Asker, request: Request, role: Role, now_ns: u64) -> Recorded {
        let session = asker.session;
        let outcome = match request {
            Request::BlobPut { digest, length } => self.begin_blob(asker, digest, length, now_ns),
            Request::BlobResume { digest, length } => self.resume_blob(asker, digest, length, now_ns),
            Request::Create { machine, paused } => {
                match self.create(asker, machine, GuestSettings::default(), paused, now_ns) {
                    Ok(()) => return Recorded::Accepted,
                    Err(failure) => Err(failure),
                }
            }
            Request::CreateWith { machine, settings, paused } => {
                match self.create(asker, machine, settings, paused, now_ns) {
                    Ok(()) => return Recorded::Accepted,
                    Err(failure) => Err(failure),
                }
            }
            Request::StorageDiscover(discover) => match self.discover(&discover, now_ns) {
                Ok(()) => {
                    self.begin_work(asker, Work::Discovery, now_ns);
                    return Recorded::Accepted;
                }
                Err(failure) => Err(failure),
            },
            Request::StorageProbe { .. }
            | Request::StorageReserve { .. }
            | Request::StorageRelease { .. }
            | Request::BlockAttach { .. }
            | Request::BlockDetach { .. } => match self.begin(asker, request, now_ns) {
                Ok(()) => return Recorded::Accepted,
                Err(failure) => Err(failure),
            },
            Request::TrustUpdate { .. }
            | Request::Lockdown
            | Request::Autostart { .. }
            | Request::CreateKept { .. }
            | Request::NodeKeyRotate
            | Request::Rename { .. }
            | Request::ConfigImport { .. } => match self.begin_keeping(asker, request, now_ns) {
                None => return Recorded::Accepted,
                Some(outcome) => outcome,
            },
            Request::ConsoleWrite { name, bytes } => self.type_on_console(session, &name, &bytes, now_ns),
            Request::Limit { name, slot, limits } => match self.limit(asker, &name, slot, &limits, now_ns) {
                None => return Recorded::Accepted,
                Some(outcome) => outcome,
            },
            Request::Start { name } => match self.start_guest(asker, &name, now_ns) {
                Ok(()) => return Recorded::Accepted,
                Err(failure) => Err(failure),
            },
            Request::JobWait { id, every_ms } => match self.wait_for_job(asker, id, every_ms, now_ns) {
                None => return Recorded::Accepted,
                Some(outcome) => outcome,
            },
            Request::JobCancel { id } => self.cancel_job(asker, role, id, now_ns),
            Request::Revision { of, expected } => self.revision(session, of, expected),
            Request::Progress { every_ms } => {
                self.sessions.tell_of_own(session, every_ms);
                Ok(Reply::Done)
            }
            other => self.answer_now(other, now_ns),
        };
        self.sessions.answer(session, &outcome);
        outcome.map_or_else(|failure| Recorded::Failed(failure.code), |_| Recorded::Done)
    }

    fn revision(&mut self, session: usize, of: Option<String>, expected: Option<u64>) -> Outcome {
        let revision = self.revisions.of(of.as_deref());
        if let Some(expected) = expected {
            self.revisions.check(of.as_deref(), expected)?;
            self.sessions.expect(session, of, expected);
        }
        Ok(Reply::Revision(revision))
    }

    fn answer_now(&mut self, request: Request, now_ns: u64) -> Outcome {
        match request {
            Request::NodeInfo => Ok(Reply::Node(Box::new(self.node_facts(now_ns)))),
            Request::NodeLog { from } => Ok(Reply::Stream(self.read_log(LOG_NOW, from))),
            Request::PreviousLog { from } => Ok(Reply::Stream(self.read_log(LOG_PREVIOUS, from))),
            Request::NodeStop { power_off } => {
                self.stopping.get_or_insert((power_off, now_ns.saturating_add(STOP_DELAY_NS)));
                Ok(Reply::Done)
            }
            Request::BlobMissing(digests) => self.missing(digests, now_ns),
            Request::Check(machine) => {
                self.check_machine(&machine, &GuestSettings::default()).map(|()| Reply::Done)
            }
            Request::CheckWith { machine, settings } => {
                self.check_machine(&machine, &settings).map(|()| Reply::Done)
            }
            Request::StorageShow { volume, from } => self.show_volumes(volume.as_deref(), from, now_ns),
            Request::StoragePath { volume, path, enabled } => self.use_path(&volume, path, enabled),
            Request::BlockList { name } => self.list_disks(&name),
            Request::List => Ok(Reply::Guests(
                (0..self.guests.len()).filter_map(|index| self.guest_facts(index)).collect(),
            )),
            Request::Info { name } => {
                let index = self.find(&name)?;
                Ok(Reply::Guests(self.guest_facts(index).into_iter().collect()))
            }
            Request::InjectFault(fault) => self.inject_fault(fault),
            Request::TrustShow => Ok(Reply::Trust(self.trust.bundle().clone())),
            Request::AuditRead { from } => {
                Ok(Reply::Audit(self.audit.page(from, self.history_shown(), &self.identity)))
            }
            Request::RefusalsRead { from } => {
                Ok(Reply::Audit(self.audit.refusals_page(from, &self.identity)))
            }
            Request::StateShow => Ok(Reply::State(self.state_facts())),
            Request::NodeKeys => Ok(Reply::NodeKeys(self.key_links.clone())),
            Request::NodeCards => Ok(Reply::NodeCards(self.card_facts())),
            Request::GuestShow { name } => self.show_guest(&name),
            Request::Traffic => Ok(Reply::Traffic(self.traffic())),
            Request::JobList => Ok(Reply::Jobs(self.list_jobs(now_ns))),
            Request::Capture { name, from, snap_bytes } => self.read_capture(&name, from, snap_bytes, now_ns),
            Request::ConfigExport { from } => self.export_config(from),
            other => self.act_on_guest(other, now_ns),
        }
    }

    fn missing(&mut self, mut digests: Vec<Digest>, now_ns: u64) -> Outcome {
        if digests.len() > DIGESTS {
            let message = alloc::format!("asks for {} files; {DIGESTS} at once are possible", digests.len());
            return Err(Failure::new(Code::Usage, "", message, "ask in several requests"));
        }
        for digest in &digests {
            self.blobs.touch(digest, now_ns);
        }
        digests.retain(|digest| self.blobs.find(digest).is_none());
        Ok(Reply::Missing(digests))
    }

    fn act_on_guest(&mut self, request: Request, now_ns: u64) -> Outcome {
        let name = match &request {
            Request::ConsoleRead { name, .. }
            | Request::Pause { name }
            | Request::Unpause { name }
            | Request::Shutdown { name }
            | Request::Reboot { name }
            | Request::Destroy { name } => name.clone(),
            _ => return Err(Failure::new(Code::Internal, "", "a request without a handler", "report this")),
        };
        let index = self.find(&name)?;
        if let Request::Destroy { .. } = request {
            self.forget(index, now_ns);
            return Ok(Reply::Done);
        }
        if let Request::Reboot { .. } = request {
            self.restart(index, now_ns);
            return Ok(Reply::Done);
        }
        let guest = self.guests.get_mut(index).ok_or_else(|| not_found(&name))?;
        match request {
            Request::ConsoleRead { from, .. } => {
                let mut bytes = vec![0; STREAM_BYTES];
                let (count, next) = guest.console.read(from, &mut bytes);
                bytes.truncate(count);
                Ok(Reply::Stream(Stream { bytes, next }))
            }
            Request::Pause { .. } => guest.pause(&mut self.hypervisor).map(|()| Reply::Done),
            Request::Unpause { .. } => guest.unpause(&mut self.hypervisor).map(|()| Reply::Done),
            Request::Shutdown { .. } => match guest.life {
                Life::Started if guest.has_devices() => {
                    guest.platform.press_power_button();
                    Ok(Reply::Done)
                }
                _ => Err(Failure::new(Code::Conflict, &name, "is not running", "unpause or destroy it")),
            },
            _ => Err(Failure::new(Code::Internal, &name, "a request without a handler", "report this")),
        }
    }

    pub(crate) fn find(&self, name: &str) -> Result<usize, Failure> {
        self.guests.iter().position(|guest| guest.machine.name == name).ok_or_else(|| not_found(name))
    }

    fn create(
        &mut self,
        asker: &Asker,
        machine: Machine,
        settings: GuestSettings,
        paused: bool,
        now_ns: u64,
    ) -> Result<(), Failure> {
        let number = self.accept(machine, settings, paused, now_ns)?;
        self.begin_work(asker, Work::Guest(number), now_ns);
        Ok(())
    }

    fn discover(&mut self, discover: &Discover, now_ns: u64) -> Result<(), Failure> {
        match discover {
            Discover::Aoe => self.volumes.discover_aoe(now_ns),
            Discover::Iscsi(portal) => self.volumes.discover_iscsi(portal, &[], now_ns),
            Discover::IscsiAs(portal, settings) => self.volumes.discover_iscsi(portal, settings, now_ns),
        }
    }

    /// Answers those who wait for a discovery that has ended.
    pub(crate) fn settle_discovery(&mut self, now_ns: u64) {
        let Some(outcome) = self.volumes.take_discovered(&mut self.network.stacks, now_ns) else { return };
        self.end_work(&Work::Discovery, &outcome.map(Reply::Found), now_ns);
    }

    /// Fails on purpose, where the owner sealed that it may. A hypervisor that
    /// contains the fault is what this shows.
    #[expect(clippy::panic, reason = "a panic is what was asked for")]
    fn inject_fault(&mut self, fault: Fault) -> Outcome {
        if !self.settings.manifest.fault_injection {
            let remedy = "seal an image with fault_injection = true";
            return Err(Failure::new(Code::Policy, "", "this node does not fail on request", remedy));
        }
        match fault {
            Fault::Panic => panic!("an operator asked for a panic"),
            Fault::Access => self.hypervisor.wild_access(),
            Fault::Hang => loop {
                core::hint::spin_loop();
            },
            Fault::HypervisorPanic => self.hypervisor.break_hypervisor(false),
            Fault::HypervisorHang => self.hypervisor.break_hypervisor(true),
        }
        Ok(Reply::Done)
    }
}

/// The guests that a request is about.
fn changed_by(request: &Request) -> Vec<String> {
    let other = if let Request::Rename { to, .. } = request { Some(to.as_str()) } else { None };
    request.guest().into_iter().chain(other).map(String::from).collect()
}

/// The answer to whom the role for it is missing.
pub(crate) fn role_missing(needed: Role, role: Role) -> Failure {
    let message = alloc::format!("needs the role {needed:?}, this key has {role:?}");
    Failure::new(Code::Refused, "", message, "ask the owner for another role")
}

/// The answer to whose grant does not cover a guest.
pub(crate) fn not_yours(guest: &str) -> Failure {
    let remedy = "ask the owner for a grant that covers it";
    Failure::new(Code::Refused, guest, "this key may not touch this guest", remedy)
}

pub(crate) fn not_found(name: &str) -> Failure {
    Failure::new(Code::NotFound, name, "no guest has that name", String::from("see `redoubt list`"))
}
