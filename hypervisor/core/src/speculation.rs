//! Speculative execution: what ring 0 sets up on each CPU, and what it does whenever a CPU
//! changes between guests and dom0. Decided from CPUID, carried out on a [`Processor`].
//!
//! Spec: APM volume 2, 3.2.9 (SPEC_CTRL, PRED_CMD) and 3.1.7 (EFER.AIBRSE); AMD, "Software
//! techniques for managing speculation on AMD processors"; AMD security bulletins AMD-SB-1037
//! (branch types), 7005 (return addresses), 7008 (Zenbleed), 7029 (transient schedulers).
//! `hypervisor/README.md` has the table of what each step is for.

use crate::cpuid::Host;
use hv_x86::cpuid::F1_ECX_HYPERVISOR;
use hv_x86::{msr, reg};

/// SPEC_CTRL: indirect branches are not steered by less privileged code.
pub const IBRS: u64 = 1 << 0;
/// SPEC_CTRL: nor by the sibling thread.
pub const STIBP: u64 = 1 << 1;
/// SPEC_CTRL: loads do not pass older stores.
pub const SSBD: u64 = 1 << 2;
/// SPEC_CTRL: stores are not forwarded by prediction.
pub const PSFD: u64 = 1 << 7;
/// PRED_CMD: forget all predictions of branches.
pub const IBPB: u64 = 1 << 0;

/// Steps of every entry and exit, read by `boot/switch.s`.
pub const STEP_SWAP: u8 = 1 << 0;
/// As [`STEP_SWAP`]: forget all predictions after each exit.
pub const STEP_BARRIER: u8 = 1 << 1;
/// As [`STEP_SWAP`]: clear the processor's buffers before each entry.
pub const STEP_CLEAR: u8 = 1 << 2;

/// What the steps are done to: this program's CPU, or a fake that keeps a trace.
pub trait Processor {
    /// Sets bits of a register, leaving the others.
    fn set(&mut self, msr: u32, bits: u64);
    /// Writes a register.
    fn write(&mut self, msr: u32, value: u64);
    /// Clears buffers (VERW with a memory operand).
    fn clear_buffers(&mut self);
    /// Divides, so that the divider holds nothing of what ran before.
    fn divide(&mut self);
}

/// What this processor needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Registers, and the bits to set in them, on each CPU once.
    set_up: [(u32, u64); 5],
    /// There is a SPEC_CTRL, and this is in it while ring 0 runs.
    pub ring0_control: Option<u64>,
    /// What is in it besides while a guest runs, whatever that sets.
    pub forced_control: u64,
    /// What guests may set in it.
    pub guest_control: u64,
    /// What guests may write to PRED_CMD.
    pub guest_command: u64,
    /// LFENCE waits for everything before it.
    pub lfence: bool,
    /// EFER.AIBRSE exists: for guests, too.
    pub automatic: bool,
    barrier: bool,
    barrier_each_exit: bool,
    clears_buffers: bool,
    divides: bool,
}

/// Bit `bit` of a word.
const fn has(word: u32, bit: u32) -> bool {
    word >> bit & 1 == 1
}

