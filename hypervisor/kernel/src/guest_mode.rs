//! Running a virtual processor until it gives its CPU back.

use crate::cpu::{self, Cpu};
use crate::run_queue::SCHEDULER;
use crate::vcpu::{self, Inner, Vcpu};
use crate::vendor::{Entry, Exit, Machine};
use crate::{apic, clock, domain, events, exits, speculation, watch};
use core::sync::atomic::Ordering;
use hv_abi::DomainSlot;
use hv_core::guest_page::GuestPhysical;
use hv_core::scheduler::State;
use hv_core::watch::Doing;

/// Why a vCPU gave its CPU back.
enum Leave {
    /// It waits; `true` when dom0 must hear of a new access.
    Block(bool),
    /// Another one's turn, or it was told to stop.
    Yield,
}

/// Whether it has something to do.
fn is_ready(inner: &mut Inner) -> bool {
    if inner.wait_startup {
        return false;
    }
    if let Some(access) = inner.forwarded {
        let Some(answer) = access.answer else { return false };
        inner.forwarded = None;
        exits::finish_access(inner, &access, answer);
    }
    if inner.halted {
        let wakes = inner.nmi || (inner.machine.interrupt_flag() && inner.lapic.pending().is_some());
        if !wakes {
            return false;
        }
        inner.halted = false;
    }
    true
}

/// Sets the bit that stands for an end of interrupt where it may be.
fn offer_pv_eoi(inner: &mut Inner) {
    if let Some(gpa) = inner.pv_eoi.place(&inner.lapic) {
        let written = domain::with_slot(inner.domain, |domain| domain.nested.write(gpa, &[1]));
        inner.pv_eoi.set_offered(written == Some(true));
    }
}

/// Takes the bit back; a guest that cleared it has ended its interrupt.
fn take_pv_eoi(inner: &mut Inner) {
    let Some(gpa) = inner.pv_eoi.take() else { return };
    domain::with_slot(inner.domain, |domain| {
        let mut flags = [0];
        if !domain.nested.read(gpa, &mut flags) {
            return;
        }
        if flags == [0] {
            inner.lapic.end_of_interrupt();
        } else {
            domain.nested.write(gpa, &[0]);
        }
    });
}

/// Guest mode until the next exit.
fn enter(inner: &mut Inner, cpu: &Cpu) -> Exit {
    let task_priority_class = inner.lapic.task_priority_class();
    let event = inner.next_event();
    let window = inner.nmi || inner.lapic.pending().is_some();
    offer_pv_eoi(inner);
    speculation::before_guest(cpu, inner.domain, inner.control);
    watch::record(cpu, Doing::Away);
    let exit = inner.machine.run(cpu, &mut inner.registers, &Entry { event, window, task_priority_class });
    watch::record(cpu, Doing::Ring0);
    take_pv_eoi(inner);
    if let Some(vector) = inner.machine.untaken_interrupt() {
        inner.lapic.take_back(vector);
    }
    exit
}

/// Notifies dom0 that a domain's vCPU waits for an answer.
fn report_access(domain_slot: DomainSlot, index: u32) {
    if let Some(causes) = events::of_domain(domain_slot) {
        causes.exits.fetch_or(1 << index, Ordering::Release);
        events::notify(domain_slot);
    }
}

/// Runs the vCPU in `slot` until it blocks, `until` passes or something else
/// needs this CPU. The scheduler has marked it running here.
pub(crate) fn run(cpu: &'static Cpu, slot: usize, until: u64) {
    let Some(vcpu) = vcpu::by_slot(slot) else { return };
    let mut guard = vcpu.inner.lock();
    let Some(inner) = guard.as_mut() else { return };
    let mut loaded = false;
    let (domain_slot, index) = (inner.domain, inner.index);
    loop {
        let leave = run_some(cpu, vcpu, inner, until, &mut loaded);
        let now = clock::now_ns();
        let mut scheduler = SCHEDULER.lock();
        let report = match leave {
            // A request between the last look and now: look again.
            Leave::Block(_) if vcpu.has_requests() && !vcpu.must_stop() => {
                drop(scheduler);
                if let Leave::Block(true) = leave {
                    vcpu.set_waiting(true);
                    // dom0 cannot answer before this lock is released, so keep
                    // the report until then by leaving as runnable.
                    SCHEDULER.lock().leave(slot, now, State::Runnable);
                    if loaded {
                        inner.save();
                    }
                    drop(guard);
                    report_access(domain_slot, index);
                    return;
                }
                continue;
            }
            Leave::Block(report) => {
                let timer = if inner.halted { inner.lapic.next_deadline_ns() } else { None };
                if loaded {
                    inner.save();
                }
                vcpu.set_waiting(inner.forwarded.is_some());
                let next = if vcpu.must_stop() { State::Stopped } else { State::Blocked };
                scheduler.leave(slot, now, next);
                scheduler.set_timer(slot, timer.unwrap_or(u64::MAX));
                report
            }
            Leave::Yield => {
                if loaded {
                    inner.save();
                }
                let next = if vcpu.must_stop() { State::Stopped } else { State::Runnable };
                scheduler.leave(slot, now, next);
                let other = if next == State::Runnable { scheduler.take_idle() } else { None };
                drop(scheduler);
                drop(guard);
                if let Some(other) = other.filter(|other| *other != cpu.number) {
                    apic::interrupt(other, cpu::VECTOR_RESCHEDULE);
                }
                return;
            }
        };
        drop(scheduler);
        drop(guard);
        if report {
            report_access(domain_slot, index);
        }
        return;
    }
}

fn run_some(cpu: &'static Cpu, vcpu: &Vcpu, inner: &mut Inner, until: u64, loaded: &mut bool) -> Leave {
    loop {
        if vcpu.must_stop() {
            return Leave::Yield;
        }
        inner.take_requests(vcpu);
        let now = clock::now_ns();
        inner.lapic.advance(now);
        if !is_ready(inner) {
            return Leave::Block(false);
        }
        let pending = cpu.take_pending();
        crate::handle_pending(cpu, &pending);
        let wanted = cpu::has_vector(&pending, cpu::VECTOR_RESCHEDULE) || events::interrupts(cpu, now);
        if now >= until || wanted {
            return Leave::Yield;
        }
        if !*loaded {
            inner.load();
            *loaded = true;
        }
        if !inner.ran {
            inner.ran = true;
            domain::with_slot(inner.domain, |domain| domain.record_run(now));
        }
        let timer = inner.lapic.next_deadline_ns().unwrap_or(u64::MAX).min(until);
        crate::arm(cpu, timer, now);
        let exit = enter(inner, cpu);
        vcpu.count_exit();
        match exits::handle(vcpu, inner, exit) {
            exits::Next::Continue => {}
            exits::Next::Forward => return Leave::Block(true),
            exits::Next::Crash(cause) => {
                domain::crash(inner.domain, cause);
                return Leave::Yield;
            }
        }
    }
}
