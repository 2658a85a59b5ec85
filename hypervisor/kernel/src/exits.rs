//! Why a guest stopped, and what happens then.

use crate::domain;
use crate::log::info;
use crate::nested::Missing;
use crate::raw;
use crate::vcpu::{Forwarded, Inner, Vcpu};
use hv_abi::event;
use hv_core::cpuid::{Guest, allowed_xcr0};
use hv_core::decode::{self, Action, Mode};
use hv_core::guest_page::{Paging, fetch};
use hv_core::lapic::Effect;
use hv_core::msr::{self as policy, Register};
use hv_x86::cpuid::{SVM_EDX_DECODE_ASSISTS, SVM_EDX_NRIP_SAVE};
use hv_x86::{Exception, apic, low32, reg, svm};

/// What the run loop does next.
pub(crate) enum Next {
    /// Enter the guest again.
    Continue,
    /// dom0 must answer an access.
    Forward,
    /// The guest cannot go on.
    Crash(&'static str),
}

/// Answer to a hypercall nobody knows (KVM_ENOSYS).
const NO_SUCH_HYPERCALL: u64 = (-1000_i64).cast_unsigned();

/// Deals with the exit that the control block describes.
pub(crate) fn handle(vcpu: &Vcpu, inner: &mut Inner) -> Next {
    let control = inner.vmcb.control;
    inner.lapic.set_task_priority_class(hv_x86::low8(control.vintr) & 15);
    if control.exit_interrupt_info & svm::EVENT_VALID != 0 {
        inner.reinject = control.exit_interrupt_info;
    }
    match low32(control.exit_code) {
        svm::EXIT_INTR | svm::EXIT_NMI | svm::EXIT_SMI | svm::EXIT_INIT | svm::EXIT_VINTR => {}
        svm::EXIT_CPUID => cpuid(inner),
        svm::EXIT_HLT => {
            if advance(inner, &[0xf4]) {
                inner.halted = true;
            }
        }
        svm::EXIT_IOIO => return port(inner),
        svm::EXIT_MSR => model_specific(vcpu, inner),
        svm::EXIT_NPF => return nested_fault(vcpu, inner),
        svm::EXIT_VMMCALL => {
            if advance(inner, &[0x0f, 0x01, 0xd9]) {
                inner.registers.rax = NO_SUCH_HYPERCALL;
            }
        }
        svm::EXIT_XSETBV => xsetbv(inner),
        // Caches are coherent: nothing to write back for a guest.
        svm::EXIT_WBINVD => {
            advance(inner, &[0x0f, 0x09]);
        }
        svm::EXIT_INVD => {
            advance(inner, &[0x0f, 0x08]);
        }
        svm::EXIT_RDPMC => inner.exception = Some(Exception::GENERAL_PROTECTION),
        code @ (0x41 | 0x51) => {
            let vector = hv_x86::low8(u64::from(code - svm::EXIT_EXCEPTION));
            inner.exception = Some(Exception { vector, error_code: (vector == 17).then_some(0) });
        }
        svm::EXIT_INVLPGA | svm::EXIT_VMRUN..=svm::EXIT_SKINIT | svm::EXIT_MONITOR | svm::EXIT_MWAIT => {
            inner.exception = Some(Exception::INVALID_OPCODE);
        }
        svm::EXIT_TASK_SWITCH => return Next::Crash("hardware task switch"),
        svm::EXIT_SHUTDOWN => {
            let save = &inner.vmcb.save;
            info!(
                "domain slot {} vcpu {}: triple fault at {:#x}, CR2 {:#x}, CR3 {:#x}, CR0 {:#x}, RSP {:#x}, event {:#x}",
                inner.domain,
                inner.index,
                save.rip,
                save.cr2,
                save.cr3,
                save.cr0,
                save.rsp,
                control.exit_interrupt_info
            );
            return Next::Crash("triple fault");
        }
        svm::EXIT_INVALID => return Next::Crash("processor state that the hardware refuses"),
        code => {
            info!("domain slot {}: exit {code:#x} is not expected", inner.domain);
            return Next::Crash("unexpected exit");
        }
    }
    Next::Continue
}

fn mode(inner: &Inner) -> Mode {
    let save = &inner.vmcb.save;
    // Attribute bits 9 and 10: L and D (APM figure 4-20 as the VMCB packs it).
    if save.efer & reg::EFER_LMA != 0 && save.cs.attributes & 1 << 9 != 0 {
        Mode::Long
    } else if save.cs.attributes & 1 << 10 != 0 {
        Mode::Bits32
    } else {
        Mode::Bits16
    }
}

/// The bytes at the instruction pointer; from the processor if it gives them.
fn instruction(inner: &Inner, bytes: &mut [u8; decode::MAX_LENGTH]) -> usize {
    let control = &inner.vmcb.control;
    if control.fetched != 0 && crate::svm::features() & SVM_EDX_DECODE_ASSISTS != 0 {
        *bytes = control.instruction;
        return usize::from(control.fetched).min(bytes.len());
    }
    let save = &inner.vmcb.save;
    let paging = Paging { cr0: save.cr0, cr3: save.cr3, cr4: save.cr4, efer: save.efer };
    let linear = if mode(inner) == Mode::Long { save.rip } else { (save.cs.base + save.rip) & 0xffff_ffff };
    domain::with_slot(inner.domain, |domain| fetch(&domain.nested, &paging, linear, bytes)).unwrap_or(0)
}

fn go_to(inner: &mut Inner, rip: u64) {
    inner.vmcb.save.rip = if mode(inner) == Mode::Long { rip } else { rip & 0xffff_ffff };
    inner.vmcb.control.interrupt_shadow &= !1;
}

/// Steps over an intercepted instruction with these opcode bytes. If the bytes in
/// memory are others by now (another vCPU wrote them), the guest runs them
/// instead, and the caller must have no effect.
fn advance(inner: &mut Inner, opcode: &[u8]) -> bool {
    if crate::svm::features() & SVM_EDX_NRIP_SAVE != 0 && inner.vmcb.control.next_rip != 0 {
        let next = inner.vmcb.control.next_rip;
        go_to(inner, next);
        return true;
    }
    let mut bytes = [0; decode::MAX_LENGTH];
    let count = instruction(inner, &mut bytes);
    let length = bytes.get(..count).and_then(|bytes| decode::length_of(bytes, mode(inner), opcode));
    if let Some(length) = length {
        let next = inner.vmcb.save.rip.wrapping_add(u64::from(length));
        go_to(inner, next);
        return true;
    }
    false
}

fn cpuid(inner: &mut Inner) {
    if !advance(inner, &[0x0f, 0xa2]) {
        return;
    }
    let guest = Guest { vcpu: inner.index, vcpus: inner.vcpus, cr4: inner.vmcb.save.cr4, xcr0: raw::xcr0() };
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
    let legal = low32(registers.rcx) == 0
        && inner.vmcb.save.cpl == 0
        && value & reg::XCR0_X87 != 0
        && value & !allowed_xcr0(&raw::cpuid) == 0
        && (value & reg::XCR0_AVX == 0 || value & reg::XCR0_SSE != 0);
    if !legal {
        inner.exception = Some(Exception::GENERAL_PROTECTION);
    } else if advance(inner, &[0x0f, 0x01, 0xd1]) {
        inner.xcr0 = value;
        raw::set_xcr0(value);
    }
}

fn port(inner: &mut Inner) -> Next {
    let information = inner.vmcb.control.exit_info1;
    if information & svm::IOIO_STRING != 0 {
        inner.exception = Some(Exception::GENERAL_PROTECTION);
        return Next::Continue;
    }
    let width = hv_x86::low8(information >> 4) & 7;
    let input = information & svm::IOIO_IN != 0;
    inner.forwarded = Some(Forwarded {
        kind: if input { event::ACCESS_PORT_READ } else { event::ACCESS_PORT_WRITE },
        width,
        address: information >> 16 & 0xffff,
        value: if input { 0 } else { decode::truncate(inner.registers.rax, width) },
        instruction: None,
        next_rip: inner.vmcb.control.exit_info2,
        answer: None,
    });
    Next::Forward
}

/// dom0 has answered: the instruction completes.
pub(crate) fn finish_access(inner: &mut Inner, access: &Forwarded, answer: u64) {
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
    go_to(inner, access.next_rip);
}

fn load(inner: &mut Inner, access: &decode::Access, value: u64) {
    if let Action::Load { register, .. } = access.action {
        let target = inner.registers.by_number(register);
        *target = decode::loaded(*target, value, access);
    }
}

fn nested_fault(vcpu: &Vcpu, inner: &mut Inner) -> Next {
    let gpa = inner.vmcb.control.exit_info2;
    let information = inner.vmcb.control.exit_info1;
    let populated = domain::with_slot(inner.domain, |domain| domain.nested.populate(gpa));
    match populated {
        Some(Ok(())) => return Next::Continue,
        Some(Err(Missing::NotRam)) => {}
        Some(Err(Missing::NoMemory)) | None => return Next::Crash("no memory for its page tables"),
    }
    if information & (svm::NPF_FETCH | svm::NPF_TABLE_WALK) != 0 {
        return Next::Crash("runs or keeps page tables outside its memory");
    }
    let mut bytes = [0; decode::MAX_LENGTH];
    let count = instruction(inner, &mut bytes);
    let Some(access) = bytes.get(..count).and_then(|bytes| decode::access(bytes, mode(inner))) else {
        if domain::with_slot(inner.domain, domain::Domain::may_log) == Some(true) {
            info!("domain slot {}: cannot decode {bytes:02x?} on {gpa:#x}", inner.domain);
        }
        inner.exception = Some(Exception::INVALID_OPCODE);
        return Next::Continue;
    };
    let next_rip = inner.vmcb.save.rip.wrapping_add(u64::from(access.length));
    let write = !matches!(access.action, Action::Load { .. });
    let value = match access.action {
        Action::StoreRegister { register, .. } => {
            decode::stored(*inner.registers.by_number(register), &access)
        }
        _ => decode::stored(0, &access),
    };
    if inner.lapic.owns_page(gpa) {
        local_apic_page(vcpu, inner, &access, gpa, value);
        go_to(inner, next_rip);
        return Next::Continue;
    }
    if write && ring(inner, gpa, access.width) {
        go_to(inner, next_rip);
        return Next::Continue;
    }
    inner.forwarded = Some(Forwarded {
        kind: if write { event::ACCESS_MEMORY_WRITE } else { event::ACCESS_MEMORY_READ },
        width: access.width,
        address: gpa,
        value,
        instruction: Some(access),
        next_rip,
        answer: None,
    });
    Next::Forward
}

/// Rings a doorbell, if there is one here.
fn ring(inner: &Inner, gpa: u64, width: u8) -> bool {
    let bell = domain::with_slot(inner.domain, |domain| domain.doorbell(gpa, width)).flatten();
    let (Some(bell), Some(events)) = (bell, domain::EVENTS.get(inner.domain)) else { return false };
    events.doorbells.fetch_or(1 << bell, core::sync::atomic::Ordering::Release);
    domain::notify(inner.domain);
    true
}

fn local_apic_page(vcpu: &Vcpu, inner: &mut Inner, access: &decode::Access, gpa: u64, value: u64) {
    let offset = low32(gpa & 0xfff);
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

fn model_specific(vcpu: &Vcpu, inner: &mut Inner) {
    let number = low32(inner.registers.rcx);
    let write = inner.vmcb.control.exit_info1 & 1 == 1;
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
        advance(inner, &[0x0f, if write { 0x30 } else { 0x32 }]);
        return;
    }
    if domain::with_slot(inner.domain, domain::Domain::may_log) == Some(true) {
        let verb = if write { "write" } else { "read" };
        info!("domain slot {} vcpu {}: {verb} of MSR {number:#x} refused", inner.domain, inner.index);
    }
    inner.exception = Some(Exception::GENERAL_PROTECTION);
}

fn read_register(inner: &Inner, register: Register) -> Option<u64> {
    Some(match register {
        Register::Tsc => inner.now().tsc,
        Register::ApicBase => inner.lapic.base(),
        Register::Efer => inner.vmcb.save.efer & !reg::EFER_SVME,
        Register::Pat => inner.vmcb.save.pat,
        Register::TscDeadline => inner.lapic.tsc_deadline(),
        Register::X2apic(offset) => inner.lapic.read_x2apic(offset, &inner.now()).ok()?,
        Register::TscAux => inner.tsc_aux,
        Register::KvmSystemTime | Register::KvmWallClock => 0,
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
            let allowed = reg::EFER_SCE | reg::EFER_LME | reg::EFER_LMA | reg::EFER_NXE;
            let old = inner.vmcb.save.efer;
            let paging = inner.vmcb.save.cr0 & reg::CR0_PG != 0;
            if value & !allowed != 0 || (paging && (value ^ old) & reg::EFER_LME != 0) {
                return None;
            }
            inner.vmcb.save.efer = value & !reg::EFER_LMA | old & reg::EFER_LMA | reg::EFER_SVME;
        }
        Register::Pat => {
            // Each byte is a memory type: 0, 1, 4, 5, 6 or 7 (APM 7.8.1).
            if value.to_le_bytes().iter().any(|kind| !matches!(kind, 0 | 1 | 4..=7)) {
                return None;
            }
            inner.vmcb.save.pat = value;
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
        Register::KvmSystemTime => system_time(inner, value)?,
        Register::KvmWallClock => wall_clock(inner, value)?,
    }
    Some(())
}

/// Bit 0 turns the clock on; the rest is where its page is.
fn system_time(inner: &Inner, value: u64) -> Option<()> {
    if value & 1 == 0 {
        return Some(());
    }
    let now = inner.now();
    let gpa = value & !1;
    domain::with_slot(inner.domain, |domain| {
        let system_ns = now.ns.saturating_sub(domain.created_ns);
        let bytes = hv_core::clock::pvclock_bytes(2, now.tsc, system_ns, &now.scale);
        domain.nested.write(gpa, &bytes).then_some(())
    })?
}

/// Version, seconds, nanoseconds: wall time when the guest's clock was zero.
fn wall_clock(inner: &Inner, gpa: u64) -> Option<()> {
    domain::with_slot(inner.domain, |domain| {
        let wall = crate::clock::wall_base_ns().saturating_add(domain.created_ns);
        let mut bytes = [0; 12];
        let (version, rest) = bytes.split_at_mut(4);
        let (seconds, nanoseconds) = rest.split_at_mut(4);
        version.copy_from_slice(&2_u32.to_le_bytes());
        seconds.copy_from_slice(&low32(wall / 1_000_000_000).to_le_bytes());
        nanoseconds.copy_from_slice(&low32(wall % 1_000_000_000).to_le_bytes());
        domain.nested.write(gpa, &bytes).then_some(())
    })?
}
