//! Guests without disks: how they begin, what is asked of them, how they end.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use hv_abi::domain::{STATE_PAUSED, STATE_RUNNING};
use hv_abi::event::{self, Event};
use mgmt_proto::code::Code;
use mgmt_proto::machine::{Action, Disk};
use mgmt_proto::verb::{Reply, Request, State};

use super::world::*;
use machine::layout::{BOOT_PARAMETERS, PANIC_PORT, RESET_PORT, SLEEP_CONTROL_PORT, UART_PORT};

const OFF: u64 = 0x20 | 5 << 2;

#[test]
fn one_session_types_and_any_number_reads() {
    let mut world = World::new(41);
    let (first, machine) = world.ready();
    world.create(first, &machine);
    let second = world.connect(Who::Operator);
    let write = || Request::ConsoleWrite { name: "web".to_string(), bytes: vec![b'x'] };
    let read = || Request::ConsoleRead { name: "web".to_string(), from: 0 };
    world.done(first, &write());
    let failure = world.refused(second, &write());
    assert!(failure.code == Code::Conflict && failure.message.contains("another session"), "{failure}");
    world.done(second, &read());
    world.done(first, &read());
    world.done(first, &write());
    // It rests, and the other one types.
    world.run(11 * SECOND);
    world.done(second, &write());
    assert_eq!(world.refused(first, &write()).code, Code::Conflict);
    // Or it leaves.
    let (connection, now_ns) = (world.sessions[second].connection, world.now_ns);
    world.operator.abort(connection, now_ns);
    world.run(SECOND / 10);
    world.done(first, &write());
}

#[test]
fn entropy_comes_from_the_generator_of_dom0() {
    let mut world = World::new(47);
    let (session, machine) = world.ready();
    let domain = world.create(session, &machine);
    // The console, then entropy.
    let device = machine.disks.len() + machine.network_cards.len() + 1;
    let mut entropy = world.bring_up(domain, device);
    let memory = world.hypervisor.domain(domain).memory.clone();
    let mut before = vec![0; 32];
    for _ in 0..3 {
        entropy.driver.rings[0].push(&memory, &[(0x80_0000, 32, true)]);
        world.ring(&entropy, 0);
        world.run(MS);
        assert_eq!(entropy.driver.rings[0].take_used(&memory).map(|(_, length)| length), Some(32));
        let bytes = memory.bytes(0x80_0000, 32);
        assert_ne!(bytes, before);
        assert_eq!(world.hypervisor.machine().random_given, bytes);
        before = bytes;
    }
}

#[test]
fn a_guest_is_created_watched_and_destroyed() {
    let mut world = World::new(11);
    let (session, machine) = world.ready();
    let before_ns = world.now_ns;
    let domain = world.create(session, &machine);
    assert!(world.now_ns - before_ns < 10 * MS, "accepted to running");
    {
        let guest = world.hypervisor.domain(domain);
        assert_eq!((guest.state, guest.spec.memory_bytes, guest.spec.weight), (STATE_RUNNING, 32 * MIB, 256));
        let vcpu = guest.vcpu.unwrap();
        assert_eq!((vcpu.rip, vcpu.rsi), (16 * MIB + 0x200, BOOT_PARAMETERS));
        assert_eq!(guest.memory.bytes(16 * MIB, 16), [0xa5; 16]);
    }
    let facts = world.facts(session, "web").unwrap();
    assert_eq!((facts.id, facts.state), (domain, State::Running));
    let name = || "web".to_string();
    world.done(session, &Request::Pause { name: name() });
    assert_eq!(world.hypervisor.domain(domain).state, STATE_PAUSED);
    assert_eq!(world.facts(session, "web").unwrap().state, State::Paused);
    assert_eq!(world.refused(session, &Request::Pause { name: name() }).code, Code::Conflict);
    world.done(session, &Request::Unpause { name: name() });
    assert_eq!(world.refused(session, &Request::Unpause { name: name() }).code, Code::Conflict);
    assert_eq!(world.facts(session, "web").unwrap().state, State::Running);
    world.done(session, &Request::Shutdown { name: name() });
    world.done(session, &Request::Destroy { name: name() });
    assert_eq!(world.facts(session, "web"), Err(Code::NotFound));
    assert_eq!(world.refused(session, &Request::Destroy { name: name() }).code, Code::NotFound);
    assert_eq!(world.hypervisor.domains(), 1, "only the kernel is left");
}

