//! `cargo measure`: sizes, memory and times of a node, as a table and as JSON.
//!
//! Budgets are asserted on sizes and counts only; times depend on the machine and
//! are to be compared within one run.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use qemu_tests::lab::NODE;
use qemu_tests::machine::{Boot, Shape};
use qemu_tests::world::{Guest, World, build};
use qemu_tests::{lab, packages, programs};
use serde_json::{Value, json};
use std::time::Duration;

/// Measures a node in QEMU and writes `target/measure.json`.
#[derive(Parser)]
#[command(name = "cargo measure")]
struct Arguments {}

const MIB: u64 = 1 << 20;
/// Budget: bytes of the image.
const IMAGE_BUDGET: u64 = 2 * MIB;
/// Budget: memory of hypervisor and dom0 after boot, without guests.
const MEMORY_BUDGET: u64 = 16 * MIB;
/// Budget: memory of an idle guest beyond its RAM.
const GUEST_BUDGET: u64 = 256 * 1024;
/// Guests that are created to see what one costs.
const GUESTS: u8 = 4;
/// RAM of each in MiB.
const GUEST_MEMORY_MIB: u32 = 256;

/// One figure.
struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
    budget: Option<f64>,
}

fn main() -> Result<()> {
    Arguments::parse();
    packages::ensure_installed()?;
    let built = build(false)?;
    lab::enter()?;
    let mut figures = Vec::new();
    let mut add = |name, value, unit, budget| figures.push(Figure { name, value, unit, budget });
    let image_bytes = std::fs::metadata(&built.image.path)?.len();
    add("image", as_f64(image_bytes), "bytes", Some(as_f64(IMAGE_BUDGET)));

    let directory = programs::target().join("measure");
    let disk = directory.join("disk1.img");
    let shape = Shape { cpus: 2, memory_mib: 2048, boot: Boot::Pxe };
    let mut world = World::start(&built, &directory, &shape, |lab| {
        built.debian.disk(&disk, "measured\n")?;
        lab.export_aoe(11, 1, &disk)
    })?;
    let manageable = world.operator.wait_for_node(Duration::from_secs(120))?;
    add(
        "netboot: power-on to first signed reply",
        manageable.duration_since(world.machine.started).as_secs_f64() * 1e3,
        "ms",
        None,
    );
    let before = world.operator.json(&["node", "info"])?;
    let own = number(&before, "hypervisor_bytes")? + number(&before, "dom0_bytes")?;
    add("memory of hypervisor", as_f64(number(&before, "hypervisor_bytes")?), "bytes", None);
    add("memory of dom0", as_f64(number(&before, "dom0_bytes")?), "bytes", None);
    add("memory of both", as_f64(own), "bytes", Some(as_f64(MEMORY_BUDGET)));

    // The first guest brings its kernel along; those after it show what a guest
    // itself costs.
    let mut free = Vec::new();
    for index in 0..=GUESTS {
        let name = format!("idle{index}");
        let guest = Guest {
            name: &name,
            number: index + 1,
            memory_mib: GUEST_MEMORY_MIB,
            vcpus: 1,
            volume: "aoe:e11.1",
        };
        let file = world.vm_file(&built.debian, &guest)?;
        let text = std::fs::read_to_string(&file)?
            .replace("disk = [ \"aoe:e11.1,rw\" ]", "disk = [ \"aoe:e11.1,ro\" ]");
        std::fs::write(&file, text)?;
        world.operator.run(&["create", &file.display().to_string()])?;
        free.push(number(&world.operator.json(&["node", "info"])?, "memory_free_bytes")?);
    }
    std::thread::sleep(Duration::from_secs(5));
    let last = number(&world.operator.json(&["node", "info"])?, "memory_free_bytes")?;
    let first = *free.first().context("no guest")?;
    let each = (first.saturating_sub(last)) / u64::from(GUESTS);
    let extra = each.saturating_sub(u64::from(GUEST_MEMORY_MIB) * MIB);
    add("memory of a guest beyond its RAM", as_f64(extra), "bytes", Some(as_f64(GUEST_BUDGET)));
    let list = world.operator.json(&["list"])?;
    let mut starts: Vec<u64> = list
        .as_array()
        .context("no list")?
        .iter()
        .map(|guest| Ok(number(guest, "first_run_ns")?.saturating_sub(number(guest, "created_ns")?)))
        .collect::<Result<_>>()?;
    starts.sort_unstable();
    let median = *starts.get(starts.len() / 2).context("no starts")?;
    add(
        "create accepted to first guest instruction, disk connected, median",
        as_f64(median) / 1e6,
        "ms",
        None,
    );
    world.machine.process.kill();
    ensure!(!NODE.is_empty(), "the node has no address");
    report(&figures)
}

fn number(value: &Value, key: &str) -> Result<u64> {
    value.get(key).and_then(Value::as_u64).with_context(|| format!("no number {key} in {value}"))
}

#[expect(clippy::cast_precision_loss, reason = "sizes and times are far below 2^53")]
const fn as_f64(value: u64) -> f64 {
    value as f64
}

fn report(figures: &[Figure]) -> Result<()> {
    let mut exceeded = Vec::new();
    for figure in figures {
        let budget = figure.budget.map_or_else(String::new, |budget| format!("  budget {budget:.0}"));
        println!("{:<68} {:>14.1} {:<5}{budget}", figure.name, figure.value, figure.unit);
        if figure.budget.is_some_and(|budget| figure.value > budget) {
            exceeded.push(figure.name);
        }
    }
    let all: Vec<Value> = figures
        .iter()
        .map(|it| json!({ "name": it.name, "value": it.value, "unit": it.unit, "budget": it.budget }))
        .collect();
    let path = programs::target().join("measure.json");
    std::fs::write(&path, serde_json::to_string_pretty(&all)?)?;
    println!("written to {}", path.display());
    ensure!(exceeded.is_empty(), "over budget: {}", exceeded.join(", "));
    Ok(())
}
