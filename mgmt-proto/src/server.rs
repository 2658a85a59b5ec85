//! The node's end of a session, as a state machine over bytes.
//!
//! It begins when an operator has proved to be one, sends the node's own proof, and
//! counts once the operator's first record has opened. It ends at the first thing
//! that does not belong.

use crate::envelope::{self, Binding, Verified};
use crate::handshake::{Keys, PeerFault};
use crate::job::Progress;
use crate::limits::{
    FIRST_RECORD_NS, IDLE_TIMEOUT_NS, RECEIVE_BYTES, RECORD_BYTES, SHORT_RECORD_BYTES, TRANSMIT_BYTES,
};
use crate::record::{
    self, KIND_COMMAND, KIND_DATA, KIND_HERE, KIND_OUTCOME, KIND_PROGRESS, LENGTH_BYTES, TAG_BYTES,
};
use crate::trust::{Role, Trust};
use crate::verb::{Outcome, Request};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use ed25519_dalek::SigningKey;
use serde::Serialize;
use zeroize::Zeroizing;

/// Who the node is in this boot.
pub struct Identity {
    /// Its key.
    pub key: SigningKey,
    /// The nonce of this boot.
    pub boot_nonce: [u8; 32],
    /// The name that was sealed.
    pub name: String,
    /// SHA-256 of the settings that were sealed.
    pub manifest: [u8; 32],
    /// Keys it had before, by which it is known still.
    pub former: Vec<[u8; 32]>,
}

/// What an operator sent.
#[derive(Debug)]
pub enum Incoming {
    /// A command, with the role of who signed it.
    Command(Box<Verified<Request>>, Role),
    /// Bytes of the blob announced last.
    Data(Vec<u8>),
}

/// What a look at what was received gave.
enum Step {
    /// No whole record.
    Waits,
    /// The operator is there.
    Here,
    Came(Incoming),
}

/// Longest buffer that a session keeps when there is nothing in it.
const IDLE_CAPACITY: usize = 8 * 1024;

/// An outcome as it is before it is sealed, for as many sessions as wait for it.
pub struct Encoded(Zeroizing<Vec<u8>>);

impl Encoded {
    /// Encodes an outcome.
    ///
    /// # Errors
    /// [`PeerFault::Length`].
    pub fn new(outcome: &Outcome) -> Result<Self, PeerFault> {
        encode(KIND_OUTCOME, outcome).map(Self)
    }
}

/// The plain text of a record.
fn encode<T: Serialize>(kind: u8, body: &T) -> Result<Zeroizing<Vec<u8>>, PeerFault> {
    let plain = postcard::to_extend(body, alloc::vec![kind]).map_err(|_| PeerFault::Length)?;
    let plain = Zeroizing::new(plain);
    if plain.len() > RECORD_BYTES { Err(PeerFault::Length) } else { Ok(plain) }
}

/// Makes room for so many more bytes in a buffer that never has more than `most`, which
/// doubling would go beyond.
fn reserve_within(buffer: &mut Vec<u8>, more: usize, most: usize) {
    let needed = buffer.len().saturating_add(more);
    if needed > buffer.capacity() {
        let wanted = buffer.capacity().saturating_mul(2).min(most).max(needed);
        buffer.reserve_exact(wanted.saturating_sub(buffer.len()));
    }
}

/// Wiped when the session ends.
struct Established {
    keys: Keys,
    binding: Binding,
    expected: u64,
}

/// One session.
pub struct Server {
    /// None when it is over.
    established: Option<Box<Established>>,
    operator: [u8; 32],
    /// The first record has opened: the handshake was neither replayed nor only begun.
    is_confirmed: bool,
    received: Vec<u8>,
    transmit: Vec<u8>,
    /// An outcome that is to be sealed yet.
    waiting: Zeroizing<Vec<u8>>,
    deadline_ns: u64,
}