#[test]
fn a_guest_may_be_created_paused() {
    let mut world = World::new(12);
    let (session, machine) = world.ready();
    world.done(session, &super::create_paused(machine));
    assert_eq!(world.facts(session, "web").unwrap().state, State::Paused);
    world.done(session, &Request::Unpause { name: "web".to_string() });
    assert_eq!(world.facts(session, "web").unwrap().state, State::Running);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let mut world = World::new(13);
    let (session, machine) = world.ready();
    let first = sibling(&machine, "first", 1);
    world.create(session, &first);
    let text = world.upload(session, b"this is a text and no kernel, however long it may be");
    let create = |machine: &mgmt_proto::machine::Machine| Request::create(machine.clone());
    let mut large = machine.clone();
    large.memory_bytes = 4096 * MIB;
    let mut no_kernel = machine.clone();
    no_kernel.kernel = text;
    let mut unknown = machine.clone();
    unknown.kernel = [3; 32];
    let mut nameless = machine.clone();
    nameless.name.clear();
    let mut own_mac = sibling(&machine, "other", 7);
    own_mac.network_cards[0].mac = NODE_MAC;
    let mut odd_disk = machine.clone();
    odd_disk.disks = vec![Disk { volume: "floppy:a".to_string(), read_only: false }];
    for (machine, code, words) in [
        (sibling(&machine, "first", 2), Code::Conflict, "name exists"),
        (sibling(&machine, "second", 1), Code::Conflict, "guest first has the same MAC"),
        (own_mac, Code::Conflict, "the node itself has the same MAC"),
        (large, Code::Capacity, "4096 MiB"),
        (no_kernel, Code::Usage, "kernel"),
        (unknown, Code::NotFound, "kernel"),
        (nameless, Code::Usage, "name"),
        (odd_disk, Code::Usage, "floppy:a"),
    ] {
        let checked = world.refused(session, &Request::check(machine.clone()));
        let failure = world.refused(session, &create(&machine));
        assert_eq!(checked, failure, "check says what create says");
        assert!(failure.code == code && failure.to_string().contains(words), "{failure}");
        assert_eq!(failure.object, machine.name);
    }
    assert_eq!(world.hypervisor.guests().len(), 1);
    // The hypervisor may still say no, after the check.
    world.hypervisor.machine().refuse_creations = 1;
    assert_eq!(world.refused(session, &create(&machine)).code, Code::Capacity);
    world.create(session, &machine);
}

#[test]
fn a_volume_that_is_written_has_one_user() {
    let mut world = World::new(14);
    let (session, machine) = world.ready();
    let disk = |volume: &str, read_only| Disk { volume: volume.to_string(), read_only };
    let with = |name: &str, disks: &[Disk]| {
        let mut other = machine.clone();
        other.name = name.to_string();
        other.disks = disks.to_vec();
        Request::create(other)
    };
    world.aoe.push(super::targets::AoeTarget::new(1, 1, 16));
    world.done(session, &with("one", &[disk("aoe:e1.1", false)]));
    for (volume, read_only) in [("aoe:e1.1", true), ("aoe:e01.1", false), ("aoe:e1.01", true)] {
        let failure = world.refused(session, &with("two", &[disk(volume, read_only)]));
        assert!(failure.code == Code::Conflict && failure.message.contains("one uses"), "{failure}");
    }
    let twice = [disk("aoe:e2.1", false), disk("aoe:e2.1", false)];
    assert_eq!(world.refused(session, &with("two", &twice)).code, Code::Conflict);
    world.done(session, &Request::Destroy { name: "one".to_string() });
    world.done(session, &with("two", &[disk("aoe:e1.1", true)]));
    world.done(session, &with("three", &[disk("aoe:e1.1", true)]));
}

#[test]
fn the_console_is_read_and_written() {
    let mut world = World::new(15);
    let (session, machine) = world.ready();
    let domain = world.create(session, &machine);
    for byte in b"hello" {
        world.port_write(domain, UART_PORT, u64::from(*byte));
    }
    let read = |from| Request::ConsoleRead { name: "web".to_string(), from };
    let Reply::Stream(stream) = world.done(session, &read(0)) else { panic!() };
    assert_eq!((stream.bytes.as_slice(), stream.next), (&b"hello"[..], 5));
    let write = |bytes: &[u8]| Request::ConsoleWrite { name: "web".to_string(), bytes: bytes.to_vec() };
    world.done(session, &write(b"x"));
    world.access(domain, event::ACCESS_PORT_READ, u64::from(UART_PORT), 1, 0);
    assert_eq!(world.hypervisor.domain(domain).answers.last(), Some(&(0, u64::from(b'x'))));
    let failure = world.refused(session, &write(&[7; 4096]));
    assert!(failure.code == Code::Partial && failure.message.contains("of 4096"), "{failure}");
    // More than one request takes is not taken by half.
    for length in [4097, 16_000] {
        let failure = world.refused(session, &write(&vec![7; length]));
        assert!(failure.code == Code::Usage && failure.message.contains("4096 at once"), "{failure}");
    }
    // A guest's own reset keeps what it printed.
    world.port_write(domain, RESET_PORT, 6);
    let Reply::Stream(stream) = world.done(session, &read(2)) else { panic!() };
    assert_eq!(stream.bytes, b"llo");
}

