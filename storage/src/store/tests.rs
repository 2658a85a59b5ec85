//! The store against a disk that forgets, tears and garbles what was not flushed.

use super::{
    BLOCK_BYTES, BLOCKS_MIN, HALF_BLOCKS, Store, StoreError, StoreKey, StoreOperation, StoreRefusal,
};
use crate::limits::{STORE_BYTES_MAX, STORE_VALUE_BYTES_MAX};
use crate::random::Random;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use alloc::vec::Vec;
use std::println;

const SECTOR: usize = 512;

/// A disk with a volatile cache: what is written is read back, but only what was
/// flushed is sure to survive.
#[derive(Clone)]
struct Disk {
    durable: BTreeMap<u64, Vec<u8>>,
    /// Sectors written since the last flush.
    cached: BTreeMap<u64, Vec<u8>>,
}

impl Disk {
    const fn new() -> Self {
        Self { durable: BTreeMap::new(), cached: BTreeMap::new() }
    }

    fn read(&self, first: u64, blocks: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for sector in first * 8..(first + blocks) * 8 {
            match self.cached.get(&sector).or_else(|| self.durable.get(&sector)) {
                Some(found) => bytes.extend_from_slice(found),
                None => bytes.resize(bytes.len() + SECTOR, 0),
            }
        }
        bytes
    }

    fn write(&mut self, first: u64, bytes: &[u8]) {
        for (sector, part) in (first * 8..).zip(bytes.chunks(SECTOR)) {
            self.cached.insert(sector, part.to_vec());
        }
    }

    fn flush(&mut self) {
        self.durable.append(&mut self.cached);
    }

    /// The power goes: each sector in the cache was written, was not, or holds
    /// garbage.
    fn cut(&mut self, random: &mut Random) {
        for (sector, bytes) in core::mem::take(&mut self.cached) {
            match random.next() % 4 {
                0 => {}
                1 => {
                    let garbage = (0..SECTOR).map(|_| random.next().to_le_bytes()[0]).collect();
                    self.durable.insert(sector, garbage);
                }
                _ => {
                    self.durable.insert(sector, bytes);
                }
            }
        }
    }
}

/// One operation; false when there is none.
fn step(store: &mut Store, disk: &mut Disk) -> bool {
    match store.operation() {
        None => return false,
        Some(StoreOperation::Read { first, blocks }) => {
            assert!(first + blocks <= BLOCKS_MIN);
            let bytes = disk.read(first, blocks);
            store.read(&bytes);
        }
        Some(StoreOperation::Write { first, bytes }) => {
            assert!(first + (bytes.len() / BLOCK_BYTES) as u64 <= BLOCKS_MIN);
            assert_eq!(bytes.len() % BLOCK_BYTES, 0);
            disk.write(first, bytes);
            store.done();
        }
        Some(StoreOperation::Flush) => {
            disk.flush();
            store.done();
        }
    }
    true
}

fn advance(store: &mut Store, disk: &mut Disk) {
    while step(store, disk) {}
}

fn key() -> StoreKey {
    StoreKey::new([0x6b; 32])
}

fn formatted() -> (Store, Disk) {
    let mut disk = Disk::new();
    let mut store = Store::format(BLOCKS_MIN, key(), [3; 16], 1);
    advance(&mut store, &mut disk);
    assert!(store.is_open());
    (store, disk)
}

fn reopened(disk: &mut Disk, seed: u64) -> Store {
    let mut store = Store::open(BLOCKS_MIN, key(), seed);
    advance(&mut store, disk);
    store
}

/// Keys, each with its value's length and first octet; all its octets are alike.
type Contents = BTreeMap<String, (usize, Option<u8>)>;

fn contents(store: &Store) -> Contents {
    let summary = |value: &[u8]| {
        let first = value.first().copied();
        assert!(value.iter().all(|byte| Some(*byte) == first), "a value of several");
        (value.len(), first)
    };
    store.with_prefix("").map(|(key, value)| (key.to_string(), summary(value))).collect()
}

