//! Captures of what guests send and receive.

use alloc::string::ToString;
use alloc::vec::Vec;

use mgmt_proto::code::Code;
use mgmt_proto::verb::{Reply, Request, Stream};

use super::world::*;

fn look(world: &mut World, session: usize, from: u64) -> Stream {
    let request = Request::Capture { name: "web".to_string(), from, snap_bytes: 64 };
    let Reply::Stream(stream) = world.done(session, &request) else { panic!("no stream") };
    stream
}

/// Length on the wire and bytes of each record.
fn records(stream: &Stream) -> Vec<(u32, Vec<u8>)> {
    let mut rest = stream.bytes.as_slice();
    let mut all = Vec::new();
    while let Some((header, after)) = rest.split_first_chunk::<16>() {
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        assert!(word(4) < 1_000_000_000);
        let kept = usize::try_from(word(8)).unwrap();
        all.push((word(12), after[..kept].to_vec()));
        rest = &after[kept..];
    }
    assert!(rest.is_empty(), "only whole records");
    all
}

#[test]
fn frames_of_a_guest_are_captured_while_somebody_looks() {
    let mut world = World::new(51);
    let (session, machine) = world.ready();
    world.create(session, &machine);
    let frames = |world: &mut World, count: u8| {
        for number in 0..count {
            let to = [&[0xff; 6][..], &[2, 0, 0, 0, 9, number], &[0x08, 0x00], &[number; 100]].concat();
            world.node.network.captures.note(world.node.guests.list[0].number, &to, world.now_ns);
        }
    };
    frames(&mut world, 3);
    let begin = look(&mut world, session, 0);
    assert_eq!((begin.bytes.len(), begin.next), (0, 1), "nothing from before");
    frames(&mut world, 5);
    let stream = look(&mut world, session, 1);
    let got = records(&stream);
    assert_eq!((got.len(), stream.next), (5, 6));
    assert!(got.iter().all(|(length, kept)| *length == 114 && kept.len() == 64));
    assert_eq!(got[4].1[11], 4);
    assert_eq!(look(&mut world, session, 1), stream, "the same until the next is asked for");
    assert_eq!(look(&mut world, session, 6), Stream { bytes: Vec::new(), next: 6 });
    // More than is kept: the oldest go, and the numbers show it.
    for _ in 0..40 {
        frames(&mut world, 255);
    }
    let stream = look(&mut world, session, 6);
    let count = u64::try_from(records(&stream).len()).unwrap();
    assert!(stream.next > 6 + count, "{} {count}", stream.next);
    assert!(stream.bytes.len() <= mgmt_proto::limits::STREAM_BYTES);
    // Nobody looks: it ends, and keeps nothing.
    world.run(11 * SECOND);
    frames(&mut world, 1);
    assert_eq!(look(&mut world, session, stream.next), Stream { bytes: Vec::new(), next: 0 });
    world.done(session, &Request::Destroy { name: "web".to_string() });
    let request = Request::Capture { name: "web".to_string(), from: 0, snap_bytes: 64 };
    assert_eq!(world.refused(session, &request).code, Code::NotFound);
}
