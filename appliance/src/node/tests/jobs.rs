//! Long work: found again, waited for, cancelled without a trace, bounded.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use mgmt_proto::bundle::Scope;
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::job::{JobFacts, JobState, Progress, Unit};
use mgmt_proto::limits::{JOB_KEPT_NS, JOBS, JOBS_URGENT};
use mgmt_proto::machine::{Disk, Machine};
use mgmt_proto::trust::Role;
use mgmt_proto::verb::{Discover, Reply, Request};

use super::targets::AoeTarget;
use super::trust::{bundle, everybody, grant, rooted, update};
use super::world::*;

/// A volume whose target comes when a test brings it.
const LATE: &str = "aoe:e7.1";

fn with_disk(machine: &Machine, name: &str, volume: &str) -> Machine {
    let disks = vec![Disk { volume: volume.to_string(), read_only: false }];
    Machine { name: name.to_string(), disks, ..machine.clone() }
}

fn create(machine: Machine) -> Request {
    Request::create(machine)
}

fn probe() -> Request {
    Request::StorageProbe { volume: LATE.to_string(), settings: Vec::new() }
}

fn jobs(world: &mut World, session: usize) -> Vec<JobFacts> {
    let Reply::Jobs(page) = world.done(session, &Request::JobList) else { panic!() };
    assert_eq!(page.now_ns / SECOND, world.now_ns / SECOND);
    page.jobs
}

/// The job of the last command of a session.
fn job_of(world: &mut World, asker: usize, session: usize) -> JobFacts {
    let place = world.place(asker);
    jobs(world, session).into_iter().find(|job| (job.session, job.counter) == place).unwrap()
}

fn wait(id: u64) -> Request {
    Request::JobWait { id, every_ms: 0 }
}

fn hang_up(world: &mut World, session: usize) {
    let connection = world.sessions[session].connection;
    world.operator.abort(connection, world.now_ns);
    world.run(MS);
}

#[test]
fn a_command_whose_session_breaks_is_found_again() {
    let mut world = World::new(301);
    let (session, machine) = world.ready();
    world.send(session, &create(with_disk(&machine, "web", LATE)));
    world.run(SECOND);
    let other = world.connect(Who::Viewer);
    let job = job_of(&mut world, session, other);
    assert_eq!((job.verb.as_str(), job.object.as_str(), job.state), ("create", "web", JobState::Running));
    assert_eq!(job.progress, Progress { done: 0, total: 1, unit: Unit::Disks });
    assert_eq!(job.operator, Who::Admin.key().verifying_key().to_bytes());
    hang_up(&mut world, session);
    // Two wait for it, each in a session of his own; a third asks when it has ended.
    let again = world.connect(Who::Admin);
    world.send(again, &wait(job.id));
    world.send(other, &wait(job.id));
    world.run(SECOND);
    world.aoe.push(AoeTarget::new(7, 1, 64));
    let Ok(Reply::Created(domain)) = world.outcome(again) else { panic!("it was created") };
    assert_eq!(world.outcome(other), Ok(Reply::Created(domain)));
    assert_eq!(world.done(other, &wait(job.id)), Reply::Created(domain));
    let ended = jobs(&mut world, other).pop().unwrap();
    assert_eq!((ended.state, ended.progress.done, ended.failure), (JobState::Done, 1, None));
    assert!(ended.ended_ns.unwrap() > ended.began_ns + 2 * SECOND);
    // It is known for a while.
    world.run(JOB_KEPT_NS + SECOND);
    let session = world.connect(Who::Viewer);
    assert!(jobs(&mut world, session).is_empty());
    assert_eq!(world.refused(session, &wait(job.id)).code, Code::NotFound);
}

#[test]
fn progress_is_told_as_often_as_it_was_asked_for() {
    let mut world = World::new(302);
    let session = world.connect(Who::Operator);
    world.send(session, &probe());
    world.run(10 * MS);
    let watcher = world.connect(Who::Viewer);
    let job = job_of(&mut world, session, watcher);
    world.send(watcher, &Request::JobWait { id: job.id, every_ms: 1 });
    let outcome = world.outcome(session);
    assert_eq!(world.outcome(watcher), outcome);
    let told = core::mem::take(&mut world.sessions[watcher].progress);
    // Once in 100 ms at most, and to nobody else.
    assert!((40..=52).contains(&told.len()), "{}", told.len());
    assert!(told.iter().all(|it| (it.total, it.unit) == (5_000, Unit::Milliseconds)));
    assert!(told.windows(2).all(|pair| pair[0].done < pair[1].done));
    assert!(world.sessions[session].progress.is_empty());
}

