//! The node's end of a session, as a state machine over bytes.
//!
//! It sends nothing until the other end has proved to be a trusted operator, and
//! ends at the first thing that does not belong.

use crate::envelope::{self, Binding, Verified};
use crate::handshake::{self, HELLO_BYTES, Keys, PeerFault};
use crate::job::Progress;
use crate::limits::{HANDSHAKE_TIMEOUT_NS, IDLE_TIMEOUT_NS, RECEIVE_BYTES, TRANSMIT_BYTES};
use crate::record::{self, KIND_COMMAND, KIND_DATA, KIND_OUTCOME, KIND_PROGRESS, LENGTH_BYTES};
use crate::trust::{Role, Trust};
use crate::verb::{Outcome, Request};
use alloc::boxed::Box;
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
}

/// What an operator sent.
#[derive(Debug)]
pub enum Incoming {
    /// A command, with the role of who signed it.
    Command(Box<Verified<Request>>, Role),
    /// Bytes of the blob announced last.
    Data(Vec<u8>),
}

struct Established {
    keys: Keys,
    binding: Binding,
    operator: [u8; 32],
    expected: u64,
}

enum Stage {
    Hello,
    Established(Box<Established>),
    Ended,
}

/// One session.
pub struct Server {
    stage: Stage,
    received: Vec<u8>,
    transmit: Vec<u8>,
    deadline_ns: u64,
}

impl Server {
    /// A session with a peer that has just connected.
    #[must_use]
    pub const fn new(now_ns: u64) -> Self {
        Self {
            stage: Stage::Hello,
            received: Vec::new(),
            transmit: Vec::new(),
            deadline_ns: now_ns.saturating_add(HANDSHAKE_TIMEOUT_NS),
        }
    }

    /// Whether the peer has proved who it is.
    #[must_use]
    pub const fn is_established(&self) -> bool {
        matches!(self.stage, Stage::Established(_))
    }

    /// When the session ends for lack of anything.
    #[must_use]
    pub const fn deadline_ns(&self) -> u64 {
        self.deadline_ns
    }

    /// How many bytes may be received now.
    #[must_use]
    pub fn room(&self) -> usize {
        match self.stage {
            Stage::Hello => HELLO_BYTES.saturating_sub(self.received.len()),
            Stage::Established(_) => RECEIVE_BYTES.saturating_sub(self.received.len()),
            Stage::Ended => 0,
        }
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
        self.received.extend_from_slice(bytes);
        Ok(())
    }

    /// The next thing the operator sent, if it is complete.
    ///
    /// # Errors
    /// The peer did something wrong; the session is over and nothing is said.
    pub fn next(
        &mut self,
        identity: &Identity,
        trust: &Trust,
        random: &mut dyn FnMut() -> [u8; 32],
        now_ns: u64,
    ) -> Result<Option<Incoming>, PeerFault> {
        let result = self.advance(identity, trust, random, now_ns);
        if result.is_err() {
            self.end();
        }
        result
    }

    fn end(&mut self) {
        self.stage = Stage::Ended;
        self.received = Vec::new();
        self.transmit = Vec::new();
    }

    fn advance(
        &mut self,
        identity: &Identity,
        trust: &Trust,
        random: &mut dyn FnMut() -> [u8; 32],
        now_ns: u64,
    ) -> Result<Option<Incoming>, PeerFault> {
        if matches!(self.stage, Stage::Hello) {
            let Some(hello) = self.received.first_chunk::<HELLO_BYTES>().copied() else { return Ok(None) };
            self.received.clear();
            let operator = handshake::verify_hello(&hello)?;
            trust.role(&operator).ok_or(PeerFault::Stranger)?;
            let (keys, answer) = handshake::answer(&hello, &identity.key, &identity.boot_nonce, random())?;
            self.transmit.extend_from_slice(&answer);
            let node = identity.key.verifying_key().to_bytes();
            let binding = Binding { node, boot_nonce: identity.boot_nonce, session: keys.session };
            self.stage = Stage::Established(Box::new(Established { keys, binding, operator, expected: 1 }));
        }
        let Stage::Established(established) = &mut self.stage else { return Ok(None) };
        let Some(length) = record::length(&self.received)? else { return Ok(None) };
        let Some(sealed) = self.received.get(LENGTH_BYTES..LENGTH_BYTES + length) else { return Ok(None) };
        let plain = Zeroizing::new(established.keys.opener.open(sealed)?);
        self.received.drain(..LENGTH_BYTES + length);
        self.deadline_ns = now_ns.saturating_add(IDLE_TIMEOUT_NS);
        match plain.split_first() {
            Some((&KIND_COMMAND, command)) => {
                // The role is looked up each time: revocation holds at once.
                let role = trust.role(&established.operator).ok_or(PeerFault::Stranger)?;
                let verified = envelope::open(
                    command,
                    &established.operator,
                    &established.binding,
                    established.expected,
                )?;
                established.expected += 1;
                Ok(Some(Incoming::Command(Box::new(verified), role)))
            }
            Some((&KIND_DATA, bytes)) => Ok(Some(Incoming::Data(bytes.to_vec()))),
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
        let Stage::Established(established) = &mut self.stage else { return Err(PeerFault::Unexpected) };
        let mut plain = alloc::vec![kind];
        plain.extend(postcard::to_allocvec(body).map_err(|_| PeerFault::Length)?);
        if self.transmit.len() + plain.len() > TRANSMIT_BYTES {
            return Err(PeerFault::Flood);
        }
        let sealed = established.keys.sealer.seal(&plain)?;
        record::append(&mut self.transmit, &sealed)
    }

    #[cfg(test)]
    pub(crate) fn received_len(&self) -> usize {
        self.received.len()
    }

    /// Whether another outcome surely fits.
    #[must_use]
    pub fn can_send(&self) -> bool {
        self.transmit.len() + crate::limits::RECORD_BYTES + 64 <= TRANSMIT_BYTES
    }

    /// Bytes to send.
    #[must_use]
    pub fn transmit(&self) -> &[u8] {
        &self.transmit
    }

    /// The first `count` of them were sent.
    pub fn sent(&mut self, count: usize) {
        self.transmit.drain(..count.min(self.transmit.len()));
    }
}
