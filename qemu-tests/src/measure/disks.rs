//! What a guest gets from network disks, next to a Linux node's own initiators.
//!
//! Both machines run all the time and are measured in turns, A B B A, so that what
//! else the workstation does falls on both alike.

use super::figure::{Table, as_f64, milliseconds};
use super::load::Worker;
use anyhow::Result;

/// Turns of each: pairs A B, B A, ...
const PAIRS: usize = 7;
/// Reads of 4 KiB in a turn.
const RANDOM_READS: u64 = 200;
/// Reads of 1 MiB in a turn.
const SEQUENTIAL_READS: u64 = 16;
const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

/// A protocol, and what its disk is called.
struct Protocol {
    name: &'static str,
    guest: &'static str,
    linux: &'static str,
}

const PROTOCOLS: [Protocol; 2] = [
    Protocol { name: "AoE", guest: "/dev/vda", linux: "/dev/etherd/e11.2" },
    Protocol { name: "iSCSI", guest: "/dev/vdb", linux: "/dev/sda" },
];

/// Values of the guest and of Linux.
type Both = (Vec<f64>, Vec<f64>);

/// Measures both protocols; `wire` names it in the figures' names.
///
/// # Errors
/// When a disk does not appear or cannot be read.
pub fn measure(
    table: &mut Table,
    wire: &str,
    guest: &mut Worker,
    linux: &mut Worker,
    exits: &dyn Fn() -> Result<u64>,
) -> Result<()> {
    for protocol in &PROTOCOLS {
        let Protocol { name, guest: mine, linux: theirs } = protocol;
        let name = format!("{name}{wire}");
        guest.one(&format!("wait {mine}"))?;
        linux.one(&format!("wait {theirs}"))?;
        let random = |worker: &mut Worker, path: &str, turn: usize| {
            let seed = 7919 * (turn + 1);
            Ok(milliseconds(worker.one(&format!("random {path} {BLOCK} {RANDOM_READS} {seed}"))?))
        };
        let both = in_turns(guest, linux, |worker, own, turn| {
            random(worker, if own { mine } else { theirs }, turn)
        })?;
        add(table, &format!("{name}: 4 KiB random direct read, p50"), both, "ms");
        let before = exits()?;
        random(guest, mine, 0)?;
        let each = as_f64(exits()?.saturating_sub(before)) / as_f64(RANDOM_READS);
        table.add(&format!("{name}: exits of the guest for a 4 KiB read"), each, "count");
        let both = in_turns(guest, linux, |worker, own, _| {
            let path = if own { mine } else { theirs };
            let time = worker.one(&format!("sequential {path} {MIB} {SEQUENTIAL_READS}"))?;
            Ok(as_f64(SEQUENTIAL_READS * MIB) / as_f64(time) * 1e3)
        })?;
        add(table, &format!("{name}: sequential 1 MiB direct reads"), both, "MB/s");
    }
    Ok(())
}

/// Measures A B B A A B B A ...; the first turn of each only warms up.
pub(super) fn in_turns(
    guest: &mut Worker,
    linux: &mut Worker,
    mut one: impl FnMut(&mut Worker, bool, usize) -> Result<f64>,
) -> Result<Both> {
    let mut both = (Vec::new(), Vec::new());
    for pair in 0..=PAIRS {
        let order = if pair % 2 == 0 { [true, false] } else { [false, true] };
        for own in order {
            let value = one(if own { guest } else { linux }, own, pair)?;
            if pair > 0 {
                if own { both.0.push(value) } else { both.1.push(value) }
            }
        }
    }
    Ok(both)
}

/// Adds both, and the ratio of each pair.
pub(super) fn add(table: &mut Table, name: &str, both: Both, unit: &'static str) {
    let ratios = both.0.iter().zip(&both.1).map(|(own, other)| own / other).collect();
    table.add_samples(&format!("{name}, guest"), both.0, unit);
    table.add_samples(&format!("{name}, Linux node itself"), both.1, unit);
    table.add_samples(&format!("{name}, guest / Linux"), ratios, "ratio");
}
