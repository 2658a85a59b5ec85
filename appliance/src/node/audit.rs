//! The log of what operators did, kept in the memory of a domain that never runs:
//! it survives dom0 and costs it nothing.
//!
//! The memory is a ring of slots, each with the length of an entry and the entry.
//! Slot and sequence number belong together, so a restarted dom0 finds the end by
//! looking at all of them.

use alloc::string::ToString;
use alloc::vec::Vec;

use hv_abi::DomainId;
use hv_abi::domain::DomainSpec;
use mgmt_proto::audit::{Entry, Head, Page, Result, subject};
use mgmt_proto::envelope::Proof;
use mgmt_proto::limits::{AUDIT_ENTRIES, AUDIT_ENTRY_BYTES, NAME_BYTES};
use mgmt_proto::server::Identity;
use mgmt_proto::verb::Request;

use crate::guest_memory::{Gpa, GuestMemory};
use crate::hypervisor::Hypervisor;
use crate::layout::MemoryLayout;

/// What is kept under the domain's slot to know it again.
const RECORD_MAGIC: [u8; 8] = *b"REDOAUDT";
/// Bytes of the ring. Behind it is what is kept for [`crate::node::trust`].
pub(super) const RING_BYTES: u64 = 2 << 20;
const MEMORY_BYTES: u64 = RING_BYTES + super::trust::KEPT_BYTES;
const SLOT_BYTES: usize = 2 + AUDIT_ENTRY_BYTES;
const SLOTS: u64 = RING_BYTES / SLOT_BYTES as u64;

/// Who asked for something that is to be recorded, and what.
#[derive(Clone, Debug)]
pub struct Asked {
    operator: [u8; 32],
    proof: Proof,
    verb: &'static str,
    object: alloc::string::String,
}

impl Asked {
    /// For a request that changes something; None for one that only looks.
    #[must_use]
    pub fn new(operator: [u8; 32], proof: Proof, request: &Request) -> Option<Self> {
        let (verb, object) = subject(request)?;
        // No guest has a longer name: an entry must fit whatever is asked for.
        let end = object.floor_char_boundary(NAME_BYTES);
        let object = match request {
            Request::JobCancel { id } => id.to_string(),
            _ => object.get(..end).unwrap_or_default().into(),
        };
        Some(Self { operator, proof, verb, object })
    }
}

/// The log.
pub struct AuditLog<M> {
    memory: Option<M>,
    /// The oldest entry that is there.
    oldest: u64,
    length: u64,
    digest: [u8; 32],
    /// The last entry, to record a conversation with a console once.
    last: Option<Entry>,
}

/// The entry in a slot of the ring; none for what is no entry of that place.
pub(super) fn decode_slot(slot: u64, bytes: &[u8]) -> Option<Entry> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let entry = rest.get(..usize::from(u16::from_le_bytes(*length)))?;
    // An empty slot has a length of zero, which is no entry.
    Entry::decode(entry).filter(|entry| entry.sequence % SLOTS == slot)
}

