//! What an operator asks an AoE target: configuration, masks, reservation; and what
//! discovery finds by them. Capacity and reservation as the session sees them.

use std::vec;
use std::vec::Vec;

use super::aoe_bench::{Bench, NODE, OTHER, config};
use super::{MS, SECOND};
use crate::aoe::{Administration, Discovery, Filter, Outcome, Target, TargetConfig};
use crate::{BlockError, Lba, Operation, Request, RequestId, Stage, VolumeState};

#[test]
fn configuration_strings() {
    let mut bench = Bench::new(&[NODE], 1_500);
    bench.run(100 * MS, 9_100);
    let config = |text: &[u8]| Some(Outcome::Config(text.to_vec()));
    assert_eq!(bench.ask(Administration::ReadConfig), config(b""));
    assert_eq!(bench.ask(Administration::SetConfig(b"rack 7".to_vec())), config(b"rack 7"));
    let refused = Some(Outcome::Refused("the target has a configuration string already"));
    assert_eq!(bench.ask(Administration::SetConfig(b"x".to_vec())), refused);
    assert_eq!(bench.ask(Administration::TestConfig(b"rack 7".to_vec())), config(b"rack 7"));
    assert_eq!(bench.ask(Administration::TestConfigPrefix(b"ra".to_vec())), config(b"rack 7"));
    assert_eq!(bench.ask(Administration::TestConfig(b"ra".to_vec())), None, "silence means no");
    bench.session.cancel_administration();
    assert_eq!(bench.ask(Administration::ForceConfig(b"new".to_vec())), config(b"new"));
    for (filter, found) in [
        (Filter::All, 1),
        (Filter::Config(b"new".to_vec()), 1),
        (Filter::Config(b"ne".to_vec()), 0),
        (Filter::ConfigPrefix(b"ne".to_vec()), 1),
    ] {
        let mut search = Discovery::new(NODE, 5, 0).filtered(filter);
        let mut buffer = [0; 1_500];
        while let Some(length) = search.transmit(&mut buffer, search.next_deadline()) {
            // All targets are asked: the address is a broadcast, and so is the name.
            buffer[16..19].copy_from_slice(&[0, 11, 1]);
            if let Some(reply) = bench.target.answer(&buffer[..length]) {
                search.receive(&reply);
            }
        }
        assert_eq!(search.found().len(), found);
    }
}

#[test]
fn masks_and_reservations() {
    let mut bench = Bench::new(&[NODE], 1_500);
    bench.run(100 * MS, 9_100);
    assert_eq!(bench.ask(Administration::ReadMasks), Some(Outcome::Masks(vec![])));
    let edit = vec![Administration::add_station(NODE), Administration::add_station(OTHER)];
    let both = Some(Outcome::Masks(vec![NODE, OTHER]));
    assert_eq!(bench.ask(Administration::EditMasks(edit)), both);
    let edit = vec![Administration::delete_station(OTHER)];
    assert_eq!(bench.ask(Administration::EditMasks(edit)), Some(Outcome::Masks(vec![NODE])));

    let held = |by: &[[u8; 6]]| Some(Outcome::Reservation(by.to_vec()));
    assert_eq!(bench.ask(Administration::ReadReservation), held(&[]));
    assert_eq!(bench.ask(Administration::Reserve(vec![NODE])), held(&[NODE]));
    assert_eq!(bench.ask(Administration::Reserve(vec![])), held(&[]));
    // Another initiator holds it: requests wait, and the status says why.
    bench.target.holders = vec![OTHER];
    bench.submit(1, Operation::Read, 0, 1);
    bench.run(SECOND, 9_100);
    let status = bench.session.status();
    assert_eq!((status.state, status.stage), (VolumeState::Refused, Stage::Ready));
    assert_eq!(status.last_error, Some("the target is reserved by another station"));
    let refused = Some(Outcome::Refused("the target is reserved by another station"));
    assert_eq!(bench.ask(Administration::Reserve(vec![NODE])), refused);
    assert_eq!(bench.ask(Administration::ForceReserve(vec![NODE])), held(&[NODE]));
    bench.run(6 * SECOND, 9_100);
    assert_eq!(bench.session.take_completion().unwrap().result, Ok(()));
    assert_eq!(bench.session.status().state, VolumeState::Ready);
}

#[test]
fn the_frame_size_is_found_and_found_again() {
    for (longest, sectors) in [(9_100, "17"), (4_700, "9"), (1_514, "2")] {
        let mut bench = Bench::new(&[NODE], 9_000);
        bench.run(6 * SECOND, longest);
        assert_eq!(bench.negotiated("SectorsPerFrame"), [sectors]);
        assert_eq!(bench.negotiated("FrameSizeFellBack"), [if sectors == "17" { "false" } else { "true" }]);
        assert_eq!(bench.session.status().state, VolumeState::Ready);
        // The network gets better: it is noticed within a minute or so.
        bench.run(130 * SECOND, 9_100);
        assert_eq!(bench.negotiated("SectorsPerFrame"), ["17"]);
    }
}

#[test]
fn requests_beyond_the_end_and_read_only_writes_fail() {
    let mut bench = Bench::new(&[NODE], 1_500);
    bench.run(100 * MS, 9_100);
    let write = Request { id: RequestId(1), operation: Operation::Write, lba: Lba(63), sectors: 2 };
    bench.session.submit(write, bench.now).unwrap();
    bench.run(MS, 9_100);
    assert_eq!(bench.session.take_completion().unwrap().result, Err(BlockError::OutOfRange));
    let trim = Request { operation: Operation::Discard, sectors: 1, ..write };
    bench.session.submit(trim, bench.now).unwrap();
    bench.run(MS, 9_100);
    assert_eq!(bench.session.take_completion().unwrap().result, Err(BlockError::Unsupported));
    let mut session = Target::new(TargetConfig { read_only: true, ..config(&[NODE], 1_500) });
    assert_eq!(session.submit(write, 0), Err(crate::SubmitError::ReadOnly));
}

#[test]
fn a_returning_disk_is_claimed_again() {
    let mut bench = Bench::new(&[NODE], 1_500);
    bench.session.set_reserve(true);
    bench.run(100 * MS, 9_100);
    assert_eq!(
        (bench.target.holders.as_slice(), bench.session.status().state),
        (&[NODE][..], VolumeState::Ready)
    );
    assert!(bench.session.status().negotiated.contains(&("Reservation", "02:00:00:00:00:01".into())));
    // The target starts anew and has forgotten.
    (bench.target.up, bench.target.holders) = (false, Vec::new());
    bench.submit(1, Operation::Write, 0, 1);
    bench.run(3 * SECOND, 9_100);
    bench.target.up = true;
    bench.run(6 * SECOND, 9_100);
    assert_eq!(bench.session.take_completion().unwrap().result, Ok(()));
    assert_eq!(bench.target.holders, [NODE]);
    bench.session.set_reserve(false);
    bench.run(100 * MS, 9_100);
    assert!(bench.target.holders.is_empty());
    // Another node has it: nothing is written, and it is said why.
    bench.target.holders = vec![OTHER];
    bench.session.set_reserve(true);
    bench.submit(2, Operation::Write, 0, 1);
    bench.run(3 * SECOND, 9_100);
    assert_eq!((bench.session.take_completion(), bench.session.status().state), (None, VolumeState::Refused));
}
