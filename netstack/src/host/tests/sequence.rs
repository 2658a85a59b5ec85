//! The sequence numbers that connections begin with.

use super::*;

/// The first sequence numbers of so many connections of a host, one after the other.
fn firsts(seed: u64, connections: usize) -> Vec<u32> {
    let (mut server, mut client) = (host(1, 1), host(2, seed));
    server.listen(7000, 2, TcpOptions::MANAGEMENT).unwrap();
    let mut seen = Vec::new();
    for step in 0..connections as u64 * 50 {
        let now = step * MS;
        if step % 50 == 0 {
            client.connect(Ipv4Addr::new(10, 0, 0, 1), 7000, TcpOptions::MANAGEMENT).unwrap();
        }
        client.poll(now);
        server.poll(now);
        for frame in frames(&mut client) {
            // A SYN alone: 34 is where TCP begins, 13 further are its flags.
            if frame[12..14] == [8, 0] && frame[23] == 6 && frame[47] == 2 {
                seen.push(u32::from_be_bytes(*frame[38..].first_chunk().unwrap()));
            }
            server.receive(&frame, &Offload::Verified, now);
        }
        for frame in frames(&mut server) {
            client.receive(&frame, &Offload::Verified, now);
        }
    }
    seen
}

/// What the stack's own generator says for a seed, one after the other: from two of its numbers
/// the others follow (smoltcp's `Rand`, a permuted congruential generator).
fn of_the_stack(seed: u64) -> impl Iterator<Item = u32> {
    let step = |state: &u64| Some(state.wrapping_mul(0xbb2e_fcec_3c39_611d).wrapping_add(0x7590_ef39));
    std::iter::successors(step(&seed), step).map(|state| (state >> (29 - (state >> 61))) as u32)
}

#[test]
fn first_sequence_numbers_are_unrelated() {
    let seen = firsts(5, 8);
    assert_eq!(seen.len(), 8);
    assert_eq!(seen, firsts(5, 8), "of the same secrets");
    assert_ne!(seen, firsts(6, 8));
    let cookie_key = CookieKey::new([5; 16]);
    let shared: Vec<u32> = of_the_stack(cookie_key.derive(*b"tcp ", 5)).take(1_000).collect();
    assert!(seen.iter().all(|number| !shared.contains(number)));
    // Each is of a generator of its own, whose seed is a keyed hash.
    for (number, first) in (6..).zip(seen) {
        let own: Vec<u32> = of_the_stack(cookie_key.derive(*b"isn ", number)).take(4).collect();
        assert!(own.contains(&first));
    }
}
