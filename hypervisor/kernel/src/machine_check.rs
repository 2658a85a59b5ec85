//! Machine checks: every bank is on, looked at now and then for what was corrected, and at
//! once when the processor says that something was not.
//!
//! Spec: APM 9.3 and 9.4.

use crate::{cpu, domain, failure, raw};
use core::sync::atomic::{AtomicU32, Ordering};
use hv_abi::previous::Ended;
use hv_core::machine_check::{Severity, kind, severity, worse};
use hv_x86::cpuid::{F1_EDX_MCA, F1_EDX_MCE};
use hv_x86::{Hpa, msr, reg};
use log::Level;

/// How often banks are looked at for what was corrected.
const LOOK_NS: u64 = 10_000_000_000;
/// Lines about corrected errors: a bad module has more of them than a log has room.
const LINES: u32 = 64;

static LINES_LEFT: AtomicU32 = AtomicU32::new(LINES);

/// How many banks this processor has; none where it has no machine checks.
fn banks() -> u32 {
    let both = F1_EDX_MCE | F1_EDX_MCA;
    if raw::cpuid(1, 0).edx & both != both {
        return 0;
    }
    // SAFETY: CPUID says that there are machine checks.
    hv_x86::low32(unsafe { raw::read_msr(msr::MCG_CAP) } & 0xff)
}

/// Turns them on for the CPU this runs on. What banks hold from before the start is logged.
pub(crate) fn enable() {
    let banks = banks();
    if banks == 0 {
        return;
    }
    look(banks, "before the start");
    // SAFETY: there are banks, and so machine checks.
    if unsafe { raw::read_msr(msr::MCG_CAP) } & msr::MCG_CAP_CTL != 0 {
        // SAFETY: all banks may report; #MC has a handler.
        unsafe { raw::write_msr(msr::MCG_CTL, u64::MAX) };
    }
    for bank in 0..banks {
        // SAFETY: all errors of the bank may be reported; #MC has a handler.
        unsafe { raw::write_msr(msr::MC0_CTL + bank * 4, u64::MAX) };
    }
    let cr4 = x86_64::registers::control::Cr4::read_raw() | reg::CR4_MCE;
    // SAFETY: without it a machine check resets the machine without a word.
    unsafe { x86_64::registers::control::Cr4::write_raw(cr4) };
}

/// Logs and clears the banks; returns the worst of their errors.
fn look(banks: u32, when: &str) -> Severity {
    let mut worst = Severity::Nothing;
    for bank in 0..banks {
        // SAFETY: the processor has this bank.
        let status = unsafe { raw::read_msr(msr::MC0_CTL + bank * 4 + 1) };
        // SAFETY: the same.
        let address = unsafe { raw::read_msr(msr::MC0_CTL + bank * 4 + 2) };
        let found = severity(status, address);
        if found == Severity::Nothing {
            continue;
        }
        worst = worse(worst, found);
        let left = LINES_LEFT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if found != Severity::Corrected || left.is_ok() {
            let cpu = cpu::current().number;
            let level = if found == Severity::Corrected { Level::Warn } else { Level::Error };
            log::log!(
                level,
                "{when}: cpu {cpu} bank {bank}: {found:x?}, {:?}, status {status:#x}, address {address:#x}",
                kind(status)
            );
        }
        // SAFETY: zero clears the bank for the next error.
        unsafe { raw::write_msr(msr::MC0_CTL + bank * 4 + 1, 0) };
    }
    worst
}

/// Looks for corrected errors, if it is time to.
pub(crate) fn poll(cpu: &cpu::Cpu, now_ns: u64) {
    if now_ns >= cpu.banks_ns.load(Ordering::Relaxed) {
        cpu.banks_ns.store(now_ns.saturating_add(LOOK_NS), Ordering::Relaxed);
        if let Severity::Contained(_) | Severity::Fatal = look(banks(), "found") {
            fail();
        }
    }
}

fn fail() -> ! {
    failure::fail(Ended::MachineCheck, format_args!("machine check, see the log"))
}

/// Deals with a machine check that arrived while ring 3 or a guest ran: ends the guest whose
/// memory is lost. The node restarts unless that is all. Returns whether what was
/// interrupted may continue.
pub(crate) fn contain() -> bool {
    // SAFETY: a machine check was raised, so there are some.
    let status = unsafe { raw::read_msr(msr::MCG_STATUS) };
    let worst = look(banks(), "now");
    match worst {
        Severity::Contained(address) => {
            let Some(slot) = domain::owner_of(Hpa(address)) else { fail() };
            domain::crash(slot, "its memory is damaged");
        }
        Severity::Fatal => fail(),
        // It was reported to all processors, and another one's banks describe it.
        Severity::Corrected | Severity::Nothing => {}
    }
    // SAFETY: the next machine check is no longer one within this one, which would reset
    // the machine.
    unsafe { raw::write_msr(msr::MCG_STATUS, 0) };
    status & msr::MCG_STATUS_RIPV != 0
}

/// One that arrived while ring 0 ran, which cannot tell what of its own is lost.
pub(crate) fn in_ring0() -> ! {
    look(banks(), "in ring 0");
    fail()
}
