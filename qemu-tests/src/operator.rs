//! The CLI as an operator uses it: the real program, its real exit codes.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An operator with a key, who talks to one node.
#[derive(Debug, Clone)]
pub struct Operator {
    program: PathBuf,
    identity: PathBuf,
    home: PathBuf,
    node: String,
}

/// What a command did.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Exit code.
    pub code: i32,
    /// What it printed.
    pub out: String,
    /// What it complained about.
    pub error: String,
}

impl Operator {
    /// An operator with `identity`, whose configuration is kept in `home`.
    #[must_use]
    pub fn new(program: &Path, identity: &Path, home: &Path, node: &str) -> Self {
        Self {
            program: program.to_path_buf(),
            identity: identity.to_path_buf(),
            home: home.to_path_buf(),
            node: node.to_string(),
        }
    }

    /// The command line for people, for what the environment already says.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{} -n {} -i {} --accept-new-key", self.program.display(), self.node, self.identity.display())
    }

    /// A command of this operator's.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--accept-new-key")
            .args(arguments)
            .env("HOME", &self.home)
            .env_remove("XDG_CONFIG_HOME")
            .env("REDOUBT_NODE", &self.node)
            .env("REDOUBT_IDENTITY", &self.identity)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command, whatever comes of it.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn try_run(&self, arguments: &[&str]) -> Result<Answer> {
        let output = self.command(arguments).output().context("cannot run the CLI")?;
        Ok(Answer {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            error: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs a command that must succeed; returns what it printed.
    ///
    /// # Errors
    /// When it does not.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let answer = self.try_run(arguments)?;
        ensure!(
            answer.code == 0,
            "redoubt {} exited with {}: {}",
            arguments.join(" "),
            answer.code,
            answer.error
        );
        Ok(answer.out)
    }

    /// Runs a command with JSON output.
    ///
    /// # Errors
    /// When it fails or prints something else.
    pub fn json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let mut all = vec!["-o", "json"];
        all.extend(arguments);
        serde_json::from_str(&self.run(&all)?).context("the CLI printed no JSON")
    }

    /// Waits for the node's first signed reply.
    ///
    /// # Errors
    /// When it does not come in time.
    pub fn wait_for_node(&self, limit: Duration) -> Result<Instant> {
        let deadline = Instant::now() + limit;
        loop {
            let answer = self.try_run(&["--timeout", "2", "node", "info"])?;
            if answer.code == 0 {
                return Ok(Instant::now());
            }
            ensure!(Instant::now() < deadline, "the node does not answer: {}", answer.error);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
