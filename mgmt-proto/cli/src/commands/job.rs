//! `redoubt job`: long work of a node.

use crate::arguments::Job as Verb;
use crate::commands::progress;
use crate::scope::Scope;
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::verb::Request;
use redoubt::Connection;
use redoubt::answer::Answer;
use redoubt::connection::PROGRESS_MS;
use redoubt::jobs::{self, Job};

pub(crate) fn run(scope: &Scope<'_>, verb: &Verb) -> Result<Answer, Failure> {
    let mut connection = scope.open()?;
    match verb {
        Verb::List => list(&mut connection),
        Verb::Wait { id } => wait(scope, &mut connection, *id),
        Verb::Cancel { id } => cancel(scope, &mut connection, *id),
    }
}

fn list(connection: &mut Connection) -> Result<Answer, Failure> {
    let page = connection.jobs()?;
    let jobs: Vec<Job> = page.jobs.iter().map(Job::new).collect();
    let names = jobs.iter().map(|job| job.id.to_string()).collect();
    let table = |wide| jobs::table(&jobs, page.now_ns, wide);
    Ok(Answer::table(&jobs, names, table(false)).with_wide(table(true)))
}

fn find(connection: &mut Connection, id: u64) -> Result<Job, Failure> {
    let page = connection.jobs()?;
    page.jobs.iter().find(|job| job.id == id).map(Job::new).ok_or_else(|| {
        let remedy = "see `redoubt job list`: a node forgets jobs 10 minutes after their end";
        Failure::new(Code::NotFound, format!("job {id}"), "is not known", remedy)
    })
}

/// Waits for a job's end: what became of it, and its failure if it failed.
fn wait(scope: &Scope<'_>, connection: &mut Connection, id: u64) -> Result<Answer, Failure> {
    let name = find(connection, id)?.name();
    if scope.dry_run {
        return Ok(Answer::done(&scope.done(&name, "job wait", "done", None)));
    }
    let mut shown = progress::job();
    let ended = connection.wait_for_job(id, PROGRESS_MS, &mut |progress| shown(&name, Some(progress)));
    shown(&name, None);
    // What broke on the way is no end of the job.
    let outcome = ended?;
    let job = find(connection, id)?;
    let said = job.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    let mut answer = Answer::lines(&job, &job.id.to_string(), format!("{name}: {}{said}\n", job.state));
    answer.failure = outcome.err();
    Ok(answer)
}

fn cancel(scope: &Scope<'_>, connection: &mut Connection, id: u64) -> Result<Answer, Failure> {
    let job = find(connection, id)?;
    if !scope.dry_run {
        connection.request(Request::JobCancel { id })?;
    } else if job.ended_ns.is_some() {
        return Err(Failure::new(Code::Conflict, job.name(), "has ended", "see `redoubt job list`"));
    }
    Ok(Answer::done(&scope.done(&job.name(), "job cancel", "done", None)))
}
