//! What a session says in the log: rarely, however often its target appears and disappears.

use core::fmt;

use log::Level;

use crate::limits::{LOG_LINE_NS, LOG_LINES_MAX};

/// Lines that a session may still write. One more is allowed each [`LOG_LINE_NS`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lines {
    left: u32,
    counted_ns: u64,
    withheld: u32,
}

impl Lines {
    /// As many as may be written at once.
    pub(crate) const fn new() -> Self {
        Self { left: LOG_LINES_MAX, counted_ns: 0, withheld: 0 }
    }

    /// Takes a line; says how many before it were withheld, or that it is withheld, too.
    fn take(&mut self, now_ns: u64) -> Option<u32> {
        let earned = now_ns.saturating_sub(self.counted_ns) / LOG_LINE_NS;
        let earned_ns = earned.saturating_mul(LOG_LINE_NS);
        self.counted_ns = self.counted_ns.saturating_add(earned_ns);
        self.left = self.left.saturating_add(u32::try_from(earned).unwrap_or(u32::MAX)).min(LOG_LINES_MAX);
        let Some(left) = self.left.checked_sub(1) else {
            self.withheld = self.withheld.saturating_add(1);
            return None;
        };
        self.left = left;
        Some(core::mem::take(&mut self.withheld))
    }

    /// Writes a line of a volume, if it may.
    #[cold]
    pub(crate) fn say(
        &mut self,
        now_ns: u64,
        level: Level,
        volume: impl fmt::Display,
        line: fmt::Arguments<'_>,
    ) {
        match self.take(now_ns) {
            None => {}
            Some(0) => log::log!(target: "storage", level, "{volume}: {line}"),
            Some(more) => log::log!(target: "storage", level, "{volume}: {line} (after {more} lines more)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;
    use crate::limits::{LOG_LINE_NS, LOG_LINES_MAX};

    #[test]
    fn a_flapping_target_does_not_fill_the_log() {
        let mut lines = Lines::new();
        let written = (0..LOG_LINES_MAX + 5).filter(|_| lines.take(7).is_some()).count();
        assert_eq!(written, usize::try_from(LOG_LINES_MAX).unwrap());
        assert_eq!(lines.take(LOG_LINE_NS - 1), None);
        assert_eq!(lines.take(LOG_LINE_NS), Some(6), "the first one says what was withheld");
        assert_eq!(lines.take(LOG_LINE_NS), None);
        // A thousand a second, for an hour.
        let hour_ns = 3_600_000_000_000;
        let mut lines = Lines::new();
        let written = (0..hour_ns).step_by(1_000_000).filter(|now_ns| lines.take(*now_ns).is_some()).count();
        let most = u64::from(LOG_LINES_MAX) + hour_ns / LOG_LINE_NS;
        assert!(written as u64 <= most, "{written} lines");
        // Long silence earns no more than the first time.
        let later = (0..100).filter(|_| lines.take(100 * hour_ns).is_some()).count();
        assert_eq!(later, usize::try_from(LOG_LINES_MAX).unwrap());
        assert_eq!(lines.take(u64::MAX), Some(100 - LOG_LINES_MAX));
    }
}
