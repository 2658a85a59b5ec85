//! Literal frames, each attack and its harmless neighbour; then seeded mutation.

extern crate std;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::switch::Prefix;

const GUEST: MacAddress = MacAddress([2, 0x11, 0, 0, 0, 1]);
const NODE: [u8; 4] = [10, 0, 0, 1];
const GATEWAY: [u8; 4] = [10, 0, 0, 254];
const PORTAL: [u8; 4] = [10, 0, 0, 3];
const GATEWAY_MAC: MacAddress = MacAddress([0, 0x1b, 0x21, 1, 2, 3]);

fn protected() -> Protected {
    Protected {
        own: vec![NODE.into(), GATEWAY.into()],
        peers: vec![PORTAL.into()],
        stations: vec![GATEWAY_MAC],
    }
}

fn ethernet(ethertype: u16, packet: &[u8]) -> Vec<u8> {
    [&[0xff; 6][..], &GUEST.0, &ethertype.to_be_bytes(), packet].concat()
}

fn arp(operation: u8, hardware: MacAddress, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let packet = [&[0, 1, 8, 0, 6, 4, 0, operation][..], &hardware.0, &sender, &[0; 6], &target].concat();
    ethernet(0x0806, &packet)
}

fn ipv4(source: [u8; 4], protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let [high, low] = fragment.to_be_bytes();
    let [long, short] = ((20 + payload.len()) as u16).to_be_bytes();
    let header = [0x45, 0, long, short, 0, 0, high, low, 64, protocol, 0, 0];
    ethernet(0x0800, &[&header[..], &source, &[10, 0, 0, 9], payload].concat())
}

fn udp(from: u16, to: u16, body: &[u8]) -> Vec<u8> {
    let length = (8 + body.len()) as u16;
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &length.to_be_bytes(), &[0, 0], body].concat()
}

fn boot(operation: u8, client: MacAddress) -> Vec<u8> {
    let mut body = vec![0; 240];
    body[0] = operation;
    body[28..34].copy_from_slice(&client.0);
    body
}

fn ipv6(source: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let source: Ipv6Addr = source.parse().unwrap();
    let header = [0x60, 0, 0, 0, 0, payload.len() as u8, next, 255];
    ethernet(0x86dd, &[&header[..], &source.octets(), &[0xff; 16], payload].concat())
}

fn advertisement(target: &str) -> Vec<u8> {
    let target: Ipv6Addr = target.parse().unwrap();
    [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &target.octets(), &[2, 1], &GUEST.0].concat()
}

fn free(frame: &[u8]) -> Result<(), DropReason> {
    check(GUEST, &Policy::default(), &protected(), frame).map_err(|(reason, _)| reason)
}

/// As a port that was given addresses.
fn bound(addresses: &[(&str, u8)], frame: &[u8]) -> Result<(), DropReason> {
    let addresses = addresses
        .iter()
        .map(|(address, length)| Prefix { address: address.parse().unwrap(), length: *length });
    let policy = Policy { addresses: addresses.collect(), ..Policy::default() };
    check(GUEST, &policy, &protected(), frame).map_err(|(reason, _)| reason)
}

#[test]
fn arp_claims_no_protected_address() {
    for address in [NODE, GATEWAY, PORTAL] {
        // Request, reply, and operations that some receivers take for one (RFC 903, RFC 2390).
        for operation in [1, 2, 3, 4, 8, 9, 0] {
            let frame = arp(operation, GUEST, address, NODE);
            let blocked = check(GUEST, &Policy::default(), &protected(), &frame).unwrap_err();
            assert_eq!(blocked, (DropReason::ArpClaim, Some(IpAddr::from(address))), "{operation}");
        }
    }
    assert_eq!(free(&arp(1, GUEST, [10, 0, 0, 9], NODE)), Ok(()));
    assert_eq!(free(&arp(1, GUEST, [0; 4], NODE)), Ok(()), "a probe");
    assert_eq!(free(&arp(2, GATEWAY_MAC, [10, 0, 0, 9], NODE)), Err(DropReason::ArpClaim));
    assert_eq!(free(&arp(1, GATEWAY_MAC, [0; 4], NODE)), Err(DropReason::ArpClaim));
    let whole = arp(1, GUEST, [10, 0, 0, 9], NODE);
    for length in 14..42 {
        assert_eq!(free(&whole[..length]), Err(DropReason::Malformed), "{length}");
    }
    // Behind a SNAP header it is the same packet, and so is an answer of reverse ARP.
    let mut reverse = arp(3, GUEST, GATEWAY, NODE);
    reverse[12..14].copy_from_slice(&[0x80, 0x35]);
    assert_eq!(free(&reverse), Err(DropReason::ArpClaim));
    reverse[21] = 4;
    assert_eq!(free(&reverse), Err(DropReason::DhcpServer));
}

