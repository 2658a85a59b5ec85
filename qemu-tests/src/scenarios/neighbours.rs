//! Hostile guests do not disturb their neighbour.

use super::directory;
use crate::http;
use crate::lab::guest_address;
use crate::machine::{Boot, CPUS, Shape};
use crate::programs::target;
use crate::test_guest::{Description, Flavour, find};
use crate::world::{World, build};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};

const NODE_LIMIT: Duration = Duration::from_secs(60);
const GUEST_LIMIT: Duration = Duration::from_secs(90);
/// How long the hostile guests do what they can.
const DURATION: Duration = Duration::from_secs(25);
/// What hostile guests write to.
const TARGETS: [&str; 3] = ["pci", "msrs", "ports"];
/// Most times [`DURATION`] for all of them; they begin anew after every second.
const ROUNDS: usize = 8;
/// How often the neighbour's page is fetched.
const PAUSE: Duration = Duration::from_millis(500);

/// Two guests write over PCI space, device registers, MSRs and ports; the page of
/// the third is there each time it is asked for.
pub(super) fn hostile_guest_neighbour_serves() -> Result<()> {
    let built = build(false)?;
    let files = find(&target(), Flavour::Cloud)?;
    let directory = directory("neighbours");
    let shape = Shape { cpus: CPUS, memory_mib: 1024, boot: Boot::Kernel(built.image.path.clone()) };
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
    // What they do may end them at any time: they start anew each time.
    let again = "on_crash = \"restart\"\non_poweroff = \"restart\"\non_reboot = \"restart\"";
    let with_disk = format!("disk = [ \"aoe:e1.1\" ]\n{again}");
    let hostile = [
        Description {
            name: "hostile1",
            number: 2,
            job: "job=scribble targets=pci,msrs panic=-1",
            more: &with_disk,
            ..Description::default()
        },
        Description {
            name: "hostile2",
            number: 3,
            job: "job=scribble targets=ports panic=-1",
            more: again,
            ..Description::default()
        },
    ];
    for guest in &hostile {
        world.test_guest(&files, guest)?;
    }
    for guest in &hostile {
        world.wait_for_console(guest.name, "TEST scribbling", GUEST_LIMIT)?;
    }

    // Until each got through with each, which takes a slow machine longer.
    let mut shown = String::new();
    let scribbled = |what: &str, shown: &str| shown.matches(&format!("TEST scribbled over {what}")).count();
    for round in 1..=ROUNDS {
        fetch_for_a_while(&world)?;
        for guest in &hostile {
            shown += &world.operator.run(&["console", guest.name, "--once"])?;
        }
        if TARGETS.iter().all(|what| scribbled(what, &shown) > 0) {
            break;
        }
        // One may have stopped itself for good: it begins anew.
        if round % 2 == 0 {
            for guest in &hostile {
                world.operator.run(&["destroy", guest.name])?;
                world.test_guest(&files, guest)?;
            }
        }
    }
    println!("  the hostile guests started {} times", shown.matches("TEST scribbling").count());
    for what in TARGETS {
        let count = scribbled(what, &shown);
        println!("  scribbled over {what}: {count} times seen");
        ensure!(count > 0, "no hostile guest got through with {what}: {shown}");
    }
    node_held(&mut world)
}

/// Nothing of the node itself failed.
fn node_held(world: &mut World) -> Result<()> {
    let facts = world.operator.json(&["node", "info"])?;
    ensure!(facts.get("dom0_starts").and_then(Value::as_u64) == Some(1), "dom0 failed: {facts}");
    // What scribbles over ports tells the node of panics of its own kernel.
    let serial = world.machine.serial_text();
    let failed = ["panicked at", "hypervisor failed", "error dom0:"].iter().find(|it| serial.contains(**it));
    ensure!(failed.is_none(), "the node's serial log has a panic: {serial}");
    ensure!(world.machine.process.is_running(), "the node ended");
    Ok(())
}

/// Fetches the neighbour's page all the time that the others do what they can.
fn fetch_for_a_while(world: &World) -> Result<()> {
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
    Ok(())
}
