//! The operator's end of a session, as a state machine over bytes.

use crate::envelope::{self, Binding};
use crate::handshake::{
    ANSWER_BYTES, GREETING_BYTES, Initiator, Keys, Meant, OperatorKey, PeerFault, Proved, SessionId,
};
use crate::job::Progress;
use crate::limits::{BLOB_CHUNK_BYTES, RECEIVE_BYTES};
use crate::record::{self, KIND_COMMAND, KIND_DATA, KIND_HERE, KIND_OUTCOME, KIND_PROGRESS, LENGTH_BYTES};
use crate::verb::{Outcome, Request};
use alloc::vec::Vec;
use zeroize::Zeroizing;

/// A session that waits for the node's answer.
pub struct Connecting {
    initiator: Initiator,
}

/// What a node sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The outcome of the oldest command without one.
    Outcome(Outcome),
    /// How far the job is that it waits for.
    Progress(Progress),
}

/// An established session.
pub struct Client {
    keys: Keys,
    binding: Binding,
    proved: Proved,
    counter: u64,
    received: Vec<u8>,
}

impl Connecting {
    /// Answers the node's first message; `seed` must be fresh random bytes.
    ///
    /// # Errors
    /// What is wrong with that message, or the key cannot sign.
    pub fn new(
        key: &dyn OperatorKey,
        meant: &Meant,
        greeting: &[u8; GREETING_BYTES],
        seed: [u8; 32],
    ) -> Result<Self, PeerFault> {
        Initiator::new(key, meant, greeting, seed).map(|initiator| Self { initiator })
    }

    /// What to send first.
    #[must_use]
    pub const fn hello(&self) -> &[u8] {
        self.initiator.hello()
    }

    /// Takes the node's answer, [`ANSWER_BYTES`] long. The caller then compares
    /// [`Client::proved`] with the node it wanted, and sends its first record within
    /// 5 s: without it there is no session.
    ///
    /// # Errors
    /// Why the answer is not believed.
    pub fn finish(self, answer: &[u8; ANSWER_BYTES]) -> Result<Client, PeerFault> {
        let (keys, proved) = self.initiator.finish(answer)?;
        let binding = Binding { node: proved.key, boot_nonce: proved.boot_nonce, session: keys.session };
        Ok(Client { keys, binding, proved, counter: 0, received: Vec::new() })
    }
}

impl Client {
    /// The node's public key.
    #[must_use]
    pub const fn node(&self) -> &[u8; 32] {
        &self.binding.node
    }

    /// What the node proved of itself.
    #[must_use]
    pub const fn proved(&self) -> &Proved {
        &self.proved
    }

    /// The nonce of the node's boot.
    #[must_use]
    pub const fn boot_nonce(&self) -> &[u8; 32] {
        &self.binding.boot_nonce
    }

    /// The session, and the place in it of the last command: what its job is known by.
    #[must_use]
    pub const fn place(&self) -> (SessionId, u64) {
        (self.binding.session, self.counter)
    }

    /// The bytes by which the session begins to count, where the first command may take
    /// longer than the node waits: its user may have to allow the signature.
    ///
    /// # Errors
    /// Too many records.
    pub fn here(&mut self) -> Result<Vec<u8>, PeerFault> {
        self.seal(KIND_HERE, &[])
    }

    /// The bytes that carry a request.
    ///
    /// # Errors
    /// The request is too long or the key cannot sign.
    pub fn command(&mut self, key: &dyn OperatorKey, request: &Request) -> Result<Vec<u8>, PeerFault> {
        self.counter += 1;
        let envelope = Zeroizing::new(envelope::seal(key, &self.binding, self.counter, request)?);
        self.seal(KIND_COMMAND, &envelope)
    }

    /// The bytes that carry part of the announced blob, at most
    /// [`BLOB_CHUNK_BYTES`].
    ///
    /// # Errors
    /// Too many bytes.
    pub fn data(&mut self, bytes: &[u8]) -> Result<Vec<u8>, PeerFault> {
        if bytes.len() > BLOB_CHUNK_BYTES {
            return Err(PeerFault::Length);
        }
        self.seal(KIND_DATA, bytes)
    }

    fn seal(&mut self, kind: u8, body: &[u8]) -> Result<Vec<u8>, PeerFault> {
        let mut plain = Zeroizing::new(Vec::with_capacity(body.len() + 1));
        plain.push(kind);
        plain.extend_from_slice(body);
        let sealed = self.keys.sealer.seal(&plain)?;
        let mut bytes = Vec::with_capacity(sealed.len() + LENGTH_BYTES);
        record::append(&mut bytes, &sealed)?;
        Ok(bytes)
    }

    /// Takes bytes from the node.
    ///
    /// # Errors
    /// More than a record fits in without one being complete.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), PeerFault> {
        if self.received.len() + bytes.len() > 2 * RECEIVE_BYTES {
            return Err(PeerFault::Flood);
        }
        self.received.extend_from_slice(bytes);
        Ok(())
    }

    /// The next outcome, if it is complete, where no progress was asked for.
    ///
    /// # Errors
    /// Why the node is not believed.
    pub fn next_outcome(&mut self) -> Result<Option<Outcome>, PeerFault> {
        match self.next_message()? {
            None => Ok(None),
            Some(Message::Outcome(outcome)) => Ok(Some(outcome)),
            Some(Message::Progress(_)) => Err(PeerFault::Unexpected),
        }
    }

    /// The next thing the node sent, if it is complete.
    ///
    /// # Errors
    /// Why the node is not believed.
    pub fn next_message(&mut self) -> Result<Option<Message>, PeerFault> {
        let Some(length) = record::length(&self.received)? else { return Ok(None) };
        let Some(sealed) = self.received.get(LENGTH_BYTES..LENGTH_BYTES + length) else { return Ok(None) };
        let plain = self.keys.opener.open(sealed)?;
        self.received.drain(..LENGTH_BYTES + length);
        Message::decode(&plain).map(Some)
    }
}

impl Message {
    /// What the plain text of a record says.
    pub(crate) fn decode(plain: &[u8]) -> Result<Self, PeerFault> {
        match plain.split_first() {
            Some((&KIND_OUTCOME, body)) => postcard::from_bytes(body).map(Self::Outcome),
            Some((&KIND_PROGRESS, body)) => postcard::from_bytes(body).map(Self::Progress),
            _ => return Err(PeerFault::Unexpected),
        }
        .map_err(|_| PeerFault::Unexpected)
    }
}
