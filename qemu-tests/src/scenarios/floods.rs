//! Every port scanned, and an operator served while strangers crowd the management port.

use super::directory;
use super::frames::{Random, syn};
use super::hostile_network::{dom0_bytes, management_port};
use crate::lab::NODE;
use crate::machine::{Boot, CPUS, Shape};
use crate::operator::Operator;
use crate::process::run;
use crate::world::{World, build};
use anyhow::{Context, Result, bail, ensure};
use mgmt_proto::manifest::DEFAULT_PORT;
use pnet_datalink::Channel;
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const NODE_LIMIT: Duration = Duration::from_secs(60);
/// Commands of the second operator's that are timed, each with its own session.
const SAMPLES: usize = 25;
/// What one median may differ from another without a cause, on a busy machine.
const NOISE: Duration = Duration::from_millis(40);
/// SYNs in one go, and the pause after it: two thousand a second.
const BURST: u32 = 20;
const BURST_PAUSE: Duration = Duration::from_millis(10);
/// Connections that send nothing, and that send their first frame a byte at a time.
const SILENT: usize = 200;
const SLOW: usize = 50;
/// Most that all sockets of the node may take.
const SOCKETS_BYTES: u64 = 8 << 20;
/// Most that dom0's memory may grow once it was under attack.
const GROWTH_BYTES: u64 = 512 << 10;
/// Where the strangers connect from.
const STRANGER: &str = "10.77.0.66";
const SEED: u64 = 0x5eed_0000_0000_0078;

/// A scan of all ports, a SYN flood, half-open connections, slow clients: only the
/// management port answers, a second operator's `list` takes less than twice what it takes on
/// an idle node, and memory stays within the sockets' bound and does not grow again.
pub(super) fn floods_and_scans() -> Result<()> {
    let built = build(false)?;
    let directory = directory("floods");
    let shape = Shape { cpus: CPUS, memory_mib: 1024, boot: Boot::Kernel(built.image.path.clone()) };
    let world = World::start(&built, &directory, &shape, |_| Ok(()))?;
    world.operator.wait_for_node(NODE_LIMIT).with_context(|| world.machine.serial_text())?;
    let second =
        Operator::new(&built.cli, &built.image.operator_key_path, &world.directory.join("second"), NODE);

    add_strangers()?;
    scan()?;
    let idle = median(&second)?;
    println!("  idle: list takes {} ms", idle.as_millis());
    // Twice to fill what is bounded; from then on nothing may grow.
    for growth_bytes in [SOCKETS_BYTES, SOCKETS_BYTES, GROWTH_BYTES] {
        let before = dom0_bytes(&world)?;
        let sent = flood(|| no_slower(&second, idle, "under a flood of SYNs"))?;
        println!("  {sent} SYNs");
        {
            let _open = strangers(SILENT)?;
            no_slower(&second, idle, "beside silent connections")?;
        }
        slow_clients(|| no_slower(&second, idle, "beside slow clients"))?;
        let grown = dom0_bytes(&world)?.saturating_sub(before);
        println!("  dom0 grew by {grown} bytes");
        ensure!(grown <= growth_bytes, "dom0 grew by {grown} bytes");
    }
    let facts = world.operator.json(&["node", "info"])?;
    ensure!(facts.get("dom0_starts").and_then(Value::as_u64) == Some(1), "dom0 failed: {facts}");
    Ok(())
}

/// Gives the strangers' machine its address.
pub(super) fn add_strangers() -> Result<()> {
    run(Command::new("ip").args(["address", "add", &format!("{STRANGER}/24"), "dev", "br0"])).map(drop)
}

