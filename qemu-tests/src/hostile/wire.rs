//! Scripted AoE targets at one end of a pair of Ethernet devices, and the workstation's
//! initiator at the other: raw sockets, the operating system's clock.
//!
//! This is for a network namespace of one's own, see [`crate::lab::enter`].

use super::aoe_scripts::Script;
use super::aoe_target::{BLADE, NAME, NODE, Run};
use super::sockets::work;
use crate::process::run;
use anyhow::{Context, Result, ensure};
use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender};
use redoubt::initiator::{Initiator, Options};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use storage::aoe::wire::MacAddress;
use storage::volume::VolumeName;
use storage::{BlockError, RequestId};

/// The AoE header's type, where Ethernet has it.
const ETHERTYPE: [u8; 2] = [0x88, 0xa2];
/// How long a target that never serves is tried.
const TRIED: Duration = Duration::from_secs(4);
/// What takes longer hangs: a storm overflows a raw socket's buffer, and what is lost is
/// sent again later and later.
const LIMIT: Duration = Duration::from_secs(300);
/// How long the target listens before it looks at what is late.
const LISTENED: Duration = Duration::from_millis(1);

/// The pair's ends: the initiator's and the target's.
fn lay(number: usize) -> Result<(String, String)> {
    let (near, far) = (format!("near{number}"), format!("far{number}"));
    let text = |[a, b, c, d, e, f]: MacAddress| format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    let ip = |arguments: &str| run(Command::new("ip").args(arguments.split(' ')));
    ip(&format!("link add {near} address {} type veth peer name {far} address {}", text(NODE), text(BLADE)))?;
    ip(&format!("link set {far} up"))?;
    ip(&format!("link set {near} up"))?;
    Ok((near, far))
}

fn open(name: &str) -> Result<(Box<dyn DataLinkSender>, Box<dyn DataLinkReceiver>)> {
    let interface = pnet_datalink::interfaces().into_iter().find(|interface| interface.name == name);
    let config = Config { read_timeout: Some(LISTENED), ..Config::default() };
    match pnet_datalink::channel(&interface.context("no such interface")?, config)? {
        Channel::Ethernet(sender, receiver) => Ok((sender, receiver)),
        _ => anyhow::bail!("{name} is another kind of wire"),
    }
}

/// Plays the target until it is ended.
fn serve(name: &str, script: &Script, mut seen: Run, began: Instant, over: &AtomicBool) -> Result<Run> {
    let (mut sender, mut receiver) = open(name)?;
    let mut late: Vec<(u64, Vec<u8>)> = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let heard = receiver.next().ok().map(<[u8]>::to_vec);
        let now_ns = u64::try_from(began.elapsed().as_nanos())?;
        if let Some(frame) = heard
            && frame.get(12..14) == Some(&ETHERTYPE)
            && frame.get(6..12) == Some(&NODE)
        {
            late.extend(seen.exchange(&frame, script.mischief, now_ns));
        }
        late.sort_by_key(|(at_ns, _)| *at_ns);
        let due = late.partition_point(|(at_ns, _)| *at_ns <= now_ns);
        for (_, frame) in late.drain(..due) {
            seen.arrives(&frame);
            // Some are too short for any Ethernet: those are lost here.
            let _ = sender.send_to(&frame, None);
        }
    }
    Ok(seen)
}

/// Has a script played at the end of a wire of its own; returns how long that took.
///
/// # Errors
/// When anything was lost, or the initiator broke the protocol.
pub fn play(script: &Script, number: usize) -> Result<Duration> {
    let (near, far) = lay(number)?;
    let name = VolumeName::Aoe(NAME);
    let options = Options { interfaces: vec![near], macs: script.macs.to_vec(), ..Options::default() };
    let failed = |failure: mgmt_proto::code::Failure| anyhow::anyhow!("{failure}");
    let mut initiator = Initiator::open(&name, &options).map_err(failed)?;
    let (seen, over, began) = (Run::new(initiator.status()), AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        let target = scope.spawn(|| serve(&far, script, seen, began, &over));
        // Where nothing is ever served, that is what is waited for.
        let outcome = match script.seconds {
            Some(_) => work(&mut initiator, LIMIT).map(Some),
            None => initiator.wait_until_ready(TRIED).map(|_| None).map_err(failed),
        };
        let took = began.elapsed();
        let status = initiator.status();
        over.store(true, Ordering::Relaxed);
        let mut seen = target.join().map_err(|_| anyhow::anyhow!("the target panicked"))??;
        seen.status = status;
        ensure!(seen.faults.is_empty(), "{:?}", seen.faults);
        let said = seen.status.last_error.unwrap_or_default();
        match (outcome, script.seconds, script.words) {
            (Err(error), Some(_), "failed") => {
                ensure!(error.to_string().contains("failed"), "{error:#}");
                seen.work.failed.push((RequestId(0), BlockError::Medium));
            }
            (Ok(Some(disk)), Some(_), words) if words != "failed" => {
                ensure!(disk == seen.disk, "the disk is not as it was written");
                // How long it may take is judged in simulated time, which no other
                // work on this machine stretches.
                ensure!(took < LIMIT, "it took {took:?}");
                seen.finished_ns = Some(u64::try_from(took.as_nanos())?);
            }
            (Err(_), None, words) => ensure!(said.contains(words), "it says {said:?}"),
            (Err(error), ..) => return Err(error.context(format!("it says {said:?}"))),
            (Ok(_), ..) => anyhow::bail!("it serves"),
        }
        let counters = seen.status.counters;
        ensure!((script.seen)(&seen), "the mischief left no sign: {} marks, {counters:?}", seen.marks);
        Ok(took)
    })
}
