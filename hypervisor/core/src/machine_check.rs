//! Machine checks: what a bank of error registers reports, and what follows from it.
//!
//! Spec: APM 9.3 (the registers), 9.3.2 (status), table 9-3 and after (error codes).

/// What follows from a bank's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The bank reports nothing.
    Nothing,
    /// The hardware has put it right, or no program has used what is damaged.
    Corrected,
    /// The data at this physical address is lost; the processor itself continues.
    Contained(u64),
    /// Nothing of this processor can be relied on.
    Fatal,
}

const VALID: u64 = 1 << 63;
const OVERFLOW: u64 = 1 << 62;
const UNCORRECTED: u64 = 1 << 61;
const ADDRESS_VALID: u64 = 1 << 58;
const CONTEXT_CORRUPT: u64 = 1 << 57;
/// The bits of an address that a bank can hold.
const ADDRESS: u64 = 0x000f_ffff_ffff_ffff;

/// Judges one bank by its status and address registers.
#[must_use]
pub const fn severity(status: u64, address: u64) -> Severity {
    if status & VALID == 0 {
        return Severity::Nothing;
    }
    if status & UNCORRECTED == 0 {
        return Severity::Corrected;
    }
    // After an overflow there was another error, of which nothing is known. Only errors of
    // the cache hierarchy come with an address of the system's.
    let told = status & ADDRESS_VALID != 0 && status & (OVERFLOW | CONTEXT_CORRUPT) == 0;
    if told && matches!(kind(status), Kind::Memory) {
        return Severity::Contained(address & ADDRESS);
    }
    Severity::Fatal
}

/// What an error code is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A translation buffer.
    Tlb,
    /// Caches and memory.
    Memory,
    /// The bus or interconnect.
    Bus,
    /// The processor's own logic.
    Internal,
    /// A code without a meaning here.
    Other,
}

/// The kind of the error code in a status.
#[must_use]
pub const fn kind(status: u64) -> Kind {
    match status & 0xffff {
        0x0010..=0x001f => Kind::Tlb,
        0x0100..=0x01ff => Kind::Memory,
        0x0400..=0x07ff => Kind::Internal,
        0x0800..=0x0fff => Kind::Bus,
        _ => Kind::Other,
    }
}

/// The worse of two; of two addresses that are lost the processor is not told apart.
#[must_use]
pub fn worse(one: Severity, other: Severity) -> Severity {
    match (one, other) {
        (Severity::Contained(first), Severity::Contained(second)) if first != second => Severity::Fatal,
        (Severity::Fatal, _) | (_, Severity::Fatal) => Severity::Fatal,
        (Severity::Contained(at), _) | (_, Severity::Contained(at)) => Severity::Contained(at),
        (Severity::Corrected, _) | (_, Severity::Corrected) => Severity::Corrected,
        _ => Severity::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Severity, kind, severity, worse};

    #[test]
    fn literal_banks() {
        for (status, address, expected) in [
            (0, 0x1234, Severity::Nothing),
            // Everything but VAL.
            (0x3c00_0000_0000_0135, 0x1234, Severity::Nothing),
            // A corrected one of the level-1 data cache.
            (0x9c20_0000_0001_0135, 0x1234, Severity::Corrected),
            // Deferred (bit 44): it was not used yet.
            (0x9c00_1000_0000_0135, 0x1234, Severity::Corrected),
            // Uncorrected data read, address valid, context whole.
            (0xbc00_0800_0000_0135, 0x1_2345_6780, Severity::Contained(0x1_2345_6780)),
            (0xbc00_0000_0000_0135, u64::MAX, Severity::Contained(0xf_ffff_ffff_ffff)),
            // The same without an address, with a lost one before, with a corrupt context.
            (0xb800_0000_0000_0135, 0x1234, Severity::Fatal),
            (0xfc00_0000_0000_0135, 0x1234, Severity::Fatal),
            (0xbe00_0000_0000_0135, 0x1234, Severity::Fatal),
            // A bus error's address is not one of memory.
            (0xbc00_0000_0000_0e0f, 0x1234, Severity::Fatal),
        ] {
            assert_eq!(severity(status, address), expected, "{status:#x}");
        }
    }

    #[test]
    fn error_codes() {
        let kinds = [0x0011, 0x0135, 0x0e0f, 0x0400, 0x0001, 0xf_0136].map(kind);
        let expected = [Kind::Tlb, Kind::Memory, Kind::Bus, Kind::Internal, Kind::Other, Kind::Memory];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn the_worst_bank_counts() {
        let all = [Severity::Nothing, Severity::Corrected, Severity::Contained(1), Severity::Fatal];
        for (first, one) in all.iter().enumerate() {
            for (second, other) in all.iter().enumerate() {
                assert_eq!(worse(*one, *other), all[first.max(second)]);
            }
        }
        assert_eq!(worse(Severity::Contained(1), Severity::Contained(2)), Severity::Fatal);
    }
}
