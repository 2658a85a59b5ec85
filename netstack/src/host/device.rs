//! The stack's frame queue, as smoltcp's device.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::num::{NonZeroU16, NonZeroUsize};

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;

use super::Lease;
use super::arp::Arp;
use super::attached::Attached;
use super::neighbours::{Neighbours, Sent};
use super::own_frame::OwnFrame;
use super::paths::Paths;
use super::translations::Translations;
use crate::frame::{ETHERTYPE_ARP, ETHERTYPE_IPV4, HEADER_BYTES, MacAddress, address_at};
use crate::limits::{
    HOST_FRAMES_BYTES_MAX, HOST_FRAMES_MAX, HOST_LARGE_FRAME_BYTES_MAX, HOST_REPLY_BYTES_MAX,
    HOST_REPLY_FRAMES_MAX, HOST_SPARE_BYTES_MAX, HOST_SPARE_FRAMES_MAX,
};
use crate::offload::{Accepts, Offload};

/// Frames waiting for the wire; buffers are reused.
pub(super) struct Outgoing {
    frame_bytes_max: usize,
    /// The longest frame that the NIC cuts, if it cuts any.
    large_frame_bytes_max: Option<NonZeroUsize>,
    queue: VecDeque<OwnFrame>,
    /// Octets of the buffers of all frames in the queue, which may be longer than those.
    queued_bytes: usize,
    /// Short ones, and others: no short frame keeps a long one's buffer.
    spare: [Vec<Vec<u8>>; 2],
    /// Octets of those.
    spare_bytes: usize,
    pub(super) translations: Translations,
    pub(super) neighbours: Neighbours,
    pub(super) attached: Attached,
    pub(super) paths: Paths,
    /// The time of what is done now.
    pub(super) now_ns: u64,
    mac: MacAddress,
    lease: Option<Lease>,
    /// From where the packet came that the stack is given.
    reply_to: Option<(Ipv4Addr, MacAddress)>,
    /// The server that the DHCP client asks for.
    dhcp_question: Option<Ipv4Addr>,
}

/// Octets of Ethernet's, IPv4's and TCP's headers with all options.
const HEADERS_MAX: usize = 14 + 60 + 60;
/// The same without any.
const HEADERS_MIN: usize = 14 + 20 + 20;
/// Longer frames carry a stream, or what an echo request brought.
const SHORT_MAX: usize = 600;
/// Buffers for frames of a common wire are not longer.
const SHORT_BUFFER_BYTES: usize = 2048;
/// Buffers of each kind kept for reuse.
const SPARE_MAX: usize = HOST_SPARE_FRAMES_MAX;
/// Their octets: a buffer stays as long as the longest frame that it was used for.
const SPARE_BYTES_MAX: usize = HOST_SPARE_BYTES_MAX;

