//! `redoubt check` and `redoubt create`.

use crate::arguments::{Console, Form, Global};
use crate::commands::console;
use crate::session::{open, print_done};
use indicatif::{ProgressBar, ProgressStyle};
use mgmt_proto::code::Failure;
use mgmt_proto::machine::Machine;
use mgmt_proto::verb::{Reply, Request};
use redoubt::Connection;
use redoubt::blobs::Blob;
use redoubt::vm_file::VmFile;
use std::io::IsTerminal;
use std::path::Path;

pub(crate) fn check(global: &Global, file: &Path, overrides: &[String]) -> Result<(), Failure> {
    let (mut connection, machine) = prepare(global, file, overrides)?;
    let name = machine.name.clone();
    connection.request(Request::Check(machine))?;
    print_done(global, &name, "check", "done", None)
}

pub(crate) fn create(
    global: &Global,
    file: &Path,
    overrides: &[String],
    paused: bool,
    attach: bool,
) -> Result<(), Failure> {
    let (mut connection, machine) = prepare(global, file, overrides)?;
    let name = machine.name.clone();
    let Reply::Created(id) = connection.request(Request::Create { machine, paused })? else {
        return Err(connection.unexpected());
    };
    if !attach || global.output != Form::Table {
        print_done(global, &name, "create", "done", Some(id))?;
    } else {
        eprintln!("{name}: create done (ID {id})");
    }
    if attach {
        let options = Console { guest: name, escape: "^]".into(), once: false };
        return console::attach(&mut connection, &options);
    }
    Ok(())
}

/// Reads the file, connects, and sends what the node lacks.
fn prepare(global: &Global, file: &Path, overrides: &[String]) -> Result<(Connection, Machine), Failure> {
    let mut guest = VmFile::load(file, overrides)?;
    let blobs = guest.read_blobs()?;
    let mut connection = open(global)?;
    let mut bar: Option<(Blob, ProgressBar)> = None;
    let verbose = global.verbose;
    connection.upload_missing(&blobs, &mut |blob, sent| {
        if bar.as_ref().is_none_or(|(current, _)| current != blob) {
            if verbose {
                eprintln!("sending {}", blob.path.display());
            }
            bar = Some((blob.clone(), progress_bar(blob)));
        }
        if let Some((_, bar)) = &bar {
            bar.set_position(sent);
            if sent == blob.length {
                bar.finish_and_clear();
            }
        }
    })?;
    Ok((connection, guest.machine))
}

fn progress_bar(blob: &Blob) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(blob.length);
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}") {
        bar.set_style(style);
    }
    let name = blob.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    bar.set_message(name);
    bar
}
