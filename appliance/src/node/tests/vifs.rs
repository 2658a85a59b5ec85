//! What guests' cards may beyond plain ones: as their owner grants it, and no more.

use alloc::string::ToString as _;
use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use mgmt_proto::bundle::Scope;
use mgmt_proto::code::Code;
use mgmt_proto::facts::DropReason;
use mgmt_proto::handshake::GREETING_BYTES;
use mgmt_proto::machine::{Disk, Machine};
use mgmt_proto::manifest::Addressing;
use mgmt_proto::verb::{Reply, Request, State};
use mgmt_proto::vif::{CardGrant, Privileges};
use netstack::host::{ConnectionState, Host, TcpOptions};
use netstack::limits::HOST_ATTACHED_SOCKETS_MAX;
use netstack::offload::Offload;

use super::driver::Device;
use super::targets::{IscsiTarget, stack};
use super::trust::{bundle, everybody, rooted, update};
use super::world::*;
use crate::limits::PORT_BURST_BYTES_MIN;

const ALL: [u8; 6] = [0xff; 6];
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 77);

fn everything() -> Privileges {
    Privileges {
        macs: 2,
        vrrp: vec![51],
        router: true,
        dhcp_server: true,
        trunk: vec![100],
        management: true,
    }
}

/// What guests called `fw` and something may.
fn grants() -> Vec<CardGrant> {
    let guests = Scope::Named(vec!["fw*".to_string()]);
    vec![CardGrant { nodes: Scope::All, guests, privileges: everything() }]
}

/// A guest whose card has an address and asks for something.
fn asking(machine: &Machine, name: &str, last: u8, privileges: Privileges) -> Machine {
    let mut machine = sibling(machine, name, last);
    machine.network_cards[0].addresses = vec!["10.0.0.77".parse().unwrap()];
    machine.network_cards[0].privileges = privileges;
    machine
}

fn create(machine: &Machine) -> Request {
    Request::create(machine.clone())
}