#[test]
fn what_was_put_is_there_again() {
    let (mut store, mut disk) = formatted();
    assert_eq!(store.get("identity"), None);
    store.put("identity", b"key").unwrap();
    store.put("guest/b", b"two").unwrap();
    let ticket = store.put("guest/a", b"one").unwrap();
    assert!(store.confirmed() < ticket);
    advance(&mut store, &mut disk);
    assert_eq!(store.confirmed(), ticket);
    store.remove("identity").unwrap();
    advance(&mut store, &mut disk);
    let store = reopened(&mut disk, 2);
    assert_eq!(store.identity(), [3; 16]);
    assert_eq!(store.get("identity"), None);
    let guests: Vec<_> = store.with_prefix("guest/").collect();
    assert_eq!(guests, [("guest/a", &b"one"[..]), ("guest/b", &b"two"[..])]);
    assert_eq!(store.bytes(), 20);
}

#[test]
fn a_volume_that_is_not_ours_is_left_alone() {
    let mut disk = Disk::new();
    assert_eq!(reopened(&mut disk, 1).error(), Some(StoreError::Blank));
    disk.write(0, &[0x55; BLOCK_BYTES]);
    disk.flush();
    assert_eq!(reopened(&mut disk, 1).error(), Some(StoreError::Foreign));
    assert_eq!(Store::open(BLOCKS_MIN - 1, key(), 1).error(), Some(StoreError::TooSmall));
    let mut store = reopened(&mut disk, 1);
    assert_eq!(store.put("key", b""), Err(StoreRefusal::Closed));
}

#[test]
fn only_what_is_blank_all_over_is_blank() {
    for block in [1, 15, HALF_BLOCKS - 1, HALF_BLOCKS + 1, BLOCKS_MIN - 1] {
        let mut disk = Disk::new();
        let mut bytes = [0; BLOCK_BYTES];
        bytes[77] = 1;
        disk.write(block, &bytes);
        disk.flush();
        assert_eq!(reopened(&mut disk, 1).error(), Some(StoreError::Foreign), "block {block}");
    }
}

