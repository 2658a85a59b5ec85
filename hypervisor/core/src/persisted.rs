//! What persists in memory across a warm reset: how a run ended, why, and the end of its log.
//!
//! The next start finds it at a fixed place. Nothing tells whose it is: firmware clears
//! or uses memory, and so may whatever ran in between. So it is untrusted input: magic,
//! lengths and checksum must fit, and only printable bytes of it are ever shown.

use hv_abi::previous::Ended;

/// Most bytes of the cause.
pub const CAUSE_BYTES: usize = 480;
/// Most bytes of log.
pub const LOG_BYTES: usize = 64 * 1024;
/// Bytes of the whole: header, cause, log.
pub const AREA_BYTES: usize = LOG_START + LOG_BYTES;

const MAGIC: [u8; 8] = *b"REDKEPT1";
const CHECKSUM: usize = 24;
const CAUSE_START: usize = 32;
const LOG_START: usize = CAUSE_START + CAUSE_BYTES;

/// A record that was found whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PersistedRun {
    /// How that run ended.
    pub ended: Ended,
    /// Bytes of the cause.
    pub cause_bytes: usize,
    /// Bytes of log.
    pub log_bytes: usize,
}

impl PersistedRun {
    /// The cause in the area that it was found in.
    #[must_use]
    pub fn cause<'a>(&self, area: &'a [u8; AREA_BYTES]) -> &'a [u8] {
        area.get(CAUSE_START..CAUSE_START + self.cause_bytes).unwrap_or_default()
    }

    /// The log in the area that it was found in.
    #[must_use]
    pub fn log<'a>(&self, area: &'a [u8; AREA_BYTES]) -> &'a [u8] {
        area.get(LOG_START..LOG_START + self.log_bytes).unwrap_or_default()
    }
}

/// Finds damage, not forgery.
fn checksum(area: &[u8; AREA_BYTES], log_bytes: usize) -> u64 {
    let mut sum = 0xcbf2_9ce4_8422_2325_u64;
    let mut take = |bytes: &[u8]| {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            sum = (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    };
    take(area.get(..CHECKSUM).unwrap_or_default());
    take(area.get(CAUSE_START..LOG_START + log_bytes).unwrap_or_default());
    sum
}

fn put(area: &mut [u8; AREA_BYTES], at: usize, bytes: &[u8]) {
    if let Some(target) = area.get_mut(at..at + bytes.len()) {
        target.copy_from_slice(bytes);
    }
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(0).to_le_bytes()
}

/// Writes a record. `log` copies the end of the log and returns how much of it there is.
pub fn write(area: &mut [u8; AREA_BYTES], ended: Ended, cause: &[u8], log: impl FnOnce(&mut [u8]) -> usize) {
    let cause = cause.get(..cause.len().min(CAUSE_BYTES)).unwrap_or_default();
    let log_bytes = area.get_mut(LOG_START..).map_or(0, log).min(LOG_BYTES);
    area.get_mut(CAUSE_START..LOG_START).unwrap_or_default().fill(0);
    put(area, CAUSE_START, cause);
    put(area, 0, &MAGIC);
    put(area, 8, &(ended as u32).to_le_bytes());
    put(area, 12, &length(cause.len()));
    put(area, 16, &length(log_bytes));
    put(area, 20, &[0; 4]);
    let sum = checksum(area, log_bytes);
    put(area, CHECKSUM, &sum.to_le_bytes());
}

fn word(area: &[u8; AREA_BYTES], at: usize) -> Option<u32> {
    area.get(at..).and_then(|rest| rest.first_chunk()).map(|bytes| u32::from_le_bytes(*bytes))
}

/// Parses the record; `None` unless all of it is consistent. What is not printable in
/// it becomes a dot.
pub fn read(area: &mut [u8; AREA_BYTES]) -> Option<PersistedRun> {
    let cause_bytes = usize::try_from(word(area, 12)?).ok().filter(|length| *length <= CAUSE_BYTES)?;
    let log_bytes = usize::try_from(word(area, 16)?).ok().filter(|length| *length <= LOG_BYTES)?;
    let ended = Ended::from_number(word(area, 8)?)?;
    let sum: [u8; 8] = *area.get(CHECKSUM..)?.first_chunk()?;
    if !area.starts_with(&MAGIC) || u64::from_le_bytes(sum) != checksum(area, log_bytes) {
        return None;
    }
    for (at, byte) in area.iter_mut().enumerate().skip(CAUSE_START) {
        match *byte {
            // The cause is one line.
            b'\n' if at < LOG_START => *byte = b' ',
            b'\n' | 0x20..0x7f => {}
            _ => *byte = b'.',
        }
    }
    Some(PersistedRun { ended, cause_bytes, log_bytes })
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "test data is cut to size on purpose")]
mod tests {
    extern crate std;
    use super::{AREA_BYTES, CAUSE_BYTES, Ended, LOG_BYTES, LOG_START, checksum, length, put, read, write};
    use std::boxed::Box;

