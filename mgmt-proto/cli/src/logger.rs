//! The one logger of a workstation's program: records go to stderr, each with its level.

use log::{Level, LevelFilter, Log, Metadata, Record};
use std::io::{IsTerminal as _, Write as _};

struct Logger;

static LOGGER: Logger = Logger;

/// How a level is written before a record, and its colour on a terminal.
const fn label(level: Level) -> (&'static str, &'static str) {
    match level {
        Level::Error => ("error:", "\x1b[1;31m"),
        Level::Warn => ("warning:", "\x1b[1;33m"),
        Level::Info => ("note:", ""),
        Level::Debug | Level::Trace => ("", ""),
    }
}

/// The levels that are shown with `-v` given so often.
const fn shown(verbose: u8) -> LevelFilter {
    match verbose {
        0 => LevelFilter::Info,
        1 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    }
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if record.level() > log::max_level() {
            return;
        }
        let (label, colour) = label(record.level());
        let mut stderr = std::io::stderr().lock();
        let coloured = !colour.is_empty() && stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let (on, off) = if coloured { (colour, "\x1b[0m") } else { ("", "") };
        // A stderr that is closed leaves nowhere to report to.
        let _ = writeln!(stderr, "{on}{}{off}{}{}", label, space(label), record.args());
    }

    fn flush(&self) {}
}

const fn space(label: &str) -> &'static str {
    if label.is_empty() { "" } else { " " }
}

/// Begins to write records: errors, warnings and notes; with `verbose` 1 also details, and
/// with more everything.
pub fn start(verbose: u8) {
    // A second call changes only the level.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(shown(verbose));
}

#[cfg(test)]
mod tests {
    use super::{label, shown};
    use log::{Level, LevelFilter};

    #[test]
    fn levels_are_as_users_expect() {
        assert_eq!(
            [shown(0), shown(1), shown(9)],
            [LevelFilter::Info, LevelFilter::Debug, LevelFilter::Trace]
        );
        assert_eq!((label(Level::Info).0, label(Level::Warn).0), ("note:", "warning:"));
    }
}
