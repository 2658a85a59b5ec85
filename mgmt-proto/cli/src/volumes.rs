//! What is printed of volumes and of a guest's disks. The JSON is stable as all is:
//! fields are added, never changed.
//!
//! * `storage show`, `storage probe`: an array of [`Volume`];
//! * `storage path list`: an array of [`Path`];
//! * `block-list`: an array of [`Block`];
//! * `block-attach`, `block-detach`, `limit`: [`DiskDone`].

use crate::answer::Answer;
use crate::json::Done;
use crate::table::Table;
use mgmt_proto::units::{decimal, seconds};
use mgmt_proto::volume::{
    BlockFacts, Condition, PathCondition, PathFacts, Plugged, Stage, VolumeFacts, VolumePage,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// How long requests took, in nanoseconds; null when there were none.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// Requests.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_ns: Option<u64>,
    /// 99 of 100 took no longer.
    pub p99_ns: Option<u64>,
    /// None took longer.
    pub max_ns: Option<u64>,
    /// Entry `n` counts those below `2^n` microseconds that no entry before counts.
    pub buckets: Vec<u64>,
}

/// A path of a volume.
#[derive(Clone, Debug, Serialize)]
pub struct Path {
    /// The volume.
    pub volume: String,
    /// Its number.
    pub path: usize,
    /// Its ends.
    pub name: String,
    /// connecting, active, standby, lost, refused or disabled.
    pub state: &'static str,
    /// silent, connected, logged-in or ready.
    pub stage: &'static str,
    /// Uptime since when it does not answer, or null.
    pub lost_since_ns: Option<u64>,
    /// Smoothed round-trip time.
    pub rtt_ns: Option<u64>,
    /// Commands or frames.
    pub latency: Latency,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
    /// What went wrong last, or null.
    pub last_error: Option<String>,
    /// What was negotiated, by name.
    pub negotiated: BTreeMap<String, String>,
}

/// A volume.
#[derive(Clone, Debug, Serialize)]
pub struct Volume {
    /// The guest that uses it, or null.
    pub guest: Option<String>,
    /// The slot of the disk in that guest, or null.
    pub slot: Option<u32>,
    /// Its name.
    pub volume: String,
    /// Writes are refused.
    pub read_only: bool,
    /// connecting, ready, stalled, refused or detached.
    pub state: &'static str,
    /// silent, connected, logged-in or ready.
    pub stage: &'static str,
    /// Uptime since when it does not answer, or null.
    pub stalled_since_ns: Option<u64>,
    /// For how long that is.
    pub stalled_for_ns: Option<u64>,
    /// Tries since then.
    pub retry: u64,
    /// Size, or null.
    pub bytes: Option<u64>,
    /// Requests unfinished.
    pub pending: u32,
    /// Smoothed round-trip time.
    pub rtt_ns: Option<u64>,
    /// Requests.
    pub latency: Latency,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
    /// What went wrong last, or null.
    pub last_error: Option<String>,
    /// What was negotiated, by name.
    pub negotiated: BTreeMap<String, String>,
    /// What is set, by name.
    pub settings: BTreeMap<String, String>,
    /// The ways to the target.
    pub paths: Vec<Path>,
}

/// A disk of a guest.
#[derive(Clone, Debug, Serialize)]
pub struct Block {
    /// Its slot.
    pub slot: u32,
    /// Name of the volume.
    pub volume: String,
    /// Writes are refused.
    pub read_only: bool,
    /// connecting, ready, stalled, refused or detached.
    pub state: &'static str,
    /// Uptime since when it does not answer, or null.
    pub stalled_since_ns: Option<u64>,
    /// Size, 0 until known.
    pub bytes: u64,
    /// offered, seen, running or leaving.
    pub guest: &'static str,
    /// It was there when the guest started.
    pub from_start: bool,
}

/// That something was done to a disk.
#[derive(Clone, Debug, Serialize)]
pub struct DiskDone {
    /// What was done.
    #[serde(flatten)]
    pub done: Done,
    /// The slot of the disk, or null for all of the guest's.
    pub slot: Option<u32>,
    /// How far the disk has come in its guest, where that was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<&'static str>,
}

impl DiskDone {
    /// The answer that says so.
    #[must_use]
    pub fn answer(&self) -> Answer {
        let slot = self.slot.map(|slot| format!(" (slot {slot})")).unwrap_or_default();
        let guest = self.guest.map(|guest| format!(", {guest} in the guest")).unwrap_or_default();
        let line = self.done.line();
        Answer::lines(self, &self.done.object, format!("{}{slot}{guest}\n", line.trim_end()))
    }
}

