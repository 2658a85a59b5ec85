//! Octets from and to the connections.

use alloc::vec::Vec;

use super::transfer::{Next, Outlet, Piece};
use super::{Payload, Session};

impl Session {
    /// Takes octets from the connection; all are consumed. None are no sign of life.
    pub fn receive(&mut self, path: usize, bytes: &[u8], now_ns: u64, payload: &mut dyn Payload) {
        if bytes.is_empty() {
            return;
        }
        self.pass_time(now_ns);
        if let Some(it) = self.paths.get_mut(path) {
            it.heard_ns = now_ns;
            self.receive_some(path, bytes, payload);
        }
    }

    #[inline(always)]
    fn receive_some(&mut self, path: usize, bytes: &[u8], payload: &mut dyn Payload) {
        let Some(it) = self.paths.get_mut(path) else { return };
        let mut rest = bytes;
        if it.receives_transfers() {
            rest = it.receive_transfers(&mut self.shared, bytes, payload);
        }
        if !rest.is_empty() {
            self.receive_slow_path(path, rest, payload);
        }
    }

    #[cold]
    fn receive_slow_path(&mut self, path: usize, bytes: &[u8], payload: &mut dyn Payload) {
        if let Some(path) = self.paths.get_mut(path) {
            path.receive(&mut self.shared, bytes, payload);
        }
        self.advance();
    }

    /// Writes octets for the connection into `buffer`; all must reach TCP.
    pub fn transmit(
        &mut self,
        path: usize,
        buffer: &mut [u8],
        now_ns: u64,
        payload: &mut dyn Payload,
    ) -> usize {
        self.send(path, Outlet::new(buffer, None), now_ns, payload)
    }

    /// The same, for callers that can send from several places at once: `pieces` names
    /// requests' octets that belong in between, and were not copied. Together they are
    /// not much more than the buffer holds.
    #[inline(always)]
    pub fn transmit_pieces(
        &mut self,
        path: usize,
        buffer: &mut [u8],
        pieces: &mut Vec<Piece>,
        now_ns: u64,
        payload: &mut dyn Payload,
    ) -> usize {
        self.send(path, Outlet::new(buffer, Some(pieces)), now_ns, payload)
    }

    #[inline(always)]
    fn send(&mut self, path: usize, mut outlet: Outlet<'_>, now_ns: u64, payload: &mut dyn Payload) -> usize {
        self.poll(now_ns);
        let mut calm = self.is_calm();
        let carries = if calm { path == self.active } else { self.carries(path) };
        while let Some(it) = self.paths.get_mut(path) {
            let mut next = Next::SlowPath;
            if carries && it.begins_transfers(&self.shared, calm) {
                next = Next::More;
                while next == Next::More {
                    next = it.send_transfer(&mut self.shared, &mut outlet, payload);
                }
            } else if !carries && it.is_quiet(&self.shared) {
                next = Next::Nothing;
            }
            if next == Next::Nothing || !self.send_slow_path(path, carries, &mut outlet, payload) {
                break;
            }
            calm = false;
        }
        outlet.octets
    }

    /// Sends one command of the slow path; false when there is
    /// nothing of that, or no room for it.
    #[cold]
    fn send_slow_path(
        &mut self,
        path: usize,
        carries: bool,
        outlet: &mut Outlet<'_>,
        payload: &mut dyn Payload,
    ) -> bool {
        self.calm_until_ns = 0;
        let Some(path) = self.paths.get_mut(path) else { return false };
        let octets = path.transmit(&mut self.shared, carries, outlet.room(), payload);
        outlet.octets = outlet.octets.saturating_add(octets);
        octets > 0
    }
}
