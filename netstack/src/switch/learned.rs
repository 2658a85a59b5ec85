//! Hardware addresses that guests' ports were seen to send from, besides their own: only
//! where their owner lets them.

use super::policy::virtual_router;
use super::{PortId, SWITCH_PORTS_MAX};
use crate::frame::MacAddress;
use crate::keyed::{Keyed, KeyedMap};
use crate::limits::LEARNED_IDLE_NS;

#[derive(Clone, Copy, Debug)]
struct Entry {
    port: PortId,
    seen_ns: u64,
}

/// All of them, by address; ports' policies bound them.
#[derive(Clone, Debug)]
pub(super) struct Learned {
    table: KeyedMap<MacAddress, Entry>,
    /// Addresses of each port that count.
    counts: [usize; SWITCH_PORTS_MAX],
}

impl Learned {
    pub(super) fn new(keyed: Keyed) -> Self {
        Self { table: KeyedMap::with_hasher(keyed), counts: [0; SWITCH_PORTS_MAX] }
    }

    /// The port that an address was last seen at.
    pub(super) fn port_of(&self, mac: MacAddress) -> Option<PortId> {
        self.table.get(&mac).map(|entry| entry.port)
    }

    /// Addresses of a port that count: those of virtual routers move about.
    pub(super) fn count(&self, port: PortId) -> usize {
        self.counts.get(usize::from(port.0)).copied().unwrap_or(0)
    }

    /// An address was seen at a port that may have it.
    pub(super) fn see(&mut self, mac: MacAddress, port: PortId, now_ns: u64) {
        let before = self.table.insert(mac, Entry { port, seen_ns: now_ns });
        if before.is_some_and(|entry| entry.port == port) {
            return;
        }
        if let Some(entry) = before {
            discount(&mut self.counts, mac, entry.port);
        }
        if virtual_router(mac).is_none()
            && let Some(count) = self.counts.get_mut(usize::from(port.0))
        {
            *count = count.saturating_add(1);
        }
    }

    /// An address is elsewhere now.
    pub(super) fn forget(&mut self, mac: MacAddress) {
        if let Some(entry) = self.table.remove(&mac) {
            discount(&mut self.counts, mac, entry.port);
        }
    }

    /// A port is gone, or may less.
    pub(super) fn forget_port(&mut self, port: PortId) {
        self.table.retain(|_, entry| entry.port != port);
        if let Some(count) = self.counts.get_mut(usize::from(port.0)) {
            *count = 0;
        }
    }

    /// Those of a port that were not seen for long make room.
    pub(super) fn expire(&mut self, port: PortId, now_ns: u64) {
        let Self { table, counts } = self;
        table.retain(|mac, entry| {
            let is_idle = now_ns.saturating_sub(entry.seen_ns) >= LEARNED_IDLE_NS;
            let stays = entry.port != port || !is_idle;
            if !stays {
                discount(counts, *mac, port);
            }
            stays
        });
    }
}

/// One address less of a port's.
fn discount(counts: &mut [usize; SWITCH_PORTS_MAX], mac: MacAddress, port: PortId) {
    if virtual_router(mac).is_none()
        && let Some(count) = counts.get_mut(usize::from(port.0))
    {
        *count = count.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn counts_match_the_table() {
        let mut learned = Learned::new(Keyed::new(&[7; 16], b"test"));
        let router = MacAddress([0, 0, 0x5e, 0, 1, 9]);
        assert!(virtual_router(router).is_some());
        let mut macs: Vec<MacAddress> = (0..12).map(|last| MacAddress([2, 0, 0, 0, 0, last])).collect();
        macs.push(router);
        let mut state = 99_u64;
        for now_ns in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let [what, which, port, ..] = state.to_be_bytes();
            let (mac, port) = (macs[usize::from(which) % macs.len()], PortId(port % 4 + 2));
            match what % 16 {
                0 => learned.forget_port(port),
                1 => learned.expire(port, now_ns + LEARNED_IDLE_NS - 100),
                2..5 => learned.forget(mac),
                _ => {
                    learned.see(mac, port, now_ns);
                    assert_eq!(learned.port_of(mac), Some(port));
                }
            }
            for port in (0..8).map(PortId) {
                let counts = |(mac, entry): &(&MacAddress, &Entry)| {
                    entry.port == port && virtual_router(**mac).is_none()
                };
                assert_eq!(learned.count(port), learned.table.iter().filter(counts).count(), "{now_ns}");
            }
        }
    }
}
