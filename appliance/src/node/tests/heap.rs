//! What a node takes of its heap: never more than its ledger says, and never all of it.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use mgmt_proto::code::Code;
use mgmt_proto::limits::{DISKS, NETWORK_CARDS};
use mgmt_proto::machine::{Disk, Machine, NetworkCard};
use mgmt_proto::verb::{Discover, Reply, Request, State};
use netstack::host::TcpOptions;

use super::driver::Device;
use super::targets::{AoeTarget, IscsiTarget};
use super::world::*;
use crate::ledger::HEAP_BYTES;
use machine::devices::virtio::test_driver::{INDIRECT, NEXT, WRITE, put_descriptor};
use machine::guest_memory::FakeMemory;

/// A disk that nothing else uses.
fn iscsi_disk(number: usize) -> Disk {
    // The operator's machine is a portal as well, which takes connections and says nothing.
    Disk { volume: format!("iscsi://10.0.0.2/iqn.2026-01.org.example:disk{number}/0"), read_only: false }
}

/// A guest with all of its disks over AoE and all of its cards.
fn wide(world: &mut World, machine: &Machine, number: u8) -> Machine {
    let mut machine = sibling(machine, &format!("wide{number}"), 0);
    let slots = 0..u8::try_from(DISKS).unwrap();
    let volume = |slot: u8| format!("aoe:e{number}.{slot}");
    machine.disks = slots.clone().map(|slot| Disk { volume: volume(slot), read_only: false }).collect();
    for slot in slots {
        world.aoe.push(AoeTarget::new(number.into(), slot, 4096));
    }
    let cards = 0..u8::try_from(NETWORK_CARDS).unwrap();
    machine.network_cards = cards.map(|card| NetworkCard::plain([2, 0x11, number, 0, 0, card])).collect();
    machine
}

/// Fills a disk's ring: as many requests as it takes, each scattered as far as it goes.
pub(super) fn fill(memory: &FakeMemory, disk: &mut Device, pieces: u16, reads: bool) {
    const TABLES: u64 = 0xc0_0000;
    const HEADERS: u64 = 0x180_0000;
    const DATA: u64 = 0x1c0_0000;
    let index = disk.index() as u64;
    let ring = &mut disk.driver.rings[0];
    for head in 0..ring.size {
        let slot = index * u64::from(ring.size) + u64::from(head);
        let (table, header) = (TABLES + slot * 16 * 132, HEADERS + slot * 32);
        memory.put(header, &u32::from(!reads).to_le_bytes());
        memory.put(header + 8, &(u64::from(head) * 8).to_le_bytes());
        put_descriptor(memory, table, (header, 16, NEXT, 1));
        for piece in 1..=pieces {
            let at = table + u64::from(piece) * 16;
            let flags = if reads { NEXT | WRITE } else { NEXT };
            put_descriptor(memory, at, (DATA, 512, flags, piece + 1));
        }
        put_descriptor(memory, table + u64::from(pieces + 1) * 16, (header + 24, 1, WRITE, 0));
        let length = u32::from(pieces + 2) * 16;
        ring.describe(memory, head, (table, length, INDIRECT, 0));
        ring.publish(memory, head);
    }
}

#[test]
fn a_guest_takes_no_more_than_its_ledger_says() {
    let mut world = World::new(71);
    let (session, machine) = world.ready();
    let machine = wide(&mut world, &machine, 1);
    world.heap.peak = world.heap.bytes;
    let (before, promised_before) = (world.heap.bytes, world.node.heap_promised());
    let domain = world.create(session, &machine);
    let promised = world.node.heap_promised() - promised_before;
    // All of its targets fall silent, and it asks for all that it can.
    world.aoe.iter_mut().for_each(|target| target.up = false);
    let mut disks: Vec<Device> = (0..DISKS).map(|disk| world.bring_up_sized(domain, disk, 256)).collect();
    for (index, disk) in disks.iter_mut().enumerate() {
        let memory = world.hypervisor.domain(domain).memory.clone();
        // Few long requests, or many short ones.
        fill(&memory, disk, if index % 2 == 0 { 126 } else { 1 }, false);
        drop(memory);
        world.ring(disk, 0);
    }
    for line in 0..4_000 {
        for byte in format!("{line}: the guest prints\n").bytes() {
            world.events.push(hv_abi::event::Event {
                kind: hv_abi::event::EXIT,
                domain,
                access: hv_abi::event::ACCESS_PORT_WRITE,
                width: 1,
                address: 0x3f8,
                value: byte.into(),
                ..Default::default()
            });
        }
        if line % 5 == 0 {
            world.turn();
        }
    }
    world.run(20 * SECOND);
    let taken = usize::try_from(world.heap.peak - before).unwrap();
    std::println!("a guest: {taken} bytes at most, {promised} promised");
    assert!(taken <= promised, "{taken} bytes were taken, {promised} promised");
    // And the ledger does not say much more than a guest can take.
    assert!(taken * 4 > promised, "{taken} bytes were taken, {promised} promised");
    world.done(session, &Request::Destroy { name: machine.name });
    world.run(SECOND);
    let left = world.heap.bytes - before;
    assert!(left < 64 * 1024, "{left} bytes are left of a guest that is gone");
}

