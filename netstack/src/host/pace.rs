//! Time passes in the stack, and frames leave it.

use alloc::vec::Vec;

use smoltcp::phy::Medium;
use smoltcp::socket::tcp;
use smoltcp::wire::IpAddress;

use super::{FrameDevice, Host, OwnFrame, Role, instant};
use crate::limits::NEIGHBOURS_MAX;
use crate::offload::Offload;

impl Host {
    /// Advances timers and sockets; call after frames, reads and writes, and at
    /// [`Self::next_deadline`].
    pub fn poll(&mut self, now_ns: u64) {
        self.tend(now_ns);
        self.egress(now_ns);
    }

    /// The first half of [`Self::poll`]: leases, handshakes that were completed,
    /// connections that are gone. Send nothing yet.
    pub fn tend(&mut self, now_ns: u64) {
        self.interface.poll_maintenance(instant(now_ns));
        if let Some(lease) = self.dhcp.as_mut().and_then(|dhcp| dhcp.poll(now_ns)) {
            self.set_lease(lease);
        }
        self.tend_connections(now_ns);
        if self.outgoing.neighbours.len() * 2 > NEIGHBOURS_MAX {
            self.mark_neighbours();
        }
        self.repeat(now_ns);
    }

    /// The second half: whatever sockets send waits in [`Self::transmit`].
    pub fn egress(&mut self, now_ns: u64) {
        let now = instant(now_ns);
        self.outgoing.now_ns = now_ns;
        self.outgoing.ask();
        if let Some(dhcp) = &mut self.dhcp {
            dhcp.egress(&mut self.outgoing, now_ns);
        }
        let medium = Medium::Ip;
        let mut device = FrameDevice { incoming: None, outgoing: &mut self.outgoing, medium };
        // Once per socket is not once per frame: continue until all is sent or the
        // frame queue is full.
        loop {
            let before = device.outgoing.len();
            self.interface.poll_egress(now, &mut device, &mut self.sockets);
            if device.outgoing.len() == before || !device.outgoing.has_room() {
                break;
            }
        }
    }

    /// When [`Self::poll`] is next needed if nothing happens before.
    pub fn next_deadline(&mut self, now_ns: u64) -> Option<u64> {
        if !self.outgoing.has_room() {
            return None;
        }
        let stack = self
            .interface
            .poll_at(instant(now_ns), &self.sockets)
            .and_then(|at| u64::try_from(at.total_micros()).ok())
            .map(|at_us| at_us.saturating_mul(1_000));
        let tending = self.next_tending_ms().map(|at_ms| at_ms.saturating_mul(1_000_000).max(now_ns));
        let dhcp = self.dhcp.as_mut().and_then(|dhcp| dhcp.next_deadline(now_ns));
        let neighbours = self.outgoing.neighbours.next_deadline().map(|at_ns| at_ns.max(now_ns));
        [stack, tending, dhcp, neighbours].into_iter().flatten().min()
    }

    /// The next outgoing frame; give its buffer [back](Self::reuse).
    pub fn next_frame(&mut self) -> Option<OwnFrame> {
        let frame = self.outgoing.pop()?;
        self.count_transmitted(&frame);
        Some(frame)
    }

    /// Takes the buffer of a frame back that was sent.
    pub fn reuse(&mut self, frame: OwnFrame) {
        self.outgoing.reuse(frame);
    }

    /// Hands the next outgoing frame to `consume`, with what is left to do on it; false
    /// when there is none. The frame stays queued when `consume` returns false (no room
    /// in the NIC).
    pub fn transmit(&mut self, consume: impl FnOnce(&[u8], &Offload) -> bool) -> bool {
        let Some(frame) = self.outgoing.pop() else { return false };
        if !consume(frame.octets(), &frame.offload) {
            self.outgoing.unpop(frame);
            return false;
        }
        self.count_transmitted(&frame);
        self.outgoing.reuse(frame);
        true
    }

    fn count_transmitted(&mut self, frame: &OwnFrame) {
        let (frames, _) = frame.offload.on_wire(frame.octets().len());
        self.counters.transmitted_frames = self.counters.transmitted_frames.wrapping_add(frames as u64);
    }

    /// The peer of a connection of the node's stays known.
    fn mark_neighbours(&mut self) {
        let owned = self.connections.iter().filter(|it| matches!(it.role, Role::Owned | Role::Pending));
        let peers = owned.filter_map(|it| self.sockets.get::<tcp::Socket>(it.handle).remote_endpoint());
        let hops: Vec<_> = peers
            .filter_map(|peer| match peer.addr {
                IpAddress::Ipv4(address) => self.outgoing.next_hop(address),
                IpAddress::Ipv6(_) => None,
            })
            .collect();
        let gateway = self.lease.and_then(|lease| lease.gateway);
        self.outgoing.neighbours.mark_in_use(|it| hops.contains(&it) || gateway == Some(it));
    }
}