#[test]
fn packets_behind_snap_headers_are_checked() {
    let snap =
        |length: u16, header: [u8; 6], frame: &[u8]| ethernet(length, &[&header[..], &frame[12..]].concat());
    let aoe = ethernet(0x88a2, &[0; 46]);
    let tagged = ethernet(0x8100, &[0, 5, 8, 0]);
    let rfc1042 = [0xaa, 0xaa, 3, 0, 0, 0];
    for header in
        [rfc1042, [0xaa, 0xaa, 3, 0, 0, 0xf8], [0xab, 0xab, 3, 0, 0, 0], [0xaa, 0xaa, 0x13, 0, 0, 0]]
    {
        // Lengths, what is neither length nor EtherType, and long frames.
        for length in [0, 36, 1500, 1501, 1535, 0x8870] {
            let reason = |frame: &[u8]| free(&snap(length, header, frame)).unwrap_err();
            assert_eq!(reason(&arp(2, GUEST, GATEWAY, NODE)), DropReason::ArpClaim, "{length} {header:x?}");
            assert_eq!(reason(&ipv4(NODE, 6, 0, &[0; 20])), DropReason::Ipv4Claim);
            assert_eq!(reason(&ipv6("fe80::9", 58, &[134; 16])), DropReason::RouterAdvertisement);
            assert_eq!(reason(&aoe), DropReason::AoeFromGuest);
            assert_eq!(reason(&tagged), DropReason::Tagged);
        }
    }
    assert_eq!(free(&snap(36, rfc1042, &arp(1, GUEST, [10, 0, 0, 9], NODE))), Ok(()));
    assert_eq!(free(&ethernet(36, &[0x42, 0x42, 3, 0, 0, 0, 8, 6])), Ok(()), "another header");
}

#[test]
fn what_is_behind_a_packets_end_hides_nothing() {
    // The first fragment of a router advertisement behind a header whose end, and the kind of
    // message after it, are in the frame's padding only.
    let fragment = [60, 0, 0, 1, 0, 0, 0, 1, 58, 1, 0, 0, 0, 0, 0, 0];
    let mut frame = ipv6("fe80::9", 44, &[&fragment[..], &[0; 8], &[128; 8]].concat());
    assert_eq!(free(&frame), Ok(()), "a ping");
    frame[14 + 4..14 + 6].copy_from_slice(&[0, 16]);
    assert_eq!(free(&frame), Err(DropReason::HiddenHeader));
    // The same of a reply to a relay, and of TCP's flags.
    let mut frame = ipv4([10, 0, 0, 9], 17, 0x2000, &udp(67, 67, &boot(1, GUEST)));
    assert_eq!(free(&frame), Ok(()));
    frame[14 + 2..14 + 4].copy_from_slice(&[0, 28]);
    assert_eq!(free(&frame), Err(DropReason::DhcpServer));
    let mut frame = ipv4([10, 0, 0, 9], 6, 0x2000, &[0; 40]);
    frame[14 + 2..14 + 4].copy_from_slice(&[0, 32]);
    assert_eq!(free(&frame), Err(DropReason::HiddenHeader));
    for length in 1..20 {
        frame[14 + 3] = length;
        assert_eq!(free(&frame), Err(DropReason::Malformed), "{length}");
    }
    let v6 = ipv6("fe80::9", 44, &[17, 0, 0, 1, 0, 0, 0, 1, 2, 0x23, 2, 0x23, 0, 64, 0, 0]);
    assert_eq!(free(&v6), Err(DropReason::DhcpServer), "a relay's");
}

