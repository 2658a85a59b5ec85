//! A hostile network changes nothing: frames, connections, replayed sessions.

use super::directory;
use super::frames::{Random, frame};
use crate::lab::NODE;
use crate::machine::{Boot, CPUS, Shape};
use crate::operator::Operator;
use crate::programs::target;
use crate::test_guest::{Description, Flavour, find};
use crate::world::{Built, World, build};
use anyhow::{Context, Result, bail, ensure};
use mgmt_proto::handshake::{GREETING_BYTES, HELLO_BYTES};
use mgmt_proto::manifest::DEFAULT_PORT;
use pnet_datalink::Channel;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const NODE_LIMIT: Duration = Duration::from_secs(60);
const GUEST_LIMIT: Duration = Duration::from_secs(90);
/// How long the node may take to answer once the noise ends.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const FRAMES: u32 = 20_000;
const CONNECTIONS: u32 = 500;
/// How many connections are kept half open.
const HALF_OPEN: usize = 100;
/// Most that dom0's memory may grow.
const GROWTH_BYTES: u64 = 2 << 20;
const SEED: u64 = 0x5eed_0000_0000_0077;

/// 20,000 hostile frames, 500 hostile connections and a replayed session; the node answers its operator after each.
pub(super) fn hostile_network() -> Result<()> {
    let built = build(false)?;
    let files = find(&target(), Flavour::Cloud)?;
    let directory = directory("hostile_network");
    let shape = Shape { cpus: CPUS, memory_mib: 1024, boot: Boot::Kernel(built.image.path.clone()) };
    let world = World::start(&built, &directory, &shape, |_| Ok(()))?;
    world.operator.wait_for_node(NODE_LIMIT).with_context(|| world.machine.serial_text())?;
    world.test_guest(&files, &Description { name: "bystander", ..Description::default() })?;
    world.wait_for_console("bystander", "TEST idle", GUEST_LIMIT)?;
    let before = dom0_bytes(&world)?;
    println!("  seed {SEED:#x}");
    let mut random = Random(SEED);

    frames(&mut random)?;
    answers(&world, "frames")?;
    let open = connections(&mut random)?;
    answers(&world, "connections, of which some stay half open")?;
    drop(open);
    replay(&world, &built)?;

    let grown = dom0_bytes(&world)?.saturating_sub(before);
    println!("  dom0 grew by {grown} bytes");
    ensure!(grown < GROWTH_BYTES, "dom0 grew by {grown} bytes");
    let facts = world.operator.json(&["node", "info"])?;
    ensure!(facts.get("dom0_starts").and_then(Value::as_u64) == Some(1), "dom0 failed: {facts}");
    Ok(())
}

pub(super) fn dom0_bytes(world: &World) -> Result<u64> {
    let facts = world.operator.json(&["node", "info"])?;
    facts.get("dom0_bytes").and_then(Value::as_u64).context("no dom0_bytes in node info")
}

