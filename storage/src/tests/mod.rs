//! Simulation: initiators, bad networks and small targets, all from one seed.
//!
//! A failing seed is printed; `STORAGE_SEED=<seed>` runs it alone, `STORAGE_SEEDS=<n>`
//! runs that many (a share of them by default, 100000 is the full number).
#![expect(clippy::cast_possible_truncation, reason = "tests cut random numbers to size")]

mod administration;
mod aoe_bench;
mod aoe_paths;
mod aoe_target;
mod aoe_world;
mod guest;
mod iscsi_connection;
mod iscsi_target;
mod iscsi_world;
pub(crate) mod mutate;
mod mutations;
mod sessions;
mod world;

use mutate::Random;

use crate::mutants::{Mutant, is_mutated, set_mutant};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::string::String;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec::Vec;
use std::{env, println};

/// A millisecond.
const MS: u64 = 1_000_000;
/// A second.
const SECOND: u64 = 1_000_000_000;
/// After healing, everything ends within this time.
const HEALED_NS_MAX: u64 = 10 * SECOND;
/// Sectors of the simulated disk.
const SECTORS: u64 = 64;

impl Random {
    fn per_mille(&mut self, parts: u64) -> bool {
        self.below(1_000) < parts
    }

    /// From 1 ms to 10 min, short ones as likely as long ones.
    fn cut_ns(&mut self) -> u64 {
        let magnitude = self.below(20);
        ((MS << magnitude) + self.below(MS << magnitude)).min(600 * SECOND)
    }
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// Runs a world for many seeds; the first that fails is named.
fn every_seed(world: fn(u64), share: u64) {
    if let Some(seed) = number("STORAGE_SEED") {
        return world(seed);
    }
    for seed in 1..=number("STORAGE_SEEDS").unwrap_or(share) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| world(seed))) {
            println!("STORAGE_SEED={seed} replays this");
            std::panic::resume_unwind(panic);
        }
    }
}

fn aoe(seed: u64) {
    world::run(aoe_world::build(seed), seed);
}

fn iscsi(seed: u64) {
    world::run(iscsi_world::build(seed), seed);
}

static SLOWEST_NS: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

fn aoe_failing_over(seed: u64) {
    SLOWEST_NS[0].fetch_max(world::fail_over(aoe_world::build(seed), seed), Ordering::Relaxed);
}

fn aoe_failing_over_again(seed: u64) {
    SLOWEST_NS[2].fetch_max(world::fail_over_again(aoe_world::build(seed), seed), Ordering::Relaxed);
}

fn iscsi_failing_over_again(seed: u64) {
    SLOWEST_NS[3].fetch_max(world::fail_over_again(iscsi_world::build(seed), seed), Ordering::Relaxed);
}

fn iscsi_failing_over(seed: u64) {
    SLOWEST_NS[1].fetch_max(world::fail_over(iscsi_world::build(seed), seed), Ordering::Relaxed);
}

#[test]
fn aoe_loses_nothing() {
    every_seed(aoe, 600);
}

#[test]
fn iscsi_loses_nothing() {
    every_seed(iscsi, 600);
}

#[test]
fn aoe_fails_over_within_three_seconds() {
    every_seed(aoe_failing_over, 200);
    println!("AoE: the slowest request took {} ms", SLOWEST_NS[0].load(Ordering::Relaxed) / MS);
}

#[test]
fn aoe_fails_over_again_within_three_seconds_of_the_last_cut() {
    every_seed(aoe_failing_over_again, 200);
    println!("AoE: the slowest request took {} ms more", SLOWEST_NS[2].load(Ordering::Relaxed) / MS);
}

#[test]
fn iscsi_fails_over_again_within_three_seconds_of_the_last_cut() {
    every_seed(iscsi_failing_over_again, 100);
    println!("iSCSI: the slowest request took {} ms more", SLOWEST_NS[3].load(Ordering::Relaxed) / MS);
}

#[test]
fn iscsi_fails_over_within_three_seconds() {
    every_seed(iscsi_failing_over, 200);
    println!("iSCSI: the slowest request took {} ms", SLOWEST_NS[1].load(Ordering::Relaxed) / MS);
}

/// Seeds until a world finds the mutant.
fn seeds_to_find(mutant: Mutant, world: fn(u64)) -> Option<u64> {
    let found = (1..=3_000).find(|seed| {
        set_mutant(Some(mutant));
        catch_unwind(|| world(*seed)).is_err()
    });
    set_mutant(None);
    found
}

fn finds_all(mutants: &[Mutant], world: fn(u64)) {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let hook = std::panic::take_hook();
        // A panic that a mutant causes is no news.
        std::panic::set_hook(std::boxed::Box::new(move |info| {
            if !is_mutated() {
                hook(info);
            }
        }));
    });
    let results: Vec<_> = mutants.iter().map(|mutant| (*mutant, seeds_to_find(*mutant, world))).collect();
    for (mutant, found) in &results {
        println!("{mutant:?}: {}", found.map_or(String::from("missed"), |seed| std::format!("seed {seed}")));
    }
    assert!(results.iter().all(|(_, found)| found.is_some()), "a mutant was missed");
}

#[test]
fn every_aoe_mutant_is_found() {
    let mutants = [
        Mutant::OverlapIgnored,
        Mutant::FlushEarly,
        Mutant::FlushSkipped,
        Mutant::AcknowledgedEarly,
        Mutant::SplitOffByOne,
        Mutant::MergeSwapped,
        Mutant::ErrorHidden,
        Mutant::ReissueForgotten,
        Mutant::ResetForgotten,
        Mutant::ZeroesSkipped,
        Mutant::TagsReused,
        Mutant::CopiesForgotten,
        Mutant::AnyMac,
        Mutant::ShortAnswer,
        Mutant::FrameSizeStuck,
        Mutant::RetriesGivenUp,
        Mutant::OtherDiskUsed,
        Mutant::DeadlineIgnored,
    ];
    finds_all(&mutants, aoe);
    finds_all(&[Mutant::DeadPathKept], aoe_failing_over);
    finds_all(&[Mutant::SilentPathTrusted], aoe_failing_over_again);
}

#[test]
fn every_iscsi_mutant_is_found() {
    let mutants = [
        Mutant::OverlapIgnored,
        Mutant::FlushEarly,
        Mutant::FlushSkipped,
        Mutant::AcknowledgedEarly,
        Mutant::SplitOffByOne,
        Mutant::MergeSwapped,
        Mutant::ErrorHidden,
        Mutant::ReissueForgotten,
        Mutant::ZeroesSkipped,
        Mutant::ShortAnswer,
        Mutant::IdentifierChanged,
        Mutant::DigestIgnored,
        Mutant::TransferOffsetIgnored,
        Mutant::WindowIgnored,
        Mutant::AttentionIsError,
        Mutant::SilenceAccepted,
        Mutant::FenceForgotten,
        Mutant::OtherDiskUsed,
        Mutant::PauseForEver,
        Mutant::DeadlineIgnored,
    ];
    finds_all(&mutants, iscsi);
    finds_all(&[Mutant::LostPathsLeft], iscsi_failing_over_again);
}
