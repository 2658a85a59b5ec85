//! Millions of damaged messages for each decoder: none panics, none is taken for what
//! it is not, and none makes more of its bytes than there are.
//!
//! Signatures and seals would keep nearly all of them from the decoders, so these are
//! called as if they had fitted; a share goes through the locks too. `MUTATIONS=<n>` runs
//! that many for each decoder (`cargo verify` runs ten million).

use crate::audit::{self, Entry, Page};
use crate::bundle::{self, Bundle};
use crate::client::Message;
use crate::config::Config;
use crate::envelope::{self, Binding, Proof};
use crate::handshake::PeerFault;
use crate::manifest::Manifest;
use crate::mutate::{Random, mutate, wanted};
use crate::record::{self, KIND_OUTCOME, KIND_PROGRESS, LENGTH_BYTES, Opener, Sealer};
use crate::vectors;
use crate::verb::{Outcome, Request};
use crate::{codec, limits};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Debug;
use ed25519_dalek::SigningKey;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// For each decoder in a plain `cargo test`.
const SHARE: u64 = 200_000;
/// One in so many goes through signatures, which cost a hundred times as much.
const LOCKED: u64 = 4_000;

/// Damages each of `good` in turn, so often.
fn each(seed: u64, good: &[Vec<u8>], mut look: impl FnMut(u64, &[u8], &[u8])) {
    let mut random = Random::new(seed);
    let mut bytes = Vec::new();
    for round in 0..wanted(SHARE) {
        let whole = &good[random.place(good.len())];
        bytes.clear();
        bytes.extend_from_slice(whole);
        mutate(&mut random, &mut bytes, whole.len());
        look(round, whole, &bytes);
    }
}

/// What was understood is said in no more bytes than there were, and understood again.
fn is_said_again<T: Serialize + DeserializeOwned + PartialEq + Debug>(round: u64, value: &T, bytes: &[u8]) {
    let again = postcard::to_allocvec(value).unwrap();
    assert!(again.len() <= bytes.len(), "round {round}: {value:?} of {} bytes", bytes.len());
    assert_eq!(codec::whole::<T>(&again).as_ref(), Some(value), "round {round}");
}

