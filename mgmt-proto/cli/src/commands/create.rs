//! `redoubt check` and `redoubt create`.

use crate::arguments::Console;
use crate::commands::{console, progress, secrets};
use crate::scope::Scope;
use indicatif::ProgressBar;
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::verb::{Reply, Request};
use redoubt::Connection;
use redoubt::answer::Answer;
use redoubt::blobs::Blob;
use redoubt::vm_file::VmFile;
use std::path::Path;

pub(crate) fn check(scope: &Scope<'_>, file: &Path, overrides: &[String]) -> Result<Answer, Failure> {
    if scope.dry_run {
        return look(scope, file, overrides, "check");
    }
    let (mut connection, guest) = prepare(scope, file, overrides)?;
    let name = guest.machine.name.clone();
    connection.request(Request::Check { machine: guest.machine, settings: guest.settings })?;
    Ok(Answer::done(&scope.done(&name, "check", "done", None)))
}

pub(crate) fn create(
    scope: &Scope<'_>,
    file: &Path,
    overrides: &[String],
    paused: bool,
) -> Result<Answer, Failure> {
    if scope.dry_run {
        return look(scope, file, overrides, "create");
    }
    start(scope, file, overrides, paused).map(|(_, _, answer)| answer)
}

/// As [`create`], then the guest's console.
pub(crate) fn create_and_attach(
    scope: &Scope<'_>,
    file: &Path,
    overrides: &[String],
    paused: bool,
) -> Result<(), Failure> {
    let (mut connection, guest, answer) = start(scope, file, overrides, paused)?;
    // The console has stdout to itself.
    eprint!("{}", answer.render(scope.global.output.into()));
    console::attach(&mut connection, &Console { guest, escape: "^]".into(), once: false, read_only: false })
}

fn start(
    scope: &Scope<'_>,
    file: &Path,
    overrides: &[String],
    paused: bool,
) -> Result<(Connection, String, Answer), Failure> {
    let (mut connection, VmFile { machine, settings, autostart, .. }) = prepare(scope, file, overrides)?;
    let name = machine.name.clone();
    let request = Request::Create { machine, settings, paused, autostart };
    let Reply::Created(id) = connection.request(request)? else {
        return Err(connection.unexpected());
    };
    let answer = Answer::done(&scope.done(&name, "create", "done", Some(id)));
    Ok((connection, name, answer))
}

/// A check that sends nothing. The node looks at kernel and initrd last, so that
/// everything else was found good when it lacks them.
fn look(scope: &Scope<'_>, file: &Path, overrides: &[String], verb: &'static str) -> Result<Answer, Failure> {
    let mut guest = VmFile::load(file, overrides)?;
    guest.read_secrets(&mut secrets::ask)?;
    let blobs = guest.read_blobs()?;
    let mut connection = scope.open()?;
    let missing = connection.missing(&blobs)?;
    let name = guest.machine.name.clone();
    match connection.request(Request::Check { machine: guest.machine, settings: guest.settings }) {
        Ok(_) => {}
        Err(failure) if failure.code == Code::NotFound && !missing.is_empty() => {}
        Err(failure) => return Err(failure),
    }
    for blob in blobs.iter().filter(|blob| missing.contains(&blob.digest)) {
        log::info!("{} would be sent, {} bytes", blob.path.display(), blob.length);
    }
    Ok(Answer::done(&scope.done(&name, verb, "done", None)))
}

/// Reads the file, connects, and sends what the node lacks.
fn prepare(scope: &Scope<'_>, file: &Path, overrides: &[String]) -> Result<(Connection, VmFile), Failure> {
    let mut guest = VmFile::load(file, overrides)?;
    guest.read_secrets(&mut secrets::ask)?;
    let blobs = guest.read_blobs()?;
    let mut connection = scope.open()?;
    let mut bar: Option<(Blob, ProgressBar)> = None;
    connection.upload_missing(&blobs, &mut |blob, sent| {
        if bar.as_ref().is_none_or(|(current, _)| current != blob) {
            log::debug!("sending {}", blob.path.display());
            bar = Some((blob.clone(), progress_bar(blob)));
        }
        if let Some((_, bar)) = &bar {
            bar.set_position(sent);
            if sent == blob.length {
                bar.finish_and_clear();
            }
        }
    })?;
    Ok((connection, guest))
}

fn progress_bar(blob: &Blob) -> ProgressBar {
    let name = blob.path.file_name().unwrap_or_default().to_string_lossy();
    progress::bar(blob.length, "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}", &name)
}
