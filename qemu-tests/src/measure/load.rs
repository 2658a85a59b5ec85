//! The load generator: how it is built, started and commanded.
//!
//! It calls the harness over TCP and obeys its lines (see `src/bin/load.rs`), so
//! guests and Linux nodes are measured by the same program in the same way.

use crate::lab::HOST;
use crate::process::run;
use crate::test_guest::{Flavour, Recipe, TestGuest, compose};
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Where the harness listens.
pub const PORT: u16 = 8100;
/// What the first program prints before anything else.
pub const USER_SPACE: &str = "MEASURE user space";
/// The same kernel for guests and Linux nodes.
pub const FLAVOUR: Flavour = Flavour::Cloud;
/// The first program of both.
pub const INIT: &str = include_str!("init.sh");
/// Modules of a guest.
const MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "virtio_net"];
/// How long a command may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// Builds the program, linked statically.
///
/// # Errors
/// When the compiler fails.
pub fn build(target: &Path) -> Result<PathBuf> {
    let source = image_builder::programs::workspace().join("qemu-tests/src/bin/load.rs");
    let directory = target.join("load");
    std::fs::create_dir_all(&directory)?;
    let program = directory.join("load");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    run(Command::new(rustc)
        .args(["--edition", "2024", "-C", "opt-level=3", "-C", "panic=abort", "-C", "strip=symbols"])
        .args(["-C", "target-feature=+crt-static", "--target", "x86_64-unknown-linux-gnu", "-o"])
        .args([&program, &source]))
    .context("cannot build the load generator")?;
    Ok(program)
}

/// A guest that runs it.
///
/// # Errors
/// When its initramfs cannot be made.
pub fn guest(target: &Path, program: &Path) -> Result<TestGuest> {
    let files = vec![("bin/load".to_string(), std::fs::read(program)?)];
    let recipe = Recipe { modules: &MODULES, spare: &[], init: INIT, directories: &[], files };
    compose(target, FLAVOUR, &recipe, target.join("load/guest.cpio"))
}

/// Where load generators call.
#[derive(Debug)]
pub struct Switchboard {
    listener: TcpListener,
}

impl Switchboard {
    /// Listens.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn open() -> Result<Self> {
        Self::open_at(HOST)
    }

    /// Listens at an address.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn open_at(address: &str) -> Result<Self> {
        let listener = TcpListener::bind((address, PORT)).context("cannot listen for load generators")?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// Waits for the next call.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn next(&self, limit: Duration) -> Result<Worker> {
        let deadline = Instant::now() + limit;
        let stream = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if Instant::now() >= deadline => return Err(error).context("no client connected"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let mut worker = Worker { stream: BufReader::new(stream), name: String::new() };
        let hello = worker.line()?;
        worker.name = hello.strip_prefix("hello ").context("a caller without a name")?.to_string();
        Ok(worker)
    }
}

/// A load generator that called.
#[derive(Debug)]
pub struct Worker {
    stream: BufReader<TcpStream>,
    /// How it names itself.
    pub name: String,
}

impl Worker {
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line)? > 0, "{} is gone", self.name);
        Ok(line.trim().to_string())
    }

    /// Has it do something; returns the numbers that it answers.
    ///
    /// # Errors
    /// When it cannot, or does not answer.
    pub fn run(&mut self, command: &str) -> Result<Vec<u64>> {
        writeln!(self.stream.get_mut(), "{command}")?;
        let answer = self.line().with_context(|| format!("{}: {command}", self.name))?;
        let numbers =
            answer.strip_prefix("ok").with_context(|| format!("{}: {command}: {answer}", self.name))?;
        numbers.split_whitespace().map(|text| Ok(text.parse()?)).collect()
    }

    /// Has it do something that has one number as its answer.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn one(&mut self, command: &str) -> Result<u64> {
        self.run(command)?.first().copied().with_context(|| format!("{command}: no number"))
    }
}
