//! How fast a volume is.

use super::{Initiator, nanoseconds};
use crate::exit;
use hdrhistogram::Histogram;
use mgmt_proto::code::{Code, Failure};
use std::time::Duration;
use storage::block::SECTOR_BYTES;
use storage::limits::{AOE_FRAME_LIFETIME_NS, REQUEST_SECTORS_MAX};
use storage::volume::Volume;
use storage::{Counters, Operation};

/// How long to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// So many requests.
    Count(u64),
    /// So long.
    Time(Duration),
}

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Write instead of reading.
    pub write: bool,
    /// At random places instead of one after the other.
    pub random: bool,
    /// Octets of a request.
    pub block: u64,
    /// Requests under way at a time.
    pub depth: usize,
    /// How long to go on.
    pub extent: Extent,
    /// First octet of the volume.
    pub offset: u64,
    /// Octets of the volume; without, to its end.
    pub length: Option<u64>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Requests finished.
    pub requests: u64,
    /// From the first request to the last completion.
    pub elapsed: Duration,
    /// How long each took, in nanoseconds.
    pub latency: Histogram<u64>,
    /// What the session counted meanwhile.
    pub counters: Counters,
}

/// Sectors in octets, if they are whole blocks of so many sectors.
pub(super) fn sectors(octets: u64, block: u32) -> Option<u64> {
    let sector = SECTOR_BYTES as u64;
    octets.is_multiple_of(sector.saturating_mul(u64::from(block))).then_some(octets / sector)
}

/// What to do about octets that are not.
pub(super) fn whole(block: u32) -> String {
    format!("a block of this volume has {} bytes", u64::from(block).saturating_mul(SECTOR_BYTES as u64))
}

/// Blocks of a job on a volume: the first sector, how many, sectors of each.
fn blocks(job: &Job, capacity: u64, whole_sectors: u32) -> Result<(u64, u64, u32), Failure> {
    let wrong = |what: &str, why: &str| Err(exit::usage(what, why, whole(whole_sectors)));
    let sectors = |octets| sectors(octets, whole_sectors);
    let block = sectors(job.block).and_then(|it| u32::try_from(it).ok());
    let Some(block) = block.filter(|it| (1..=REQUEST_SECTORS_MAX).contains(it)) else {
        return wrong("--block-size", "from one block to 32 MiB, in whole blocks");
    };
    let (Some(first), Some(length)) =
        (sectors(job.offset), job.length.map_or(Some(capacity.saturating_mul(1)), sectors))
    else {
        return wrong("--offset and --length", "must be whole blocks");
    };
    let end = if job.length.is_some() { first.saturating_add(length) } else { capacity };
    let count = end.saturating_sub(first) / u64::from(block);
    if end > capacity || count == 0 {
        return wrong("--offset and --length", "must lie within the volume and hold a block");
    }
    Ok((first, count, block))
}

/// Where the next request goes.
struct Places {
    random: bool,
    state: u64,
    count: u64,
}

impl Places {
    fn next(&mut self) -> u64 {
        if !self.random {
            self.state = (self.state + 1) % self.count;
            return self.state;
        }
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        // Its share of the whole, which is free of a division.
        let [low, high] = [self.state, self.count].map(u128::from);
        u64::try_from((low * high) >> 64).unwrap_or(0)
    }
}

/// Times in nanoseconds up to an hour, to a thousandth of each.
fn times() -> Result<Histogram<u64>, Failure> {
    let longest_ns = 3_600_000_000_000;
    Histogram::new_with_max(longest_ns, 3)
        .map_err(|error| Failure::new(Code::Internal, "latency", error.to_string(), ""))
}

