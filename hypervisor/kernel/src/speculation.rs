//! Carries out on this CPU what `hv_core::speculation` has decided.

use crate::cpu::{self, Cpu};
use crate::raw;
use core::sync::atomic::{AtomicU32, Ordering};
use hv_abi::DomainSlot;
use hv_core::speculation::{Plan, Processor};
use spin::Once;

/// Without and with siblings that run.
static PLANS: [Once<Plan>; 2] = [const { Once::new() }; 2];

/// What this machine's processors need.
#[inline(never)]
pub(crate) fn plan() -> &'static Plan {
    let threads = cpu::threads_run();
    let [without, with] = &PLANS;
    (if threads { with } else { without }).call_once(|| Plan::new(&raw::cpuid, threads))
}

struct Own;

impl Processor for Own {
    fn set(&mut self, msr: u32, bits: u64) {
        // SAFETY: the plan names registers that CPUID, or the processor's model, says it has.
        let value = unsafe { raw::read_msr(msr) } | bits;
        // SAFETY: bits that the processor's maker names for this generation.
        unsafe { raw::write_msr(msr, value) };
    }

    fn write(&mut self, msr: u32, value: u64) {
        // SAFETY: SPEC_CTRL and PRED_CMD, where CPUID has them; they change no result.
        unsafe { raw::write_msr(msr, value) };
    }

    fn clear_buffers(&mut self) {
        raw::clear_buffers();
    }

    fn divide(&mut self) {
        core::hint::black_box(core::hint::black_box(0_u64) / core::hint::black_box(1));
    }
}

/// Prepares the CPU this runs on.
pub(crate) fn set_up() {
    plan().set_up(&mut Own);
}

/// A number for the guest in a slot that is not 0.
fn number(slot: DomainSlot) -> u32 {
    u32::try_from(slot.index()).map_or(u32::MAX, |slot| slot + 1)
}

/// Before a vCPU of the domain in a slot is entered, with its own SPEC_CTRL.
pub(crate) fn before_guest(cpu: &Cpu, slot: DomainSlot, control: u64) {
    let mut trained = cpu.trained.load(Ordering::Relaxed);
    let plan = plan();
    plan.before_guest(&mut trained, number(slot), &mut Own);
    cpu.trained.store(trained, Ordering::Relaxed);
    let control = control | plan.forced_control;
    cpu.own_control.store(plan.ring0_control.unwrap_or(0), Ordering::Relaxed);
    cpu.guest_control.store(control, Ordering::Relaxed);
    cpu.steps.store(u64::from(plan.steps(control)), Ordering::Relaxed);
}

/// Before dom0 is entered.
pub(crate) fn before_dom0(cpu: &Cpu) {
    let mut trained = cpu.trained.load(Ordering::Relaxed);
    plan().before_dom0(&mut trained, &mut Own);
    cpu.trained.store(trained, Ordering::Relaxed);
}

/// Whose predictions a new domain in a slot must not find: another one was there before.
pub(crate) fn forget(slot: DomainSlot) {
    for cpu in (0..cpu::count()).filter_map(cpu::by_number) {
        let _ = AtomicU32::compare_exchange(
            &cpu.trained,
            number(slot),
            u32::MAX,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }
}
