//! Millions of damaged records for each decoder of what a node kept: on its state volume
//! and across dom0's restart. None panics, and none is taken for what it is not.
//!
//! On the volume all of it is sealed, and the store has checksums: damage would not get as
//! far as these. `MUTATIONS=<n>` runs that many for each (`cargo verify` runs ten million).

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use mgmt_proto::audit::Entry;
use mgmt_proto::code::Code;
use mgmt_proto::config::KeptGuest;
use mgmt_proto::disk::{DiskSetting, GuestSettings, Limit};
use mgmt_proto::envelope::{Binding, Proof};
use mgmt_proto::machine::{Disk, Machine, NetworkCard};

use crate::blobs;
use crate::guests::record;
use crate::mutate::{Random, mutate, wanted};
use crate::operators::audit;

/// For each decoder in a plain `cargo test`.
const SHARE: u64 = 100_000;

/// Damages `good` so often, mostly in its first `header` bytes.
fn each(seed: u64, good: &[u8], header: usize, mut look: impl FnMut(u64, &[u8])) {
    let mut random = Random::new(seed);
    let mut bytes = Vec::new();
    for round in 0..wanted(SHARE) {
        bytes.clear();
        bytes.extend_from_slice(good);
        mutate(&mut random, &mut bytes, header);
        look(round, &bytes);
    }
}

fn machine() -> Machine {
    Machine {
        ramdisk: Some([2; 32]),
        disks: vec![Disk { volume: "aoe:e1.1".to_string(), read_only: false }],
        network_cards: vec![NetworkCard::plain([2, 0, 0, 0, 0, 7])],
        ..crate::node::tests::machine()
    }
}

fn settings() -> GuestSettings {
    let disk = vec![DiskSetting::Station([2; 6]), DiskSetting::DeadlineMs(300), DiskSetting::Reserve];
    GuestSettings { limits: vec![Limit::BytesPerSecond(300)], disks: vec![disk] }
}

#[test]
fn guests_that_are_kept() {
    let guest =
        KeptGuest { order: 3, machine: machine(), settings: settings(), secrets_left_out: Vec::new() };
    let good = postcard::to_allocvec(&guest).unwrap();
    assert_eq!(crate::guests::autostart::decode("web", &good), Some(guest));
    assert_eq!(crate::guests::autostart::decode("other", &good), None);
    each(77, &good, good.len(), |round, bytes| {
        if let Some(guest) = crate::guests::autostart::decode("web", bytes) {
            assert!(guest.machine.validate().is_ok() && guest.machine.name == "web", "round {round}");
            assert!(guest.settings.validate(&guest.machine.disks).is_ok(), "round {round}");
        }
    });
}

#[test]
fn tables_of_kernels() {
    let key = String::from("kernel/") + &"ab".repeat(32);
    let blocks = 1 << 20;
    let place = |first: u64, length: u64| [first.to_le_bytes(), length.to_le_bytes()].concat();
    let good = [key.as_bytes(), &place(1 << 19, 5000)].concat();
    assert!(blobs::persisted::kernel_end(&key, &good[key.len()..], blocks).is_some());
    each(78, &good, good.len(), |round, bytes| {
        let (key, value) = bytes.split_at(bytes.len().min(key.len()));
        let Ok(key) = core::str::from_utf8(key) else { return };
        if let Some(end) = blobs::persisted::kernel_end(key, value, blocks) {
            assert!(end <= blocks && value.len() == 16, "round {round}");
            let digits = key.strip_prefix("kernel/").unwrap();
            assert!(digits.len() == 64, "round {round}");
            let is_digit = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
            assert!(digits.bytes().all(is_digit), "round {round}: {digits}");
        }
    });
}

#[test]
fn guests_of_an_earlier_dom0() {
    let good = record::record_of(7, &machine(), &settings()).unwrap();
    assert_eq!(record::recorded(&good), Some((7, machine(), settings())));
    each(79, &good, good.len(), |round, bytes| {
        if let Some((_, machine, settings)) = record::recorded(bytes) {
            let again = postcard::to_allocvec(&(machine, settings)).unwrap();
            assert!(again.len() + 16 <= bytes.len(), "round {round}");
        }
    });
}

#[test]
fn files_of_an_earlier_dom0() {
    let good = blobs::record_of(70_000, &[3; 32]);
    assert_eq!(blobs::recorded(&good), Some((70_000, [3; 32])));
    each(80, &good, good.len(), |round, bytes| {
        let read = blobs::recorded(bytes);
        assert!(read.is_none() || bytes.starts_with(b"REDOBLOB") && bytes.len() == 48, "round {round}");
    });
}

#[test]
fn slots_of_the_audit_log() {
    let binding = Binding { node: [1; 32], boot_nonce: [2; 32], session: [3; 32] };
    let proof = Proof { signature: [4; 64], binding, counter: 5, request: [6; 32] };
    let result = mgmt_proto::audit::Result::Failed(Code::Policy);
    let entry = Entry { sequence: 9, ..Entry::new(&proof, &[7; 32], "create", "web1", result) };
    let encoded = entry.encode();
    let mut good = u16::try_from(encoded.len()).unwrap().to_le_bytes().to_vec();
    good.extend_from_slice(&encoded);
    let used = good.len();
    assert_eq!(audit::decode_slot(1024, 9, &good), Some(entry));
    assert_eq!(audit::decode_slot(1024, 10, &good), None, "of another place");
    good.resize(used + 100, 0xa5);
    each(81, &good, used, |round, bytes| {
        if let Some(entry) = audit::decode_slot(1024, 9, bytes) {
            assert!(entry.encode().len() + 2 <= bytes.len(), "round {round}");
        }
    });
}
