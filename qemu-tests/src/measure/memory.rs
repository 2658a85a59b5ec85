//! What a node needs after boot, and an idle guest beyond its RAM.

use super::figure::{Table, as_f64, number};
use crate::test_guest::{Description, TestGuest};
use crate::world::World;
use anyhow::Result;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// Budget: bytes of hypervisor and dom0 after boot, without guests.
const NODE_BUDGET: f64 = 16.0 * as_f64(MIB);
/// Budget: bytes of an idle guest beyond its RAM.
const GUEST_BUDGET: f64 = 256.0 * 1024.0;
/// Guests that are created to see what one costs.
const GUESTS: u8 = 4;
/// RAM of each in MiB.
const GUEST_MEMORY_MIB: u32 = 128;
/// How long guests are left to come to rest.
const REST: Duration = Duration::from_secs(5);

/// Memory of a node without guests.
///
/// # Errors
/// When the node does not report it.
pub fn measure_node(table: &mut Table, world: &World) -> Result<()> {
    let facts = world.operator.json(&["node", "info"])?;
    let (hypervisor, dom0) = (number(&facts, "hypervisor_bytes")?, number(&facts, "dom0_bytes")?);
    table.add("memory of hypervisor", as_f64(hypervisor), "bytes");
    table.add("memory of dom0", as_f64(dom0), "bytes");
    let both = vec![as_f64(hypervisor + dom0)];
    table.add_with_budget("memory of hypervisor and dom0", both, "bytes", NODE_BUDGET);
    Ok(())
}

/// Memory of guests that are idle, with a disk and a card each. The images are on
/// the node already: the first guest brought them.
///
/// # Errors
/// When a guest is refused.
pub fn measure_guests(table: &mut Table, world: &World, files: &TestGuest, disk: &str) -> Result<()> {
    // dom0 grows into memory that was set aside for it: no free memory is less for it.
    let left = || {
        let facts = world.operator.json(&["node", "info"])?;
        let dom0 = number(&facts, "dom0_bytes")?;
        anyhow::Ok(number(&facts, "memory_free_bytes")?.saturating_sub(dom0))
    };
    let create = |number: u8| {
        let name = format!("idle{number}");
        let more = format!("disk = [ \"{disk},ro\" ]");
        let guest = Description {
            name: &name,
            number,
            memory_mib: GUEST_MEMORY_MIB,
            job: "console=ttyS0",
            more: &more,
            ..Description::default()
        };
        world.test_guest(files, &guest)
    };
    create(1)?;
    std::thread::sleep(REST);
    let before = left()?;
    for number in 2..2 + GUESTS {
        create(number)?;
    }
    std::thread::sleep(REST);
    let each = before.saturating_sub(left()?) / u64::from(GUESTS);
    let extra = each.saturating_sub(u64::from(GUEST_MEMORY_MIB) * MIB);
    table.add_with_budget(
        "memory of an idle 128 MiB guest beyond its RAM",
        vec![as_f64(extra)],
        "bytes",
        GUEST_BUDGET,
    );
    for number in 1..2 + GUESTS {
        world.operator.run(&["destroy", &format!("idle{number}")])?;
    }
    Ok(())
}
