//! What `-o json` prints. These shapes are stable: fields are added, never
//! changed. Digests and keys are hexadecimal, sizes are bytes, times nanoseconds.
//!
//! `-o yaml` prints the same in other words.
//!
//! * `node info`: [`Node`]; `node key show`: [`NodeKey`]; `node log`, `console --once`: [`Log`];
//! * `list`: an array of [`Guest`]; `info`: one;
//! * `storage discover`: an array of [`Volume`]; the rest of `storage` and
//!   `block-list`: see [`crate::volumes`];
//! * `node state`, `autostart`, `node config import`: see [`crate::state`];
//! * `audit show`: [`crate::audit::Copy`]; `audit verify`: [`crate::audit::Report`];
//! * `job list`: an array of [`crate::jobs::Job`]; `job wait`: one;
//! * `top`: [`crate::top::Screen`];
//! * everything that acts: [`Done`];
//! * any of these on several nodes: an array of [`Result`].

use std::collections::BTreeMap;

use crate::cards::Card;
use crate::table;
use crate::vif_text::rate_text;
use mgmt_proto::machine::{Action, NetworkCard};
use mgmt_proto::platform::Ended;
use mgmt_proto::units::{decimal, mac_text};
use mgmt_proto::verb::{DiskFacts, Found, GuestFacts, NodeFacts, State};
use mgmt_proto::vif::Privileges;
use serde::Serialize;

/// Facts about a node.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    /// Where it is.
    pub node: String,
    /// Its public key.
    pub node_key: String,
    /// Version of the image.
    pub version: String,
    /// SHA-256 of the file it runs from.
    pub image_sha256: String,
    /// Bytes of that file.
    pub image_bytes: u64,
    /// CPUs in use.
    pub cpus: u32,
    /// Usable RAM.
    pub memory_bytes: u64,
    /// RAM neither used nor promised.
    pub memory_free_bytes: u64,
    /// RAM the hypervisor uses.
    pub hypervisor_bytes: u64,
    /// RAM dom0 uses.
    pub dom0_bytes: u64,
    /// Time since power-on.
    pub uptime_ns: u64,
    /// Times dom0 was started since power-on.
    pub dom0_starts: u32,
    /// The node's own MAC.
    pub mac: String,
    /// IPv4 address and prefix length, or null.
    pub address: Option<String>,
    /// Guests.
    pub guests: u32,
    /// Whether the identity key was made at this boot.
    pub fresh_identity: bool,
    /// TSC frequency in kHz.
    pub tsc_khz: u64,
    /// Claims of its own addresses by other stations on the wire.
    pub address_claims: u64,
    /// The last station that did, or null.
    pub address_claimed_by: Option<String>,
    /// Portals that moved to another station.
    pub portals_moved: u64,
    /// How often packets to a peer became shorter, because a link on the way takes no longer ones.
    pub paths_shortened: u32,
    /// Lines of its log since power-on that are errors.
    pub log_errors: u32,
    /// Lines of its log since power-on that are warnings.
    pub log_warnings: u32,
    /// Its network cards; empty where a node does not say.
    pub cards: Vec<Card>,
    /// How the run before this one ended, or null where memory did not keep it.
    pub previous_end: Option<&'static str>,
    /// Why, as memory kept it.
    pub previous_cause: String,
    /// What notices that a processor hangs; empty for nothing.
    pub watchdogs: Vec<&'static str>,
    /// Whether both threads of a core run.
    pub smt: bool,
    /// Threads that rest because another one of their core runs.
    pub threads_resting: u32,
}

/// The key of a node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeKey {
    /// Where it is.
    pub node: String,
    /// The key it has.
    pub node_key: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Keys it had before and that lead to this one, oldest first.
    pub before: Vec<String>,
}

/// How long a node takes to answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ping {
    /// Where the node is.
    pub node: String,
    /// For the connection, the handshake and the look at its key.
    pub connect_us: u64,
    /// For each answer.
    pub answers_us: Vec<u64>,
}

impl Ping {
    /// As it was measured.
    #[must_use]
    pub fn new(node: &str, connect_us: u64, answers_us: Vec<u64>) -> Self {
        Self { node: node.into(), connect_us, answers_us }
    }

    /// The same for people.
    #[must_use]
    pub fn lines(&self) -> String {
        let ms = |us: u64| format!("{} ms", decimal(us, 3, 3));
        let mut sorted = self.answers_us.clone();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        let (least, most) = (sorted.first().copied().unwrap_or(0), sorted.last().copied().unwrap_or(0));
        format!(
            "connected in {}; {} answers in {} to {}, half of them within {}\n",
            ms(self.connect_us),
            sorted.len(),
            ms(least),
            ms(most),
            ms(median)
        )
    }
}

/// A guest's share of the CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Name.
    pub name: String,
    /// ID.
    pub id: u32,
    /// Scheduling weight.
    pub weight: u32,
    /// Most CPU time in percent of one CPU; 0 is no cap.
    pub cap_percent: u32,
}

