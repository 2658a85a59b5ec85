//! virtio-net: a guest's network card, one queue pair, with checksum and segmentation
//! offload both ways: headers are carried, and the receiver of the frame judges them.
//!
//! Spec: virtio 1.2, section 5.1.

use alloc::vec::Vec;

use hv_x86::{low32, to_usize};
use serde::{Deserialize, Serialize};

use super::chain::Chain;
use super::queue::Part;
use super::transport::Transport;
use crate::guest_memory::GuestMemory;
use crate::limits::{
    CHAINS_PER_CALL_MAX, FRAME_BYTES_MAX, FRAME_PIECE_BYTES, FRAME_PIECES, LARGE_FRAME_BYTES_MAX,
};

const FEATURE_CHECKSUM: u64 = 1;
const FEATURE_GUEST_CHECKSUM: u64 = 1 << 1;
const FEATURE_MTU: u64 = 1 << 3;
const FEATURE_MAC: u64 = 1 << 5;
const FEATURE_GUEST_TSO4: u64 = 1 << 7;
const FEATURE_GUEST_TSO6: u64 = 1 << 8;
const FEATURE_HOST_TSO4: u64 = 1 << 11;
const FEATURE_HOST_TSO6: u64 = 1 << 12;
const FEATURE_MERGE_RECEIVE: u64 = 1 << 15;
const FEATURE_STATUS: u64 = 1 << 16;

const QUEUE_RECEIVE: u16 = 0;
const QUEUE_TRANSMIT: u16 = 1;
/// Octets of the header before each frame (5.1.6).
pub const NET_HEADER_BYTES: usize = 12;
/// The header before a frame: what its sender left to do.
pub type NetHeader = [u8; NET_HEADER_BYTES];
/// Shortest frame: an Ethernet header.
const FRAME_BYTES_MIN: usize = 14;
/// Configuration status: the link is up.
const LINK_UP: u16 = 1;

/// What a guest's driver takes over of the frames it receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Checksums that are not complete.
    pub checksum: bool,
    /// Large TCP segments over IPv4.
    pub tso4: bool,
    /// Large TCP segments over IPv6.
    pub tso6: bool,
}

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
    /// Longest payload of a frame on the wire.
    mtu: u16,
    link_up: bool,
    /// The last look ended before the ring did.
    more: bool,
}

