//! What node and guests use: two looks and the difference between them.

use crate::json;
use crate::session;
use crate::table::{self, Table};
use crate::{Connection, answer::Answer};
use mgmt_proto::code::Failure;
use mgmt_proto::units;
use mgmt_proto::verb::{GuestFacts, NodeFacts, Reply, Request, Traffic};
use serde::Serialize;

/// Headers of the table of guests, those of xentop first.
pub const HEADERS: [&str; 15] = [
    "NAME",
    "STATE",
    ">CPU(sec)",
    ">CPU(%)",
    ">MEM(k)",
    ">MAXMEM(k)",
    ">VCPUS",
    ">EXITS/s",
    ">RX(k)/s",
    ">TX(k)/s",
    ">VBD_RD/s",
    ">VBD_WR/s",
    ">RD(k)/s",
    ">WR(k)/s",
    ">STALL(ms)",
];

/// One look at a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The node.
    pub node: NodeFacts,
    /// Its guests.
    pub guests: Vec<GuestFacts>,
    /// What their network cards moved.
    pub traffic: Vec<Traffic>,
}

/// What `top` shows; `-o json` prints one on a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Screen {
    /// Where the node is.
    pub node: String,
    /// Time since power-on.
    pub uptime_ns: u64,
    /// CPUs in use.
    pub cpus: u32,
    /// Usable RAM.
    pub memory_bytes: u64,
    /// RAM neither used nor promised.
    pub memory_free_bytes: u64,
    /// RAM dom0 uses.
    pub dom0_bytes: u64,
    /// Times dom0 was started since power-on.
    pub dom0_starts: u32,
    /// CPU time of all guests in tenths of a percent of one CPU.
    pub cpu_permille: u64,
    /// Guests.
    pub guests: Vec<Row>,
}

/// A guest; rates are for each second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Number of its domain.
    pub id: u32,
    /// As in `list`.
    pub flags: String,
    /// CPU time.
    pub cpu_time_ns: u64,
    /// CPU time in tenths of a percent of one CPU.
    pub cpu_permille: u64,
    /// RAM it has touched.
    pub populated_bytes: u64,
    /// RAM it may touch.
    pub memory_bytes: u64,
    /// vCPUs.
    pub vcpus: u32,
    /// Exits to the hypervisor.
    pub exits_per_second: u64,
    /// Frames received.
    pub frames_received_per_second: u64,
    /// Frames sent.
    pub frames_sent_per_second: u64,
    /// Bytes received.
    pub bytes_received_per_second: u64,
    /// Bytes sent.
    pub bytes_sent_per_second: u64,
    /// Reads of disks.
    pub reads_per_second: u64,
    /// Writes to disks.
    pub writes_per_second: u64,
    /// Bytes read from disks.
    pub bytes_read_per_second: u64,
    /// Bytes written to disks.
    pub bytes_written_per_second: u64,
    /// How long its longest stalled disk has been so.
    pub stalled_ms: u64,
}

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Most CPU first.
    #[default]
    Cpu,
    /// Most memory first.
    Memory,
    /// By name.
    Name,
}

impl Sample {
    /// Looks.
    ///
    /// # Errors
    /// Of the node, or the way to it.
    pub fn take(connection: &mut Connection) -> Result<Self, Failure> {
        let Reply::Node(node) = connection.request(Request::NodeInfo)? else {
            return Err(connection.unexpected());
        };
        let guests = session::guests(connection)?;
        let Reply::Traffic(traffic) = connection.request(Request::Traffic)? else {
            return Err(connection.unexpected());
        };
        Ok(Self { node: *node, guests, traffic })
    }

    /// Bytes that a guest received and sent.
    #[must_use]
    pub fn bytes(&self, guest: &GuestFacts) -> [u64; 2] {
        let own = self.traffic.iter().find(|traffic| guest.id != 0 && traffic.id == guest.id);
        own.map_or([0; 2], |own| own.bytes)
    }
}

#[derive(Clone, Copy, Default)]
struct Disks {
    operations: [u64; 2],
    bytes: [u64; 2],
}

fn disks(guest: &GuestFacts) -> Disks {
    let mut sum = Disks::default();
    for disk in &guest.disks {
        let ([reads, writes, _], [read, written]) = (disk.operations, disk.bytes);
        sum.operations = [sum.operations[0].saturating_add(reads), sum.operations[1].saturating_add(writes)];
        sum.bytes = [sum.bytes[0].saturating_add(read), sum.bytes[1].saturating_add(written)];
    }
    sum
}

/// What changed in a time, for each unit of time; counters that began anew are 0.
fn rate(before: u64, after: u64, elapsed_ns: u64, per_ns: u64) -> u64 {
    let change = u128::from(after.saturating_sub(before)) * u128::from(per_ns);
    u64::try_from(change / u128::from(elapsed_ns.max(1))).unwrap_or(u64::MAX)
}

const SECOND_NS: u64 = 1_000_000_000;

