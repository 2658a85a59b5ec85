//! Traffic arrives as it was sent: guest to guest, guest to wire, wire to guest.

use super::directory;
use crate::http;
use crate::lab::{HOST, guest_address};
use crate::machine::{Boot, CPUS, Shape};
use crate::programs::target;
use crate::test_guest::{Description, Flavour, find};
use crate::world::{World, build};
use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

const NODE_LIMIT: Duration = Duration::from_secs(60);
const GUEST_LIMIT: Duration = Duration::from_secs(90);
/// Traffic in each direction unless `REDOUBT_TRAFFIC_MIB` is set.
const TRAFFIC_MIB: u64 = 64;
/// Most that a guest keeps in memory and sends again and again.
const FILE_MIB: u64 = 64;
/// What is slower than this hangs.
const SLOWEST_MIB_PER_S: u64 = 1;
/// Where the namespace serves its own bytes.
const PORT: u16 = 8000;

/// Three transfers, each with its SHA-256 taken at both ends.
pub(super) fn traffic_is_not_corrupted() -> Result<()> {
    let wanted = std::env::var("REDOUBT_TRAFFIC_MIB").ok().and_then(|text| text.parse().ok());
    let wanted: u64 = wanted.unwrap_or(TRAFFIC_MIB);
    let file_mib = wanted.clamp(1, FILE_MIB);
    let rounds = wanted.div_ceil(file_mib);
    let built = build(false)?;
    let files = find(&target(), Flavour::Cloud)?;
    let directory = directory("traffic");
    let shape = Shape { cpus: CPUS, memory_mib: 1536, boot: Boot::Kernel(built.image.path.clone()) };
    let world = World::start(&built, &directory, &shape, |_| Ok(()))?;
    let bytes = random_bytes(file_mib << 20);
    let own = hex(&Sha256::digest(&bytes));
    let listener = TcpListener::bind((HOST, PORT)).context("cannot listen in the namespace")?;
    std::thread::spawn(move || serve(&listener, &bytes));
    world.operator.wait_for_node(NODE_LIMIT).with_context(|| world.machine.serial_text())?;

    let limit = GUEST_LIMIT + Duration::from_secs(2 * wanted / SLOWEST_MIB_PER_S);
    let job = format!("job=serve mib={file_mib}");
    world.test_guest(
        &files,
        &Description { name: "source", number: 1, memory_mib: 512, job: &job, ..Description::default() },
    )?;
    world.wait_for_console("source", "TEST serving", GUEST_LIMIT)?;
    let source = guest_address(1).0;
    let digest = http::get(&source, "/digest").context("the guest serves no digest")?;
    let digest = String::from_utf8_lossy(&digest).trim().to_string();
    ensure!(digest.len() == 64, "no digest: {digest}");

    // Guest to wire.
    let began = Instant::now();
    for _ in 0..rounds {
        let data = http::get(&source, "/data").context("the guest serves no data")?;
        ensure!(data.len() as u64 == file_mib << 20, "{} bytes arrived", data.len());
        ensure!(hex(&Sha256::digest(&data)) == digest, "guest to wire: other bytes than were sent");
    }
    report("guest to wire", wanted, began);

    // Guest to guest and wire to guest.
    let began = Instant::now();
    let job = format!("job=fetch sources={source},{HOST}:{PORT} rounds={rounds}");
    world
        .test_guest(&files, &Description { name: "sink", number: 2, job: &job, ..Description::default() })?;
    world.wait_for_console("sink", "TEST fetched all", limit)?;
    report("guest to guest and wire to guest", 2 * wanted, began);
    let shown = world.operator.run(&["console", "sink", "--once"])?;
    for (name, digest) in [(source.clone(), digest), (format!("{HOST}:{PORT}"), own)] {
        let wanted_line = format!("TEST fetched {name} {digest}");
        let found = shown.lines().filter(|line| line.contains(&wanted_line)).count() as u64;
        ensure!(found == rounds, "{name}: {found} of {rounds} transfers have the right digest: {shown}");
    }
    Ok(())
}

fn report(what: &str, mib: u64, began: Instant) {
    println!("  {what}: {mib} MiB in {:.1} s, no byte wrong", began.elapsed().as_secs_f64());
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes without a pattern, the same each time.
fn random_bytes(length: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::new();
    for _ in 0..length / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

/// Serves the bytes to its clients, one after the other.
fn serve(listener: &TcpListener, bytes: &[u8]) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut request = [0; 1024];
        let _ = stream.read(&mut request);
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len());
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(bytes));
    }
}
