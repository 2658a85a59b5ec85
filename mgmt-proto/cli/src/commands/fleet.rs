//! One verb on several nodes, and `redoubt fleet`.

use crate::arguments::{Arguments, Command, FormName, Global, Node, Run, Storage};
use crate::commands::{self, node, progress};
use crate::scope::{Scope, print_answer, targets};
use clap::Parser;
use indicatif::ProgressBar;
use mgmt_proto::code::Failure;
use mgmt_proto::units;
use mgmt_proto::verb::NodeFacts;
use redoubt::answer::{self, Answer};
use redoubt::cards;
use redoubt::exit;
use redoubt::fleet::Target;
use redoubt::json;
use redoubt::rollout::{self, Ending, NodeResult, Plan};
use redoubt::table::Table;
use std::ffi::OsStr;

/// Nodes at a time unless told otherwise.
const MAX_PARALLEL: usize = 8;

/// Verbs that end guests or nodes, or take disks away from them.
fn is_destructive(command: &Command) -> bool {
    matches!(
        command,
        Command::Destroy { .. }
            | Command::Shutdown { .. }
            | Command::Reboot { .. }
            | Command::BlockDetach { .. }
            | Command::Storage(Storage::Reserve { force: true, .. } | Storage::Release { force: true, .. })
            | Command::InjectFault { .. }
            | Command::Node(Node::Lockdown | Node::Reboot | Node::Poweroff)
    )
}

/// Runs a verb on each node.
fn roll_out(global: &Global, nodes: &[Target], command: &Command, plan: Plan) -> Vec<NodeResult> {
    let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
    let cautious = nodes.len() > 1 && is_destructive(command) && !global.yes && !global.dry_run;
    if cautious {
        log::info!("a dry run, as this is for {} nodes; --yes does it", nodes.len());
    }
    let dry_run = global.dry_run || cautious;
    let bar = progress_bar(nodes.len());
    let results = rollout::run(&names, plan, &|index| {
        let target = nodes.get(index).ok_or_else(|| exit::usage("", "no such node", ""))?;
        let result =
            commands::perform(&Scope { global, target, dry_run, is_alone: nodes.len() == 1 }, command);
        bar.inc(1);
        result
    });
    bar.finish_and_clear();
    results
}

fn progress_bar(nodes: usize) -> ProgressBar {
    if nodes < 2 {
        return ProgressBar::hidden();
    }
    progress::bar(nodes as u64, "{bar:30} {pos} of {len} nodes, {elapsed}", "")
}

/// A verb on several nodes at once: their answers, put together.
pub(crate) fn on_each(global: &Global, nodes: &[Target], command: &Command) -> Result<(), Failure> {
    let plan = Plan { max_parallel: MAX_PARALLEL, canary: 0, max_failures: None };
    let results = roll_out(global, nodes, command, plan);
    for result in &results {
        if let Some(failure) = result.failure() {
            log::error!("{}: {failure}", result.node);
        }
    }
    let mut answer = rollout::merged(&results, global.output.into());
    answer.failure = rollout::failure(&results);
    print_answer(global, answer)
}

/// `fleet run`: how it went on each node.
pub(crate) fn run(global: &Global, run: &Run) -> Result<(), Failure> {
    let words = std::iter::once("redoubt".to_string()).chain(run.verb.iter().cloned());
    let inner = Arguments::try_parse_from(words).unwrap_or_else(|error| error.exit());
    if !commands::is_for_many(&inner.command) {
        let verb = run.verb.join(" ");
        return Err(exit::usage(verb, "cannot run on several nodes", "run it on one, with -n"));
    }
    let global = joined(global, &inner.global);
    let nodes = targets(&global, Some("@all"))?.nodes;
    let plan = Plan {
        max_parallel: run.max_parallel.into(),
        canary: run.canary.into(),
        max_failures: run.max_failures.map(Into::into),
    };
    let results = roll_out(&global, &nodes, &inner.command, plan);
    let mut answer = rollout::summary(&results);
    answer.failure = rollout::failure(&results);
    print_answer(&global, answer)
}

