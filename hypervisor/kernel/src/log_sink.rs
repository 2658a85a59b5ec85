//! The node's log: a ring in memory, mirrored to the first serial port. What ring 0 logs
//! comes here through the `log` crate, what dom0 logs through a system call.

use crate::clock;
use crate::raw::Ports;
use crate::watch::Mutex;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};
use hv_abi::log_line::target_word;
use hv_core::ring::Ring;
use log::{Level, LevelFilter, Metadata, Record};

/// Bytes of log that are persisted.
const LOG_BYTES: usize = 64 * 1024;
/// First serial port.
// SAFETY: legacy ports with that meaning on every PC.
const SERIAL: Ports = unsafe { Ports::new(0x3f8, 8) };
/// How often a port that is not there is asked before it is given up.
const SERIAL_TRIES: u32 = 100_000;

struct Log {
    ring: Ring<LOG_BYTES>,
    serial: bool,
}

static LOG: Mutex<Log> = Mutex::new(Log { ring: Ring::new(), serial: false });

/// Lines of these levels since the start.
static ERRORS: AtomicU32 = AtomicU32::new(0);
static WARNINGS: AtomicU32 = AtomicU32::new(0);

/// Where the records of ring 0 go.
struct Sink;

impl log::Log for Sink {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let mut log = LOG.lock();
        log.begin(record.level());
        // Writing to the ring cannot fail.
        let _ = writeln!(log, "{}: {}", target_word(record.target()), record.args());
    }

    fn flush(&self) {}
}

/// Takes the records of ring 0, and sets up the serial port, if there is one: 115200 baud,
/// 8N1.
pub(crate) fn init() {
    for (offset, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
        SERIAL.write(offset, 1, value);
    }
    SERIAL.write(7, 1, 0x5a);
    LOG.lock().serial = SERIAL.read(7, 1) == 0x5a;
    if log::set_logger(&Sink).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

impl Log {
    /// The time and the level, before a line.
    fn begin(&mut self, level: Level) {
        match level {
            Level::Error => ERRORS.fetch_add(1, Ordering::Relaxed),
            Level::Warn => WARNINGS.fetch_add(1, Ordering::Relaxed),
            Level::Info | Level::Debug | Level::Trace => 0,
        };
        let now = clock::now_ns() / 1000;
        let word = match level {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        };
        let _ = write!(self, "[{:5}.{:06}] {word} ", now / 1_000_000, now % 1_000_000);
    }

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
            if SERIAL.read(5, 1) & 0x20 != 0 {
                SERIAL.write(0, 1, u32::from(byte));
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

/// Writes a line of dom0's, its target in it; control characters are shown as dots.
pub(crate) fn dom0_line(level: Level, text: &[u8]) {
    let mut log = LOG.lock();
    log.begin(level);
    for byte in text {
        let shown = if (0x20..0x7f).contains(byte) || *byte >= 0x80 { *byte } else { b'.' };
        log.put(&[shown]);
    }
    log.put(b"\n");
}

/// Lines that were errors, and warnings, since the start.
pub(crate) fn counts() -> (u32, u32) {
    (ERRORS.load(Ordering::Relaxed), WARNINGS.load(Ordering::Relaxed))
}

/// Writes even if the lock is held by the code that failed.
///
/// # Safety
/// Every other CPU has stopped for good, and this one does after this.
pub(crate) unsafe fn last_words(arguments: fmt::Arguments<'_>) {
    for _ in 0..1_000_000 {
        if let Some(mut log) = LOG.try_lock() {
            let _ = writeln!(log, "{arguments}");
            return;
        }
    }
    // SAFETY: as the caller says, nothing else will use the lock.
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
