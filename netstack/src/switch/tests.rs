//! Exhaustive small cases, then seeded mutation.

extern crate std;
use std::vec::Vec;

use super::*;

const HOST_MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);
const GUEST_A: MacAddress = MacAddress([2, 0, 0, 0, 0, 0xa]);
const GUEST_B: MacAddress = MacAddress([2, 0, 0, 0, 0, 0xb]);
const STRANGER: MacAddress = MacAddress([2, 0, 0, 0, 0, 0xff]);
const MULTICAST: MacAddress = MacAddress([1, 0, 0x5e, 0, 0, 1]);
const PAUSE: MacAddress = MacAddress([1, 0x80, 0xc2, 0, 0, 1]);

fn frame(destination: MacAddress, source: MacAddress, types: &[u16]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend_from_slice(&destination.0);
    frame.extend_from_slice(&source.0);
    for (index, ethertype) in types.iter().enumerate() {
        if index > 0 {
            frame.extend_from_slice(&[0, 7]);
        }
        frame.extend_from_slice(&ethertype.to_be_bytes());
    }
    if types == [0x0800] {
        // A datagram that is not to be wondered at.
        frame.extend_from_slice(&[0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 9, 9, 10, 9, 9, 8]);
    }
    frame.resize(64, 0);
    frame
}

fn forward(switch: &Switch, ingress: PortId, frame: &[u8]) -> Result<Destinations, DropReason> {
    switch.forward(ingress, frame, frame.len())
}

fn switch() -> (Switch, PortId, PortId) {
    let mut switch = Switch::new(HOST_MAC, 1500, &[9; 16]).unwrap();
    let a = switch.attach_guest(GUEST_A).unwrap();
    let b = switch.attach_guest(GUEST_B).unwrap();
    (switch, a, b)
}

#[test]
fn every_port_source_destination_and_type() {
    let (switch, a, b) = switch();
    let ports = [UPLINK, HOST, a, b];
    let macs = [None, Some(HOST_MAC), Some(GUEST_A), Some(GUEST_B)];
    let stations = [HOST_MAC, GUEST_A, GUEST_B, STRANGER];
    let targets = [HOST_MAC, GUEST_A, GUEST_B, STRANGER, MULTICAST, MacAddress::BROADCAST, PAUSE];
    let types: [&[u16]; 6] = [
        &[0x0800],
        &[0x88a2],
        &[0x8100, 0x88a2],
        &[0x8100, 0x0800],
        &[0x88a8, 0x8100, 0x88a2],
        &[0x9100, 0x88a2],
    ];
    for (port, mac) in ports.into_iter().zip(macs) {
        for source in stations {
            for target in targets {
                for kind in types {
                    let result = forward(&switch, port, &frame(target, source, kind));
                    let aoe = kind.last() == Some(&0x88a2);
                    let guest = port == a || port == b;
                    let ours = source != STRANGER;
                    let spoofed = match mac {
                        None => ours,
                        Some(mac) => source != mac,
                    };
                    if spoofed {
                        assert_eq!(result, Err(DropReason::SourceMac));
                        continue;
                    }
                    if guest && aoe {
                        assert_eq!(result, Err(DropReason::AoeFromGuest));
                        continue;
                    }
                    if guest && target == PAUSE {
                        assert_eq!(result, Err(DropReason::LinkLocal));
                        continue;
                    }
                    if guest && target == HOST_MAC {
                        assert_eq!(result, Err(DropReason::Node));
                        continue;
                    }
                    if guest && kind.len() > 1 {
                        assert_eq!(result, Err(DropReason::Tagged));
                        continue;
                    }
                    // An independent statement of which ports may see the frame.
                    for candidate in ports {
                        let addressed = match candidate {
                            UPLINK => target.is_group() || target == STRANGER,
                            HOST => target.is_group() || target == HOST_MAC,
                            other => {
                                let own = if other == a { GUEST_A } else { GUEST_B };
                                !aoe && target != PAUSE && (target.is_group() || target == own)
                            }
                        };
                        // The node's stack is on the wire alone.
                        let apart = (port == HOST && candidate != UPLINK)
                            || (guest && candidate == HOST)
                            || (kind.len() > 1 && !aoe && candidate != UPLINK);
                        let expected = addressed && candidate != port && !apart;
                        let got = result.is_ok_and(|set| set.contains(candidate));
                        assert_eq!(got, expected, "{port:?} {source} {target} {kind:x?}");
                    }
                    if let Ok(set) = result {
                        assert!(!set.is_empty());
                        assert_eq!(set.iter().count(), ports.iter().filter(|p| set.contains(**p)).count());
                    }
                }
            }
        }
    }
}

