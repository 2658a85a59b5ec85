//! Takes trust bundles, and keeps them where they outlive dom0: [`crate::trust`].

use mgmt_proto::bundle::Refused;
use mgmt_proto::code::Code;
use mgmt_proto::reason::{Held, Refusal};
use mgmt_proto::verb::{Outcome, Reply};

use crate::hypervisor::Hypervisor;
use crate::network::nic::Nic;
use crate::node::Node;
use crate::operators::jobs::Asker;
use crate::state::OwnFlags;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Continues with what an earlier dom0 kept, if this is a restart.
    pub(crate) fn restore_trust(&mut self, own: Option<OwnFlags>, now_ns: u64) {
        self.update_clock(now_ns);
        let restored = match self.operators.audit.memory() {
            Some(memory) => self.trust.restore(memory),
            None => own.is_none(),
        };
        if own.is_some_and(|own| own.doubtful) {
            self.trust.set_doubt(Some("it was not known before dom0 restarted which trust bundle holds"));
        } else if !restored {
            self.lose_trust("the trust bundle in the node's memory was lost");
        }
    }

    /// It is no longer known which bundle holds: until it is, only requests that read are
    /// obeyed.
    pub(crate) fn lose_trust(&mut self, why: &'static str) {
        log::error!("{why}: only requests that read are obeyed");
        self.trust.set_doubt(Some(why));
        self.persist_own();
    }

    /// Tells what depends on it the time of day.
    pub(crate) fn update_clock(&mut self, now_ns: u64) {
        let base_ns =
            *self.wall_base_ns.get_or_insert_with(|| self.hypervisor.node_info().wall_clock_base_ns);
        self.trust.bundles.set_time(base_ns.saturating_add(now_ns) / 1_000_000_000);
    }

    /// Puts a signed bundle in the place of what holds. It holds at once, and is
    /// acknowledged when it is kept, if the node keeps anything: None for that.
    pub(crate) fn update_trust(&mut self, asker: &Asker, signed: &[u8], now_ns: u64) -> Option<Outcome> {
        let name = self.settings.manifest.name.clone();
        if let Err(refused) = self.trust.bundles.update(signed) {
            return Some(Err(refusal(&name, &refused)));
        }
        if self.trust.is_above_minimum() {
            self.trust.set_doubt(None);
            self.persist_own();
        }
        self.trust.write_bundles(self.operators.audit.memory());
        let serial = self.trust.serial();
        log::info!("trust bundle {serial} holds");
        if !self.state.is_wanted() {
            return Some(Ok(Reply::Done));
        }
        if let Err(why) = self.check_persistence(&name) {
            return Some(Err(why.although(Held::Bundle { serial })));
        }
        let batch = self.persist_trust();
        self.wait_until_persisted(asker, batch, Ok(Reply::Done), now_ns);
        None
    }
}

fn refusal(node: &str, refused: &Refused) -> Refusal {
    let (code, remedy) = match refused {
        Refused::Unsigned { .. } => (Code::Refused, "have more of the root keys that hold now sign it"),
        Refused::NewRoots { .. } => (Code::Refused, "have more of the new root keys sign it too"),
        Refused::Stale { .. } => {
            (Code::Conflict, "make one with a higher serial from what holds: `key bundle show`")
        }
        Refused::LocksOut => (Code::Policy, "grant an admin all guests of this node, from now on"),
        Refused::Rotations => (Code::Policy, "seal a new image with the roots that hold now"),
        Refused::Version => (Code::Version, "make it with this version of the program"),
        Refused::Length | Refused::Encoding | Refused::Unsound => {
            (Code::Integrity, "make it with `key bundle make`")
        }
    };
    Refusal::said(code, node, alloc::format!("the trust bundle {refused}"), remedy)
}
