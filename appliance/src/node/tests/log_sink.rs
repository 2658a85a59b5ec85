//! Where records of nodes go in tests: to the machine of the thread that they come from.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

use hv_abi::log_line::target_word;
use log::{LevelFilter, Metadata, Record};

use crate::node::tests::fake_hypervisor::uncounted;

std::thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Sink;

impl log::Log for Sink {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = record.level().as_str().to_ascii_lowercase();
        uncounted(|| {
            let line = format!("{level} {}: {}", target_word(record.target()), record.args());
            LINES.with_borrow_mut(|lines| lines.push(line));
        });
    }

    fn flush(&self) {}
}

/// Takes the records from now on; once is enough for a process.
pub(super) fn start() {
    if log::set_logger(&Sink).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Moves what came from this thread to a machine's log.
pub(super) fn take(target: &mut Vec<String>) {
    LINES.with_borrow_mut(|lines| target.append(lines));
}
