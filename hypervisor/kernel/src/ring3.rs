//! Runs dom0 in ring 3: until it waits, calls, faults or hangs.

use crate::cpu::Cpu;
use crate::dom0::{self, CommandLine, Dom0};
use crate::registers::Registers;
use crate::watch::Mutex;
use crate::{
    address_space, clock, domain, events, machine_check, speculation, syscall, vcpu, watch, watchdog,
};
use core::sync::atomic::Ordering;
use hv_abi::DomainSlot;
use hv_abi::call::Error;
use hv_abi::event::{self, Event};
use hv_core::watch::Doing;
use zerocopy::IntoBytes;

/// How long dom0 may compute without waiting before it counts as hung.
const HANG_NS: u64 = 5_000_000_000;
/// How often a running dom0 is looked at.
const TICK_NS: u64 = 100_000_000;
static DOM0: Mutex<Option<Dom0>> = Mutex::new(None);

/// Starts dom0.
pub(crate) fn init(payload: &'static [u8], command_line: CommandLine) {
    *DOM0.lock() = Some(dom0::init(payload, command_line));
}

unsafe extern "C" {
    fn enter_user(registers: *mut Registers) -> u64;
}

/// Runs dom0 until it waits. Called on the boot CPU only.
pub(crate) fn service(cpu: &'static Cpu) {
    let mut guard = DOM0.lock();
    let Some(dom0) = guard.as_mut() else { return };
    loop {
        let now = clock::now_ns();
        if now < dom0.hold_until_ns {
            events::hold(dom0.hold_until_ns);
            return;
        }
        if let Some((pointer, capacity)) = dom0.wait {
            if !events::is_due(now) {
                return;
            }
            events::end_wait();
            dom0.wait = None;
            dom0.busy_since_ns = now;
            match deliver(pointer, capacity) {
                Ok(count) => dom0.registers.rax = count,
                Err(error) => dom0.registers.rax = error.to_result().cast_unsigned(),
            }
        }
        crate::arm(cpu, now + TICK_NS, now);
        watchdog::look(cpu, now);
        speculation::before_dom0(cpu);
        watch::record(cpu, Doing::Dom0);
        // SAFETY: the registers are dom0's; ring 3 reaches only its own pages.
        let call = unsafe { enter_user(&raw mut dom0.registers) } == 1;
        watch::record(cpu, Doing::Ring0);
        let pending = cpu.take_pending();
        crate::handle_pending(cpu, &pending);
        if call {
            if let syscall::After::Restart = syscall::handle(dom0) {
                dom0.restart("it gave up");
            }
        } else if dom0.registers.vector < 32 {
            exception(dom0);
        } else if clock::now_ns() > dom0.busy_since_ns + HANG_NS {
            dom0.restart("it hung");
        }
    }
}

/// Copies pending events to dom0; what does not fit stays pending.
fn deliver(pointer: u64, capacity: u64) -> Result<u64, Error> {
    let mut count = 0;
    let mut put = |event: &Event| -> Result<bool, Error> {
        if count >= capacity {
            return Ok(false);
        }
        address_space::copy_out(pointer + count * size_of::<Event>() as u64, event.as_bytes())?;
        count += 1;
        Ok(true)
    };
    let mut interrupts = events::take_interrupts();
    while interrupts != 0 {
        let index = interrupts.trailing_zeros();
        if !put(&Event { kind: event::INTERRUPT, index, ..Event::default() })? {
            events::add_interrupts(interrupts);
            return Ok(count);
        }
        interrupts &= interrupts - 1;
    }
    let mut work = events::take_work();
    while work != 0 {
        let slot = DomainSlot::new(work.trailing_zeros() as usize).ok_or(Error::NotFound)?;
        if !deliver_domain(slot, &mut put)? {
            DomainSlot::all().filter(|it| work >> it.index() & 1 == 1).for_each(events::notify);
            return Ok(count);
        }
        work &= work - 1;
    }
    Ok(count)
}

/// False when there was no room for all of it.
fn deliver_domain(
    slot: DomainSlot,
    put: &mut dyn FnMut(&Event) -> Result<bool, Error>,
) -> Result<bool, Error> {
    let (Some(causes), Some(id)) = (events::of_domain(slot), domain::with_slot(slot, |domain| domain.id))
    else {
        return Ok(true);
    };
    let domain = id.0;
    if causes.changed.swap(false, Ordering::Acquire)
        && !put(&Event { kind: event::DOMAIN, domain, ..Event::default() })?
    {
        causes.changed.store(true, Ordering::Release);
        return Ok(false);
    }
    let mut bells = causes.doorbells.swap(0, Ordering::Acquire);
    while bells != 0 {
        let index = bells.trailing_zeros();
        if !put(&Event { kind: event::DOORBELL, domain, index, ..Event::default() })? {
            causes.doorbells.fetch_or(bells, Ordering::Release);
            return Ok(false);
        }
        bells &= bells - 1;
    }
    let mut exits = causes.exits.swap(0, Ordering::Acquire);
    while exits != 0 {
        let index = exits.trailing_zeros();
        let waiting = domain::vcpu_slot(id, u64::from(index))
            .ok()
            .and_then(|vcpu| vcpu::waiting_event(vcpu, id, index));
        if let Some(event) = waiting
            && !put(&event)?
        {
            causes.exits.fetch_or(exits, Ordering::Release);
            return Ok(false);
        }
        exits &= exits - 1;
    }
    Ok(true)
}

/// A fault: memory that is backed on first touch, or the end of this dom0.
fn exception(dom0: &mut Dom0) {
    let registers = &dom0.registers;
    if registers.vector == 18 {
        // Not worth telling apart whether it could continue: the next one can.
        machine_check::contain();
        dom0.restart("of a machine check");
        return;
    }
    if registers.vector == 14 && touch(registers.cr2) {
        return;
    }
    log::error!(
        "exception {} error {:#x} at {:#x}, address {:#x}",
        registers.vector,
        registers.error,
        registers.rip,
        registers.cr2
    );
    dom0.restart("it faulted");
}

/// Backs memory that grows by being touched: heap, stack, guest windows.
fn touch(address: u64) -> bool {
    address_space::touch(address)
        || address_space::in_window(address).is_some_and(|(slot, gpa)| domain::populate(slot, gpa))
}
