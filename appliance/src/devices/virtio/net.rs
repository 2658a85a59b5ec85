//! virtio-net: a guest's network card, one queue pair, no offloads.
//!
//! Spec: virtio 1.2, section 5.1.

use alloc::vec::Vec;

use hv_x86::{low32, to_usize};
use serde::{Deserialize, Serialize};

use super::transport::Transport;
use crate::guest_memory::GuestMemory;
use crate::limits::{CHAINS_PER_CALL_MAX, FRAME_BUFFERS_MAX, FRAME_BYTES_MAX};

const FEATURE_MAC: u64 = 1 << 5;
const FEATURE_MERGE_RECEIVE: u64 = 1 << 15;
const FEATURE_STATUS: u64 = 1 << 16;

const QUEUE_RECEIVE: u16 = 0;
const QUEUE_TRANSMIT: u16 = 1;
/// Header before each frame (5.1.6), with the number of buffers at the end.
const HEADER_BYTES: usize = 12;
/// Shortest frame: an Ethernet header.
const FRAME_BYTES_MIN: usize = 14;
/// Configuration status: the link is up.
const LINK_UP: u16 = 1;

/// What the card did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetCounters {
    /// Frames taken from the guest.
    pub transmitted: u64,
    /// Frames of the guest with an impossible length.
    pub transmit_dropped: u64,
    /// Frames given to the guest.
    pub received: u64,
    /// Frames for the guest that found no buffer, or a too small one.
    pub receive_dropped: u64,
}

/// The device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioNet {
    /// Registers and queues.
    pub transport: Transport,
    /// What it did.
    pub counters: NetCounters,
    mac: [u8; 6],
    link_up: bool,
}

impl VirtioNet {
    /// A card with its registers at `base_address`.
    #[must_use]
    pub fn new(mac: [u8; 6], base_address: u32) -> Self {
        let features = FEATURE_MAC | FEATURE_MERGE_RECEIVE | FEATURE_STATUS;
        Self {
            transport: Transport::new(1, 0x02_0000, features, 2, base_address),
            counters: NetCounters::default(),
            mac,
            link_up: true,
        }
    }

    /// Its address.
    #[must_use]
    pub const fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Plugs the cable in or out.
    pub fn set_link(&mut self, up: bool) {
        if self.link_up != up {
            self.link_up = up;
            self.transport.config_changed();
        }
    }

    /// Takes the guest's next frame and returns its length. `target` should
    /// hold [`FRAME_BYTES_MAX`] bytes; a frame that does not fit is dropped.
    pub fn pop_transmit(&mut self, memory: &dyn GuestMemory, target: &mut [u8]) -> Option<usize> {
        for _ in 0..CHAINS_PER_CALL_MAX {
            let chain = self.transport.pop(QUEUE_TRANSMIT, memory)?;
            let length = chain.readable.length().checked_sub(HEADER_BYTES as u64).map(to_usize);
            let frame = length
                .filter(|length| (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(length))
                .and_then(|length| target.get_mut(..length));
            let taken = match frame {
                Some(frame) => match chain.readable.load(memory, HEADER_BYTES as u64, frame) {
                    Ok(()) => Some(frame.len()),
                    Err(fault) => {
                        self.transport.fail(fault);
                        return None;
                    }
                },
                None => None,
            };
            self.transport.push_used(QUEUE_TRANSMIT, memory, &[(chain.head, 0)]);
            if taken.is_some() {
                self.counters.transmitted += 1;
                return taken;
            }
            self.counters.transmit_dropped += 1;
        }
        None
    }

    /// Gives the guest a frame. False when it was dropped.
    pub fn push_receive(&mut self, memory: &dyn GuestMemory, frame: &[u8]) -> bool {
        let given = self.try_receive(memory, frame);
        if given {
            self.counters.received += 1;
        } else {
            self.counters.receive_dropped += 1;
        }
        given
    }

    fn try_receive(&mut self, memory: &dyn GuestMemory, frame: &[u8]) -> bool {
        if !self.link_up || frame.len() > FRAME_BYTES_MAX {
            return false;
        }
        let merge = self.transport.has(FEATURE_MERGE_RECEIVE);
        let buffers_max = if merge { FRAME_BUFFERS_MAX } else { 1 };
        let needed = HEADER_BYTES + frame.len();
        let mut chains = Vec::new();
        let mut room = 0;
        while room < needed && chains.len() < buffers_max {
            let Some(chain) = self.transport.pop(QUEUE_RECEIVE, memory) else { break };
            room += to_usize(chain.writable.length().min(needed as u64));
            chains.push(chain);
        }
        let count = u16::try_from(chains.len()).unwrap_or(0);
        let first_fits = chains.first().is_some_and(|chain| chain.writable.length() >= HEADER_BYTES as u64);
        if room < needed || !first_fits {
            // The buffers stay the device's; the driver may add to them.
            self.transport.unpop(QUEUE_RECEIVE, count);
            return false;
        }
        // 5.1.6.4: header first, then the frame, in buffers filled to the end.
        let mut bytes = [0; HEADER_BYTES + FRAME_BYTES_MAX];
        let Some(bytes) = bytes.get_mut(..needed) else { return false };
        let (header, body) = bytes.split_at_mut(HEADER_BYTES);
        if let Some(buffers) = header.get_mut(10..) {
            buffers.copy_from_slice(&count.to_le_bytes());
        }
        body.copy_from_slice(frame);
        let mut rest: &[u8] = bytes;
        let mut used = Vec::with_capacity(chains.len());
        for chain in &chains {
            let length = rest.len().min(to_usize(chain.writable.length()));
            let (now, later) = rest.split_at(length);
            if let Err(fault) = chain.writable.store(memory, 0, now) {
                self.transport.fail(fault);
                return false;
            }
            used.push((chain.head, low32(length as u64)));
            rest = later;
        }
        self.transport.push_used(QUEUE_RECEIVE, memory, &used);
        true
    }

    /// The configuration structure (5.1.4): address and status.
    #[must_use]
    pub fn config_bytes(&self) -> [u8; 8] {
        let [a, b, c, d, e, f] = self.mac;
        let [low, high] = (if self.link_up { LINK_UP } else { 0 }).to_le_bytes();
        [a, b, c, d, e, f, low, high]
    }
}

#[cfg(test)]
#[path = "net/tests.rs"]
mod tests;