#[test]
fn guests_cannot_reach_bridges() {
    let (switch, a, b) = switch();
    for group in [
        // Spanning tree, LACP, LLDP; its provider's; VLAN registration (MVRP, GVRP); CFM.
        [1, 0x80, 0xc2, 0, 0, 0],
        [1, 0x80, 0xc2, 0, 0, 0x0e],
        [1, 0x80, 0xc2, 0, 0, 0x10],
        [1, 0x80, 0xc2, 0, 0, 0x21],
        // Cisco's: trunks (DTP), its spanning tree, ISL.
        [1, 0, 0x0c, 0xcc, 0xcc, 0xcc],
        [1, 0, 0x0c, 0xcc, 0xcc, 0xcd],
        [1, 0, 0x0c, 0, 0, 0],
        [3, 0, 0x0c, 0, 0, 0],
    ] {
        let target = MacAddress(group);
        assert_eq!(forward(&switch, a, &frame(target, GUEST_A, &[0x0800])), Err(DropReason::LinkLocal));
        let from_wire = forward(&switch, UPLINK, &frame(target, STRANGER, &[0x0800])).unwrap();
        assert!(!from_wire.contains(a) && !from_wire.contains(b), "{target}");
    }
}

#[test]
fn attach_detach_and_duplicates() {
    let (mut switch, a, _) = switch();
    assert_eq!(switch.attach_guest(HOST_MAC), Err(AttachError::DuplicateMac));
    assert_eq!(switch.attach_guest(GUEST_A), Err(AttachError::DuplicateMac));
    assert_eq!(switch.attach_guest(MULTICAST), Err(AttachError::NotAStation));
    assert_eq!(switch.attach_guest(MacAddress([0; 6])), Err(AttachError::NotAStation));
    switch.detach_guest(a);
    switch.detach_guest(HOST);
    assert_eq!(switch.mac(HOST), Some(HOST_MAC));
    assert_eq!(forward(&switch, a, &frame(HOST_MAC, GUEST_A, &[0x800])), Err(DropReason::NoPort));
    assert_eq!(switch.attach_guest(GUEST_A), Ok(a), "the port is reused");
    for last in 0..60u8 {
        switch.attach_guest(MacAddress([6, 0, 0, 0, 0, last])).unwrap();
    }
    assert_eq!(switch.attach_guest(STRANGER), Err(AttachError::Full));
}

#[test]
fn lengths() {
    let (mut switch, a, b) = switch();
    switch.set_policy(b, Policy { trunk: [7].into(), ..Policy::default() });
    let mut long = frame(GUEST_B, GUEST_A, &[0x0800]);
    long.resize(1514, 0);
    assert!(forward(&switch, a, &long).unwrap().contains(b));
    long.resize(1515, 0);
    assert_eq!(forward(&switch, a, &long), Err(DropReason::Giant));
    let mut tagged = frame(GUEST_B, STRANGER, &[0x8100, 0x0800]);
    tagged.resize(1518, 0);
    assert!(forward(&switch, UPLINK, &tagged).is_ok());
    assert_eq!(forward(&switch, a, &long[..13]), Err(DropReason::Malformed));
}

