//! Strangers and viewers besiege the management port, and an admin gets in all the same.

use super::directory;
use super::floods::{connect, flood};
use crate::lab::NODE;
use crate::machine::{Boot, CPUS, Shape};
use crate::world::{World, build};
use anyhow::{Context, Result, ensure};
use ed25519_dalek::SigningKey;
use mgmt_proto::bundle::{Bundle, Grant, Scope};
use mgmt_proto::client::Connecting;
use mgmt_proto::handshake::{ANSWER_BYTES, GREETING_BYTES, Meant, OperatorKey as _, Proved};
use mgmt_proto::trust::Role;
use mgmt_proto::verb::{Reply, Request};
use redoubt::Connection;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const NODE_LIMIT: Duration = Duration::from_secs(60);
const TRIES: u32 = 200;
const LIMIT: Duration = Duration::from_secs(2);
/// Connections begun in a second, by so many threads.
const PER_SECOND: u64 = 200;
const THREADS: u64 = 10;
/// The same where each of them takes longer.
const FAR_THREADS: u64 = 40;
/// A round trip to a node far away.
const FAR: Duration = Duration::from_millis(50);
/// Tries there in a short run.
const FAR_TRIES: u32 = 40;
/// Connections that each thread holds open.
const OPEN: usize = 40;
const KINDS: usize = 5;

/// 200 connections a second of recorded messages, of viewers with and without a pass, of
/// peers that send nothing or one octet, beside a flood of SYNs: an admin has an answer within
/// two seconds, each time.
pub(super) fn lockout() -> Result<()> {
    besieged("lockout", Duration::ZERO, THREADS, TRIES)
}

/// The same at the end of a long line.
pub(super) fn lockout_far_away() -> Result<()> {
    besieged("lockout_far_away", FAR, FAR_THREADS, if super::is_thorough() { TRIES } else { FAR_TRIES })
}

