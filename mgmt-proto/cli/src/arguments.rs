//! The command line.

mod audit;
mod job;
mod key;
mod log;
mod state;
mod storage;

pub(crate) use audit::{Audit, AuditTrust};
pub(crate) use job::Job;
pub(crate) use key::{AddKey, Bundle, Key};
pub(crate) use log::NodeLog;
pub(crate) use state::{Autostart, NodeConfig, NodeKey, Switch};
pub(crate) use storage::{Discover, DiskArgument, LimitArguments, Storage, StoragePath};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use mgmt_proto::verb::Fault;
use redoubt::answer::Form;
use serde::de::value::Error;
use serde::de::{DeserializeOwned, IntoDeserializer};
use std::path::PathBuf;

/// An enumeration of the protocol as an argument: its words, each with its help.
pub(crate) fn word<T: DeserializeOwned + Clone + Send + Sync + 'static>(
    words: &'static [(&'static str, &'static str)],
) -> impl TypedValueParser<Value = T> {
    let values = words.iter().map(|(word, help)| PossibleValue::new(*word).help(*help));
    PossibleValuesParser::new(values)
        .try_map(|text: String| -> Result<T, Error> { T::deserialize(text.into_deserializer()) })
}

/// Drives a Redoubt node.
#[derive(Debug, Parser)]
#[command(name = "redoubt", version, about, after_help = redoubt::exit::HELP, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every verb")]
pub(crate) struct Global {
    /// The nodes: addresses with or without port, names and @groups of fleet.toml
    #[arg(short, long, global = true, env = "REDOUBT_NODE", value_name = "NODE", value_delimiter = ',')]
    pub(crate) node: Vec<String>,
    /// Fleet file [default: ~/.config/redoubt/fleet.toml]
    #[arg(long, global = true, env = "REDOUBT_FLEET", value_name = "FILE")]
    pub(crate) fleet: Option<PathBuf>,
    /// Private key to sign with: a file, or `agent`, `agent:COMMENT`, `agent:FINGERPRINT`
    /// for one in the ssh-agent [default: ~/.config/redoubt/operator.key]
    #[arg(short, long, global = true, env = "REDOUBT_IDENTITY", value_name = "KEY")]
    pub(crate) identity: Option<PathBuf>,
    /// Context of the configuration file to use
    #[arg(long, global = true, env = "REDOUBT_CONTEXT", value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// How long to wait: for the connection, for each answer
    #[arg(long, global = true, value_name = "SECONDS")]
    pub(crate) timeout: Option<u64>,
    /// Keep trying to connect, for a node that is starting
    #[arg(long, global = true)]
    pub(crate) wait: bool,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t = FormName::Table, value_name = "FORM")]
    pub(crate) output: FormName,
    /// Only look whether it could be done
    #[arg(short = 'N', long, global = true)]
    pub(crate) dry_run: bool,
    /// Change something only if it is at this revision still (see `redoubt revision`)
    #[arg(long, global = true, value_name = "REVISION")]
    pub(crate) if_revision: Option<u64>,
    /// Do on several nodes what ends guests or nodes; without, that is a dry run
    #[arg(long, global = true)]
    pub(crate) yes: bool,
    /// Say more on stderr; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Take the key the node has now, and remember it; tell it secrets
    #[arg(long, global = true)]
    pub(crate) accept_new_key: bool,
    /// The node makes a new key at each boot: do not compare it, and tell it no secrets
    #[arg(long, global = true)]
    pub(crate) fresh_identity: bool,
    /// The node's public key, which it must have
    #[arg(long, global = true, value_name = "HEX")]
    pub(crate) node_key: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormName {
    /// For people
    Table,
    /// For programs; the shapes are stable
    Json,
    /// The same as json in other words
    Yaml,
    /// As table, with more columns
    Wide,
    /// Names only, one on each line
    Name,
}

