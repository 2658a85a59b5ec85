//! Accesses that dom0 answers: told to it, waited for, completed.

use super::{Inner, Vcpu, by_slot};
use crate::run_queue;
use crate::watch::Guard;
use core::sync::atomic::Ordering;
use hv_abi::DomainId;
use hv_abi::call::Error;
use hv_abi::event;
use hv_abi::event::Event;
use hv_core::decode::Access;
use hv_core::string_io::StringIo;

/// An access that dom0 answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forwarded {
    /// One of `event::ACCESS_*`.
    pub(crate) kind: u16,
    /// Bytes.
    pub(crate) width: u8,
    /// Port or guest-physical address.
    pub(crate) address: u64,
    /// What is written.
    pub(crate) value: u64,
    /// For memory: the instruction.
    pub(crate) instruction: Option<Access>,
    /// For a string of ports' elements: the instruction.
    pub(crate) string: Option<StringIo>,
    /// Where the guest resumes.
    pub(crate) next_rip: u64,
    /// dom0's answer.
    pub(crate) answer: Option<u64>,
}

/// The state of a vCPU that waits for dom0, and None of one that does not (any
/// more): that one may be in guest mode for long, with its lock.
fn lock_waiting(vcpu: &Vcpu) -> Option<Guard<'_, Option<Inner>>> {
    while vcpu.waits_for_answer() {
        if let Some(guard) = vcpu.inner.try_lock() {
            return Some(guard);
        }
        core::hint::spin_loop();
    }
    None
}

/// The access a vCPU waits for, as an event.
pub(crate) fn waiting_event(slot: usize, domain: DomainId, index: u32) -> Option<Event> {
    let guard = lock_waiting(by_slot(slot)?)?;
    let access = guard.as_ref()?.forwarded.filter(|access| access.answer.is_none())?;
    Some(Event {
        kind: event::EXIT,
        domain: domain.0,
        index,
        access: access.kind,
        width: u16::from(access.width),
        address: access.address,
        value: access.value,
    })
}

/// Answers a forwarded access.
pub(crate) fn complete(slot: usize, value: u64) -> Result<(), Error> {
    let vcpu = by_slot(slot).ok_or(Error::NotFound)?;
    {
        let mut guard = lock_waiting(vcpu).ok_or(Error::State)?;
        let inner = guard.as_mut().ok_or(Error::NotFound)?;
        let access = inner.forwarded.as_mut().filter(|access| access.answer.is_none()).ok_or(Error::State)?;
        access.answer = Some(value);
        // Before it can run and wait again.
        vcpu.set_waiting(false);
    }
    vcpu.answered.store(true, Ordering::Release);
    run_queue::kick(slot);
    Ok(())
}
