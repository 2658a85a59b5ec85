//! What operators ask, carried out.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use hv_abi::previous::{LOG_NOW, LOG_PREVIOUS};
use mgmt_proto::audit::{Log, Result as Recorded};
use mgmt_proto::bundle::Lacks;
use mgmt_proto::disk::GuestSettings;
use mgmt_proto::limits::{DIGESTS, STREAM_BYTES};
use mgmt_proto::machine::{Digest, Machine};
use mgmt_proto::reason::{Reason, Refusal};
use mgmt_proto::role::Role;
use mgmt_proto::verb::{Discover, Fault, Outcome, Reply, Request, Run, Stream};

use crate::guests::guest::RunState;
use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::operators::jobs::{Asker, Work};
use crate::operators::sessions::Command;
use crate::volumes::Task;

/// How long the machine goes on after it was told to stop, for the answer to arrive.
const STOP_DELAY_NS: u64 = 200_000_000;

/// What a handler returns.
enum Handled {
    /// The answer.
    Now(Outcome),
    /// A job was begun, which answers.
    Later,
}

impl From<Reply> for Handled {
    fn from(reply: Reply) -> Self {
        Self::Now(Ok(reply))
    }
}

impl From<Outcome> for Handled {
    fn from(outcome: Outcome) -> Self {
        Self::Now(outcome)
    }
}

/// Nothing is answered until a job ends.
impl From<Option<Outcome>> for Handled {
    fn from(outcome: Option<Outcome>) -> Self {
        outcome.map_or(Self::Later, Self::Now)
    }
}

/// A job was begun, or not.
impl From<Result<(), Refusal>> for Handled {
    fn from(begun: Result<(), Refusal>) -> Self {
        begun.map_or_else(|failure| Self::Now(Err(failure)), |()| Self::Later)
    }
}

