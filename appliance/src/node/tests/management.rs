//! Operators: sessions, roles, blobs.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use mgmt_proto::code::Code;
use mgmt_proto::disk::{DiskSetting, GuestSettings, Limit};
use mgmt_proto::machine::Disk;
use mgmt_proto::manifest;
use mgmt_proto::platform::{Ended, Platform, Watchdog};
use mgmt_proto::secret::Secret;
use mgmt_proto::verb::{Fault, Reply, Request, Run};
use netstack::host::{ConnectionState, TcpOptions};

use super::targets::AoeTarget;
use super::world::*;

#[test]
fn a_static_node_answers_and_then_sleeps() {
    let mut world = World::new(1);
    let session = world.connect(Who::Viewer);
    let Reply::Node(facts) = world.done(session, &Request::NodeInfo) else { panic!() };
    assert_eq!((facts.cpus, facts.mac, facts.address), (2, NODE_MAC, Some(([10, 0, 0, 1], 24))));
    assert!(world.hypervisor.machine().dom0_owns_cpu, "as its owner sealed it");
    assert_eq!((facts.image_sha256, facts.guests), ([7; 32], 0));
    let log = world.hypervisor.machine().log.join("\n");
    assert!(log.contains("reachable at 10.0.0.1:7411"), "{log}");
    world.run(2 * SECOND);
    let before = world.turns;
    world.run(60 * SECOND);
    let turns = world.turns - before;
    assert!(turns < 120, "{turns} turns in a minute of nothing");
    assert!(world.done(session, &Request::List) == Reply::Guests(vec![]));
}

#[test]
fn the_end_of_the_run_before_is_told() {
    let mut world = World::new(3);
    let session = world.connect(Who::Viewer);
    let Reply::Node(facts) = world.done(session, &Request::NodeInfo) else { panic!() };
    let watchdogs = vec![Watchdog::Processor, Watchdog::I6300esb];
    let cause = "panicked at power.rs".to_string();
    assert_eq!(
        facts.platform,
        Platform { ended: Some(Ended::Failed), cause, watchdogs, smt: false, threads_resting: 2 }
    );
    let log = |world: &mut World, from| {
        let reply = world.done(session, &Request::NodeLog { run: Run::Previous, from });
        let Reply::Stream(stream) = reply else { panic!("{reply:?}") };
        (stream.bytes, stream.next)
    };
    assert_eq!(log(&mut world, 0), (b"[    1.000000] the last line\n".to_vec(), 29));
    assert_eq!(log(&mut world, 24), (b"line\n".to_vec(), 29));
    assert_eq!(log(&mut world, u64::MAX).0, b"");
    assert_eq!(world.hypervisor.machine().restart_delay_ms, 10_000, "as its owner sealed it");
}

#[test]
fn both_threads_of_a_core_run_where_that_is_sealed() {
    for (seed, smt) in [(6, false), (7, true)] {
        let mut settings = settings();
        settings.manifest.smt = smt;
        let mut world = World::with(seed, settings);
        let session = world.connect(Who::Viewer);
        let Reply::Node(facts) = world.done(session, &Request::NodeInfo) else { panic!() };
        assert_eq!(world.hypervisor.machine().threads_run, smt);
        assert_eq!((facts.platform.smt, facts.platform.threads_resting), (smt, if smt { 0 } else { 2 }));
    }
}

#[test]
fn the_hypervisor_fails_where_that_is_sealed_to_be_allowed() {
    let mut settings = settings();
    let mut world = World::with(4, settings.clone());
    let session = world.connect(Who::Admin);
    let ask = Request::InjectFault(Fault::HypervisorHang);
    assert_eq!(world.refused(session, &ask).code, Code::Policy);
    settings.manifest.fault_injection = true;
    let mut world = World::with(5, settings);
    let session = world.connect(Who::Admin);
    world.done(session, &ask);
    world.done(session, &Request::InjectFault(Fault::HypervisorPanic));
    assert!(world.logged("hypervisor hangs") && world.logged("hypervisor panics"));
}

#[test]
fn dhcp_gives_the_address() {
    let mut settings = settings();
    settings.manifest.addressing = manifest::Addressing::Dhcp;
    let mut world = World::with(2, settings);
    world.run(3 * SECOND);
    assert!(world.turns < 50, "{} turns without a server", world.turns);
    world.dhcp = true;
    world.until("a lease", |world| !world.hypervisor.machine().log.is_empty());
    let session = world.connect(Who::Admin);
    world.done(session, &Request::NodeInfo);
}

#[test]
fn sessions_survive_a_lossy_wire() {
    for seed in 1..=6 {
        let mut world = World::new(seed);
        world.loss_percent = 1 + seed % 3;
        let session = world.connect(Who::Admin);
        let file: Vec<u8> = (0..200_000).map(|_| world.random.byte()).collect();
        world.upload(session, &file);
    }
}