/// Runs a job on a volume that serves.
///
/// # Errors
/// When the job makes no sense, or a request fails.
#[inline(never)]
pub fn run(initiator: &mut Initiator, job: &Job) -> Result<Measured, Failure> {
    let capacity = initiator.volume().ready_capacity().unwrap_or(0);
    let (first, count, block) = blocks(job, capacity, initiator.block_sectors())?;
    initiator.set_requests(job.depth, usize::try_from(job.block).unwrap_or(0))?;
    let start = if job.random { 0x2545_f491_4f6c_dd1d } else { count - 1 };
    let mut places = Places { random: job.random, state: start, count };
    let operation = if job.write { Operation::Write } else { Operation::Read };
    if job.write {
        for number in 0..job.depth {
            fill(initiator.data(number), number);
        }
        wait_for_writes(initiator)?;
    }
    let before = initiator.status().counters;
    let began_ns = initiator.now_ns();
    let mut since_ns = vec![began_ns; job.depth];
    // What is left to be begun, and until when.
    let (mut more, until_ns) = match job.extent {
        Extent::Count(count) => (count, u64::MAX),
        Extent::Time(time) => (u64::MAX, began_ns.saturating_add(nanoseconds(time))),
    };
    let (mut under_way, mut latency) = (0usize, times()?);
    let mut unused = 0..job.depth;
    'job: loop {
        // A number that is not under way.
        let number = loop {
            if let Some(number) = unused.next() {
                break number;
            }
            if let Some(number) = initiator.finished()? {
                let since_ns = since_ns.get(number).copied().unwrap_or_default();
                latency.saturating_record(initiator.now_ns() - since_ns);
                under_way -= 1;
                break number;
            }
            if under_way == 0 {
                break 'job;
            }
            initiator.turn(Duration::from_secs(1))?;
            if initiator.now_ns() >= until_ns {
                more = 0;
            }
        };
        if more > 0 {
            if let Some(since_ns) = since_ns.get_mut(number) {
                *since_ns = initiator.now_ns();
            }
            initiator.submit(number, operation, first + places.next() * u64::from(block), block)?;
            more -= 1;
            under_way += 1;
        }
    }
    let ended_ns = initiator.now_ns();
    if latency.is_empty() {
        return Err(initiator.failure(Code::Storage, "no request finished", ""));
    }
    let counters = difference(&initiator.status().counters, &before);
    let elapsed = Duration::from_nanos(ended_ns - began_ns);
    Ok(Measured { requests: latency.len(), elapsed, latency, counters })
}

/// AoE: writes are held back while frames of an earlier run may be on their way.
fn wait_for_writes(initiator: &mut Initiator) -> Result<(), Failure> {
    while matches!(initiator.volume(), Volume::Aoe(_)) && initiator.now_ns() < AOE_FRAME_LIFETIME_NS {
        let left = AOE_FRAME_LIFETIME_NS - initiator.now_ns();
        initiator.turn(Duration::from_nanos(left))?;
    }
    Ok(())
}

/// Octets that do not compress.
fn fill(data: &mut [u8], seed: usize) {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ (seed as u64 + 1);
    for chunk in data.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        for (octet, value) in chunk.iter_mut().zip(state.to_le_bytes()) {
            *octet = value;
        }
    }
}

fn difference(after: &Counters, before: &Counters) -> Counters {
    Counters {
        completed: after.completed - before.completed,
        failed: after.failed - before.failed,
        bytes_read: after.bytes_read - before.bytes_read,
        bytes_written: after.bytes_written - before.bytes_written,
        retries: after.retries - before.retries,
        digest_errors: after.digest_errors - before.digest_errors,
        rejected: after.rejected - before.rejected,
        stalls: after.stalls - before.stalls,
        merged: after.merged - before.merged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(block: u64, offset: u64, length: Option<u64>) -> Job {
        let extent = Extent::Count(1);
        Job { write: false, random: false, block, depth: 1, extent, offset, length }
    }

    #[test]
    fn a_job_stays_within_the_volume() {
        let of = |block, offset, length| blocks(&job(block, offset, length), 100, 1).ok();
        assert_eq!(of(4096, 0, None), Some((0, 12, 8)));
        assert_eq!(of(4096, 512 * 90, None), Some((90, 1, 8)));
        assert_eq!(of(512, 512, Some(1024)), Some((1, 2, 1)));
        for (block, offset, length) in [
            (0, 0, None),
            (100, 0, None),
            (512, 100, None),
            (512, 0, Some(700)),
            (512, 0, Some(101 * 512)),
            (512, 200 * 512, None),
            (4096, 512 * 95, None),
            (512, u64::MAX - 511, Some(512)),
            (1 << 40, 0, None),
        ] {
            assert_eq!(of(block, offset, length), None, "{block} {offset} {length:?}");
        }
    }

    #[test]
    fn places_cover_the_volume() {
        let mut sequential = Places { random: false, state: 2, count: 3 };
        assert_eq!([0; 4].map(|_| sequential.next()), [0, 1, 2, 0]);
        let mut random = Places { random: true, state: 1, count: 5 };
        let mut seen = [0; 5];
        (0..1000).for_each(|_| seen[usize::try_from(random.next()).unwrap()] += 1);
        assert!(seen.iter().all(|count| (150..250).contains(count)), "{seen:?}");
    }
}
