//! What must hold for whole nodes, one function a scenario.
//!
//! Each runs in a process and a network namespace of its own, with the real
//! firmware, targets, kernels and CLI. It returns an error that says what did not
//! hold; the node's serial output and all logs stay under `target/e2e/NAME`.

mod netboot;

use crate::programs;
use crate::world::build;
use anyhow::Result;
use std::path::PathBuf;

/// A scenario.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub run: fn() -> Result<()>,
}

/// All scenarios, the quick ones first.
pub const ALL: &[Scenario] =
    &[Scenario { name: "netboot_two_guests_power_cut", run: netboot::two_guests_and_a_power_cut }];

/// Builds what the scenarios need, outside their namespaces.
///
/// # Errors
/// When something does not build.
pub fn prepare() -> Result<()> {
    build(false)?;
    build(true).map(|_| ())
}

/// Where a scenario keeps its files.
#[must_use]
pub fn directory(name: &str) -> PathBuf {
    programs::target().join("e2e").join(name)
}
