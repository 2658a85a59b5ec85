//! The node's log: a ring in memory, mirrored to the first serial port.

use crate::watch::Mutex;
use crate::{clock, raw};
use core::fmt::{self, Write};
use hv_core::ring::Ring;

/// Bytes of log that are kept.
const LOG_BYTES: usize = 64 * 1024;
/// First serial port.
const SERIAL: u16 = 0x3f8;
/// How often a port that is not there is asked before it is given up.
const SERIAL_TRIES: u32 = 100_000;

struct Log {
    ring: Ring<LOG_BYTES>,
    serial: bool,
}

static LOG: Mutex<Log> = Mutex::new(Log { ring: Ring::new(), serial: false });

/// Sets up the serial port, if there is one: 115200 baud, 8N1.
pub(crate) fn init() {
    for (offset, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
        raw::port_write(SERIAL + offset, 1, value);
    }
    raw::port_write(SERIAL + 7, 1, 0x5a);
    LOG.lock().serial = raw::port_read(SERIAL + 7, 1) == 0x5a;
}

impl Log {
    fn put(&mut self, bytes: &[u8]) {
        self.ring.write(bytes);
        for byte in bytes {
            if !self.serial {
                return;
            }
            if *byte == b'\n' {
                self.serial_put(b'\r');
            }
            self.serial_put(*byte);
        }
    }

    fn serial_put(&mut self, byte: u8) {
        for _ in 0..SERIAL_TRIES {
            if raw::port_read(SERIAL + 5, 1) & 0x20 != 0 {
                raw::port_write(SERIAL, 1, u32::from(byte));
                return;
            }
        }
        self.serial = false;
    }
}

impl Write for Log {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.put(text.as_bytes());
        Ok(())
    }
}

/// Writes one line with the time before it.
pub(crate) fn line(arguments: fmt::Arguments<'_>) {
    let now = clock::now_ns() / 1000;
    let mut log = LOG.lock();
    // Writing to the ring cannot fail.
    let _ = writeln!(log, "[{:5}.{:06}] {arguments}", now / 1_000_000, now % 1_000_000);
}

/// Writes a line on behalf of dom0; control characters are shown as dots.
pub(crate) fn dom0_line(text: &[u8]) {
    let now = clock::now_ns() / 1000;
    let mut log = LOG.lock();
    let _ = write!(log, "[{:5}.{:06}] ", now / 1_000_000, now % 1_000_000);
    for byte in text {
        let shown = if (0x20..0x7f).contains(byte) || *byte >= 0x80 { *byte } else { b'.' };
        log.put(&[shown]);
    }
    log.put(b"\n");
}

/// Writes even if the lock is held by the code that failed.
pub(crate) fn last_words(arguments: fmt::Arguments<'_>) {
    for _ in 0..1_000_000 {
        if let Some(mut log) = LOG.try_lock() {
            let _ = writeln!(log, "{arguments}");
            return;
        }
    }
    // SAFETY: every CPU stops after this; nobody else will use the lock.
    unsafe { LOG.force_unlock() };
    let _ = writeln!(LOG.lock(), "{arguments}");
}

/// Bytes that were ever written.
pub(crate) fn written() -> u64 {
    LOG.lock().ring.written()
}

/// Copies the end of the log, unless the CPU that failed holds it.
pub(crate) fn tail(target: &mut [u8]) -> usize {
    LOG.try_lock().map_or(0, |log| {
        let from = log.ring.written().saturating_sub(target.len() as u64);
        log.ring.read(from, target).0
    })
}

/// Reads the ring from a running offset: bytes copied, next offset.
pub(crate) fn read(from: u64, target: &mut [u8]) -> (usize, u64) {
    LOG.lock().ring.read(from, target)
}

/// Logs one line.
macro_rules! info {
    ($($argument:tt)*) => { $crate::log::line(format_args!($($argument)*)) };
}
pub(crate) use info;
