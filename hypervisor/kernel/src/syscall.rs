//! The system calls of dom0.

use crate::address_space::{self, copy_in, copy_out};
use crate::dom0::{self, Dom0};
use crate::{
    clock, cpu, domain, events, failure, log_sink, memory, pci, persisted, power, run_queue, smp, store,
    vcpu, watchdog,
};
use hv_abi::call::{Call, Error};
use hv_abi::domain::{DomainSpec, NodeInfo, VcpuState};
use hv_abi::log_line::LINE_BYTES_MAX;
use hv_abi::previous::LOG_NOW;
use hv_abi::{DomainId, DomainSlot, MAX_INTERRUPTS};
use hv_core::lapic::Message;
use hv_x86::{Gpa, to_usize};
use log::Level;
use zerocopy::{FromZeros, IntoBytes};

/// What follows a call.
pub(crate) enum After {
    /// dom0 resumes.
    Continue,
    /// dom0 gave up.
    Restart,
}

/// Carries the call out and puts the result into dom0's registers.
pub(crate) fn handle(dom0: &mut Dom0) -> After {
    let registers = dom0.registers;
    let call = Call::from_number(registers.rax);
    if call == Some(Call::Fail) {
        let _ = log_line(registers.rdi, registers.rsi, Level::Error as u64);
        return After::Restart;
    }
    let result = call.ok_or(Error::Call).and_then(|call| dispatch(dom0, call));
    match result {
        Ok((value, second)) => {
            dom0.registers.rax = value;
            dom0.registers.rdx = second;
        }
        Err(error) => dom0.registers.rax = error.to_result().cast_unsigned(),
    }
    After::Continue
}

fn log_line(pointer: u64, length: u64, level: u64) -> Result<(), Error> {
    let level = Level::iter().find(|it| *it as u64 == level).ok_or(Error::Argument)?;
    let mut text = [0; LINE_BYTES_MAX];
    let text = text.get_mut(..to_usize(length.min(LINE_BYTES_MAX as u64))).ok_or(Error::Argument)?;
    copy_in(pointer, text)?;
    log_sink::dom0_line(level, text);
    Ok(())
}

fn domain_id(value: u64) -> Result<DomainId, Error> {
    u32::try_from(value).map(DomainId).map_err(|_| Error::NotFound)
}

fn dispatch(dom0: &mut Dom0, call: Call) -> Result<(u64, u64), Error> {
    let registers = dom0.registers;
    let [a, b, c, d] = [registers.rdi, registers.rsi, registers.rdx, registers.r10];
    match call {
        Call::Log => log_line(a, b, c)?,
        Call::Wait => {
            dom0.wait = Some((b, c));
            events::begin_wait(a);
        }
        Call::Fail => {}
        Call::DomainCreate => {
            let mut spec = DomainSpec::new_zeroed();
            copy_in(a, spec.as_mut_bytes())?;
            return domain::create(&spec).map(|id| (u64::from(id.0), 0));
        }
        Call::VcpuSetState => {
            let id = domain_id(a)?;
            if !domain::is_new(id)? {
                return Err(Error::State);
            }
            let mut state = VcpuState::new_zeroed();
            copy_in(b, state.as_mut_bytes())?;
            vcpu::set_state(domain::vcpu_slot(id, c)?, &state)?;
        }
        Call::DomainResume => domain::resume(domain_id(a)?)?,
        Call::DomainPause => domain::pause(domain_id(a)?)?,
        Call::DomainDestroy => domain::destroy(domain_id(a)?)?,
        Call::DomainGrow => domain::grow(domain_id(a)?, b)?,
        Call::CompleteExit => vcpu::complete(domain::vcpu_slot(domain_id(a)?, b)?, c)?,
        Call::InjectMsi => domain::send_to(domain_id(a)?, &Message::from_msi(b, c))?,
        Call::InjectNmi => {
            let slot = domain::vcpu_slot(domain_id(a)?, b)?;
            vcpu::by_slot(slot).ok_or(Error::NotFound)?.request_nmi();
            run_queue::kick(slot);
        }
        Call::Doorbell => domain::set_doorbell(domain_id(a)?, Gpa(b), c, d)?,
        Call::DomainInfo => {
            let info = domain::info(DomainSlot::new(to_usize(a)).ok_or(Error::NotFound)?)?;
            copy_out(b, info.as_bytes())?;
        }
        Call::NodeInfo => copy_out(a, node_info().as_bytes())?,
        Call::OwnCpu => dom0::own_cpu(a == 1)?,
        Call::Schedule => domain::schedule(domain_id(a)?, b, c)?,
        _ => return dispatch_machine(dom0, call, [a, b, c, d]),
    }
    Ok((0, 0))
}

