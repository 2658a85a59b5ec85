//! The replies that were there first.

use super::{entries, hex, machine, volume};
use crate::audit::{Head, Log, Page};
use crate::facts::{AddressClaims, DropReason};
use crate::platform::Platform;
use crate::verb::{DiskFacts, Found, GuestFacts, NodeFacts, Reply, State, Stream};
use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;
use ed25519_dalek::SigningKey;

fn node() -> NodeFacts {
    NodeFacts {
        version: "0.1.0".to_string(),
        image_sha256: [0x11; 32],
        image_bytes: 300,
        cpus: 2,
        memory_bytes: 1 << 30,
        memory_free_bytes: 1 << 29,
        hypervisor_bytes: 1 << 20,
        dom0_bytes: 48 << 20,
        uptime_ns: 5_000_000_000,
        dom0_starts: 1,
        mac: [2, 0, 0, 0, 0, 1],
        address: Some(([10, 0, 0, 1], 24)),
        guests: 1,
        fresh_identity: true,
        tsc_khz: 2_000_000,
        claims: AddressClaims { count: 3, by: Some([2, 0, 0, 0, 0, 9]) },
        portals_moved: 4,
        paths_shortened: 5,
        log_errors: 1,
        log_warnings: 12,
        platform: Platform::default(),
    }
}

fn guest() -> GuestFacts {
    GuestFacts {
        id: 7,
        machine: machine(),
        state: State::Running,
        cpu_time_ns: 1_000,
        populated_bytes: 2 << 20,
        created_ns: 300,
        first_run_ns: 400,
        exits: 500,
        frames: [6, 7],
        drops: vec![(DropReason::ArpClaim, 8)],
        disks: vec![DiskFacts {
            volume: volume(),
            sectors: 2048,
            state: "ready".to_string(),
            stalled_since_ns: Some(9),
            operations: [1, 2, 3],
            bytes: [4, 5],
            retries: 6,
        }],
    }
}

/// One of each. The audit page is of the operator and the node of the handshake's vectors.
pub(super) fn replies() -> Vec<Reply> {
    let log = entries(&SigningKey::from_bytes(&[7; 32]));
    let digest = log.last().map_or([0; 32], crate::audit::Entry::digest);
    let head = Head::sign(&SigningKey::from_bytes(&[9; 32]), Log::Effects, log.len() as u64, digest);
    let found = Found { volume: volume(), server: "02:00:00:00:00:02".to_string(), details: hex(&[1, 2]) };
    vec![
        Reply::Done,
        Reply::Node(Box::new(node())),
        Reply::Stream(Stream { bytes: vec![1, 2, 3], next: 300 }),
        Reply::Found(vec![found]),
        Reply::Missing(vec![[3; 32], [4; 32]]),
        Reply::Created(300),
        Reply::Guests(vec![guest()]),
        Reply::Audit(Page { entries: log, oldest: 0, head }),
    ]
}