#[test]
fn roles_are_kept() {
    let mut world = World::new(3);
    let (admin, machine) = world.ready();
    let viewer = world.connect(Who::Viewer);
    let operator = world.connect(Who::Operator);
    let name = || "web".to_string();
    let create = Request::create(machine);
    for request in [
        create.clone(),
        Request::BlobPut { digest: [1; 32], length: 5, resume: false },
        Request::Pause { name: name() },
        Request::Destroy { name: name() },
        Request::ConsoleRead { name: name(), from: 0 },
        Request::NodeStop { power_off: false },
    ] {
        let failure = world.refused(viewer, &request);
        assert_eq!(failure.code, Code::Refused, "{request:?}");
    }
    assert_eq!(world.refused(operator, &Request::NodeStop { power_off: true }).code, Code::Refused);
    assert!(world.hypervisor.machine().resets.is_empty() && world.hypervisor.guests().is_empty());
    world.done(operator, &create);
    assert_eq!(world.refused(admin, &Request::InjectFault(Fault::Panic)).code, Code::Policy);
    world.done(admin, &Request::NodeStop { power_off: true });
    assert!(world.hypervisor.machine().resets.is_empty(), "the answer comes first");
    world.run(SECOND);
    assert_eq!(world.hypervisor.machine().resets, [true]);
}

#[test]
fn blobs_are_what_their_digest_says() {
    let mut world = World::new(4);
    let session = world.connect(Who::Operator);
    let missing = |digests: &[[u8; 32]]| Reply::Missing(digests.to_vec());
    // Wrong bytes.
    world.done(session, &Request::BlobPut { digest: [5; 32], length: 10, resume: false });
    world.send_data(session, &[1; 10]);
    assert_eq!(world.outcome(session).unwrap_err().code, Code::Integrity);
    assert_eq!(world.hypervisor.domains(), 0, "nothing is left behind");
    // More bytes than announced.
    world.done(session, &Request::BlobPut { digest: [5; 32], length: 10, resume: false });
    world.send_data(session, &[1; 11]);
    assert_eq!(world.outcome(session).unwrap_err().code, Code::Integrity);
    // Unasked bytes are nobody's.
    world.send_data(session, &[1; 40_000]);
    for (length, code) in [(0, Code::Usage), (1 << 30, Code::Usage), (513 << 20, Code::Usage)] {
        let request = Request::BlobPut { digest: [5; 32], length, resume: false };
        assert_eq!(world.refused(session, &request).code, code);
    }
    assert_eq!(world.hypervisor.domains(), 0);
    let digest = world.upload(session, &[8; 100_000]);
    let asked = Request::BlobMissing(vec![digest, [5; 32]]);
    assert_eq!(world.done(session, &asked), missing(&[[5; 32]]));
    world.upload(session, &[8; 100_000]);
    assert_eq!(world.hypervisor.domains(), 1, "kept once");
}

#[test]
fn old_blobs_make_room_and_needed_ones_stay() {
    let mut world = World::new(6);
    let (session, machine) = world.ready();
    world.create(session, &machine);
    for number in 0..40u8 {
        world.upload(session, &[number; 10]);
    }
    assert!(world.hypervisor.domains() <= crate::limits::BLOBS_MAX + 1);
    assert_eq!(world.done(session, &Request::BlobMissing(vec![machine.kernel])), Reply::Missing(vec![]));
    // What is asked about is answered, all of it or nothing.
    let many: Vec<_> = (0..65).map(|number| [number; 32]).collect();
    assert_eq!(
        world.done(session, &Request::BlobMissing(many[..64].to_vec())),
        Reply::Missing(many[..64].to_vec())
    );
    let failure = world.refused(session, &Request::BlobMissing(many));
    assert!(failure.code == Code::Usage && failure.message.contains("64 at once"), "{failure}");
}

#[test]
fn large_uploads_do_not_stall() {
    let mut world = World::new(7);
    let session = world.connect(Who::Operator);
    let started_ns = world.now_ns;
    for length in [1_000_000, 65_536, 65_535, 131_072, 32_768 * 3 + 17] {
        let file: Vec<u8> = (0..length).map(|_| world.random.byte()).collect();
        world.upload(session, &file);
    }
    let took_ms = (world.now_ns - started_ns) / MS;
    assert!(took_ms < 500, "{took_ms} ms on a wire without delay");
}

