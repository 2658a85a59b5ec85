//! Lockdown: the node runs its guests and obeys nothing that changes them.
//!
//! It holds under the trust bundle that was there when an admin asked for it, so that
//! only who can sign the next bundle ends it; a restart of dom0 does not, nor a power
//! cut where state is kept.

use alloc::string::String;

use mgmt_proto::code::{Code, Failure};
use mgmt_proto::verb::{Outcome, Reply, Request};

use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::operators::jobs::Asker;
use crate::own_memory::LOCKED_AT;
use machine::guest_memory::{Gpa, GuestMemory};

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Why a request is obeyed from nobody now, if it is not: the node is locked down, or
    /// its state volume has not come, and with it whom the owner trusts by now.
    pub(crate) fn barred(&self, request: &Request) -> Option<Failure> {
        if self.state.is_awaited() && !request.verb().is_look() {
            let why = self.state_problem().unwrap_or_else(|| "is being opened".into());
            let message = alloc::format!(
                "the state volume {why}: until it comes, the node does not know which keys were revoked, and obeys only requests that look"
            );
            let remedy = "bring the volume back: see `redoubt node state`";
            return Some(Failure::new(Code::Policy, self.state.volume(), message, remedy));
        }
        if let Some(why) = self.trust_doubt()
            && !request.verb().is_look()
            && !(matches!(request, Request::TrustUpdate { .. }) && self.has_minimum())
        {
            let message = alloc::format!(
                "{why}: the node does not know which keys were revoked, and obeys only requests that read"
            );
            let remedy = if self.has_minimum() {
                "push a bundle of at least that serial: `key bundle push`"
            } else {
                "seal an image with `trust_serial_min = N`, then push bundle N: `key bundle push`"
            };
            let name = self.settings.manifest.name.clone();
            return Some(Failure::new(Code::Policy, name, message, remedy));
        }
        if self.is_locked() && !request.verb().is_rescue() {
            let remedy = "bring a trust bundle that the roots have signed: `key bundle push`";
            let name = self.settings.manifest.name.clone();
            return Some(Failure::new(Code::Policy, name, "the node is locked down", remedy));
        }
        None
    }

    /// Whether the owner sealed a least serial of the trust bundle.
    const fn has_minimum(&self) -> bool {
        self.settings.manifest.trust_serial_min > 0
    }

    /// Whether the bundle that holds is one that the owner sealed as new enough.
    pub(crate) fn is_above_minimum(&self) -> bool {
        self.has_minimum() && self.trust.bundle().serial >= self.settings.manifest.trust_serial_min
    }

    /// Why it is not known whom the owner trusts now, if it is not.
    pub(crate) fn trust_doubt(&self) -> Option<String> {
        let (serial, minimum) = (self.trust.bundle().serial, self.settings.manifest.trust_serial_min);
        if serial < minimum {
            return Some(alloc::format!("trust bundle {serial} is older than {minimum}, which was sealed"));
        }
        self.lost_trust.map(String::from)
    }

    /// Locks the node down, at once. It is acknowledged when it is kept, if the node keeps
    /// anything: None for that.
    pub(crate) fn lock_down(&mut self, asker: &Asker, now_ns: u64) -> Option<Outcome> {
        self.lock_under(self.trust.bundle().serial);
        log::warn!(target: "trust", "locked down until the roots sign another trust bundle");
        if !self.state.is_wanted() {
            return Some(Ok(Reply::Done));
        }
        let name = self.settings.manifest.name.clone();
        if let Err(why) = self.check_kept(&name) {
            let message = alloc::format!("is locked down, and that is not kept: {}", why.message);
            return Some(Err(Failure { message, ..why }));
        }
        let batch = self.keep_lockdown();
        self.wait_until_kept(asker, batch, Ok(Reply::Done), now_ns);
        None
    }

    /// Whether it is locked down now.
    pub(crate) fn is_locked(&self) -> bool {
        self.locked_under == Some(self.trust.bundle().serial)
    }

    /// The lockdown holds under this bundle, also for the next dom0.
    pub(crate) fn lock_under(&mut self, serial: u64) {
        self.locked_under = Some(serial);
        // One more, so that zeros mean that it never was.
        let kept = serial.saturating_add(1).to_le_bytes();
        let is_kept = self.audit.memory().is_some_and(|memory| memory.write(Gpa(LOCKED_AT), &kept).is_ok());
        if !is_kept {
            log::error!(target: "trust", "no memory to keep the lockdown in: a restart of dom0 ends it");
        }
    }

    /// Goes on as an earlier dom0 was.
    pub(crate) fn restore_lockdown(&mut self) {
        let mut kept = [0; 8];
        if self.audit.memory().is_some_and(|memory| memory.read(Gpa(LOCKED_AT), &mut kept).is_ok()) {
            self.locked_under = u64::from_le_bytes(kept).checked_sub(1);
        }
    }
}
