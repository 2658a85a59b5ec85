//! Kernels and initrds on their way in.
//!
//! An upload belongs to the session that announced it, and takes memory as its bytes come.
//! When that session ends, or for a while sends none, what came is
//! kept for a while, for the same operator to go on with. It is of no use to anyone
//! before its digest held, and the first to go when memory is needed.

use alloc::vec::Vec;

use hv_abi::DomainId;
use machine::guest_memory::{Gpa, GuestMemory};
use mgmt_proto::machine::Digest;
use mgmt_proto::reason::{Reason, Refusal};
use sha2::{Digest as _, Sha256};

use crate::hypervisor::Hypervisor;
use crate::limits::{UPLOAD_KEPT_NS, UPLOAD_STEP_BYTES, UPLOADS_KEPT_MAX};

/// What an upload is known by: who sends it, and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// The operator's key; none for what the node reads itself.
    pub operator: Option<[u8; 32]>,
    /// SHA-256 of the whole.
    pub digest: Digest,
    /// Bytes of the whole.
    pub length: usize,
}

/// A blob on its way in.
pub struct Upload<M> {
    announced: Announced,
    pub(crate) received: usize,
    domain: DomainId,
    memory: M,
    /// What it has taken of it so far.
    memory_bytes: u64,
    hasher: Sha256,
    /// When it was announced, or last gone on with.
    pub(crate) last_ns: u64,
}

impl<M: GuestMemory> Upload<M> {
    /// One of which nothing has come, for the memory of a domain that never runs.
    #[must_use]
    pub fn new(
        announced: Announced,
        domain: DomainId,
        (memory, memory_bytes): (M, u64),
        now_ns: u64,
    ) -> Self {
        Self { announced, received: 0, domain, memory, memory_bytes, hasher: Sha256::new(), last_ns: now_ns }
    }

    /// The domain whose memory it fills.
    #[must_use]
    pub const fn domain(&self) -> DomainId {
        self.domain
    }

    /// How much memory it is to have next, if it has too little for so many more bytes.
    #[must_use]
    pub fn lacks(&self, more: usize) -> Option<u64> {
        let end = self.received.saturating_add(more).min(self.announced.length) as u64;
        (end > self.memory_bytes).then(|| self.memory_bytes.saturating_add(UPLOAD_STEP_BYTES))
    }

    /// It has more memory from now on.
    pub fn has_grown(&mut self, memory: M, memory_bytes: u64) {
        (self.memory, self.memory_bytes) = (memory, memory_bytes);
    }

    /// Who sends it, and what.
    #[must_use]
    pub const fn announced(&self) -> &Announced {
        &self.announced
    }

    /// When it was announced, or last gone on with.
    #[must_use]
    pub const fn last_ns(&self) -> u64 {
        self.last_ns
    }

    /// Takes the next bytes; false when there are more than announced.
    #[must_use]
    pub fn push(&mut self, bytes: &[u8], now_ns: u64) -> bool {
        let end = self.received.saturating_add(bytes.len());
        if end > self.announced.length || self.memory.write(Gpa(self.received as u64), bytes).is_err() {
            return false;
        }
        self.hasher.update(bytes);
        (self.received, self.last_ns) = (end, now_ns);
        true
    }

    /// Whether all bytes have come.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.received == self.announced.length
    }

    /// The domain, if every byte is what the digest says.
    ///
    /// # Errors
    /// The failure to report; nothing is left behind.
    pub fn finish<H: Hypervisor<Memory = M>>(self, hypervisor: &mut H) -> Result<DomainId, Refusal> {
        let complete = self.is_complete();
        let found: Digest = self.hasher.finalize().into();
        drop(self.memory);
        if complete && found == self.announced.digest {
            return Ok(self.domain);
        }
        let _ = hypervisor.domain_destroy(self.domain);
        Err(Refusal::of("", Reason::BlobDamaged))
    }

    /// Gives the memory back.
    pub fn cancel<H: Hypervisor<Memory = M>>(self, hypervisor: &mut H) {
        drop(self.memory);
        let _ = hypervisor.domain_destroy(self.domain);
    }
}

/// Uploads whose sessions ended, the one that ended last at the end.
pub(crate) struct Unfinished<M> {
    uploads: Vec<Upload<M>>,
}

impl<M: GuestMemory> Unfinished<M> {
    /// None.
    #[must_use]
    pub(crate) const fn new() -> Self {
        Self { uploads: Vec::new() }
    }

    /// The session of an upload ended. What cannot be resumed is dropped; when there
    /// are too many, so is the oldest, rather one of the same operator.
    pub(crate) fn keep<H: Hypervisor<Memory = M>>(&mut self, hypervisor: &mut H, upload: Upload<M>) {
        let announced = upload.announced;
        if announced.operator.is_none() || upload.received == 0 {
            return upload.cancel(hypervisor);
        }
        if let Some(other) = self.take(&announced) {
            other.cancel(hypervisor);
        }
        if self.uploads.len() >= UPLOADS_KEPT_MAX {
            let alike = |other: &Upload<M>| other.announced.operator == announced.operator;
            let oldest = self.uploads.iter().position(alike).unwrap_or(0);
            self.uploads.remove(oldest).cancel(hypervisor);
        }
        self.uploads.push(upload);
    }

    /// The upload that an operator resumes.
    pub(crate) fn take(&mut self, announced: &Announced) -> Option<Upload<M>> {
        let index = self.uploads.iter().position(|upload| upload.announced == *announced)?;
        Some(self.uploads.remove(index))
    }

    /// Bytes of the files that an operator has left unfinished.
    pub(crate) fn announced_by(&self, operator: &[u8; 32]) -> u64 {
        let own = self.uploads.iter().filter(|upload| upload.announced.operator == Some(*operator));
        own.map(|upload| upload.announced.length as u64).sum()
    }

    /// Drops the oldest of an operator; false when there is none.
    pub(crate) fn drop_oldest_of<H: Hypervisor<Memory = M>>(
        &mut self,
        hypervisor: &mut H,
        operator: &[u8; 32],
    ) -> bool {
        let own = |upload: &Upload<M>| upload.announced.operator == Some(*operator);
        let Some(index) = self.uploads.iter().position(own) else { return false };
        self.uploads.remove(index).cancel(hypervisor);
        true
    }

    /// Drops the oldest; false when there is none.
    pub(crate) fn drop_oldest<H: Hypervisor<Memory = M>>(&mut self, hypervisor: &mut H) -> bool {
        if self.uploads.is_empty() {
            return false;
        }
        self.uploads.remove(0).cancel(hypervisor);
        true
    }

    /// Drops what is too old, and what its sender may not resume.
    pub(crate) fn tidy<H: Hypervisor<Memory = M>>(
        &mut self,
        hypervisor: &mut H,
        now_ns: u64,
        may_go_on: &dyn Fn(&[u8; 32]) -> bool,
    ) {
        while let Some(index) = self.uploads.iter().position(|upload| {
            let old = now_ns >= upload.last_ns.saturating_add(UPLOAD_KEPT_NS);
            old || !upload.announced.operator.is_some_and(|operator| may_go_on(&operator))
        }) {
            self.uploads.remove(index).cancel(hypervisor);
        }
    }

    /// Memory that they would give back, in bytes.
    #[must_use]
    pub(crate) fn bytes(&self) -> u64 {
        self.uploads.iter().map(|upload| upload.memory_bytes).sum()
    }

    /// When the first is too old.
    #[must_use]
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.uploads.iter().map(|upload| upload.last_ns.saturating_add(UPLOAD_KEPT_NS)).min()
    }
}
