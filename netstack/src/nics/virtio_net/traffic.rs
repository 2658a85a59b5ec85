//! Frames between the caller and the rings.
//!
//! Spec: VIRTIO 1.2, 5.1.6.2 (transmission), 5.1.6.4 (received frames, over several
//! buffers).

use hv_abi::device::{DmaMemory, Mmio};
use hv_bus::virtio::ring::RingFault;

use super::{BUFFER_BYTES, RECEIVE_QUEUE, TAG_BYTES, TRANSMIT_QUEUE, VirtioNet};
use crate::frame::HEADER_BYTES;
use crate::limits::LARGE_FRAME_BYTES_MAX;
use crate::offload::{FEATURE_MERGE_RECEIVE, NET_HEADER_BYTES, Offload};

/// Lent receive buffers the doorbell may lag behind.
const NOTIFY_BATCH: u16 = 32;

/// What [`VirtioNet::take_frame`] found in the ring.
enum Taken {
    /// A frame of so many octets.
    Frame(usize, Offload),
    /// Nothing the caller can use; there may be more.
    Malformed,
}

impl<M: Mmio, D: DmaMemory> VirtioNet<M, D> {
    /// Copies the next received frame into `target`: its length, and what its sender
    /// left to do. A frame longer than `target` is dropped.
    pub fn receive(&mut self, target: &mut [u8]) -> Option<(usize, Offload)> {
        loop {
            if self.broken {
                return None;
            }
            match self.take_frame(target) {
                Ok(Some(Taken::Frame(length, offload))) => {
                    self.counters.received_frames = self.counters.received_frames.wrapping_add(1);
                    self.counters.received_bytes = self.counters.received_bytes.wrapping_add(length as u64);
                    return Some((length, offload));
                }
                Ok(Some(Taken::Malformed)) => {
                    self.counters.malformed = self.counters.malformed.wrapping_add(1);
                }
                Ok(None) => {
                    self.notify_receive();
                    return None;
                }
                Err(RingFault) => {
                    self.give_up();
                    return None;
                }
            }
        }
    }

    /// Takes all buffers of the next frame out of the ring and lends them again.
    fn take_frame(&mut self, target: &mut [u8]) -> Result<Option<Taken>, RingFault> {
        let Some((first, claimed)) = self.receive.take_used(&self.dma)? else { return Ok(None) };
        let mut header = [0; NET_HEADER_BYTES];
        let inside = claimed >= NET_HEADER_BYTES + HEADER_BYTES
            && self.dma.read(self.receive.buffer(first), &mut header);
        let mut length = 0;
        let from = self.receive.buffer(first) + NET_HEADER_BYTES;
        let mut fits = inside && self.gather(from, claimed - NET_HEADER_BYTES, target, &mut length);
        self.lend_again(first)?;
        for _ in 1..if inside { self.buffers(header)? } else { 1 } {
            // 5.1.6.4: all buffers of a frame are used at the same time.
            let (id, claimed) = self.receive.take_used(&self.dma)?.ok_or(RingFault)?;
            fits = fits && self.gather(self.receive.buffer(id), claimed, target, &mut length);
            self.lend_again(id)?;
        }
        let frame = if fits { target.get_mut(..length) } else { None };
        let offload = frame.and_then(|frame| Offload::parse(&header, frame).ok());
        Ok(Some(offload.map_or(Taken::Malformed, |offload| Taken::Frame(length, offload))))
    }

    /// Buffers a received frame is spread over.
    fn buffers(&self, header: [u8; NET_HEADER_BYTES]) -> Result<u16, RingFault> {
        let [.., low, high] = header;
        match u16::from_le_bytes([low, high]) {
            _ if self.features & FEATURE_MERGE_RECEIVE == 0 => Ok(1),
            0 => Err(RingFault),
            buffers => Ok(buffers),
        }
    }

    /// Copies a received buffer behind what is in `target` already.
    fn gather(&self, from: usize, count: usize, target: &mut [u8], length: &mut usize) -> bool {
        let end = length.saturating_add(count);
        let copied = target.get_mut(*length..end).is_some_and(|target| self.dma.read(from, target));
        *length = end;
        copied
    }

    fn lend_again(&mut self, id: u16) -> Result<(), RingFault> {
        if !self.receive.lend(&self.dma, id, BUFFER_BYTES) {
            return Err(RingFault);
        }
        self.unannounced = self.unannounced.saturating_add(1);
        if self.unannounced >= NOTIFY_BATCH {
            self.notify_receive();
        }
        Ok(())
    }