const fn log_of(run: Run) -> u64 {
    match run {
        Run::Current => LOG_NOW,
        Run::Previous => LOG_PREVIOUS,
    }
}

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Carries a verified command out, records it and answers it, now or later.
    pub(crate) fn execute(&mut self, command: Command, now_ns: u64) {
        let Command { asker, request, role, asked } = command;
        let session = asker.session;
        if let Some(failure) = self.refusal(&asker, &request, role, asked.is_some(), now_ns) {
            let code = failure.code();
            self.operators.sessions.answer(session, &Err(failure));
            if let Some(asked) = &asked {
                self.operators.audit.refuse(asked, code, now_ns);
            }
            return;
        }
        let changed = request.changes().then(|| changed_by(&request));
        // A reader of the record must find what ended the node, or dom0.
        if let (Request::NodeStop { .. } | Request::InjectFault(_), Some(asked)) = (&request, &asked) {
            self.operators.audit.record(asked, Recorded::Accepted, now_ns);
            self.carry_out(&asker, request, role, now_ns);
            return;
        }
        let with_effect = request.verb().codes_with_effect();
        let result = self.carry_out(&asker, request, role, now_ns);
        match (&asked, result) {
            (Some(asked), Recorded::Failed(code)) if !with_effect.contains(&code) => {
                self.operators.audit.refuse(asked, code, now_ns);
            }
            (Some(asked), result) => self.operators.audit.record(asked, result, now_ns),
            (None, _) => {}
        }
        if let Some(guests) = changed
            && !matches!(result, Recorded::Failed(_))
        {
            self.operators.revisions.note(&guests, self.operators.audit.end());
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
    ) -> Option<Refusal> {
        let overtaken = self.operators.overtaken(asker.session, request);
        let lacks = self.trust.bundles.permits(&asker.operator, request).err();
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
            self.operators.audit.ensure(&mut self.hypervisor);
            let room = self.operators.audit.check_room(self.history_waiting(), request.verb().is_rescue());
            if let Err(failure) = room {
                return Some(failure);
            }
        }
        overtaken.or_else(|| self.operators.room_for_job(request, now_ns).err())
    }

    fn carry_out(&mut self, asker: &Asker, request: Request, role: Role, now_ns: u64) -> Recorded {
        match self.dispatch(asker, request, role, now_ns) {
            Handled::Later => Recorded::Accepted,
            Handled::Now(outcome) => {
                self.operators.sessions.answer(asker.session, &outcome);
                outcome.map_or_else(|failure| Recorded::Failed(failure.code()), |_| Recorded::Done)
            }
        }
    }

    /// Each request to its handler.
    fn dispatch(&mut self, asker: &Asker, request: Request, role: Role, now_ns: u64) -> Handled {
        use Request as R;
        let session = asker.session;
        match request {
            R::NodeInfo => Reply::Node(Box::new(self.node_facts(now_ns))).into(),
            R::NodeLog { run, from } => Reply::Stream(self.read_log(log_of(run), from)).into(),
            R::NodeCards => Reply::NodeCards(self.card_facts()).into(),
            R::NodeStop { power_off } => self.stop(power_off, now_ns).into(),
            R::InjectFault(fault) => self.inject_fault(fault).into(),
            R::NodeKeys => Reply::NodeKeys(self.keys.links.clone()).into(),
            R::NodeKeyRotate => self.rotate_key(asker, now_ns).into(),
            R::TrustShow => Reply::Trust(self.trust.bundles.bundle().clone()).into(),
            R::TrustUpdate { signed } => self.update_trust(asker, &signed, now_ns).into(),
            R::Lockdown => self.lock_down(asker, now_ns).into(),
            R::AuditRead { log, from } => self.read_audit(log, from).into(),
            R::Revision { of, expected } => self.revision(session, of, expected).into(),
            R::StateShow => Reply::State(self.state_facts()).into(),
            R::ConfigExport { from } => self.export_config(from).into(),
            R::ConfigImport { digest } => self.import_config(asker, &digest, now_ns).into(),
            R::JobList => Reply::Jobs(self.list_jobs(now_ns)).into(),
            R::JobWait { id, every_ms } => self.wait_for_job(asker, id, every_ms, now_ns).into(),
            R::JobCancel { id } => self.cancel_job(asker, role, id, now_ns).into(),
            R::Progress { every_ms } => self.follow_own_jobs(session, every_ms).into(),
            R::StorageDiscover(discover) => self.discover(asker, &discover, now_ns).into(),
            R::StorageShow { volume, from } => self.show_volumes(volume.as_deref(), from, now_ns).into(),
            R::StorageProbe { volume, settings } => {
                self.begin_maintenance(asker, Task::Look, volume, &settings, now_ns).into()
            }
            R::StorageReserve { volume, settings, force } => {
                self.begin_maintenance(asker, Task::Reserve { force }, volume, &settings, now_ns).into()
            }
            R::StorageRelease { volume, settings, force } => {
                self.begin_maintenance(asker, Task::Release { force }, volume, &settings, now_ns).into()
            }
            R::StoragePath { volume, path, enabled } => self.use_path(&volume, path, enabled).into(),
            R::BlobMissing(digests) => self.missing(digests, now_ns).into(),
            R::BlobPut { digest, length, resume } => {
                self.put_blob(asker, digest, length, resume, now_ns).into()
            }
            R::List => self.list().into(),
            R::Info { name } => self.info(&name).into(),
            R::GuestShow { name } => self.show_guest(&name).into(),
            R::Traffic => Reply::Traffic(self.traffic()).into(),
            R::Check { machine, settings } => self.check(&machine, &settings).into(),
            R::Create { machine, settings, paused, autostart } => {
                self.create(asker, (machine, settings), paused, autostart, now_ns).into()
            }
            R::Start { name } => self.start_guest(asker, &name, now_ns).into(),
            R::Autostart { name, order } => self.set_autostart(asker, &name, order, now_ns).into(),
            R::Pause { name } => self.pause(&name).into(),
            R::Unpause { name } => self.unpause(&name).into(),
            R::Shutdown { name } => self.press_power_button(&name).into(),
            R::Reboot { name } => self.reboot(&name, now_ns).into(),
            R::Destroy { name } => self.destroy(&name, now_ns).into(),
            R::Rename { name, to } => self.rename(asker, &name, &to, now_ns).into(),
            R::Limit { name, slot, limits } => self.limit(asker, &name, slot, &limits, now_ns).into(),
            R::BlockList { name } => self.list_disks(&name).into(),
            R::BlockAttach { name, disk, settings } => {
                self.attach_disk(asker, &name, disk, settings, now_ns).into()
            }
            R::BlockDetach { name, slot, force } => {
                self.detach_disk(asker, &name, slot, force, now_ns).into()
            }
            R::ConsoleRead { name, from } => self.read_console(&name, from).into(),
            R::ConsoleWrite { name, bytes } => self.type_on_console(session, &name, &bytes, now_ns).into(),
            R::Capture { name, from, snap_bytes } => {
                self.read_capture(&name, from, snap_bytes, now_ns).into()
            }
        }
    }

    fn revision(&mut self, session: usize, of: Option<String>, expected: Option<u64>) -> Outcome {
        let revision = self.operators.revisions.of(of.as_deref());
        if let Some(expected) = expected {
            self.operators.revisions.check(of.as_deref(), expected)?;
            self.operators.sessions.expect(session, of, expected);
        }
        Ok(Reply::Revision(revision))
    }

    fn follow_own_jobs(&mut self, session: usize, every_ms: u32) -> Outcome {
        self.operators.sessions.set_own_progress_interval(session, every_ms);
        Ok(Reply::Done)
    }

    fn stop(&mut self, power_off: bool, now_ns: u64) -> Outcome {
        self.stopping.get_or_insert((power_off, now_ns.saturating_add(STOP_DELAY_NS)));
        Ok(Reply::Done)
    }

    fn read_audit(&self, log: Log, from: u64) -> Outcome {
        Ok(Reply::Audit(match log {
            Log::Effects => self.operators.audit.page(from, self.history_shown(), &self.keys.identity),
            Log::Refusals => self.operators.audit.refusals_page(from, &self.keys.identity),
        }))
    }

    fn list(&mut self) -> Outcome {
        let facts = (0..self.guests.list.len()).filter_map(|index| self.guest_facts(index));
        Ok(Reply::Guests(facts.collect()))
    }

    fn info(&mut self, name: &str) -> Outcome {
        let index = self.guests.find(name)?;
        Ok(Reply::Guests(self.guest_facts(index).into_iter().collect()))
    }

    fn check(&mut self, machine: &Machine, settings: &GuestSettings) -> Outcome {
        self.check_machine(machine, settings).map(|()| Reply::Done)
    }

    fn missing(&mut self, mut digests: Vec<Digest>, now_ns: u64) -> Outcome {
        if digests.len() > DIGESTS {
            let (found, most) = (digests.len() as u64, DIGESTS as u64);
            return Err(Refusal::of("", Reason::TooManyDigests { found, most }));
        }
        for digest in &digests {
            self.blobs.touch(digest, now_ns);
        }
        digests.retain(|digest| self.blobs.find(digest).is_none());
        Ok(Reply::Missing(digests))
    }

    fn read_console(&mut self, name: &str, from: u64) -> Outcome {
        let guest = self.guests.named_mut(name)?;
        let mut bytes = vec![0; STREAM_BYTES];
        let (count, next) = guest.console.read(from, &mut bytes);
        bytes.truncate(count);
        Ok(Reply::Stream(Stream { bytes, next }))
    }

    fn pause(&mut self, name: &str) -> Outcome {
        self.guests.named_mut(name)?.pause(&mut self.hypervisor).map(|()| Reply::Done)
    }

    fn unpause(&mut self, name: &str) -> Outcome {
        self.guests.named_mut(name)?.unpause(&mut self.hypervisor).map(|()| Reply::Done)
    }

    fn press_power_button(&mut self, name: &str) -> Outcome {
        let guest = self.guests.named_mut(name)?;
        if guest.life != RunState::Started || !guest.has_devices() {
            return Err(Refusal::of(name, Reason::NotRunning));
        }
        guest.platform.press_power_button();
        Ok(Reply::Done)
    }

    fn reboot(&mut self, name: &str, now_ns: u64) -> Outcome {
        let index = self.guests.find(name)?;
        self.restart(index, now_ns);
        Ok(Reply::Done)
    }

    fn destroy(&mut self, name: &str, now_ns: u64) -> Outcome {
        let index = self.guests.find(name)?;
        self.forget(index, now_ns);
        Ok(Reply::Done)
    }

    fn create(
        &mut self,
        asker: &Asker,
        (machine, settings): (Machine, GuestSettings),
        paused: bool,
        autostart: Option<u32>,
        now_ns: u64,
    ) -> Result<(), Refusal> {
        if let Some(order) = autostart {
            self.check_autostart(&machine, &settings, order)?;
        }
        let number = self.accept(machine, settings, paused, now_ns)?;
        if let Some(guest) = self.guests.list.iter_mut().find(|guest| guest.number == number) {
            guest.keep = autostart;
        }
        self.operators.begin_work(asker, Work::Guest(number), now_ns);
        Ok(())
    }

    fn discover(&mut self, asker: &Asker, discover: &Discover, now_ns: u64) -> Result<(), Refusal> {
        match discover {
            Discover::Aoe => self.volumes.discover_aoe(now_ns),
            Discover::Iscsi { portal, settings } => self.volumes.discover_iscsi(portal, settings, now_ns),
        }?;
        self.operators.begin_work(asker, Work::Discovery, now_ns);
        Ok(())
    }

    /// Answers those who wait for a discovery that has ended.
    pub(crate) fn poll_discovery(&mut self, now_ns: u64) {
        let Some(outcome) = self.volumes.take_discovered(&mut self.network.stacks, now_ns) else { return };
        self.end_work(&Work::Discovery, &outcome.map(Reply::Found), now_ns);
    }

    /// Fails on purpose, where the owner sealed that it may. A hypervisor that
    /// contains the fault is what this shows.
    #[expect(clippy::panic, reason = "a panic is what was asked for")]
    fn inject_fault(&mut self, fault: Fault) -> Outcome {
        if !self.settings.manifest.fault_injection {
            let name = self.settings.manifest.name.clone();
            return Err(Refusal::of(name, Reason::FaultInjectionOff));
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
pub(crate) fn role_missing(needed: Role, role: Role) -> Refusal {
    Refusal::of("", Reason::RoleMissing { needed, found: role })
}

/// The answer to whose grant does not cover a guest.
pub(crate) fn not_yours(guest: &str) -> Refusal {
    Refusal::of(guest, Reason::GuestNotGranted)
}
