//! Data-In PDUs of any size, in any order, cut anywhere; and such as lie.

use super::*;

/// Octets of each of the reads.
const OCTETS: usize = 8_192;
/// Octets of the Data-In PDUs that a read is answered by.
const SIZES: [&[usize]; 5] = [&[8_192], &[4_096, 4_096], &[4_608, 3_584], &[512, 7_680], &[6_144, 2_048]];
/// How many octets come at a time.
const CUTS: [usize; 7] = [1, 47, 48, 49, 4_143, 4_144, 100_000];

/// A session with reads that wait for their answers, and their tags.
fn reads(count: u64) -> (Bench, Vec<u32>) {
    let mut bench = Bench::ready(config());
    bench.swallowed = vec![opcode::SCSI_COMMAND];
    for id in 0..count {
        bench.submit(id, Operation::Read, 20 * id, (OCTETS / 512) as u32);
    }
    bench.run(10 * MS);
    let sent = bench.sent(opcode::SCSI_COMMAND);
    let tags = sent[sent.len() - count as usize..].iter().map(Header::task_tag).collect();
    (bench, tags)
}

/// What a read of a number is answered with.
fn content(id: u64) -> Vec<u8> {
    (0..OCTETS).map(|at| (at as u64 * 7 + id * 13) as u8).collect()
}

/// Everything that the target has said comes, so many octets at a time.
fn receive(bench: &mut Bench, cut: usize) {
    let said = core::mem::take(&mut bench.target.connections[0].output);
    for piece in said.chunks(cut) {
        bench.session.receive(0, piece, bench.now, &mut bench.memory);
    }
}

#[test]
fn pdus_of_any_size_in_any_order_are_taken() {
    for first in SIZES {
        for second in SIZES {
            for order in [[0, 1, 2], [0, 2, 1], [1, 2, 0], [2, 1, 0]] {
                for cut in CUTS {
                    let (mut bench, tags) = reads(3);
                    for (number, id) in order.into_iter().enumerate() {
                        let sizes = if number == 0 { first } else { second };
                        bench.target.connections[0].data_in_pieces(tags[id], &content(id as u64), sizes);
                        if number == 1 {
                            // Something else in between.
                            let mut ping = Header::new(opcode::NOP_IN, FLAG_FINAL);
                            ping.set_u32(16, NO_TAG);
                            ping.set_u32(20, 0x1234);
                            bench.target.connections[0].send(ping, &[], false);
                        }
                    }
                    receive(&mut bench, cut);
                    let context = std::format!("{first:?} {second:?} {order:?} {cut}");
                    assert!(!bench.session.disconnect_wanted(0), "{context}: {:?}", bench.session.status());
                    for id in 0..3 {
                        assert_eq!(bench.result(), Some(Ok(())), "{context}");
                        assert!(bench.memory.0[&RequestId(id)] == content(id), "{context}: read {id}");
                    }
                }
            }
        }
    }
}

#[test]
fn protocol_errors_end_the_connection() {
    // Each lie, at a place of the header.
    for (at, field) in [(1, &[0x81, 0, 9][..]), (24, &[9, 9]), (36, &[0, 0, 0, 7]), (40, &[0, 0, 2, 0])] {
        let (mut bench, tags) = reads(2);
        bench.target.connections[0].data_in_pieces(tags[0], &content(0), &[OCTETS]);
        let honest = bench.target.connections[0].output.len();
        bench.target.connections[0].data_in_pieces(tags[1], &content(1), &[OCTETS]);
        bench.target.connections[0].output[honest + at..honest + at + field.len()].copy_from_slice(field);
        receive(&mut bench, 100_000);
        assert_eq!(bench.result(), Some(Ok(())));
        assert_ne!(bench.result(), Some(Ok(())), "{at}");
        assert!(bench.memory.0[&RequestId(0)] == content(0), "{at}");
    }
}
