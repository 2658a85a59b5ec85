//! Trying a volume without a guest.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use mgmt_proto::code::{Code, Failure};
use netstack::host::{ConnectionId, Host};
use storage::aoe::{Administration, Outcome};
use storage::volume::{Volume, VolumeName};
use storage::{VolumeState, VolumeStatus};

use super::{NoPayload, Volumes, drive};
use crate::limits::DISCOVERY_TIMEOUT_NS;

/// The share of a probe's session: beside those of all guests.
const SHARE: u16 = u16::MAX - 1;

/// A volume that is being tried.
pub(super) struct Probe {
    pub(super) name: VolumeName,
    pub(super) volume: Volume,
    connections: Vec<Option<ConnectionId>>,
    deadline_ns: u64,
    /// A question to an AoE target is open.
    asks: bool,
}

impl Probe {
    pub(super) fn next_deadline(&self) -> u64 {
        self.volume.next_deadline().map_or(self.deadline_ns, |next_ns| next_ns.min(self.deadline_ns))
    }
}

impl Volumes {
    /// Begins to try a volume: [`Self::take_probed`] tells what came of it. For an AoE
    /// target a question may be asked along the way.
    ///
    /// # Errors
    /// Another volume is being tried.
    pub fn probe(
        &mut self,
        name: &VolumeName,
        question: Option<Administration>,
        now_ns: u64,
    ) -> Result<(), Failure> {
        if self.probe.is_some() {
            let message = "another volume is being tried";
            return Err(Failure::new(Code::Conflict, "", message, "try again in a few seconds"));
        }
        let mut volume = self.session(name, SHARE, true, now_ns);
        let asks = match (&mut volume, question) {
            (Volume::Aoe(target), Some(question)) => target.administer(question).is_ok(),
            _ => false,
        };
        let deadline_ns = now_ns + DISCOVERY_TIMEOUT_NS;
        self.probe = Some(Probe { name: name.clone(), volume, connections: Vec::new(), deadline_ns, asks });
        Ok(())
    }

    /// What a probe found, once it has ended: how the volume is, and what the target
    /// answered.
    pub fn take_probed(&mut self, host: &mut Host, now_ns: u64) -> Option<(VolumeStatus, Option<Outcome>)> {
        let probe = self.probe.as_mut()?;
        let outcome = match &mut probe.volume {
            Volume::Aoe(target) => target.take_outcome(),
            Volume::Iscsi(_) => None,
        };
        let status = probe.volume.status();
        let answered = outcome.is_some() || !probe.asks;
        let known = matches!(status.state, VolumeState::Ready | VolumeState::Refused) && answered;
        if !known && now_ns < probe.deadline_ns {
            return None;
        }
        for connection in self.probe.take()?.connections.into_iter().flatten() {
            host.abort(connection, now_ns);
        }
        Some((status, outcome))
    }

    pub(super) fn poll_probe(&mut self, host: &mut Host, now_ns: u64) {
        let Some(probe) = &mut self.probe else { return };
        probe.volume.poll(now_ns);
        if let Volume::Iscsi(session) = &mut probe.volume {
            drive(session, &mut probe.connections, host, &mut NoPayload, now_ns);
        }
    }

    /// How every open disk is: guest, device, the volume's name, and the rest.
    #[must_use]
    pub fn statuses(&self) -> Vec<(u64, usize, String, VolumeStatus)> {
        let told =
            self.bindings.iter().map(|it| (it.guest, it.device, it.name.to_string(), it.volume.status()));
        let tried = self.probe.iter().map(|it| (0, 0, it.name.to_string(), it.volume.status()));
        told.chain(tried).collect()
    }
}