#[test]
fn no_virtual_router_has_a_protected_address() {
    let vrrp = |addresses: &[[u8; 4]]| {
        let head = [0x31, 51, 255, addresses.len() as u8, 0, 100, 0, 0];
        free(&ipv4([10, 0, 0, 9], 112, 0, &[&head[..], &addresses.concat()].concat()))
    };
    let hsrp = |at: usize, address: [u8; 4]| {
        let mut body = [0; 44];
        body[at..at + 4].copy_from_slice(&address);
        free(&ipv4([10, 0, 0, 9], 17, 0, &udp(1985, 1985, &body)))
    };
    for address in [NODE, GATEWAY, PORTAL] {
        assert_eq!(vrrp(&[[10, 0, 0, 77], address]), Err(DropReason::Ipv4Claim));
        assert_eq!(
            (hsrp(16, address), hsrp(26, address)),
            (Err(DropReason::Ipv4Claim), Err(DropReason::Ipv4Claim))
        );
    }
    assert_eq!((vrrp(&[[10, 0, 0, 77]]), hsrp(16, [10, 0, 0, 77])), (Ok(()), Ok(())));
    assert_eq!(vrrp(&[[10, 0, 0, 77]; 33]), Err(DropReason::Malformed), "more than are looked at");
}

#[test]
fn no_source_is_a_protected_address() {
    for address in [NODE, GATEWAY, PORTAL] {
        assert_eq!(free(&ipv4(address, 6, 0, &[0; 20])), Err(DropReason::Ipv4Claim));
        assert_eq!(free(&ipv4(address, 17, 100, &[0; 8])), Err(DropReason::Ipv4Claim), "a later fragment");
        let [a, b, c, d] = address;
        let mapped = std::format!("::ffff:{a}.{b}.{c}.{d}");
        assert_eq!(free(&ipv6(&mapped, 59, &[])), Err(DropReason::Ipv6Claim));
    }
    assert_eq!(free(&ipv4([10, 0, 0, 9], 6, 0, &[0; 20])), Ok(()));
    // The gateway's own link-local address, as sender and as target.
    assert_eq!(free(&ipv6("fe80::21b:21ff:fe01:203", 59, &[])), Err(DropReason::Ipv6Claim));
    let claim = advertisement("fe80::21b:21ff:fe01:203");
    assert_eq!(free(&ipv6("fe80::9", 58, &claim)), Err(DropReason::Ipv6Claim));
    assert_eq!(free(&ipv6("fe80::9", 58, &advertisement("fe80::9"))), Ok(()));
}

#[test]
fn an_assigned_address_wins_over_peers_only() {
    for (address, passes) in [(PORTAL, true), (NODE, false), (GATEWAY, false)] {
        let text = Ipv4Addr::from(address).to_string();
        let given = [(text.as_str(), 32)];
        assert_eq!(bound(&given, &arp(2, GUEST, address, NODE)).is_ok(), passes);
        assert_eq!(bound(&given, &ipv4(address, 6, 0, &[0; 20])).is_ok(), passes);
    }
}

#[test]
fn a_port_with_addresses_has_no_others() {
    let given = [("10.0.0.8", 30), ("2001:db8::", 64)];
    for last in 0..=255u8 {
        let inside = (8..12).contains(&last);
        let passes = |frame: &[u8]| bound(&given, frame).is_ok();
        assert_eq!(passes(&arp(1, GUEST, [10, 0, 0, last], NODE)), inside, "{last}");
        assert_eq!(passes(&ipv4([10, 0, 0, last], 6, 0, &[0; 20])), inside, "{last}");
    }
    assert_eq!(bound(&given, &ipv6("2001:db8::7", 59, &[])), Ok(()));
    assert_eq!(bound(&given, &ipv6("2001:db8:0:1::7", 59, &[])), Err(DropReason::Address));
    let claim = advertisement("2001:db8:0:1::7");
    assert_eq!(bound(&given, &ipv6("fe80::7", 58, &claim)), Err(DropReason::Address));
    // What every host needs before it has an address.
    assert_eq!(bound(&given, &arp(1, GUEST, [0; 4], [10, 0, 0, 8])), Ok(()));
    assert_eq!(bound(&given, &arp(1, GUEST, [169, 254, 3, 4], NODE)), Ok(()));
    assert_eq!(bound(&given, &ipv6("::", 58, &[135; 24])), Ok(()));
    let request = |client| ipv4([0; 4], 17, 0, &udp(68, 67, &boot(1, client)));
    assert_eq!(bound(&given, &request(GUEST)), Ok(()));
    assert_eq!(bound(&given, &request(GATEWAY_MAC)), Err(DropReason::Address));
    assert_eq!(bound(&given, &ipv4([0; 4], 17, 0, &udp(53, 53, &[0; 8]))), Err(DropReason::Address));
    assert_eq!(bound(&given, &ethernet(0x88b5, &[0; 46])), Err(DropReason::Address));
    assert_eq!(free(&ethernet(0x88b5, &[0; 46])), Ok(()));
    let closed = Policy { closed: true, ..Policy::default() };
    let frame = arp(1, GUEST, [0; 4], NODE);
    assert_eq!(check(GUEST, &closed, &protected(), &frame), Err((DropReason::Address, None)));
}

