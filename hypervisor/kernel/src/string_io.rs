//! INS and OUTS of guests: memory is read and written here, the port is dom0's.

use crate::domain;
use crate::vcpu::{Forwarded, Inner};
use crate::vendor::{Machine, PortAccess};
use hv_abi::event;
use hv_core::decode;
use hv_core::guest_page::{GuestPhysical, Touch, translate_for};
use hv_core::string_io::{Place, StringIo};
use hv_x86::reg::{RFLAGS_AC, RFLAGS_DF};
use hv_x86::{Exception, Gpa, PAGE_SIZE, to_usize};

const ELEMENT_MAX: usize = 4;

fn place(inner: &Inner, string: &StringIo) -> Place {
    let registers = &inner.registers;
    let index = if string.input { registers.rdi } else { registers.rsi };
    Place { index, count: registers.rcx }
}

/// Where the parts of the next element are: it may lie on two pages.
fn parts(inner: &Inner, string: &StringIo) -> Result<[(Gpa, usize); 2], (u64, u32)> {
    let base = inner.machine.segment_base(string.segment);
    let linear = string.linear(place(inner, string), base, inner.machine.mode());
    let width = usize::from(string.width);
    let first = to_usize(PAGE_SIZE - linear % PAGE_SIZE).min(width);
    let touch = Touch {
        user: inner.machine.privilege() == 3,
        write: string.input,
        alignment_check: inner.machine.flags() & RFLAGS_AC != 0,
    };
    let paging = inner.machine.paging();
    let gpa = |linear: u64| {
        // Without its domain there is no guest that could fault.
        let found =
            domain::with_slot(inner.domain, |domain| translate_for(&domain.nested, &paging, linear, touch));
        found.unwrap_or(Ok(Gpa(0))).map_err(|code| (linear, code))
    };
    let second = linear.wrapping_add(first as u64);
    let rest = width.saturating_sub(first);
    Ok([(gpa(linear)?, first), if rest == 0 { (Gpa(0), 0) } else { (gpa(second)?, rest) }])
}

/// The guest faults on its own memory.
fn page_fault(inner: &mut Inner, (linear, code): (u64, u32)) {
    inner.machine.set_fault_address(linear);
    inner.exception = Some(Exception::page_fault(code));
}

/// Begins with the next element of the instruction in `bytes`; true when dom0 must answer.
pub(crate) fn begin(inner: &mut Inner, access: &PortAccess, bytes: &[u8]) -> bool {
    let decoded = hv_core::string_io::decode(bytes, inner.machine.mode());
    // Another vCPU has put another instruction there since: that one is run instead.
    let Some(string) = decoded.filter(|it| it.input == access.input) else { return false };
    let next_rip = inner.machine.rip().wrapping_add(u64::from(string.length));
    if string.is_over(place(inner, &string)) {
        inner.machine.go_to(next_rip);
        return false;
    }
    let parts = match parts(inner, &string) {
        Ok(parts) => parts,
        Err(fault) => {
            page_fault(inner, fault);
            return false;
        }
    };
    // What is no memory reads as all ones.
    let mut value = [0xff; ELEMENT_MAX];
    if !string.input {
        let mut at = 0;
        for (gpa, length) in parts {
            let target = value.get_mut(at..at + length).unwrap_or_default();
            domain::with_slot(inner.domain, |domain| domain.nested.read(gpa, target));
            at += length;
        }
    }
    let value = decode::truncate(u64::from(u32::from_le_bytes(value)), string.width);
    inner.forwarded = Some(Forwarded {
        kind: if string.input { event::ACCESS_PORT_READ } else { event::ACCESS_PORT_WRITE },
        width: string.width,
        address: u64::from(access.port),
        value: if string.input { 0 } else { value },
        instruction: None,
        string: Some(string),
        next_rip,
        answer: None,
    });
    true
}

/// An element has been moved: memory and registers follow, and the guest comes again for
/// the next one.
pub(crate) fn finish(inner: &mut Inner, string: &StringIo, next_rip: u64, answer: u64) {
    if string.input {
        let value = answer.to_le_bytes();
        let mut at = 0;
        // Its tables may be others by now: then it has read the port and faults.
        match parts(inner, string) {
            Ok(parts) => {
                for (gpa, length) in parts {
                    let source = value.get(at..at + length).unwrap_or_default();
                    domain::with_slot(inner.domain, |domain| domain.nested.write(gpa, source));
                    at += length;
                }
            }
            Err(fault) => return page_fault(inner, fault),
        }
    }
    let down = inner.machine.flags() & RFLAGS_DF != 0;
    let (after, is_last) = string.after(place(inner, string), down);
    let registers = &mut inner.registers;
    *(if string.input { &mut registers.rdi } else { &mut registers.rsi }) = after.index;
    registers.rcx = after.count;
    let rip = if is_last { next_rip } else { inner.machine.rip() };
    inner.machine.go_to(rip);
}
