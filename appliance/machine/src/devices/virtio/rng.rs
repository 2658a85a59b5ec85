//! virtio-rng: entropy for a guest.
//!
//! Spec: virtio 1.2, section 5.4.

use hv_x86::{low32, to_usize};
use serde::{Deserialize, Serialize};

use super::transport::Transport;
use crate::guest_memory::GuestMemory;
use crate::limits::RANDOM_BYTES_PER_REQUEST;

/// The device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioRng {
    /// Registers and queue.
    pub transport: Transport,
}

impl VirtioRng {
    /// A device with its registers at `base_address`.
    #[must_use]
    pub fn new(base_address: u32) -> Self {
        Self { transport: Transport::new(4, 0xff_0000, 0, 1, base_address) }
    }

    /// Serves one request with up to [`RANDOM_BYTES_PER_REQUEST`] bytes, with which
    /// `random` fills what it is given. Returns how many; zero means that the guest asks
    /// for nothing.
    pub fn fill(&mut self, memory: &dyn GuestMemory, random: &mut dyn FnMut(&mut [u8])) -> usize {
        let Some(chain) = self.transport.pop(0, memory) else { return 0 };
        let mut bytes = [0; RANDOM_BYTES_PER_REQUEST];
        let count = to_usize(chain.writable.length()).min(bytes.len());
        let bytes = bytes.get_mut(..count).unwrap_or_default();
        // 5.4.6.1: a request without room is the driver's mistake.
        if bytes.is_empty() {
            self.transport.fail(crate::fault::GuestFault::ShortRequest);
            return 0;
        }
        random(bytes);
        if let Err(fault) = chain.writable.store(memory, 0, bytes) {
            self.transport.fail(fault);
            return 0;
        }
        self.transport.push_used(0, memory, &[(chain.head, low32(count as u64))]);
        count
    }
}
