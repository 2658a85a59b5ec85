//! What the initiators cost and reach, next to libiscsi and to the wire's limit.
//!
//! The same code as in a node, in the workstation's tool: instructions are counted by
//! callgrind, ours and libiscsi's over the same tgtd; the wire is a pair of Ethernet
//! devices shaped to 100 Mbit/s, frames counted with all that Ethernet adds.

use super::figure::{Table, as_f64};
use crate::hostile::{aoe_target, iscsi_run, iscsi_target};
use crate::process::{Process, run};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use stats_alloc::{Region, StatsAlloc};
use std::alloc::System;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The peer for reads and writes; iscsi-perf only reads.
const PEER: &str = include_str!("libiscsi_peer.c");
pub(super) const IQN: &str = "iqn.2026-11.lab.redoubt:initiators";
const DISK_MIB: u64 = 64;
/// Requests of the shorter and the longer run: their difference is free of what only
/// happens once.
const RUNS: [u64; 2] = [1000, 9000];
/// How often: at depth, it matters how many answers come at a time.
const ROUNDS: usize = 3;
/// Seconds at the wire's limit, and how often.
const SECONDS: &str = "3";
const TIMES: usize = 5;
/// Octets per second of the shaped wire.
const WIRE: f64 = 12_500_000.0;
/// What may be missing from the protocol's limit.
const MISSING: f64 = 0.03;
/// Sessions whose memory is counted.
const SESSIONS: u64 = 100;

/// Programs made for this, outside the lab.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The CLI, as it is delivered.
    pub cli: PathBuf,
    /// libiscsi's.
    pub peer: PathBuf,
}

/// Builds what is measured.
///
/// # Errors
/// When something does not build.
pub fn prepare(target: &Path) -> Result<Programs> {
    let cli = crate::programs::release_cli()?;
    let directory = target.join("initiators");
    std::fs::create_dir_all(&directory)?;
    let (source, peer) = (directory.join("peer.c"), directory.join("peer"));
    std::fs::write(&source, PEER)?;
    run(Command::new("cc").args(["-O2", "-Wall", "-Wextra", "-o"]).args([&peer, &source]).arg("-liscsi"))
        .context("cannot build libiscsi's peer")?;
    Ok(Programs { cli, peer })
}

/// Measures all of it; `heap` counts what this program has allocated.
///
/// # Errors
/// When a target does not start or a program fails.
pub fn measure(
    table: &mut Table,
    heap: &StatsAlloc<System>,
    programs: &Programs,
    directory: &Path,
) -> Result<()> {
    let _ = std::fs::remove_dir_all(directory);
    std::fs::create_dir_all(directory)?;
    let disk = directory.join("disk.img");
    let file = std::fs::File::create(&disk)?;
    file.set_len(DISK_MIB << 20)?;
    let bench = Bench { programs, directory, disk };
    memory(table, heap)?;
    bench.instructions(table)?;
    bench.wire(table)
}

/// A session of a protocol that has been at work.
fn session(protocol: &str) -> Result<storage::volume::Volume> {
    match protocol {
        "iSCSI" => Ok(iscsi_run::run_volume(iscsi_target::Manner::DEFAULT, |_, _| iscsi_target::Act::Send).1),
        "AoE" => Ok(aoe_target::run_volume(&[aoe_target::BLADE], |_, _| Some(0)).1),
        other => bail!("no protocol {other}"),
    }
}

/// What a session holds that has been at work: octets of the heap that making
/// sessions allocated and did not free.
fn memory(table: &mut Table, heap: &StatsAlloc<System>) -> Result<()> {
    for protocol in ["iSCSI", "AoE"] {
        // What is made once for all is made before.
        drop(session(protocol)?);
        let region = Region::new(heap);
        let kept = (0..SESSIONS).map(|_| session(protocol)).collect::<Result<Vec<_>>>()?;
        let change = region.change();
        let each = change.bytes_allocated.saturating_sub(change.bytes_deallocated) / kept.len();
        ensure!(each > 0, "a session of {protocol} cannot be without memory");
        table.add(&format!("{protocol}: memory of a session"), as_f64(u64::try_from(each)?), "bytes");
    }
    Ok(())
}

struct Bench<'a> {
    programs: &'a Programs,
    directory: &'a Path,
    disk: PathBuf,
}