#[test]
fn several_changes_are_made_together_or_not_at_all() {
    let (mut store, mut disk) = formatted();
    let put = |key: &str, length: usize| (key.to_string(), Some(vec![5; length]));
    store.put("old", &[5; 9]).unwrap();
    let ticket =
        store.change_all(&[put("a", 3), ("old".to_string(), None), put("a", 4), put("b", 2)]).unwrap();
    advance(&mut store, &mut disk);
    assert_eq!(store.confirmed(), ticket);
    let expected = contents(&reopened(&mut disk, 2));
    assert_eq!(expected.keys().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((expected["a"].0, store.bytes()), (4, 8));
    // None of these leaves a trace.
    let long = vec![put("c", 1), put("d", STORE_VALUE_BYTES_MAX + 1)];
    assert_eq!(store.change_all(&long), Err(StoreRefusal::TooLong));
    let parts: Vec<_> = (0..3).map(|part| put(&format!("p{part}"), STORE_VALUE_BYTES_MAX)).collect();
    assert_eq!(store.change_all(&parts), Err(StoreRefusal::TooLong));
    store.put("e", &vec![5; STORE_VALUE_BYTES_MAX]).unwrap();
    assert_eq!(store.change_all(&parts[..1]), Err(StoreRefusal::Busy));
    advance(&mut store, &mut disk);
    assert!(store.change_all(&parts[..1]).is_ok());
    let mut count = 0;
    advance(&mut store, &mut disk);
    while store.put(&format!("fill{count}"), &vec![5; STORE_VALUE_BYTES_MAX]).is_ok() {
        advance(&mut store, &mut disk);
        count += 1;
    }
    let before = contents(&store);
    assert_eq!(store.change_all(&[put("f", 1), put("g", STORE_VALUE_BYTES_MAX)]), Err(StoreRefusal::Full));
    assert_eq!(contents(&store), before);
    assert_eq!(contents(&reopened(&mut disk, 3)), before);
}

#[test]
fn a_failed_operation_stops_the_store() {
    let (mut store, _) = formatted();
    store.put("key", b"value").unwrap();
    assert!(matches!(store.operation(), Some(StoreOperation::Write { .. })));
    store.failed();
    assert_eq!((store.error(), store.operation()), (Some(StoreError::Volume), None));
    assert_eq!(store.put("key", b""), Err(StoreRefusal::Closed));
}

#[test]
fn bounds_are_kept() {
    let (mut store, mut disk) = formatted();
    assert_eq!(store.put("", b""), Err(StoreRefusal::TooLong));
    assert_eq!(store.put(&"k".repeat(129), b""), Err(StoreRefusal::TooLong));
    assert_eq!(store.put("k", &vec![0; STORE_VALUE_BYTES_MAX + 1]), Err(StoreRefusal::TooLong));
    let large = vec![7; STORE_VALUE_BYTES_MAX];
    store.put("a", &large).unwrap();
    assert_eq!(store.put("b", &large), Err(StoreRefusal::Busy));
    advance(&mut store, &mut disk);
    let mut count = 1;
    while store.put(&format!("key{count}"), &large).is_ok() {
        advance(&mut store, &mut disk);
        count += 1;
    }
    assert_eq!(store.put("more", &large), Err(StoreRefusal::Full));
    assert!(store.bytes() <= STORE_BYTES_MAX && store.bytes() + large.len() > STORE_BYTES_MAX - 64);
    // All of it lives through any number of moves from half to half.
    let before = contents(&store);
    for round in 0..300_u32 {
        store.put("a", &vec![round.to_le_bytes()[0]; STORE_VALUE_BYTES_MAX]).unwrap();
        advance(&mut store, &mut disk);
    }
    let store = reopened(&mut disk, 2);
    let after = contents(&store);
    assert_eq!(after.len(), before.len());
    assert!(before.iter().all(|(key, value)| key == "a" || after.get(key) == Some(value)));
    assert!(store.generation > 3);
}

#[test]
fn damage_is_not_taken_for_a_torn_end() {
    let (mut store, mut disk) = formatted();
    for number in 0..40 {
        store.put(&format!("key{number}"), &vec![1; 5000]).unwrap();
        advance(&mut store, &mut disk);
    }
    let start = store.half * HALF_BLOCKS;
    for block in 1..79 {
        let mut damaged = disk.clone();
        let mut bytes = damaged.read(start + block, 1);
        bytes[100] ^= 1;
        damaged.write(start + block, &bytes);
        damaged.flush();
        assert_eq!(reopened(&mut damaged, 2).error(), Some(StoreError::Damaged), "block {block}");
    }
    assert_eq!(reopened(&mut disk, 2).error(), None);
}

/// Written with the key: its MACs are sound.
#[test]
fn a_volume_above_the_limits_is_refused() {
    let (store, mut disk) = formatted();
    let (mut place, mut block) = (store.place(), store.tail);
    for record in 0..2 {
        let changes: Vec<_> =
            (0..10_000).map(|number| (format!("{record}{number:04}"), Some(Vec::new()))).collect();
        let (bytes, digest) = super::record::encode(&key(), &place, &changes);
        disk.write(block, &bytes);
        block += (bytes.len() / BLOCK_BYTES) as u64;
        (place.sequence, place.before) = (place.sequence + 1, digest);
    }
    disk.flush();
    assert_eq!(reopened(&mut disk, 2).error(), Some(StoreError::Damaged));
}

/// What a caller did, by transaction: the state after it.
struct History {
    states: Vec<(u64, Contents)>,
}

/// Puts and removes at random for a while, with the power cut somewhere: what was
/// confirmed must be there, as the state after some whole transaction not older.
fn life_with_cut(store: &mut Store, disk: &mut Disk, random: &mut Random, steps: u64) -> History {
    let mut history = History { states: vec![(store.confirmed(), contents(store))] };
    for _ in 0..steps {
        if random.next().is_multiple_of(3) {
            for _ in 0..=random.next() % 3 {
                let key = format!("key{}", random.next() % 12);
                let size = usize::try_from(random.next() % 40_000).unwrap();
                let value = vec![random.next().to_le_bytes()[0]; size];
                let changed = if random.next().is_multiple_of(4) {
                    store.remove(&key)
                } else {
                    store.put(&key, &value)
                };
                match changed {
                    Ok(ticket) => match history.states.last_mut() {
                        Some((last, state)) if *last == ticket => *state = contents(store),
                        _ => history.states.push((ticket, contents(store))),
                    },
                    Err(StoreRefusal::Busy) => {}
                    Err(other) => panic!("{other:?}"),
                }
            }
        }
        step(store, disk);
    }
    history
}

fn check_after_cut(history: &History, confirmed: u64, store: &Store, what: &str) {
    assert_eq!(store.error(), None, "{what}");
    let found = contents(store);
    let at = history.states.iter().rposition(|(_, state)| *state == found);
    let Some(at) = at else { panic!("{what}: half of a transaction") };
    assert!(history.states[at].0 >= confirmed, "{what}: confirmed and lost");
}

#[test]
fn confirmed_changes_survive_cuts_and_transactions_are_whole() {
    let lives = std::env::var("STORE_CUTS").ok().and_then(|it| it.parse().ok()).unwrap_or(40);
    for seed in 0..lives {
        let mut random = Random::new(seed);
        let (mut store, mut disk) = formatted();
        for cut in 0..2 {
            let steps = random.next() % 600;
            let history = life_with_cut(&mut store, &mut disk, &mut random, steps);
            let confirmed = store.confirmed();
            disk.cut(&mut random);
            // Twice, also while it opens again.
            let mut opening = Store::open(BLOCKS_MIN, key(), random.next());
            for _ in 0..random.next() % 8 {
                step(&mut opening, &mut disk);
            }
            disk.cut(&mut random);
            store = reopened(&mut disk, random.next());
            check_after_cut(&history, confirmed, &store, &format!("STORE seed {seed} cut {cut}"));
        }
    }
    println!("{lives} lives with two cuts each");
}

#[test]
fn a_cut_after_every_single_operation_loses_nothing() {
    // Large values, so that the log moves to the other half in between.
    let script = |store: &mut Store, number: u64| {
        let value = vec![number.to_le_bytes()[0]; 60_000];
        store.put(&format!("key{}", number % 9), &value).unwrap()
    };
    let mut total = 0;
    for variant in 0..2 {
        let mut at = 0;
        loop {
            let (mut store, mut disk) = formatted();
            let mut random = Random::new(variant * 1_000_003 + at);
            let mut history = History { states: vec![(store.confirmed(), contents(&store))] };
            let (mut done, mut number) = (0, 0);
            'life: while number < 150 {
                let ticket = script(&mut store, number);
                history.states.push((ticket, contents(&store)));
                number += 1;
                loop {
                    if done == at {
                        break 'life;
                    }
                    done += 1;
                    if !step(&mut store, &mut disk) {
                        break;
                    }
                }
            }
            let confirmed = store.confirmed();
            disk.cut(&mut random);
            let reopened = reopened(&mut disk, at);
            check_after_cut(&history, confirmed, &reopened, &format!("variant {variant} operation {at}"));
            total += 1;
            if number >= 150 && done < at {
                break;
            }
            // Every operation around the moves, a sample of the others.
            at += if store.copy.is_empty() && at % 40 != 0 { 17 } else { 1 };
        }
    }
    assert!(total > 60, "{total}");
}
