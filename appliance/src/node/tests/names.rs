//! Names of volumes: who logs in, whether two mean one disk, what is not repeated.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use mgmt_proto::audit::Log;
use mgmt_proto::code::Code;
use mgmt_proto::disk::{DiskSetting, GuestSettings};
use mgmt_proto::machine::{Disk, Machine};
use mgmt_proto::secret::Secret;
use mgmt_proto::verb::{Discover, Reply, Request, Run};

use super::targets::IscsiTarget;
use super::world::*;

const SECRET: &[u8] = b"open sesame, thou door";
const DISK: &str = "10.0.0.3/iqn.2026-01.org.example:disk_1/0";

fn secret() -> Vec<DiskSetting> {
    vec![DiskSetting::Secret(Secret::new(SECRET.to_vec()))]
}

fn guest(machine: &Machine, name: &str, volume: &str, settings: Vec<DiskSetting>) -> Request {
    let disks = vec![Disk { volume: volume.to_string(), read_only: false }];
    let machine = Machine { name: name.to_string(), disks, network_cards: Vec::new(), ..machine.clone() };
    let settings = GuestSettings { limits: Vec::new(), disks: vec![settings] };
    Request::Create { machine, settings, paused: false, autostart: None }
}

fn world(seed: u64) -> (World, usize, Machine) {
    let mut world = World::new(seed);
    let (session, machine) = world.ready();
    world.iscsi = Some(IscsiTarget::new(64));
    (world, session, machine)
}

#[test]
fn a_user_may_be_called_anything() {
    let names = [
        ("iqn.1993-08.org.debian:01:abc", "iqn.1993-08.org.debian:01:abc"),
        ("dom/alice", "dom%2Falice"),
        ("dom/alice", "dom/alice"),
        ("bob%secret", "bob%25secret"),
    ];
    for (seed, (user, text)) in (71..).zip(names) {
        let (mut world, session, machine) = world(seed);
        world.iscsi.as_mut().unwrap().secret = Some((user, SECRET));
        let volume = alloc::format!("iscsi://{text}@{DISK}");
        let Reply::Created(_) = world.done(session, &guest(&machine, "web", &volume, secret())) else {
            panic!("{user}");
        };
        let Reply::Volumes(page) = world.done(session, &Request::StorageShow { volume: None, from: 0 })
        else {
            panic!("{user}");
        };
        let login = ("Login".to_string(), alloc::format!("CHAP as {user}"));
        assert!(page.volumes[0].settings.contains(&login), "{:?}", page.volumes[0].settings);
    }
}

#[test]
fn a_disk_has_one_writer_however_its_name_is_spelled() {
    let (mut world, session, machine) = world(76);
    let first = alloc::format!("iscsi://{DISK}");
    world.done(session, &guest(&machine, "web", &first, vec![]));
    for volume in [
        "iscsi://10.0.0.3/IQN.2026-01.org.Example:DISK_1/0",
        "iscsi://10.0.0.9:3261/iqn.2026-01.ORG.example:disk_1",
        "iscsi://iqn.2026-01.org.Example:disk_1@10.0.0.3/0",
        "iscsi://iqn.1993-08.org.debian:01:abc@10.0.0.3/iqn.2026-01.org.example:Disk_1/0",
        "iscsi://dom/alice@10.0.0.3/iqn.2026-01.org.example:disk_1/0",
    ] {
        let failure = world.refused(session, &guest(&machine, "other", volume, vec![]));
        assert_eq!(failure.code, Code::Conflict, "{volume}: {failure}");
        assert!(failure.message.contains("guest web uses"), "{failure}");
    }
}

#[test]
fn a_password_in_a_name_is_refused_and_not_repeated() {
    let (mut world, session, machine) = world(77);
    let mut told = String::new();
    for user in ["bob%secret", "bob:secret", "bob%5ecret%secret", "bob%secret@x"] {
        let volume = alloc::format!("iscsi://{user}@{DISK}");
        let disk = Disk { volume: volume.clone(), read_only: false };
        let portal = alloc::format!("{user}@10.0.0.3");
        for request in [
            guest(&machine, "web", &volume, vec![]),
            guest(&machine, "web", &volume, secret()),
            Request::StorageProbe { volume: volume.clone(), settings: vec![] },
            Request::StorageReserve { volume: volume.clone(), settings: secret(), force: false },
            Request::StoragePath { volume: volume.clone(), path: 0, enabled: false },
            Request::StorageShow { volume: Some(volume.clone()), from: 0 },
            Request::BlockAttach { name: "none".into(), disk, settings: vec![] },
            Request::StorageDiscover(Discover::Iscsi { portal: portal.clone(), settings: Vec::new() }),
            Request::StorageDiscover(Discover::Iscsi { portal: portal.clone(), settings: secret() }),
        ] {
            let failure = world.refused(session, &request);
            assert!(matches!(failure.code, Code::Usage | Code::NotFound), "{failure}");
            assert!(failure.code == Code::NotFound || failure.remedy.contains("secret=FILE"), "{failure}");
            told += &alloc::format!("{failure} {failure:?}");
        }
    }
    for request in [
        Request::List,
        Request::NodeLog { run: Run::Current, from: 0 },
        Request::AuditRead { log: Log::Effects, from: 0 },
        Request::AuditRead { log: Log::Refusals, from: 0 },
        Request::JobList,
    ] {
        let reply = world.done(session, &request);
        if let Reply::Stream(stream) = &reply {
            told += &String::from_utf8_lossy(&stream.bytes);
        }
        told += &alloc::format!("{reply:?}");
    }
    assert!(told.contains("bob***@10.0.0.3"), "{told}");
    assert!(!told.contains("secret@") && !told.contains("cret%") && !told.contains(":secret"), "{told}");
    assert_eq!(world.iscsi.as_ref().unwrap().logins, 0);
}
