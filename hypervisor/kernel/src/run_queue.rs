//! The run queue of all vCPUs, and making a CPU reschedule.

use crate::watch::Mutex;
use crate::{apic, cpu};
use hv_abi::MAX_VCPUS;
use hv_core::scheduler::{Scheduler, State};

/// The run queue.
pub(crate) static SCHEDULER: Mutex<Scheduler<MAX_VCPUS>> = Mutex::new(Scheduler::new());

/// Makes a CPU look for what to run. This one does so when its vCPU next exits or,
/// as it does now, is about to resume: the vCPU may spin until the other has run.
pub(crate) fn reschedule(cpu: Option<u32>) {
    let Some(cpu) = cpu else { return };
    let own = cpu::current();
    if cpu == own.number {
        own.mark(cpu::VECTOR_RESCHEDULE);
    } else {
        apic::interrupt(cpu, cpu::VECTOR_RESCHEDULE);
    }
}

/// Makes a vCPU check its requests.
pub(crate) fn kick(vcpu_slot: usize) {
    let mut scheduler = SCHEDULER.lock();
    match scheduler.state(vcpu_slot) {
        State::Blocked => {
            let cpu = scheduler.wake(vcpu_slot);
            drop(scheduler);
            reschedule(cpu);
        }
        State::Running(cpu) => {
            drop(scheduler);
            if cpu != cpu::current().number {
                apic::interrupt(cpu, cpu::VECTOR_KICK);
            }
        }
        _ => {}
    }
}
