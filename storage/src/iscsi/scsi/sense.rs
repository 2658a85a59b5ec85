//! Status and sense data, and what is to be done about them.
//!
//! Spec: SAM-5 section 5.3 (status), SPC-4 section 4.5 (sense data).

/// Sense key and additional sense code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: u8,
    /// Additional sense code.
    pub code: u8,
    /// Its qualifier.
    pub qualifier: u8,
}

impl Sense {
    /// Reads fixed or descriptor sense data (SPC-4 4.5.2, 4.5.3).
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let at = |index: usize| data.get(index).copied().unwrap_or(0);
        match data.first()? & 0x7f {
            0x70 | 0x71 => Some(Self { key: *data.get(2)? & 0x0f, code: at(12), qualifier: at(13) }),
            0x72 | 0x73 => Some(Self { key: *data.get(1)? & 0x0f, code: at(2), qualifier: at(3) }),
            _ => None,
        }
    }
}

/// What to do about a command's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It succeeded.
    Good,
    /// Reissue it at once; the unit told us something.
    Again,
    /// Reissue it at once; the capacity may have changed.
    AgainResized,
    /// Reissue it at once; our reservation may be gone.
    AgainReserved,
    /// Reissue it after a pause.
    Later(&'static str),
    /// The unit cannot be used on this path now.
    OtherPath(&'static str),
    /// There is no such unit; there may be one later.
    NoUnit,
    /// The command is not implemented.
    NotImplemented,
    /// It failed for good.
    OutOfRange,
    /// It failed for good.
    WriteProtected,
    /// It failed for good.
    Medium,
    /// It failed for good.
    Unsupported,
    /// Another initiator's reservation.
    Reserved,
}

/// Judges a status (SAM-5 5.3) and its sense data.
#[must_use]
pub fn judge(status: u8, sense: Option<Sense>) -> Verdict {
    match (status, sense.unwrap_or_default()) {
        (0x00, _) => Verdict::Good,
        // Sense that says nothing does not say that it went well.
        (0x02, Sense { key: 0, .. }) => Verdict::Again,
        (0x02, sense) => judge_sense(sense),
        (0x08, _) => Verdict::Later("the target is busy"),
        (0x18, _) => Verdict::Reserved,
        (0x28, _) => Verdict::Later("the target's task set is full"),
        (0x40, _) => Verdict::Again,
        _ => Verdict::Medium,
    }
}

const fn judge_sense(sense: Sense) -> Verdict {
    match (sense.key, sense.code, sense.qualifier) {
        (0x1, ..) => Verdict::Good,
        (0x2, 0x04, 0x0a) => Verdict::Later("the target is changing controllers"),
        (0x2, 0x04, 0x0b | 0x0c) => Verdict::OtherPath("another controller of the target has the disk"),
        (0x2, 0x3a, _) => Verdict::Later("the logical unit has no medium"),
        (0x2, ..) => Verdict::Later("the logical unit is not ready"),
        (0x5, 0x20, _) => Verdict::NotImplemented,
        (0x5, 0x21, _) => Verdict::OutOfRange,
        (0x5, 0x25, _) => Verdict::NoUnit,
        (0x5, ..) => Verdict::Unsupported,
        (0x6, 0x2a, 0x09) => Verdict::AgainResized,
        // Power on, and reservations preempted or released.
        (0x6, 0x29, 0x00 | 0x01) | (0x6, 0x2a, 0x03..=0x05) => Verdict::AgainReserved,
        (0x6, ..) | (0xb, ..) => Verdict::Again,
        // A full pool: a stall until an operator makes room, no damage.
        (0x7, 0x27, 0x07) => Verdict::Later("the target's storage is full"),
        (0x7, ..) => Verdict::WriteProtected,
        _ => Verdict::Medium,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_and_what_follows() {
        let fixed = |key, code, qualifier| {
            let data = [0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier, 0, 0, 0, 0];
            judge(2, Sense::parse(&data))
        };
        assert_eq!(fixed(6, 0x29, 4), Verdict::Again);
        assert_eq!(fixed(6, 0x29, 0), Verdict::AgainReserved);
        assert_eq!(fixed(6, 0x2a, 9), Verdict::AgainResized);
        assert_eq!(fixed(7, 0x27, 0), Verdict::WriteProtected);
        assert!(matches!(fixed(7, 0x27, 7), Verdict::Later(_)));
        assert!(matches!(fixed(2, 4, 1), Verdict::Later(_)));
        assert!(matches!(fixed(2, 4, 0x0b), Verdict::OtherPath(_)));
        assert_eq!(fixed(3, 0x11, 0), Verdict::Medium);
        assert_eq!(fixed(5, 0x25, 0), Verdict::NoUnit);
        assert_eq!(fixed(0xb, 0, 0), Verdict::Again);
        assert_eq!(judge(2, Sense::parse(&[0x72, 5, 0x21, 0])), Verdict::OutOfRange);
        assert_eq!(judge(0x18, None), Verdict::Reserved);
        assert_eq!(judge(2, None), Verdict::Again, "no sense: nothing is known");
        assert_eq!(Sense::parse(&[]), None);
    }
}