#[test]
fn a_session_hears_of_its_own_jobs_if_it_wants_to() {
    let mut world = World::new(312);
    let (session, machine) = world.ready();
    world.done(session, &Request::Progress { every_ms: 200 });
    world.send(session, &create(with_disk(&machine, "web", LATE)));
    world.run(2 * SECOND);
    world.aoe.push(AoeTarget::new(7, 1, 64));
    assert!(matches!(world.outcome(session), Ok(Reply::Created(_))));
    let told = core::mem::take(&mut world.sessions[session].progress);
    assert!((10..=30).contains(&told.len()), "{}", told.len());
    assert!(told.iter().all(|it| *it == Progress { done: 0, total: 1, unit: Unit::Disks }));
    // Of no other job, and no longer than it wants to.
    let viewer = world.connect(Who::Viewer);
    world.done(viewer, &Request::Progress { every_ms: 200 });
    world.done(session, &Request::Progress { every_ms: 0 });
    world.send(session, &probe());
    let _ = world.outcome(session);
    assert!(world.sessions[session].progress.is_empty() && world.sessions[viewer].progress.is_empty());
}

#[test]
fn a_cancelled_guest_leaves_nothing() {
    let mut world = World::new(303);
    let (session, machine) = world.ready();
    let admin = world.connect(Who::Admin);
    let domains = world.hypervisor.domains();
    world.aoe.push(AoeTarget::new(7, 2, 64));
    let mut web = with_disk(&machine, "web", LATE);
    web.disks.push(Disk { volume: "aoe:e7.2".to_string(), read_only: false });
    web.network_cards = sibling(&machine, "web", 9).network_cards;
    world.send(session, &create(web.clone()));
    world.run(SECOND);
    let job = job_of(&mut world, session, admin);
    assert_eq!(job.progress, Progress { done: 1, total: 2, unit: Unit::Disks });
    assert_eq!(world.done(admin, &Request::JobCancel { id: job.id }), Reply::Done);
    let failure = world.outcome(session).unwrap_err();
    assert_eq!(failure.code, Code::Conflict);
    assert_eq!(failure.object, "job 1, create web");
    assert_eq!(failure.message, "was cancelled");
    let job = job_of(&mut world, session, admin);
    assert_eq!((job.state, job.failure.map(Failure::from)), (JobState::Cancelled, Some(failure)));
    assert_eq!(world.done(admin, &Request::List), Reply::Guests(vec![]));
    assert_eq!(world.hypervisor.domains(), domains);
    let Reply::Volumes(page) = world.done(admin, &Request::StorageShow { volume: None, from: 0 }) else {
        panic!()
    };
    assert!(page.volumes.is_empty());
    // Again with the same name, card and disks.
    world.aoe.push(AoeTarget::new(7, 1, 64));
    world.done(session, &create(web));
    // What has ended, and what has begun for good, is not cancelled.
    let failure = world.refused(admin, &Request::JobCancel { id: job.id });
    assert_eq!((failure.code, failure.message.as_str()), (Code::Conflict, "has ended"));
    let log = super::state::audit_log(&mut world, admin);
    assert!(log.iter().any(|entry| entry.verb == "job cancel" && entry.object == "1"));
}

#[test]
fn searches_and_disks_that_come_are_cancelled_too() {
    let mut world = World::new(304);
    let (session, machine) = world.ready();
    let admin = world.connect(Who::Admin);
    world.create(session, &machine);
    let attach = Request::BlockAttach {
        name: "web".to_string(),
        disk: Disk { volume: LATE.to_string(), read_only: false },
        settings: Vec::new(),
    };
    let portal =
        Request::StorageDiscover(Discover::Iscsi { portal: "10.0.0.99".to_string(), settings: Vec::new() });
    for request in [probe(), portal, attach] {
        world.send(session, &request);
        world.run(SECOND);
        let job = job_of(&mut world, session, admin);
        assert_eq!(job.state, JobState::Running, "{request:?}");
        world.done(admin, &Request::JobCancel { id: job.id });
        assert_eq!(world.outcome(session).unwrap_err().message, "was cancelled");
        // There is room for the next at once.
        world.send(session, &request);
        world.run(10 * MS);
        let next = job_of(&mut world, session, admin);
        assert_eq!(next.state, JobState::Running, "{request:?}");
        let _ = world.outcome(session);
    }
    let Reply::Disks(disks) = world.done(admin, &Request::BlockList { name: "web".to_string() }) else {
        panic!()
    };
    assert!(disks.is_empty());
    // One search for two: who goes does not end it for the other.
    let search = Request::StorageDiscover(Discover::Aoe);
    world.send(session, &search);
    world.run(10 * MS);
    let mine = job_of(&mut world, session, admin);
    let second = world.connect(Who::Operator);
    world.send(second, &search);
    world.run(10 * MS);
    world.done(admin, &Request::JobCancel { id: mine.id });
    assert!(world.outcome(session).is_err());
    assert_eq!(world.outcome(second), Ok(Reply::Found(vec![])));
}