/// `traffic` is what its cards had moved before and after.
fn row(
    before: Option<&GuestFacts>,
    after: &GuestFacts,
    traffic: [[u64; 2]; 2],
    elapsed_ns: u64,
    uptime_ns: u64,
) -> Row {
    // What a new guest did, it did since the look before.
    let per_second = |before: Option<u64>, after| rate(before.unwrap_or(0), after, elapsed_ns, SECOND_NS);
    let (old, new) = (before.map(disks), disks(after));
    let operations = |index: usize| {
        let of = |disks: &Disks| disks.operations.get(index).copied().unwrap_or_default();
        per_second(old.as_ref().map(of), of(&new))
    };
    let bytes = |index: usize| {
        let of = |disks: &Disks| disks.bytes.get(index).copied().unwrap_or_default();
        per_second(old.as_ref().map(of), of(&new))
    };
    let stalled = after.disks.iter().filter_map(|disk| disk.stalled_since_ns).min();
    let [received, sent] = after.frames;
    let [[received_before, sent_before], [bytes_received, bytes_sent]] = traffic;
    Row {
        name: after.machine.name.clone(),
        id: after.id,
        flags: table::flags(after),
        cpu_time_ns: after.cpu_time_ns,
        cpu_permille: rate(before.map_or(0, |it| it.cpu_time_ns), after.cpu_time_ns, elapsed_ns, 1000),
        populated_bytes: after.populated_bytes,
        memory_bytes: after.machine.memory_bytes,
        vcpus: after.machine.vcpus,
        exits_per_second: per_second(before.map(|it| it.exits), after.exits),
        frames_received_per_second: per_second(before.map(|it| it.frames[0]), received),
        frames_sent_per_second: per_second(before.map(|it| it.frames[1]), sent),
        bytes_received_per_second: per_second(Some(received_before), bytes_received),
        bytes_sent_per_second: per_second(Some(sent_before), bytes_sent),
        reads_per_second: operations(0),
        writes_per_second: operations(1),
        bytes_read_per_second: bytes(0),
        bytes_written_per_second: bytes(1),
        stalled_ms: stalled.map_or(0, |since| uptime_ns.saturating_sub(since) / 1_000_000),
    }
}

impl Screen {
    /// What happened between two looks at the node at this address.
    #[must_use]
    pub fn new(address: &str, before: &Sample, after: &Sample, order: Order) -> Self {
        let node = &after.node;
        // A node that was restarted in between counts from its start.
        let elapsed_ns = match node.uptime_ns.checked_sub(before.node.uptime_ns) {
            Some(elapsed_ns) if elapsed_ns > 0 => elapsed_ns,
            _ => node.uptime_ns,
        };
        let same = |after: &GuestFacts| {
            let same = |it: &&GuestFacts| it.id == after.id && it.machine.name == after.machine.name;
            before.guests.iter().find(same)
        };
        let row = |guest: &GuestFacts| {
            let same = same(guest);
            let traffic = [same.map_or([0; 2], |same| before.bytes(same)), after.bytes(guest)];
            row(same, guest, traffic, elapsed_ns, node.uptime_ns)
        };
        let guests: Vec<Row> = after.guests.iter().map(row).collect();
        let mut screen = Self {
            node: address.into(),
            uptime_ns: node.uptime_ns,
            cpus: node.cpus,
            memory_bytes: node.memory_bytes,
            memory_free_bytes: node.memory_free_bytes,
            dom0_bytes: node.dom0_bytes,
            dom0_starts: node.dom0_starts,
            cpu_permille: guests.iter().map(|guest| guest.cpu_permille).sum(),
            guests,
        };
        screen.sort(order);
        screen
    }

    /// Puts the guests in this order.
    pub fn sort(&mut self, order: Order) {
        self.guests.sort_by(|left, right| {
            let by_name = left.name.cmp(&right.name);
            match order {
                Order::Cpu => right.cpu_permille.cmp(&left.cpu_permille).then(by_name),
                Order::Memory => right.populated_bytes.cmp(&left.populated_bytes).then(by_name),
                Order::Name => by_name,
            }
        });
    }

    /// One line about the node.
    #[must_use]
    pub fn headline(&self) -> String {
        let seconds = self.uptime_ns / SECOND_NS;
        let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
        let days = if days > 0 { format!("{days}d ") } else { String::new() };
        let again = match self.dom0_starts {
            0 | 1 => String::new(),
            starts => format!(", dom0 started {starts} times"),
        };
        format!(
            "{}  up {days}{hours:02}:{minutes:02}:{:02}  {} CPUs, {} % used  {} MiB, {} free, dom0 {}{again}  {} guests",
            self.node,
            seconds % 60,
            self.cpus,
            units::decimal(self.cpu_permille, 1, 1),
            self.memory_bytes >> 20,
            self.memory_free_bytes >> 20,
            self.dom0_bytes >> 20,
            self.guests.len(),
        )
    }

    /// The guests.
    #[must_use]
    pub fn table(&self) -> Table {
        let mut table = Table::new(&HEADERS);
        for guest in &self.guests {
            table.push(guest.cells());
        }
        table
    }

    /// As `top -b` prints it.
    #[must_use]
    pub fn answer(&self) -> Answer {
        let names = self.guests.iter().map(|guest| guest.name.clone()).collect();
        let text = format!("{}\n{}\n", self.headline(), self.table());
        Answer::new(self, names, crate::answer::Text::Lines(text))
    }

    /// The JSON of this on one line.
    #[must_use]
    pub fn json_line(&self) -> String {
        json::line(self)
    }
}

impl Row {
    /// Its cells in the table.
    #[must_use]
    pub fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.flags.clone(),
            units::seconds(self.cpu_time_ns),
            units::decimal(self.cpu_permille, 1, 1),
            (self.populated_bytes >> 10).to_string(),
            (self.memory_bytes >> 10).to_string(),
            self.vcpus.to_string(),
            self.exits_per_second.to_string(),
            (self.bytes_received_per_second >> 10).to_string(),
            (self.bytes_sent_per_second >> 10).to_string(),
            self.reads_per_second.to_string(),
            self.writes_per_second.to_string(),
            (self.bytes_read_per_second >> 10).to_string(),
            (self.bytes_written_per_second >> 10).to_string(),
            self.stalled_ms.to_string(),
        ]
    }
}
