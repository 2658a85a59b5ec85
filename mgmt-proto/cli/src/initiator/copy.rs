//! A volume's bytes to and from files.

use super::Initiator;
use super::bench::{sectors, whole};
use crate::exit;
use mgmt_proto::code::{Code, Failure};
use std::io::{self, Read, Write};
use std::time::Duration;
use storage::Operation;
use storage::block::SECTOR_BYTES;

/// Octets of a request.
const CHUNK: usize = 256 * 1024;
/// Requests under way.
const DEPTH: usize = 16;
const PATIENCE: Duration = Duration::from_secs(1);

fn octets(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn local(error: &io::Error) -> Failure {
    Failure::new(Code::Internal, "the file", error.to_string(), "")
}

/// A range of the volume in sectors: first and count. Its blocks have so many sectors.
///
/// # Errors
/// When it is not whole blocks of the volume.
pub fn range(offset: u64, length: Option<u64>, capacity: u64, block: u32) -> Result<(u64, u64), Failure> {
    let refuse = |why: &str| Err(exit::usage("--offset and --length", why, whole(block)));
    let Some(first) = sectors(offset, block) else { return refuse("must be whole blocks") };
    let rest = capacity.saturating_sub(first);
    let Some(count) = length.map_or(Some(rest), |length| sectors(length, block)) else {
        return refuse("must be whole blocks");
    };
    if first.saturating_add(count) > capacity || first > capacity {
        return refuse("must lie within the volume");
    }
    Ok((first, count))
}

fn chunk_sectors(left: u64) -> u32 {
    let most = u32::try_from(CHUNK / SECTOR_BYTES).unwrap_or(u32::MAX);
    u32::try_from(left).map_or(most, |left| left.min(most))
}

/// Reads `count` sectors from sector `first` on into `output`, in order.
///
/// # Errors
/// When a request fails, or the file cannot be written.
pub fn read(
    initiator: &mut Initiator,
    first: u64,
    count: u64,
    output: &mut dyn Write,
    said: &mut dyn FnMut(u64),
) -> Result<u64, Failure> {
    initiator.set_requests(DEPTH, CHUNK)?;
    let end = first.saturating_add(count);
    let mut next = first;
    // Requests in order, by their sectors, and whether they are done.
    let mut waiting: std::collections::VecDeque<(usize, u32, bool)> = std::collections::VecDeque::new();
    let (mut number, mut written) = (0, 0);
    while next < end || !waiting.is_empty() {
        while next < end && waiting.len() < DEPTH {
            let sectors = chunk_sectors(end - next);
            initiator.submit(number, Operation::Read, next, sectors)?;
            waiting.push_back((number, sectors, false));
            number = (number + 1) % DEPTH;
            next += u64::from(sectors);
        }
        initiator.turn(PATIENCE)?;
        while let Some(done) = initiator.finished()? {
            waiting
                .iter_mut()
                .filter(|(number, ..)| *number == done)
                .for_each(|(_, _, is_done)| *is_done = true);
        }
        while let Some((number, sectors, true)) = waiting.front().copied() {
            waiting.pop_front();
            let length = usize::try_from(sectors).unwrap_or(0) * SECTOR_BYTES;
            let data = initiator.data(number).get(..length).unwrap_or_default();
            output.write_all(data).map_err(|error| local(&error))?;
            written += octets(length);
            said(written);
        }
    }
    output.flush().map_err(|error| local(&error))?;
    Ok(written)
}

/// An input ends with a block: what would have to be put behind it is not for us to say.
///
/// # Errors
/// It does not.
pub fn check_end(length: u64, block: u32) -> Result<(), Failure> {
    if sectors(length, block).is_some() {
        return Ok(());
    }
    let bytes = u64::from(block).saturating_mul(octets(SECTOR_BYTES));
    let remedy = format!("fill it up with zeroes: truncate -s %{bytes} FILE");
    Err(exit::usage("the input", format!("ends within a block of {bytes} bytes"), remedy))
}

/// Fills a buffer as far as the input goes.
fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while let Some(room) = buffer.get_mut(length..).filter(|room| !room.is_empty()) {
        match input.read(room) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Writes all of `input` from sector `first` on, but no more than `count` sectors,
/// and makes it durable.
///
/// # Errors
/// When a request fails, the input cannot be read, is too long or ends within a
/// block: what was written until then stays.
pub fn write(
    initiator: &mut Initiator,
    first: u64,
    count: u64,
    input: &mut dyn Read,
    said: &mut dyn FnMut(u64),
) -> Result<u64, Failure> {
    initiator.set_requests(DEPTH, CHUNK)?;
    let mut free: Vec<usize> = (0..DEPTH).rev().collect();
    let block = initiator.block_sectors();
    let (mut next, end, mut over) = (first, first.saturating_add(count), false);
    let mut done = 0;
    let mut lengths = [0; DEPTH];
    while !over || free.len() < DEPTH {
        while !over && let Some(number) = free.pop() {
            let length = fill(input, initiator.data(number)).map_err(|error| local(&error))?;
            over = length < CHUNK;
            let sectors = u32::try_from(length / SECTOR_BYTES).unwrap_or(0);
            check_end(octets(length), block)?;
            if next.saturating_add(u64::from(sectors)) > end {
                return Err(exit::usage("the input", "is longer than the room for it", ""));
            }
            if sectors == 0 {
                free.push(number);
                break;
            }
            initiator.submit(number, Operation::Write, next, sectors)?;
            if let Some(slot) = lengths.get_mut(number) {
                *slot = octets(length);
            }
            next += u64::from(sectors);
        }
        if free.len() == DEPTH {
            break;
        }
        initiator.turn(PATIENCE)?;
        while let Some(number) = initiator.finished()? {
            done += lengths.get(number).copied().unwrap_or(0);
            free.push(number);
            said(done);
        }
    }
    initiator.submit(0, Operation::Flush, 0, 0)?;
    while initiator.finished()?.is_none() {
        initiator.turn(PATIENCE)?;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(range(0, None, 10, 1).unwrap(), (0, 10));
        assert_eq!(range(512, Some(1024), 10, 1).unwrap(), (1, 2));
        assert_eq!(range(5120, None, 10, 1).unwrap(), (10, 0));
        assert_eq!(range(4096, Some(8192), 80, 8).unwrap(), (8, 16));
        for (offset, length) in [(512, None), (0, Some(512)), (4096, Some(4608))] {
            let failure = range(offset, length, 80, 8).unwrap_err();
            assert!(failure.remedy.contains("4096 bytes"), "{failure}");
        }
        assert!(check_end(8192, 8).is_ok() && check_end(512, 1).is_ok());
        let failure = check_end(8704, 8).unwrap_err();
        assert!(failure.message.contains("block of 4096 bytes") && failure.remedy.contains("%4096"));
        for (offset, length) in
            [(1, None), (0, Some(5)), (0, Some(5632)), (5632, None), (u64::MAX - 511, Some(512))]
        {
            assert!(range(offset, length, 10, 1).is_err(), "{offset} {length:?}");
        }
    }
}