const fn condition(condition: Condition) -> &'static str {
    match condition {
        Condition::Connecting => "connecting",
        Condition::Ready => "ready",
        Condition::Stalled => "stalled",
        Condition::Refused => "refused",
        Condition::Detached => "detached",
    }
}

const fn path_condition(condition: PathCondition) -> &'static str {
    match condition {
        PathCondition::Connecting => "connecting",
        PathCondition::Active => "active",
        PathCondition::Standby => "standby",
        PathCondition::Lost => "lost",
        PathCondition::Refused => "refused",
        PathCondition::Disabled => "disabled",
    }
}

const fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Silent => "silent",
        Stage::Connected => "connected",
        Stage::LoggedIn => "logged-in",
        Stage::Ready => "ready",
    }
}

/// How far a disk has come in its guest, in a word.
#[must_use]
pub const fn plugged(plugged: Plugged) -> &'static str {
    match plugged {
        Plugged::Offered => "offered",
        Plugged::Seen => "seen",
        Plugged::Running => "running",
        Plugged::Leaving => "leaving",
    }
}

/// Latency from its buckets: a value is its bucket's limit.
fn latency(buckets: &[u64]) -> Latency {
    let count = buckets.iter().fold(0u64, |sum, bucket| sum.saturating_add(*bucket));
    let quantile = |permille: u64| {
        let wanted = count.saturating_mul(permille).div_ceil(1_000).max(1);
        let mut seen = 0u64;
        let index = buckets.iter().position(|bucket| {
            seen = seen.saturating_add(*bucket);
            seen >= wanted
        })?;
        Some(1_000u64.checked_shl(u32::try_from(index).ok()?).unwrap_or(u64::MAX))
    };
    Latency {
        count,
        p50_ns: quantile(500),
        p99_ns: quantile(990),
        max_ns: quantile(1_000),
        buckets: buckets.to_vec(),
    }
}

fn path(volume: &str, number: usize, facts: &PathFacts) -> Path {
    Path {
        volume: volume.into(),
        path: number,
        name: facts.name.clone(),
        state: path_condition(facts.condition),
        stage: stage(facts.stage),
        lost_since_ns: facts.lost_since_ns,
        rtt_ns: facts.rtt_ns,
        latency: latency(&facts.latency),
        counters: facts.counters.iter().cloned().collect(),
        last_error: facts.last_error.clone(),
        negotiated: facts.negotiated.iter().cloned().collect(),
    }
}

fn volume(facts: &VolumeFacts, now_ns: u64) -> Volume {
    let used = !facts.guest.is_empty();
    let stalled_since_ns = facts.stalled_since_ns.filter(|_| facts.condition != Condition::Ready);
    Volume {
        guest: used.then(|| facts.guest.clone()),
        slot: used.then_some(facts.slot),
        volume: facts.volume.clone(),
        read_only: facts.read_only,
        state: condition(facts.condition),
        stage: stage(facts.stage),
        stalled_since_ns,
        stalled_for_ns: stalled_since_ns.map(|since_ns| now_ns.saturating_sub(since_ns)),
        retry: facts.retry,
        bytes: facts.sectors.map(|sectors| sectors.saturating_mul(512)),
        pending: facts.pending,
        rtt_ns: facts.rtt_ns,
        latency: latency(&facts.latency),
        counters: facts.counters.iter().cloned().collect(),
        last_error: facts.last_error.clone(),
        negotiated: facts.negotiated.iter().cloned().collect(),
        settings: facts.settings.iter().cloned().collect(),
        paths: facts.paths.iter().enumerate().map(|(number, it)| path(&facts.volume, number, it)).collect(),
    }
}

/// The volumes of a page.
#[must_use]
pub fn volumes(page: &VolumePage) -> Vec<Volume> {
    page.volumes.iter().map(|facts| volume(facts, page.now_ns)).collect()
}

/// A disk of a guest.
#[must_use]
pub fn block(facts: &BlockFacts) -> Block {
    Block {
        slot: facts.slot,
        volume: facts.volume.clone(),
        read_only: facts.read_only,
        state: condition(facts.condition),
        stalled_since_ns: facts.stalled_since_ns,
        bytes: facts.sectors.saturating_mul(512),
        guest: plugged(facts.plugged),
        from_start: facts.from_start,
    }
}

/// Milliseconds with a digit after the point, or a dash.
fn milliseconds(ns: Option<u64>) -> String {
    ns.map_or_else(|| "-".into(), |ns| decimal(ns, 6, 1))
}

const fn access(read_only: bool) -> &'static str {
    if read_only { "ro" } else { "rw" }
}

