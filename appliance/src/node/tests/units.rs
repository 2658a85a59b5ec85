//! Logical units that are no disks of 512-octet blocks.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use mgmt_proto::code::Code;
use mgmt_proto::machine::{Disk, Machine};
use mgmt_proto::verb::{Reply, Request};

use super::targets::IscsiTarget;
use super::world::*;

const DISK: &str = "iscsi://10.0.0.3/iqn.2026-01.org.example:disk/0";

fn guest(machine: &Machine, volume: &str) -> Request {
    let disks = vec![Disk { volume: volume.to_string(), read_only: false }];
    Request::create(Machine { disks, network_cards: Vec::new(), ..machine.clone() })
}

fn world(seed: u64, sectors: usize) -> (World, usize, Machine) {
    let mut world = World::new(seed);
    let (session, machine) = world.ready();
    world.iscsi = Some(IscsiTarget::new(sectors));
    (world, session, machine)
}

#[test]
fn a_guest_has_blocks_as_its_target_has() {
    let (mut world, session, machine) = world(81, 64);
    world.iscsi.as_mut().unwrap().block_bytes = 4_096;
    let Reply::Created(domain) = world.done(session, &guest(&machine, DISK)) else { panic!() };
    let mut disk = world.bring_up(domain, 0);
    assert_eq!(world.disk_write(&mut disk, 8, &[7; 4_096]), 0);
    assert_eq!(world.iscsi.as_ref().unwrap().disk[4_095..8_193], [&[0][..], &[7; 4_096], &[0]].concat());
    assert!(world.disk_read(&mut disk, 8, 8) == [7; 4_096]);
    // What is not in whole blocks is an error, and goes nowhere.
    assert_eq!(world.disk_write(&mut disk, 9, &[9; 4_096]), 1);
    assert_eq!(world.disk_write(&mut disk, 8, &[9; 512]), 1);
    assert!(world.disk_read(&mut disk, 8, 8) == [7; 4_096]);
    let Reply::Volumes(page) = world.done(session, &Request::StorageShow { volume: None, from: 0 }) else {
        panic!()
    };
    let blocks = ("BlockBytes".to_string(), "4096".to_string());
    assert!(page.volumes[0].negotiated.contains(&blocks) && page.volumes[0].sectors == Some(64));
}

#[test]
fn blocks_longer_than_a_page_are_refused() {
    let (mut world, session, machine) = world(82, 64);
    world.iscsi.as_mut().unwrap().block_bytes = 8_192;
    let failure = world.refused(session, &guest(&machine, DISK));
    assert_eq!(failure.code, Code::Storage);
    assert!(failure.message.contains("blocks of more than 4,096 octets"), "{failure}");
}

#[test]
fn a_unit_that_is_no_disk_is_named_and_others_are_listed() {
    let (mut world, session, machine) = world(83, 64);
    let target = world.iscsi.as_mut().unwrap();
    (target.units, target.peripheral) = (vec![0, 1, 7], 0x0c);
    let failure = world.refused(session, &guest(&machine, DISK));
    let words =
        "logical unit 0 is a storage array controller (device type 0Ch), no disk; units there are: 0 1 7";
    assert!(failure.code == Code::Storage && failure.message.contains(words), "{failure}");
    let missing = DISK.replace("/0", "/3");
    let words = "the target has no logical unit 3; units there are: 0 1 7";
    let failure = world.refused(session, &guest(&machine, &missing));
    assert!(failure.code == Code::Storage && failure.message.contains(words), "{failure}");
    let probe = Request::StorageProbe { volume: missing.clone(), settings: vec![] };
    let Reply::Volumes(page) = world.done(session, &probe) else { panic!() };
    assert_eq!(page.volumes[0].last_error.as_deref(), Some(words));
    // One that comes later is found.
    let target = world.iscsi.as_mut().unwrap();
    (target.units, target.peripheral) = (vec![3], 0);
    let Reply::Created(domain) = world.done(session, &guest(&machine, &missing)) else { panic!() };
    let mut disk = world.bring_up(domain, 0);
    assert_eq!(world.disk_write(&mut disk, 0, &[1; 512]), 0);
}