/// An ARP request that says where the guest is.
fn claim(mac: [u8; 6], address: [u8; 4]) -> Vec<u8> {
    let target = [10, 0, 0, 2];
    [&ALL[..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac, &address, &[0; 6], &target].concat()
}

fn left(world: &mut World, card: &mut Device, frame: &[u8]) -> bool {
    world.wire.clear();
    world.send_frame(card, frame);
    world.wire.iter().any(|sent| sent == frame)
}

fn dropped(world: &mut World, session: usize, name: &str, reason: DropReason) -> u64 {
    let facts = world.facts(session, name).unwrap();
    facts.drops.iter().find(|(it, _)| *it == reason).map_or(0, |(_, count)| *count)
}

#[test]
fn nothing_is_had_without_a_grant() {
    let mut settings = settings();
    settings.manifest.card_grants = grants();
    let mut world = World::with(70, settings);
    let (session, machine) = world.ready();
    for (privileges, words) in [
        (Privileges { macs: 1, ..Privileges::default() }, "macs = 1"),
        (Privileges { vrrp: vec![51], ..Privileges::default() }, "vrrp = [51]"),
        (Privileges { router: true, ..Privileges::default() }, "router"),
        (Privileges { dhcp_server: true, ..Privileges::default() }, "dhcp_server"),
        (Privileges { trunk: vec![100], ..Privileges::default() }, "trunk = [100]"),
        (Privileges { management: true, ..Privileges::default() }, "management"),
    ] {
        let failure = world.refused(session, &create(&asking(&machine, "web2", 1, privileges)));
        let expected = alloc::format!("vif 0 asks for {words}, which the owner has not granted");
        assert_eq!((failure.code, failure.message), (Code::Policy, expected));
        assert_eq!(failure.object, "web2");
    }
    let beyond = Privileges { trunk: vec![101], ..everything() };
    let failure = world.refused(session, &create(&asking(&machine, "fw1", 1, beyond)));
    assert!(failure.message.contains("trunk = [101]"), "{failure}");
    world.create(session, &asking(&machine, "fw1", 1, everything()));
}

#[test]
fn a_bundle_grants_and_takes_back() {
    let mut world = rooted(71);
    let (session, machine) = world.ready();
    let firewall = asking(&machine, "fw1", 1, Privileges { management: false, ..everything() });
    assert_eq!(world.refused(session, &create(&firewall)).code, Code::Policy);
    let mut next = bundle(1, everybody());
    next.card_grants = grants();
    world.done(session, &update(&next, &[1]));
    let domain = world.create(session, &firewall);
    let mut card = world.bring_up(domain, 0);
    let nested = claim([2, 0, 0, 0, 7, 7], GUEST.octets());
    let mut tagged = claim(guest_mac(1), GUEST.octets());
    tagged.splice(12..12, [0x81, 0, 0, 100]);
    let router = claim([0, 0, 0x5e, 0, 1, 51], GUEST.octets());
    for frame in [&nested, &tagged, &router] {
        assert!(left(&mut world, &mut card, frame));
    }
    // The next one does not: what runs may it no longer.
    world.done(session, &update(&bundle(2, everybody()), &[1]));
    world.run(SECOND);
    for frame in [&nested, &tagged, &router] {
        assert!(!left(&mut world, &mut card, frame));
    }
    assert!(left(&mut world, &mut card, &claim(guest_mac(1), GUEST.octets())));
    assert_eq!(dropped(&mut world, session, "fw1", DropReason::SourceMac), 2);
    assert_eq!(dropped(&mut world, session, "fw1", DropReason::Tagged), 1);
}

#[test]
fn a_card_with_addresses_has_no_others() {
    let mut settings = settings();
    settings.manifest.guest_addresses_required = true;
    let mut world = World::with(72, settings);
    let (session, machine) = world.ready();
    let failure = world.refused(session, &create(&sibling(&machine, "free", 2)));
    assert!(failure.code == Code::Usage && failure.message.contains("no ip"), "{failure}");
    let domain = world.create(session, &asking(&machine, "bound", 1, Privileges::default()));
    let mut card = world.bring_up(domain, 0);
    assert!(left(&mut world, &mut card, &claim(guest_mac(1), GUEST.octets())));
    assert!(left(&mut world, &mut card, &claim(guest_mac(1), [0; 4])), "a probe");
    assert!(!left(&mut world, &mut card, &claim(guest_mac(1), [10, 0, 0, 78])));
    assert_eq!(dropped(&mut world, session, "bound", DropReason::Address), 1);
    // A restart keeps them.
    world.done(session, &Request::Reboot { name: "bound".to_string() });
    world.run(SECOND);
    let domain = world.hypervisor.guests()[0];
    let mut card = world.bring_up(domain, 0);
    assert!(!left(&mut world, &mut card, &claim(guest_mac(1), [10, 0, 0, 78])));
}

#[test]
fn no_guest_is_to_be_what_the_node_depends_on() {
    let mut settings = settings();
    let gateway = Some([10, 0, 0, 254]);
    let address = NODE_ADDRESS.octets();
    settings.manifest.addressing = Addressing::Static { address, prefix: 24, gateway };
    let mut world = World::with(73, settings);
    let (session, machine) = world.ready();
    world.iscsi = Some(IscsiTarget::new(64));
    let mut victim = sibling(&machine, "victim", 2);
    let volume = "iscsi://10.0.0.3/iqn.t:x/1".to_string();
    victim.disks = vec![Disk { volume, read_only: false }];
    world.create(session, &victim);
    for (address, words) in [
        ("10.0.0.1", "vif 0 is to have 10.0.0.1, which is the node's own"),
        ("10.0.0.254", "vif 0 is to have 10.0.0.254, which is the gateway's"),
        ("10.0.0.3", "vif 0 is to have 10.0.0.3, which is an iSCSI portal's"),
    ] {
        let mut attacker = sibling(&machine, "attacker", 1);
        attacker.network_cards[0].addresses = vec![address.parse().unwrap()];
        let failure = world.refused(session, &create(&attacker));
        assert!(failure.code == Code::Conflict && failure.message.starts_with(words), "{failure}");
    }
    // A range around them is no claim, and gives none.
    let mut ranged = sibling(&machine, "ranged", 1);
    ranged.network_cards[0].addresses = vec!["10.0.0.0/24".parse().unwrap()];
    let domain = world.create(session, &ranged);
    let mut card = world.bring_up(domain, 0);
    assert!(left(&mut world, &mut card, &claim(guest_mac(1), [10, 0, 0, 9])));
    for address in [[10, 0, 0, 1], [10, 0, 0, 254], [10, 0, 0, 3], [10, 0, 0, 2]] {
        assert!(!left(&mut world, &mut card, &claim(guest_mac(1), address)), "{address:?}");
    }
}

/// Moves frames between a guest's own stack and its card for a moment.
fn exchange(world: &mut World, card: &mut Device, host: &mut Host) {
    host.poll(world.now_ns);
    let mut frames = Vec::new();
    collect_whole(host, &mut frames);
    for frame in frames {
        world.send_frame(card, &frame);
    }
    world.run(10 * MS);
    while let Some(frame) = world.take_frame(card) {
        host.receive(&frame, &Offload::Verified, world.now_ns);
        world.offer_buffers(card, 1);
    }
}

/// What a guest's own stack hears at a port of the node.
fn heard(world: &mut World, card: &mut Device, port: u16) -> (ConnectionState, Vec<u8>) {
    let mut host = stack(guest_mac(1), GUEST);
    let options = TcpOptions::MANAGEMENT;
    let connection = host.connect(NODE_ADDRESS, port, options).unwrap();
    let mut bytes = vec![0; 4096];
    let mut length = 0;
    for _ in 0..100 {
        exchange(world, card, &mut host);
        length += host.read(connection, &mut bytes[length..]);
    }
    bytes.truncate(length);
    (host.state(connection), bytes)
}

#[test]
fn a_card_for_management_reaches_that_port_alone() {
    let mut settings = settings();
    settings.manifest.card_grants = grants();
    let mut world = World::with(74, settings);
    let (session, machine) = world.ready();
    let admin = Privileges { management: true, ..Privileges::default() };
    let mut nowhere = asking(&machine, "fw0", 3, admin.clone());
    nowhere.network_cards[0].addresses = vec!["10.0.0.0/24".parse().unwrap()];
    assert!(world.refused(session, &create(&nowhere)).message.contains("no IPv4 address"));
    let domain = world.create(session, &asking(&machine, "fw1", 1, admin.clone()));
    let mut card = world.bring_up(domain, 0);
    world.offer_buffers(&mut card, 64);
    let (state, greeting) = heard(&mut world, &mut card, PORT);
    assert_eq!((state, greeting.len()), (ConnectionState::Established, GREETING_BYTES));
    let known = world.node.network.stacks.first.stations().count();
    let (state, _) = heard(&mut world, &mut card, 3260);
    assert_eq!(state, ConnectionState::Connecting);
    // Nothing was learned of it, and its address stays where it is configured.
    assert_eq!(world.node.network.stacks.first.stations().count(), known);
    let failure = world.refused(session, &create(&asking(&machine, "fw2", 2, admin)));
    assert!(failure.code == Code::Conflict && failure.message.contains("management port"), "{failure}");
    world.done(session, &Request::NodeInfo);
}

#[test]
fn a_guest_manages_the_node_within_a_share_of_its_own() {
    let mut settings = settings();
    settings.manifest.card_grants = grants();
    let mut world = World::with(76, settings);
    let (session, machine) = world.ready();
    let admin = Privileges { management: true, ..Privileges::default() };
    let domain = world.create(session, &asking(&machine, "fw1", 1, admin));
    world.create(session, &sibling(&machine, "other", 2));
    let mut card = world.bring_up(domain, 0);
    world.offer_buffers(&mut card, 64);
    let mut host = stack(guest_mac(1), GUEST);
    let mut inside: Vec<OperatorSession> = (0..6)
        .map(|number| {
            let meant = world.known(Who::Operator);
            OperatorSession::new(&mut host, Who::Operator, Stage::Called(Some(meant), [number; 32]))
        })
        .collect();
    let mut run = |world: &mut World, inside: &mut [OperatorSession], rounds: usize| {
        for _ in 0..rounds {
            inside.iter_mut().for_each(|session| session.exchange(&mut host, None));
            exchange(world, &mut card, &mut host);
        }
    };
    run(&mut world, &mut inside, 200);
    let is_open = |session: &OperatorSession| matches!(session.stage, Stage::Open(_));
    assert_eq!(inside.iter().filter(|it| is_open(it)).count(), HOST_ATTACHED_SOCKETS_MAX);
    // A whole session: a question, and a change.
    let name = "other".to_string();
    let managing = inside.iter().position(is_open).unwrap();
    inside[managing].send(&Request::Info { name: name.clone() });
    run(&mut world, &mut inside, 20);
    let Some(Ok(Reply::Guests(guests))) = inside[managing].outcomes.pop_front() else { panic!("no facts") };
    assert_eq!(guests[0].machine.name, name);
    inside[managing].send(&Request::Pause { name: name.clone() });
    run(&mut world, &mut inside, 20);
    assert_eq!(inside[managing].outcomes.pop_front(), Some(Ok(Reply::Done)));
    // Operators on the wire find room beside all that.
    let other = world.connect(Who::Viewer);
    assert_eq!(world.facts(other, "other").unwrap().state, State::Paused);
    world.done(session, &Request::Unpause { name });
}

#[test]
fn a_plain_card_reaches_no_port_of_the_node() {
    let mut world = World::new(75);
    let (session, machine) = world.ready();
    let domain = world.create(session, &asking(&machine, "fw1", 1, Privileges::default()));
    let mut card = world.bring_up(domain, 0);
    world.offer_buffers(&mut card, 64);
    let (state, greeting) = heard(&mut world, &mut card, PORT);
    assert_eq!((state, greeting), (ConnectionState::Connecting, Vec::new()));
}

/// Frames of 1,000 octets that came out on the wire from a card, whose guest has as many to
/// send as there is room for, within so long.
fn sent_within(world: &mut World, cards: &mut [Device], time_ns: u64) -> Vec<usize> {
    let macs: Vec<[u8; 6]> = cards.iter().map(|card| world.card_mac(card)).collect();
    let mut counts = vec![0; cards.len()];
    let until_ns = world.now_ns + time_ns;
    while world.now_ns < until_ns {
        for (card, mac) in cards.iter_mut().zip(&macs) {
            let memory = world.hypervisor.domain(card.domain).memory.clone();
            let (at, ring) = (0x90_0000, &mut card.driver.rings[1]);
            while ring.take_used(&memory).is_some() {}
            let mut frame = [&[0; 12][..], &OPERATOR_MAC, mac, &[0x88, 0xb5]].concat();
            frame.resize(1_012, 7);
            memory.put(at, &frame);
            for _ in 0..32 {
                if ring.available.wrapping_sub(ring.used) < ring.size {
                    ring.push(&memory, &[(at, 1_012, false)]);
                }
            }
            drop(memory);
            world.ring(card, 1);
        }
        world.run(MS);
        for frame in world.wire.drain(..) {
            if let Some(index) = macs.iter().position(|mac| frame[6..12] == *mac) {
                counts[index] += 1;
            }
        }
        world.to_node.clear();
    }
    counts
}

#[test]
fn a_card_sends_no_more_than_its_rate() {
    let mut world = World::new(96);
    let (session, machine) = world.ready();
    let mut slow = sibling(&machine, "slow", 1);
    slow.network_cards[0].rate = Some(1_000_000);
    let slow = world.create(session, &slow);
    let other = world.create(session, &sibling(&machine, "other", 2));
    let mut cards = [world.bring_up(slow, 0), world.bring_up(other, 0)];
    // What it had saved up, and what it may in a second.
    let burst = usize::try_from(PORT_BURST_BYTES_MIN).unwrap();
    let counts = sent_within(&mut world, &mut cards, SECOND);
    let most = (burst + 1_000_000) / 1_000;
    assert!(counts[0] <= most && counts[0] + 40 >= most, "{counts:?} of {most}");
    assert!(counts[1] > 10 * counts[0], "its neighbour is held to nothing: {counts:?}");
    // From now on as much as comes in, to the frame, and after a pause no more than is saved.
    for _ in 0..3 {
        let counts = sent_within(&mut world, &mut cards, SECOND);
        assert!((960..=1_001).contains(&counts[0]), "{counts:?}");
    }
    world.run(10 * SECOND);
    let counts = sent_within(&mut world, &mut cards, SECOND);
    assert!(counts[0] <= most + 1 && counts[0] + 40 >= most, "{counts:?} of {most}");
    let drops = dropped(&mut world, session, "slow", DropReason::Rate);
    assert!(drops > 1_000 && dropped(&mut world, session, "other", DropReason::Rate) == 0);
}
