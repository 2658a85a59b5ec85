use super::{Entry, Fault, Head, Log, Result, verify};
use crate::code::Code;
use crate::envelope::{Binding, open, seal};
use crate::handshake::OperatorKey;
use crate::limits::AUDIT_ENTRY_BYTES;
use crate::verb::Request;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use ed25519_dalek::SigningKey;

fn log(length: u64) -> Vec<Entry> {
    let key = SigningKey::from_bytes(&[7; 32]);
    let binding = Binding { node: [1; 32], boot_nonce: [2; 32], session: [3; 32] };
    let mut previous = [0; 32];
    (0..length)
        .map(|sequence| {
            let request = Request::Pause { name: alloc::format!("guest{sequence}") };
            let bytes = seal(&key, &binding, sequence, &request).unwrap();
            let verified = open(&bytes, &key.public(), &binding, sequence).unwrap();
            let (verb, object) = (request.verb().name, request.object());
            let mut entry = Entry::new(verified.proof(), verified.operator(), verb, &object, Result::Done);
            (entry.sequence, entry.at_ns, entry.previous) = (sequence, sequence * 1000, previous);
            previous = entry.digest();
            entry
        })
        .collect()
}

#[test]
fn a_whole_log_is_believed_and_any_part_of_it() {
    let entries = log(5);
    assert_eq!(verify(&entries), Ok(entries[4].digest()));
    assert_eq!(verify(&entries[2..4]), Ok(entries[3].digest()));
    assert_eq!(verify(&[]), Ok([0; 32]));
}

#[test]
fn a_gap_is_named() {
    let mut entries = log(5);
    entries.remove(2);
    assert_eq!(verify(&entries), Err(Fault::Gap { after: 1 }));
    let mut entries = log(3);
    entries.swap(0, 1);
    assert_eq!(verify(&entries), Err(Fault::Gap { after: 1 }));
}

/// Whatever field of whatever entry is changed, the log is not believed, or its
/// head is not.
#[test]
fn every_change_shows() {
    let node = SigningKey::from_bytes(&[9; 32]);
    let clean = log(4);
    let head = Head::sign(&node, Log::Effects, 4, clean[3].digest());
    let changes: [fn(&mut Entry); 14] = [
        |entry| entry.sequence += 1,
        |entry| entry.at_ns += 1,
        |entry| entry.operator[0] ^= 1,
        |entry| entry.node[31] ^= 1,
        |entry| entry.boot_nonce[0] ^= 1,
        |entry| entry.session[0] ^= 1,
        |entry| entry.counter += 1,
        |entry| entry.request[0] ^= 1,
        |entry| entry.signature_r[0] ^= 1,
        |entry| entry.signature_s[0] ^= 1,
        |entry| entry.object = String::from("other"),
        |entry| entry.result = Result::Failed(Code::Refused),
        |entry| entry.previous[0] ^= 1,
        |entry| entry.count += 1,
    ];
    let public = node.verifying_key().to_bytes();
    for change in changes {
        for index in 0..4 {
            let mut entries = clean.clone();
            change(&mut entries[index]);
            let believed = verify(&entries)
                .and_then(|last| head.verify(&public, Log::Effects, entries.len() as u64, &last));
            assert!(believed.is_err(), "a change of entry {index} does not show");
        }
    }
    assert_eq!(head.verify(&public, Log::Effects, 4, &clean[3].digest()), Ok(()));
    assert_eq!(head.verify(&[4; 32], Log::Effects, 4, &clean[3].digest()), Err(Fault::Head));
    // A log that was cut at its end, and one that is shown in the place of the other.
    assert_eq!(head.verify(&public, Log::Effects, 3, &clean[2].digest()), Err(Fault::Head));
    assert_eq!(head.verify(&public, Log::Refusals, 4, &clean[3].digest()), Err(Fault::Head));
}

#[test]
fn the_longest_entry_fits() {
    let mut entry = log(1).remove(0);
    entry.object = "n".repeat(crate::limits::NAME_BYTES);
    entry.verb = "console write".to_string();
    (entry.sequence, entry.at_ns, entry.counter) = (u64::MAX, u64::MAX, u64::MAX);
    entry.result = Result::Failed(Code::Integrity);
    entry.count = u32::MAX;
    assert!(entry.encode().len() <= AUDIT_ENTRY_BYTES, "{}", entry.encode().len());
}

/// Kept for ever: what version 1 signs and hashes.
#[test]
fn literal_bytes() {
    let entry = log(1).remove(0);
    let bytes = entry.encode();
    // Sequence 0 and time 0 in one byte each, then the operator's key as it is.
    assert_eq!(&bytes[..34], &[&[0, 0][..], &entry.operator].concat());
    assert_eq!(hex(&entry.digest()), include_str!("entry0.sha256").trim());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| alloc::format!("{byte:02x}")).collect()
}