/// All ports of both protocols, by nmap.
fn scan() -> Result<()> {
    let began = Instant::now();
    for (kind, expected) in [("-sS", vec![DEFAULT_PORT]), ("-sU", vec![])] {
        let text = run(Command::new("nmap").args([
            "-n",
            "-Pn",
            kind,
            "-p1-65535",
            "--min-rate",
            "8000",
            "--max-retries",
            "1",
            "--host-timeout",
            "120s",
            "-oG",
            "-",
            NODE,
        ]))?;
        // `Ports: 22/open/tcp//…`; a silent port is "filtered" or "open|filtered".
        let mut open: Vec<u16> = Vec::new();
        for word in text.split([' ', '\t', ',']) {
            if let [port, "open", ..] = *word.split('/').collect::<Vec<_>>() {
                open.push(port.parse().with_context(|| format!("nmap says {word}"))?);
            }
        }
        ensure!(text.contains(NODE) && !text.contains("Timeout"), "nmap did not finish: {text}");
        ensure!(open == expected, "nmap {kind} finds {open:?} open: {text}");
    }
    println!(
        "  65535 TCP and UDP ports in {:.0} s: only {DEFAULT_PORT} answers",
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

/// What `list` takes, handshake and all.
fn median(operator: &Operator) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..SAMPLES {
        let asked = Instant::now();
        operator.run(&["--timeout", "5", "list"])?;
        times.push(asked.elapsed());
    }
    times.sort_unstable();
    times.get(SAMPLES / 2).copied().context("no samples")
}

fn no_slower(operator: &Operator, idle: Duration, when: &str) -> Result<()> {
    let now = median(operator).with_context(|| format!("{when} an operator is not served"))?;
    println!("  {when}: list takes {} ms", now.as_millis());
    ensure!(now < idle * 2 + NOISE, "{when} list takes {now:?}, on an idle node {idle:?}");
    Ok(())
}

/// SYNs of senders that do not exist, for as long as `meanwhile` takes.
pub(super) fn flood(meanwhile: impl FnOnce() -> Result<()>) -> Result<u64> {
    let interface = pnet_datalink::interfaces().into_iter().find(|interface| interface.name == "br0");
    let interface = interface.context("no bridge")?;
    let Channel::Ethernet(mut sender, _) =
        pnet_datalink::channel(&interface, pnet_datalink::Config::default())?
    else {
        bail!("no raw socket")
    };
    let (done, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    println!("  seed {SEED:#x}");
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(SEED);
            while !done.load(Ordering::Relaxed) {
                for _ in 0..BURST {
                    if sender.send_to(&syn(&mut random, DEFAULT_PORT), None).is_some_and(|sent| sent.is_ok())
                    {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
                std::thread::sleep(BURST_PAUSE);
            }
        });
        std::thread::sleep(Duration::from_secs(1));
        let result = meanwhile();
        done.store(true, Ordering::Relaxed);
        result
    });
    let sent = sent.into_inner();
    ensure!(sent > 1000, "only {sent} SYNs were sent");
    result.map(|()| sent)
}

/// A connection of the strangers' machine to the management port.
pub(super) fn connect(limit: Duration) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let own: SocketAddr = format!("{STRANGER}:0").parse()?;
    socket.bind(&own.into())?;
    socket.connect_timeout(&management_port()?.into(), limit)?;
    Ok(socket.into())
}

/// Connections that send nothing, of which the node knows nothing.
fn strangers(count: usize) -> Result<Vec<TcpStream>> {
    let open: Vec<TcpStream> = (0..count).filter_map(|_| connect(Duration::from_millis(500)).ok()).collect();
    ensure!(!open.is_empty(), "no connection was taken");
    println!("  {} of {count} connections were taken", open.len());
    Ok(open)
}

/// Strangers that send a long frame a byte at a time, and reconnect when dropped.
fn slow_clients(meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let done = AtomicBool::new(false);
    let mut open = strangers(SLOW)?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = 0_u8;
            while !done.load(Ordering::Relaxed) {
                next = next.wrapping_add(1);
                for stream in &mut open {
                    if stream.write_all(&[next]).is_err()
                        && let Ok(again) = connect(Duration::from_millis(100))
                    {
                        *stream = again;
                    }
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let result = meanwhile();
        done.store(true, Ordering::Relaxed);
        result
    })
}
