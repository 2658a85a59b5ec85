//! What a session tells about itself: how it is, and when it needs a call.

use alloc::{format, vec};

use super::{Phase, Target, VolumeState, VolumeStatus};

impl Target {
    /// When [`Self::poll`] and [`Self::transmit`] are next needed.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let frames = self.slots.iter().map(|slot| slot.deadline_ns);
        let held = self.order.has_waiting().then(|| {
            let stale = self.stale.iter().map(|stale| stale.expires_ns);
            stale.chain([self.writes_held_until_ns]).filter(|expires_ns| *expires_ns > self.now_ns).min()
        });
        frames.chain(held.flatten()).min()
    }

    /// How the volume is.
    #[must_use]
    pub fn status(&self) -> VolumeStatus {
        let state = match (self.phase, self.stalled_since_ns) {
            _ if self.refused => VolumeState::Refused,
            (Phase::Ready, None) => VolumeState::Ready,
            (Phase::Ready, Some(_)) => VolumeState::Stalled,
            _ => VolumeState::Starting,
        };
        let retries = self.slots.iter().map(|slot| u64::from(slot.tries.saturating_sub(1))).max();
        let mut negotiated = vec![
            ("SectorsPerFrame", format!("{}", self.sectors_per_frame)),
            ("BufferCount", format!("{}", self.buffers)),
            ("Firmware", format!("{:#06x}", self.firmware)),
            ("Window", format!("{}", self.window / 16)),
            ("FrameSizeFellBack", format!("{}", self.fell_back)),
        ];
        if let Some([a, b, c, d, e, f]) = self.mac {
            let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
            negotiated.push(("TargetMac", mac));
        }
        VolumeStatus {
            state,
            stalled_since_ns: self.stalled_since_ns,
            retries: retries.unwrap_or(0),
            rtt_ns: self.srtt_ns,
            capacity: self.capacity,
            pending: self.order.len(),
            counters: self.counters,
            last_error: self.last_error,
            negotiated,
        }
    }
}