impl<M: GuestMemory> AuditLog<M> {
    /// A log without memory, which keeps nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { memory: None, oldest: 0, length: 0, digest: [0; 32], last: None }
    }

    /// Takes over the log of an earlier dom0; false if the record is not of one.
    pub fn adopt<H: Hypervisor<Memory = M>>(
        &mut self,
        hypervisor: &mut H,
        domain: DomainId,
        record: &[u8],
    ) -> bool {
        if record != RECORD_MAGIC || self.memory.is_some() {
            return false;
        }
        self.memory = Some(hypervisor.memory(domain, MemoryLayout::new(MEMORY_BYTES)));
        let newest = (0..SLOTS).filter_map(|slot| self.read(slot)).max_by_key(|entry| entry.sequence);
        if let Some(entry) = newest {
            self.length = entry.sequence.saturating_add(1);
            self.oldest = entry.sequence;
            let mut previous = entry.previous;
            while let Some(before) = self.oldest.checked_sub(1)
                && let Some(earlier) = self.read(before % SLOTS)
                && earlier.sequence == before
                && earlier.digest() == previous
            {
                (self.oldest, previous) = (before, earlier.previous);
            }
            self.digest = entry.digest();
            self.last = Some(entry);
        }
        true
    }

    /// Makes the log's memory unless an earlier dom0 did.
    pub fn ensure<H: Hypervisor<Memory = M>>(&mut self, hypervisor: &mut H) {
        if self.memory.is_some() {
            return;
        }
        let spec =
            DomainSpec { memory_bytes: MEMORY_BYTES, vcpus: 1, weight: 256, cap_percent: 0, reserved: 0 };
        let made = hypervisor.domain_create(&spec).and_then(|domain| {
            hypervisor.store_put(domain.slot(), &RECORD_MAGIC)?;
            Ok(domain)
        });
        match made {
            Ok(domain) => {
                self.memory = Some(hypervisor.memory(domain, MemoryLayout::new(MEMORY_BYTES)));
            }
            Err(_) => hypervisor.log("node: no memory for the audit log: nothing is recorded"),
        }
    }

    /// The memory that outlives dom0, if there is any.
    pub(super) const fn memory(&mut self) -> Option<&mut M> {
        self.memory.as_mut()
    }

    /// The number of its next entry.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.length
    }

    fn read(&self, slot: u64) -> Option<Entry> {
        let memory = self.memory.as_ref()?;
        let mut bytes = [0; SLOT_BYTES];
        memory.read(Gpa(slot * SLOT_BYTES as u64), &mut bytes).ok()?;
        decode_slot(slot, &bytes)
    }

    /// Records a command and how it ended. Keys typed into one console in one
    /// session are one entry, as are looks at one capture: the first.
    pub fn record(&mut self, asked: &Asked, result: Result, now_ns: u64) {
        let repeated = self.last.as_ref().is_some_and(|last| {
            (asked.verb.starts_with("console") || asked.verb == "capture")
                && last.verb == asked.verb
                && last.object == asked.object
                && last.session == asked.proof.binding.session
                && last.result == result
        });
        if repeated {
            return;
        }
        let mut entry = Entry::new(&asked.proof, &asked.operator, asked.verb, &asked.object, result);
        entry.at_ns = now_ns;
        self.append(entry);
    }

    /// Adds an entry at the end of the log.
    pub(super) fn append(&mut self, mut entry: Entry) {
        (entry.sequence, entry.previous) = (self.length, self.digest);
        let bytes = entry.encode();
        let Ok(length) = u16::try_from(bytes.len()) else { return };
        if bytes.len() > AUDIT_ENTRY_BYTES {
            return;
        }
        let slot = [&length.to_le_bytes()[..], &bytes].concat();
        let at = Gpa(self.length % SLOTS * SLOT_BYTES as u64);
        if let Some(memory) = &mut self.memory
            && memory.write(at, &slot).is_ok()
        {
            self.length += 1;
            self.oldest = self.oldest.max(self.length.saturating_sub(SLOTS));
            self.digest = entry.digest();
            self.last = Some(entry);
        }
    }

    /// Entries ever made.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// An entry by its number, if it is there.
    #[must_use]
    pub fn entry(&self, sequence: u64) -> Option<Entry> {
        let known = (self.oldest..self.length).contains(&sequence);
        known.then(|| self.read(sequence % SLOTS)).flatten()
    }

    /// All that are there.
    #[must_use]
    pub fn all(&self) -> Vec<Entry> {
        (self.oldest..self.length).filter_map(|sequence| self.entry(sequence)).collect()
    }

    /// Begins again with the end of a log that was kept elsewhere: a chain.
    pub(super) fn restore(&mut self, tail: &[Entry]) {
        let Some(first) = tail.first() else { return };
        (self.oldest, self.length, self.digest) = (first.sequence, first.sequence, first.previous);
        for entry in tail {
            self.append(entry.clone());
        }
    }

    /// Entries from a sequence number on, as many as one reply takes, of the first
    /// `shown` ever made.
    #[must_use]
    pub fn page(&self, from: u64, shown: u64, identity: &Identity) -> Page {
        let shown = shown.min(self.length);
        let first = from.max(self.oldest);
        let end = shown.min(first.saturating_add(AUDIT_ENTRIES as u64));
        let entries: Vec<Entry> = (first..end).filter_map(|sequence| self.read(sequence % SLOTS)).collect();
        let digest = self.entry(shown).map_or(self.digest, |next| next.previous);
        Page { entries, oldest: self.oldest, head: Head::sign(&identity.key, shown, digest) }
    }
}

impl<M: GuestMemory> Default for AuditLog<M> {
    fn default() -> Self {
        Self::new()
    }
}
