//! What the node says of its address, and why it has none.

use alloc::vec::Vec;

use mgmt_proto::manifest::Addressing;

use super::world::*;

fn by_dhcp(seed: u64) -> World {
    let mut settings = settings();
    settings.manifest.addressing = Addressing::Dhcp;
    World::with(seed, settings)
}

fn lines(world: &World, text: &str) -> usize {
    world.hypervisor.machine().log.iter().filter(|line| line.contains(text)).count()
}

#[test]
fn a_lease_that_ends_is_told_of_and_so_is_the_next_one() {
    let mut world = by_dhcp(76);
    world.dhcp = true;
    world.run(5 * SECOND);
    assert_eq!(lines(&world, "info network: reachable at 10.0.0.1:7411"), 1);
    world.dhcp = false;
    world.run(3_700 * SECOND);
    assert_eq!(lines(&world, "the address 10.0.0.1 is gone: the lease of 10.0.0.254 ended"), 1);
    let why = "no address by DHCP: the server 10.0.0.254 answered once and does no longer";
    assert!((1..=3).contains(&lines(&world, why)), "{}", lines(&world, why));
    world.dhcp = true;
    world.run(120 * SECOND);
    assert_eq!(lines(&world, "reachable at 10.0.0.1:7411"), 2);
}

#[test]
fn who_has_no_address_says_what_it_hears() {
    let mut world = by_dhcp(77);
    world.run(15 * SECOND);
    assert_eq!(lines(&world, "warn network: no address by DHCP: no server answered"), 1);
    // Its port on the switch is a trunk.
    let mut answer = Vec::new();
    for request in &world.wire {
        answer = super::dhcp::answer(request, 0).unwrap_or(answer);
    }
    let mut tagged = answer.clone();
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    world.deliver(tagged);
    world.run(60 * SECOND);
    assert_eq!(lines(&world, "1 frames came with a VLAN tag: is the port a trunk?"), 1);
    // It is refused (RFC 2132, 9.6).
    let kind = answer.windows(3).position(|option| option == [53, 1, 2]).unwrap() + 2;
    answer[kind] = 6;
    world.deliver(answer);
    world.run(60 * SECOND);
    assert_eq!(lines(&world, "no address by DHCP: the server 10.0.0.254 refused (DHCPNAK)"), 1);
    assert_eq!(lines(&world, "no address by DHCP"), 3, "a line a minute");
    world.dhcp = true;
    world.run(60 * SECOND);
    assert_eq!(lines(&world, "reachable at"), 1);
}

#[test]
fn behind_a_link_that_is_down_nothing_is_reachable() {
    let mut world = World::new(78);
    world.nic.card().link_down = true;
    world.run(2 * SECOND);
    assert_eq!(lines(&world, "reachable at"), 0);
    assert_eq!(lines(&world, "its link is down"), 1);
    world.nic.card().link_down = false;
    // The card's interrupt.
    world.deliver([0xff; 60].to_vec());
    world.run(2 * SECOND);
    assert_eq!((lines(&world, "its link is up"), lines(&world, "reachable at 10.0.0.1:7411")), (1, 1));
}
