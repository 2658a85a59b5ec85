//! An attacker who writes to the state volume, as everyone on an AoE wire can: what is
//! not under the image's key does not count, and what is missing is never taken for "no".

use alloc::string::ToString;
use alloc::vec::Vec;

use hmac::{Hmac, KeyInit, Mac};
use mgmt_proto::code::Code;
use mgmt_proto::state::{Initialise, StateCondition};
use mgmt_proto::verb::Request;
use sha2::{Digest, Sha256};
use storage::store::{Store, StoreKey, StoreOperation};

use super::fake_disk::{FakeDisk, disk_mib};
use super::power::update;
use super::state::{state, state_settings};
use super::trust::root;
use super::world::*;
use crate::settings::Settings;
use storage::local::{DiskWork, LocalDisk};

const SECTOR: usize = 512;
const BLOCK_SECTORS: u64 = 8;
/// Sectors of a half of the store.
const HALF_SECTORS: u64 = 2048 * BLOCK_SECTORS;
/// The key that `state_settings` seals.
const IMAGE_KEY: [u8; 32] = [0x5e; 32];

fn settings_with_root() -> Settings {
    let mut settings = state_settings("virtio:0", 30);
    settings.manifest.owner = root(1).verifying_key().to_bytes();
    settings
}

fn read(disk: &FakeDisk, sector: u64, sectors: u32) -> Vec<u8> {
    let mut disk = disk.clone();
    assert!(disk.begin(0, &DiskWork::Read { sector, sectors }));
    disk.take().unwrap().1.unwrap()
}