/// The node answers its operator in time.
fn answers(world: &World, after: &str) -> Result<()> {
    let asked = Instant::now();
    loop {
        let answer = world.operator.try_run(&["--timeout", "2", "list"])?;
        let took = asked.elapsed();
        if answer.code == 0 && took <= ANSWER_LIMIT {
            println!("  after {after}: the node answers in {} ms", took.as_millis());
            ensure!(answer.out.contains("bystander"), "after {after}: the guest is gone: {}", answer.out);
            return Ok(());
        }
        ensure!(took <= ANSWER_LIMIT, "after {after}: no answer within {took:?}: {}", answer.error);
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn frames(random: &mut Random) -> Result<()> {
    let interface = pnet_datalink::interfaces().into_iter().find(|interface| interface.name == "br0");
    let interface = interface.context("no bridge")?;
    let Channel::Ethernet(mut sender, _) =
        pnet_datalink::channel(&interface, pnet_datalink::Config::default())?
    else {
        bail!("no raw socket")
    };
    let began = Instant::now();
    for number in 0..FRAMES {
        let frame = frame(random, DEFAULT_PORT);
        sender.send_to(&frame, None).context("cannot send a frame")??;
        if number % 50 == 0 {
            // As fast as the emulated card takes them.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    println!("  {FRAMES} frames in {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}

pub(super) fn management_port() -> Result<SocketAddr> {
    Ok(format!("{NODE}:{DEFAULT_PORT}").parse()?)
}

/// Connections that send nothing sensible; those returned are still open.
fn connections(random: &mut Random) -> Result<Vec<TcpStream>> {
    let address = management_port()?;
    let (mut open, mut refused) = (Vec::new(), 0);
    for _ in 0..CONNECTIONS {
        let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) else {
            refused += 1;
            continue;
        };
        let length = random.below(3000);
        let _ = stream.write_all(&random.bytes(length));
        match random.below(4) {
            0 if open.len() < HALF_OPEN => open.push(stream),
            1 => {
                let _ = stream.shutdown(Shutdown::Write);
            }
            _ => {}
        }
    }
    println!("  {CONNECTIONS} connections, {refused} of them not taken, {} kept open", open.len());
    Ok(open)
}

/// Everything that an operator sent in one session, sent again.
fn replay(world: &World, built: &Built) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let through = listener.local_addr()?.to_string();
    let record = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&record);
    let address = management_port()?;
    std::thread::spawn(move || forward(&listener, address, &copy));
    let operator =
        Operator::new(&built.cli, &built.image.operator_key_path, &world.directory.join("proxy"), &through);
    operator.run(&["pause", "bystander"])?;
    ensure!(state(world)? == "paused", "the recorded session did nothing");
    world.operator.run(&["unpause", "bystander"])?;
    let bytes = record.lock().map(|bytes| bytes.clone()).unwrap_or_default();
    ensure!(bytes.len() > 100, "nothing was recorded");
    // Whole; and cut, with the rest never sent. At once, and as an operator sends it.
    for (length, is_patient) in
        [bytes.len(), bytes.len() - 1, bytes.len() / 2].into_iter().flat_map(|it| [(it, true), (it, false)])
    {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_millis(500)))?;
        let said = bytes.get(..length).unwrap_or_default();
        let mut answer = Vec::new();
        if is_patient {
            let mut greeting = [0; GREETING_BYTES];
            stream.read_exact(&mut greeting).context("the node does not greet")?;
            let (hello, rest) = said.split_at_checked(HELLO_BYTES).unwrap_or((said, &[]));
            stream.write_all(hello)?;
            let _ = stream.read_to_end(&mut answer);
            let _ = stream.write_all(rest);
        } else {
            let _ = stream.write_all(said);
        }
        let _ = stream.read_to_end(&mut answer);
        println!("  {length} of {} recorded bytes again: {} bytes of answer", bytes.len(), answer.len());
        ensure!(answer.len() <= GREETING_BYTES, "a recording was answered");
        let now = state(world)?;
        ensure!(now != "paused", "a replayed session paused the guest");
    }
    answers(world, "replayed sessions")
}

fn state(world: &World) -> Result<String> {
    let guests = world.operator.json(&["list"])?;
    let state = guests.as_array().and_then(|guests| guests.first()).and_then(|guest| guest.get("state"));
    Ok(state.and_then(Value::as_str).context("no guest")?.to_string())
}

/// Joins one client and the node, keeping what the client sent.
fn forward(listener: &TcpListener, node: SocketAddr, record: &Mutex<Vec<u8>>) -> Result<()> {
    let (mut client, _) = listener.accept()?;
    let mut server = TcpStream::connect(node)?;
    let (mut back, mut to_client) = (server.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut back, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let mut buffer = [0; 4096];
    loop {
        let count = client.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
        if let Ok(mut record) = record.lock() {
            record.extend_from_slice(bytes);
        }
        server.write_all(bytes)?;
    }
    let _ = server.shutdown(Shutdown::Both);
    Ok(())
}
