//! The replies about what a node keeps.

use crate::reason::Reason;
use crate::state::{Imported, KeptFacts, StateCondition, StateFacts, StateProtection};
use crate::verb::Reply;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

/// One of each.
pub(super) fn replies() -> Vec<Reply> {
    vec![
        Reply::State(StateFacts {
            condition: StateCondition::Kept,
            volume: super::volume(),
            problem: Some("p".to_string()),
            serial: [0xdd; 16],
            fresh_identity: true,
            formatted: true,
            protection: StateProtection::ImageKey,
            doubt: Some("d".to_string()),
            trust_serial_min: 5,
            trust_serial: 300,
            kept_trust_serial: 2,
            audit_entries: 3,
            bytes: [4, 5],
            kernel_bytes: [6, 7],
            guests: vec![KeptFacts {
                name: "web1".to_string(),
                order: 8,
                kernel: [0xee; 32],
                ramdisk: Some([0xff; 32]),
                problem: Some(Reason::SecretMissing { disk: 3 }),
            }],
        }),
        Reply::Imported(Imported {
            guests: vec![("web1".to_string(), Some(Reason::FilesMissing))],
            trust_serial: 300,
            trust_changed: true,
        }),
    ]
}
