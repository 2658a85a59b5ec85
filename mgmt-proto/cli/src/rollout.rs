//! One verb on many nodes: a few first, then the others, some at a time.

use crate::answer::{Answer, Form, Text};
use crate::table::Table;
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::units::decimal;
use serde::Serialize;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// In which steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Most nodes at a time.
    pub max_parallel: usize,
    /// Nodes that come first; when one of them fails, the others are left alone.
    pub canary: usize,
    /// No further node is begun after so many failures.
    pub max_failures: Option<usize>,
}

/// How it ended on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With an answer.
    Done(Box<Answer>),
    /// Without.
    Failed(Failure),
    /// It was never begun, and why.
    Skipped(&'static str),
}

/// How it went on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeResult {
    /// The node.
    pub node: String,
    /// How it ended.
    pub ending: Ending,
    /// How long it took.
    pub elapsed_ms: u64,
}

impl NodeResult {
    /// The answer, if there is one.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        match &self.ending {
            Ending::Done(answer) => Some(answer),
            _ => None,
        }
    }

    /// What failed, if something did.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match &self.ending {
            Ending::Done(answer) => answer.failure.as_ref(),
            Ending::Failed(failure) => Some(failure),
            Ending::Skipped(_) => None,
        }
    }

    /// done, failed or skipped.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match (&self.ending, self.failure()) {
            (Ending::Skipped(_), _) => "skipped",
            (_, Some(_)) => "failed",
            (_, None) => "done",
        }
    }

    /// Number of the failure's kind, 0 for none.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.failure().map_or(0, |failure| failure.code as u8)
    }

    /// Why it was not done.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match (&self.ending, self.failure()) {
            (Ending::Skipped(reason), _) => Some((*reason).into()),
            (_, failure) => failure.map(ToString::to_string),
        }
    }
}

/// Runs `act` on each node by its index; results are in the order of the nodes.
pub fn run(
    nodes: &[String],
    plan: Plan,
    act: &(dyn Fn(usize) -> Result<Answer, Failure> + Sync),
) -> Vec<NodeResult> {
    let failures = AtomicUsize::new(0);
    let canary = plan.canary.min(nodes.len());
    let mut results = phase(nodes, 0..canary, plan, &failures, act);
    let rest = canary..nodes.len();
    if failures.load(Ordering::Relaxed) > 0 && canary > 0 {
        let skipped = nodes.get(rest).unwrap_or_default().iter();
        results.extend(skipped.map(|node| skip(node, "a canary failed before it")));
    } else {
        results.extend(phase(nodes, rest, plan, &failures, act));
    }
    results
}

fn skip(node: &str, reason: &'static str) -> NodeResult {
    NodeResult { node: node.into(), ending: Ending::Skipped(reason), elapsed_ms: 0 }
}

fn phase(
    nodes: &[String],
    range: Range<usize>,
    plan: Plan,
    failures: &AtomicUsize,
    act: &(dyn Fn(usize) -> Result<Answer, Failure> + Sync),
) -> Vec<NodeResult> {
    let next = AtomicUsize::new(range.start);
    let finished = Mutex::new(Vec::new());
    let work = || loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(node) = nodes.get(index).filter(|_| index < range.end) else { return };
        let enough = plan.max_failures.is_some_and(|most| failures.load(Ordering::Relaxed) >= most);
        let result = if enough {
            skip(node, "too many failed before it")
        } else {
            let start = Instant::now();
            let ending = act(index).map_or_else(Ending::Failed, |answer| Ending::Done(Box::new(answer)));
            let elapsed_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            NodeResult { node: node.clone(), ending, elapsed_ms }
        };
        if result.failure().is_some() {
            failures.fetch_add(1, Ordering::Relaxed);
        }
        finished.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
    };
    std::thread::scope(|scope| {
        for _ in 0..plan.max_parallel.clamp(1, range.len().max(1)) {
            scope.spawn(work);
        }
    });
    let mut finished = finished.into_inner().unwrap_or_else(PoisonError::into_inner);
    finished.sort_by_key(|(index, _)| *index);
    finished.into_iter().map(|(_, result)| result).collect()
}

/// The failure of the whole, when it was not done everywhere.
#[must_use]
pub fn failure(results: &[NodeResult]) -> Option<Failure> {
    let count = |word| results.iter().filter(|result| result.word() == word).count();
    let (failed, skipped) = (count("failed"), count("skipped"));
    if failed + skipped == 0 {
        return None;
    }
    let mut message = format!("{failed} of {} nodes failed", results.len());
    if skipped > 0 {
        message += &format!(", {skipped} were left alone");
    }
    Some(Failure::new(Code::Partial, "", message, ""))
}

/// How it went on one of several nodes.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The node.
    pub node: String,
    /// done, failed or skipped.
    pub result: &'static str,
    /// Number of the failure's kind, 0 for none.
    pub code: u8,
    /// Why not, or null.
    pub error: Option<String>,
    /// How long it took.
    pub elapsed_ms: u64,
    /// What it would be from one node alone, or null.
    pub answer: Option<serde_json::Value>,
}

/// How it went on several nodes.
#[must_use]
pub fn rows(results: &[NodeResult]) -> Vec<Row> {
    let result = |result: &NodeResult| Row {
        node: result.node.clone(),
        result: result.word(),
        code: result.code(),
        error: result.reason(),
        elapsed_ms: result.elapsed_ms,
        answer: result.answer().map(|answer| answer.value.clone()),
    };
    results.iter().map(result).collect()
}

/// What many nodes answered to one question: rows and lines have their node in
/// front.
#[must_use]
pub fn merged(results: &[NodeResult], form: Form) -> Answer {
    let mut names = Vec::new();
    let mut table: Option<Table> = None;
    let mut lines = String::new();
    let width = results.iter().map(|result| result.node.chars().count()).max().unwrap_or(0);
    for result in results {
        let Some(answer) = result.answer() else { continue };
        names.extend(answer.names.iter().map(|name| format!("{}/{name}", result.node)));
        match answer.text(form) {
            Text::Table(part) => match &mut table {
                None => table = Some(part.with_first("Node", &result.node)),
                Some(table) => table.append(part.with_first("Node", &result.node)),
            },
            Text::Lines(part) => {
                for line in part.lines() {
                    let _ = writeln!(lines, "{:<width$}  {line}", result.node);
                }
            }
        }
    }
    let text = table.map_or(Text::Lines(lines), Text::Table);
    Answer::new(&rows(results), names, text)
}

/// How it went on each of many nodes.
#[must_use]
pub fn summary(results: &[NodeResult]) -> Answer {
    let mut table = Table::new(&["Node", "Result", ">Code", ">Time(s)", "Said"]);
    for result in results {
        let said = match (result.answer(), result.reason()) {
            (Some(answer), None) => answer.text.first_line(),
            (_, reason) => reason.unwrap_or_default(),
        };
        table.push(vec![
            result.node.clone(),
            result.word().into(),
            result.code().to_string(),
            decimal(result.elapsed_ms, 3, 1),
            said,
        ]);
    }
    let names = results.iter().map(|result| result.node.clone()).collect();
    Answer::table(&rows(results), names, table)
}