/// What was said after the verb counts more, unless it only is what the environment
/// says to both.
fn later<T: Clone + AsRef<OsStr>>(outer: Option<&T>, inner: Option<&T>, variable: &str) -> Option<T> {
    let everywhere = std::env::var_os(variable);
    let said = inner.filter(|inner| Some((*inner).as_ref()) != everywhere.as_deref());
    said.or(outer).or(inner).cloned()
}

/// Options may be before the verb that is run, or after it.
fn joined(outer: &Global, inner: &Global) -> Global {
    let words = |global: &Global| Some(global.node.join(",")).filter(|words| !words.is_empty());
    let nodes = later(words(outer).as_ref(), words(inner).as_ref(), "REDOUBT_NODE");
    Global {
        node: nodes.iter().flat_map(|words| words.split(',')).map(Into::into).collect(),
        fleet: later(outer.fleet.as_ref(), inner.fleet.as_ref(), "REDOUBT_FLEET"),
        identity: later(outer.identity.as_ref(), inner.identity.as_ref(), "REDOUBT_IDENTITY"),
        context: later(outer.context.as_ref(), inner.context.as_ref(), "REDOUBT_CONTEXT"),
        timeout: inner.timeout.or(outer.timeout),
        wait: inner.wait || outer.wait,
        output: if inner.output == FormName::Table { outer.output } else { inner.output },
        dry_run: inner.dry_run || outer.dry_run,
        if_revision: inner.if_revision.or(outer.if_revision),
        yes: inner.yes || outer.yes,
        verbose: inner.verbose.max(outer.verbose),
        accept_new_key: inner.accept_new_key || outer.accept_new_key,
        fresh_identity: inner.fresh_identity || outer.fresh_identity,
        node_key: inner.node_key.clone().or_else(|| outer.node_key.clone()),
    }
}

/// `fleet status`: one line for each node, also for those that do not answer.
pub(crate) fn status(global: &Global) -> Result<(), Failure> {
    let nodes = targets(global, Some("@all"))?.nodes;
    let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
    let plan = Plan { max_parallel: 4 * MAX_PARALLEL, canary: 0, max_failures: None };
    let results = rollout::run(&names, plan, &|index| {
        let target = nodes.get(index).ok_or_else(|| exit::usage("", "no such node", ""))?;
        let mut connection = Scope { global, target, dry_run: false, is_alone: false }.open()?;
        let facts = node::facts(&mut connection)?;
        let cards = cards::ask(&mut connection);
        let value = json::node(connection.address(), connection.node(), &facts, cards);
        let mut table =
            Table::new(&["Address", "State", "Version", ">Uptime(s)", ">CPUs", ">Free", ">Guests"]);
        table.push(row(&target.address, &facts));
        Ok(Answer::table(&value, vec![target.name.clone()], table))
    });
    let mut table =
        Table::new(&["Node", "Address", "State", "Version", ">Uptime(s)", ">CPUs", ">Free", ">Guests"]);
    for (result, target) in results.iter().zip(&nodes) {
        let mut cells = vec![result.node.clone()];
        match &result.ending {
            Ending::Done(answer) => match &answer.text {
                answer::Text::Table(part) => cells.extend(part.rows().iter().flatten().cloned()),
                answer::Text::Lines(lines) => cells.push(lines.clone()),
            },
            _ => {
                cells.extend([target.address.clone(), state(result).into()]);
                cells.extend(std::iter::repeat_n("-".into(), 5));
                log::error!("{}: {}", result.node, result.reason().unwrap_or_default());
            }
        }
        table.push(cells);
    }
    let mut answer = Answer::table(&rollout::rows(&results), names, table);
    answer.failure = rollout::failure(&results);
    print_answer(global, answer)
}

fn state(result: &NodeResult) -> &'static str {
    match result.failure().map(|failure| failure.code) {
        Some(mgmt_proto::code::Code::Unreachable) => "unreachable",
        Some(mgmt_proto::code::Code::Refused) => "refused",
        _ => "failed",
    }
}

fn row(address: &str, facts: &NodeFacts) -> Vec<String> {
    vec![
        address.into(),
        "up".into(),
        facts.version.clone(),
        units::seconds(facts.uptime_ns),
        facts.cpus.to_string(),
        (facts.memory_free_bytes >> 20).to_string(),
        facts.guests.to_string(),
    ]
}