fn encoded<T: Serialize>(values: &[T]) -> Vec<Vec<u8>> {
    values.iter().map(|value| postcard::to_allocvec(value).unwrap()).collect()
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

#[test]
fn records() {
    let plain = [&[KIND_OUTCOME][..], &[5; 60]].concat();
    let sealed = Sealer::new(&[1; 32]).seal(&plain).unwrap();
    let mut framed = Vec::new();
    record::append(&mut framed, &sealed).unwrap();
    let mut opener = Opener::new(&[1; 32]);
    each(1, &[framed], |round, good, bytes| {
        let Ok(Some(length)) = record::length(bytes) else { return };
        assert!((17..=limits::RECORD_BYTES + 16).contains(&length), "round {round}");
        let Some(sealed) = bytes.get(LENGTH_BYTES..LENGTH_BYTES + length) else { return };
        if let Ok(opened) = opener.open(sealed) {
            assert_eq!((opened, sealed), (plain.clone(), &good[LENGTH_BYTES..]), "round {round}");
            // It opens once; the same again from the beginning.
            assert!(opener.open(sealed).is_err(), "round {round}");
            opener = Opener::new(&[1; 32]);
        }
    });
}

#[test]
fn requests() {
    each(2, &encoded(&vectors::requests()), |round, _, bytes| {
        let Some(request) = codec::whole::<Request>(bytes) else { return };
        is_said_again(round, &request, bytes);
        let (_, _) = (request.verb(), request.object());
        if let Request::Create { machine, settings, .. } = &request {
            let _ = machine.validate().and_then(|()| settings.validate(&machine.disks));
        }
        assert!(request.guest().is_none_or(|name| name.len() <= bytes.len()), "round {round}");
    });
}

#[test]
fn envelopes() {
    let binding = Binding { node: [1; 32], boot_nonce: [2; 32], session: [3; 32] };
    let good: Vec<Vec<u8>> = vectors::requests()
        .iter()
        .map(|request| envelope::seal(&key(), &binding, 1, request).unwrap())
        .collect();
    let operator = key().verifying_key().to_bytes();
    each(3, &good, |round, good, bytes| {
        let parsed = envelope::parse(bytes);
        assert_eq!(parsed.is_err(), bytes.len() < 168, "round {round}");
        let is_same = bytes == good;
        if let Ok((proof, request)) = parsed {
            let (whole, rest): (Proof, &[u8]) = envelope::parse(good).unwrap();
            assert_eq!(proof == whole && request == rest, is_same, "round {round}");
        }
        if round % LOCKED == 0 {
            assert_eq!(envelope::open(bytes, &operator, &binding, 1).is_ok(), is_same, "round {round}");
            assert!(envelope::open(bytes, &operator, &binding, 2).is_err(), "round {round}");
        }
    });
}

#[test]
fn replies() {
    let mut good: Vec<Vec<u8>> = vectors::all_replies()
        .into_iter()
        .map(|reply| [&[KIND_OUTCOME][..], &postcard::to_allocvec(&Outcome::Ok(reply)).unwrap()].concat())
        .collect();
    good.push([&[KIND_OUTCOME][..], &postcard::to_allocvec(&vectors::failed()).unwrap()].concat());
    good.push(vec![KIND_PROGRESS, 3, 0xac, 2, 1]);
    each(4, &good, |round, _, bytes| match Message::decode(bytes) {
        Ok(Message::Outcome(outcome)) => {
            let again = postcard::to_allocvec(&outcome).unwrap();
            assert!(again.len() < bytes.len(), "round {round}");
            assert_eq!(postcard::from_bytes::<Outcome>(&again).as_ref(), Ok(&outcome), "round {round}");
        }
        Ok(Message::Progress(progress)) => {
            assert_eq!(bytes.first(), Some(&KIND_PROGRESS), "round {round}");
            assert!(postcard::to_allocvec(&progress).unwrap().len() < bytes.len(), "round {round}");
        }
        Err(fault) => assert_eq!(fault, PeerFault::Unexpected, "round {round}"),
    });
}

#[test]
fn trust_bundles() {
    let bundle = vectors::bundle(&key());
    let signed = bundle.sign(&[&key()]).unwrap();
    let before = Bundle { serial: 0, issued_s: 0, ..bundle };
    each(5, &[signed], |round, good, bytes| {
        let Ok((body, signatures)) = bundle::split(bytes) else { return };
        assert_eq!(bytes.len(), 1 + 96 * signatures.len() + body.len(), "round {round}");
        // Whether its keys are points of the curve takes longest: one in some is asked.
        if let Some(bundle) = codec::whole::<Bundle>(body) {
            is_said_again(round, &bundle, body);
        }
        if round % 64 == 0 && Bundle::decode(body).is_ok_and(|bundle| bundle.serial > 0) {
            let is_same = bytes == good;
            assert_eq!(before.signed_successor(bytes).is_ok(), is_same, "round {round}");
        }
    });
}

#[test]
fn manifests() {
    each(6, &[vectors::manifest().encode().unwrap()], |round, _, bytes| {
        if let Some(manifest) = Manifest::decode(bytes) {
            is_said_again(round, &manifest, bytes);
            assert_ne!(manifest.port, 0, "round {round}");
        }
    });
}

#[test]
fn configurations() {
    let config = vectors::config();
    let file = config.sign(&key()).unwrap();
    let mut random = Random::new(8);
    each(7, &encoded(&[config]), |round, _, bytes| {
        if let Ok(config) = Config::decode(bytes) {
            is_said_again(round, &config, bytes);
            for guest in &config.guests {
                let _ = guest.machine.validate().and_then(|()| guest.settings.validate(&guest.machine.disks));
            }
        }
        if round % LOCKED == 0 {
            let mut altered = file.clone();
            mutate(&mut random, &mut altered, file.len());
            assert_eq!(Config::open(&altered).is_ok(), altered == file, "round {round}");
        }
    });
}

#[test]
fn audit_entries() {
    let entries = vectors::entries(&key());
    let head = audit::Head::sign(&key(), audit::Log::Effects, 2, entries[1].digest());
    let page = Page { entries: entries.clone(), oldest: 0, head };
    assert!(audit::verify(&entries).is_ok());
    each(9, &encoded(&entries), |round, good, bytes| {
        let Some(entry) = codec::whole::<Entry>(bytes) else { return };
        is_said_again(round, &entry, bytes);
        if round % LOCKED == 0 {
            let (at, is_same) =
                (usize::from(good != postcard::to_allocvec(&entries[0]).unwrap()), bytes == good);
            let mut altered = entries.clone();
            altered[at] = entry;
            let node = key().verifying_key().to_bytes();
            let verified = audit::verify(&altered)
                .and_then(|last| page.head.verify(&node, audit::Log::Effects, 2, &last));
            assert!(verified.is_err() || altered == entries, "round {round}, same {is_same}");
        }
    });
}