impl VirtioNet {
    /// A card on a wire whose frames carry `mtu` octets, with its registers at
    /// `base_address`.
    #[must_use]
    pub fn new(mac: [u8; 6], mtu: u16, base_address: u32) -> Self {
        let features = FEATURE_CHECKSUM
            | FEATURE_GUEST_CHECKSUM
            | FEATURE_GUEST_TSO4
            | FEATURE_GUEST_TSO6
            | FEATURE_HOST_TSO4
            | FEATURE_HOST_TSO6
            | FEATURE_MTU
            | FEATURE_MAC
            | FEATURE_MERGE_RECEIVE
            | FEATURE_STATUS;
        Self {
            transport: Transport::new(1, 0x02_0000, features, 2, base_address),
            counters: NetCounters::default(),
            mac,
            mtu,
            link_up: true,
            more: false,
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

    /// What the guest's driver takes over.
    #[must_use]
    pub const fn taken(&self) -> Taken {
        Taken {
            checksum: self.transport.has(FEATURE_GUEST_CHECKSUM),
            tso4: self.transport.has(FEATURE_GUEST_TSO4),
            tso6: self.transport.has(FEATURE_GUEST_TSO6),
        }
    }

    /// Takes the guest's next frame: its length, and the header that the guest put
    /// before it. `target` should hold [`LARGE_FRAME_BYTES_MAX`] bytes; a frame that
    /// does not fit is dropped, as is one that is too long and not to be cut.
    pub fn pop_transmit(
        &mut self,
        memory: &dyn GuestMemory,
        target: &mut [u8],
    ) -> Option<(usize, NetHeader)> {
        self.more = false;
        for _ in 0..CHAINS_PER_CALL_MAX {
            let chain = self.transport.pop(QUEUE_TRANSMIT, memory)?;
            let length = chain.readable.length().checked_sub(NET_HEADER_BYTES as u64).map(to_usize);
            let frame = length
                .filter(|length| (FRAME_BYTES_MIN..=LARGE_FRAME_BYTES_MAX).contains(length))
                .and_then(|length| target.get_mut(..length));
            let mut header = [0; NET_HEADER_BYTES];
            let taken = match frame {
                Some(frame) => {
                    let loaded = chain.readable.load(memory, 0, &mut header);
                    let loaded =
                        loaded.and_then(|()| chain.readable.load(memory, NET_HEADER_BYTES as u64, frame));
                    if let Err(fault) = loaded {
                        self.transport.fail(fault);
                        return None;
                    }
                    (frame.len() <= longest(&header)).then_some((frame.len(), header))
                }
                None => None,
            };
            self.transport.push_used(QUEUE_TRANSMIT, memory, &[(chain.head, 0)]);
            if taken.is_some() {
                self.counters.transmitted += 1;
                return taken;
            }
            self.counters.transmit_dropped += 1;
        }
        self.more = true;
        None
    }

    /// Whether [`Self::pop_transmit`] found nothing because it looked for long enough.
    #[must_use]
    pub const fn has_more(&self) -> bool {
        self.more
    }

    /// Gives the guest a frame behind a header that asks for what it
    /// [takes](Self::taken) over. False when it was dropped.
    pub fn push_receive(&mut self, memory: &dyn GuestMemory, frame: &[u8], header: NetHeader) -> bool {
        let given = self.try_receive(memory, frame, header);
        if given {
            self.counters.received += 1;
        } else {
            self.counters.receive_dropped += 1;
        }
        given
    }

    fn try_receive(&mut self, memory: &dyn GuestMemory, frame: &[u8], mut header: NetHeader) -> bool {
        if !self.link_up || frame.len() > longest(&header) {
            return false;
        }
        let merge = self.transport.has(FEATURE_MERGE_RECEIVE);
        let needed = NET_HEADER_BYTES + frame.len();
        let mut pieces = FRAME_PIECES + needed / FRAME_PIECE_BYTES;
        let mut chains: Vec<Chain> = Vec::new();
        let mut room = 0;
        // Chains are followed as far as the frame goes, and no further.
        while room < needed && pieces > 0 && (merge || chains.is_empty()) {
            let part = Part { bytes: (needed - room) as u64, descriptors: pieces };
            let Some(chain) = self.transport.pop_part(QUEUE_RECEIVE, memory, part) else { break };
            room += to_usize(chain.writable.length().min(needed as u64));
            pieces = pieces.saturating_sub(chain.writable.0.len().max(1));
            chains.push(chain);
        }
        let count = u16::try_from(chains.len()).unwrap_or(0);
        let first_fits =
            chains.first().is_some_and(|chain| chain.writable.length() >= NET_HEADER_BYTES as u64);
        if room < needed || !first_fits {
            // The buffers stay the device's; the driver may add to them.
            self.transport.unpop(QUEUE_RECEIVE, count);
            return false;
        }
        // 5.1.6.4: header first, then the frame, in buffers filled to the end.
        if let Some(buffers) = header.last_chunk_mut() {
            *buffers = count.to_le_bytes();
        }
        let mut rest = frame;
        let mut used = Vec::with_capacity(chains.len());
        for (index, chain) in chains.iter().enumerate() {
            let before: &[u8] = if index == 0 { &header } else { &[] };
            let room = to_usize(chain.writable.length()).saturating_sub(before.len());
            let (now, later) = rest.split_at(rest.len().min(room));
            let stored = chain.writable.store(memory, 0, before);
            let stored = stored.and_then(|()| chain.writable.store(memory, before.len() as u64, now));
            if let Err(fault) = stored {
                self.transport.fail(fault);
                return false;
            }
            used.push((chain.head, low32((before.len() + now.len()) as u64)));
            rest = later;
        }
        self.transport.push_used(QUEUE_RECEIVE, memory, &used);
        true
    }

    /// The configuration structure (5.1.4): address, status, pairs of queues, which are
    /// not offered, and MTU.
    #[must_use]
    pub fn config_bytes(&self) -> [u8; 12] {
        let [a, b, c, d, e, f] = self.mac;
        let [low, high] = (if self.link_up { LINK_UP } else { 0 }).to_le_bytes();
        let [mtu_low, mtu_high] = self.mtu.to_le_bytes();
        [a, b, c, d, e, f, low, high, 0, 0, mtu_low, mtu_high]
    }
}

/// Longest frame behind a header: a large one is to be cut (`gso_type`, 5.1.6).
const fn longest(header: &NetHeader) -> usize {
    let [_, segmentation, ..] = *header;
    if segmentation == 0 { FRAME_BYTES_MAX } else { LARGE_FRAME_BYTES_MAX }
}

#[cfg(test)]
#[path = "net/tests.rs"]
mod tests;
