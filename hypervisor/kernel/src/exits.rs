//! Why a guest stopped, and what happens then.

use crate::domain;
use crate::nested::Missing;
use crate::vcpu::{Forwarded, Inner, PvEoi, Vcpu};
use crate::vendor::{Exit, Machine, MemoryFault, PortAccess};
use crate::xstate::{self, Mask};
use crate::{clock, events, machine_check, raw, speculation, string_io};
use hv_abi::event;
use hv_core::cpuid::Guest;
use hv_core::decode::{self, Action, Faulting};
use hv_core::guest_page::fetch;
use hv_core::lapic::Effect;
use hv_core::msr::{self as policy, Register};
use hv_x86::{Exception, Gpa, apic, low32, reg};

/// What the run loop does next.
pub(crate) enum Next {
    /// Enter the guest again.
    Continue,
    /// dom0 must answer an access.
    Forward,
    /// The guest cannot continue.
    Crash(&'static str),
}

/// Answer to a hypercall that is not known (KVM_ENOSYS).
const NO_SUCH_HYPERCALL: u64 = (-1000_i64).cast_unsigned();

/// Deals with an exit.
pub(crate) fn handle(vcpu: &Vcpu, inner: &mut Inner, exit: Exit) -> Next {
    inner.lapic.set_task_priority_class(inner.machine.task_priority_class());
    match exit {
        Exit::Interruption => {}
        Exit::Cpuid => cpuid(inner),
        Exit::Halt => {
            if let Some(next) = after(inner, &[0xf4]) {
                inner.machine.go_to(next);
                inner.halted = true;
            }
        }
        Exit::Port(access) => return port(inner, &access),
        Exit::Msr { write } => model_specific(vcpu, inner, write),
        Exit::Memory(fault) => return nested_fault(vcpu, inner, &fault),
        Exit::Hypercall(opcode) => {
            if let Some(next) = after(inner, opcode) {
                inner.machine.go_to(next);
                inner.registers.rax = NO_SUCH_HYPERCALL;
            }
        }
        Exit::Xsetbv => xsetbv(inner),
        Exit::Nothing(opcode) => {
            if let Some(next) = after(inner, opcode) {
                inner.machine.go_to(next);
            }
        }
        Exit::Exception(exception) => inner.exception = Some(exception),
        Exit::MachineCheck => {
            if !machine_check::contain() {
                return Next::Crash("machine check");
            }
        }
        Exit::TripleFault => {
            inner.machine.log_state(inner.domain, inner.index);
            return Next::Crash("triple fault");
        }
        Exit::Fatal(cause) => return Next::Crash(cause),
        Exit::Unexpected(code) => {
            log::warn!("domain slot {}: exit {code:#x} is not expected", inner.domain);
            return Next::Crash("unexpected exit");
        }
    }
    Next::Continue
}

/// The bytes at the instruction pointer; from the processor if it gives them.
fn instruction(inner: &Inner, bytes: &mut [u8; decode::MAX_LENGTH]) -> usize {
    if let Some(fetched) = inner.machine.fetched() {
        bytes.iter_mut().zip(fetched).for_each(|(target, byte)| *target = *byte);
        return fetched.len();
    }
    let (paging, linear) = (inner.machine.paging(), inner.machine.linear_rip());
    domain::with_slot(inner.domain, |domain| fetch(&domain.nested, &paging, linear, bytes)).unwrap_or(0)
}

/// Where the guest resumes after an intercepted instruction with these opcode
/// bytes. None if the bytes in memory are others by now (another vCPU wrote them):
/// the guest then runs those instead, and the caller must have no effect.
fn after(inner: &Inner, opcode: &[u8]) -> Option<u64> {
    inner.machine.next_rip().or_else(|| {
        let mut bytes = [0; decode::MAX_LENGTH];
        let count = instruction(inner, &mut bytes);
        let length = decode::length_of(bytes.get(..count)?, inner.machine.mode(), opcode)?;
        Some(inner.machine.rip().wrapping_add(u64::from(length)))
    })
}

fn cpuid(inner: &mut Inner) {
    let Some(next) = after(inner, &[0x0f, 0xa2]) else { return };
    inner.machine.go_to(next);
    let cr4 = inner.machine.paging().cr4;
    let lfence = speculation::plan().lfence;
    let tsc_khz = low32(clock::scale().khz);
    let guest = Guest { vcpu: inner.index, vcpus: inner.vcpus, cr4, xcr0: xstate::xcr0(), lfence, tsc_khz };
    let registers = &mut inner.registers;
    let leaf = hv_core::cpuid::leaf(low32(registers.rax), low32(registers.rcx), &guest, &raw::cpuid);
    registers.rax = u64::from(leaf.eax);
    registers.rbx = u64::from(leaf.ebx);
    registers.rcx = u64::from(leaf.ecx);
    registers.rdx = u64::from(leaf.edx);
}

fn xsetbv(inner: &mut Inner) {
    let registers = &inner.registers;
    let value = registers.rdx << 32 | registers.rax & 0xffff_ffff;
    let mask =
        if low32(registers.rcx) == 0 && inner.machine.privilege() == 0 { Mask::new(value) } else { None };
    let Some(mask) = mask else {
        inner.exception = Some(Exception::GENERAL_PROTECTION);
        return;
    };
    if let Some(next) = after(inner, &[0x0f, 0x01, 0xd1]) {
        inner.machine.go_to(next);
        inner.xcr0 = mask;
        xstate::set(mask);
    }
}

fn port(inner: &mut Inner, access: &PortAccess) -> Next {
    if access.string {
        let mut bytes = [0; decode::MAX_LENGTH];
        let count = instruction(inner, &mut bytes);
        let forwards = string_io::begin(inner, access, bytes.get(..count).unwrap_or_default());
        return if forwards { Next::Forward } else { Next::Continue };
    }
    inner.forwarded = Some(Forwarded {
        kind: if access.input { event::ACCESS_PORT_READ } else { event::ACCESS_PORT_WRITE },
        width: access.width,
        address: u64::from(access.port),
        value: if access.input { 0 } else { decode::truncate(inner.registers.rax, access.width) },
        instruction: None,
        string: None,
        next_rip: access.next_rip,
        answer: None,
    });
    Next::Forward
}

/// dom0 has answered: the instruction completes.
pub(crate) fn finish_access(inner: &mut Inner, access: &Forwarded, answer: u64) {
    if let Some(string) = &access.string {
        return string_io::finish(inner, string, access.next_rip, answer);
    }
    match (access.kind, access.instruction) {
        (event::ACCESS_PORT_READ, _) => {
            let value = decode::truncate(answer, access.width);
            let old = inner.registers.rax;
            inner.registers.rax = match access.width {
                1 => old & !0xff | value,
                2 => old & !0xffff | value,
                _ => value,
            };
        }
        (event::ACCESS_MEMORY_READ, Some(instruction)) => load(inner, &instruction, answer),
        _ => {}
    }
    inner.machine.go_to(access.next_rip);
}

fn load(inner: &mut Inner, access: &decode::Access, value: u64) {
    if let Action::Load { register, .. } = access.action {
        let target = inner.registers.by_number(register);
        *target = decode::loaded(*target, value, access);
    }
}

fn nested_fault(vcpu: &Vcpu, inner: &mut Inner, fault: &MemoryFault) -> Next {
    let gpa = fault.gpa;
    let populated = domain::with_slot(inner.domain, |domain| domain.nested.populate(gpa));
    match populated {
        Some(Ok(())) => return Next::Continue,
        Some(Err(Missing::NotRam)) => {}
        Some(Err(Missing::NoMemory)) | None => return Next::Crash("no memory for its page tables"),
    }
    // An event's delivery is not the instruction's doing either.
    if fault.implicit || inner.machine.has_interrupted_event() {
        return Next::Crash("runs or keeps page tables outside its memory");
    }
    let mut bytes = [0; decode::MAX_LENGTH];
    let count = instruction(inner, &mut bytes);
    let found = decode::faulting(bytes.get(..count).unwrap_or_default(), inner.machine.mode(), fault.write);
    let access = match found {
        Faulting::Access(access) => access,
        Faulting::Changed => return Next::Continue,
        Faulting::Unknown => {
            if domain::with_slot(inner.domain, domain::Domain::may_log) == Some(true) {
                log::warn!("domain slot {}: cannot decode {bytes:02x?} on {gpa:#x}", inner.domain);
            }
            inner.exception = Some(Exception::INVALID_OPCODE);
            return Next::Continue;
        }
    };
    let next_rip = inner.machine.rip().wrapping_add(u64::from(access.length));
    let write = fault.write;
    let value = match access.action {
        Action::StoreRegister { register, .. } => {
            decode::stored(*inner.registers.by_number(register), &access)
        }
        _ => decode::stored(0, &access),
    };
    if inner.lapic.owns_page(gpa) {
        local_apic_page(vcpu, inner, &access, gpa, value);
        inner.machine.go_to(next_rip);
        return Next::Continue;
    }
    if write && ring(inner, gpa, access.width) {
        inner.machine.go_to(next_rip);
        return Next::Continue;
    }
    inner.forwarded = Some(Forwarded {
        kind: if write { event::ACCESS_MEMORY_WRITE } else { event::ACCESS_MEMORY_READ },
        width: access.width,
        address: gpa.0,
        value,
        instruction: Some(access),
        string: None,
        next_rip,
        answer: None,
    });
    Next::Forward
}

/// Rings a doorbell, if there is one here.
fn ring(inner: &Inner, gpa: Gpa, width: u8) -> bool {
    let bell = domain::with_slot(inner.domain, |domain| domain.doorbell(gpa, width)).flatten();
    let (Some(bell), Some(causes)) = (bell, events::of_domain(inner.domain)) else { return false };
    causes.doorbells.fetch_or(1 << bell, core::sync::atomic::Ordering::Release);
    events::notify_coalesced(inner.domain);
    true
}

fn local_apic_page(vcpu: &Vcpu, inner: &mut Inner, access: &decode::Access, gpa: Gpa, value: u64) {
    let offset = low32(gpa.0 & 0xfff);
    let now = inner.now();
    if matches!(access.action, Action::Load { .. }) {
        let word = inner.lapic.read_page(offset, &now) >> ((offset & 3) * 8);
        load(inner, access, u64::from(word));
        return;
    }
    let effect = inner.lapic.write_page(offset, low32(value), &now);
    vcpu.set_address(inner.lapic.address());
    apply(inner, effect);
}

fn apply(inner: &Inner, effect: Effect) {
    if let Effect::Send(message) = effect {
        domain::send(inner.domain, &message, Some(inner.index));
    }
}

fn model_specific(vcpu: &Vcpu, inner: &mut Inner, write: bool) {
    let number = low32(inner.registers.rcx);
    // Before any effect: a write may send an interrupt.
    let Some(next) = after(inner, &[0x0f, if write { 0x30 } else { 0x32 }]) else { return };
    let done = if write {
        let value = inner.registers.rdx << 32 | inner.registers.rax & 0xffff_ffff;
        match policy::write(number) {
            policy::Write::Ignored => Some(()),
            policy::Write::State(register) => write_register(vcpu, inner, register, value),
            policy::Write::Refused => None,
        }
    } else {
        let value = match policy::read(number) {
            policy::Read::Value(value) => Some(value),
            policy::Read::State(register) => read_register(inner, register),
            policy::Read::Refused => None,
        };
        value.map(|value| {
            inner.registers.rax = value & 0xffff_ffff;
            inner.registers.rdx = value >> 32;
        })
    };
    if done.is_some() {
        inner.machine.go_to(next);
        return;
    }
    let is_quiet = policy::is_probe(number);
    if !is_quiet && domain::with_slot(inner.domain, domain::Domain::may_log) == Some(true) {
        let verb = if write { "write" } else { "read" };
        log::info!("domain slot {} vcpu {}: {verb} of MSR {number:#x} refused", inner.domain, inner.index);
    }
    inner.exception = Some(Exception::GENERAL_PROTECTION);
}

fn read_register(inner: &Inner, register: Register) -> Option<u64> {
    Some(match register {
        Register::Tsc => inner.now().tsc.0,
        Register::ApicBase => inner.lapic.base(),
        Register::Efer => inner.machine.efer(),
        Register::Pat => inner.machine.pat(),
        Register::TscDeadline => inner.lapic.tsc_deadline(),
        Register::X2apic(offset) => inner.lapic.read_x2apic(offset, &inner.now()).ok()?,
        Register::TscAux => inner.tsc_aux,
        Register::KvmSystemTime | Register::KvmWallClock => 0,
        Register::KvmPvEoi => inner.pv_eoi.value(),
        Register::SpecCtrl if speculation::plan().guest_control != 0 => inner.control,
        Register::SpecCtrl | Register::PredCmd => return None,
        Register::DeCfg => u64::from(speculation::plan().lfence) << 1,
    })
}

fn write_register(vcpu: &Vcpu, inner: &mut Inner, register: Register, value: u64) -> Option<()> {
    match register {
        // Writing the counter would move one vCPU's time only: refused silently,
        // as other hypervisors with a stable clock do.
        Register::Tsc => {}
        Register::ApicBase => {
            inner.lapic.set_base(value).ok()?;
            vcpu.set_address(inner.lapic.address());
        }
        Register::Efer => {
            let automatic = if speculation::plan().automatic { reg::EFER_AIBRSE } else { 0 };
            let allowed = reg::EFER_SCE | reg::EFER_LME | reg::EFER_LMA | reg::EFER_NXE | automatic;
            let old = inner.machine.efer();
            let paging = inner.machine.paging().cr0 & reg::CR0_PG != 0;
            if value & !allowed != 0 || (paging && (value ^ old) & reg::EFER_LME != 0) {
                return None;
            }
            inner.machine.set_efer(value);
        }
        Register::Pat => {
            // Each byte is a memory type: 0, 1, 4, 5, 6 or 7 (APM 7.8.1).
            if value.to_le_bytes().iter().any(|kind| !matches!(kind, 0 | 1 | 4..=7)) {
                return None;
            }
            inner.machine.set_pat(value);
        }
        Register::TscDeadline => {
            let now = inner.now();
            inner.lapic.set_tsc_deadline(value, &now);
        }
        Register::X2apic(offset) => {
            let now = inner.now();
            let effect = inner.lapic.write_x2apic(offset, value, &now).ok()?;
            if offset != apic::EOI {
                vcpu.set_address(inner.lapic.address());
            }
            apply(inner, effect);
        }
        Register::TscAux => {
            if value >> 32 != 0 {
                return None;
            }
            inner.tsc_aux = value;
            // SAFETY: the auxiliary value is only read by RDTSCP in the guest.
            unsafe { raw::write_msr(hv_x86::msr::TSC_AUX, value) };
        }
        Register::SpecCtrl => {
            let allowed = speculation::plan().guest_control;
            if allowed == 0 || value & !allowed != 0 {
                return None;
            }
            inner.control = value;
        }
        Register::PredCmd => {
            let allowed = speculation::plan().guest_command;
            if allowed == 0 || value & !allowed != 0 {
                return None;
            }
            // SAFETY: the processor only forgets predictions.
            unsafe { raw::write_msr(hv_x86::msr::PRED_CMD, value) };
        }
        // As it is, it stays.
        Register::DeCfg => {}
        Register::KvmSystemTime => system_time(inner, value)?,
        Register::KvmWallClock => wall_clock(inner, Gpa(value))?,
        Register::KvmPvEoi => {
            let is_ram = domain::with_slot(inner.domain, |domain| domain.nested.is_ram(Gpa(value & !3)));
            inner.pv_eoi = PvEoi::new(value).filter(|it| !it.is_on() || is_ram == Some(true))?;
        }
    }
    Some(())
}

/// Bit 0 turns the clock on; the rest is where its page is.
fn system_time(inner: &Inner, value: u64) -> Option<()> {
    if value & 1 == 0 {
        return Some(());
    }
    let now = inner.now();
    let gpa = Gpa(value & !1);
    domain::with_slot(inner.domain, |domain| {
        let system_ns = now.ns.saturating_sub(domain.created_ns);
        let bytes = hv_core::clock::pvclock_bytes(2, now.tsc, system_ns, &now.scale);
        domain.nested.write(gpa, &bytes).then_some(())
    })?
}

/// Version, seconds, nanoseconds: wall time when the guest's clock was zero.
fn wall_clock(inner: &Inner, gpa: Gpa) -> Option<()> {
    domain::with_slot(inner.domain, |domain| {
        let wall = clock::wall_base_ns().saturating_add(domain.created_ns);
        let mut bytes = [0; 12];
        let (version, rest) = bytes.split_at_mut(4);
        let (seconds, nanoseconds) = rest.split_at_mut(4);
        version.copy_from_slice(&2_u32.to_le_bytes());
        seconds.copy_from_slice(&low32(wall / 1_000_000_000).to_le_bytes());
        nanoseconds.copy_from_slice(&low32(wall % 1_000_000_000).to_le_bytes());
        domain.nested.write(gpa, &bytes).then_some(())
    })?
}
