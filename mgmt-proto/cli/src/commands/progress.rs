//! How far things are, on a terminal and nowhere else.

use indicatif::{ProgressBar, ProgressStyle};
use mgmt_proto::job::{Progress, Unit};
use redoubt::connection::Told;
use redoubt::jobs;
use std::io::IsTerminal;

/// A bar of this form, which nobody sees who has no terminal.
pub(crate) fn bar(total: u64, form: &str, message: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total);
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style);
    }
    bar.set_message(message.to_string());
    bar
}

/// Shows a job: what it waits for, and how far it is.
pub(crate) fn job() -> Box<Told> {
    let mut shown: Option<ProgressBar> = None;
    Box::new(move |name, progress| match progress {
        Some(progress) => {
            shown.get_or_insert_with(|| of_job(name, progress)).set_position(progress.done);
        }
        None => {
            if let Some(bar) = shown.take() {
                bar.finish_and_clear();
            }
        }
    })
}

fn of_job(name: &str, progress: &Progress) -> ProgressBar {
    let waits = if progress.unit == Unit::Disks { ": waiting for its disks" } else { "" };
    let form = format!("{{msg}} {{bar:30}} {{pos}}/{{len}} {}", jobs::unit(progress.unit));
    bar(progress.total, &form, &format!("{name}{waits}"))
}