impl Outgoing {
    pub(super) fn new(mac: MacAddress, frame_bytes_max: usize, accepts: Accepts) -> Self {
        // As many whole pieces as fit: the last one is not short where more follows.
        let piece = frame_bytes_max.saturating_sub(HEADERS_MIN).max(1);
        let pieces = HOST_LARGE_FRAME_BYTES_MAX.saturating_sub(HEADERS_MIN) / piece;
        let large = NonZeroUsize::new(HEADERS_MIN.saturating_add(pieces.saturating_mul(piece)));
        Self {
            frame_bytes_max,
            large_frame_bytes_max: large.filter(|_| accepts.checksum && accepts.tso4),
            queue: VecDeque::new(),
            queued_bytes: 0,
            spare: [const { Vec::new() }; 2],
            spare_bytes: 0,
            translations: Translations::default(),
            neighbours: Neighbours::default(),
            attached: Attached::default(),
            paths: Paths::default(),
            now_ns: 0,
            mac,
            lease: None,
            reply_to: None,
            dhcp_question: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < HOST_FRAMES_MAX && self.queued_bytes < HOST_FRAMES_BYTES_MAX
    }

    pub(super) fn has_reply_room(&self) -> bool {
        self.queue.len() < HOST_FRAMES_MAX + HOST_REPLY_FRAMES_MAX
            && self.queued_bytes < HOST_FRAMES_BYTES_MAX + HOST_REPLY_BYTES_MAX
    }

    /// Octets of the longest segment that a peer may send: what the link takes, and what the
    /// path there does, as far as is known (RFC 9293, 3.7.1).
    pub(super) fn segment_bytes(&self, peer: Ipv4Addr) -> u16 {
        let link = u16::try_from(self.frame_bytes_max.saturating_sub(HEADERS_MIN)).unwrap_or(u16::MAX);
        let path = self.paths.packet_bytes(peer, self.now_ns).map(|bytes| bytes.saturating_sub(40));
        path.map_or(link, |path| path.min(link))
    }

    /// Queues a frame that is complete.
    pub(super) fn push(&mut self, octets: Vec<u8>) {
        let length = octets.len();
        self.enqueue(OwnFrame { buffer: octets, length, offload: Offload::None });
    }

    fn enqueue(&mut self, frame: OwnFrame) {
        self.queued_bytes = self.queued_bytes.saturating_add(frame.buffer.len());
        self.queue.push_back(frame);
    }

    pub(super) fn pop(&mut self) -> Option<OwnFrame> {
        let frame = self.queue.pop_front()?;
        self.queued_bytes = self.queued_bytes.saturating_sub(frame.buffer.len());
        Some(frame)
    }

    /// The frame that was popped last was not taken.
    pub(super) fn unpop(&mut self, frame: OwnFrame) {
        self.queued_bytes = self.queued_bytes.saturating_add(frame.buffer.len());
        self.queue.push_front(frame);
    }

    /// A frame that was popped is used up.
    pub(super) fn reuse(&mut self, frame: OwnFrame) {
        let bytes = self.spare_bytes.saturating_add(frame.buffer.len());
        let [short, long] = &mut self.spare;
        let list = if frame.buffer.len() <= SHORT_BUFFER_BYTES { short } else { long };
        if list.len() < SPARE_MAX && bytes <= SPARE_BYTES_MAX {
            self.spare_bytes = bytes;
            list.push(frame.buffer);
        }
    }

    pub(super) fn set_lease(&mut self, lease: Option<Lease>) {
        let network = |lease: &Option<Lease>| lease.map(|it| (it.address, it.prefix));
        if network(&lease) != network(&self.lease) {
            self.neighbours.clear();
        }
        self.lease = lease;
        // A guest that has its hardware address must be refused, so that is asked for now.
        if let Some(gateway) = lease.and_then(|lease| lease.gateway) {
            self.neighbours.expect(gateway, self.now_ns);
            self.ask();
        }
    }

    /// The neighbour that packets to an address are given to.
    pub(super) fn next_hop(&self, target: Ipv4Addr) -> Option<Ipv4Addr> {
        let lease = self.lease?;
        if lease.is_direct(target) { Some(target) } else { lease.gateway }
    }

    /// The stack is given a packet from there.
    pub(super) fn begin_reply(&mut self, frame: &[u8]) {
        let source = frame.get(6..).and_then(|rest| rest.first_chunk()).map(|mac| MacAddress(*mac));
        self.reply_to = address_at(frame, 26).zip(source.filter(|mac| mac.is_station()));
        if let Some((address, mac)) = self.reply_to
            && let Some(hop) = self.next_hop(address)
        {
            self.neighbours.heard(hop, mac);
        }
    }

    pub(super) fn end_reply(&mut self) {
        self.reply_to = None;
    }

    /// The server that the DHCP client asks for, and the node's address.
    pub(super) fn take_dhcp_question(&mut self) -> Option<(Ipv4Addr, Ipv4Addr)> {
        self.dhcp_question.take().zip(self.lease.map(|lease| lease.address))
    }

    fn write_header(&self, frame: &mut [u8]) {
        if let Some(source) = frame.get_mut(6..12) {
            source.copy_from_slice(&self.mac.0);
        }
        if let Some(ethertype) = frame.get_mut(12..14) {
            ethertype.copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
        }
    }

    /// Leads a packet of the stack's to its neighbour, who may have to be found first.
    fn dispatch(&mut self, frame: OwnFrame) {
        let Some(target) = address_at(frame.octets(), 30) else { return self.reuse(frame) };
        if target.is_broadcast() {
            return self.enqueue_to(MacAddress::BROADCAST, frame);
        }
        if let Some(mac) = self.attached.station(target) {
            return self.enqueue_to(mac, frame);
        }
        let Some(hop) = self.next_hop(target) else { return self.reuse(frame) };
        let reply = self.reply_to.filter(|(address, _)| *address == target);
        if let Some((_, mac)) = reply.filter(|_| self.neighbours.station(hop).is_none()) {
            return self.enqueue_to(mac, frame);
        }
        match self.neighbours.send(hop, frame, self.now_ns) {
            Sent::To(mac, frame) => {
                self.enqueue_to(mac, frame);
                self.ask();
            }
            Sent::Parked => self.ask(),
            Sent::Dropped(frame) => {
                self.reuse(frame);
                self.ask();
            }
        }
    }

    fn enqueue_to(&mut self, mac: MacAddress, mut frame: OwnFrame) {
        if let Some(destination) = frame.buffer.get_mut(..6) {
            destination.copy_from_slice(&mac.0);
        }
        self.enqueue(frame);
    }

    /// Asks for neighbours, as far as that is due.
    pub(super) fn ask(&mut self) {
        let Some(lease) = self.lease else { return };
        while self.has_reply_room()
            && let Some(question) = self.neighbours.next_question(self.now_ns)
        {
            self.push(Arp::question((self.mac, lease.address), question.target, question.to));
        }
    }

    /// A station claims an address without being asked.
    pub(super) fn heard_claim(&mut self, address: Ipv4Addr, mac: MacAddress) {
        self.neighbours.claimed(address, mac, self.now_ns);
        self.ask();
    }

    /// A station answers; what waited for it is sent.
    pub(super) fn heard_answer(&mut self, address: Ipv4Addr, mac: MacAddress) {
        for frame in self.neighbours.answered(address, mac, self.now_ns) {
            self.enqueue_to(mac, frame);
        }
        self.ask();
    }

    /// A buffer for a frame of so many octets, which may have to become longer.
    fn take_spare(&mut self, length: usize) -> Vec<u8> {
        let [short, long] = &mut self.spare;
        let list = if length <= SHORT_BUFFER_BYTES { short } else { long };
        let buffer = list.pop().unwrap_or_default();
        self.spare_bytes = self.spare_bytes.saturating_sub(buffer.len());
        buffer
    }
}

/// One poll's view: at most one frame, or packet, comes in, any number go out.
pub(super) struct FrameDevice<'a> {
    pub(super) incoming: Option<&'a [u8]>,
    pub(super) outgoing: &'a mut Outgoing,
    /// Whether the stack knows of Ethernet.
    pub(super) medium: Medium,
}

