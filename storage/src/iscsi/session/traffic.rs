//! Octets from and to the connections.

use alloc::vec::Vec;

use super::transfer::{Next, Outlet, Piece};
use super::{Payload, Session};
use crate::block::Octets;
use crate::iscsi::pdu::HEADER_BYTES;
use crate::planted::{Bug, planted};

/// Octets taken off a connection before anything else is looked at.
const TAKEN_AT_ONCE: usize = 2 << 20;
/// PDUs that are not guessed after one that was guessed wrongly.
const DOUBTED_PDUS: u32 = 16;

/// A connection whose octets can be put to several places at once.
pub trait Source {
    /// What ends a connection.
    type Error;

    /// Fills the places, one after the other. How many octets came: fewer than there is
    /// room, if no more are there now.
    ///
    /// # Errors
    /// The connection is gone.
    fn take<const N: usize>(&mut self, places: [&mut [u8]; N]) -> Result<usize, Self::Error>;
}

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
            self.receive_unusual(path, rest, payload);
        }
    }

    #[cold]
    fn receive_unusual(&mut self, path: usize, bytes: &[u8], payload: &mut dyn Payload) {
        if let Some(path) = self.paths.get_mut(path) {
            path.receive(&mut self.shared, bytes, payload);
            // Whatever was usual in there: a part of a header may wait for its rest.
            path.usual = 0;
        }
        self.settle();
    }

    /// The same as [`Self::receive`], for callers whose connection can put octets to
    /// several places at once: what it has now, or much of it. Data of reads goes to its
    /// place, if that can be known or guessed before; the buffer takes the rest.
    ///
    /// # Errors
    /// The connection is gone; tell [`Self::on_disconnected`].
    #[inline(always)]
    pub fn receive_from<S: Source>(
        &mut self,
        path: usize,
        source: &mut S,
        buffer: &mut [u8],
        now_ns: u64,
        memory: &mut impl Octets,
    ) -> Result<(), S::Error> {
        self.pass_time(now_ns);
        let mut taken = 0usize;
        while taken < TAKEN_AT_ONCE {
            let Some(it) = self.paths.get_mut(path) else { break };
            let (count, room);
            // What is guessed wrongly must have room in the buffer.
            let guessed_max = buffer.len().saturating_sub(2 * HEADER_BYTES);
            if let Some(next) = it.next_data(&self.shared, guessed_max)
                && let Some(data) = next.find(memory)
                && let Some((header, rest)) = buffer.split_first_chunk_mut()
            {
                if next.begun {
                    room = next.length.wrapping_add(HEADER_BYTES);
                    count = source.take([data, header])?;
                    self.receive_begun(path, next.length, count, header, memory);
                } else {
                    let behind = rest.get_mut(next.length..).and_then(<[u8]>::first_chunk_mut);
                    let Some(behind) = behind else { break };
                    room = next.length.wrapping_add(2 * HEADER_BYTES);
                    count = source.take([header, data, behind])?;
                    if count == 0 {
                        break;
                    }
                    if !self.receive_guessed(path, next.tag, next.length, count, [header, behind], memory) {
                        self.receive_unguessed(path, count, buffer, memory);
                    }
                }
            } else if it.expects_header() {
                // A header by itself tells where its data belongs.
                room = HEADER_BYTES;
                let Some(header) = buffer.get_mut(..room) else { break };
                count = source.take([header])?;
                it.doubt = it.doubt.saturating_sub(1);
                self.receive(path, buffer.get(..count).unwrap_or_default(), now_ns, memory);
            } else {
                (count, room) = (source.take([buffer])?, buffer.len());
                if count > 0 {
                    it.heard_ns = now_ns;
                    self.receive_some(path, buffer.get(..count).unwrap_or_default(), memory);
                }
            }
            if count < room {
                break;
            }
            taken = taken.wrapping_add(count);
        }
        Ok(())
    }

    /// Takes what has come of a header.
    #[inline(always)]
    fn receive_next(&mut self, path: usize, header: Option<&[u8]>, payload: &mut dyn Payload) {
        if let Some(header) = header {
            self.receive_some(path, header, payload);
        }
    }

    /// Takes so many octets of data, which are where they belong, and of the header behind.
    #[inline(always)]
    fn receive_begun(
        &mut self,
        path: usize,
        length: usize,
        count: usize,
        header: &[u8; HEADER_BYTES],
        payload: &mut dyn Payload,
    ) {
        if let Some(it) = self.paths.get_mut(path).filter(|_| count > 0) {
            it.took_direct(&mut self.shared, count.min(length));
            if count > length {
                self.receive_next(path, header.get(..count.wrapping_sub(length)), payload);
            }
        }
    }

    /// Takes so many octets of a header, data at the place where they belong if the header is
    /// as guessed, and the header behind it. False, if it is not.
    #[inline(always)]
    fn receive_guessed(
        &mut self,
        path: usize,
        tag: u32,
        length: usize,
        count: usize,
        [header, next]: [&[u8; HEADER_BYTES]; 2],
        memory: &mut impl Octets,
    ) -> bool {
        let Some(it) = self.paths.get_mut(path) else { return true };
        let data = count.wrapping_sub(HEADER_BYTES);
        let place = data.min(length);
        if count < HEADER_BYTES || !it.takes_guessed(&mut self.shared, header, (tag, length), place) {
            return false;
        }
        it.heard_ns = self.shared.now_ns;
        if data > place {
            self.receive_next(path, next.get(..data.wrapping_sub(place)), memory);
        }
        true
    }

    /// Takes so many octets that are not as was guessed, as if all had come to the buffer:
    /// data is behind its header then.
    #[cold]
    fn receive_unguessed(&mut self, path: usize, count: usize, buffer: &mut [u8], memory: &mut impl Octets) {
        let Some(it) = self.paths.get_mut(path) else { return };
        // Nothing has changed: it is the same place.
        if let Some(next) = it.next_data(&self.shared, usize::MAX)
            && let Some(data) = next.find(memory).filter(|_| !planted(Bug::WrongGuessKept))
        {
            let gap = buffer.iter_mut().skip(HEADER_BYTES);
            gap.zip(data).for_each(|(octet, came)| *octet = *came);
        }
        it.doubt = DOUBTED_PDUS;
        it.heard_ns = self.shared.now_ns;
        self.receive_some(path, buffer.get(..count).unwrap_or_default(), memory);
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

    /// The same, for callers who can send from several places at once: `pieces` names
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
            let mut next = Next::Unusual;
            if carries && it.begins_transfers(&self.shared, calm) {
                next = Next::More;
                while next == Next::More {
                    next = it.send_transfer(&mut self.shared, &mut outlet, payload);
                }
            } else if !carries && it.is_quiet(&self.shared) {
                next = Next::Nothing;
            }
            if next == Next::Nothing || !self.send_unusual(path, carries, &mut outlet, payload) {
                break;
            }
            calm = false;
        }
        outlet.octets
    }

    /// The same for whatever is not as usual, one command of it; false when there is
    /// nothing of that, or no room for it.
    #[cold]
    fn send_unusual(
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