#[test]
fn rate_is_exact_and_counted() {
    let (mut switch, a, b) = switch();
    let rate = Rate { bytes_per_second: 64_000, burst_bytes: 640 };
    switch.set_rate(a, Some(rate), 0);
    let packet = frame(GUEST_B, GUEST_A, &[0x0800]);
    let mut passed = 0;
    // Two seconds in steps that do not divide a frame's time.
    for step in 0..2000u64 {
        passed += u64::from(switch.admit(a, &packet, &Offload::None, step * 1_000_003).is_ok());
    }
    assert!((2008..=2010).contains(&passed) || passed == 2000, "{passed}");
    for step in 0..2000u64 {
        passed += u64::from(switch.admit(a, &packet, &Offload::None, 2_000_006_000 + step * 100_000).is_ok());
    }
    let counters = switch.counters(a).unwrap();
    assert_eq!(counters.ingress_frames, passed);
    assert_eq!(counters.ingress_frames + counters.drops.of(DropReason::Rate), 4000);
    assert_eq!(switch.counters(b).unwrap().egress_frames, passed);
    // 2.2 s at 1000 frames/s plus a burst of ten.
    assert!(passed <= 2211, "{passed}");
}

#[test]
fn mutated_frames_never_escape_the_rules() {
    let (switch, a, b) = switch();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let base = frame(GUEST_B, GUEST_A, &[0x8100, 0x88a2]);
    for round in 0..200_000 {
        let mut mutant = base.clone();
        for _ in 0..=random() % 4 {
            let index = (random() % 24) as usize;
            mutant[index] = random() as u8;
        }
        mutant.truncate((random() % 65) as usize);
        for port in [UPLINK, HOST, a, b] {
            if let Ok(set) = forward(&switch, port, &mutant) {
                assert!(!set.contains(port), "hairpin in round {round}");
                if port == a || port == b {
                    assert_eq!(&mutant[6..12], &switch.mac(port).unwrap().0);
                    assert_ne!(&mutant[12..14], &[0x88, 0xa2], "AoE in round {round}");
                }
            }
        }
    }
}

/// A frame in a VLAN.
fn tagged(vlan: u8, destination: MacAddress, source: MacAddress) -> Vec<u8> {
    let mut frame = frame(destination, source, &[0x0800]);
    frame.splice(12..12, [0x81, 0, 0, vlan]);
    frame
}

#[test]
fn a_trunk_is_in_its_vlans_alone() {
    let (mut switch, a, b) = switch();
    let c = switch.attach_guest(MacAddress([2, 0, 0, 0, 0, 0xc])).unwrap();
    switch.set_policy(a, Policy { trunk: [5, 6].into(), ..Policy::default() });
    switch.set_policy(b, Policy { trunk: [6, 7].into(), ..Policy::default() });
    let reached = |switch: &Switch, from, frame: &[u8]| -> Vec<PortId> {
        forward(switch, from, frame).unwrap_or_default().iter().collect()
    };
    for (vlan, from_wire, from_a) in [
        (4, [].into(), None),
        (5, Vec::from([a]), Some(Vec::from([UPLINK]))),
        (6, [a, b].into(), Some([UPLINK, b].into())),
        (7, [b].into(), None),
    ] {
        assert_eq!(reached(&switch, UPLINK, &tagged(vlan, MULTICAST, STRANGER)), from_wire);
        match from_a {
            Some(ports) => assert_eq!(reached(&switch, a, &tagged(vlan, MULTICAST, GUEST_A)), ports),
            None => {
                assert_eq!(forward(&switch, a, &tagged(vlan, MULTICAST, GUEST_A)), Err(DropReason::Tagged))
            }
        }
    }
    let inner = frame(MULTICAST, STRANGER, &[0x88a8, 0x8100, 0x0800]);
    assert_eq!(reached(&switch, UPLINK, &inner), []);
    // Another guest's station is not found out of its VLANs.
    assert_eq!(forward(&switch, a, &tagged(5, GUEST_B, GUEST_A)), Err(DropReason::NoDestination));
    assert_eq!(reached(&switch, a, &tagged(6, GUEST_B, GUEST_A)), [b]);
    assert_eq!(reached(&switch, UPLINK, &frame(MULTICAST, STRANGER, &[0x0800])), [HOST, a, b, c]);
}

