//! The log of what operators did, kept in the memory of a domain that never runs:
//! it survives dom0 and costs it nothing.
//!
//! There are two chains: what had an effect, and what was refused or failed. However many
//! commands fail, none that had an effect is pushed out by them.

mod chain;
mod refusals;

use alloc::vec::Vec;

use hv_abi::DomainId;
use hv_abi::domain::DomainSpec;
use mgmt_proto::audit::{Entry, Log, Page, Result};
use mgmt_proto::code::Code;
use mgmt_proto::envelope::Proof;
use mgmt_proto::limits::NAME_BYTES;
use mgmt_proto::reason::{Reason, Refusal};
use mgmt_proto::server::Identity;
use mgmt_proto::verb::{Effect, Request};

use crate::hypervisor::Hypervisor;
use crate::limits::AUDIT_URGENT;
#[cfg(test)]
pub(crate) use crate::operators::audit::chain::decode_slot;
use crate::operators::audit::chain::{Chain, SLOT_BYTES};
use crate::operators::audit::refusals::{Due, Refusals};
use crate::own_memory::{LOCKED_AT, MEMORY_BYTES, REFUSALS_AT, RING_BYTES};
use machine::guest_memory::GuestMemory;
use machine::layout::MemoryLayout;

/// What is kept under the domain's slot to know it again.
const RECORD_MAGIC: [u8; 8] = *b"REDOAUDT";
const SLOTS: u64 = RING_BYTES / SLOT_BYTES as u64;
const REFUSALS: u64 = 1024;
const _: () = assert!(REFUSALS_AT + REFUSALS * SLOT_BYTES as u64 <= LOCKED_AT);

/// Who asked for something that is to be recorded, and what.
#[derive(Clone, Debug)]
pub struct Asked {
    operator: [u8; 32],
    proof: Proof,
    verb: &'static str,
    is_stream: bool,
    object: alloc::string::String,
}

impl Asked {
    /// For a request that changes something; None for one that only looks.
    #[must_use]
    pub fn new(operator: [u8; 32], proof: Proof, request: &Request) -> Option<Self> {
        let verb = request.verb();
        if !verb.is_recorded() {
            return None;
        }
        let object = request.object();
        // No guest has a longer name: an entry must fit whatever is asked for.
        let end = object.floor_char_boundary(NAME_BYTES);
        let object = object.get(..end).unwrap_or_default().into();
        let is_stream = verb.effect == Effect::Streams;
        Some(Self { operator, proof, verb: verb.name, is_stream, object })
    }
}

/// The logs.
pub struct AuditLog<M> {
    memory: Option<M>,
    effects: Chain,
    refused: Chain,
    refusals: Refusals,
    /// The last entry, to record a conversation with a console once.
    last: Option<Entry>,
}

