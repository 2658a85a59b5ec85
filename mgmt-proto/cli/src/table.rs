//! Tables for people: stable headers, one line each.

use mgmt_proto::units::seconds;
use mgmt_proto::verb::{Found, GuestFacts, State};
use std::fmt;

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    headers: Vec<&'static str>,
    numbers: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table; a header that begins with `>` is aligned to the right.
    #[must_use]
    pub fn new(headers: &[&'static str]) -> Self {
        Self {
            headers: headers.iter().map(|header| header.trim_start_matches('>')).collect(),
            numbers: headers.iter().map(|header| header.starts_with('>')).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// With one more column in front, the same in all rows.
    #[must_use]
    pub fn with_first(&self, header: &'static str, cell: &str) -> Self {
        let mut table = self.clone();
        table.headers.insert(0, header);
        table.numbers.insert(0, false);
        for row in &mut table.rows {
            row.insert(0, cell.into());
        }
        table
    }

    /// With one more column at the end, one cell for each row.
    #[must_use]
    pub fn with_last(mut self, header: &'static str, cells: Vec<String>) -> Self {
        self.headers.push(header);
        self.numbers.push(true);
        for (row, cell) in self.rows.iter_mut().zip(cells) {
            row.push(cell);
        }
        self
    }

    /// Adds the rows of another table with the same headers.
    pub fn append(&mut self, other: Self) {
        self.rows.extend(other.rows);
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &[&'static str] {
        &self.headers
    }

    /// The rows.
    #[must_use]
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    fn line(&self, cells: &[&str], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, width), number) in cells.iter().zip(widths).zip(&self.numbers) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            line.push_str(&if *number { format!("{cell:>width$}") } else { format!("{cell:<width$}") });
        }
        line.trim_end().into()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths: Vec<usize> = self.headers.iter().map(|header| header.len()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        writeln!(formatter, "{}", self.line(&self.headers, &widths))?;
        for row in &self.rows {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            writeln!(formatter, "{}", self.line(&cells, &widths))?;
        }
        Ok(())
    }
}

/// The six flags of `xl list`, running, blocked, paused, shut down, crashed,
/// detached from dom0, and an `i` after them when a disk is stalled.
#[must_use]
pub fn flags(guest: &GuestFacts) -> String {
    let flags = match guest.state {
        State::Connecting => "------",
        State::Running => "r-----",
        State::Blocked => "-b----",
        State::Paused => "--p---",
        State::Off => "---s--",
        State::Crashed => "----c-",
        State::Detached => "-----d",
    };
    let stalled = guest.disks.iter().any(|disk| disk.stalled_since_ns.is_some());
    format!("{flags}{}", if stalled { "i" } else { "" })
}

/// Guests as `sched` shows them.
#[must_use]
pub fn shares(guests: &[GuestFacts]) -> Table {
    let mut table = Table::new(&["Name", ">ID", ">Weight", ">Cap"]);
    for guest in guests {
        let machine = &guest.machine;
        let numbers = [guest.id, machine.cpu_weight, machine.cap_percent].map(|number| number.to_string());
        table.push(std::iter::once(machine.name.clone()).chain(numbers).collect());
    }
    table
}

/// Guests as `list` shows them.
#[must_use]
pub fn guests(guests: &[GuestFacts], wide: bool) -> Table {
    let mut headers = vec!["Name", ">ID", ">Mem", ">VCPUs", "State", ">Time(s)"];
    if wide {
        headers.extend([">Touched", ">Exits", ">NetRX", ">NetTX", "Disks"]);
    }
    let mut table = Table::new(&headers);
    for guest in guests {
        let mut row = vec![
            guest.machine.name.clone(),
            guest.id.to_string(),
            (guest.machine.memory_bytes >> 20).to_string(),
            guest.machine.vcpus.to_string(),
            flags(guest),
            seconds(guest.cpu_time_ns),
        ];
        if wide {
            let disks: Vec<String> =
                guest.disks.iter().map(|disk| format!("{} {}", disk.volume, disk.state)).collect();
            let [received, sent] = guest.frames;
            row.extend([
                (guest.populated_bytes >> 20).to_string(),
                guest.exits.to_string(),
                received.to_string(),
                sent.to_string(),
                disks.join(", "),
            ]);
        }
        table.push(row);
    }
    table
}

/// Volumes as `storage discover` shows them.
#[must_use]
pub fn volumes(found: &[Found]) -> Table {
    let mut table = Table::new(&["Volume", "Server", "Details"]);
    for volume in found {
        let name = if volume.volume.is_empty() { "-" } else { &volume.volume };
        table.push(vec![name.into(), volume.server.clone(), volume.details.clone()]);
    }
    table
}