#[test]
fn what_a_target_was_asked_for_is_not_cancelled() {
    let mut world = World::new(305);
    let session = world.connect(Who::Admin);
    let admin = world.connect(Who::Admin);
    let volume = LATE.to_string();
    world.send(session, &Request::StorageReserve { volume, settings: Vec::new(), force: false });
    world.run(10 * MS);
    let job = job_of(&mut world, session, admin);
    let failure = world.refused(admin, &Request::JobCancel { id: job.id });
    assert_eq!(failure.code, Code::Conflict);
    assert_eq!(failure.message, "cannot be cancelled: its target was asked already");
    assert_eq!(world.outcome(session).unwrap_err().code, Code::Storage);
}

#[test]
fn jobs_are_for_those_who_might_have_asked() {
    let mut world = rooted(306);
    let (session, machine) = world.ready();
    let mut other = grant(Who::Operator, Role::Operator);
    other.guests = Scope::Named(vec!["other-*".to_string()]);
    let viewer = grant(Who::Viewer, Role::Viewer);
    let grants = vec![grant(Who::Admin, Role::Admin), other, viewer];
    world.done(session, &update(&bundle(1, grants), &[1]));
    world.send(session, &create(with_disk(&machine, "web", LATE)));
    world.run(10 * MS);
    let operator = world.connect(Who::Operator);
    let job = job_of(&mut world, session, operator);
    for request in [wait(job.id), Request::JobCancel { id: job.id }] {
        let failure = world.refused(operator, &request);
        assert_eq!((failure.code, failure.object.as_str()), (Code::Refused, "web"), "{request:?}");
    }
    let viewer = world.connect(Who::Viewer);
    assert_eq!(world.refused(viewer, &Request::JobCancel { id: job.id }).code, Code::Refused);
    // An admin's job is no operator's to cancel, whatever it touches.
    let admin = world.connect(Who::Admin);
    let volume = "aoe:e7.9".to_string();
    world.send(admin, &Request::StorageReserve { volume, settings: Vec::new(), force: true });
    world.run(10 * MS);
    let forced = job_of(&mut world, admin, operator);
    let failure = world.refused(operator, &Request::JobCancel { id: forced.id });
    assert_eq!(failure.message, "needs the role Admin, this key has Operator");
    assert_eq!(world.outcome(session).unwrap_err().code, Code::Storage);
}

#[test]
fn there_is_room_for_so_many_and_for_lockdown() {
    let mut world = rooted(307);
    let (first, machine) = world.ready();
    hang_up(&mut world, first);
    let most = JOBS - JOBS_URGENT;
    for number in 0..most {
        let session = world.connect(Who::Operator);
        let name = alloc::format!("web{number}");
        world.send(session, &create(with_disk(&machine, &name, &alloc::format!("aoe:e9.{number}"))));
        world.run(MS);
        hang_up(&mut world, session);
    }
    let session = world.connect(Who::Admin);
    assert_eq!(jobs(&mut world, session).len(), most);
    let failure = world.refused(session, &probe());
    assert_eq!((failure.code, failure.message.as_str()), (Code::Capacity, "28 jobs are under way"));
    assert_eq!(world.done(session, &Request::Lockdown), Reply::Done);
    assert_eq!(world.refused(session, &Request::JobCancel { id: 1 }).code, Code::Policy);
    // All have ended. They give way, oldest first.
    world.run(20 * SECOND);
    let admin = world.connect(Who::Admin);
    world.done(admin, &update(&bundle(1, everybody()), &[1]));
    let session = world.connect(Who::Operator);
    assert!(jobs(&mut world, session).iter().all(|job| job.state == JobState::Failed));
    world.done(session, &Request::StorageDiscover(Discover::Aoe));
    let known = jobs(&mut world, session);
    assert_eq!((known.len(), known[0].id), (most, 2));
}

#[test]
fn dom0_forgets_jobs_and_what_they_began() {
    let mut world = World::new(308);
    let (session, machine) = world.ready();
    world.send(session, &create(with_disk(&machine, "web", LATE)));
    world.run(SECOND);
    world.restart_dom0();
    let session = world.connect(Who::Admin);
    assert!(jobs(&mut world, session).is_empty());
    assert_eq!(world.done(session, &Request::List), Reply::Guests(vec![]));
    assert_eq!(world.refused(session, &wait(1)).code, Code::NotFound);
}
