//! The stack's frame queue, as smoltcp's device.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::gate::Translations;
use crate::limits::{HOST_FRAMES_MAX, HOST_REPLY_FRAMES_MAX};
use crate::offload::Offload;

/// A frame of the stack's own.
#[derive(Debug, Default)]
pub struct OwnFrame {
    /// Its octets.
    pub octets: Vec<u8>,
    /// What is left to do on it: the checksum of a TCP segment.
    pub offload: Offload,
}

/// Frames waiting for the wire; buffers are reused.
pub(super) struct Outgoing {
    frame_bytes_max: usize,
    queue: VecDeque<OwnFrame>,
    spare: Vec<Vec<u8>>,
    pub(super) translations: Translations,
}

/// Octets of Ethernet's, IPv4's and TCP's headers with all options.
const HEADERS_MAX: usize = 14 + 60 + 60;
/// Longer frames carry a stream, or what an echo request brought.
const SHORT_MAX: usize = 600;
/// Buffers kept for reuse.
const SPARE_MAX: usize = 64;

impl Outgoing {
    pub(super) fn new(frame_bytes_max: usize) -> Self {
        Self {
            frame_bytes_max,
            queue: VecDeque::new(),
            spare: Vec::new(),
            translations: Translations::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < HOST_FRAMES_MAX
    }

    pub(super) fn has_reply_room(&self) -> bool {
        self.queue.len() < HOST_FRAMES_MAX + HOST_REPLY_FRAMES_MAX
    }

    /// Queues a frame that is complete.
    pub(super) fn push(&mut self, octets: Vec<u8>) {
        self.queue.push_back(OwnFrame { octets, offload: Offload::None });
    }

    pub(super) fn pop(&mut self) -> Option<OwnFrame> {
        self.queue.pop_front()
    }

    /// The frame that was popped last was not taken.
    pub(super) fn unpop(&mut self, frame: OwnFrame) {
        self.queue.push_front(frame);
    }

    /// A frame that was popped is used up.
    pub(super) fn reuse(&mut self, frame: OwnFrame) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(frame.octets);
        }
    }
}

/// One poll's view: at most one frame comes in, any number go out.
pub(super) struct FrameDevice<'a> {
    pub(super) incoming: Option<&'a [u8]>,
    pub(super) outgoing: &'a mut Outgoing,
}

pub(super) struct Incoming<'a>(&'a [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub(super) struct Sender<'a>(&'a mut Outgoing);

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = self.0.spare.pop().unwrap_or_default();
        blank(&mut frame, len);
        let result = f(&mut frame);
        if self.0.translations.outgoing(&mut frame) {
            let offload = Offload::of_stack(&mut frame);
            self.0.queue.push_back(OwnFrame { octets: frame, offload });
        }
        result
    }
}

/// Makes a frame of so many octets out of one that was sent: headers begin as zeroes. The
/// stack fills all of the payload of a long frame.
fn blank(frame: &mut Vec<u8>, length: usize) {
    frame.truncate(length);
    let old = frame.len().min(if length > SHORT_MAX { HEADERS_MAX } else { length });
    frame.get_mut(..old).unwrap_or_default().fill(0);
    frame.resize(length, 0);
}

impl Device for FrameDevice<'_> {
    type RxToken<'b>
        = Incoming<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Sender<'b>
    where
        Self: 'b;

    fn receive(&mut self, _timestamp: Instant) -> Option<(Incoming<'_>, Sender<'_>)> {
        if !self.outgoing.has_reply_room() {
            return None;
        }
        self.incoming.take().map(|frame| (Incoming(frame), Sender(self.outgoing)))
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<Sender<'_>> {
        self.outgoing.has_room().then_some(Sender(self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.outgoing.frame_bytes_max;
        // What is received was looked at before, or need not be; what is sent is left to
        // whoever takes it.
        capabilities.checksum.tcp = Checksum::None;
        capabilities
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_a_used_frame_are_blank() {
        for (used, length) in [(1514, 1514), (60, 1514), (1514, 60), (0, 600), (1514, 600), (600, 601)] {
            let mut frame = alloc::vec![0xee; used];
            blank(&mut frame, length);
            let headers = if length > SHORT_MAX { HEADERS_MAX } else { length };
            assert_eq!(frame.len(), length);
            assert!(frame[..headers].iter().all(|octet| *octet == 0), "{used} {length}");
        }
    }
}
