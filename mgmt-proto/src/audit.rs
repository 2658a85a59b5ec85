//! What was done on a node, by whom, with which result: a chain of entries in
//! which nothing can be changed, removed or added without a trace.
//!
//! Every entry holds the operator's own signature of the command and the digest of
//! the entry before it; the node signs the digest of the newest. So whoever has
//! the operators' keys and the node's can check a copy anywhere.

use crate::code::Code;
use crate::codec;
use crate::proof::{Binding, Proof};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const ENTRY_LABEL: &[u8] = b"redoubt audit entry 1";
const HEAD_LABEL: &[u8] = b"redoubt audit head 1";
const REFUSALS_HEAD_LABEL: &[u8] = b"redoubt refusals head 1";
/// The verb of an entry that stands for refused commands of several kinds.
pub const OTHERS: &str = "others";

/// The two logs of a node. Each is a chain of its own, so that no number of commands that
/// did nothing pushes out one that did something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Log {
    /// What had an effect.
    #[default]
    Effects,
    /// What was refused or failed.
    Refusals,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Result {
    /// It was carried out.
    Done,
    /// It was accepted and goes on by itself.
    Accepted,
    /// It was not carried out.
    Failed(Code),
}

/// One command that was obeyed or refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Place in the log, from 0 on: since power-on, or since the state volume was
    /// formatted.
    pub sequence: u64,
    /// Uptime in nanoseconds.
    pub at_ns: u64,
    /// Who asked.
    pub operator: [u8; 32],
    /// What the command was for: node, boot, session.
    pub node: [u8; 32],
    /// Nonce of the boot.
    pub boot_nonce: [u8; 32],
    /// Session.
    pub session: [u8; 32],
    /// Place in the session.
    pub counter: u64,
    /// SHA-256 of the encoded request.
    pub request: [u8; 32],
    /// The operator's signature, first half (R of RFC 8032, 5.1.6).
    pub signature_r: [u8; 32],
    /// Second half (S).
    pub signature_s: [u8; 32],
    /// The verb.
    pub verb: String,
    /// The guest or volume it was about; may be empty.
    pub object: String,
    /// How it ended.
    pub result: Result,
    /// Digest of the entry before; zero for the first.
    pub previous: [u8; 32],
    /// How many commands it stands for: 1 in the log of effects. Refused ones of the same
    /// kind are gathered, and the entry names the last of them.
    pub count: u32,
}

/// What is wrong with a copy of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Entries after this one are missing.
    Gap {
        /// The last that is there.
        after: u64,
    },
    /// This entry or the one before it was altered.
    Altered {
        /// Its sequence number.
        sequence: u64,
    },
    /// The operator did not sign this.
    Signature {
        /// Its sequence number.
        sequence: u64,
    },
    /// The node did not sign that this is where the log ends.
    Head,
}

impl core::fmt::Display for Fault {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Gap { after } => write!(formatter, "entries after {after} are missing"),
            Self::Altered { sequence: 0 } => formatter.write_str("entry 0 was altered"),
            Self::Altered { sequence } => {
                write!(formatter, "entry {} or {sequence} was altered", sequence.saturating_sub(1))
            }
            Self::Signature { sequence } => write!(formatter, "entry {sequence} has a forged signature"),
            Self::Head => formatter.write_str("the node did not sign the end of this log"),
        }
    }
}

impl core::error::Error for Fault {}

impl Entry {
    /// The entry for a command.
    #[must_use]
    pub fn new(proof: &Proof, operator: &[u8; 32], verb: &str, object: &str, result: Result) -> Self {
        let (mut signature_r, mut signature_s) = ([0; 32], [0; 32]);
        let (r, s) = proof.signature.split_at(32);
        signature_r.copy_from_slice(r);
        signature_s.copy_from_slice(s);
        Self {
            sequence: 0,
            at_ns: 0,
            operator: *operator,
            node: proof.binding.node,
            boot_nonce: proof.binding.boot_nonce,
            session: proof.binding.session,
            counter: proof.counter,
            request: proof.request,
            signature_r,
            signature_s,
            verb: verb.to_string(),
            object: object.to_string(),
            result,
            previous: [0; 32],
            count: 1,
        }
    }

    /// Its bytes, as they are kept and hashed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Only a serializer that is out of memory fails, and it does not return.
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// From its bytes, if they are all of them one.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        codec::whole(bytes)
    }

    /// Its digest, which the next entry holds.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::new().chain_update(ENTRY_LABEL).chain_update(self.encode()).finalize().into()
    }

    fn is_signed(&self) -> bool {
        let binding = Binding { node: self.node, boot_nonce: self.boot_nonce, session: self.session };
        let mut signature = [0; 64];
        let (r, s) = signature.split_at_mut(32);
        r.copy_from_slice(&self.signature_r);
        s.copy_from_slice(&self.signature_s);
        let proof = Proof { signature, binding, counter: self.counter, request: self.request };
        proof.is_by(&self.operator)
    }
}

/// Checks a run of entries: that none is missing, altered or unsigned. Returns the
/// digest of the last.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(entries: &[Entry]) -> core::result::Result<[u8; 32], Fault> {
    let mut before: Option<(u64, [u8; 32])> = None;
    for entry in entries {
        let sequence = entry.sequence;
        match before {
            Some((last, _)) if last.checked_add(1) != Some(sequence) => {
                return Err(Fault::Gap { after: last });
            }
            Some((_, digest)) if entry.previous != digest => return Err(Fault::Altered { sequence }),
            None if sequence == 0 && entry.previous != [0; 32] => return Err(Fault::Altered { sequence }),
            _ => {}
        }
        if !entry.is_signed() {
            return Err(Fault::Signature { sequence });
        }
        before = Some((sequence, entry.digest()));
    }
    Ok(before.map_or([0; 32], |(_, digest)| digest))
}

/// Where a log ends, signed by its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Entries ever made.
    pub length: u64,
    /// Digest of the last.
    pub digest: [u8; 32],
    /// The node's signature, first half.
    pub signature_r: [u8; 32],
    /// Second half.
    pub signature_s: [u8; 32],
}

fn head_message(log: Log, length: u64, digest: &[u8; 32]) -> Vec<u8> {
    let label = match log {
        Log::Effects => HEAD_LABEL,
        Log::Refusals => REFUSALS_HEAD_LABEL,
    };
    [label, &length.to_le_bytes(), digest].concat()
}

impl Head {
    /// Signs the end of a log.
    #[must_use]
    pub fn sign(key: &SigningKey, log: Log, length: u64, digest: [u8; 32]) -> Self {
        let signature = key.sign(&head_message(log, length, &digest));
        Self { length, digest, signature_r: *signature.r_bytes(), signature_s: *signature.s_bytes() }
    }

    /// Checks that `node` says so of the entries of that log that end with `last`.
    ///
    /// # Errors
    /// [`Fault::Head`].
    pub fn verify(
        &self,
        node: &[u8; 32],
        log: Log,
        length: u64,
        last: &[u8; 32],
    ) -> core::result::Result<(), Fault> {
        let key = VerifyingKey::from_bytes(node).map_err(|_| Fault::Head)?;
        let signature = Signature::from_components(self.signature_r, self.signature_s);
        if self.length != length || self.digest != *last {
            return Err(Fault::Head);
        }
        key.verify_strict(&head_message(log, length, last), &signature).map_err(|_| Fault::Head)
    }
}

/// Part of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Entries in order; empty past the end.
    pub entries: Vec<Entry>,
    /// The oldest that the node still has.
    pub oldest: u64,
    /// Where the log ends.
    pub head: Head,
}

#[cfg(test)]
mod tests;