pub(super) struct Incoming<'a>(&'a [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub(super) struct Sender<'a> {
    outgoing: &'a mut Outgoing,
    /// Octets of the pieces that the payload is to be cut into.
    size: Option<NonZeroU16>,
    /// Octets of a header that the stack does not write.
    skip: usize,
}

impl<'a> Sender<'a> {
    const fn new(outgoing: &'a mut Outgoing, medium: Medium) -> Self {
        let skip = if matches!(medium, Medium::Ip) { HEADER_BYTES } else { 0 };
        Self { outgoing, size: None, skip }
    }
}

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let length = len.saturating_add(self.skip);
        let mut buffer = self.outgoing.take_spare(length);
        let frame = blank(&mut buffer, length);
        let result = f(frame.get_mut(self.skip..).unwrap_or_default());
        if self.skip > 0 {
            self.outgoing.write_header(frame);
        }
        if frame.get(12..14) == Some(&ETHERTYPE_ARP.to_be_bytes()) {
            self.outgoing.dhcp_question = address_at(frame, 38);
        } else if self.outgoing.translations.outgoing(frame) {
            let (link, now_ns) = (self.size.map(NonZeroU16::get), self.outgoing.now_ns);
            let path = self.outgoing.paths.sent(frame, link, now_ns).and_then(NonZeroU16::new);
            let offload = Offload::of_stack(frame, path.or(self.size));
            self.outgoing.dispatch(OwnFrame { buffer, length, offload });
        }
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.size = meta.segmentation_offload_size;
    }
}