fn dispatch_machine(dom0: &mut Dom0, call: Call, [a, b, c, d]: [u64; 4]) -> Result<(u64, u64), Error> {
    match call {
        Call::PciRead => return pci::read(a, b, c).map(|value| (value, 0)),
        Call::PciWrite => pci::write(a, b, c, d)?,
        Call::MapMmio => return dom0.map_mmio(a, b).map(|address| (address, 0)),
        Call::DmaAllocate => return dom0.allocate_dma(a).map(|(address, bus)| (address, bus.0)),
        Call::BindInterrupt => {
            if a >= MAX_INTERRUPTS as u64 {
                return Err(Error::Argument);
            }
            let boot = cpu::by_number(0).ok_or(Error::NotFound)?;
            let address = hv_x86::apic::DEFAULT_BASE | u64::from(boot.apic_id & 0xff) << 12;
            return Ok((address, u64::from(cpu::VECTOR_DEVICES) + a));
        }
        Call::StorePut => {
            let (pointer, length) = (b, to_usize(c));
            store::put(to_usize(a), length, |offset, target| {
                copy_in(pointer + offset as u64, target).is_ok()
            })?;
        }
        Call::StoreGet => {
            let length = store::get(to_usize(a), to_usize(c), |offset, source| {
                copy_out(b + offset as u64, source).is_ok()
            })?;
            return Ok((length as u64, 0));
        }
        Call::LogRead => {
            let mut buffer = [0; 1024];
            let target = buffer.get_mut(..to_usize(c.min(1024))).ok_or(Error::Argument)?;
            let (count, next) = match d {
                LOG_NOW => log_sink::read(a, target),
                _ => persisted::read(d, a, target),
            };
            copy_out(b, target.get(..count).unwrap_or(&[]))?;
            return Ok((count as u64, next));
        }
        Call::Reset => power::off(a == 1),
        Call::RestartDelay => {
            if !failure::set_delay(a) {
                return Err(Error::Argument);
            }
        }
        Call::RunThreads => smp::run_threads(a == 1),
        Call::Break if a == 0 => panic!("an operator asked for a panic"),
        Call::Break => loop {
            core::hint::spin_loop();
        },
        _ => return Err(Error::Call),
    }
    Ok((0, 0))
}

fn node_info() -> NodeInfo {
    let dom0_bytes = address_space::owned_bytes();
    let (log_errors, log_warnings) = log_sink::counts();
    let mut info = NodeInfo {
        memory_bytes: memory::usable_bytes(),
        memory_free_bytes: memory::available_bytes(),
        dom0_bytes,
        cpus: smp::running(),
        threads_resting: smp::resting(),
        dom0_starts: dom0::starts(),
        tsc_khz: clock::scale().khz,
        wall_clock_base_ns: clock::wall_base_ns(),
        watchdogs: watchdog::watchdogs(),
        log_errors,
        log_warnings,
        previous_end: persisted::previous_end().map_or(0, |ended| ended as u32),
        ..NodeInfo::default()
    };
    // Everything that is neither free nor dom0's nor a guest's, nor promised to them, is
    // the hypervisor's own.
    let guests: u64 =
        DomainSlot::all().filter_map(|slot| domain::info(slot).ok()).map(|info| info.memory_bytes).sum();
    let used = info.memory_bytes.saturating_sub(info.memory_free_bytes);
    info.hypervisor_bytes =
        used.saturating_sub(address_space::unused_bytes()).saturating_sub(dom0_bytes).saturating_sub(guests);
    info
}