#[test]
fn a_guest_that_ends_gets_what_its_description_says() {
    let mut world = World::new(16);
    let (session, machine) = world.ready();
    for action in [Action::Destroy, Action::Restart, Action::Preserve] {
        for cause in 0..5 {
            let mut machine = machine.clone();
            (machine.on_poweroff, machine.on_reboot, machine.on_crash) = (action, action, action);
            let domain = world.create(session, &machine);
            match cause {
                0 => world.port_write(domain, SLEEP_CONTROL_PORT, OFF),
                1 => world.port_write(domain, RESET_PORT, 6),
                2 => world.port_write(domain, PANIC_PORT, 1),
                _ => {
                    if cause == 3 {
                        // No reset, but the guest takes what comes next for one.
                        world.port_write(domain, RESET_PORT, 7);
                    }
                    world.hypervisor.crash(domain);
                    world.events.push(Event { kind: event::DOMAIN, domain, ..Event::default() });
                    world.run(MS);
                }
            }
            let facts = world.facts(session, "web");
            match action {
                Action::Destroy => assert_eq!(facts, Err(Code::NotFound)),
                Action::Restart => {
                    let facts = facts.unwrap();
                    assert_eq!(facts.state, State::Running);
                    assert_ne!(facts.id, domain, "a fresh domain");
                    assert_eq!(world.hypervisor.guests(), [facts.id]);
                }
                Action::Preserve => {
                    let expected = if matches!(cause, 2 | 4) { State::Crashed } else { State::Off };
                    assert_eq!(facts.unwrap().state, expected);
                    assert_eq!(world.hypervisor.guests(), [], "its memory is given back");
                    // A stale event of its domain is nobody's.
                    world.port_write(domain, RESET_PORT, 6);
                    world.done(session, &Request::Reboot { name: "web".to_string() });
                    assert_eq!(world.facts(session, "web").unwrap().state, State::Running);
                }
            }
            let _ = world.ask(session, &Request::Destroy { name: "web".to_string() });
            assert_eq!(world.hypervisor.domains(), 1);
        }
    }
}

#[test]
fn a_guest_that_cannot_start_again_is_kept() {
    let mut world = World::new(17);
    let (session, machine) = world.ready();
    let domain = world.create(session, &machine);
    world.hypervisor.machine().refuse_creations = 1;
    world.port_write(domain, RESET_PORT, 6);
    assert_eq!(world.facts(session, "web").unwrap().state, State::Crashed);
    assert!(world.hypervisor.machine().log.join("\n").contains("guest web: NoMemory { wanted_mib: 32,"));
    world.done(session, &Request::Reboot { name: "web".to_string() });
    assert_eq!(world.facts(session, "web").unwrap().state, State::Running);
}

#[test]
fn nothing_happens_means_nothing_runs() {
    let mut world = World::new(18);
    let (session, machine) = world.ready();
    for number in 1..4 {
        let machine = sibling(&machine, &alloc::format!("guest{number}"), number);
        world.create(session, &machine);
    }
    world.run(SECOND);
    let before = world.turns;
    world.run(30 * SECOND);
    assert!(world.turns - before < 60, "{} turns", world.turns - before);
}

#[test]
fn a_guest_that_keeps_failing_is_restarted_ever_more_slowly() {
    let mut world = World::new(27);
    let (mut session, machine) = world.ready();
    let mut machine = sibling(&machine, "loop", 1);
    machine.on_crash = Action::Restart;
    world.create(session, &machine);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let id = world.facts(session, "loop").unwrap().id;
        world.hypervisor.crash(id);
        let crashed_ns = world.now_ns;
        world.events.push(Event { kind: event::DOMAIN, domain: id, ..Event::default() });
        // The old domain goes at once, the new one comes after the pause.
        while !world.hypervisor.guests().iter().any(|guest| *guest != id) {
            world.run(SECOND / 2);
            assert!(world.now_ns - crashed_ns < 100 * SECOND, "not started again");
        }
        pauses.push((world.now_ns - crashed_ns) / SECOND);
        session = world.connect(Who::Admin);
    }
    assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
    // An operator who asks does not wait.
    let id = world.facts(session, "loop").unwrap().id;
    world.done(session, &Request::Reboot { name: "loop".to_string() });
    world.run(SECOND);
    assert_ne!(world.facts(session, "loop").unwrap().id, id);
}