impl Server {
    /// A session with an operator who has signed, and `answer` to be sent.
    pub(crate) fn new(
        keys: Keys,
        operator: [u8; 32],
        identity: &Identity,
        answer: &[u8],
        now_ns: u64,
    ) -> Self {
        let node = identity.key.verifying_key().to_bytes();
        let binding = Binding { node, boot_nonce: identity.boot_nonce, session: keys.session };
        Self {
            established: Some(Box::new(Established { keys, binding, expected: 1 })),
            operator,
            is_confirmed: false,
            received: Vec::new(),
            transmit: answer.to_vec(),
            waiting: Zeroizing::new(Vec::new()),
            deadline_ns: now_ns.saturating_add(FIRST_RECORD_NS),
        }
    }

    /// Whether the operator is there: its first record has opened.
    #[must_use]
    pub const fn is_established(&self) -> bool {
        self.is_confirmed
    }

    /// Whose session it is.
    #[must_use]
    pub const fn operator(&self) -> &[u8; 32] {
        &self.operator
    }

    /// When the session ends for lack of anything. Of several, the one that is silent
    /// longest is the first.
    #[must_use]
    pub const fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    /// Whether something came that was not looked at, or not all of it.
    #[must_use]
    pub const fn has_received(&self) -> bool {
        !self.received.is_empty()
    }

    /// How many bytes may be received now.
    #[must_use]
    pub fn room(&self) -> usize {
        if self.established.is_some() { RECEIVE_BYTES.saturating_sub(self.received.len()) } else { 0 }
    }