fn write(disk: &FakeDisk, sector: u64, bytes: &[u8]) {
    let mut disk = disk.clone();
    for work in [DiskWork::Write { sector, bytes: bytes.to_vec() }, DiskWork::Flush] {
        assert!(disk.begin(0, &work));
        disk.take().unwrap().1.unwrap();
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Appends a transaction to the log of the newer half, chained and digested with a plain
/// SHA-256 as anyone can: it removes these keys.
fn append_removals(disk: &FakeDisk, keys: &[&str]) {
    let generation = |half: u64| number(&read(disk, half * HALF_SECTORS, 1), 32);
    let half = u64::from(generation(1) > generation(0));
    let mut sector = half * HALF_SECTORS + BLOCK_SECTORS;
    let (mut head, mut last) = (Vec::new(), Vec::new());
    loop {
        let block = read(disk, sector, 8);
        if !block.starts_with(b"RdSr") {
            break;
        }
        let length = usize::try_from(u32::from_le_bytes(block[4..8].try_into().unwrap())).unwrap();
        let sectors = length.next_multiple_of(4096) / SECTOR;
        let record = read(disk, sector, u32::try_from(sectors).unwrap());
        (head, last) = (record[8..24].to_vec(), record[length - 32..length].to_vec());
        sector += sectors as u64;
    }
    let mut record = b"RdSr\0\0\0\0".to_vec();
    record.extend_from_slice(&head[..8]);
    record.extend_from_slice(&(number(&head, 8) + 1).to_le_bytes());
    record.extend_from_slice(&last);
    for key in keys {
        record.extend([2, u8::try_from(key.len()).unwrap()]);
        record.extend_from_slice(key.as_bytes());
    }
    let length = u32::try_from(record.len() + 32).unwrap();
    record[4..8].copy_from_slice(&length.to_le_bytes());
    let digest = Sha256::digest(&record);
    record.extend_from_slice(&digest);
    record.resize(4096, 0);
    write(disk, sector, &record);
}

/// Removes keys as the holder of the image's key can.
fn remove_with_key(disk: &FakeDisk, keys: &[&str]) {
    let key = Hmac::<Sha256>::new_from_slice(&IMAGE_KEY).unwrap().chain_update("redoubt state chain 1");
    let key = StoreKey::new(key.finalize().into_bytes().into());
    let mut store = Store::open(disk.sectors() / BLOCK_SECTORS, key, 1);
    let mut removed = false;
    loop {
        match store.operation() {
            Some(StoreOperation::Read { first, blocks }) => {
                let sectors = u32::try_from(blocks * BLOCK_SECTORS).unwrap();
                let bytes = read(disk, first * BLOCK_SECTORS, sectors);
                store.read(&bytes);
            }
            Some(StoreOperation::Write { first, bytes }) => {
                let bytes = bytes.to_vec();
                write(disk, first * BLOCK_SECTORS, &bytes);
                store.done();
            }
            Some(StoreOperation::Flush) => store.done(),
            None if removed => return,
            None => {
                assert!(store.is_open(), "{:?}", store.error());
                let changes: Vec<_> = keys.iter().map(|key| ((*key).to_string(), None)).collect();
                store.change_all(&changes).unwrap();
                removed = true;
            }
        }
    }
}

/// A node that was told of bundle 1, which revokes the operator's key, and was locked
/// down; without power now.
fn locked(seed: u64, disk: &FakeDisk) -> World {
    let mut world = World::with_disk(seed, settings_with_root(), disk);
    let session = world.connect(Who::Admin);
    world.done(session, &update(1));
    world.done(session, &Request::Lockdown);
    world.run(SECOND);
    world
}

#[test]
fn a_record_without_the_key_takes_neither_trust_nor_lockdown_away() {
    let disk = disk_mib(17);
    let mut world = locked(240, &disk);
    append_removals(&disk, &["trust", "lockdown"]);
    world.power_cycle();
    let revoked = world.dial(Who::Operator);
    let session = world.connect(Who::Admin);
    assert!(world.is_dead(revoked), "bundle 1 revoked its key");
    assert_eq!(state(&mut world, session).trust_serial, 1);
    let failure = world.refused(session, &Request::NodeStop { power_off: false });
    assert_eq!((failure.code, failure.message.as_str()), (Code::Policy, "the node is locked down"));
}

#[test]
fn without_a_trust_record_only_reading_is_obeyed() {
    for (keys, why) in [
        (&["trust"][..], "does not say which trust bundle holds"),
        (&["lockdown"], "does not say whether the node is locked down"),
        (&["trust", "lockdown"], "does not say"),
    ] {
        let disk = disk_mib(17);
        let mut world = locked(241, &disk);
        remove_with_key(&disk, keys);
        world.power_cycle();
        let session = world.connect(Who::Admin);
        let facts = state(&mut world, session);
        assert!(facts.doubt.as_ref().is_some_and(|doubt| doubt.contains(why)), "{keys:?} {facts:?}");
        world.done(session, &Request::List);
        for request in [Request::NodeStop { power_off: false }, update(9), Request::Lockdown] {
            let failure = world.refused(session, &request);
            assert!(failure.code == Code::Policy && failure.message.contains(why), "{failure}");
            assert!(failure.remedy.contains("trust_serial_min"), "{failure}");
        }
        // A new dom0 knows no more, before it has opened the volume and after.
        disk.disk().stalled = true;
        world.restart_dom0();
        let session = world.connect(Who::Admin);
        assert!(state(&mut world, session).only_looks(), "{keys:?}");
        disk.disk().stalled = false;
        world.restart_dom0();
        let session = world.connect(Who::Admin);
        assert!(state(&mut world, session).only_looks(), "{keys:?}");
    }
}

#[test]
fn a_sealed_minimum_of_the_trust_serial_must_be_reached_first() {
    let disk = disk_mib(17);
    let mut settings = settings_with_root();
    settings.manifest.trust_serial_min = 3;
    let mut world = World::with_disk(242, settings, &disk);
    let session = world.connect(Who::Admin);
    world.done(session, &Request::List);
    let wanted = Request::Pause { name: "web".to_string() };
    let failure = world.refused(session, &wanted);
    assert!(failure.message.starts_with("trust bundle 0 is older than 3, which was sealed"), "{failure}");
    world.done(session, &update(2));
    assert_eq!(world.refused(session, &wanted).code, Code::Policy);
    world.done(session, &update(3));
    assert_eq!(world.refused(session, &wanted).code, Code::NotFound);
    world.power_cycle();
    let session = world.connect(Who::Admin);
    assert_eq!(world.refused(session, &wanted).code, Code::NotFound);
}

#[test]
fn a_bundle_of_the_sealed_minimum_ends_the_doubt() {
    let disk = disk_mib(17);
    let world = locked(243, &disk);
    remove_with_key(&disk, &["trust", "lockdown"]);
    let mut settings = settings_with_root();
    settings.manifest.trust_serial_min = 5;
    let mut world = World::with_disk(world.now_ns, settings, &disk);
    let session = world.connect(Who::Admin);
    world.done(session, &update(4));
    assert!(state(&mut world, session).only_looks());
    world.done(session, &update(5));
    assert!(!state(&mut world, session).only_looks());
    world.power_cycle();
    let session = world.connect(Who::Admin);
    let facts = state(&mut world, session);
    assert_eq!((facts.only_looks(), facts.trust_serial, facts.doubt), (false, 5, None));
}

#[test]
fn an_empty_volume_is_formatted_aloud_and_only_where_it_may_be() {
    let disk = disk_mib(17);
    let mut world = World::with_disk(244, settings_with_root(), &disk);
    let session = world.connect(Who::Admin);
    assert!(state(&mut world, session).formatted);
    assert!(world.logged("which is empty: no earlier trust bundle"));
    world.power_cycle();
    let session = world.connect(Who::Admin);
    assert!(!state(&mut world, session).formatted);
    // Zeroes where the volume was, below a node that runs: dom0 does not begin anew.
    for sector in disk.used() {
        write(&disk, sector, &[0; SECTOR]);
    }
    world.restart_dom0();
    world.run(SECOND);
    let session = world.connect(Who::Admin);
    let facts = state(&mut world, session);
    assert_eq!(facts.condition, StateCondition::Failed);
    assert!(facts.problem.unwrap().contains("held this node's state since power-on"));
    assert!(disk.used().is_empty());
    // And one that may never be empty, from power-on.
    let mut settings = settings_with_root();
    settings.manifest.state.as_mut().unwrap().initialise = Initialise::Never;
    let mut world = World::with_disk(245, settings, &disk);
    let session = world.connect(Who::Admin);
    let facts = state(&mut world, session);
    assert!(facts.only_looks() && facts.problem.unwrap().contains("is never initialised"));
    assert!(disk.used().is_empty());
    let request = Request::Pause { name: "web".to_string() };
    assert_eq!(world.refused(session, &request).code, Code::Policy);
}
