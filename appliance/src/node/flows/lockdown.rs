//! Lockdown: the node runs its guests and obeys nothing that changes them.
//!
//! It holds under the trust bundle that was there when an admin asked for it, so that
//! only who can sign the next bundle ends it; a restart of dom0 does not, nor a power
//! cut where state is kept.

use mgmt_proto::code::Code;
use mgmt_proto::reason::{Held, Reason, Refusal};
use mgmt_proto::verb::{Outcome, Reply, Request};

use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::operators::jobs::Asker;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Why a request is refused to every operator now, if it is: the node is locked down, or
    /// its state volume has not come, and with it whom the owner trusts by now.
    pub(crate) fn barred(&self, request: &Request) -> Option<Refusal> {
        if self.state.is_awaited() && !request.verb().is_look() {
            let why = self.state_problem().unwrap_or_else(|| "is being opened".into());
            return Some(Refusal::of(self.state.volume(), Reason::StateAwaited { why }));
        }
        if let Some(why) = self.trust.doubt()
            && !request.verb().is_look()
            && !(matches!(request, Request::TrustUpdate { .. }) && self.trust.has_minimum())
        {
            let message = alloc::format!(
                "{why}: the node does not know which keys were revoked, and obeys only requests that read"
            );
            let remedy = if self.trust.has_minimum() {
                "push a bundle of at least that serial: `key bundle push`"
            } else {
                "seal an image with `trust_serial_min = N`, then push bundle N: `key bundle push`"
            };
            let name = self.settings.manifest.name.clone();
            return Some(Refusal::said(Code::Policy, name, message, remedy));
        }
        if self.trust.is_locked() && !request.verb().is_rescue() {
            let name = self.settings.manifest.name.clone();
            return Some(Refusal::of(name, Reason::LockedDown));
        }
        None
    }

    /// Locks the node down, at once. It is acknowledged when it is kept, if the node keeps
    /// anything: None for that.
    pub(crate) fn lock_down(&mut self, asker: &Asker, now_ns: u64) -> Option<Outcome> {
        self.lock_under(self.trust.serial());
        log::warn!(target: "trust", "locked down until the roots sign another trust bundle");
        if !self.state.is_wanted() {
            return Some(Ok(Reply::Done));
        }
        let name = self.settings.manifest.name.clone();
        if let Err(why) = self.check_persistence(&name) {
            return Some(Err(why.although(Held::Lockdown)));
        }
        let batch = self.persist_lockdown();
        self.wait_until_persisted(asker, batch, Ok(Reply::Done), now_ns);
        None
    }

    /// The lockdown holds under this bundle, also for the next dom0.
    pub(crate) fn lock_under(&mut self, serial: u64) {
        self.trust.lock_under(serial, self.operators.audit.memory());
    }
}