fn admit(switch: &mut Switch, port: PortId, frame: &[u8], now_s: u64) -> Result<Destinations, DropReason> {
    switch.admit(port, frame, &Offload::None, now_s * 1_000_000_000)
}

#[test]
fn further_hardware_addresses_are_learned_within_bounds() {
    let (mut switch, a, b) = switch();
    let nested = |last| MacAddress([2, 0, 0, 0, 9, last]);
    let from = |source| frame(MacAddress::BROADCAST, source, &[0x0800]);
    assert_eq!(admit(&mut switch, a, &from(nested(1)), 0), Err(DropReason::SourceMac));
    for port in [a, b] {
        switch.set_policy(port, Policy { macs: 2, ..Policy::default() });
    }
    switch.protect(Protected { stations: [nested(9)].into(), ..Protected::default() });
    for taken in [HOST_MAC, GUEST_B, nested(9), MULTICAST, MacAddress([0; 6])] {
        assert_eq!(admit(&mut switch, a, &from(taken), 0), Err(DropReason::SourceMac), "{taken}");
    }
    assert!(admit(&mut switch, a, &from(nested(1)), 0).is_ok());
    assert!(admit(&mut switch, a, &from(nested(2)), 1).is_ok());
    assert_eq!(admit(&mut switch, a, &from(nested(3)), 1), Err(DropReason::SourceMac), "two are two");
    assert_eq!(admit(&mut switch, b, &from(nested(1)), 1), Err(DropReason::SourceMac), "it is another's");
    // What is for it goes there, and not to the wire.
    let answer = frame(nested(1), GUEST_B, &[0x0800]);
    assert_eq!(admit(&mut switch, b, &answer, 1).unwrap().iter().collect::<Vec<_>>(), [a]);
    // An idle one makes room, one in use does not.
    assert!(admit(&mut switch, a, &from(nested(2)), 200).is_ok());
    assert!(admit(&mut switch, a, &from(nested(3)), 300).is_ok());
    assert_eq!(admit(&mut switch, a, &from(nested(1)), 300), Err(DropReason::SourceMac));
    // A station that sends from the wire is known; a detached port has none.
    assert!(admit(&mut switch, UPLINK, &from(nested(3)), 301).is_ok());
    assert!(admit(&mut switch, b, &from(nested(3)), 301).is_ok());
    switch.detach_guest(b);
    assert!(admit(&mut switch, a, &from(nested(3)), 302).is_ok());
    // A new guest's own address is its own alone.
    let c = switch.attach_guest(nested(3)).unwrap();
    assert_eq!(admit(&mut switch, a, &from(nested(3)), 303), Err(DropReason::SourceMac));
    let to_c = frame(nested(3), GUEST_A, &[0x0800]);
    assert_eq!(admit(&mut switch, a, &to_c, 303).unwrap().iter().collect::<Vec<_>>(), [c]);
}

#[test]
fn a_virtual_routers_address_moves_between_its_ports() {
    let (mut switch, a, b) = switch();
    let c = switch.attach_guest(MacAddress([2, 0, 0, 0, 0, 0xc])).unwrap();
    let router = |id| MacAddress([0, 0, 0x5e, 0, 1, id]);
    for port in [a, b] {
        switch.set_policy(port, Policy { vrrp: [51].into(), ..Policy::default() });
    }
    switch.set_policy(c, Policy { macs: 4, ..Policy::default() });
    let from = |id| frame(MacAddress::BROADCAST, router(id), &[0x0800]);
    let to = |switch: &mut Switch| {
        let frame = frame(router(51), MacAddress([2, 0, 0, 0, 0, 0xc]), &[0x0800]);
        admit(switch, c, &frame, 1).unwrap().iter().collect::<Vec<_>>()
    };
    assert_eq!(to(&mut switch), [UPLINK]);
    for port in [a, b, a] {
        assert!(admit(&mut switch, port, &from(51), 1).is_ok());
        assert_eq!(to(&mut switch), [port]);
        assert_eq!(admit(&mut switch, port, &from(52), 1), Err(DropReason::SourceMac));
    }
    assert_eq!(admit(&mut switch, c, &from(51), 1), Err(DropReason::SourceMac), "macs are no routers");
    // The one on the wire takes over.
    assert!(admit(&mut switch, UPLINK, &from(51), 2).is_ok());
    assert_eq!(to(&mut switch), [UPLINK]);
}

