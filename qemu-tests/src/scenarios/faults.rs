//! A fault in dom0 is contained: dom0 is restarted, guests' CPUs run on.

use super::directory;
use crate::lab::NODE;
use crate::machine::{Boot, CPUS, Shape};
use crate::programs::target;
use crate::test_guest::{Description, Flavour, find};
use crate::world::{World, build};
use anyhow::{Context, Result, ensure};
use ed25519_dalek::SigningKey;
use mgmt_proto::handshake::Meant;
use mgmt_proto::verb::{Fault, GuestFacts, NodeFacts, Reply, Request, State};
use redoubt::Connection;
use std::time::{Duration, Instant};

const NODE_LIMIT: Duration = Duration::from_secs(60);
const GUEST_LIMIT: Duration = Duration::from_secs(90);
/// How long dom0 may take to answer again once its fault is noticed.
const RESTART_LIMIT: Duration = Duration::from_secs(1);
/// How long dom0 may be busy before the hypervisor takes it for hung.
const WATCHDOG: Duration = Duration::from_secs(5);
/// How long one attempt to ask may take: short, so that what was sent to a dead
/// dom0 is given up soon.
const ATTEMPT: Duration = Duration::from_millis(200);

/// Panic, wild access and endless loop, one after the other, while a guest counts.
pub(super) fn dom0_faults_are_contained() -> Result<()> {
    let built = build(true)?;
    let files = find(&target(), Flavour::Cloud)?;
    let directory = directory("faults");
    let shape = Shape { cpus: CPUS, memory_mib: 1024, boot: Boot::Kernel(built.image.path.clone()) };
    let world = World::start(&built, &directory, &shape, |_| Ok(()))?;
    world.operator.wait_for_node(NODE_LIMIT).with_context(|| world.machine.serial_text())?;
    let key = keys::secret::load(&built.image.operator_key_path)?;
    world.test_guest(&files, &Description { name: "counter", job: "job=spin", ..Description::default() })?;
    world.wait_for_console("counter", "TEST spinning", GUEST_LIMIT)?;

    let cases = [
        (Fault::Panic, Duration::ZERO, "an operator asked for a panic"),
        (Fault::Access, Duration::ZERO, "because it faulted"),
        (Fault::Hang, WATCHDOG, "because it hung"),
    ];
    for (fault, unnoticed, cause) in cases {
        let (before, guest_before) = look(&key)?;
        let looked = Instant::now();
        let log_before = log_length(&world)?;
        let injected = inject(&key, fault)?;
        let (after, guest) = wait_for_restart(&key, before.dom0_starts, unnoticed + RESTART_LIMIT * 5)?;
        let took = injected.elapsed();
        println!("  {fault:?}: the node answers again after {} ms", took.as_millis());
        ensure!(took <= unnoticed + RESTART_LIMIT, "{fault:?}: it took {took:?} to answer again");
        ensure!(after.dom0_starts == before.dom0_starts + 1, "{fault:?}: {} starts", after.dom0_starts);
        ensure!(guest.machine.name == "counter", "{fault:?}: another guest is listed");
        // Its CPU ran on meanwhile, not only before and after.
        ensure!(guest.state == State::Detached, "{fault:?}: the guest is {:?}", guest.state);
        let ran = look(&key)?.1.cpu_time_ns.saturating_sub(guest_before.cpu_time_ns);
        let whole = looked.elapsed();
        println!("  {fault:?}: the guest ran for {} of {} ms", ran / 1_000_000, whole.as_millis());
        ensure!(u128::from(ran) * 4 > whole.as_nanos() * 3, "{fault:?}: the guest ran for {ran} ns only");
        let log = world.operator.run(&["node", "log"])?;
        let new = log.get(log_before..).unwrap_or(&log);
        println!("  {fault:?}: log: {}", new.trim().replace('\n', " | "));
        ensure!(new.contains("dom0") && new.contains(cause), "{fault:?}: the log does not say why: {new}");
    }
    // The node still starts guests, with devices.
    world.operator.run(&["destroy", "counter"])?;
    world.test_guest(&files, &Description { name: "later", ..Description::default() })?;
    world.wait_for_console("later", "TEST idle", GUEST_LIMIT)
}

fn log_length(world: &World) -> Result<usize> {
    Ok(world.operator.run(&["node", "log"])?.len())
}

fn connect(key: &SigningKey) -> Result<Connection> {
    let mut connection =
        Connection::open_within(NODE, key, &Meant::default(), ATTEMPT).map_err(anyhow::Error::msg)?;
    connection.set_answer_timeout(ATTEMPT);
    Ok(connection)
}

/// The node and its one guest.
fn look(key: &SigningKey) -> Result<(NodeFacts, GuestFacts)> {
    let mut connection = connect(key)?;
    let node = connection.request(Request::NodeInfo).map_err(anyhow::Error::msg)?;
    let guests = connection.request(Request::List).map_err(anyhow::Error::msg)?;
    let (Reply::Node(node), Reply::Guests(guests)) = (node, guests) else {
        anyhow::bail!("another answer than was asked for")
    };
    Ok((*node, guests.into_iter().next().context("the guest is gone")?))
}

/// Asks for a fault; returns when it was asked for.
fn inject(key: &SigningKey, fault: Fault) -> Result<Instant> {
    let mut connection = connect(key)?;
    let asked = Instant::now();
    connection.request_last(Request::InjectFault(fault)).map_err(anyhow::Error::msg)?;
    Ok(asked)
}

fn wait_for_restart(key: &SigningKey, starts: u32, limit: Duration) -> Result<(NodeFacts, GuestFacts)> {
    let deadline = Instant::now() + limit;
    loop {
        match look(key) {
            Ok((node, guest)) if node.dom0_starts > starts => return Ok((node, guest)),
            Ok(_) => {}
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
        }
        ensure!(Instant::now() < deadline, "dom0 was not restarted");
        std::thread::sleep(Duration::from_millis(20));
    }
}
