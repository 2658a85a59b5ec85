//! Answers who reads a capture: [`crate::network::capture`].

use mgmt_proto::reason::{Reason, Refusal};
use mgmt_proto::verb::{Outcome, Reply};

use crate::hypervisor::Hypervisor;
use crate::limits::CAPTURES_MAX;
use crate::network::nic::Nic;
use crate::node::Node;

impl<H: Hypervisor, N: Nic> Node<H, N> {
    /// What a guest's cards sent and received since the last look.
    pub(crate) fn read_capture(&mut self, name: &str, from: u64, snap_bytes: u32, now_ns: u64) -> Outcome {
        let index = self.guests.find(name)?;
        let Some(number) = self.guests.get(index).map(|guest| guest.number) else {
            return Err(Refusal::of(name, Reason::NoGuest));
        };
        let snap_bytes = usize::try_from(snap_bytes).unwrap_or(usize::MAX);
        self.network.captures.wall_base_ns = self.wall_base_ns.unwrap_or(0);
        self.network
            .captures
            .read(number, from, snap_bytes, now_ns)
            .map(Reply::Stream)
            .ok_or_else(|| Refusal::of(name, Reason::TooManyCaptures { most: CAPTURES_MAX as u64 }))
    }
}
