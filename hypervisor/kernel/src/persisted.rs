//! The memory that survives a warm reset: written as this run goes on and ends, read once
//! at the start of the next.

use crate::log_sink;
use crate::memory::{self, BOOT_TABLES, PERSISTED as PLACE};
use crate::raw;
use crate::watch::Mutex;
use core::fmt::{self, Write};
use hv_abi::previous::{Ended, LOG_CAUSE, LOG_PREVIOUS};
use hv_core::persisted::{self, AREA_BYTES, CAUSE_BYTES, PersistedRun};

/// What was found at the start.
static FOUND: Mutex<([u8; AREA_BYTES], Option<PersistedRun>)> = Mutex::new(([0; AREA_BYTES], None));

/// Takes what the run before left, so that this one can write over it.
pub(crate) fn find() {
    let mut found = FOUND.lock();
    if memory::read(PLACE, &mut found.0) {
        found.1 = persisted::read(&mut found.0);
    }
    if let Some(persisted) = found.1 {
        let cause = core::str::from_utf8(persisted.cause(&found.0)).unwrap_or_default();
        log::warn!("the run before this one: {:?}: {cause}", persisted.ended);
    }
}

/// How the run before ended.
pub(crate) fn previous_end() -> Option<Ended> {
    FOUND.lock().1.map(|persisted| persisted.ended)
}

/// Reads its log, or why it ended.
pub(crate) fn read(which: u64, from: u64, target: &mut [u8]) -> (usize, u64) {
    let found = FOUND.lock();
    let source = match (&found.1, which) {
        (Some(persisted), LOG_PREVIOUS) => persisted.log(&found.0),
        (Some(persisted), LOG_CAUSE) => persisted.cause(&found.0),
        _ => &[],
    };
    let rest = source.get(hv_x86::to_usize(from)..).unwrap_or_default();
    target.iter_mut().zip(rest).for_each(|(to, byte)| *to = *byte);
    let count = rest.len().min(target.len());
    (count, from.min(source.len() as u64) + count as u64)
}

/// Text in a place of fixed size; what is too long is cut.
struct Line<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Line<N> {
    const fn new() -> Self {
        Self { bytes: [0; N], length: 0 }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl<const N: usize> Write for Line<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for (slot, byte) in self.bytes.iter_mut().skip(self.length).zip(text.bytes()) {
            *slot = byte;
            self.length += 1;
        }
        Ok(())
    }
}

/// Persists how this run ends, or would if it were cut off now, and the end of its log.
///
/// # Safety
/// No other CPU does so now: it is the first CPU, which watches, or all others stopped.
pub(crate) unsafe fn write(ended: Ended, cause: fmt::Arguments<'_>) {
    if !memory::is_ram(PLACE, BOOT_TABLES) {
        return;
    }
    let mut line = Line::<CAUSE_BYTES>::new();
    let _ = line.write_fmt(cause);
    let area = memory::direct(PLACE) as *mut [u8; AREA_BYTES];
    // SAFETY: this memory is kept out of the allocator; one CPU at a time writes it, as the
    // caller says.
    let area = unsafe { &mut *area };
    persisted::write(area, ended, line.bytes(), log_sink::tail);
    // A reset loses what is only in the caches.
    raw::flush(area);
}