fn digests(volume: &Volume) -> String {
    let used = |key: &str| volume.negotiated.get(key).is_some_and(|digest| digest != "None");
    match (volume.volume.starts_with("iscsi:"), used("HeaderDigest"), used("DataDigest")) {
        (false, ..) => "-".into(),
        (true, false, false) => "none".into(),
        (true, true, true) => "both".into(),
        (true, true, false) => "header".into(),
        (true, false, true) => "data".into(),
    }
}

/// The largest piece of data on the wire: of a frame, or of a segment of the target's.
fn piece(negotiated: &BTreeMap<String, String>) -> Option<u64> {
    let number = |key: &str| negotiated.get(key).and_then(|value| value.parse::<u64>().ok());
    let frame = number("SectorsPerFrame").map(|sectors| sectors.saturating_mul(512));
    frame.or(number("TargetMaxRecvDataSegmentLength"))
}

fn serves(path: &Path) -> bool {
    matches!(path.state, "active" | "standby")
}

/// The same of a volume: from the least to the most of the paths that serve.
fn pieces(volume: &Volume) -> String {
    let paths = volume.paths.iter().filter(|path| serves(path));
    let paths: Vec<u64> = paths.filter_map(|path| piece(&path.negotiated)).collect();
    match (paths.iter().min(), paths.iter().max()) {
        (Some(least), Some(most)) if least < most => format!("{least}-{most}"),
        (Some(all), _) => all.to_string(),
        (None, _) => octets(piece(&volume.negotiated)),
    }
}

fn octets(number: Option<u64>) -> String {
    number.map_or_else(|| "-".into(), |number| number.to_string())
}

/// Volumes as `storage show` shows them.
#[must_use]
pub fn table(volumes: &[Volume], wide: bool) -> Table {
    let mut headers = vec![
        "Disk",
        ">Slot",
        "Volume",
        "Access",
        "State",
        ">Since(s)",
        ">Retry",
        "Paths",
        "Digest",
        ">MTU",
        ">Lat(ms)",
    ];
    if wide {
        headers.extend([">p99(ms)", ">Pending", ">Read(k)", ">Written(k)", ">Retries", ">Stalls", "Error"]);
    }
    let mut table = Table::new(&headers);
    for volume in volumes {
        let up = volume.paths.iter().filter(|path| serves(path)).count();
        let mut row = vec![
            volume.guest.clone().unwrap_or_else(|| "-".into()),
            volume.slot.map_or_else(|| "-".into(), |slot| slot.to_string()),
            volume.volume.clone(),
            access(volume.read_only).into(),
            volume.state.into(),
            volume.stalled_for_ns.map_or_else(|| "-".into(), seconds),
            volume.retry.to_string(),
            format!("{up}/{}", volume.paths.len()),
            digests(volume),
            pieces(volume),
            milliseconds(volume.latency.p50_ns),
        ];
        if wide {
            let counter = |key: &str| volume.counters.get(key).copied().unwrap_or(0);
            row.extend([
                milliseconds(volume.latency.p99_ns),
                volume.pending.to_string(),
                (counter("bytes_read") >> 10).to_string(),
                (counter("bytes_written") >> 10).to_string(),
                counter("retries").to_string(),
                counter("stalls").to_string(),
                volume.last_error.clone().unwrap_or_else(|| "-".into()),
            ]);
        }
        table.push(row);
    }
    table
}

/// Paths as `storage path list` shows them.
#[must_use]
pub fn path_table(paths: &[Path], now_ns: u64) -> Table {
    let headers = [
        "Volume", ">Path", "Name", "Card", ">MTU", "State", "Stage", ">Lost(s)", ">RTT(ms)", ">p99(ms)",
        ">Retries", "Error",
    ];
    let mut table = Table::new(&headers);
    for path in paths {
        let lost = path.lost_since_ns.map(|since_ns| seconds(now_ns.saturating_sub(since_ns)));
        table.push(vec![
            path.volume.clone(),
            path.path.to_string(),
            path.name.clone(),
            path.negotiated.get("Card").cloned().unwrap_or_else(|| "-".into()),
            octets(piece(&path.negotiated)),
            path.state.into(),
            path.stage.into(),
            lost.unwrap_or_else(|| "-".into()),
            milliseconds(path.rtt_ns),
            milliseconds(path.latency.p99_ns),
            path.counters.get("retries").copied().unwrap_or(0).to_string(),
            path.last_error.clone().unwrap_or_else(|| "-".into()),
        ]);
    }
    table
}

/// Disks as `block-list` shows them.
#[must_use]
pub fn block_table(disks: &[Block]) -> Table {
    let mut table = Table::new(&[">Slot", "Volume", "Access", ">Size(MiB)", "State", "Guest", "Origin"]);
    for disk in disks {
        table.push(vec![
            disk.slot.to_string(),
            disk.volume.clone(),
            access(disk.read_only).into(),
            (disk.bytes >> 20).to_string(),
            disk.state.into(),
            disk.guest.into(),
            if disk.from_start { "start" } else { "attached" }.into(),
        ]);
    }
    table
}

