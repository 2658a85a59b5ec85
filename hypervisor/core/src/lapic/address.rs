//! Which local APICs a message is meant for.
//!
//! Spec: APM 16.5 (destinations), SDM 10.6.2 and 10.12.10.

use super::Message;

/// How an APIC is addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    id: u32,
    x2apic: bool,
    ldr: u32,
    flat: bool,
}

impl Address {
    pub(super) const fn new(id: u32, x2apic: bool, ldr: u32, flat: bool) -> Self {
        Self { id, x2apic, ldr, flat }
    }

    /// The address as one word, to be shared between CPUs without a lock.
    #[must_use]
    pub const fn pack(self) -> u64 {
        self.ldr as u64 | (self.x2apic as u64) << 32 | (self.flat as u64) << 33
    }

    /// The inverse of [`Self::pack`].
    #[must_use]
    pub const fn unpack(id: u32, word: u64) -> Self {
        Self { id, ldr: hv_x86::low32(word), x2apic: word >> 32 & 1 == 1, flat: word >> 33 & 1 == 1 }
    }

    /// Whether `message`, sent by vCPU `source`, is meant for this APIC.
    #[must_use]
    pub const fn matches(&self, message: &Message, source: Option<u32>) -> bool {
        let own = match source {
            Some(source) => source == self.id,
            None => false,
        };
        match message.shorthand {
            1 => return own,
            2 => return true,
            3 => return !own,
            _ => {}
        }
        let destination = message.destination;
        if !message.logical {
            return destination == self.id
                || destination == u32::MAX
                || (!self.x2apic && destination == 0xff);
        }
        if self.x2apic {
            return destination >> 16 == self.ldr >> 16 && destination & self.ldr & 0xffff != 0;
        }
        let mask = self.ldr >> 24;
        if self.flat {
            destination & mask & 0xff != 0
        } else {
            (destination >> 4 == mask >> 4 || destination >> 4 == 15) && destination & mask & 15 != 0
        }
    }
}
