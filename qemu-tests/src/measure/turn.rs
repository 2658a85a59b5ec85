//! The heaviest turn of a node, in instructions: the tests of whole nodes that put every
//! load on the largest legal configuration are built as the image is, and run by QEMU's
//! user mode with a plugin that counts each turn. Every run counts the same.

use super::figure::{Table, as_f64};
use crate::process::run;
use crate::programs;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Counts each turn.
const PLUGIN: &str = include_str!("each_turn.c");
/// The loads are the tests of this module.
const LOADS: &str = "node::tests::turns::";
/// No turn takes more instructions.
pub const BUDGET: u64 = 4_000_000;
/// How long each load runs, to be measured and to be verified.
pub const STEPS: [&str; 2] = ["150", "60"];

/// What counts.
#[derive(Debug, Clone)]
pub struct Counter {
    plugin: PathBuf,
    program: PathBuf,
    directory: PathBuf,
}

/// What a load made of turns.
#[derive(Debug, Clone)]
pub struct Turns {
    /// Its name.
    pub load: String,
    /// Instructions of each turn, in their order.
    pub costs: Vec<u64>,
}

impl Turns {
    /// The heaviest turn, and which it was.
    ///
    /// # Errors
    /// There was none.
    pub fn heaviest(&self) -> Result<(usize, u64)> {
        let found = self.costs.iter().copied().enumerate().max_by_key(|(_, cost)| *cost);
        found.with_context(|| format!("{}: no turn was counted", self.load))
    }
}

/// Builds plugin and tests.
///
/// # Errors
/// When one of them does not build.
pub fn prepare(target: &Path) -> Result<Counter> {
    let directory = target.join("turns");
    std::fs::create_dir_all(&directory)?;
    let (source, plugin) = (directory.join("each_turn.c"), directory.join("each_turn.so"));
    std::fs::write(&source, PLUGIN)?;
    run(Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o"])
        .args([&plugin, &source]))
    .context("cannot build QEMU's plugin")?;
    let program = programs::optimized_tests("appliance")?;
    Ok(Counter { plugin, program, directory })
}

impl Counter {
    /// Puts each load on a node, for so many steps.
    ///
    /// # Errors
    /// When a load fails or no turn is counted.
    pub fn count(&self, steps: &str) -> Result<Vec<Turns>> {
        let listed = run(Command::new(&self.program).args(["--list", LOADS]))?;
        let loads: Vec<&str> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
        ensure!(!loads.is_empty(), "there are no loads");
        loads.into_iter().map(|load| self.count_load(load, steps)).collect()
    }

    fn count_load(&self, load: &str, steps: &str) -> Result<Turns> {
        let costs = self.directory.join("costs");
        let _ = std::fs::remove_file(&costs);
        let plugin = format!("{},costs={}", self.plugin.display(), costs.display());
        // A processor without what the image does not use either.
        let mut command = Command::new("qemu-x86_64");
        command.args(["-cpu", "qemu64", "-plugin", &plugin]).arg(&self.program);
        command.args(["--exact", load, "--test-threads=1"]).env("TURN_STEPS", steps);
        run(&mut command).with_context(|| format!("{load} failed"))?;
        let bytes = std::fs::read(&costs)?;
        let costs = bytes.as_chunks().0.iter().map(|cost| u64::from_le_bytes(*cost)).collect();
        Ok(Turns { load: load.trim_start_matches(LOADS).replace('_', " "), costs })
    }
}

/// Measures all loads.
///
/// # Errors
/// When one fails.
pub fn measure(table: &mut Table, counter: &Counter) -> Result<()> {
    let [steps, _] = STEPS;
    for turns in counter.count(steps)? {
        let (_, most) = turns.heaviest()?;
        let name = format!("heaviest turn: {}", turns.load);
        table.add_with_budget(&name, vec![as_f64(most)], "count", as_f64(BUDGET));
    }
    Ok(())
}

/// Checks that no turn is too long; the heaviest one, in words.
///
/// # Errors
/// Names the load and the turn that is.
pub fn verify(counter: &Counter) -> Result<String> {
    let [_, steps] = STEPS;
    let mut worst = (String::new(), 0);
    for turns in counter.count(steps)? {
        let (place, most) = turns.heaviest()?;
        ensure!(
            most <= BUDGET,
            "{}: turn {place} of {} took {most} instructions; {BUDGET} are allowed",
            turns.load,
            turns.costs.len()
        );
        if most > worst.1 {
            worst = (turns.load, most);
        }
    }
    Ok(format!("the heaviest turn took {} of {BUDGET} instructions: {}", worst.1, worst.0))
}
