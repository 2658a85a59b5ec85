//! Long work: listed, waited for, cancelled, and found again when a session breaks.

use crate::fake::{FakeNode, Workstation, World, as_text, operator};
use mgmt_proto::code::Code;
use mgmt_proto::envelope::Proof;
use mgmt_proto::job::{JobFacts, JobPage, JobState, Progress, Unit};
use mgmt_proto::reason::Refusal;
use mgmt_proto::server::Server;
use mgmt_proto::verb::{Outcome, Reply, Request};
use std::time::Duration;

fn progress(done: u64) -> Progress {
    Progress { done, total: 2, unit: Unit::Disks }
}

impl World {
    /// A command was a job, which has ended.
    pub(crate) fn note_job(
        &mut self,
        operator: &[u8; 32],
        proof: &Proof,
        (verb, object): (&'static str, String),
        outcome: &Outcome,
    ) {
        let id = self.jobs.len() as u64 + 1;
        let facts = JobFacts {
            id,
            operator: *operator,
            session: proof.binding.session,
            counter: proof.counter,
            verb: verb.into(),
            object,
            state: if outcome.is_ok() { JobState::Done } else { JobState::Failed },
            progress: progress(2),
            began_ns: 1_000_000_000,
            ended_ns: Some(3_000_000_000),
            failure: outcome.as_ref().err().cloned(),
        };
        self.jobs.push((facts, outcome.clone()));
    }

    pub(crate) fn execute_on_jobs(&mut self, request: &Request) -> Outcome {
        let wanted = match request {
            Request::JobWait { id, .. } | Request::JobCancel { id } => *id,
            _ => {
                let jobs = self.jobs.iter().map(|(facts, _)| facts.clone()).collect();
                return Ok(Reply::Jobs(JobPage { now_ns: 5_000_000_000, jobs }));
            }
        };
        let (facts, outcome) = self.jobs.iter_mut().find(|(facts, _)| facts.id == wanted).unwrap();
        let running = facts.ended_ns.is_none();
        match request {
            Request::JobWait { .. } => outcome.clone(),
            _ if !running => Err(Refusal::said(Code::Conflict, "job", "has ended", "")),
            _ => {
                (facts.state, facts.ended_ns) = (JobState::Cancelled, Some(4_000_000_000));
                Ok(Reply::Done)
            }
        }
    }
}

/// Whether the session breaks instead of an answer.
pub(crate) fn breaks(world: &mut World, request: &Request) -> bool {
    let breaks = request.is_job() && world.breaks > 0;
    world.breaks -= usize::from(breaks);
    world.boot += u8::from(breaks && world.restarts);
    breaks
}

/// Tells progress before an answer, where it was asked for: there, or for the `session`.
pub(crate) fn tell(server: &mut Server, request: &Request, session: bool) -> bool {
    let told = matches!(request, Request::JobWait { every_ms: 1.., .. }) || request.is_job() && session;
    if told {
        for done in 0..2 {
            server.send_progress(&progress(done), 0).unwrap();
        }
    }
    told
}

fn node() -> (FakeNode, Workstation, String) {
    let node = FakeNode::start(&operator());
    let workstation = Workstation::new(&node);
    workstation.file("vmlinuz", "a kernel");
    let file = workstation.file("web.vm", "name = \"web\"\nkernel = \"vmlinuz\"\nmemory = 64\n");
    let file = as_text(&file).to_string();
    (node, workstation, file)
}

#[test]
fn jobs_are_listed_waited_for_and_cancelled() {
    let (node, workstation, file) = node();
    assert_eq!(workstation.expect(0, &["-o", "json", "job", "list"]).0, "[]\n");
    workstation.expect(0, &["create", &file]);
    workstation.expect(4, &["create", &file]);
    let (out, _) = workstation.expect(0, &["job", "list"]);
    let expected = "Job  Verb    Object  State   Done  Of  Unit   Age(s)  Took(s)\n  \
                    1  create  web     done       2   2  disks     4.0      2.0\n  \
                    2  create  web     failed     2   2  disks     4.0      2.0\n";
    assert_eq!(out, expected);
    let (out, _) = workstation.expect(0, &["-o", "wide", "job", "list"]);
    assert!(out.contains("the name is in use"), "{out}");
    assert_eq!(workstation.expect(0, &["-o", "name", "job", "list"]).0, "1\n2\n");
    assert_eq!(workstation.expect(0, &["job", "wait", "1"]).0, "job 1, create web: done\n");
    // The failure of the job is the failure of whoever waits.
    let (out, error) = workstation.expect(4, &["job", "wait", "2"]);
    assert_eq!(out, "job 2, create web: failed: web: the name is in use (rename)\n");
    assert_eq!(error, "error: web: the name is in use (rename)\n");
    for verb in ["wait", "cancel"] {
        let (_, error) = workstation.expect(3, &["job", verb, "9"]);
        assert!(error.starts_with("error: job 9: is not known (see `redoubt job list`"), "{error}");
    }
    workstation.expect(4, &["job", "cancel", "1"]);
    workstation.expect(4, &["job", "cancel", "1", "-N"]);
    {
        let mut world = node.state.lock().unwrap();
        let facts = &mut world.jobs[0].0;
        (facts.state, facts.ended_ns) = (JobState::Running, None);
    }
    let dry = workstation.expect(0, &["job", "cancel", "1", "-N"]).0;
    assert_eq!(dry, "job 1, create web: job cancel not done, this is a dry run\n");
    assert_eq!(workstation.expect(0, &["job", "cancel", "1"]).0, "job 1, create web: job cancel done\n");
    let (out, _) = workstation.expect(0, &["-o", "json", "job", "list"]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value[0]["state"], "cancelled");
    let fields = value[0].as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(fields, "id verb object state done total unit operator began_ns ended_ns error");
}

#[test]
fn a_command_whose_session_breaks_finds_its_job_again() {
    let (node, workstation, file) = node();
    node.state.lock().unwrap().breaks = 1;
    let (out, _) = workstation.expect(0, &["create", &file]);
    assert_eq!(out, "web: create done (ID 1)\n");
    assert_eq!(node.state.lock().unwrap().guests.len(), 1, "it was carried out once");
    node.state.lock().unwrap().breaks = 1;
    let (_, error) = workstation.expect(4, &["create", &file]);
    assert_eq!(error, "error: web: the name is in use (rename)\n");
}

#[test]
fn a_command_that_is_not_found_again_says_so() {
    let (node, workstation, file) = node();
    {
        let mut world = node.state.lock().unwrap();
        (world.breaks, world.restarts) = (1, true);
    }
    let (_, error) = workstation.expect(6, &["create", &file]);
    assert!(error.contains("the node ended the session; dom0 was restarted meanwhile"), "{error}");
}

#[test]
fn busy_nodes_get_their_files() {
    let (node, workstation, file) = node();
    workstation.expect(0, &["create", &file]);
    {
        let mut world = node.state.lock().unwrap();
        assert_eq!(world.uploads, 1);
        world.blobs.clear();
        world.guests.clear();
        world.busy = 2;
    }
    workstation.expect(0, &["create", &file]);
    // Another session that never ends does not keep anybody from sending the file himself.
    {
        let mut world = node.state.lock().unwrap();
        assert_eq!((world.uploads, world.busy), (2, 0));
        world.blobs.clear();
        world.guests.clear();
        world.busy = usize::MAX;
    }
    workstation.expect(0, &["create", &file]);
    assert_eq!(node.state.lock().unwrap().uploads, 3);
}

#[test]
fn a_command_that_is_late_names_its_job() {
    let (node, workstation, file) = node();
    node.state.lock().unwrap().job_pause = Duration::from_secs(3);
    let (_, error) = workstation.expect(7, &["--timeout", "1", "create", &file]);
    let expected =
        "no answer within the time allowed: job 1 goes on (`redoubt job wait 1`, or `redoubt job cancel 1`)";
    assert!(error.contains(expected), "{error}");
    assert_eq!(workstation.expect(0, &["job", "wait", "1"]).0, "job 1, create web: done\n");
    // One that does not answer about its jobs either.
    node.state.lock().unwrap().pause = Duration::from_secs(3);
    let (_, error) = workstation.expect(7, &["--timeout", "1", "start", "web"]);
    assert!(error.contains("see `redoubt job list`"), "{error}");
}