#[test]
fn only_clients_speak_dhcp() {
    let from = [10, 0, 0, 9];
    let answer = udp(67, 68, &boot(2, GUEST));
    assert_eq!(free(&ipv4(from, 17, 0, &answer)), Err(DropReason::DhcpServer));
    assert_eq!(free(&ipv4(from, 17, 0x2000, &answer)), Err(DropReason::DhcpServer), "in fragments");
    assert_eq!(free(&ipv4(from, 17, 0, &udp(4011, 68, &boot(2, GUEST)))), Err(DropReason::DhcpServer), "PXE");
    assert_eq!(
        free(&ipv4(from, 17, 0, &udp(67, 67, &boot(2, GUEST)))),
        Err(DropReason::DhcpServer),
        "a relay"
    );
    assert_eq!(free(&ipv4([0; 4], 17, 0, &answer)), Err(DropReason::DhcpServer));
    let v6 = |to, kind| free(&ipv6("fe80::9", 17, &udp(547, to, &[kind, 0, 0, 1])));
    assert_eq!(
        (v6(546, 2), v6(547, 7), v6(547, 1)),
        (Err(DropReason::DhcpServer), Err(DropReason::DhcpServer), Ok(()))
    );
    // A PXE client's way: discover, request, boot server discovery, TFTP.
    assert_eq!(free(&ipv4([0; 4], 17, 0, &udp(68, 67, &boot(1, GUEST)))), Ok(()));
    assert_eq!(free(&ipv4(from, 17, 0, &udp(68, 67, &boot(1, GUEST)))), Ok(()));
    assert_eq!(free(&ipv4(from, 17, 0, &udp(68, 4011, &boot(1, GUEST)))), Ok(()));
    assert_eq!(free(&ipv4(from, 17, 0, &udp(2070, 69, b"\0\x01pxelinux.0\0octet\0"))), Ok(()));
}

