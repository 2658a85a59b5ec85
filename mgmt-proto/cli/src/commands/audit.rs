//! `redoubt audit`.

use crate::arguments::{Audit, AuditTrust, Global};
use crate::scope::Scope;
use keys::Existing;
use mgmt_proto::audit::Log;
use mgmt_proto::code::{Code, Failure};
use redoubt::answer::Answer;
use redoubt::audit::trusted::Trusted;
use redoubt::audit::{Copy, Report};
use redoubt::fleet::parse_node_key;
use redoubt::known_nodes;
use redoubt::{exit, json, settings};
use std::path::Path;

/// On a node.
pub(crate) fn run(scope: &Scope<'_>, verb: &Audit) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    match verb {
        Audit::Show { from, refused, .. } => Ok(show(&Copy::fetch(&mut connection, log(*refused), *from)?)),
        Audit::Verify { save, trust, refused, .. } => {
            let trusted = trusted(trust)?;
            let copy = Copy::fetch(&mut connection, log(*refused), 0)?;
            if let Some(path) = save {
                let text = format!("{}\n", json::text(&copy));
                keys::file::write(path, text.as_bytes(), 0o644, Existing::Keep)
                    .map_err(|error| exit::key(&error))?;
                log::info!("{} entries are kept in {}", copy.entries.len(), path.display());
            }
            Ok(verdict(&copy.verify(connection.node(), trusted.as_ref())))
        }
    }
}

const fn log(refused: bool) -> Log {
    if refused { Log::Refusals } else { Log::Effects }
}

/// On a saved copy.
pub(crate) fn run_offline(global: &Global, verb: &Audit, path: &Path) -> Result<Answer, Failure> {
    let copy = Copy::load(path)?;
    let Audit::Verify { trust, .. } = verb else { return Ok(show(&copy)) };
    let remembered = || known_nodes::remembered(&settings::directory().join("known-nodes"), &copy.node);
    let key = match &global.node_key {
        Some(text) => parse_node_key(text)?,
        None => remembered()?.unwrap_or_else(|| {
            log::info!("checked against the key in the file itself; give --node-key to be sure");
            copy.node_key
        }),
    };
    Ok(verdict(&copy.verify(&key, trusted(trust)?.as_ref())))
}

/// Who was trusted when, if that is to be judged.
fn trusted(trust: &AuditTrust) -> Result<Option<Trusted>, Failure> {
    let AuditTrust { root, sealed, bundle } = trust;
    root.as_ref().map(|root| Trusted::load(root, sealed.as_deref(), bundle)).transpose()
}

fn show(copy: &Copy) -> Answer {
    let first = copy.entries.first().map_or(0, |entry| entry.sequence);
    if copy.oldest > 0 && first == copy.oldest {
        log::info!("the node has no entries before {first} any more");
    }
    let names = copy.entries.iter().map(|entry| entry.sequence.to_string()).collect();
    Answer::table(copy, names, copy.table(false)).with_wide(copy.table(true))
}

fn verdict(report: &Report) -> Answer {
    if report.first > 0 && report.entries > 0 {
        log::info!("entries before {} are not here and were not checked", report.first);
    }
    let mut answer = Answer::lines(report, report.verdict, report.lines());
    answer.failure = report.fault.as_ref().map(|fault| {
        let more = report.faults.len() - 1;
        let fault = if more == 0 { fault.clone() } else { format!("{fault}, and {more} more") };
        let remedy = "keep this copy, and compare it with earlier ones";
        Failure::new(Code::Integrity, &report.node, fault, remedy)
    });
    answer
}
