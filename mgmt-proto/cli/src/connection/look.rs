//! Requests that only look, asked again when their session breaks; and streams that go on
//! where they stood.

use super::{ATTEMPT_TIMEOUT, Connection, Meant, RETRY_PAUSE, establish, wrong_key};
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::verb::{Reply, Request, Stream};
use std::time::Instant;

/// What happened before an answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// The session broke, and another one took its place.
    Broke,
    /// dom0 was restarted too.
    Restarted,
}

/// What a stream of bytes says next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes; none when nothing is new.
    Bytes(Vec<u8>),
    /// The node does not have so many bytes any more; then these.
    Missed(u64, Vec<u8>),
    /// It began anew: what came before the break is not in it.
    BeginsAnew,
}

/// Where a stream of bytes goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The offset to ask for.
    pub from: u64,
    is_first: bool,
}

impl Cursor {
    /// At the oldest byte that is kept.
    #[must_use]
    pub const fn new() -> Self {
        Self { from: 0, is_first: true }
    }

    /// The stream is another one from now on.
    pub const fn begin_anew(&mut self) {
        *self = Self::new();
    }

    /// Takes what a node has from [`Self::from`] on.
    pub fn take(&mut self, stream: Stream) -> Piece {
        let Stream { bytes, next } = stream;
        let began = next.saturating_sub(bytes.len() as u64);
        // Nobody has missed what was gone before he came.
        let was_first = std::mem::replace(&mut self.is_first, false);
        if began < self.from {
            self.begin_anew();
            return Piece::BeginsAnew;
        }
        let missed = began - self.from;
        self.from = next;
        if missed == 0 || was_first { Piece::Bytes(bytes) } else { Piece::Missed(missed, bytes) }
    }
}

/// Whether a failure is one of the way to the node.
const fn is_broken(failure: &Failure) -> bool {
    matches!(failure.code, Code::Unreachable | Code::Deadline)
}

impl Connection {
    /// Asks what only looks. When the session breaks, another one asks again, as long as the
    /// node comes back within the time for an answer. `goes_on` is told why between the
    /// attempts; with false, that is the end.
    ///
    /// # Errors
    /// The node's own failure, or what happened on the way to it.
    pub fn look(
        &mut self,
        request: &Request,
        goes_on: &mut dyn FnMut(&Failure) -> bool,
    ) -> Result<(Reply, Before), Failure> {
        let mut before = Before::Nothing;
        let mut deadline: Option<Instant> = None;
        loop {
            let broken = match self.request(request.clone()) {
                Ok(reply) => return Ok((reply, before)),
                Err(failure) if is_broken(&failure) => failure,
                Err(failure) => return Err(failure),
            };
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.answer_timeout);
            loop {
                if !goes_on(&broken) {
                    return Err(broken);
                }
                match self.reopen() {
                    Ok(same_dom0) => {
                        let now = if same_dom0 { Before::Broke } else { Before::Restarted };
                        before = before.max(now);
                        break;
                    }
                    Err(failure) if failure.code == Code::Unreachable && Instant::now() < deadline => {
                        std::thread::sleep(RETRY_PAUSE);
                    }
                    Err(_) => return Err(broken),
                }
            }
        }
    }

    /// Ends the session: an answer to it may still come, and nobody waits for it. The next
    /// [`Self::look`] opens another one.
    ///
    /// # Errors
    /// The failure, unless it was one of the way to the node.
    pub fn give_up_session(&mut self, failure: Failure) -> Result<(), Failure> {
        if !is_broken(&failure) {
            return Err(failure);
        }
        self.pump.stream().shut();
        Ok(())
    }

    /// Another session with the same node in the place of one that broke; whether it is
    /// with the same dom0.
    pub(super) fn reopen(&mut self) -> Result<bool, Failure> {
        let (node, boot) = (*self.node(), *self.boot_nonce());
        let proved = self.proved();
        let meant = Meant { key: Some(node), pass: Some(proved.pass), name: proved.name.clone() };
        let pump = establish(&self.address, self.key.as_ref(), &meant, ATTEMPT_TIMEOUT)?;
        if *pump.client().node() != node {
            return Err(wrong_key(&self.address, pump.client().node(), &node));
        }
        (self.pump, self.is_told) = (pump, false);
        Ok(*self.boot_nonce() == boot)
    }
}

#[cfg(test)]
mod tests {
    use super::{Cursor, Piece};
    use mgmt_proto::verb::Stream;

    #[test]
    fn a_stream_goes_on_or_says_what_is_missing() {
        let stream = |bytes: &[u8], next| Stream { bytes: bytes.to_vec(), next };
        let mut cursor = Cursor::new();
        assert_eq!(
            cursor.take(stream(b"abc", 103)),
            Piece::Bytes(b"abc".to_vec()),
            "the oldest that is kept"
        );
        assert_eq!(cursor.take(stream(b"", 103)), Piece::Bytes(Vec::new()));
        assert_eq!(cursor.take(stream(b"de", 105)), Piece::Bytes(b"de".to_vec()));
        assert_eq!(cursor.take(stream(b"z", 126)), Piece::Missed(20, b"z".to_vec()));
        assert_eq!(cursor.from, 126);
        // Of a node that was restarted, and clamps to what it has.
        assert_eq!(cursor.take(stream(b"", 7)), Piece::BeginsAnew);
        assert_eq!((cursor.from, cursor.take(stream(b"anew", 4))), (0, Piece::Bytes(b"anew".to_vec())));
        assert_eq!(cursor.take(stream(&[1; 9], 3)), Piece::BeginsAnew, "an offset that lies");
    }
}