impl Plan {
    /// For an AMD processor that answers so. `threads`: siblings run, too.
    #[must_use]
    pub fn new(host: Host<'_>, threads: bool) -> Self {
        let one = host(1, 0);
        let base = one.eax >> 8 & 15;
        let family = if base == 15 { base + (one.eax >> 20 & 0xff) } else { base };
        let model = one.eax >> 4 & 15 | (one.eax >> 16 & 15) << 4;
        let last = host(0x8000_0000, 0).eax;
        let leaf = |number| if last >= number { host(number, 0) } else { hv_x86::cpuid::Leaf::default() };
        let (old, new) = (leaf(0x8000_0008).ebx, leaf(0x8000_0021));
        // A hypervisor below this one owns the registers that CPUID does not speak of.
        let bare = one.ecx & F1_ECX_HYPERVISOR == 0;
        let zen1_or_2 = matches!(family, 0x17 | 0x18);
        let zen2 = family == 0x17 && matches!(model, 0x30..=0x4f | 0x60..=0x7f | 0x90..=0x91 | 0xa0..=0xaf);
        let (barrier, ibrs, stibp) = (has(old, 12), has(old, 14), has(old, 15));
        let (automatic, reduced) = (has(new.eax, 8), bare && has(new.eax, 31));
        let fence = bare && !has(new.eax, 2) && family >= 0x10 && family != 0x11;
        let mut plan = Self {
            lfence: has(new.eax, 2) || fence,
            automatic,
            barrier,
            // Zen 1 and 2: returns may be taken for other branches. Zen 3 and 4: return
            // addresses may be planted. Only forgetting all after a guest helps against
            // either where returns are plain, as here.
            barrier_each_exit: barrier
                && (zen1_or_2 && !has(old, 29) || family == 0x19 && !has(new.eax, 29) && !reduced),
            clears_buffers: has(new.eax, 5) && new.ecx & 6 != 6,
            divides: zen1_or_2 && !zen2,
            ..Self::default()
        };
        let wanted = [
            (fence, msr::DE_CFG, 1 << 1),
            (bare && zen2, msr::DE_CFG, 1 << 9),
            (bare && zen2, msr::ZEN2_CHICKEN, 1 << 1),
            (reduced, msr::BP_CFG, 1 << 4),
            (automatic, msr::EFER, reg::EFER_AIBRSE),
        ];
        for (slot, (_, register, bits)) in plan.set_up.iter_mut().zip(wanted.iter().filter(|it| it.0)) {
            *slot = (*register, *bits);
        }
        if ibrs || stibp || has(old, 24) {
            plan.forced_control = if stibp && threads { STIBP } else { 0 };
            plan.ring0_control = Some(plan.forced_control | if ibrs && !automatic { IBRS } else { 0 });
        }
        let bits = [(14, IBRS), (15, STIBP), (24, SSBD), (28, PSFD)];
        plan.guest_control = bits.iter().filter(|it| has(old, it.0)).map(|it| it.1).sum();
        // Bit 7, SBPB, forgets less (leaf 0x8000_0021 EAX bit 27).
        plan.guest_command = u64::from(barrier) | u64::from(has(new.eax, 27)) << 7;
        plan
    }

    /// Whether the CPU can forget what a guest taught its branch predictor (IBPB), so that
    /// dom0 and other guests are not steered by it. Ring 0 has no branch that could be.
    #[must_use]
    pub const fn forgets_branches(&self) -> bool {
        self.guest_command & 1 != 0
    }

    /// Prepares the CPU this runs on.
    pub fn set_up(&self, processor: &mut dyn Processor) {
        for (register, bits) in self.set_up.iter().filter(|it| it.1 != 0) {
            processor.set(*register, *bits);
        }
        if let Some(own) = self.ring0_control {
            processor.write(msr::SPEC_CTRL, own);
        }
    }

    /// What each entry of a guest with this SPEC_CTRL, and the exit after it, must do: a
    /// set of `STEP_*`.
    #[must_use]
    pub fn steps(&self, guest_control: u64) -> u8 {
        let swaps = self.ring0_control.is_some_and(|own| own != guest_control);
        let barrier = if self.barrier_each_exit { STEP_BARRIER } else { 0 };
        let clear = if self.clears_buffers { STEP_CLEAR } else { 0 };
        barrier | clear | if swaps { STEP_SWAP } else { 0 }
    }

    /// Before a guest is entered; guests are told apart by numbers that are not 0.
    pub fn before_guest(&self, trained: &mut u32, guest: u32, processor: &mut dyn Processor) {
        if *trained != guest {
            if *trained != 0 && self.barrier {
                processor.write(msr::PRED_CMD, IBPB);
            }
            *trained = guest;
            if self.divides {
                processor.divide();
            }
        }
    }

    /// Before dom0 is entered. `trained` is the guest of which predictions may be left on this
    /// CPU, 0 for none.
    pub fn before_dom0(&self, trained: &mut u32, processor: &mut dyn Processor) {
        if core::mem::take(trained) != 0 {
            if self.barrier {
                processor.write(msr::PRED_CMD, IBPB);
            }
            if self.divides {
                processor.divide();
            }
            if self.clears_buffers {
                processor.clear_buffers();
            }
        }
    }
}

/// How many bits of an APIC identifier tell the threads of a core apart (leaf 0BH, else
/// 0x8000_001E).
#[must_use]
pub fn thread_bits(host: Host<'_>) -> u32 {
    if host(0, 0).eax >= 0xb && host(0xb, 0).ebx & 0xffff != 0 {
        return host(0xb, 0).eax & 31;
    }
    let extended = host(0x8000_0000, 0).eax >= 0x8000_001e && has(host(0x8000_0001, 0).ecx, 22);
    if extended { (host(0x8000_001e, 0).ebx >> 8 & 0xff).saturating_add(1).ilog2() } else { 0 }
}

#[cfg(test)]
mod tests;
