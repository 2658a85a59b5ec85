//! The table alone: which answers are accepted, when, and what is kept.

extern crate std;

use super::*;

const MS: u64 = 1_000_000;
const PORTAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const OLD: MacAddress = MacAddress([2, 0, 0, 0, 0, 3]);
const NEW: MacAddress = MacAddress([2, 0, 0, 0, 0, 4]);
const LIAR: MacAddress = MacAddress([2, 0, 0, 0, 0, 0x66]);

fn known(now_ns: u64) -> Neighbours {
    let mut table = Neighbours::default();
    assert!(matches!(table.send(PORTAL, OwnFrame::default(), now_ns), Sent::Parked));
    let question = table.next_question(now_ns).unwrap();
    assert_eq!(question, Question { target: PORTAL, to: MacAddress::BROADCAST });
    assert_eq!(table.answered(PORTAL, OLD, now_ns).len(), 1);
    table
}

/// Questions up to a time, each when it is due.
fn questions(table: &mut Neighbours, until_ns: u64) -> Vec<(u64, MacAddress)> {
    let mut all = Vec::new();
    while let Some(at_ns) = table.next_deadline().filter(|at_ns| *at_ns <= until_ns) {
        while let Some(question) = table.next_question(at_ns) {
            all.push((at_ns / MS, question.to));
        }
    }
    all
}

#[test]
fn only_solicited_answers_are_accepted() {
    let mut table = Neighbours::default();
    assert!(table.answered(PORTAL, LIAR, 0).is_empty() && table.len() == 0);
    table.claimed(PORTAL, LIAR, 0);
    assert_eq!(table.station(PORTAL), None);
    let mut table = known(0);
    for at_ms in (0..60_000).step_by(10) {
        let now_ns = at_ms * MS;
        table.claimed(PORTAL, LIAR, now_ns);
        table.answered(PORTAL, LIAR, now_ns);
        // The station that is asked is still there.
        if table.next_question(now_ns).is_some() {
            table.answered(PORTAL, OLD, now_ns);
        }
        assert_eq!(table.station(PORTAL), Some(OLD), "at {at_ms} ms");
    }
    assert_eq!(table.next_moved(), None);
}

#[test]
fn a_claim_makes_the_node_ask_first() {
    let mut table = known(0);
    table.claimed(PORTAL, NEW, 5_000 * MS);
    let asked = questions(&mut table, 6_100 * MS);
    let expected = [(5_000, OLD), (5_333, OLD), (5_666, OLD), (5_999, MacAddress::BROADCAST)];
    assert_eq!(asked, expected);
    assert!(table.answered(PORTAL, NEW, 6_100 * MS).is_empty());
    assert_eq!(table.station(PORTAL), Some(NEW));
    assert_eq!(table.next_moved(), Some(Moved { address: PORTAL, from: OLD, to: NEW }));
}

#[test]
fn unanswered_frames_make_the_node_ask() {
    let mut table = known(0);
    for at_ms in [2_000, 2_200, 2_600] {
        assert!(matches!(table.send(PORTAL, OwnFrame::default(), at_ms * MS), Sent::To(OLD, _)));
    }
    let asked = questions(&mut table, 4_000 * MS);
    assert_eq!(asked.first(), Some(&(3_000, OLD)));
    assert_eq!(asked.last(), Some(&(3_999, MacAddress::BROADCAST)));
    // One frame from there, and nothing is asked.
    let mut table = known(0);
    for at_ms in (2_000..60_000).step_by(100) {
        table.send(PORTAL, OwnFrame::default(), at_ms * MS);
        table.heard(PORTAL, OLD);
        assert_eq!(table.next_question(at_ms * MS), None);
    }
    // A liar's frames are no sign of life.
    let mut table = known(0);
    for at_ms in (2_000..4_000).step_by(100) {
        table.send(PORTAL, OwnFrame::default(), at_ms * MS);
        table.heard(PORTAL, LIAR);
    }
    assert!(table.next_question(4_000 * MS).is_some());
}

#[test]
fn silent_neighbours_are_asked_for_while_needed() {
    let mut table = known(0);
    table.claimed(PORTAL, NEW, 2_000 * MS);
    let asked = questions(&mut table, 60_000 * MS);
    assert_eq!(asked.len(), 6, "{asked:?}");
    assert_eq!((table.next_deadline(), table.station(PORTAL)), (None, None));
    assert!(matches!(table.send(PORTAL, OwnFrame::default(), 60_000 * MS), Sent::To(OLD, _)));
    assert_eq!(questions(&mut table, 60_000 * MS), [(60_000, MacAddress::BROADCAST)]);
    assert!(table.answered(PORTAL, OLD, 60_001 * MS).is_empty());
    assert_eq!((table.station(PORTAL), table.next_moved()), (Some(OLD), None));
}

#[test]
fn neighbours_in_use_are_not_evicted() {
    let mut table = known(0);
    table.mark_in_use(|address| address == PORTAL);
    for number in 0..10_000u32 {
        let address = Ipv4Addr::from_bits(0x0a01_0000 + number);
        table.send(address, OwnFrame::default(), u64::from(number) * MS);
        assert!(table.len() <= NEIGHBOURS_MAX);
    }
    assert_eq!(table.station(PORTAL), Some(OLD));
    table.mark_in_use(|_| true);
    let last = Ipv4Addr::new(10, 9, 9, 9);
    assert!(matches!(table.send(last, OwnFrame::default(), 0), Sent::Dropped(_)));
}

#[test]
fn frames_that_wait_are_bounded() {
    let mut table = Neighbours::default();
    for _ in 0..10 {
        table.send(PORTAL, OwnFrame::default(), 0);
    }
    assert_eq!(table.table[0].parked.len(), NEIGHBOUR_FRAMES_MAX);
    assert_eq!(questions(&mut table, 60_000 * MS).len(), 3);
    assert!(table.table[0].parked.is_empty() && table.parked_bytes == 0);
}