/// Makes a frame of so many octets in the buffer of one that was sent: headers begin as
/// zeroes. The stack fills all of the payload of a long frame.
fn blank(buffer: &mut Vec<u8>, length: usize) -> &mut [u8] {
    if buffer.len() < length {
        // As long as needed and no longer, unlike one that grows.
        *buffer = alloc::vec![0; length];
    }
    let frame = buffer.get_mut(..length).unwrap_or_default();
    let headers = if length > SHORT_MAX { HEADERS_MAX } else { length };
    frame.get_mut(..headers).unwrap_or_default().fill(0);
    frame
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
        let medium = self.medium;
        self.incoming.take().map(|frame| (Incoming(frame), Sender::new(self.outgoing, medium)))
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<Sender<'_>> {
        let medium = self.medium;
        self.outgoing.has_room().then_some(Sender::new(self.outgoing, medium))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        let skip = if self.medium == Medium::Ip { HEADER_BYTES } else { 0 };
        capabilities.medium = self.medium;
        capabilities.max_transmission_unit = self.outgoing.frame_bytes_max.saturating_sub(skip);
        // What is received was looked at before, or need not be; what is sent is left to
        // the NIC.
        capabilities.checksum.tcp = Checksum::None;
        let large = self.outgoing.large_frame_bytes_max;
        capabilities.segmentation.tcpv4 =
            large.and_then(|bytes| NonZeroUsize::new(bytes.get().saturating_sub(skip)));
        capabilities
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_bounded_by_their_octets_too() {
        let mut outgoing = Outgoing::new(MacAddress([2; 6]), 1514, Accepts::default());
        while outgoing.has_room() {
            outgoing.push(alloc::vec![0; HOST_LARGE_FRAME_BYTES_MAX]);
        }
        assert_eq!(outgoing.len(), HOST_FRAMES_BYTES_MAX.div_ceil(HOST_LARGE_FRAME_BYTES_MAX));
        let frame = outgoing.pop().unwrap();
        assert!(outgoing.has_room());
        outgoing.unpop(frame);
        assert!(!outgoing.has_room());
    }

    #[test]
    fn a_short_frame_frees_its_long_buffer() {
        let mut outgoing = Outgoing::new(MacAddress([2; 6]), 1514, Accepts::default());
        let send = |outgoing: &mut Outgoing, length: usize| {
            // To all: there is no station to ask for.
            Sender::new(outgoing, Medium::Ethernet).consume(length, |frame| frame[30..34].fill(0xff));
        };
        // Long frames leave; short ones that follow them wait for a card that takes nothing.
        for _ in 0..8 {
            send(&mut outgoing, HOST_LARGE_FRAME_BYTES_MAX);
        }
        for frame in core::iter::from_fn(|| outgoing.pop()).collect::<Vec<_>>() {
            outgoing.reuse(frame);
        }
        (0..8).for_each(|_| send(&mut outgoing, 60));
        assert!(outgoing.queue.iter().all(|frame| frame.buffer.len() <= SHORT_BUFFER_BYTES));
        // Whatever waits, its buffers count, and not what they are used for.
        while outgoing.has_reply_room() {
            let (length, offload) = (60, Offload::None);
            outgoing.enqueue(OwnFrame { buffer: alloc::vec![0; 30_000], length, offload });
        }
        let held: usize = outgoing.queue.iter().map(|frame| frame.buffer.len()).sum();
        assert!(held < HOST_FRAMES_BYTES_MAX + HOST_REPLY_BYTES_MAX + 30_000);
    }

    #[test]
    fn headers_of_a_used_frame_are_blank() {
        for (used, length) in [(1514, 1514), (60, 1514), (1514, 60), (0, 600), (1514, 600), (600, 601)] {
            let mut buffer = alloc::vec![0xee; used];
            let frame = blank(&mut buffer, length);
            let headers = if length > SHORT_MAX { HEADERS_MAX } else { length };
            assert_eq!(frame.len(), length);
            assert!(frame[..headers].iter().all(|octet| *octet == 0), "{used} {length}");
        }
    }
    #[test]
    fn buffers_that_are_kept_are_bounded() {
        let mut outgoing =
            Outgoing::new(MacAddress([2; 6]), 1_514, Accepts { checksum: true, tso4: true, tso6: false });
        for length in [1_514, HOST_LARGE_FRAME_BYTES_MAX] {
            for _ in 0..2 * SPARE_MAX {
                Sender::new(&mut outgoing, Medium::Ethernet).consume(length, |frame| {
                    // To all: there is no station to ask for.
                    frame[30..34].fill(0xff);
                });
            }
            let frames: Vec<OwnFrame> = core::iter::from_fn(|| outgoing.pop()).collect();
            assert_eq!((frames.len(), outgoing.queued_bytes), (2 * SPARE_MAX, 0));
            frames.into_iter().for_each(|frame| outgoing.reuse(frame));
            let kept = outgoing.spare.iter().flatten().map(Vec::len).sum::<usize>();
            assert_eq!(kept, outgoing.spare_bytes);
            assert!(outgoing.spare.iter().all(|list| list.len() <= SPARE_MAX) && kept > 0);
            assert!(kept <= SPARE_BYTES_MAX);
        }
    }
}
