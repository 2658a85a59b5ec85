//! virtio-console, port 0: `hvc0`.
//!
//! Spec: virtio 1.2, section 5.3; no multiport.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use hv_x86::{low32, to_usize};
use serde::{Deserialize, Serialize};

use super::transport::Transport;
use crate::devices::output_ring::OutputRing;
use crate::guest_memory::GuestMemory;
use crate::limits::{CHAINS_PER_CALL_MAX, CONSOLE_BYTES, CONSOLE_BYTES_PER_CALL_MAX, CONSOLE_INPUT_BYTES};

const QUEUE_RECEIVE: u16 = 0;
const QUEUE_TRANSMIT: u16 = 1;

/// The device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtioConsole {
    /// Registers and queues.
    pub transport: Transport,
    input: VecDeque<u8>,
}

impl VirtioConsole {
    /// A console with its registers at `base_address`.
    #[must_use]
    pub fn new(base_address: u32) -> Self {
        Self { transport: Transport::new(3, 0x07_8000, 0, 2, base_address), input: VecDeque::new() }
    }

    /// Queues input for the guest; returns how many bytes there was room for.
    pub fn push_input(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(CONSOLE_INPUT_BYTES.saturating_sub(self.input.len()));
        self.input.extend(bytes.iter().take(count));
        count
    }

    /// Moves output, to where all of it is kept, and input. True when there is more to
    /// move.
    pub fn poll(&mut self, memory: &dyn GuestMemory, output: &mut OutputRing) -> bool {
        let more_input = self.fill_input(memory);
        let mut taken = 0;
        for _ in 0..CHAINS_PER_CALL_MAX {
            if taken >= CONSOLE_BYTES_PER_CALL_MAX {
                return true;
            }
            let Some(chain) = self.transport.pop(QUEUE_TRANSMIT, memory) else { return more_input };
            // A longer chain than is kept at all is cut: only its end would stay.
            let length = chain.readable.length();
            let kept = length.min(CONSOLE_BYTES as u64);
            let mut offset = length - kept;
            let mut buffer = [0; 512];
            while offset < length {
                let part = to_usize(length - offset).min(buffer.len());
                let Some(target) = buffer.get_mut(..part) else { return false };
                if let Err(fault) = chain.readable.load(memory, offset, target) {
                    self.transport.fail(fault);
                    return false;
                }
                output.push(target);
                offset += part as u64;
            }
            taken += to_usize(kept);
            self.transport.push_used(QUEUE_TRANSMIT, memory, &[(chain.head, 0)]);
        }
        true
    }

    /// True when more of it might be taken.
    fn fill_input(&mut self, memory: &dyn GuestMemory) -> bool {
        for _ in 0..CHAINS_PER_CALL_MAX {
            if self.input.is_empty() {
                return false;
            }
            let Some(chain) = self.transport.pop(QUEUE_RECEIVE, memory) else { return false };
            let count = self.input.len().min(to_usize(chain.writable.length()));
            let bytes: Vec<u8> = self.input.drain(..count).collect();
            if let Err(fault) = chain.writable.store(memory, 0, &bytes) {
                self.transport.fail(fault);
                return false;
            }
            self.transport.push_used(QUEUE_RECEIVE, memory, &[(chain.head, low32(count as u64))]);
        }
        true
    }

    /// Forgets input that the guest has not taken: after a reset.
    pub fn forget(&mut self) {
        self.input.clear();
    }

    /// The configuration structure (5.3.4): no field is offered.
    #[must_use]
    pub const fn config_bytes() -> [u8; 12] {
        [0; 12]
    }
}