#[test]
fn routers_and_redirects() {
    let v6 = |next, payload: &[u8]| free(&ipv6("fe80::9", next, payload));
    let advertisement = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(v6(58, &advertisement), Err(DropReason::RouterAdvertisement));
    assert_eq!(v6(58, &[137; 40]), Err(DropReason::Redirect));
    assert_eq!(v6(58, &[133, 0, 0, 0, 0, 0, 0, 0]), Ok(()), "a solicitation");
    assert_eq!(free(&ipv4([10, 0, 0, 9], 1, 0, &[5; 8])), Err(DropReason::Redirect));
    assert_eq!(free(&ipv4([10, 0, 0, 9], 1, 0, &[9; 8])), Err(DropReason::RouterAdvertisement));
    assert_eq!(free(&ipv4([10, 0, 0, 9], 1, 0, &[8; 8])), Ok(()), "a ping");
    // RFC 7113: behind extension headers, of each kind.
    for kind in [0, 43, 60, 135, 139, 140, 253, 254] {
        let behind = [&[58, 0, 0, 0, 0, 0, 0, 0][..], &advertisement].concat();
        assert_eq!(v6(kind, &behind), Err(DropReason::RouterAdvertisement), "{kind}");
        assert_eq!(v6(kind, &behind[..7]), Err(DropReason::HiddenHeader), "{kind}");
        assert_eq!(v6(kind, &behind[..8]), Err(DropReason::HiddenHeader), "{kind}");
    }
    let authenticated = [&[58, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &advertisement].concat();
    assert_eq!(v6(51, &authenticated), Err(DropReason::RouterAdvertisement));
    let mut long = Vec::new();
    (0..20).for_each(|_| long.extend_from_slice(&[60, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(v6(60, &long), Err(DropReason::HiddenHeader), "longer than is followed");
}

#[test]
fn fragments_hide_nothing() {
    let v6 = |payload: &[u8]| free(&ipv6("fe80::9", 44, payload));
    // The first fragment ends within the chain; then with the advertisement in it.
    assert_eq!(v6(&[60, 0, 0, 1, 0, 0, 0, 1, 58, 1]), Err(DropReason::HiddenHeader));
    assert_eq!(v6(&[58, 0, 0, 1, 0, 0, 0, 1]), Err(DropReason::HiddenHeader));
    assert_eq!(v6(&[58, 0, 0, 1, 0, 0, 0, 1, 134, 0]), Err(DropReason::HiddenHeader), "RFC 6980");
    assert_eq!(v6(&[58, 0, 0, 0, 0, 0, 0, 1, 136, 0]), Err(DropReason::HiddenHeader), "an atomic one");
    assert_eq!(v6(&[58, 0, 0, 1, 0, 0, 0, 1, 128, 0]), Ok(()), "a large ping");
    assert_eq!(v6(&[17, 0, 0, 1, 0, 0, 0, 1, 2, 0x23]), Err(DropReason::HiddenHeader));
    assert_eq!(v6(&[58, 0, 0, 0x10, 0, 0, 0, 1, 134, 0]), Ok(()), "not the first one");
    let v4 = |protocol, fragment, length| free(&ipv4([10, 0, 0, 9], protocol, fragment, &vec![0; length]));
    assert_eq!(v4(6, 0x2000, 8), Err(DropReason::HiddenHeader), "RFC 1858");
    assert_eq!(v4(6, 1, 40), Err(DropReason::HiddenHeader), "RFC 1858, overwriting");
    assert_eq!(v4(17, 0x2000, 7), Err(DropReason::HiddenHeader));
    assert_eq!((v4(17, 0x2000, 8), v4(17, 1, 8), v4(6, 2, 8)), (Ok(()), Ok(()), Ok(())));
}

#[test]
fn no_tag_leaves() {
    for tag in [0x8100u16, 0x88a8, 0x9100, 0x9200, 0x9300, 0x88e7, 0x893f, 0x88e5] {
        // With an identifier, and for priority alone.
        for information in [5, 0] {
            let packet = [&[0, information, 8, 0][..], &ipv4([10, 0, 0, 9], 6, 0, &[0; 20])[14..]].concat();
            assert_eq!(free(&ethernet(tag, &packet)), Err(DropReason::Tagged), "{tag:#x}");
        }
    }
}

#[test]
fn mutated_frames_never_claim_what_is_protected() {
    let mut state = 0x5eed_00a1_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let bases = [
        arp(1, GUEST, [10, 0, 0, 9], NODE),
        ipv4([10, 0, 0, 9], 17, 0, &udp(68, 67, &boot(1, GUEST))),
        ipv4(NODE, 6, 0, &[0; 20]),
        ipv6("fe80::9", 60, &[58, 0, 0, 0, 0, 0, 0, 0, 134, 0, 0, 0, 0, 0, 0, 0]),
        ipv6("fe80::9", 58, &advertisement("fe80::9")),
    ];
    let everything = Policy {
        router: true,
        dhcp_server: true,
        trunk: (1..4095).collect(),
        vrrp: vec![51],
        macs: 8,
        ..Policy::default()
    };
    let mut passed = 0;
    for round in 0..300_000 {
        let mut frame = bases[random() as usize % bases.len()].clone();
        for _ in 0..=random() % 4 {
            let at = 12 + random() as usize % (frame.len() - 12);
            frame[at] = if random() % 2 == 0 { random() as u8 } else { NODE[random() as usize % 4] };
        }
        frame.truncate(12 + random() as usize % (frame.len() - 11));
        // An independent statement of what must not be: by offset alone.
        let at = |offset: usize| frame.get(offset..offset + 4) == Some(&NODE[..]);
        let _ = is_for_management(&everything, 7411, &frame);
        if with(&everything, &frame).is_ok() {
            let is_claim =
                matches!(frame[12..14], [8, 6]) && at(28) || matches!(frame[12..14], [8, 0]) && at(26);
            assert!(!is_claim, "round {round}: whatever it was given");
        }
        if free(&frame).is_err() {
            continue;
        }
        passed += 1;
        match frame.get(12..14) {
            Some([8, 6]) => assert!(!at(28), "round {round}"),
            Some([8, 0]) => assert!(!at(26), "round {round}"),
            Some([0x86, 0xdd]) if frame[20] == 58 => {
                assert!(!matches!(frame[54], 134 | 137), "round {round}")
            }
            Some([0x81, 0] | [0x88, 0xa8] | [0x91, 0]) => panic!("round {round}"),
            _ => {}
        }
    }
    assert!(passed > 10_000, "{passed}");
}

fn with(policy: &Policy, frame: &[u8]) -> Result<(), DropReason> {
    check(GUEST, policy, &protected(), frame).map_err(|(reason, _)| reason)
}

#[test]
fn a_range_takes_no_portal_but_its_very_address_does() {
    let frame = arp(1, GUEST, PORTAL, NODE);
    assert_eq!(bound(&[("10.0.0.0", 24)], &frame), Err(DropReason::ArpClaim));
    assert_eq!(bound(&[("10.0.0.3", 32)], &frame), Ok(()));
    assert_eq!(bound(&[("10.0.0.1", 32)], &arp(1, GUEST, NODE, PORTAL)), Err(DropReason::ArpClaim));
}

#[test]
fn a_router_forwards_and_advertises_but_claims_nothing() {
    let router = Policy {
        addresses: vec![Prefix { address: "10.0.0.77".parse().unwrap(), length: 32 }],
        router: true,
        ..Policy::default()
    };
    let foreign = ipv4([192, 0, 2, 9], 6, 0, &[0; 20]);
    assert_eq!(with(&Policy { router: false, ..router.clone() }, &foreign), Err(DropReason::Address));
    assert_eq!(with(&router, &foreign), Ok(()));
    // An operator's packets may come through it, the node's own never.
    assert_eq!(with(&router, &ipv4(PORTAL, 6, 0, &[0; 20])), Ok(()));
    for address in [NODE, GATEWAY] {
        assert_eq!(with(&router, &ipv4(address, 6, 0, &[0; 20])), Err(DropReason::Ipv4Claim));
    }
    for address in [NODE, GATEWAY, PORTAL] {
        assert_eq!(with(&router, &arp(2, GUEST, address, NODE)), Err(DropReason::ArpClaim));
    }
    let stranger = arp(2, GUEST, [10, 0, 0, 78], NODE);
    assert_eq!(with(&router, &stranger), Err(DropReason::Address));
    let advertises = ipv6("fe80::1", 58, &[134, 0, 0, 0, 64, 0, 0, 0]);
    assert_eq!(with(&router, &advertises), Ok(()));
    assert_eq!(free(&advertises), Err(DropReason::RouterAdvertisement));
    let claims = ipv6("fe80::1", 58, &advertisement("fe80::21b:21ff:fe01:203"));
    assert_eq!(with(&router, &claims), Err(DropReason::Ipv6Claim));
    let redirects = ipv6("fe80::1", 58, &[137, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(with(&router, &redirects), Err(DropReason::Redirect));
}

#[test]
fn a_dhcp_server_answers_from_its_own_address() {
    let server = Policy { dhcp_server: true, ..Policy::default() };
    let answer = |source| ipv4(source, 17, 0, &udp(67, 68, &boot(2, GUEST)));
    assert_eq!(free(&answer([10, 0, 0, 77])), Err(DropReason::DhcpServer));
    assert_eq!(with(&server, &answer([10, 0, 0, 77])), Ok(()));
    assert_eq!(with(&server, &answer(GATEWAY)), Err(DropReason::Ipv4Claim));
    let answer = ipv6("fe80::77", 17, &udp(547, 546, &[2]));
    assert_eq!(free(&answer), Err(DropReason::DhcpServer));
    assert_eq!(with(&server, &answer), Ok(()));
}

#[test]
fn a_trunk_passes_its_vlans_and_looks_into_them() {
    let trunk = Policy { trunk: vec![100, 101], ..Policy::default() };
    let tagged = |tags: &[[u8; 4]], frame: &[u8]| [&frame[..12], &tags.concat(), &frame[12..]].concat();
    let harmless = ipv4([10, 0, 0, 77], 6, 0, &[0; 20]);
    for (tags, passes) in [
        (&[[0x81, 0, 0, 100]][..], true),
        (&[[0x81, 0, 0xe0, 101]], true),
        (&[[0x81, 0, 0, 102]], false),
        (&[[0x81, 0, 1, 100]], false),
        (&[[0x81, 0, 0, 0]], false),
        (&[[0x88, 0xa8, 0, 100]], false),
        (&[[0x81, 0, 0, 100], [0x81, 0, 0, 100]], false),
        (&[[0x81, 0, 0, 100], [0x88, 0xa8, 0, 5]], false),
    ] {
        let expected = if passes { Ok(()) } else { Err(DropReason::Tagged) };
        assert_eq!(with(&trunk, &tagged(tags, &harmless)), expected, "{tags:?}");
        assert_eq!(free(&tagged(tags, &harmless)), Err(DropReason::Tagged));
    }
    let tag = [[0x81, 0, 0, 100]];
    assert_eq!(with(&trunk, &tagged(&tag, &arp(1, GUEST, NODE, PORTAL))), Err(DropReason::ArpClaim));
    assert_eq!(with(&trunk, &tagged(&tag, &ipv4(NODE, 6, 0, &[0; 20]))), Err(DropReason::Ipv4Claim));
    let snap = [&[0xff; 6][..], &GUEST.0, &[0, 60, 0xaa, 0xaa, 3, 0, 0, 0, 8, 6], &[0; 28]].concat();
    assert_eq!(with(&trunk, &tagged(&tag, &snap)), Err(DropReason::Malformed));
}

#[test]
fn a_virtual_router_claims_by_its_own_hardware_address() {
    let master = Policy { vrrp: vec![51], ..Policy::default() };
    let mac = |id| MacAddress([0, 0, 0x5e, 0, 1, id]);
    assert_eq!(with(&master, &arp(2, mac(51), [10, 0, 0, 77], NODE)), Ok(()));
    assert_eq!(with(&master, &arp(2, mac(52), [10, 0, 0, 77], NODE)), Err(DropReason::ArpClaim));
    assert_eq!(with(&master, &arp(2, mac(51), GATEWAY, NODE)), Err(DropReason::ArpClaim));
    assert_eq!(free(&arp(2, mac(51), [10, 0, 0, 77], NODE)), Err(DropReason::ArpClaim));
}

#[test]
fn management_is_one_port_from_one_address() {
    let policy = Policy {
        addresses: vec![
            Prefix { address: "10.0.0.77".parse().unwrap(), length: 32 },
            Prefix { address: "10.1.0.0".parse().unwrap(), length: 16 },
        ],
        ..Policy::default()
    };
    let segment = |port: u16| [&[0x30, 0][..], &port.to_be_bytes(), &[0; 16]].concat();
    let own = [10, 0, 0, 77];
    let is_for = |frame: &[u8]| is_for_management(&policy, 7411, frame);
    assert!(is_for(&ipv4(own, 6, 0, &segment(7411))));
    assert!(is_for(&ipv4(own, 6, 0x4000, &segment(7411))));
    assert!(is_for(&arp(1, GUEST, own, NODE)));
    assert!(!is_for(&arp(2, GUEST, own, NODE)), "nothing is learned from it");
    assert!(!is_for(&ipv4(own, 6, 0, &segment(3260))));
    assert!(!is_for(&ipv4(own, 17, 0, &segment(7411))));
    assert!(!is_for(&ipv4(own, 6, 0x2000, &segment(7411))));
    assert!(!is_for(&ipv4(own, 6, 1, &segment(7411))));
    assert!(!is_for(&ipv4([10, 0, 0, 78], 6, 0, &segment(7411))));
    assert!(!is_for(&ipv4([10, 1, 0, 1], 6, 0, &segment(7411))), "a range is no address");
    let mut options = ipv4(own, 6, 0, &segment(7411));
    options[14] = 0x46;
    assert!(!is_for(&options));
}
