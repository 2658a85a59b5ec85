//! What a session tells about itself.

use alloc::format;

use super::{DiscoveredTarget, Probe, Session, State, Vec, VolumeState, VolumeStatus};
use crate::block::Stage;
use crate::histogram::Histogram;

impl Session {
    /// Targets found so far by a discovery session.
    #[must_use]
    pub fn discovered(&self) -> &[DiscoveredTarget] {
        &self.discovered
    }

    /// Whether discovery has the whole list.
    #[must_use]
    pub fn discovery_finished(&self) -> bool {
        self.state == State::Finished
    }

    /// Whether it serves, and the disk's sectors: cheap to ask.
    #[must_use]
    pub fn ready_capacity(&self) -> Option<u64> {
        let ready = self.state == State::Full && self.probe == Probe::Done && self.resume_ns <= self.now_ns;
        self.capacity.filter(|_| ready).map(|capacity| capacity.sectors())
    }

    /// How the volume is.
    #[must_use]
    pub fn status(&self) -> VolumeStatus {
        let ready = self.state == State::Full && self.probe == Probe::Done;
        let state = match (ready, self.served) {
            (true, _) if self.resume_ns > self.now_ns => VolumeState::Stalled,
            (true, _) => VolumeState::Ready,
            (false, _) if self.refused => VolumeState::Refused,
            (false, true) => VolumeState::Stalled,
            (false, false) => VolumeState::Starting,
        };
        let mut negotiated = self.negotiated.report();
        if let Some(capacity) = self.capacity {
            negotiated.push(("BlockBytes", format!("{}", capacity.block_bytes)));
        }
        let window = self.command_number_max.wrapping_sub(self.command_number).wrapping_add(1);
        negotiated.push(("CommandWindow", format!("{window}")));
        negotiated.push(("Product", self.product.clone()));
        let stage = match self.state {
            State::Full if self.probe == Probe::Done => Stage::Ready,
            State::Full => Stage::LoggedIn,
            State::Login => Stage::Connected,
            _ => self.stage,
        };
        VolumeStatus {
            state,
            stage,
            write_protected: false,
            can_discard: false,
            latency: Histogram::default(),
            paths: Vec::new(),
            stalled_since_ns: if ready { None } else { self.stalled_since_ns },
            retries: u64::from(self.failures),
            rtt_ns: self.srtt_ns,
            capacity: self.capacity.map(|capacity| capacity.sectors()),
            pending: self.order.len(),
            counters: self.counters,
            last_error: self.last_error,
            negotiated,
        }
    }
}