impl Share {
    /// As a node tells it.
    #[must_use]
    pub fn new(facts: &GuestFacts) -> Self {
        let machine = &facts.machine;
        let (weight, cap_percent) = (machine.cpu_weight, machine.cap_percent);
        Self { name: machine.name.clone(), id: facts.id, weight, cap_percent }
    }
}

/// A guest.
#[derive(Clone, Debug, Serialize)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Number of its domain.
    pub id: u32,
    /// connecting, running, blocked, paused, off, crashed or detached.
    pub state: &'static str,
    /// As in the table.
    pub flags: String,
    /// RAM.
    pub memory_bytes: u64,
    /// RAM it has touched.
    pub populated_bytes: u64,
    /// vCPUs.
    pub vcpus: u32,
    /// Scheduling weight.
    pub cpu_weight: u32,
    /// Most CPU time in percent of one CPU; 0 is no cap.
    pub cap_percent: u32,
    /// CPU time.
    pub cpu_time_ns: u64,
    /// Uptime at which `create` was accepted.
    pub created_ns: u64,
    /// Uptime of its first instruction, 0 before.
    pub first_run_ns: u64,
    /// Exits to the hypervisor.
    pub exits: u64,
    /// SHA-256 of its kernel.
    pub kernel_sha256: String,
    /// SHA-256 of its initrd, or null.
    pub ramdisk_sha256: Option<String>,
    /// Kernel command line.
    pub cmdline: String,
    /// Disks.
    pub disks: Vec<Disk>,
    /// MACs of its network cards.
    pub macs: Vec<String>,
    /// Frames its network cards received.
    pub frames_received: u64,
    /// Frames its network cards sent.
    pub frames_sent: u64,
    /// Frames its network cards sent that were dropped, by reason.
    pub frames_dropped: BTreeMap<&'static str, u64>,
    /// destroy, restart or preserve.
    pub on_poweroff: &'static str,
    /// destroy, restart or preserve.
    pub on_reboot: &'static str,
    /// destroy, restart or preserve.
    pub on_crash: &'static str,
    /// Its network cards.
    pub vifs: Vec<Vif>,
}

/// A guest's network card.
#[derive(Clone, Debug, Serialize)]
pub struct Vif {
    /// Hardware address.
    pub mac: String,
    /// The only IP addresses and prefixes that it may have; any without.
    pub ip: Vec<String>,
    /// Most bytes per second that it sends, or null for what any card may.
    pub rate_bytes_per_s: Option<u64>,
    /// What it asks to do beyond a plain card, as far as the owner grants it.
    pub allowed: Privileges,
}

impl Vif {
    /// In words: its address, and what it is held to.
    #[must_use]
    pub fn line(&self) -> String {
        let rate = self.rate_bytes_per_s.map(|rate| format!(", at most {}", rate_text(rate)));
        format!("{}{}", self.mac, rate.unwrap_or_default())
    }
}

/// A disk of a guest.
#[derive(Clone, Debug, Serialize)]
pub struct Disk {
    /// Name of the volume.
    pub volume: String,
    /// Writes are refused.
    pub read_only: bool,
    /// Size, 0 until known.
    pub bytes: u64,
    /// connecting, ready or stalled.
    pub state: String,
    /// Uptime since when it has been stalled, or null.
    pub stalled_since_ns: Option<u64>,
    /// Completed reads.
    pub reads: u64,
    /// Completed writes.
    pub writes: u64,
    /// Completed flushes.
    pub flushes: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Retransmissions or reconnections.
    pub retries: u64,
}

/// A volume.
#[derive(Clone, Debug, Serialize)]
pub struct Volume {
    /// Name to put into a VM file.
    pub volume: String,
    /// Who serves it.
    pub server: String,
    /// More about it.
    pub details: String,
}

/// That something was done.
#[derive(Clone, Debug, Serialize)]
pub struct Done {
    /// What it was done to.
    pub object: String,
    /// The verb.
    pub verb: &'static str,
    /// `done`, `requested` when it goes on, or `dry-run` when it was only looked at.
    pub status: &'static str,
    /// Number of a guest's domain, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
}

impl Done {
    /// The same for people.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { object, verb, status, id } = self;
        let id = id.map(|id| format!(" (ID {id})")).unwrap_or_default();
        match *status {
            "dry-run" => format!("{object}: {verb} not done, this is a dry run\n"),
            _ => format!("{object}: {verb} {status}{id}\n"),
        }
    }
}

/// Lines of a log or a console.
#[derive(Clone, Debug, Serialize)]
pub struct Log {
    /// The node or guest.
    pub source: String,
    /// Byte offset after the last line.
    pub next: u64,
    /// The lines.
    pub lines: Vec<String>,
}

/// Bytes of a log as lines.
#[must_use]
pub fn log(source: &str, bytes: &[u8], next: u64) -> Log {
    let text = String::from_utf8_lossy(bytes);
    Log { source: source.into(), next, lines: text.lines().map(Into::into).collect() }
}

/// The JSON of a value, on lines.
#[must_use]
pub fn text<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| "null".into())
}

