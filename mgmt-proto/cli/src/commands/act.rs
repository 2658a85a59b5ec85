//! The verbs that act on guests at once: one, several, or all.

use crate::commands::state;
use crate::scope::Scope;
use mgmt_proto::code::{Code, Failure};
use mgmt_proto::verb::{GuestFacts, Request, State};
use redoubt::Connection;
use redoubt::answer::Answer;
use redoubt::exit::usage;
use redoubt::session::{find, guests};
use std::time::{Duration, Instant};

/// How long `shutdown -w` waits unless told otherwise.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause between looks at a guest that shuts down.
const SHUTDOWN_PAUSE: Duration = Duration::from_millis(200);
/// How long to wait before the power button is pressed once more.
const PRESS_AGAIN: Duration = Duration::from_secs(10);

/// What is done to a guest at once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    Pause,
    Unpause,
    Reboot,
    Destroy,
}

/// What became of a verb on several guests.
#[derive(Default)]
struct Outcome {
    done: Vec<String>,
    refused: Vec<Failure>,
}

impl Outcome {
    /// Acts on each; one that refuses keeps nothing from the others.
    fn of_each(
        names: Vec<String>,
        mut act: impl FnMut(&str) -> Result<(), Failure>,
    ) -> Result<Self, Failure> {
        let mut outcome = Self::default();
        for name in names {
            match act(&name) {
                Ok(()) => outcome.done.push(name),
                Err(failure) if matches!(failure.code, Code::Unreachable | Code::Deadline) => {
                    return Err(failure);
                }
                Err(failure) => outcome.refused.push(failure),
            }
        }
        Ok(outcome)
    }

    /// The answer; that of one guest which was asked for by name is its own.
    fn answer(
        self,
        scope: &Scope<'_>,
        verb: &'static str,
        status: &'static str,
        is_one: bool,
    ) -> Result<Answer, Failure> {
        let done: Vec<_> = self.done.iter().map(|name| scope.done(name, verb, status, None)).collect();
        let mut refused = self.refused.into_iter();
        if is_one {
            return match (done.first(), refused.next()) {
                (_, Some(failure)) => Err(failure),
                (Some(done), None) => Ok(Answer::done(done)),
                (None, None) => Ok(Answer::all_done(&done)),
            };
        }
        let mut answer = Answer::all_done(&done);
        let refused: Vec<String> = refused.map(|failure| failure.to_string()).collect();
        if !refused.is_empty() {
            let message = format!("{} guests refused: {}", refused.len(), refused.join("; "));
            answer.failure = Some(Failure::new(Code::Partial, verb, message, ""));
        }
        Ok(answer)
    }
}

/// A revision is that of one guest.
fn check_revision(scope: &Scope<'_>, wanted: &[String]) -> Result<(), Failure> {
    if scope.global.if_revision.is_some() && wanted.len() != 1 {
        return Err(usage("--if-revision", "is for one guest at a time", "name one guest"));
    }
    Ok(())
}

/// The names of guests, each once. One that is not there ends it before anything is done.
fn names(connection: &mut Connection, wanted: &[String]) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for guest in wanted {
        let name = find(connection, guest)?.machine.name;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

pub(crate) fn act(scope: &Scope<'_>, wanted: &[String], act: Act) -> Result<Answer, Failure> {
    check_revision(scope, wanted)?;
    let mut connection = scope.open()?;
    let names = names(&mut connection, wanted)?;
    let verb = match act {
        Act::Pause => "pause",
        Act::Unpause => "unpause",
        Act::Reboot => "reboot",
        Act::Destroy => "destroy",
    };
    let outcome = Outcome::of_each(names, |name| {
        if scope.dry_run {
            return Ok(());
        }
        let object = name.to_string();
        connection.request(match act {
            Act::Pause => Request::Pause { name: object },
            Act::Unpause => Request::Unpause { name: object },
            Act::Reboot => Request::Reboot { name: object },
            Act::Destroy => Request::Destroy { name: object },
        })?;
        if matches!(act, Act::Destroy) {
            say_if_it_comes_back(&mut connection, name);
        }
        Ok(())
    })?;
    outcome.answer(scope, verb, "done", wanted.len() == 1)
}

/// A guest that starts with the node is not gone for good.
fn say_if_it_comes_back(connection: &mut Connection, name: &str) {
    // A node of an earlier version does not say.
    let kept = state::facts(connection).map(|facts| facts.guests).unwrap_or_default();
    if kept.iter().any(|kept| kept.name == name) {
        log::info!("{name} starts again with the node; `redoubt autostart {name} off` ends that");
    }
}

/// Presses the power button of guests; of all that run where none is named.
pub(crate) fn shutdown(scope: &Scope<'_>, wanted: &[String], until_off: bool) -> Result<Answer, Failure> {
    check_revision(scope, wanted)?;
    let mut connection = scope.open()?;
    let names = match wanted {
        [] => {
            let on = |facts: &GuestFacts| matches!(facts.state, State::Running | State::Blocked);
            guests(&mut connection)?.into_iter().filter(on).map(|facts| facts.machine.name).collect()
        }
        wanted => names(&mut connection, wanted)?,
    };
    let outcome = Outcome::of_each(names, |name| {
        if scope.dry_run {
            return Ok(());
        }
        connection.request(Request::Shutdown { name: name.into() }).map(|_| ())
    })?;
    if until_off && !scope.dry_run {
        let timeout = scope.global.timeout.map_or(SHUTDOWN_TIMEOUT, Duration::from_secs);
        wait_until_off(&mut connection, &outcome.done, timeout)?;
    }
    let status = if until_off { "done" } else { "requested" };
    outcome.answer(scope, "shutdown", status, wanted.len() == 1)
}

fn wait_until_off(connection: &mut Connection, names: &[String], timeout: Duration) -> Result<(), Failure> {
    let deadline = Instant::now() + timeout;
    let mut pressed = Instant::now();
    loop {
        let guests = guests(connection)?;
        let on = |facts: &&GuestFacts| {
            names.contains(&facts.machine.name) && !matches!(facts.state, State::Off | State::Crashed)
        };
        let Some(left) = guests.iter().find(on) else { return Ok(()) };
        // A guest that was still booting has not seen the first press.
        if pressed.elapsed() >= PRESS_AGAIN {
            pressed = Instant::now();
            for facts in guests.iter().filter(on) {
                // It may have gone in the meantime.
                let _ = connection.request(Request::Shutdown { name: facts.machine.name.clone() });
            }
        }
        if Instant::now() >= deadline {
            let remedy = "it may not listen to the power button; see its console, or destroy it";
            return Err(Failure::new(Code::Deadline, &left.machine.name, "is still shutting down", remedy));
        }
        std::thread::sleep(SHUTDOWN_PAUSE);
    }
}
