//! The guests: what each is and has, their shares of a turn, and who types on their consoles.

pub(crate) mod autostart;
pub mod console_lock;
pub(crate) mod following;
pub mod guest;
pub mod number;
pub mod pending_attach;
pub(crate) mod quotas;
pub(crate) mod record;
use alloc::vec::Vec;

use hv_abi::DomainId;
use hv_abi::event::Event;
use machine::guest_memory::GuestMemory;
use mgmt_proto::machine::Digest;
use mgmt_proto::reason::{Reason, Refusal};

use crate::guests::autostart::AutostartGuests;
use crate::guests::guest::{Guest, RunState};
use crate::guests::number::GuestNumber;
use crate::guests::pending_attach::PendingAttach;
use crate::guests::quotas::Quotas;
use crate::hypervisor::Hypervisor;

/// All guests of the node.
pub struct Guests<M> {
    /// In the order of their numbers.
    pub(crate) list: Vec<Guest<M>>,
    /// Their shares of a turn.
    pub(crate) quotas: Quotas,
    /// Accesses of guests that owe too much: their vCPUs wait.
    pub(crate) deferred: Vec<Event>,
    /// Disks that are being attached.
    pub(crate) attaching: Vec<PendingAttach>,
    /// Disks that are gone since those who wait for that were told: guest, device.
    pub(crate) detached: Vec<(GuestNumber, usize)>,
    /// Those that start with the node.
    pub(crate) autostart: AutostartGuests,
    next_number: u64,
}

impl<M> Default for Guests<M> {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            quotas: Quotas::default(),
            deferred: Vec::new(),
            attaching: Vec::new(),
            detached: Vec::new(),
            autostart: AutostartGuests::default(),
            next_number: 1,
        }
    }
}

/// Fails as what is asked of a guest that is not there.
#[must_use]
pub fn not_found(name: &str) -> Refusal {
    Refusal::of(name, Reason::NoGuest)
}

impl<M> Guests<M> {
    /// A number that no guest has had.
    pub(crate) const fn new_number(&mut self) -> GuestNumber {
        let number = GuestNumber(self.next_number);
        self.next_number += 1;
        number
    }

    /// The guest at a place of the list.
    pub(crate) fn get(&self, index: usize) -> Option<&Guest<M>> {
        self.list.get(index)
    }

    /// The same, to change it.
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut Guest<M>> {
        self.list.get_mut(index)
    }

    /// The place of the guest with a name.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn find(&self, name: &str) -> Result<usize, Refusal> {
        self.list.iter().position(|guest| guest.machine.name == name).ok_or_else(|| not_found(name))
    }

    /// The guest with a name.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn named(&self, name: &str) -> Result<&Guest<M>, Refusal> {
        self.list.iter().find(|guest| guest.machine.name == name).ok_or_else(|| not_found(name))
    }

    /// The same, to change it.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn named_mut(&mut self, name: &str) -> Result<&mut Guest<M>, Refusal> {
        self.list.iter_mut().find(|guest| guest.machine.name == name).ok_or_else(|| not_found(name))
    }

    /// The place of the guest with a number.
    pub(crate) fn index_of(&self, number: GuestNumber) -> Option<usize> {
        self.list.binary_search_by_key(&number, |guest| guest.number).ok()
    }

    /// The place of the guest whose domain this is.
    pub(crate) fn index_of_domain(&self, domain: DomainId) -> Option<usize> {
        self.list.iter().position(|guest| guest.domain_id() == Some(domain))
    }

    /// When a guest that waits for its disks is given up, or one whose start is held back may
    /// start.
    pub(crate) fn next_start_deadline(&self) -> Option<u64> {
        let waiting = self.list.iter().filter(|guest| guest.life == RunState::Connecting);
        waiting
            .filter_map(|guest| Some(guest.not_before_ns).filter(|at| *at != 0).or(guest.start_deadline_ns))
            .min()
    }
}

impl<M: GuestMemory> Guests<M> {
    /// Whether any guest needs a kernel or an initrd.
    pub(crate) fn need(&self, digest: &Digest) -> bool {
        self.list.iter().any(|guest| guest.needs(digest))
    }

    /// Begins a turn of their shares: where in the list to begin.
    pub(crate) fn begin_turn(&mut self) -> usize {
        self.quotas.begin(self.list.iter().map(|guest| (guest.number, guest.has_work())))
    }

    /// Raises the interrupts that their devices have asked for.
    pub(crate) fn flush_interrupts<H: Hypervisor<Memory = M>>(&mut self, hypervisor: &mut H) {
        for guest in &mut self.list {
            guest.flush_interrupts(hypervisor);
        }
    }
}