fn list(lines: &mut String, title: &str, values: &BTreeMap<String, impl std::fmt::Display>) {
    if !values.is_empty() {
        let values: Vec<String> = values.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let _ = writeln!(lines, "{title:<11} {}", values.join(" "));
    }
}

/// Everything about a volume, for people.
#[must_use]
pub fn lines(volume: &Volume) -> String {
    let mut lines = String::new();
    let mut line = |title: &str, value: String| {
        let _ = writeln!(lines, "{title:<11} {value}");
    };
    line("volume", format!("{} {}", volume.volume, access(volume.read_only)));
    if let (Some(guest), Some(slot)) = (&volume.guest, volume.slot) {
        line("guest", format!("{guest}, slot {slot}"));
    }
    let stalled = volume.stalled_for_ns.map(|for_ns| {
        let since = volume.stalled_since_ns.unwrap_or(0);
        let (ago, at) = (seconds(for_ns), seconds(since));
        format!(" for {ago} s, since {at} s after power-on, retry {}", volume.retry)
    });
    line("state", format!("{}{}", volume.state, stalled.unwrap_or_default()));
    line("reached", volume.stage.into());
    if let Some(error) = &volume.last_error {
        line("last error", error.clone());
    }
    if let Some(bytes) = volume.bytes {
        line("size", format!("{} MiB ({} sectors)", bytes >> 20, bytes / 512));
    }
    line("pending", format!("{} requests", volume.pending));
    let took = &volume.latency;
    line(
        "latency",
        format!(
            "{} requests, ms: p50 {} p99 {} max {}",
            took.count,
            milliseconds(took.p50_ns),
            milliseconds(took.p99_ns),
            milliseconds(took.max_ns)
        ),
    );
    list(&mut lines, "counters", &volume.counters);
    list(&mut lines, "settings", &volume.settings);
    list(&mut lines, "negotiated", &volume.negotiated);
    for path in &volume.paths {
        let card = path.negotiated.get("Card").filter(|card| !path.name.contains(card.as_str()));
        let card = card.map(|card| format!(" from {card}")).unwrap_or_default();
        let mtu = piece(&path.negotiated).map(|mtu| format!(", MTU {mtu}")).unwrap_or_default();
        let error = path.last_error.as_ref().map(|error| format!(", {error}")).unwrap_or_default();
        let _ = writeln!(
            lines,
            "{:<11} {}{card}: {}, {}{mtu}, rtt {} ms, p99 {} ms{error}",
            format!("path {}", path.path),
            path.name,
            path.state,
            path.stage,
            milliseconds(path.rtt_ns),
            milliseconds(path.latency.p99_ns)
        );
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_limits_of_buckets() {
        let took = latency(&[1, 0, 98, 0, 1]);
        assert_eq!(
            (took.count, took.p50_ns, took.p99_ns, took.max_ns),
            (100, Some(4_000), Some(4_000), Some(16_000))
        );
        assert_eq!(latency(&[]).p50_ns, None);
        assert_eq!(latency(&[0; 70]).max_ns, None);
    }

    #[test]
    fn a_volume_says_how_long_the_frames_of_the_paths_that_serve_are() {
        let facts = |sectors: &str, condition| PathFacts {
            name: "a > b".into(),
            condition,
            stage: Stage::Ready,
            lost_since_ns: None,
            rtt_ns: None,
            latency: vec![],
            counters: vec![],
            last_error: None,
            negotiated: vec![("SectorsPerFrame".into(), sectors.into())],
        };
        let shown = |paths: Vec<PathFacts>| {
            let facts = VolumeFacts {
                guest: "web1".into(),
                slot: 1,
                volume: "aoe:e11.1".into(),
                read_only: false,
                condition: Condition::Ready,
                stage: Stage::Ready,
                stalled_since_ns: None,
                retry: 0,
                sectors: None,
                pending: 0,
                rtt_ns: None,
                latency: vec![],
                counters: vec![],
                last_error: None,
                negotiated: vec![("SectorsPerFrame".into(), "9".into())],
                settings: vec![],
                paths,
            };
            pieces(&volume(&facts, 0))
        };
        let (active, lost) = (PathCondition::Active, PathCondition::Lost);
        assert_eq!(shown(vec![facts("2", active), facts("17", active)]), "1024-8704");
        assert_eq!(shown(vec![facts("17", active), facts("17", active)]), "8704");
        assert_eq!(shown(vec![facts("2", lost), facts("17", active)]), "8704");
        assert_eq!(shown(vec![facts("2", lost)]), "4608");
    }
}
