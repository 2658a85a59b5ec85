//! Whom the node listens to: trust bundles, kept where they outlive dom0.

use alloc::vec;
use alloc::vec::Vec;

use mgmt_proto::bundle::Refused;
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::limits::TRUST_BYTES;
use mgmt_proto::trust::Trust;
use mgmt_proto::verb::{Outcome, Reply};

use crate::hypervisor::Hypervisor;
use crate::node::Node;
use crate::node::audit::RING_BYTES;
use crate::node::jobs::Asker;
use crate::node::nic::Nic;
use crate::node::state::OwnFlags;
use machine::guest_memory::{Gpa, GuestMemory};

/// Bytes that are reserved behind the audit log; none is used before a bundle comes.
pub(super) const KEPT_BYTES: u64 = 2 << 20;
/// Where the length and then the bundles are.
const AT: u64 = RING_BYTES;
/// Where it is kept that the node is locked down.
pub(super) const LOCKED_AT: u64 = AT + KEPT_BYTES - 8;
const _: () = assert!(TRUST_BYTES as u64 + 4 + 8 <= KEPT_BYTES);

/// Goes back to what an earlier dom0 kept; false if that was not possible.
fn restore<M: GuestMemory>(trust: &mut Trust, memory: &M) -> bool {
    let mut length = [0; 4];
    if memory.read(Gpa(AT), &mut length).is_err() {
        return false;
    }
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length == 0 {
        return true;
    }
    let mut kept: Vec<u8> = Vec::new();
    if length <= TRUST_BYTES {
        kept = vec![0; length];
    }
    !kept.is_empty() && memory.read(Gpa(AT + 4), &mut kept).is_ok() && trust.restore(&kept)
}

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// Continues with what an earlier dom0 kept, if this is a restart.
    pub(super) fn restore_trust(&mut self, own: Option<OwnFlags>, now_ns: u64) {
        self.tell_time(now_ns);
        let restored = match self.audit.memory() {
            Some(memory) => restore(&mut self.trust, memory),
            None => own.is_none(),
        };
        if own.is_some_and(|own| own.doubtful) {
            self.lost_trust = Some("it was not known before dom0 restarted which trust bundle holds");
        } else if !restored {
            self.lose_trust("the trust bundle in the node's memory was lost");
        }
        self.restore_lockdown();
    }

    /// It is no longer known which bundle holds: until it is, only requests that read are
    /// obeyed.
    pub(super) fn lose_trust(&mut self, why: &'static str) {
        log::error!("{why}: only requests that read are obeyed");
        self.lost_trust = Some(why);
        self.keep_own();
    }

    /// Tells what depends on it the time of day.
    pub(super) fn tell_time(&mut self, now_ns: u64) {
        let base_ns =
            *self.wall_base_ns.get_or_insert_with(|| self.hypervisor.node_info().wall_clock_base_ns);
        self.trust.set_time(base_ns.saturating_add(now_ns) / 1_000_000_000);
    }

    /// Puts a signed bundle in the place of what holds. It holds at once, and is
    /// acknowledged when it is kept, if the node keeps anything: None for that.
    pub(super) fn update_trust(&mut self, asker: &Asker, signed: &[u8], now_ns: u64) -> Option<Outcome> {
        let name = self.settings.manifest.name.clone();
        if let Err(refused) = self.trust.update(signed) {
            return Some(Err(refusal(&name, &refused)));
        }
        if self.is_above_minimum() {
            self.lost_trust = None;
            self.keep_own();
        }
        self.write_trust_to_memory();
        let serial = self.trust.bundle().serial;
        log::info!("trust bundle {serial} holds");
        if !self.state.is_wanted() {
            return Some(Ok(Reply::Done));
        }
        if let Err(why) = self.check_kept(&name) {
            let message = alloc::format!("bundle {serial} holds, and is not kept: {}", why.message);
            return Some(Err(Failure { message, ..why }));
        }
        let batch = self.keep_trust();
        self.wait_until_kept(asker, batch, Ok(Reply::Done), now_ns);
        None
    }

    /// Keeps the bundles where the next dom0 finds them.
    pub(super) fn write_trust_to_memory(&mut self) {
        let kept = self.trust.kept();
        let length = u32::try_from(kept.len()).unwrap_or(0).to_le_bytes();
        // The length last: half a bundle is never taken for one.
        let is_kept = self.audit.memory().is_some_and(|memory| {
            memory.write(Gpa(AT), &[0; 4]).is_ok()
                && memory.write(Gpa(AT + 4), &kept).is_ok()
                && memory.write(Gpa(AT), &length).is_ok()
        });
        if !is_kept {
            log::error!("no memory for the trust bundle: dom0 forgets it when it restarts");
        }
    }
}

fn refusal(node: &str, refused: &Refused) -> Failure {
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
    Failure::new(code, node, alloc::format!("the trust bundle {refused}"), remedy)
}