/// tgt with the disk as its first target's unit.
pub(super) fn tgtd(directory: &Path, disk: &Path, address: &str) -> Result<Process> {
    let socket = directory.join("tgtd");
    let mut command = Command::new("tgtd");
    command.args(["-f", "-C", "7", "--iscsi", &format!("portal={address}:3260")]);
    command.env("TGT_IPC_SOCKET", &socket);
    let process = Process::start(&mut command, &directory.join("tgtd.log"))?;
    let admin = |arguments: &str| {
        let mut command = Command::new("tgtadm");
        command.args(["-C", "7", "--lld", "iscsi"]).args(arguments.split(' '));
        run(command.env("TGT_IPC_SOCKET", &socket))
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while admin("--op show --mode sys").is_err() {
        ensure!(Instant::now() < deadline, "tgtd does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    admin(&format!("--op new --mode target --tid 1 -T {IQN}"))?;
    admin(&format!("--op new --mode logicalunit --tid 1 --lun 1 -b {}", disk.display()))?;
    admin("--op bind --mode target --tid 1 -I ALL")?;
    Ok(process)
}

impl Bench<'_> {
    /// Instructions of a program.
    fn count(&self, command: &[&str]) -> Result<u64> {
        let out = self.directory.join("callgrind.out");
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", &format!("--callgrind-out-file={}", out.display())]);
        run(valgrind.args(command))?;
        let text = std::fs::read_to_string(&out)?;
        let line = text.lines().find_map(|line| line.strip_prefix("summary: "));
        let first = line.and_then(|line| line.split(' ').next());
        first.context("callgrind has no summary")?.parse().context("callgrind's summary is no number")
    }

    /// Instructions of each request, from a shorter and a longer run.
    fn each(&self, command: impl Fn(&str) -> Vec<String>) -> Result<f64> {
        let mut counts = [0; 2];
        for (count, requests) in counts.iter_mut().zip(RUNS) {
            let words = command(&requests.to_string());
            *count = self.count(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        let [short, long] = counts;
        let [fewer, more] = RUNS;
        Ok(as_f64(long.saturating_sub(short)) / as_f64(more - fewer))
    }

    fn instructions(&self, table: &mut Table) -> Result<()> {
        run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        let _tgtd = tgtd(self.directory, &self.disk, "127.0.0.1")?;
        let words = |line: String| line.split(' ').map(str::to_string).collect::<Vec<_>>();
        let volume = format!("iscsi://127.0.0.1/{IQN}/1");
        let (cli, peer) = (self.programs.cli.display(), self.programs.peer.display());
        for operation in ["read", "write"] {
            for depth in [1, 32] {
                let (mut ours, mut theirs) = (Vec::new(), Vec::new());
                for _ in 0..ROUNDS {
                    ours.push(self.each(|count| {
                        words(format!(
                            "{cli} --yes storage bench {volume} --{operation} --depth {depth} --count {count}"
                        ))
                    })?);
                    let sectors = DISK_MIB << 11;
                    theirs.push(self.each(|count| {
                        words(format!("{peer} 127.0.0.1 {IQN} 1 {operation} {count} {depth} {sectors}"))
                    })?);
                }
                let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
                let name = format!("iSCSI: 4 KiB {operation}, depth {depth}, instructions");
                table.add_samples(&format!("{name}, ours"), ours, "count");
                table.add_samples(&format!("{name}, libiscsi"), theirs, "count");
                table.add_samples(&format!("{name}, ours / libiscsi"), ratios, "ratio");
            }
        }
        table.add(
            "iSCSI: 4 KiB read, depth 32, instructions, iscsi-perf",
            self.iscsi_perf(&volume)?,
            "count",
        );
        Ok(())
    }

    /// iscsi-perf ends by the clock: how many reads it made is in the profile.
    fn iscsi_perf(&self, volume: &str) -> Result<f64> {
        let whole = self.count(&["iscsi-perf", "-m", "32", "-b", "8", "-t", "3", "-r", volume])?;
        let text = std::fs::read_to_string(self.directory.join("callgrind.out"))?;
        let reads = calls(&text, "iscsi_read16_task");
        ensure!(reads > 1000, "iscsi-perf made {reads} reads");
        Ok(as_f64(whole) / as_f64(reads))
    }

    /// The share of a shaped wire's limit that is reached.
    fn wire(&self, table: &mut Table) -> Result<()> {
        let ip = |arguments: &str| run(Command::new("ip").args(arguments.split(' '))).map(|_| ());
        // The initiator is in a network of its own, or TCP would not use the wire.
        let mut away = Command::new("unshare");
        let away = Process::start(away.args(["--net", "sleep", "1000"]), &self.directory.join("away.log"))?;
        std::thread::sleep(Duration::from_millis(300));
        ip("link add dev wire0 type veth peer name wire1")?;
        ip(&format!("link set wire0 netns {}", away.id()))?;
        let there = |line: &str| {
            let mut command = Command::new("nsenter");
            run(command.args(["--net", "-t", &away.id().to_string()]).args(line.split(' ')))
        };
        let shape = "root tbf rate 100mbit burst 3200 latency 50ms overhead 24";
        there("ip addr add 10.78.0.2/24 dev wire0")?;
        there("ip link set wire0 gso_max_segs 1 up")?;
        there(&format!("tc qdisc add dev wire0 {shape}"))?;
        ip("addr add 10.78.0.1/24 dev wire1")?;
        ip("link set wire1 gso_max_segs 1 up")?;
        run(Command::new("tc").args(["qdisc", "add", "dev", "wire1"]).args(shape.split(' ')))?;
        let _tgtd = tgtd(self.directory, &self.disk, "10.78.0.1")?;
        let mut vblade = Command::new("vblade");
        // Room for so many frames: less than a wire with the workstation's pauses on it
        // can carry would measure those.
        vblade.args(["-b", "64", "11", "1", "wire1"]).arg(&self.disk);
        let _vblade = Process::start(&mut vblade, &self.directory.join("vblade.log"))?;
        std::thread::sleep(Duration::from_millis(300));
        // Of a frame's octets on the wire: 14 of Ethernet, 24 around it. AoE has 22 of
        // headers and two sectors; TCP 52 with time stamps, and iSCSI 48 every 64 KiB.
        let aoe = 1024.0 / (1024.0 + 22.0 + 14.0 + 24.0);
        let iscsi = 1448.0 / 1538.0 * 65_536.0 / (65_536.0 + 48.0);
        let volumes = [
            ("AoE", "aoe:e11.1 --interface wire0".to_string(), aoe),
            ("iSCSI", format!("iscsi://10.78.0.1/{IQN}/1"), iscsi),
        ];
        for (name, volume, limit) in &volumes {
            for operation in ["read", "write"] {
                let cli = self.programs.cli.display();
                let job =
                    format!("--{operation} --sequential --block-size 64k --depth 32 --seconds {SECONDS}");
                let mut rates = Vec::new();
                for _ in 0..TIMES {
                    let said = there(&format!("{cli} --yes -o json storage bench {volume} {job}"))?;
                    let report: Value = serde_json::from_str(&said)?;
                    rates.push(report.get("bytes_per_second").and_then(Value::as_f64).context("no rate")?);
                }
                // The best one counts: what else the workstation does only takes away.
                let best = rates.iter().copied().fold(0.0, f64::max);
                let missing = (1.0 - best / (WIRE * limit)).max(0.0);
                let name = format!("{name}: {operation} over 100 Mbit/s, depth 32");
                table.add_samples(&name, rates.iter().map(|rate| rate / 1e6).collect(), "MB/s");
                let name = format!("{name}, best, missing from its limit");
                table.add_with_budget(&name, vec![missing], "ratio", MISSING);
            }
        }
        Ok(())
    }
}

/// How often a function was called, in a callgrind profile: names are given once, and
/// numbers stand for them.
fn calls(profile: &str, function: &str) -> u64 {
    let named = format!(") {function}");
    let number =
        profile.lines().find_map(|line| line.strip_suffix(&named)?.split_once("fn=(").map(|it| it.1));
    let Some(number) = number else { return 0 };
    let called = format!("cfn=({number})");
    let mut lines = profile.lines();
    let mut count = 0;
    while let Some(line) = lines.next() {
        if line == called || line.strip_prefix(&called).is_some_and(|rest| rest.starts_with(' ')) {
            let made = lines.next().and_then(|line| line.strip_prefix("calls="));
            let made = made.and_then(|made| made.split(' ').next()).and_then(|made| made.parse::<u64>().ok());
            count += made.unwrap_or(0);
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted() {
        let profile =
            "fn=(1) main\ncfn=(7) reads\ncalls=32 0\n0 1\nfn=(7)\n0 9\nfn=(2) other\ncfn=(7)\ncalls=5 1\n";
        assert_eq!(calls(profile, "reads"), 37);
        assert_eq!(calls(profile, "read"), 0);
        assert_eq!(calls("fn=(7) reads\n0 1\ncfn=(70)\ncalls=5 1\n", "reads"), 0);
    }
}
