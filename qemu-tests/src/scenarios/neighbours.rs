//! A hostile guest does not disturb its neighbour.

use super::directory;
use crate::http;
use crate::lab::guest_address;
use crate::machine::{Boot, Shape};
use crate::programs::target;
use crate::test_guest::{Description, Flavour, find};
use crate::world::{World, build};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};

const NODE_LIMIT: Duration = Duration::from_secs(60);
const GUEST_LIMIT: Duration = Duration::from_secs(90);
/// How long the hostile guest does what it can.
const DURATION: Duration = Duration::from_secs(25);
/// How often the neighbour's page is fetched.
const PAUSE: Duration = Duration::from_millis(500);

/// One guest writes over PCI space, device registers, MSRs and ports; the page of
/// the other is there each time it is asked for.
pub(super) fn hostile_guest_neighbour_serves() -> Result<()> {
    let built = build(false)?;
    let files = find(&target(), Flavour::Cloud)?;
    let directory = directory("neighbours");
    let shape = Shape { cpus: 2, memory_mib: 1024, boot: Boot::Kernel(built.image.path.clone()) };
    let disk = directory.join("disk.img");
    let mut world = World::start(&built, &directory, &shape, |lab| {
        std::fs::File::create(&disk)?.set_len(16 << 20)?;
        lab.export_aoe(1, 1, &disk)
    })?;
    world.operator.wait_for_node(NODE_LIMIT).with_context(|| world.machine.serial_text())?;
    let neighbour = Description {
        name: "neighbour",
        number: 1,
        job: "job=serve page=neighbour",
        ..Description::default()
    };
    world.test_guest(&files, &neighbour)?;
    world.wait_for_console("neighbour", "TEST serving", GUEST_LIMIT)?;
    // What it does may end it at any time: it starts anew each time.
    let hostile = Description {
        name: "hostile",
        number: 2,
        job: "job=scribble panic=-1",
        more: "disk = [ \"aoe:e1.1\" ]\non_crash = \"restart\"\non_poweroff = \"restart\"\non_reboot = \"restart\"",
        ..Description::default()
    };
    world.test_guest(&files, &hostile)?;
    world.wait_for_console("hostile", "TEST scribbling", GUEST_LIMIT)?;

    let address = guest_address(1).0;
    let began = Instant::now();
    let (mut pages, mut slowest) = (0, Duration::ZERO);
    while began.elapsed() < DURATION {
        let asked = Instant::now();
        let page = http::get(&address, "/").with_context(|| {
            format!("the neighbour's page {pages} did not come: {}", world.machine.serial_text())
        })?;
        ensure!(page == b"page of neighbour\n", "the neighbour serves something else");
        slowest = slowest.max(asked.elapsed());
        pages += 1;
        std::thread::sleep(PAUSE);
    }
    println!("  {pages} pages of the neighbour, the slowest in {} ms", slowest.as_millis());
    let shown = world.operator.run(&["console", "hostile", "--once"])?;
    for what in ["PCI", "MSRs", "ports"] {
        let count = shown.matches(&format!("TEST scribbled over {what}")).count();
        println!("  scribbled over {what}: {count} times");
    }
    ensure!(shown.contains("TEST scribbled over"), "the hostile guest did nothing: {shown}");
    println!("  the hostile guest started {} times", shown.matches("TEST scribbling").count());
    let facts = world.operator.json(&["node", "info"])?;
    ensure!(facts.get("dom0_starts").and_then(Value::as_u64) == Some(1), "dom0 failed: {facts}");
    let serial = world.machine.serial_text().to_lowercase();
    ensure!(!serial.contains("panic"), "the node's serial log has a panic: {serial}");
    ensure!(world.machine.process.is_running(), "the node ended");
    Ok(())
}
