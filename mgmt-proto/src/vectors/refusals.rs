//! Why a node refuses, for vectors.

use crate::code::Code;
use crate::reason::{Held, Reason, Refusal, TooLate};
use crate::role::Role;
use crate::verb::Outcome;
use alloc::vec;
use alloc::vec::Vec;

/// Refusals of several shapes.
pub(super) fn refusals() -> Vec<Refusal> {
    vec![
        failed().unwrap_err(),
        Refusal::of("web1", Reason::RoleMissing { needed: Role::Admin, found: Role::Viewer }),
        Refusal::of("job 7", Reason::JobPastCancelling { why: TooLate::Holds, ends_s: 300 }),
        Refusal::of("node", Reason::NoStateVolume).although(Held::Bundle { serial: 300 }),
    ]
}

/// A failure in the node's own words.
pub(crate) fn failed() -> Outcome {
    Err(Refusal::said(Code::Storage, "aoe:e11.1", "does not answer", "check the target"))
}
