//! Which model-specific registers a guest may touch.
//!
//! An allow-list: whatever is not named raises a general-protection fault in the
//! guest and is logged once. Registers that the control block holds, or that need
//! the local APIC or the clock, are named here and served by the caller.

use hv_x86::msr as number;

/// What to do for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// A fixed value.
    Value(u64),
    /// A register with state behind it.
    State(Register),
    /// General protection.
    Refused,
}

/// What to do for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Accepted and forgotten.
    Ignored,
    /// A register with state behind it.
    State(Register),
    /// General protection.
    Refused,
}

/// Registers with state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// Time-stamp counter.
    Tsc,
    /// Local APIC base.
    ApicBase,
    /// Extended features.
    Efer,
    /// Page attribute table.
    Pat,
    /// Timer deadline.
    TscDeadline,
    /// An x2APIC register at this page offset.
    X2apic(u32),
    /// KVM system time page.
    KvmSystemTime,
    /// KVM wall clock.
    KvmWallClock,
    /// KVM paravirtual end of interrupt.
    KvmPvEoi,
    /// Value for RDTSCP.
    TscAux,
    /// Speculation control.
    SpecCtrl,
    /// Commands to the predictors, which can only be written.
    PredCmd,
    /// Decode configuration: whether LFENCE serializes.
    DeCfg,
}

const fn state(msr: u32) -> Option<Register> {
    Some(match msr {
        number::TSC => Register::Tsc,
        number::APIC_BASE => Register::ApicBase,
        number::EFER => Register::Efer,
        number::PAT => Register::Pat,
        number::TSC_DEADLINE => Register::TscDeadline,
        number::TSC_AUX => Register::TscAux,
        number::SPEC_CTRL => Register::SpecCtrl,
        number::PRED_CMD => Register::PredCmd,
        number::DE_CFG => Register::DeCfg,
        number::X2APIC_FIRST..=number::X2APIC_LAST => Register::X2apic((msr - number::X2APIC_FIRST) << 4),
        number::KVM_SYSTEM_TIME | number::KVM_SYSTEM_TIME_NEW => Register::KvmSystemTime,
        number::KVM_WALL_CLOCK | number::KVM_WALL_CLOCK_NEW => Register::KvmWallClock,
        number::KVM_PV_EOI => Register::KvmPvEoi,
        _ => return None,
    })
}

/// The policy for RDMSR.
#[must_use]
pub const fn read(msr: u32) -> Read {
    if let Some(register) = state(msr) {
        return Read::State(register);
    }
    match msr {
        // No machine-check banks, no variable ranges, MTRRs off.
        number::MCG_CAP | number::MCG_STATUS | number::MTRR_CAP | number::MTRR_DEF_TYPE => Read::Value(0),
        number::SYSCFG | number::INT_PENDING | number::MISC_ENABLE => Read::Value(0),
        // A patch level that no driver takes for a missing one.
        number::BIOS_SIGN_ID => Read::Value(0x0100_0065),
        // TscFreqSel: the TSC counts at its base rate.
        number::HWCR => Read::Value(1 << 24),
        number::VM_CR => Read::Value(number::VM_CR_SVMDIS),
        _ => Read::Refused,
    }
}

/// The policy for WRMSR.
#[must_use]
pub const fn write(msr: u32) -> Write {
    if let Some(register) = state(msr) {
        return Write::State(register);
    }
    match msr {
        number::BIOS_SIGN_ID | number::MCG_STATUS | number::MISC_ENABLE => Write::Ignored,
        number::SYSCFG | number::HWCR | number::INT_PENDING => Write::Ignored,
        _ => Write::Refused,
    }
}

/// Whether stock kernels try this register only to see whether it is there, and continue
/// without it: refusing it is not worth a line of the log.
///
/// Spec: APM volume 2, appendix A; SDM volume 4.
#[must_use]
pub const fn is_probe(msr: u32) -> bool {
    matches!(
        msr,
        // SMI count, processor flags, platform information, effective frequency.
        0x17 | 0x34 | 0xce | 0xe7 | 0xe8
            // Architectural capabilities, TSX control, enabled features, debug control.
            | 0x10a | 0x122 | 0x140 | 0x1d9
            // Energy counters.
            | 0x606 | 0x611 | 0x619 | 0x639 | 0x641 | 0xc001_0299..=0xc001_029b
            // Performance counters.
            | 0xc1..=0xc8 | 0x186..=0x18d | 0x345 | 0x38d..=0x390
            | 0xc000_0300..=0xc000_0302 | 0xc001_0000..=0xc001_0007 | 0xc001_0200..=0xc001_020b
            | 0xc001_0230..=0xc001_023b | 0xc001_0240..=0xc001_0247
            // Instruction based sampling.
            | 0xc001_1030..=0xc001_103c
            // P-states, errata that the firmware knows of, protected serial number.
            | 0xc001_0061..=0xc001_006b | 0xc001_0140 | 0xc001_0141 | 0xc001_02b0..=0xc001_02b4
            | 0xc001_02f0 | 0xc001_02f1
            // Set-up of caches and decoders, where errata are worked around.
            | 0xc001_1004 | 0xc001_1005 | 0xc001_1020..=0xc001_1023 | 0xc001_1028..=0xc001_102d
    )
}

#[cfg(test)]
mod tests {
    use super::{Read, Register, Write, is_probe, read, state, write};

    #[test]
    fn a_probe_finds_nothing() {
        let all = (0..0x2000).chain(0xc000_0000..0xc000_2000).chain(0xc001_0000..0xc001_2000);
        for msr in all.filter(|msr| is_probe(*msr)) {
            let known = (read(msr), write(msr));
            assert!(known == (Read::Refused, Write::Refused) || state(msr).is_some(), "{msr:#x}");
        }
        assert!(is_probe(0xc001_0000) && !is_probe(0xc001_0117) && !is_probe(0x79));
    }

    #[test]
    fn the_unknown_is_refused() {
        let mut allowed = 0;
        for msr in (0..0x2000).chain(0xc000_0000..0xc000_2000).chain(0xc001_0000..0xc001_2000) {
            let readable = read(msr) != Read::Refused;
            let writable = write(msr) != Write::Refused;
            allowed += u32::from(readable || writable);
        }
        assert_eq!(allowed, 21 + 256, "a new entry is a decision: change this number with it");
        assert_eq!(read(0x830), Read::State(Register::X2apic(0x300)));
        assert_eq!(write(0xc001_0117), Write::Refused);
    }
}
