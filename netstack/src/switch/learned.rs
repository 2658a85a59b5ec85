//! Hardware addresses that guests' ports were seen to send from, besides their own: only
//! where their owner lets them.

use alloc::vec::Vec;

use super::PortId;
use super::policy::virtual_router;
use crate::frame::MacAddress;
use crate::limits::LEARNED_IDLE_NS;

#[derive(Clone, Copy, Debug)]
struct Entry {
    mac: MacAddress,
    port: PortId,
    seen_ns: u64,
}

/// All of them, sorted by address; ports' policies bound them.
#[derive(Clone, Debug, Default)]
pub(super) struct Learned {
    table: Vec<Entry>,
}

impl Learned {
    fn place(&self, mac: MacAddress) -> Result<usize, usize> {
        self.table.binary_search_by_key(&mac, |entry| entry.mac)
    }

    /// The port that an address was last seen at.
    pub(super) fn port_of(&self, mac: MacAddress) -> Option<PortId> {
        let found = self.place(mac).ok()?;
        self.table.get(found).map(|entry| entry.port)
    }

    /// Addresses of a port that count: those of virtual routers move about.
    pub(super) fn count(&self, port: PortId) -> usize {
        let counts = |entry: &&Entry| entry.port == port && virtual_router(entry.mac).is_none();
        self.table.iter().filter(counts).count()
    }

    /// An address was seen at a port that may have it.
    pub(super) fn see(&mut self, mac: MacAddress, port: PortId, now_ns: u64) {
        let entry = Entry { mac, port, seen_ns: now_ns };
        match self.place(mac) {
            Ok(found) => {
                if let Some(slot) = self.table.get_mut(found) {
                    *slot = entry;
                }
            }
            Err(place) => self.table.insert(place, entry),
        }
    }

    /// An address is elsewhere now.
    pub(super) fn forget(&mut self, mac: MacAddress) {
        if let Ok(found) = self.place(mac) {
            self.table.remove(found);
        }
    }

    /// A port is gone, or may less.
    pub(super) fn forget_port(&mut self, port: PortId) {
        self.table.retain(|entry| entry.port != port);
    }

    /// Those of a port that were not seen for long make room.
    pub(super) fn expire(&mut self, port: PortId, now_ns: u64) {
        let is_idle = |entry: &Entry| now_ns.saturating_sub(entry.seen_ns) >= LEARNED_IDLE_NS;
        self.table.retain(|entry| entry.port != port || !is_idle(entry));
    }
}
