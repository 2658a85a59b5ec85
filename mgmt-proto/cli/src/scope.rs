//! From the global options to the nodes they mean.

use crate::arguments::Global;
use crate::commands::progress;
use mgmt_proto::code::{Code, Failure};
use redoubt::agent::Identity;
use redoubt::answer::{Answer, Form};
use redoubt::fleet::{Fleet, Target, Targets, parse_node_key};
use redoubt::json::Done;
use redoubt::session::{self, Access};
use redoubt::settings::{self, Settings};
use redoubt::{Connection, exit};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// One node and the options.
#[derive(Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) global: &'a Global,
    pub(crate) target: &'a Target,
    pub(crate) dry_run: bool,
    /// Nothing else draws on the terminal meanwhile.
    pub(crate) is_alone: bool,
}

/// The nodes that are meant; `otherwise` counts when none are named.
pub(crate) fn targets(global: &Global, otherwise: Option<&str>) -> Result<Targets, Failure> {
    let directory = settings::directory();
    let path = global.fleet.clone().unwrap_or_else(|| directory.join("fleet.toml"));
    let fleet = Fleet::load(&path)?;
    let context = Settings::load(&directory.join("config.toml"))?.context(global.context.as_deref())?;
    let mut words = global.node.clone();
    if words.is_empty() {
        let named = otherwise.map(Into::into).or_else(|| context.node.clone());
        words.extend(named.iter().flat_map(|words| words.split(',')).map(Into::into));
    }
    if words.is_empty() {
        let remedy = "give -n NODE, set REDOUBT_NODE or write a config.toml";
        return Err(exit::usage("", "no node is named", remedy));
    }
    let mut targets = fleet.targets(&words, &context, &directory)?;
    let pinned = global.node_key.as_deref().map(parse_node_key).transpose()?;
    if pinned.is_some() && targets.several {
        return Err(exit::usage("--node-key", "is of one node only", "pin keys in fleet.toml"));
    }
    for target in &mut targets.nodes {
        target.node_key = pinned.or(target.node_key);
        target.identity = global.identity.clone().unwrap_or_else(|| target.identity.clone());
        target.fresh_identity |= global.fresh_identity;
    }
    Ok(targets)
}

/// The one node that is meant.
pub(crate) fn target(global: &Global) -> Result<Target, Failure> {
    let targets = targets(global, None)?;
    match <[Target; 1]>::try_from(targets.nodes) {
        Ok([target]) => Ok(target),
        Err(targets) => {
            let message = format!("names {} nodes, and this is for one", targets.len());
            Err(exit::usage("-n", message, "name one node"))
        }
    }
}

/// Keys that were opened: the passphrase of one is asked for once, however many
/// nodes there are. That a key did not open is remembered too.
static IDENTITIES: Mutex<BTreeMap<PathBuf, Result<Identity, Failure>>> = Mutex::new(BTreeMap::new());

/// The key of this name.
fn identity(name: &Path) -> Result<Identity, Failure> {
    let mut opened = IDENTITIES.lock().unwrap_or_else(PoisonError::into_inner);
    opened.entry(name.into()).or_insert_with(|| Identity::open(name)).clone()
}

/// How to connect.
pub(crate) fn access(global: &Global) -> Access {
    Access {
        directory: settings::directory(),
        timeout: global.timeout.map(Duration::from_secs),
        wait: global.wait,
        accept_new_key: global.accept_new_key,
    }
}

impl Scope<'_> {
    /// Connects as the options say.
    pub(crate) fn open(&self) -> Result<Connection, Failure> {
        let key = identity(&self.target.identity)?;
        let mut connection =
            session::open(self.target, &key, &access(self.global), &|text| eprintln!("{text}"))?;
        let key = keys::public::fingerprint(connection.node());
        log::debug!("connected to {}, key {key}", self.target.address);
        connection.suppose(self.global.if_revision);
        if self.is_alone && std::io::stderr().is_terminal() {
            connection.tell_progress(progress::job());
        }
        Ok(connection)
    }

    /// That something was done, or requested and goes on, or would be.
    pub(crate) fn done(
        &self,
        object: &str,
        verb: &'static str,
        status: &'static str,
        id: Option<u32>,
    ) -> Done {
        let status = if self.dry_run { "dry-run" } else { status };
        Done { object: object.into(), verb, status, id }
    }
}

/// Whether what is printed has a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what goes on for ever ends when its reader is gone"]
pub(crate) enum Reader {
    /// It has, as far as is known.
    There,
    /// It went away, as `head` does when it has its lines.
    Gone,
}

/// Prints data; a reader that went away is no fault.
pub(crate) fn print(text: &str) -> Result<Reader, Failure> {
    write_to(&mut std::io::stdout().lock(), "stdout", text.as_bytes())
}

/// Writes data at once; a reader that went away is no fault.
pub(crate) fn write_to(output: &mut dyn Write, name: &str, bytes: &[u8]) -> Result<Reader, Failure> {
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(Failure::new(Code::Internal, name, error.to_string(), "")),
    }
}

/// Prints an answer in the form asked for, then says what failed.
pub(crate) fn print_answer(global: &Global, answer: Answer) -> Result<(), Failure> {
    let _ = print(&answer.render(Form::from(global.output)))?;
    answer.failure.map_or(Ok(()), Err)
}