    /// Queues a frame with what is left to do on it, which the card
    /// [accepts](Self::accepts); false when the ring is full (try again after the
    /// transmit interrupt, armed by [`Self::arm`]) or the frame is too long. The
    /// doorbell rings at [`Self::flush`].
    pub fn transmit(&mut self, frame: &[u8], offload: &Offload) -> bool {
        let length = frame.len().saturating_add(NET_HEADER_BYTES);
        let longest = match offload {
            Offload::Segments(..) => LARGE_FRAME_BYTES_MAX,
            _ => HEADER_BYTES + TAG_BYTES + usize::from(self.mtu),
        };
        if self.broken || !(HEADER_BYTES..=longest).contains(&frame.len()) {
            return false;
        }
        if self.transmit.free_count() < length.div_ceil(BUFFER_BYTES) {
            self.reclaim();
        }
        let Some(head) = self.transmit.take_chain(length) else {
            self.counters.transmit_full = self.counters.transmit_full.wrapping_add(1);
            return false;
        };
        let queued = self.transmit.fill(&self.dma, head, 0, &offload.header(0))
            && self.transmit.fill(&self.dma, head, NET_HEADER_BYTES, frame)
            && self.transmit.lend(&self.dma, head, length);
        if queued {
            self.counters.transmitted_frames = self.counters.transmitted_frames.wrapping_add(1);
            self.counters.transmitted_bytes =
                self.counters.transmitted_bytes.wrapping_add(frame.len() as u64);
        } else {
            self.transmit.put_free(head);
        }
        queued
    }

    /// Descriptors that must be free before the caller brings a frame, which may be
    /// a large one, or become many small ones.
    fn reserve(&self) -> usize {
        let largest = (LARGE_FRAME_BYTES_MAX + NET_HEADER_BYTES).div_ceil(BUFFER_BYTES);
        largest.min(self.transmit.size() / 2).max(1)
    }

    /// Whether a frame can be queued now.
    pub fn can_transmit(&mut self) -> bool {
        if self.transmit.free_count() < self.reserve() {
            self.reclaim();
        }
        !self.broken && self.transmit.free_count() >= self.reserve()
    }

    /// Tells the device of all queued frames, once.
    pub fn flush(&mut self) {
        if !self.broken && self.transmit.ring.wants_notification(&self.dma) {
            self.ring(TRANSMIT_QUEUE);
        }
    }

    pub(super) fn reclaim(&mut self) {
        loop {
            match self.transmit.take_used(&self.dma) {
                Ok(Some((head, _))) => self.transmit.put_free(head),
                Ok(None) => return,
                Err(RingFault) => return self.give_up(),
            }
        }
    }

    /// Asks for interrupts before sleeping: for received frames always, for sent
    /// ones when the ring is full. True when there is work already: do not sleep.
    pub fn arm(&mut self) -> bool {
        if self.broken {
            return false;
        }
        let full = self.transmit.free_count() < self.reserve();
        let sent = self.transmit.ring.set_interrupt(&self.dma, full) && full;
        self.receive.ring.set_interrupt(&self.dma, true) || sent
    }

    /// Suppresses receive interrupts while polling.
    pub fn disarm(&mut self) {
        self.receive.ring.set_interrupt(&self.dma, false);
    }

    /// The card returns what it was not given.
    #[cold]
    fn give_up(&mut self) {
        if !self.broken {
            log::error!(target: "network", "card {:?} breaks the rules of its rings and is stopped", self.mac);
        }
        self.fail();
    }

    /// Resets the card at once, so that it no longer writes our memory: it is broken, or
    /// the caller does not want it.
    pub fn fail(&mut self) {
        self.broken = true;
        self.function.reset();
    }

    pub(super) fn notify_receive(&mut self) {
        self.unannounced = 0;
        if self.receive.ring.wants_notification(&self.dma) {
            self.ring(RECEIVE_QUEUE);
        }
    }

    fn ring(&mut self, queue: u16) {
        let doorbell = if queue == RECEIVE_QUEUE { self.receive_doorbell } else { self.transmit_doorbell };
        self.function.notify(doorbell, queue);
        self.counters.notifications = self.counters.notifications.wrapping_add(1);
    }
}