    fn area(cause: &[u8], log: &[u8]) -> Box<[u8; AREA_BYTES]> {
        let mut area = Box::new([0xa5; AREA_BYTES]);
        write(&mut area, Ended::Failed, cause, |target| {
            target[..log.len()].copy_from_slice(log);
            log.len()
        });
        area
    }

    #[test]
    fn persisted_record_is_read_back() {
        let mut area = area(b"panicked at x.rs:7", b"[ 1] a\n[ 2] b\n");
        assert_eq!(area[..8], *b"REDKEPT1");
        assert_eq!(area[8..24], [3, 0, 0, 0, 18, 0, 0, 0, 14, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(area[24..32], [0x91, 0x7e, 0x6a, 0xc7, 0xbb, 0x1d, 0x97, 0x7e]);
        let persisted = read(&mut area).unwrap();
        assert_eq!((persisted.ended, persisted.cause(&area)), (Ended::Failed, &b"panicked at x.rs:7"[..]));
        assert_eq!(persisted.log(&area), b"[ 1] a\n[ 2] b\n");
    }

    #[test]
    fn a_cause_that_is_too_long_is_cut() {
        let mut area = area(&[b'c'; CAUSE_BYTES + 9], &[b'l'; LOG_BYTES]);
        let persisted = read(&mut area).unwrap();
        assert_eq!((persisted.cause(&area).len(), persisted.log(&area).len()), (CAUSE_BYTES, LOG_BYTES));
    }

    #[test]
    fn only_printable_bytes_come_out() {
        let mut area = area(b"\x1b[2Jcleared\x00\xff\nnow", b"line\r\n\x07\x9b31m\n");
        let persisted = read(&mut area).unwrap();
        assert_eq!(persisted.cause(&area), b".[2Jcleared.. now");
        assert_eq!(persisted.log(&area), b"line.\n..31m\n");
    }

    #[test]
    fn each_flipped_bit_is_detected() {
        let mut area = area(b"cause", b"log");
        for bit in 0..8 * (LOG_START + 3) {
            area[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&mut area), None, "bit {bit}");
            area[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(read(&mut area).is_some());
    }

    #[test]
    fn lengths_beyond_the_area_and_unknown_ends_are_refused() {
        for (at, value) in [(8, 0_u32), (8, 99), (12, 481), (12, u32::MAX), (16, 65_537), (16, u32::MAX)] {
            let mut area = area(b"cause", b"log");
            put(&mut area, at, &value.to_le_bytes());
            // With a checksum as a forger would make it.
            let sum = checksum(&area, if at == 16 { (value as usize).min(LOG_BYTES) } else { 3 });
            put(&mut area, 24, &sum.to_le_bytes());
            assert_eq!(read(&mut area), None, "{value} at {at}");
        }
        assert_eq!(length(7), [7, 0, 0, 0]);
    }

    #[test]
    fn arbitrary_bytes_never_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut area = area(b"cause", b"log");
        for _ in 0..200 {
            for _ in 0..4 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                area[(state >> 32) as usize % 40] = state as u8;
            }
            if let Some(persisted) = read(&mut area.clone()) {
                assert!(
                    persisted.cause(&area).len() <= CAUSE_BYTES && persisted.log(&area).len() <= LOG_BYTES
                );
            }
        }
    }
}
