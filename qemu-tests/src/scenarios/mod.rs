//! What must hold for whole nodes, one function a scenario.
//!
//! Each runs in a process and a network namespace of its own, with the real
//! firmware, targets, kernels and CLI. It returns an error that says what did not
//! hold; the node's serial output and all logs stay under `target/e2e/NAME`.

mod attacker;
mod faults;
mod floods;
mod frames;
mod hostile_network;
mod hot_plug;
mod lockout;
mod machine_check;
mod neighbours;
mod netboot;
mod refusals;
mod ring0;
mod shapes;
mod state;
mod storage_faults;
mod traffic;
mod two_cards;

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
pub const ALL: &[Scenario] = &[
    Scenario { name: "kernel_boot_and_refusals", run: refusals::kernel_boot_and_refusals },
    Scenario { name: "dom0_faults_are_contained", run: faults::dom0_faults_are_contained },
    Scenario {
        name: "the_node_restarts_when_its_hypervisor_fails",
        run: ring0::the_node_restarts_when_its_hypervisor_fails,
    },
    Scenario {
        name: "a_damaged_page_ends_its_guest_alone",
        run: machine_check::a_damaged_page_ends_its_guest_alone,
    },
    Scenario { name: "hostile_network", run: hostile_network::hostile_network },
    Scenario { name: "floods_and_scans", run: floods::floods_and_scans },
    Scenario { name: "an_admin_gets_in_under_siege", run: lockout::lockout },
    Scenario { name: "an_admin_gets_in_from_far_away", run: lockout::lockout_far_away },
    Scenario { name: "state_outlives_power_cuts", run: state::state_outlives_power_cuts },
    Scenario {
        name: "state_outlives_power_cuts_on_a_local_disk",
        run: state::state_outlives_power_cuts_on_a_local_disk,
    },
    Scenario { name: "traffic_is_not_corrupted", run: traffic::traffic_is_not_corrupted },
    Scenario { name: "hostile_guest_neighbour_serves", run: neighbours::hostile_guest_neighbour_serves },
    Scenario { name: "a_guest_claims_what_others_need", run: attacker::a_guest_claims_what_others_need },
    Scenario { name: "disks_outlive_their_targets", run: storage_faults::disks_outlive_their_targets },
    Scenario { name: "cables_are_cut_and_disks_go_on", run: two_cards::cables_are_cut_and_disks_go_on },
    Scenario { name: "disks_come_and_go", run: hot_plug::disks_come_and_go },
    Scenario { name: "guests_reset_themselves", run: shapes::guests_reset_themselves },
    Scenario { name: "guests_of_all_shapes", run: shapes::guests_of_all_shapes },
    Scenario { name: "netboot_two_guests_power_cut", run: netboot::two_guests_and_a_power_cut },
];

/// Builds what the scenarios need, outside their namespaces.
///
/// # Errors
/// When something does not build.
pub fn prepare() -> Result<()> {
    build(false)?;
    build(true)?;
    state::image(state::AOE)?;
    state::image(state::LOCAL)?;
    two_cards::image()?;
    ring0::image()?;
    machine_check::image()?;
    crate::test_guest::prepare(&programs::target())
}

/// By which a scenario's process knows that it is to do all of what it does in part else.
pub const THOROUGH: &str = "THOROUGH";

/// Whether scenarios are to do all of what they do in part each time.
fn is_thorough() -> bool {
    std::env::var_os(THOROUGH).is_some()
}

/// Where a scenario keeps its files.
#[must_use]
pub fn directory(name: &str) -> PathBuf {
    programs::target().join("e2e").join(name)
}
