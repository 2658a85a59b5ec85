//! Long work of a node, as it is printed.

use crate::table::Table;
use mgmt_proto::job::{JobFacts, JobState, Progress, Unit};
use mgmt_proto::units;
use serde::Serialize;

/// A job: what `-o json` prints of one; see [`crate::json`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Job {
    /// Its number.
    pub id: u64,
    /// The verb that began it.
    pub verb: String,
    /// The guest or volume it is about; may be empty.
    pub object: String,
    /// running, done, failed or cancelled.
    pub state: &'static str,
    /// So much is done.
    pub done: u64,
    /// Of so much.
    pub total: u64,
    /// bytes, disks, or ms that have passed of those that are allowed.
    pub unit: &'static str,
    /// Fingerprint of who asked.
    pub operator: String,
    /// Uptime when it began.
    pub began_ns: u64,
    /// Uptime when it ended, or null.
    pub ended_ns: Option<u64>,
    /// Why it failed, or null.
    pub error: Option<String>,
}

/// A unit in a word.
#[must_use]
pub const fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Bytes => "bytes",
        Unit::Disks => "disks",
        Unit::Milliseconds => "ms",
    }
}

impl Job {
    /// As a node tells it.
    #[must_use]
    pub fn new(facts: &JobFacts) -> Self {
        let state = match facts.state {
            JobState::Running => "running",
            JobState::Done => "done",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        };
        let Progress { done, total, unit: counted } = facts.progress;
        Self {
            id: facts.id,
            verb: facts.verb.clone(),
            object: facts.object.clone(),
            state,
            done,
            total,
            unit: unit(counted),
            operator: keys::public::fingerprint(&facts.operator),
            began_ns: facts.began_ns,
            ended_ns: facts.ended_ns,
            error: facts.failure.clone().map(|refusal| mgmt_proto::code::Failure::from(refusal).to_string()),
        }
    }

    /// The job in words, for messages about it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("job {}, {} {}", self.id, self.verb, self.object).trim_end().into()
    }
}

/// Jobs in a table; `wide` with who asked and why they failed.
#[must_use]
pub fn table(jobs: &[Job], now_ns: u64, wide: bool) -> Table {
    let mut headers = vec![">Job", "Verb", "Object", "State", ">Done", ">Of", "Unit", ">Age(s)", ">Took(s)"];
    if wide {
        headers.extend(["Operator", "Error"]);
    }
    let mut table = Table::new(&headers);
    for job in jobs {
        let or_none = |text: &str| if text.is_empty() { "-".to_string() } else { text.to_string() };
        let took_ns = job.ended_ns.unwrap_or(now_ns).saturating_sub(job.began_ns);
        let mut row = vec![
            job.id.to_string(),
            job.verb.clone(),
            or_none(&job.object),
            job.state.into(),
            job.done.to_string(),
            job.total.to_string(),
            job.unit.into(),
            units::seconds(now_ns.saturating_sub(job.began_ns)),
            units::seconds(took_ns),
        ];
        if wide {
            row.extend([job.operator.clone(), or_none(job.error.as_deref().unwrap_or_default())]);
        }
        table.push(row);
    }
    table
}