/// Facts about the node at this address.
#[must_use]
pub fn node(address: &str, key: &[u8; 32], facts: &NodeFacts, cards: Vec<Card>) -> Node {
    Node {
        node: address.into(),
        node_key: hex::encode(key),
        version: facts.version.clone(),
        image_sha256: hex::encode(facts.image_sha256),
        image_bytes: facts.image_bytes,
        cpus: facts.cpus,
        memory_bytes: facts.memory_bytes,
        memory_free_bytes: facts.memory_free_bytes,
        hypervisor_bytes: facts.hypervisor_bytes,
        dom0_bytes: facts.dom0_bytes,
        uptime_ns: facts.uptime_ns,
        dom0_starts: facts.dom0_starts,
        mac: mac_text(facts.mac),
        address: facts
            .address
            .map(|(address, prefix)| format!("{}/{prefix}", address.map(|byte| byte.to_string()).join("."))),
        guests: facts.guests,
        fresh_identity: facts.fresh_identity,
        tsc_khz: facts.tsc_khz,
        address_claims: facts.claims.count,
        address_claimed_by: facts.claims.by.map(mac_text),
        portals_moved: facts.portals_moved,
        paths_shortened: facts.paths_shortened,
        log_errors: facts.log_errors,
        log_warnings: facts.log_warnings,
        cards,
        previous_end: facts.platform.ended.map(Ended::name),
        previous_cause: facts.platform.cause.clone(),
        watchdogs: facts.platform.watchdogs.iter().map(|it| it.name()).collect(),
        smt: facts.platform.smt,
        threads_resting: facts.platform.threads_resting,
    }
}

/// A guest's state in a word.
#[must_use]
pub const fn state(state: State) -> &'static str {
    match state {
        State::Connecting => "connecting",
        State::Running => "running",
        State::Blocked => "blocked",
        State::Paused => "paused",
        State::Off => "off",
        State::Crashed => "crashed",
        State::Detached => "detached",
    }
}

pub(crate) const fn action(action: Action) -> &'static str {
    match action {
        Action::Destroy => "destroy",
        Action::Restart => "restart",
        Action::Preserve => "preserve",
    }
}

fn disk(facts: &DiskFacts, read_only: bool) -> Disk {
    let ([reads, writes, flushes], [bytes_read, bytes_written]) = (facts.operations, facts.bytes);
    Disk {
        volume: facts.volume.clone(),
        read_only,
        bytes: facts.sectors.saturating_mul(512),
        state: facts.state.clone(),
        stalled_since_ns: facts.stalled_since_ns,
        reads,
        writes,
        flushes,
        bytes_read,
        bytes_written,
        retries: facts.retries,
    }
}

/// When a guest, or the node, was changed last.
#[derive(Clone, Debug, Serialize)]
pub struct Revision {
    /// The guest, or the node's address.
    pub object: String,
    /// Another number after each change.
    pub revision: u64,
}

/// A guest.
#[must_use]
pub fn guest(facts: &GuestFacts) -> Guest {
    let machine = &facts.machine;
    let [frames_received, frames_sent] = facts.frames;
    let read_only = |index: usize| machine.disks.get(index).is_some_and(|disk| disk.read_only);
    Guest {
        name: machine.name.clone(),
        id: facts.id,
        state: state(facts.state),
        flags: table::flags(facts),
        memory_bytes: machine.memory_bytes,
        populated_bytes: facts.populated_bytes,
        vcpus: machine.vcpus,
        cpu_weight: machine.cpu_weight,
        cap_percent: machine.cap_percent,
        cpu_time_ns: facts.cpu_time_ns,
        created_ns: facts.created_ns,
        first_run_ns: facts.first_run_ns,
        exits: facts.exits,
        kernel_sha256: hex::encode(machine.kernel),
        ramdisk_sha256: machine.ramdisk.map(hex::encode),
        cmdline: machine.command_line.clone(),
        disks: facts.disks.iter().enumerate().map(|(index, facts)| disk(facts, read_only(index))).collect(),
        macs: machine.network_cards.iter().map(|card| mac_text(card.mac)).collect(),
        frames_received,
        frames_sent,
        frames_dropped: facts.drops.iter().map(|(reason, count)| (reason.name(), *count)).collect(),
        on_poweroff: action(machine.on_poweroff),
        on_reboot: action(machine.on_reboot),
        on_crash: action(machine.on_crash),
        vifs: machine.network_cards.iter().map(vif).collect(),
    }
}

fn vif(card: &NetworkCard) -> Vif {
    let ip = card.addresses.iter().map(ToString::to_string).collect();
    Vif { mac: mac_text(card.mac), ip, rate_bytes_per_s: card.rate, allowed: card.privileges.clone() }
}

/// A volume.
#[must_use]
pub fn volume(found: &Found) -> Volume {
    Volume { volume: found.volume.clone(), server: found.server.clone(), details: found.details.clone() }
}

/// The JSON of a value on one line.
#[must_use]
pub fn line<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "null".into())
}