    /// Takes bytes, at most [`Self::room`].
    ///
    /// # Errors
    /// The peer did something wrong; the session is over and nothing is said.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), PeerFault> {
        if bytes.len() > self.room() {
            self.end();
            return Err(PeerFault::Flood);
        }
        reserve_within(&mut self.received, bytes.len(), RECEIVE_BYTES);
        self.received.extend_from_slice(bytes);
        Ok(())
    }

    /// The next thing the operator sent, if it is complete.
    ///
    /// # Errors
    /// The peer did something wrong; the session is over and nothing is said.
    pub fn next(&mut self, trust: &Trust, now_ns: u64) -> Result<Option<Incoming>, PeerFault> {
        let result = self.advance(trust, now_ns);
        if result.is_err() {
            self.end();
        }
        result
    }

    /// Wipes the keys and drops what waits.
    fn end(&mut self) {
        self.established = None;
        self.received = Vec::new();
        self.transmit = Vec::new();
        self.waiting = Zeroizing::new(Vec::new());
    }

    fn advance(&mut self, trust: &Trust, now_ns: u64) -> Result<Option<Incoming>, PeerFault> {
        loop {
            match self.advance_one(trust, now_ns)? {
                Step::Waits => return Ok(None),
                Step::Here => {}
                Step::Came(incoming) => return Ok(Some(incoming)),
            }
        }
    }

    fn advance_one(&mut self, trust: &Trust, now_ns: u64) -> Result<Step, PeerFault> {
        let Some(established) = &mut self.established else { return Ok(Step::Waits) };
        let Some(length) = record::length(&self.received)? else { return Ok(Step::Waits) };
        // The role is looked up each time: revocation holds at once.
        let role = trust.role(&self.operator).ok_or(PeerFault::Stranger)?;
        // A long one is much work before anything is known of it.
        if length > SHORT_RECORD_BYTES && role < Role::Admin {
            return Err(PeerFault::Length);
        }
        let Some(sealed) = self.received.get(LENGTH_BYTES..LENGTH_BYTES + length) else {
            return Ok(Step::Waits);
        };
        let plain = Zeroizing::new(established.keys.opener.open(sealed)?);
        self.received.drain(..LENGTH_BYTES + length);
        self.is_confirmed = true;
        self.deadline_ns = now_ns.saturating_add(IDLE_TIMEOUT_NS);
        match plain.split_first() {
            Some((&KIND_COMMAND, command)) => {
                let binding = &established.binding;
                let verified = envelope::open(command, &self.operator, binding, established.expected)?;
                established.expected += 1;
                Ok(Step::Came(Incoming::Command(Box::new(verified), role)))
            }
            // An operator who may no longer announce a blob may not resume one either.
            Some((&KIND_DATA, bytes)) if role >= Role::Operator => {
                Ok(Step::Came(Incoming::Data(bytes.to_vec())))
            }
            Some((&KIND_HERE, [])) => Ok(Step::Here),
            _ => Err(PeerFault::Unexpected),
        }
    }

    /// Queues the outcome of a command.
    ///
    /// # Errors
    /// Too much is queued already, or the session is over.
    pub fn send(&mut self, outcome: &Outcome) -> Result<(), PeerFault> {
        self.send_record(KIND_OUTCOME, outcome)
    }

    /// Queues the outcome of a command, which is sealed by [`Self::seal_waiting`]: of a long
    /// one that is the most work.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_later(&mut self, outcome: &Encoded) -> Result<(), PeerFault> {
        self.seal_waiting();
        self.check_room(&outcome.0)?;
        self.waiting = Zeroizing::new(outcome.0.to_vec());
        // Both together take no more than a full buffer does.
        self.transmit.shrink_to(TRANSMIT_BYTES.saturating_sub(self.waiting.len()));
        Ok(())
    }

    /// Bytes that wait to be sealed.
    #[must_use]
    pub fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    /// Seals what waits.
    pub fn seal_waiting(&mut self) {
        let waiting = core::mem::take(&mut self.waiting);
        // What fitted when it was queued fits still.
        if !waiting.is_empty() && self.seal(&waiting).is_err() {
            self.end();
        }
    }

    /// Queues how far the job is that the session waits for. A session whose peer takes
    /// what it is sent is not idle.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_progress(&mut self, progress: &Progress, now_ns: u64) -> Result<(), PeerFault> {
        self.send_record(KIND_PROGRESS, progress)?;
        self.deadline_ns = now_ns.saturating_add(IDLE_TIMEOUT_NS);
        Ok(())
    }

    fn send_record<T: Serialize>(&mut self, kind: u8, body: &T) -> Result<(), PeerFault> {
        self.seal_waiting();
        let plain = encode(kind, body)?;
        self.check_room(&plain)?;
        self.seal(&plain)
    }

    /// Whether a record of this plain text fits into what is to be sent.
    fn check_room(&self, plain: &[u8]) -> Result<(), PeerFault> {
        if self.established.is_none() {
            return Err(PeerFault::Unexpected);
        }
        let sealed_bytes = plain.len().saturating_add(TAG_BYTES + LENGTH_BYTES);
        if self.transmit.len().saturating_add(sealed_bytes) > TRANSMIT_BYTES {
            return Err(PeerFault::Flood);
        }
        Ok(())
    }

    fn seal(&mut self, plain: &[u8]) -> Result<(), PeerFault> {
        let Some(established) = &mut self.established else { return Err(PeerFault::Unexpected) };
        let sealed = established.keys.sealer.seal(plain)?;
        reserve_within(&mut self.transmit, LENGTH_BYTES + sealed.len(), TRANSMIT_BYTES);
        record::append(&mut self.transmit, &sealed)
    }

    #[cfg(test)]
    pub(crate) fn received_len(&self) -> usize {
        self.received.len()
    }

    /// Whether another outcome surely fits.
    #[must_use]
    pub fn can_send(&self) -> bool {
        self.waiting.is_empty() && self.transmit.len() + RECORD_BYTES + 64 <= TRANSMIT_BYTES
    }

    /// Whether there is nothing left to be sent.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.transmit.is_empty() && self.waiting.is_empty()
    }

    /// Bytes to send.
    #[must_use]
    pub fn transmit(&self) -> &[u8] {
        &self.transmit
    }

    /// The first `count` of them were sent.
    pub fn sent(&mut self, count: usize) {
        self.transmit.drain(..count.min(self.transmit.len()));
        // An idle session keeps little of what a long answer took.
        if self.transmit.is_empty() && self.transmit.capacity() > IDLE_CAPACITY {
            self.transmit = Vec::new();
        }
    }
}