#[test]
fn a_guest_for_which_there_is_no_memory_in_dom0_is_refused() {
    let mut world = World::new(72);
    let (session, machine) = world.ready();
    world.hypervisor.machine().memory_free_bytes = 64 << 30;
    let mut count = 0;
    let failure = loop {
        count += 1;
        let machine = Machine { memory_bytes: 18 * MIB, ..wide(&mut world, &machine, count) };
        let machine = Machine { network_cards: machine.network_cards[..1].to_vec(), ..machine };
        match world.ask(session, &Request::create(machine)) {
            Ok(Reply::Created(_)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(failure) => break failure,
        }
        assert!(world.heap.peak < i64::try_from(HEAP_BYTES).unwrap());
    };
    let text = failure.to_string();
    assert_eq!(failure.code, Code::Capacity, "{text}");
    assert!(text.contains("KiB of dom0's own memory are needed") && text.contains("are free"), "{text}");
    assert!(text.contains("destroy a guest"), "{text}");
    assert!(count > 10, "there is room for {count} guests with eight disks");
    assert!(world.node.heap_promised() <= HEAP_BYTES);
    // Nothing is left of it, and when another one is gone there is room.
    assert_eq!(world.node.guests.list.len(), usize::from(count) - 1);
    world.done(session, &Request::Destroy { name: "wide1".to_string() });
    let again = Machine { memory_bytes: 18 * MIB, ..wide(&mut world, &machine, count + 1) };
    let again = Machine { network_cards: again.network_cards[..1].to_vec(), ..again };
    world.create(session, &again);
}

#[test]
fn volumes_and_strangers_keep_no_admin_out() {
    let mut world = World::new(73);
    let (session, machine) = world.ready();
    let small = TcpOptions { receive_bytes: 4096, transmit_bytes: 4096, ..TcpOptions::STORAGE };
    world.operator.listen(3260, 8, small).unwrap();
    world.iscsi = Some(IscsiTarget::new(64));
    // 24 volumes, whose targets take connections and never answer.
    for guest in 0..3 {
        let mut machine = sibling(&machine, &format!("web{guest}"), guest);
        machine.disks = (0..DISKS).map(|disk| iscsi_disk(usize::from(guest) * DISKS + disk)).collect();
        let operator = world.connect(Who::Operator);
        world.send(operator, &Request::create(machine));
        world.run(SECOND / 10);
        while world.operator.accept(3260).is_some() {}
    }
    let used = world.node.network.stacks.first.buffer_bytes();
    assert_eq!(used, 24 * TcpOptions::STORAGE.bytes(), "all of them have a connection");
    // One more is refused, with the numbers.
    let mut more = sibling(&machine, "more", 9);
    more.disks = alloc::vec![iscsi_disk(99)];
    let failure = world.refused(session, &Request::create(more));
    let text = failure.to_string();
    assert_eq!(failure.code, Code::Capacity);
    assert!(text.contains("1 iSCSI disks are asked for, 0 of 24 are free"), "{text}");
    // Strangers who connect and say nothing.
    for _ in 0..4 {
        world.operator.connect(NODE_ADDRESS, PORT, TcpOptions::MANAGEMENT).unwrap();
    }
    world.run(SECOND / 10);
    // An admin gets in at once all the same, and can ask what goes on.
    let begun_ns = world.now_ns;
    let admin = world.connect(Who::Admin);
    assert!(matches!(world.done(admin, &Request::NodeInfo), Reply::Node(_)));
    assert!(world.now_ns - begun_ns < 2 * SECOND, "it took {} ns", world.now_ns - begun_ns);
    // A question to a target finds buffers too.
    let portal =
        Request::StorageDiscover(Discover::Iscsi { portal: "10.0.0.3".to_string(), settings: Vec::new() });
    assert!(matches!(world.done(admin, &portal), Reply::Found(_)));
    assert_eq!(world.facts(admin, "web0").unwrap().state, State::Connecting);
}
