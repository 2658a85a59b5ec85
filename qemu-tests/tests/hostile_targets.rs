//! The initiators against every script of the hostile targets.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is all test")]

use qemu_tests::hostile::aoe_scripts;
use qemu_tests::hostile::aoe_target::{self, BLADE};
use qemu_tests::hostile::coverage::{self, By, Suite};
use qemu_tests::hostile::iscsi_run::{Expected, run};
use qemu_tests::hostile::iscsi_scripts::{COMMANDS, CONNECTION, DATA, LOGIN, NEGOTIATION, Script, UNIT};
use qemu_tests::hostile::iscsi_target::{Act, Manner};
use qemu_tests::hostile::{discovery, sockets, wire};
use std::process::Command;

/// Runs scripts; reports what was not as expected.
fn hold(scripts: &[Script]) {
    let mut wrong = Vec::new();
    for script in scripts {
        let outcome = run(script.manner, script.mischief);
        let mut faults = outcome.faults(&script.expected);
        if !(script.seen)(&outcome) {
            faults.push(format!("the mischief left no sign; errors: {:?}", outcome.errors));
        }
        let word = if faults.is_empty() { "held" } else { "FAILED" };
        let (connections, took) = (outcome.target.connections, outcome.finished_ns.unwrap_or(0) / 1_000_000);
        println!("{word}: {} ({connections} connections, {took} ms)", script.name);
        wrong.extend(faults.iter().map(|fault| format!("{}: {fault} {:?}", script.name, outcome.errors)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn login() {
    hold(LOGIN);
}

#[test]
fn negotiation() {
    hold(NEGOTIATION);
}

#[test]
fn unit() {
    hold(UNIT);
}

fn ask(script: &discovery::Script) -> Vec<String> {
    let outcome = discovery::run(script.manner, script.mischief);
    let mut faults = outcome.faults(script.expected);
    if !(script.seen)(&outcome) {
        faults.push("the mischief left no sign".into());
    }
    faults
}

#[test]
fn discovery_sessions() {
    let mut wrong = Vec::new();
    for script in discovery::ALL {
        let faults = ask(script);
        println!("{}: {}", if faults.is_empty() { "held" } else { "FAILED" }, script.name);
        wrong.extend(faults.iter().map(|fault| format!("{}: {fault}", script.name)));
        // With an honest target it leaves no sign.
        let honest = discovery::run(Manner::DEFAULT, |_, _| Act::Send);
        assert!(
            honest.faults(discovery::Expected::Found(&[("iqn.2026-11.io.redoubt:hostile", 1)], 1)).is_empty()
        );
        assert!(!(script.seen)(&honest), "{}: its sign is there without it", script.name);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Every item of the published lists, what walks it, and how that went.
#[test]
fn the_published_lists() {
    let all: Vec<&Script> = [LOGIN, NEGOTIATION, COMMANDS, DATA, CONNECTION].into_iter().flatten().collect();
    let honest =
        run(Manner::DEFAULT, |_, _| Act::Send).faults(&Expected::Served { seconds: 2, connections: 1..=1 });
    let held = |name: &str| {
        if let Some(script) = discovery::ALL.iter().find(|it| it.name == name) {
            return ask(script).is_empty();
        }
        let script = all.iter().find(|it| it.name == name).unwrap_or_else(|| panic!("no script {name:?}"));
        let outcome = run(script.manner, script.mischief);
        outcome.faults(&script.expected).is_empty() && (script.seen)(&outcome)
    };
    let (mut counts, mut wrong) = ([0; 3], Vec::new());
    for item in coverage::items() {
        let suite = if item.suite == Suite::Login { "login 3.0" } else { "full feature 3.1" };
        let (how, holds) = match item.by {
            By::Scripts(names) => (names.join("; "), names.iter().all(|name| held(name))),
            By::EveryRun(fault) => (format!("every run, else fault: {fault}"), honest.is_empty()),
            By::Not(reason) => (format!("not walked: {reason}"), true),
        };
        counts[match item.by {
            By::Scripts(_) => 0,
            By::EveryRun(_) => 1,
            By::Not(_) => 2,
        }] += 1;
        let verdict = match (holds, item.by) {
            (_, By::Not(_)) => "-",
            (true, _) => "held",
            (false, _) => "FAILED",
        };
        println!("{suite} #{}: {} | {how} | {verdict}", item.number, item.subject);
        if !holds {
            wrong.push(item.number);
        }
    }
    let [scripts, every_run, not] = counts;
    println!("{scripts} items by scripts, {every_run} watched in every run, {not} not walked");
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(not <= 7, "more and more is not walked");
}

/// A share of the scripts behind real sockets: those that end within seconds, and that
/// name no address of their own.
#[test]
fn over_real_sockets() {
    let all = [LOGIN, NEGOTIATION, COMMANDS, DATA, CONNECTION].into_iter().flatten();
    let scripts: Vec<&Script> = all
        .filter(|script| matches!(script.expected, Expected::Served { seconds: ..=5, .. }))
        .filter(|script| !script.name.contains("redirected"))
        .collect();
    assert!(scripts.len() > 60, "{}", scripts.len());
    let mut wrong = Vec::new();
    // Mostly they wait: many at a time.
    for some in scripts.chunks(16) {
        std::thread::scope(|scope| {
            let running: Vec<_> =
                some.iter().map(|script| (script.name, scope.spawn(|| sockets::play(script)))).collect();
            for (name, thread) in running {
                match thread.join().unwrap() {
                    Ok(connections) => println!("held over TCP: {name} ({connections} connections)"),
                    Err(error) => wrong.push(format!("{name}: {error:#}")),
                }
            }
        });
    }
    println!("{} scripts over TCP", scripts.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn commands() {
    hold(COMMANDS);
}

#[test]
fn data() {
    hold(DATA);
}

#[test]
fn connection() {
    hold(CONNECTION);
}

/// With an honest target no script leaves its sign: so each of those checks can fail.
#[test]
fn honest_targets_show_no_sign() {
    for script in [LOGIN, NEGOTIATION, COMMANDS, DATA, CONNECTION, UNIT].into_iter().flatten() {
        let honest = run(Manner::DEFAULT, |_, _| Act::Send);
        let faults = honest.faults(&Expected::Served { seconds: 2, connections: 1..=1 });
        assert!(faults.is_empty(), "{faults:?}");
        assert!(!(script.seen)(&honest), "{}: its sign is there without it", script.name);
    }
    for script in aoe_scripts::ALL.iter().chain(aoe_scripts::UNBOUND) {
        let honest = aoe_target::run(&[BLADE], |_, _| Some(0));
        let faults = honest.faults(Some(2), "");
        assert!(faults.is_empty(), "{faults:?}");
        assert!(!(script.seen)(&honest), "{}: its sign is there without it", script.name);
    }
}

#[test]
fn aoe() {
    let mut wrong = Vec::new();
    for script in aoe_scripts::ALL.iter().chain(aoe_scripts::UNBOUND) {
        let outcome = aoe_target::run(script.macs, script.mischief);
        let mut faults = outcome.faults(script.seconds, script.words);
        if !(script.seen)(&outcome) {
            faults.push(format!("the mischief left no sign: {:?}", outcome.status.counters));
        }
        let word = if faults.is_empty() { "held" } else { "FAILED" };
        let took = outcome.finished_ns.unwrap_or(0) / 1_000_000;
        println!("{word}: {} ({} frames, {took} ms)", script.name, outcome.frames);
        wrong.extend(faults.iter().map(|fault| format!("{}: {fault}", script.name)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The same over Ethernet devices and raw sockets, by the workstation's initiator, in a
/// network namespace of this test's own.
#[test]
fn aoe_over_a_wire() {
    const INSIDE: &str = "REDOUBT_HOSTILE_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_none() {
        let unshare = || {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--net"]);
            command
        };
        if !unshare().arg("true").status().is_ok_and(|status| status.success()) {
            println!("skipped: unprivileged namespaces are missing");
            return;
        }
        let mut again = unshare();
        again.arg(std::env::current_exe().unwrap()).args(["--exact", "aoe_over_a_wire", "--nocapture"]);
        let output = again.env(INSIDE, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        // Its own words, not those of its test runner: they would be counted twice.
        text.lines().filter(|line| line.contains("over a wire")).for_each(|line| println!("{line}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("1 passed"), "it did not run: {text}");
        return;
    }
    let scripts: Vec<_> = aoe_scripts::ALL.iter().chain(aoe_scripts::UNBOUND).enumerate().collect();
    let mut wrong = Vec::new();
    // Mostly they wait: many at a time.
    for some in scripts.chunks(12) {
        std::thread::scope(|scope| {
            let running: Vec<_> = some
                .iter()
                .map(|(number, script)| (script.name, scope.spawn(|| wire::play(script, *number))))
                .collect();
            for (name, thread) in running {
                match thread.join().unwrap() {
                    Ok(took) => println!("held over a wire: {name} ({} ms)", took.as_millis()),
                    Err(error) => wrong.push(format!("{name}: {error:#}")),
                }
            }
        });
    }
    println!("{} scripts over a wire", scripts.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

thread_local! {
    /// Where the first connection ends: after so many PDUs, and then so many octets of
    /// the next one.
    static END: std::cell::Cell<(usize, usize)> = const { std::cell::Cell::new((0, 0)) };
}

/// The first connection ends at every border of a PDU, and within each one.
#[test]
fn every_border() {
    let pdus = {
        END.set((usize::MAX, 0));
        let honest = run(Manner::DEFAULT, |_, moment| {
            END.set((usize::MAX, moment.total + 1));
            Act::Send
        });
        assert_eq!(honest.target.connections, 1);
        END.get().1
    };
    assert!(pdus > 60, "{pdus}");
    let mut wrong = Vec::new();
    for total in 0..pdus {
        for octets in [0, 1, 47, 48, 49, 1000] {
            END.set((total, octets));
            let outcome = run(Manner::DEFAULT, |_, moment| match END.get() {
                (total, octets) if moment.connection == 1 && moment.total == total => Act::Cut(octets),
                _ => Act::Send,
            });
            let expected = Expected::Served { seconds: 5, connections: 2..=2 };
            let faults = outcome.faults(&expected);
            wrong.extend(
                faults.iter().map(|fault| format!("after {total} PDUs and {octets} octets: {fault}")),
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
