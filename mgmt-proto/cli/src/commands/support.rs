//! `redoubt support`.

use crate::arguments::Global;
use crate::commands::node;
use crate::scope::{Scope, print_answer, targets};
use mgmt_proto::audit::Log;
use mgmt_proto::code::Failure;
use redoubt::answer::{Answer, Text};
use redoubt::audit::Copy;
use redoubt::cards;
use redoubt::fleet::Target;
use redoubt::support::{self, Part, redacted, redacted_value};
use redoubt::{Connection, json, rollout, session};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Nodes at a time.
const MAX_PARALLEL: usize = 8;

pub(crate) fn run(global: &Global, out: &Path) -> Result<(), Failure> {
    let nodes = targets(global, None)?.nodes;
    let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
    let plan = rollout::Plan { max_parallel: MAX_PARALLEL, canary: 0, max_failures: None };
    let collected = Mutex::new(vec![about_client()]);
    let results = rollout::run(&names, plan, &|index| {
        let Some(target) = nodes.get(index) else { return Ok(Answer::lines("", "", String::new())) };
        let mut connection = Scope { global, target, dry_run: false, is_alone: false }.open()?;
        let parts = collect(&mut connection, target);
        collected.lock().unwrap_or_else(PoisonError::into_inner).extend(parts);
        Ok(Answer::lines("", &target.name, String::new()))
    });
    let mut parts = collected.into_inner().unwrap_or_else(PoisonError::into_inner);
    for result in results.iter().filter(|result| result.failure().is_some()) {
        let text = redacted(&format!("{}\n", result.reason().unwrap_or_default()));
        parts.push(Part { path: format!("{}/unreachable.txt", folder(&result.node)), bytes: text.into() });
    }
    parts.sort_by(|left, right| left.path.cmp(&right.path));
    support::write(out, &parts)?;
    let names: Vec<String> = parts.iter().map(|part| part.path.clone()).collect();
    let value = serde_json::json!({ "out": out.display().to_string(), "files": names });
    let lines = format!("{}: {} files; read them before you send them\n", out.display(), names.len());
    let mut answer = Answer::new(&value, names, Text::Lines(lines));
    answer.failure = rollout::failure(&results);
    print_answer(global, answer)
}

fn about_client() -> Part {
    let text = format!(
        "redoubt {}\n{} {}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    );
    Part { path: "client.txt".into(), bytes: text.into() }
}

/// A name as a folder: an address holds colons, which some systems do not like.
fn folder(name: &str) -> String {
    let legal = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let text: String = name.chars().map(|letter| if legal(letter) { letter } else { '_' }).collect();
    if text.starts_with('.') { format!("_{text}") } else { text }
}

/// What a node says; a part that cannot be had is replaced by the reason.
fn collect(connection: &mut Connection, target: &Target) -> Vec<Part> {
    let folder = folder(&target.name);
    let part = |name: &str, text: Result<String, Failure>| {
        let (name, text) = match text {
            Ok(text) => (name.to_string(), text),
            Err(failure) => (format!("{name}.failed.txt"), redacted(&format!("{failure}\n"))),
        };
        Part { path: format!("{folder}/{name}"), bytes: text.into_bytes() }
    };
    let value = |value| format!("{}\n", json::text(&redacted_value(value)));
    let facts = node::facts(connection);
    let guests = session::guests(connection).map(|guests| {
        let guests: Vec<_> = guests.iter().map(json::guest).collect();
        value(Answer::lines(&guests, "", String::new()).value)
    });
    let log = node::read_log(connection, &mut 0).map(|bytes| redacted(&String::from_utf8_lossy(&bytes)));
    let audit = Copy::fetch(connection, Log::Effects, 0).map(|copy| format!("{}\n", json::text(&copy)));
    let cards = cards::ask(connection);
    let info = facts.map(|facts| {
        let node = json::node(connection.address(), connection.node(), &facts, cards);
        value(Answer::lines(&node, "", String::new()).value)
    });
    vec![
        part("node.json", info),
        part("guests.json", guests),
        part("log.txt", log),
        part("audit.json", audit),
    ]
}
