//! What sessions write to the log.

use super::{Bench, config};
use crate::limits::LOG_LINES_MAX;
use crate::tests::{MS, SECOND};
use log::{LevelFilter, Log, Metadata, Record};
use std::cell::RefCell;
use std::format;
use std::string::String;
use std::sync::Once;
use std::vec::Vec;

std::thread_local! {
    /// Each test runs in a thread of its own.
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Collector;

impl Log for Collector {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = format!("{} {} {}", record.level(), record.target(), record.args());
        LINES.with_borrow_mut(|lines| lines.push(line));
    }

    fn flush(&self) {}
}

/// The lines since the last time.
fn lines() -> Vec<String> {
    static SET: Once = Once::new();
    SET.call_once(|| {
        log::set_logger(&Collector).unwrap();
        log::set_max_level(LevelFilter::Info);
    });
    LINES.take()
}

#[test]
fn a_loss_and_its_end_are_logged_once() {
    lines();
    let mut bench = Bench::ready(config());
    assert_eq!(lines(), [""; 0], "a start is nothing to speak of");
    bench.disconnect(0);
    bench.run(300 * MS);
    let said = lines();
    assert_eq!(said.len(), 4, "{said:#?}");
    let begins = |line: &String, level: &str| {
        line.starts_with(&format!("{level} storage {}", "iqn.2026-01.org.example:disk"))
            && line.contains(" lun ")
    };
    assert!(said[..2].iter().all(|line| begins(line, "WARN")), "{said:#?}");
    assert!(said[2..].iter().all(|line| begins(line, "INFO")), "{said:#?}");
    assert!(said[0].contains(" is lost: ") && said[1].ends_with("no path is left, requests wait"));
    assert!(said[2].contains(" is back after ") && said[3].contains("serves again after "), "{said:#?}");
}

#[test]
fn a_target_that_drops_every_connection_fills_no_log() {
    lines();
    let mut bench = Bench::ready(config());
    for _ in 0..400 {
        bench.disconnect(0);
        bench.run(200 * MS);
    }
    let seconds = usize::try_from(bench.now / SECOND).unwrap();
    let said = lines();
    assert!(said.len() <= usize::try_from(LOG_LINES_MAX).unwrap() + seconds / 30 + 1, "{} lines", said.len());
    assert!(said.iter().any(|line| line.contains("lines more)")), "{said:#?}");
}