#[test]
fn a_half_closed_session_gets_its_answers() {
    let mut world = World::new(8);
    let session = world.connect(Who::Admin);
    world.run(SECOND);
    // Commands and the end of the stream arrive together.
    world.send(session, &Request::NodeStop { power_off: true });
    world.send(session, &Request::NodeStop { power_off: false });
    world.send(session, &Request::List);
    let (connection, now_ns) = (world.sessions[session].connection, world.now_ns);
    let bytes = core::mem::take(&mut world.sessions[session].outgoing);
    assert_eq!(world.operator.write(connection, &bytes), bytes.len());
    world.operator.close(connection, now_ns);
    world.until("its end at the node", |world| world.node.operators.sessions.count() == 0);
    world.run(SECOND);
    assert_eq!(world.hypervisor.machine().resets, [true], "the first counts, once");
}

#[test]
fn many_silent_connections_do_not_lock_operators_out() {
    let mut world = World::new(9);
    for _ in 0..24 {
        let _ = world.operator.connect(NODE_ADDRESS, PORT, TcpOptions::MANAGEMENT);
        world.run(50 * MS);
    }
    assert!(world.node.operators.sessions.count() <= crate::limits::SESSIONS_MAX);
    let started_ns = world.now_ns;
    let session = world.connect(Who::Admin);
    world.done(session, &Request::NodeInfo);
    let took_ms = (world.now_ns - started_ns) / MS;
    assert!(took_ms < 2_000, "{took_ms} ms");
    assert_eq!(world.operator.state(world.sessions[session].connection), ConnectionState::Established);
}

#[test]
fn a_fifth_session_of_a_key_ends_its_idlest() {
    let mut world = World::new(12);
    let admin = world.connect(Who::Admin);
    let sessions: Vec<usize> = (0..4).map(|_| world.connect(Who::Viewer)).collect();
    world.run(SECOND);
    world.done(sessions[0], &Request::NodeInfo);
    let fifth = world.connect(Who::Viewer);
    world.run(100 * MS);
    assert!(world.is_dead(sessions[1]), "the one that was silent longest");
    for session in [admin, sessions[0], sessions[2], sessions[3], fifth] {
        world.done(session, &Request::NodeInfo);
    }
    assert_eq!(world.node.operators.sessions.count(), 5);
}

/// As `xargs -P4 redoubt …` does: none of them is pushed out before its first record.
#[test]
fn an_operator_gives_four_commands_at_once() {
    let mut world = World::new(14);
    let sessions: Vec<usize> = (0..4).map(|_| world.dial(Who::Viewer)).collect();
    world.until("four sessions", |world| {
        sessions.iter().all(|session| matches!(world.sessions[*session].stage, Stage::Open(_)))
    });
    for session in sessions {
        world.done(session, &Request::NodeInfo);
    }
}

#[test]
fn a_session_counts_once_its_first_record_has_come() {
    let mut world = World::new(13);
    // Four that send none, which is all that a key may have.
    for expected in [1, 2, 3, 4, 4] {
        let session = world.dial(Who::Viewer);
        world.until("the node's proof", |world| {
            let session = &mut world.sessions[session];
            let is_proved = matches!(session.stage, Stage::Open(_));
            if is_proved {
                session.outgoing.clear();
            }
            is_proved
        });
        world.run(100 * MS);
        assert_eq!(world.node.operators.sessions.count(), expected);
    }
    assert!(world.is_dead(0) && !world.is_dead(1), "the fifth took the place of the first");
    world.run(4 * SECOND);
    assert_eq!(world.node.operators.sessions.count(), 4);
    world.run(2 * SECOND);
    assert_eq!(world.node.operators.sessions.count(), 0);
}

#[test]
fn a_guest_is_shown_as_it_was_created_without_its_secrets() {
    let mut world = World::new(11);
    let (session, mut machine) = world.ready();
    machine.disks = vec![Disk { volume: "aoe:e7.1".to_string(), read_only: true }];
    world.aoe.push(AoeTarget::new(7, 1, 64));
    let set = vec![DiskSetting::DeadlineMs(300), DiskSetting::Station(world.aoe[0].mac)];
    let settings = GuestSettings { limits: vec![Limit::OperationsPerSecond(9)], disks: vec![set] };
    let create = Request::Create {
        machine: machine.clone(),
        settings: settings.clone(),
        paused: false,
        autostart: None,
    };
    world.done(session, &create);
    let viewer = world.connect(Who::Viewer);
    let show = |name: &str| Request::GuestShow { name: name.to_string() };
    let Reply::Guest(shown) = world.done(viewer, &show("web")) else { panic!("no guest") };
    assert_eq!((shown.order, &shown.machine, &shown.settings), (None, &machine, &settings));
    assert!(shown.secrets_left_out.is_empty());
    let secret = DiskSetting::Secret(Secret::new(b"open sesame".to_vec()));
    world.node.guests.list[0].settings.disks[0].push(secret);
    let Reply::Guest(shown) = world.done(viewer, &show("web")) else { panic!("no guest") };
    assert_eq!((shown.settings, shown.secrets_left_out), (settings, vec![0]));
    assert_eq!(world.refused(viewer, &show("other")).code, Code::NotFound);
}
