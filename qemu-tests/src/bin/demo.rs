//! `cargo demo`: from power-on over the network to two Linux guests on network
//! storage, serving pages.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use qemu_tests::lab::{HOST, NODE, guest_address};
use qemu_tests::world::{Guest, World, build, target_name};
use qemu_tests::{http, lab, packages, programs};
use std::io::BufRead;
use std::time::{Duration, Instant};

/// Netboots a node, starts two Debian guests on AoE and iSCSI disks, fetches
/// their pages.
#[derive(Parser)]
#[command(name = "cargo demo")]
struct Arguments {
    /// Leave everything running and print commands to try.
    #[arg(long)]
    keep: bool,
    /// CPUs of the machine: one for dom0, the others for the guests.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,
}

/// Memory of the node in MiB.
const NODE_MEMORY_MIB: u32 = 1536;
/// How long the node may take to answer.
const NODE_LIMIT: Duration = Duration::from_secs(90);
/// Pause between two polls of the machine.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// How long a guest may take to serve its page.
const GUEST_LIMIT: Duration = Duration::from_secs(600);

fn main() -> Result<()> {
    let arguments = Arguments::parse_from(programs::arguments());
    packages::ensure_installed()?;
    let built = build(false)?;
    lab::enter()?;

    let began = Instant::now();
    let step = |text: &str| println!("[{:5.1} s] {text}", began.elapsed().as_secs_f64());
    let directory = programs::target().join("demo");
    let (disk1, disk2) = (directory.join("disk1.img"), directory.join("disk2.img"));
    let volume2 = format!("iscsi://{HOST}/{}/1", target_name(1));
    step("starting DHCP, TFTP, vblade and tgtd in a namespace of their own");
    let mut world =
        World::start(&built, &directory, &World::netboot(NODE_MEMORY_MIB, arguments.cpus), |lab| {
            built.debian.disk(&disk1, "Hello from web1, whose disk is an AoE target.\n")?;
            built.debian.disk(&disk2, "Hello from web2, whose disk is an iSCSI target.\n")?;
            lab.export_aoe(11, 1, &disk1)?;
            lab.export_iscsi(1, &target_name(1), &disk2)
        })?;
    let power_on = world.machine.started;
    step("power on: a machine without disks boots from the network");
    let manageable = world.operator.wait_for_node(NODE_LIMIT).with_context(|| world.machine.serial_text())?;
    step(&format!("the node answers at {NODE}; its storage:"));
    print!("{}", world.operator.run(&["storage", "discover"])?);

    let guests = [
        Guest { name: "web1", number: 1, memory_mib: 384, vcpus: 1, volume: "aoe:e11.1" },
        Guest { name: "web2", number: 2, memory_mib: 384, vcpus: 1, volume: &volume2 },
    ];
    for guest in &guests {
        let file = world.vm_file(&built.debian, guest)?;
        step(&format!("redoubt create {}", file.display()));
        world.operator.run(&["create", &file.display().to_string()])?;
    }
    step("both are created; waiting for their pages");
    let mut served = Vec::new();
    for guest in &guests {
        let (address, _) = guest_address(guest.number);
        let page = http::wait(&address, "/", GUEST_LIMIT).with_context(|| {
            let console = world.operator.run(&["console", guest.name, "--once"]).unwrap_or_default();
            let last: Vec<&str> = console.lines().rev().take(10).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            format!("{} serves no page at {address}; its console:\n{}", guest.name, last.join("\n"))
        })?;
        let page = String::from_utf8_lossy(&page).into_owned();
        ensure!(page.contains(guest.name), "{} serves another page: {page}", guest.name);
        served.push(Instant::now());
        step(&format!("http://{address}/ says: {}", page.trim()));
    }
    println!("\n{}", world.operator.run(&["list"])?);
    timeline(&world, power_on, manageable, &served)?;

    if arguments.keep {
        return keep(&mut world);
    }
    step("shutting the guests down by their power buttons");
    world.operator.run(&["--timeout", "120", "shutdown", "-w", "-a"])?;
    step("powering the node off");
    world.operator.run(&["node", "poweroff"])?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.machine.process.is_running() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
    }
    ensure!(!world.machine.process.is_running(), "the machine did not turn itself off");
    step("done");
    Ok(())
}

/// When what happened, from power-on.
fn timeline(world: &World, power_on: Instant, manageable: Instant, served: &[Instant]) -> Result<()> {
    let node = world.operator.json(&["node", "info"])?;
    let asked = Instant::now();
    let uptime_ns =
        node.get("uptime_ns").and_then(serde_json::Value::as_u64).context("no uptime in node info")?;
    // The node's clock starts when its kernel does: place it on ours.
    let kernel = asked.checked_sub(Duration::from_nanos(uptime_ns)).context("the node's clock is wrong")?;
    println!("timeline, seconds from power-on:");
    println!("  {:6.1}  image handed over", kernel.saturating_duration_since(power_on).as_secs_f64());
    println!("  {:6.1}  node manageable", manageable.duration_since(power_on).as_secs_f64());
    let guests = world.operator.json(&["list"])?;
    let mut pages = served.iter();
    for guest in guests.as_array().context("no list of guests")? {
        let first =
            guest.get("first_run_ns").and_then(serde_json::Value::as_u64).context("no first run in list")?;
        let first = (kernel + Duration::from_nanos(first)).duration_since(power_on).as_secs_f64();
        let page = pages.next().map_or(0.0, |at| at.duration_since(power_on).as_secs_f64());
        let name = guest.get("name").and_then(serde_json::Value::as_str).unwrap_or("guest");
        println!("  {first:6.1}  {name}: kernel started");
        println!("  {page:6.1}  {name}: serving");
    }
    Ok(())
}

/// Prints what to try and waits for the Enter key; where there is none, as for a service, until
/// the program is ended or the node turns itself off.
fn keep(world: &mut World) -> Result<()> {
    let enter = lab::entrance();
    println!("everything keeps running; in another terminal, try:");
    println!("  {enter} {} list", world.operator.shown());
    println!("  {enter} {} console web1     (Ctrl+] leaves)", world.operator.shown());
    println!("  {enter} curl http://{}/", guest_address(1).0);
    println!("logs and disks are in {}", world.directory.display());
    println!("press Enter, or send SIGTERM, to end everything");
    stay(&mut std::io::stdin().lock(), || world.machine.process.is_running());
    Ok(())
}

/// Waits for a line, or for the end of the machine where no line can come: nothing at all is
/// the end of input, or that there is none.
fn stay(input: &mut dyn BufRead, mut is_running: impl FnMut() -> bool) {
    let mut line = String::new();
    if input.read_line(&mut line).unwrap_or_default() > 0 {
        return;
    }
    while is_running() {
        std::thread::sleep(LOOK_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::stay;
    use std::cell::Cell;

    #[test]
    fn it_stays_without_input_until_the_machine_ends() {
        let looks = Cell::new(0);
        let runs = || looks.replace(looks.get() + 1) < 2;
        stay(&mut &b"\n"[..], runs);
        assert_eq!(looks.get(), 0, "a line ends it");
        stay(&mut &b""[..], runs);
        assert_eq!(looks.get(), 3, "until the machine runs no more");
    }
}
