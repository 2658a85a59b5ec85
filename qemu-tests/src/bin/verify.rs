//! `cargo verify`: everything that must hold: format, lints, unit and simulation
//! tests, and whole nodes in QEMU against real peers.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use qemu_tests::measure::turn;
use qemu_tests::{lab, packages, programs, scenarios};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Runs all checks and prints how many tests passed.
#[derive(Parser)]
#[command(name = "cargo verify")]
struct Arguments {
    /// Only the end-to-end scenarios whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Damaged messages for each decoder.
    #[arg(long, default_value_t = 10_000_000, value_name = "N")]
    mutations: u64,
    /// All of what scenarios do in part else.
    #[arg(long)]
    thorough: bool,
    /// Run the end-to-end scenarios in this process: it is inside the lab.
    #[arg(long, hide = true)]
    inside: bool,
}

/// Passed and failed tests.
#[derive(Default)]
struct Count {
    passed: u64,
    failed: u64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse_from(programs::arguments());
    // Taken before cargo may put a new file in this one's place.
    let program = std::env::current_exe().context("cannot find this program")?;
    packages::ensure_installed()?;
    if arguments.inside {
        lab::enter()?;
        return inside(arguments.only.as_deref());
    }
    let began = Instant::now();
    let mut count = Count::default();
    if arguments.only.is_none() {
        step("format", || programs::cargo(&["fmt", "--all", "--check"]))?;
        step("lints", || {
            programs::cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
            image_builder::programs::cargo("clippy", "hypervisor", &["--", "-D", "warnings"])?;
            image_builder::programs::cargo("clippy", "appliance", &["--bin", "dom0", "--", "-D", "warnings"])
        })?;
        step("unit and simulation tests", || unit_tests(arguments.mutations, &mut count))?;
        step("heaviest turns", || count_turns(&mut count))?;
    }
    step("end-to-end tests in QEMU", || end_to_end(&program, &arguments, &mut count))?;
    // In the words of cargo's own test runner.
    let word = if count.failed == 0 { "ok" } else { "FAILED" };
    println!(
        "test result: {word}. {} passed; {} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s",
        count.passed,
        count.failed,
        began.elapsed().as_secs_f64()
    );
    ensure!(count.failed == 0 && count.passed > 0, "not everything holds");
    Ok(())
}

fn step(name: &str, action: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("== {name}");
    let began = Instant::now();
    action().with_context(|| format!("{name} failed"))?;
    println!("== {name}: done in {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Runs `cargo test` for the workspace, showing and counting its results.
fn unit_tests(mutations: u64, count: &mut Count) -> Result<()> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .current_dir(image_builder::programs::workspace())
        .args(["test", "--workspace", "--no-fail-fast"])
        .env("MUTATIONS", mutations.to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo test")?;
    let text = String::from_utf8_lossy(&output.stdout);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("test result: ") {
            count.passed += number_before(rest, " passed");
            count.failed += number_before(rest, " failed");
        }
    }
    if !output.status.success() {
        println!("{text}");
        // A test that did not compile has no line of its own.
        count.failed = count.failed.max(1);
    }
    println!("{} passed, {} failed so far", count.passed, count.failed);
    Ok(())
}

/// Counts the instructions of each turn under every load.
fn count_turns(count: &mut Count) -> Result<()> {
    let counter = turn::prepare(&programs::target())?;
    match turn::verify(&counter) {
        Ok(said) => {
            println!("{said}");
            count.passed += 1;
        }
        Err(error) => {
            println!("{error:#}");
            count.failed += 1;
        }
    }
    Ok(())
}

fn number_before(text: &str, word: &str) -> u64 {
    let before = text.split(word).next().unwrap_or_default();
    before.rsplit([' ', ';']).next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Runs each scenario in a namespace of its own.
fn end_to_end(program: &Path, arguments: &Arguments, count: &mut Count) -> Result<()> {
    let only = arguments.only.as_deref();
    scenarios::prepare()?;
    for scenario in
        scenarios::ALL.iter().filter(|scenario| only.is_none_or(|only| scenario.name.contains(only)))
    {
        let began = Instant::now();
        let passed = run_scenario(program, scenario.name, arguments.thorough)?;
        let word = if passed { "ok" } else { "FAILED" };
        println!("test {} ... {word} ({:.0} s)", scenario.name, began.elapsed().as_secs_f64());
        if passed {
            count.passed += 1;
        } else {
            count.failed += 1;
        }
    }
    Ok(())
}

/// Runs a scenario in a process and a namespace of its own; true when it passed.
fn run_scenario(program: &Path, name: &str, thorough: bool) -> Result<bool> {
    let mut command = Command::new(program);
    command.args(["--inside", "--only", name]).stdin(Stdio::null()).env("RUST_BACKTRACE", "0");
    if thorough {
        command.env(scenarios::THOROUGH, "1");
    }
    let status = command.status().context("cannot run a scenario")?;
    Ok(status.success())
}

fn inside(only: Option<&str>) -> Result<()> {
    let name = only.context("no scenario named")?;
    let scenario =
        scenarios::ALL.iter().find(|scenario| scenario.name == name).context("no such scenario")?;
    (scenario.run)()
}