impl<M: GuestMemory> AuditLog<M> {
    /// Logs without memory, which keep nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            memory: None,
            effects: Chain::new(Log::Effects, 0, SLOTS),
            refused: Chain::new(Log::Refusals, REFUSALS_AT, REFUSALS),
            refusals: Refusals::default(),
            last: None,
        }
    }

    /// Takes over the logs of an earlier dom0; false if the record is not of them.
    pub fn adopt<H: Hypervisor<Memory = M>>(
        &mut self,
        hypervisor: &mut H,
        domain: DomainId,
        record: &[u8],
    ) -> bool {
        if record != RECORD_MAGIC || self.memory.is_some() {
            return false;
        }
        let memory = hypervisor.memory(domain, MemoryLayout::new(MEMORY_BYTES));
        self.last = self.effects.adopt(&memory);
        self.refused.adopt(&memory);
        self.memory = Some(memory);
        true
    }

    /// Makes the logs' memory unless there is one.
    pub fn ensure<H: Hypervisor<Memory = M>>(&mut self, hypervisor: &mut H) {
        if self.memory.is_some() {
            return;
        }
        let spec =
            DomainSpec { memory_bytes: MEMORY_BYTES, vcpus: 1, weight: 256, cap_percent: 0, reserved: 0 };
        let made = hypervisor.domain_create(&spec).and_then(|domain| {
            hypervisor.store_put(domain.slot().index(), &RECORD_MAGIC)?;
            Ok(domain)
        });
        match made {
            Ok(domain) => {
                self.memory = Some(hypervisor.memory(domain, MemoryLayout::new(MEMORY_BYTES)));
            }
            Err(_) => log::error!("no memory for the audit log: nothing is changed"),
        }
    }

    /// The memory that outlives dom0, if there is any.
    pub(crate) const fn memory(&self) -> Option<&M> {
        self.memory.as_ref()
    }

    /// The number of its next entry.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.effects.length
    }

    /// Whether a command can be recorded, of which `waiting` entries before it must not be
    /// overwritten yet. What rescues a node has room left of its own.
    ///
    /// # Errors
    /// The failure to report: what is not recorded is not done.
    pub fn check_room(&self, waiting: u64, is_rescue: bool) -> core::result::Result<(), Refusal> {
        let most = if is_rescue { SLOTS } else { SLOTS - AUDIT_URGENT };
        if self.memory.is_none() {
            return Err(Refusal::of("", Reason::NoAuditMemory));
        }
        if waiting >= most {
            return Err(Refusal::of("", Reason::AuditBehind { waiting }));
        }
        Ok(())
    }

    /// Records a command and how it ended. Keys typed into one console in one session are
    /// one entry, as are looks at one capture or configuration: the first.
    pub fn record(&mut self, asked: &Asked, result: Result, now_ns: u64) {
        let repeated = self.last.as_ref().is_some_and(|last| {
            asked.is_stream
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

    /// Records a command that did nothing, by itself or with those like it.
    pub fn refuse(&mut self, asked: &Asked, code: Code, now_ns: u64) {
        if let Some(due) = self.refusals.note(asked, code, now_ns) {
            self.append_refusal(&due, now_ns);
        }
    }

    /// Makes the entries of what was gathered and is due.
    pub fn settle(&mut self, now_ns: u64) {
        for due in self.refusals.take_due(now_ns) {
            self.append_refusal(&due, now_ns);
        }
    }

    /// When that is to be done next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.refusals.next_deadline()
    }

    fn append_refusal(&mut self, due: &Due, now_ns: u64) {
        let Due { asked, code, count } = due;
        let result = Result::Failed(*code);
        let mut entry = Entry::new(&asked.proof, &asked.operator, asked.verb, &asked.object, result);
        (entry.at_ns, entry.count) = (now_ns, *count);
        if let Some(memory) = &mut self.memory {
            self.refused.append(memory, entry);
        }
    }

    /// Adds an entry at the end of the log of effects.
    pub(crate) fn append(&mut self, entry: Entry) {
        if let Some(memory) = &mut self.memory
            && let Some(entry) = self.effects.append(memory, entry)
        {
            self.last = Some(entry);
        }
    }

    /// Entries ever made.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.effects.length
    }

    /// An entry by its number, if it is there.
    #[must_use]
    pub fn entry(&self, sequence: u64) -> Option<Entry> {
        self.effects.entry(self.memory.as_ref()?, sequence)
    }

    /// All that are there.
    #[must_use]
    pub fn all(&self) -> Vec<Entry> {
        (self.effects.oldest..self.effects.length).filter_map(|sequence| self.entry(sequence)).collect()
    }

    /// Begins again with the end of a log that was kept elsewhere: a chain.
    pub(crate) fn restore(&mut self, tail: &[Entry]) {
        let Some(first) = tail.first() else { return };
        let Chain { oldest, length, digest, .. } = &mut self.effects;
        (*oldest, *length, *digest) = (first.sequence, first.sequence, first.previous);
        for entry in tail {
            self.append(entry.clone());
        }
    }

    /// Entries from a sequence number on, as many as one reply takes, of the first
    /// `shown` ever made.
    #[must_use]
    pub fn page(&self, from: u64, shown: u64, identity: &Identity) -> Page {
        self.effects.page(self.memory.as_ref(), from, shown, identity)
    }

    /// The same of what was refused or failed.
    #[must_use]
    pub fn refusals_page(&self, from: u64, identity: &Identity) -> Page {
        self.refused.page(self.memory.as_ref(), from, u64::MAX, identity)
    }
}

impl<M: GuestMemory> Default for AuditLog<M> {
    fn default() -> Self {
        Self::new()
    }
}