fn besieged(name: &str, round_trip: Duration, threads: u64, tries: u32) -> Result<()> {
    let built = build(false)?;
    let directory = directory(name);
    let shape = Shape { cpus: CPUS, memory_mib: 1024, boot: Boot::Kernel(built.image.path.clone()) };
    let world = World::start_far(&built, &directory, &shape, round_trip, |_| Ok(()))?;
    world.operator.wait_for_node(NODE_LIMIT).with_context(|| world.machine.serial_text())?;
    super::floods::add_strangers()?;
    let admin = keys::secret::load(&built.image.operator_key_path)?;
    let viewer = SigningKey::from_bytes(&[0x77; 32]);
    let node = grant(&admin, &keys::secret::load(&built.image.owner_key_path)?, &viewer)?;
    let recorded = record(&admin, &node)?;
    let known = shake_hands(&viewer, &Meant { key: Some(node), ..Meant::default() })?;
    let known = Meant { key: Some(node), pass: Some(known.1.pass), name: String::new() };

    let begun: Vec<AtomicU64> = (0..KINDS).map(|_| AtomicU64::new(0)).collect();
    let done = AtomicBool::new(false);
    let began = Instant::now();
    let result = std::thread::scope(|scope| {
        for thread in 0..threads {
            let (begun, done, viewer, recorded, known) = (&begun, &done, &viewer, &recorded, &known);
            scope.spawn(move || besiege((thread, threads), begun, done, viewer, recorded, known));
        }
        let result = flood(|| {
            let mut took: Vec<Duration> = Vec::new();
            for number in 0..tries {
                let asked = Instant::now();
                let answer = world.operator.try_run(&["--timeout", "2", "list"])?;
                let time = asked.elapsed();
                ensure!(
                    answer.code == 0 && time <= LIMIT,
                    "try {number}: {time:?}, exit code {}: {}",
                    answer.code,
                    answer.error
                );
                took.push(time);
            }
            took.sort_unstable();
            let at = |part: usize| took.get(took.len() * part / 100).map_or(0, Duration::as_millis);
            let worst = took.last().map_or(0, Duration::as_millis);
            println!("  {tries} of {tries}: median {} ms, 99 % {} ms, worst {worst} ms", at(50), at(99));
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        result
    });
    let counts: Vec<u64> = begun.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    let rate = counts.iter().sum::<u64>() as f64 / began.elapsed().as_secs_f64();
    println!("  {counts:?} connections of each kind, {rate:.0} a second");
    result?;
    ensure!(rate > PER_SECOND as f64 / 2.0 && counts.iter().all(|count| *count > 50), "hardly an attack");
    let facts = world.operator.json(&["node", "info"])?;
    let starts = facts.get("dom0_starts").and_then(serde_json::Value::as_u64);
    ensure!(starts == Some(1), "dom0 failed: {facts}");
    Ok(())
}

/// Makes the viewer one; the node's key.
fn grant(admin: &SigningKey, owner: &SigningKey, viewer: &SigningKey) -> Result<[u8; 32]> {
    let mut connection = Connection::open(NODE, admin, None).map_err(anyhow::Error::msg)?;
    let Reply::Trust(bundle) = connection.request(Request::TrustShow).map_err(anyhow::Error::msg)? else {
        anyhow::bail!("another answer than was asked for")
    };
    let mut grants = bundle.grants.clone();
    grants.push(Grant {
        key: viewer.public(),
        role: Role::Viewer,
        nodes: Scope::All,
        guests: Scope::All,
        not_before_s: 0,
        not_after_s: 0,
        name: "viewer".into(),
    });
    let next = Bundle { serial: bundle.serial + 1, grants, ..bundle };
    let signed = next.sign(&[owner]).context("the bundle is too long")?;
    connection.request(Request::TrustUpdate { signed }).map_err(anyhow::Error::msg)?;
    Ok(*connection.node())
}

/// What an operator sends to log in, and what the node proved then.
fn shake_hands(key: &SigningKey, meant: &Meant) -> Result<(Vec<u8>, Proved)> {
    let mut stream = connect(Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut greeting = [0; GREETING_BYTES];
    stream.read_exact(&mut greeting)?;
    let connecting = Connecting::new(key, meant, &greeting, *keys::random::bytes::<32>()?)?;
    let hello = connecting.hello().to_vec();
    stream.write_all(&hello)?;
    let mut answer = [0; ANSWER_BYTES];
    stream.read_exact(&mut answer)?;
    Ok((hello, connecting.finish(&answer)?.proved().clone()))
}

fn record(admin: &SigningKey, node: &[u8; 32]) -> Result<Vec<u8>> {
    Ok(shake_hands(admin, &Meant { key: Some(*node), ..Meant::default() })?.0)
}

/// One thread's share of the attack.
fn besiege(
    (thread, threads): (u64, u64),
    begun: &[AtomicU64],
    done: &AtomicBool,
    viewer: &SigningKey,
    recorded: &[u8],
    known: &Meant,
) {
    let mut open: VecDeque<TcpStream> = VecDeque::new();
    let pause = Duration::from_millis(1000 * threads / PER_SECOND);
    let mut next = Instant::now();
    for number in thread.. {
        if done.load(Ordering::Relaxed) {
            return;
        }
        let kind = usize::try_from(number).unwrap_or(0) % KINDS;
        if let Ok(stream) = attack(kind, viewer, recorded, known) {
            open.push_back(stream);
            if let Some(count) = begun.get(kind) {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        if open.len() > OPEN {
            open.pop_front();
        }
        next += pause;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn attack(kind: usize, viewer: &SigningKey, recorded: &[u8], known: &Meant) -> Result<TcpStream> {
    let mut stream = connect(Duration::from_millis(500))?;
    if kind == 0 {
        return Ok(stream);
    }
    stream.set_read_timeout(Some(Duration::from_millis(300)))?;
    let mut greeting = [0; GREETING_BYTES];
    stream.read_exact(&mut greeting)?;
    match kind {
        1 => stream.write_all(recorded)?,
        2 => stream.write_all(&[1])?,
        _ => {
            let meant = Meant { pass: known.pass.filter(|_| kind == 3), ..known.clone() };
            let seed = *keys::random::bytes::<32>()?;
            stream.write_all(Connecting::new(viewer, &meant, &greeting, seed)?.hello())?;
        }
    }
    Ok(stream)
}