impl From<FormName> for Form {
    fn from(name: FormName) -> Self {
        match name {
            FormName::Table => Self::Table,
            FormName::Json => Self::Json,
            FormName::Yaml => Self::Yaml,
            FormName::Wide => Self::Wide,
            FormName::Name => Self::Name,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Keys of owners and operators
    #[command(subcommand)]
    Key(Key),
    /// The node itself
    #[command(subcommand)]
    Node(Node),
    /// Volumes
    #[command(subcommand)]
    Storage(Storage),
    /// What was done on a node, by whom
    #[command(subcommand)]
    Audit(Audit),
    /// Long work of a node: what goes on, and what has ended lately
    #[command(subcommand)]
    Job(Job),
    /// Many nodes
    #[command(subcommand)]
    Fleet(Fleet),
    /// Check a VM file against the node, without creating a guest
    Check {
        /// VM file
        file: PathBuf,
        /// Settings that count more than the file's
        #[arg(value_name = "KEY=VALUE")]
        overrides: Vec<String>,
    },
    /// Create and start a guest
    #[command(alias = "run-instances")]
    Create {
        /// VM file
        file: PathBuf,
        /// Settings that count more than the file's
        #[arg(value_name = "KEY=VALUE")]
        overrides: Vec<String>,
        /// Leave it paused
        #[arg(short, long)]
        paused: bool,
        /// Attach to its console
        #[arg(short, long)]
        console: bool,
    },
    /// List the guests
    #[command(visible_alias = "ls")]
    List {
        /// Only these, by name or ID
        guests: Vec<String>,
        /// All of them, as without: for those used to it
        #[arg(short, long, hide = true)]
        all: bool,
    },
    /// Everything about one guest
    #[command(alias = "dominfo")]
    Info {
        /// Name or ID
        guest: String,
    },
    /// What a guest was created from
    #[command(subcommand)]
    Config(GuestConfig),
    /// The guests' shares of the CPUs: weight, and cap in percent of one
    #[command(alias = "sched-credit")]
    Sched,
    /// Attach to a guest's console; Ctrl+] leaves
    Console(Console),
    /// When operators changed a guest, or the node, last: a number for --if-revision
    Revision {
        /// Name or ID; without, the node
        guest: Option<String>,
    },
    /// Give a guest another name
    #[command(alias = "domrename")]
    Rename {
        /// Name or ID
        guest: String,
        /// Its name from now on
        name: String,
    },
    /// Stop guests' vCPUs
    Pause {
        /// Names or IDs
        #[arg(required = true, value_name = "GUEST")]
        guests: Vec<String>,
    },
    /// Let guests' vCPUs run again
    Unpause {
        /// Names or IDs
        #[arg(required = true, value_name = "GUEST")]
        guests: Vec<String>,
    },
    /// Press guests' power buttons
    Shutdown {
        /// Names or IDs
        #[arg(required_unless_present = "all", value_name = "GUEST")]
        guests: Vec<String>,
        /// Wait until they are off
        #[arg(short = 'w', long = "until-off")]
        until_off: bool,
        /// All guests
        #[arg(short, long, conflicts_with = "guests")]
        all: bool,
        /// By the power button, as without: for those used to it
        #[arg(short = 'F', long = "fallback", hide = true)]
        fallback: bool,
    },
    /// Start guests again from their kernels, at once
    Reboot {
        /// Names or IDs
        #[arg(required = true, value_name = "GUEST")]
        guests: Vec<String>,
    },
    /// Start a guest that is kept on the state volume and not there, or one that has ended
    /// and is
    Start {
        /// Name
        guest: String,
    },
    /// Start a guest with the node from now on, or no longer; list those that do
    Autostart(Autostart),
    /// End guests at once; one that starts with the node comes back with it
    Destroy {
        /// Names or IDs
        #[arg(required = true, value_name = "GUEST")]
        guests: Vec<String>,
    },
    /// Add a disk to a guest that runs
    BlockAttach {
        /// Name or ID
        guest: String,
        #[command(flatten)]
        disk: DiskArgument,
    },
    /// Take a disk from a guest that runs: it is asked to give it back
    BlockDetach {
        /// Name or ID
        guest: String,
        /// Slot or volume, as block-list shows them
        disk: String,
        /// Take it away whether the guest gives it back or not
        #[arg(short, long)]
        force: bool,
    },
    /// The disks of a guest, with their slots
    #[command(alias = "domblklist")]
    BlockList {
        /// Name or ID
        guest: String,
    },
    /// Limit what a guest's disks may do, from now on; without limits, lift them
    Limit(LimitArguments),
    /// Node and guests with what they use, live
    Top(Top),
    /// Serve counters of node and guests to Prometheus
    Exporter {
        /// Address and port to listen on
        #[arg(long, default_value = "127.0.0.1:9741", value_name = "ADDR:PORT")]
        listen: String,
    },
    /// Write facts, log and audit log of the nodes for a bug report, without secrets
    Support {
        /// File to make, a tar archive; a directory if it does not end in .tar
        #[arg(long, default_value = "redoubt-support.tar")]
        out: PathBuf,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write man pages
    Man {
        /// Directory to write them to
        directory: PathBuf,
    },
    /// Every exit code
    #[command(long_about = redoubt::exit::HELP)]
    ExitCodes,
    /// What a reason of a failure means, and what to do; without one, all of them
    Explain {
        /// As the node's log and `-o json` name it
        reason: Option<String>,
    },
    /// As `fleet status`, for those used to it
    #[command(hide = true)]
    DescribeInstances,
    /// Make dom0 fail, where the image allows it
    #[command(hide = true)]
    InjectFault {
        /// How
        #[arg(value_parser = word::<Fault>(&[
            ("panic", "A panic"),
            ("access", "A wild memory access"),
            ("hang", "A loop without end"),
            ("hypervisor-panic", "A panic of the hypervisor: the machine restarts"),
            ("hypervisor-hang", "A loop without end in the hypervisor: the watchdog restarts the machine"),
        ]))]
        fault: Fault,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum GuestConfig {
    /// Print it as a VM file, from which it can be created again; secrets are left out
    Show {
        /// Name or ID
        guest: String,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Console {
    /// Name or ID
    pub(crate) guest: String,
    /// Key that leaves, as ^] or one character
    #[arg(short, long, default_value = "^]", value_name = "KEY")]
    pub(crate) escape: String,
    /// Print what was written so far and leave
    #[arg(long)]
    pub(crate) once: bool,
    /// Send nothing to the guest
    #[arg(short, long)]
    pub(crate) read_only: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Pcap {
    /// Guest whose cards are looked at, by name or ID
    #[arg(short, long, value_name = "GUEST")]
    pub(crate) port: String,
    /// File to write, - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) write: PathBuf,
    /// Most bytes kept of a frame
    #[arg(short, long, default_value_t = 65_535, value_name = "BYTES")]
    pub(crate) snap: u32,
    /// Leave after so many frames
    #[arg(short, long, value_name = "FRAMES")]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// Facts about the node
    Info,
    /// How long the node takes to answer a signed question
    Ping {
        /// So many questions
        #[arg(short, long, default_value_t = 4, value_name = "TIMES",
            value_parser = clap::value_parser!(u16).range(1..))]
        count: u16,
    },
    /// What the node keeps across power-off, and where
    State,
    /// What it keeps, to and from a file
    #[command(subcommand)]
    Config(NodeConfig),
    /// The key by which it is known
    #[command(subcommand)]
    Key(NodeKey),
    /// The node's log
    #[command(alias = "dmesg")]
    Log(NodeLog),
    /// Write what a guest's cards send and receive to a capture file, until Ctrl+C
    Pcap(Pcap),
    /// Obey nothing that changes the node or its guests, until the roots sign another
    /// trust bundle (`key bundle push`)
    Lockdown,
    /// Restart the machine, with all its guests
    Reboot,
    /// Turn the machine off, with all its guests
    #[command(visible_alias = "shutdown")]
    Poweroff,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Fleet {
    /// One line for each node
    #[command(visible_alias = "list", alias = "describe-instances")]
    Status,
    /// Run a verb on nodes, some at a time; without -n on all of fleet.toml
    Run(Run),
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Most nodes at a time
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) max_parallel: u16,
    /// Nodes that come first; when one fails, the others are left alone
    #[arg(long, default_value_t = 0, value_name = "K")]
    pub(crate) canary: u16,
    /// Begin no further node after so many failures
    #[arg(long, value_name = "M")]
    pub(crate) max_failures: Option<u16>,
    /// The verb with its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "VERB")]
    pub(crate) verb: Vec<String>,
}
#[derive(Clone, Debug, Args)]
pub(crate) struct Top {
    /// Print instead of a live screen
    #[arg(short, long)]
    pub(crate) batch: bool,
    /// Print so often and end; without, until interrupted
    #[arg(short, long, value_name = "TIMES")]
    pub(crate) count: Option<u64>,
    /// Seconds between two looks
    #[arg(short, long, default_value_t = 2, value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) delay: u64,
}