#[test]
fn one_port_reaches_the_management_port_and_is_answered() {
    let (mut switch, a, b) = switch();
    let address = Prefix { address: "10.9.9.9".parse().unwrap(), length: 32 };
    switch.set_policy(a, Policy { addresses: [address].into(), management: Some(7411), ..Policy::default() });
    let segment = |destination, source, port: u16| {
        let mut frame = frame(destination, source, &[0x0800]);
        frame[23] = 6;
        frame[36..38].copy_from_slice(&port.to_be_bytes());
        frame
    };
    let reached = |switch: &Switch, from, frame: &[u8]| -> Vec<PortId> {
        forward(switch, from, frame).unwrap_or_default().iter().collect()
    };
    assert_eq!(reached(&switch, a, &segment(HOST_MAC, GUEST_A, 7411)), [HOST]);
    assert_eq!(forward(&switch, a, &segment(HOST_MAC, GUEST_A, 3260)), Err(DropReason::Node));
    assert_eq!(forward(&switch, b, &segment(HOST_MAC, GUEST_B, 7411)), Err(DropReason::Node));
    let mut question = frame(MacAddress::BROADCAST, GUEST_A, &[0x0806]);
    question[14..32].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 0xa, 10, 9, 9, 9]);
    assert_eq!(reached(&switch, a, &question), [UPLINK, HOST, b]);
    question[21] = 2;
    assert_eq!(reached(&switch, a, &question), [UPLINK, b], "an unsolicited answer");
    // The node's frames go to that port, but not those for all.
    assert_eq!(reached(&switch, HOST, &frame(GUEST_A, HOST_MAC, &[0x0800])), [a]);
    assert_eq!(reached(&switch, HOST, &frame(GUEST_B, HOST_MAC, &[0x0800])), []);
    assert_eq!(reached(&switch, HOST, &frame(MacAddress::BROADCAST, HOST_MAC, &[0x0806])), [UPLINK]);
    switch.set_policy(a, Policy::default());
    assert_eq!(forward(&switch, a, &segment(HOST_MAC, GUEST_A, 7411)), Err(DropReason::Node));
    assert_eq!(reached(&switch, HOST, &frame(GUEST_A, HOST_MAC, &[0x0800])), []);
}

#[test]
fn a_large_segment_is_for_one_station() {
    let (mut switch, a, _) = switch();
    let payload = 4_000;
    for (target, expected) in
        [(GUEST_B, true), (STRANGER, true), (MULTICAST, false), (MacAddress::BROADCAST, false)]
    {
        let mut frame = [&target.0[..], &GUEST_A.0, &[8, 0, 0x45, 0]].concat();
        frame.extend((40 + payload as u16).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 9, 9, 9, 10, 9, 9, 8]);
        frame.extend([4, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
        frame.resize(54 + payload, 7);
        let [low, high] = 1_000u16.to_le_bytes();
        let header = [1, 1, 54, 0, low, high, 34, 0, 16, 0, 0, 0];
        let offload = Offload::parse(&header, &mut frame).unwrap();
        assert_eq!(offload.on_wire(frame.len()).0, 4);
        let decision = switch.admit(a, &frame, &offload, 0);
        assert_eq!(decision.is_ok(), expected, "{target:?}: {decision:?}");
        if !expected {
            assert_eq!(decision, Err(DropReason::Malformed));
        }
    }
}
