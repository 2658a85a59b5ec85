//! QEMU's monitor, and its own count of the instructions that its machine has executed.
//!
//! With `-icount` and recording, QEMU counts executed instructions exactly; time
//! in which the CPU waits is not in the count.
//!
//! Spec: QEMU, docs/interop/qmp-spec.rst; docs/system/replay.rst.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long QEMU may take to open its monitor.
const LIMIT: Duration = Duration::from_secs(20);

/// A connection with QEMU's monitor.
#[derive(Debug)]
pub struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects once QEMU listens.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn connect(path: &Path) -> Result<Self> {
        let deadline = Instant::now() + LIMIT;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= deadline => return Err(error).context("no monitor"),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let mut monitor = Self { stream: BufReader::new(stream) };
        monitor.command("qmp_capabilities")?;
        Ok(monitor)
    }

    /// Runs a command without arguments.
    ///
    /// # Errors
    /// When QEMU refuses it or is gone.
    pub fn command(&mut self, name: &str) -> Result<Value> {
        self.command_with(name, json!({}))
    }

    /// Runs a command.
    ///
    /// # Errors
    /// When QEMU refuses it or is gone.
    pub fn command_with(&mut self, name: &str, arguments: Value) -> Result<Value> {
        writeln!(self.stream.get_mut(), "{}", json!({ "execute": name, "arguments": arguments }))?;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("the machine is gone");
            }
            let mut answer: Value = serde_json::from_str(&line)?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                bail!("{name}: {error}");
            }
        }
    }

    /// Instructions executed so far; the machine stands still afterwards.
    ///
    /// # Errors
    /// When the machine does not count them.
    pub fn stop_and_count(&mut self) -> Result<u64> {
        self.command("stop")?;
        super::figure::number(&self.command("query-replay")?, "icount")
    }
}
